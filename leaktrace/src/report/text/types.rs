//! Survivors by Python type as text: a table beside that of the sites. It is short unless all types were asked for: those
//! of which there are more than at first.

use std::io::{self, Write};

use super::{aligned, clean, column_widths};
use crate::report::{
    frames::columns,
    model::State,
    style::{Ink, Style},
    types::{TypeSurvivors, Types},
    units::{change, count, counted, duration_s, growth, size, size_change},
};

/// Rows that are shown unless all were asked for.
const ROWS_MAX: usize = 10;

/// Age in seconds from which on it is worth saying that counts are not of this moment.
const OLD_S: f64 = 1.0;

/// Writes the table; at most `top` of its rows.
pub(super) fn write(out: &mut dyn Write, types: &Types, top: usize, style: Style) -> io::Result<()> {
    writeln!(out, "{}", style.paint(Ink::Strong, heading(types)))?;
    let has_grown = |row: &&TypeSurvivors| types.whole || row.grown_objects > 0 || row.grown_bytes > 0;
    let most = if types.whole {
        usize::MAX
    } else {
        top.min(ROWS_MAX)
    };
    let shown: Vec<&TypeSurvivors> = types.list.iter().filter(has_grown).take(most).collect();
    let faint = |text: &str| style.paint(Ink::Faint, text.to_owned());
    if let Some(why) = &types.why {
        writeln!(out, "  {}", faint(&format!("not counted anew: {why}")))?;
    }
    if shown.is_empty() {
        if types.censuses > 0 {
            writeln!(
                out,
                "  {}",
                faint("of no type are there more than at the first census")
            )?;
        }
        return writeln!(out);
    }
    let many = shown.iter().any(|row| row.pid != shown[0].pid);
    let heads = ["since attach", "", "per second", "", "now", ""].map(str::to_owned);
    let mut rows = vec![heads];
    rows.extend(shown.iter().map(|row| cells(row)));
    let widths = column_widths(&rows);
    let mut names = vec!["type".to_owned()];
    names.extend(shown.iter().map(|row| name(row, many)));
    let width = names.iter().map(|name| columns(name)).max().unwrap_or(0);
    for (index, (row, name)) in rows.iter().zip(&names).enumerate() {
        let space = " ".repeat(width - columns(name));
        let line = format!("  {name}{space}{}", aligned(row, widths));
        if index == 0 {
            writeln!(out, "{}", faint(line.trim_end()))?;
        } else {
            writeln!(out, "{line}")?;
        }
    }
    let more = types.omitted + (types.list.len() - shown.len()) as u64;
    if more > 0 {
        let more = format!("  and {} (--census)", counted(more, "more type"));
        writeln!(out, "{}", faint(&more))?;
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
    let oldest_s = types.list.iter().map(|row| row.age_s).fold(0.0, f64::max);
    if oldest_s >= OLD_S {
        let some = if types.list.iter().all(|row| row.age_s >= OLD_S) {
            "the last"
        } else {
            "the oldest"
        };
        notes.push(format!("{some} {} ago", duration_s(oldest_s)));
    }
    format!(
        "Survivors by Python type: {} in {} ({})",
        size(types.bytes),
        counted(types.objects, "object"),
        notes.join(", ")
    )
}

/// A pair of numbers a column: objects, and their bytes.
fn cells(row: &TypeSurvivors) -> [String; 6] {
    [
        change(row.grown_objects),
        size_change(row.grown_bytes),
        format!("{}/s", change(row.objects_per_s.round() as i64)),
        growth(row.bytes_per_s),
        count(row.objects),
        size(row.bytes),
    ]
}

/// The type with its module; whose it is where there are several processes; and whether that has ended.
fn name(row: &TypeSurvivors, many: bool) -> String {
    let name = clean(&row.full_name()).into_owned();
    match (many, row.state) {
        (true, State::Exited) => format!("{name} ({}, exited)", row.pid),
        (true, _) => format!("{name} ({})", row.pid),
        (false, _) => name,
    }
}
