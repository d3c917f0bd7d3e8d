//! Survivors by Python type as text: a table beside that of the sites.

use std::io::{self, Write};

use super::{aligned, clean, column_widths};
use crate::report::{
    style::{Ink, Style},
    types::{TypeSurvivors, Types},
    units::{change, count, counted, duration_s, growth, size, size_change},
};

/// Writes the table; at most `top` of its rows.
pub(super) fn write(out: &mut dyn Write, types: &Types, top: usize, style: Style) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Ink::Strong, heading(types)))?;
    let shown = &types.list[..types.list.len().min(top)];
    let many = shown.iter().any(|row| row.pid != shown[0].pid);
    let heads = ["objects", "grown", "per second", "bytes", "grown", "per second"].map(str::to_owned);
    let mut rows = vec![heads];
    rows.extend(shown.iter().map(cells));
    let widths = column_widths(&rows);
    let names = shown.iter().map(|row| name(row, many));
    for (index, (row, name)) in rows
        .iter()
        .zip(std::iter::once("type".to_owned()).chain(names))
        .enumerate()
    {
        let line = format!("{}  {name}", aligned(row, widths));
        if index == 0 {
            writeln!(out, "{}", style.paint(Ink::Faint, line))?;
        } else {
            writeln!(out, "{line}")?;
        }
    }
    let more = types.omitted + (types.list.len() - shown.len()) as u64;
    if more > 0 {
        let more = format!("  and {} (--top {top})", counted(more, "more type"));
        writeln!(out, "{}", style.paint(Ink::Faint, more))?;
    }
    writeln!(out)
}

/// How much there is in all, and what it rests on.
fn heading(types: &Types) -> String {
    let mut notes = vec![format!(
        "{} in {}",
        if types.censuses == 1 {
            "1 census".to_owned()
        } else {
            format!("{} censuses", count(types.censuses))
        },
        duration_s(types.spent_s)
    )];
    if types.torn_reads > 0 {
        notes.push(format!("{} torn", counted(types.torn_reads, "read")));
    }
    if types.partial > 0 {
        notes.push("not finished in its time".to_owned());
    }
    format!(
        "Python objects by type: {} in {} ({})",
        size(types.bytes),
        counted(types.objects, "object"),
        notes.join(", ")
    )
}

fn cells(row: &TypeSurvivors) -> [String; 6] {
    [
        count(row.objects),
        change(row.grown_objects),
        format!("{}/s", change(row.objects_per_s.round() as i64)),
        size(row.bytes),
        size_change(row.grown_bytes),
        growth(row.bytes_per_s),
    ]
}

/// The type with its module, and whose it is where there are several processes.
fn name(row: &TypeSurvivors, many: bool) -> String {
    let name = match &row.module {
        Some(module) => format!("{}.{}", clean(module), clean(&row.name)),
        None => clean(&row.name).into_owned(),
    };
    if many {
        format!("{name} ({})", row.pid)
    } else {
        name
    }
}
