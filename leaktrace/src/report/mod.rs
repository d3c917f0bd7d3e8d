//! From a frozen report to bytes: one file a format, and `output`, which knows where they go.
//!
//! A renderer must not know a clock, a terminal or a file: width and colour are passed in.

pub mod account;
pub mod doctor;
mod folded;
mod frames;
pub mod gate;
pub mod gpu;
mod json;
pub mod ledger;
pub mod model;
pub mod output;
pub mod overhead;
pub mod python;
#[cfg(test)]
pub(crate) mod sample;
mod short;
pub mod stacks;
mod style;
mod text;
pub mod types;
pub mod units;
pub mod verdict;
pub mod watch;
mod watch_text;

use std::io::{self, Write};

pub use self::{
    folded::Folded, json::Json, text::Text, text::findings as gate_findings, watch_text::WatchText,
};
pub(crate) use self::{frames::innermost_user, short::short_names};
use model::Report;

/// The forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person to read.
    Text,
    /// All of the report, for programs: one document, or one a line when there are several.
    Json,
    /// Stacks and bytes, for flame graph tools.
    Folded,
}

/// Writes reports in one format.
pub trait Renderer {
    /// Writes one report.
    ///
    /// # Errors
    /// Only those of `out`.
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()>;
}
