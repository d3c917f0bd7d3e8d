//! Suppressions: files in LeakSanitizer's syntax, and which of theirs a stack or a name meets.
//!
//! Pure: text comes in. The syntax is that of `SuppressionContext::Parse` in
//! `compiler-rt/lib/sanitizer_common/sanitizer_suppressions.cpp`, the order in which a stack is gone through that of
//! `LeakSuppressionContext` in `compiler-rt/lib/lsan/lsan_common.cpp`, both as of llvm-project 1413ad019348.

use std::collections::HashMap;

use super::pattern::Pattern;
use crate::report::model::{Frame, Lang};

/// One of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// What it is about.
    pub pattern: Pattern,
    /// The file that it stands in, as that was named.
    pub file: String,
    /// The line there, from 1.
    pub line: usize,
}

/// Those of all files, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suppressions(Vec<Suppression>);

/// A line that cannot be read; the message names it and ends with the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Of a kind that is not about leaks.
    #[error(
        "{file}:{line}: '{kind}:' is no kind of leaktrace's, which has leaks only: write leak:PATTERN or take the line out"
    )]
    Kind {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The kind.
        kind: String,
    },
    /// Not of the form.
    #[error("{file}:{line}: not a suppression: write leak:PATTERN, or # in front of a comment")]
    Form {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// A pattern that says nothing.
    #[error(
        "{file}:{line}: no pattern: write part of a function's, file's or library's name, or leak:* for all"
    )]
    NoPattern {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
    },
}

/// What stands around a line and is not part of it.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

/// What LeakSanitizer calls the object of machine code that is in none.
const UNKNOWN_OBJECT: &str = "<unknown module>";

impl Suppressions {
    /// Adds those of a file; `text` is what is in it.
    ///
    /// # Errors
    /// [`SyntaxError`] of the first line that cannot be read.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), SyntaxError> {
        for (index, line) in text.split('\n').enumerate() {
            // Blanks behind a pattern are not part of it, those before it are.
            let rule = line.trim_start_matches([' ', '\t']).trim_end_matches(BLANKS);
            if rule.is_empty() || rule.starts_with('#') {
                continue;
            }
            self.0.push(suppression(file, index + 1, rule)?);
        }
        Ok(())
    }

    /// Whether there are any.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Suppression> {
        self.0.iter()
    }

    /// Index of the first that fits a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.0
            .iter()
            .position(|suppression| suppression.pattern.fits(name))
    }
}

fn suppression(file: &str, line: usize, rule: &str) -> Result<Suppression, SyntaxError> {
    let file = file.to_owned();
    let Some(pattern) = rule.strip_prefix("leak:") else {
        let kind = rule.split_once(':').map(|(kind, _)| kind);
        let is_kind = |kind: &&str| {
            !kind.is_empty()
                && kind
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
        };
        return Err(match kind.filter(is_kind) {
            Some(kind) => SyntaxError::Kind {
                file,
                line,
                kind: kind.to_owned(),
            },
            None => SyntaxError::Form { file, line },
        });
    };
    match Pattern::new(pattern) {
        Some(pattern) => Ok(Suppression { pattern, file, line }),
        None => Err(SyntaxError::NoPattern { file, line }),
    }
}

/// Looks names up; each of them once, since most are in many stacks.
#[derive(Debug)]
pub struct Lookup<'a> {
    of: &'a Suppressions,
    known: HashMap<String, Option<usize>>,
}

impl<'a> Lookup<'a> {
    /// Nothing looked up yet.
    pub fn new(of: &'a Suppressions) -> Self {
        Self {
            of,
            known: HashMap::new(),
        }
    }

    /// Index of the suppression that a stack meets: that of the innermost frame which meets one by the file it lies in,
    /// its function or its source file.
    pub fn find(&mut self, frames: &[Frame]) -> Option<usize> {
        frames.iter().find_map(|frame| {
            let object = frame.object.as_deref();
            let object = object.or_else(|| (frame.lang == Lang::Native).then_some(UNKNOWN_OBJECT));
            [object, frame.symbol.as_deref(), frame.file.as_deref()]
                .into_iter()
                .flatten()
                .find_map(|name| self.find_name(name))
        })
    }

    /// Index of the first suppression that fits a name.
    pub fn find_name(&mut self, name: &str) -> Option<usize> {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let found = self.of.find(name);
        self.known.insert(name.to_owned(), found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, usize)>, String> {
        let mut suppressions = Suppressions::default();
        suppressions
            .add("known.supp", text)
            .map_err(|error| error.to_string())?;
        let all = suppressions
            .iter()
            .map(|one| (one.pattern.text().to_owned(), one.line));
        Ok(all.collect())
    }

    #[test]
    fn files_are_read_as_leak_sanitizer_reads_them() {
        let text = "# of third parties\n\nleak:libfontconfig\r\n \t leak:foo bar \t\n  # more\nleak:^a*b$\n\t\nleak: x\nleak:#1";
        let wanted = [
            ("libfontconfig", 3),
            ("foo bar", 4),
            ("^a*b$", 6),
            (" x", 8),
            ("#1", 9),
        ];
        let wanted = wanted.map(|(pattern, line)| (pattern.to_owned(), line));
        assert_eq!(parsed(text).unwrap(), wanted);
        assert_eq!(parsed("").unwrap(), []);
    }

    #[test]
    fn a_bad_line_is_named_with_the_way_out() {
        for (text, words) in [
            ("leak:a\nrace:foo", "known.supp:2: 'race:' is no kind"),
            (
                "interceptor_via_lib:x",
                "known.supp:1: 'interceptor_via_lib:' is no kind",
            ),
            ("\nfoo", "known.supp:2: not a suppression: write leak:PATTERN"),
            ("Leak:foo", "known.supp:1: 'Leak:' is no kind"),
            (
                "std::vector",
                "known.supp:1: 'std:' is no kind of leaktrace's, which has leaks only: write leak:PATTERN",
            ),
            ("a b:c", "known.supp:1: not a suppression"),
            (":foo", "known.supp:1: not a suppression"),
            ("leak:", "known.supp:1: no pattern: write"),
            ("leak:^$", "known.supp:1: no pattern"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(
                error.starts_with(words) && !error.contains('\n'),
                "{text}: {error}"
            );
        }
    }

    fn frame(object: &str, symbol: &str, file: &str) -> Frame {
        let known = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Frame {
            object: known(object),
            symbol: known(symbol),
            file: known(file),
            ..Frame::default()
        }
    }

    #[test]
    fn a_stack_meets_what_its_innermost_frame_meets_first() {
        let mut suppressions = Suppressions::default();
        let text = "leak:outer\nleak:^inner$\nleak:inner.c\nleak:libinner\nleak:app.py\nleak:Cache.load\n\
                    leak:<unknown module>";
        suppressions.add("a", text).unwrap();
        let mut lookup = Lookup::new(&suppressions);
        let outer = frame("/bin/x", "outer", "x.c");
        let mut found = |frames: &[Frame]| lookup.find(frames);
        assert_eq!(found(&[]), None);
        assert_eq!(
            found(&[frame("/bin/x", "", ""), frame("/bin/x", "main", "x.c")]),
            None
        );
        assert_eq!(found(&[frame("/bin/x", "", ""), outer.clone()]), Some(0));
        assert_eq!(found(&[frame("", "jitted", ""), outer.clone()]), Some(6));
        assert_eq!(found(&[frame("/bin/x", "inner", "y.c"), outer.clone()]), Some(1));
        assert_eq!(
            found(&[frame("/bin/x", "innermost", "/src/inner.c"), outer.clone()]),
            Some(2)
        );
        // Of one frame the object comes first.
        assert_eq!(
            found(&[frame("/lib/libinner.so", "inner", "inner.c"), outer.clone()]),
            Some(3)
        );
        let python = |symbol: &str, file: &str| Frame {
            lang: Lang::Python,
            ..frame("", symbol, file)
        };
        assert_eq!(found(&[python("f", "/srv/app.py"), outer.clone()]), Some(4));
        assert_eq!(found(&[python("Cache.load", "/srv/cache.py"), outer]), Some(5));
        assert_eq!(found(&[python("f", "")]), None, "of Python none is missed");
    }
}
