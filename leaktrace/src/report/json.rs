//! The report as JSON (docs/report-format.md): the model, field by field.

use std::io::{self, Write};

use super::{Renderer, model::Report};

/// The JSON format.
#[derive(Clone, Copy, Debug)]
pub struct Json {
    /// Indented, for the only report of a run; otherwise each is a line.
    pub pretty: bool,
}

impl Renderer for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        if self.pretty {
            serde_json::to_writer_pretty(&mut *out, report)?;
        } else {
            serde_json::to_writer(&mut *out, report)?;
        }
        out.write_all(b"\n")
    }
}
