//! Colour for terminals, or none: the escape sequences live here.

use std::fmt;

/// What a piece of text is; how that looks is decided here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ink {
    /// To be seen first.
    Strong,
    /// To be found when looked for.
    Faint,
    /// A loss or a failure.
    Bad,
    /// A warning.
    Warn,
    /// All is well.
    Good,
    /// The user's own code.
    Own,
}

impl Ink {
    /// Only the 8 basic colours, which every terminal has and every theme keeps readable.
    const fn code(self) -> &'static str {
        match self {
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Bad => "\x1b[1;31m",
            Self::Warn => "\x1b[33m",
            Self::Good => "\x1b[32m",
            Self::Own => "\x1b[1;36m",
        }
    }
}

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Whether to paint.
    pub(super) color: bool,
}

impl Style {
    /// `text` in that ink. Pad before: the sequences count as columns in format widths.
    pub(super) fn paint<T: fmt::Display>(self, ink: Ink, text: T) -> Painted<T> {
        Painted {
            ink: self.color.then_some(ink),
            text,
        }
    }
}

/// Text with its ink.
pub(super) struct Painted<T> {
    ink: Option<Ink>,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ink {
            Some(ink) => write!(f, "{}{}\x1b[0m", ink.code(), self.text),
            None => self.text.fmt(f),
        }
    }
}
