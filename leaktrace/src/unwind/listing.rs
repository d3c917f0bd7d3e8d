//! What is in the tables of files, in words: `leaktrace tables`.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use leaktrace_common::unwind::{Rule, cfa};

use super::build::{BuildError, Rows, build_file};
use super::table::{self, Table};

/// Names of the kinds of [`Rule::cfa`], in their order.
const KINDS: [&str; cfa::UNSUPPORTED as usize + 1] = [
    "gap",
    "rsp",
    "rbp",
    "(rsp)",
    "(rbp)",
    "plt",
    "end",
    "signal",
    "unsupported",
];

/// A file that cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}; name an x86-64 program or library", path.display())]
pub struct ListingError {
    path: PathBuf,
    why: BuildError,
}

/// A Markdown table with a line for each file.
///
/// # Errors
/// [`ListingError`] for the first file without a table.
pub fn markdown(paths: &[PathBuf]) -> Result<String, ListingError> {
    let mut text = "\
| file | code KiB | functions | rows | of | rules | bytes | bytes a MiB of code | ms | rows by kind |
|---|---|---|---|---|---|---|---|---|---|
"
    .to_owned();
    for path in paths {
        let line = line(path).map_err(|why| ListingError {
            path: path.clone(),
            why,
        })?;
        // A `String` takes everything.
        let _always: std::fmt::Result = writeln!(text, "{line}");
    }
    Ok(text)
}

fn line(path: &Path) -> Result<String, BuildError> {
    let file = File::open(path).map_err(|error| BuildError::Unreadable(error.to_string()))?;
    let began = Instant::now();
    let (table, counts) = build_file(&file, Rows::CallSites)?;
    let took = began.elapsed();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok(format!(
        "| `{name}` | {} | {} | {} | {} | {} | {} | {} | {:.1} | {} |",
        table.text_bytes >> 10,
        counts.functions,
        table.rows.len(),
        counts.rows,
        table.rules.len(),
        table.size_bytes(),
        table::bytes_per_mib(&table),
        took.as_secs_f64() * 1e3,
        kinds(&table)
    ))
}

/// How many rows there are of each kind.
fn kinds(table: &Table) -> String {
    let mut counts = [0_usize; KINDS.len()];
    for row in &table.rows {
        let rule: Rule = table
            .rules
            .get(usize::from(row.rule()))
            .copied()
            .unwrap_or_default();
        if let Some(count) = counts.get_mut(usize::from(rule.cfa)) {
            *count += 1;
        }
    }
    let present = KINDS.iter().zip(counts).filter(|(_, count)| *count > 0);
    present
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}
