//! The report as folded stacks, for flame graph tools: `process;outermost;...;innermost;call bytes`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{
    Renderer, frames,
    model::{Report, Survivor},
};

/// The folded format. The values of its lines add up to the survivors' bytes.
#[derive(Clone, Copy, Debug)]
pub struct Folded;

impl Renderer for Folded {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        report
            .survivors
            .iter()
            .try_for_each(|survivor| line(survivor, out))
    }
}

fn line(survivor: &Survivor, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{}-{}", field(&survivor.comm), survivor.pid)?;
    for frame in frames::callers(survivor).iter().rev() {
        write!(out, ";{}", field(&frames::name(frame)))?;
    }
    writeln!(out, ";{} {}", field(&survivor.call), survivor.bytes)
}

/// A name that cannot be taken for the format's own marks: no separator, no line break, not empty.
fn field(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed("?");
    }
    if !name.contains(|c: char| c == ';' || c.is_control()) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(
        name.chars()
            .map(|c| match c {
                ';' => ':',
                c if c.is_control() => ' ',
                c => c,
            })
            .collect(),
    )
}
