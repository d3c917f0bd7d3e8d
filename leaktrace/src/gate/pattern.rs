//! Patterns of suppressions: which names they fit.
//!
//! The syntax is that of the sanitizers (`TemplateMatch` in `compiler-rt/lib/sanitizer_common/sanitizer_common.cpp`, as of
//! llvm-project 1413ad019348).
//! Must not know what a name is of.

/// A pattern: part of a name, with `*` for anything, `^` in front for its beginning, `$` for its end.
///
/// Case counts. What follows a `$` is ignored, and so `^` is itself but in front, as in the sanitizers. Unlike there `a$` also fits
/// a name in which the last of several `a` is the end: they look at the first only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// What stands between the stars.
    pieces: Vec<String>,
    from_start: bool,
    to_end: bool,
}

impl Pattern {
    /// Reads a pattern; `None` of one that says nothing of the name.
    pub fn new(text: &str) -> Option<Self> {
        let (from_start, rest) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (name, to_end) = rest
            .split_once('$')
            .map_or((rest, false), |(name, _ignored)| (name, true));
        (!name.is_empty()).then(|| Self {
            text: text.to_owned(),
            pieces: name.split('*').map(str::to_owned).collect(),
            from_start,
            to_end,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it fits a name. It fits no empty one.
    pub fn fits(&self, name: &str) -> bool {
        !name.is_empty() && self.find(name).is_some()
    }

    /// What follows the first place where it fits.
    fn find<'a>(&self, name: &'a str) -> Option<&'a str> {
        let (last, pieces) = self.pieces.split_last()?;
        let mut rest = name;
        let mut at_start = self.from_start;
        // Each as early as it can be: that leaves most to those that follow.
        for piece in pieces {
            rest = after(rest, piece, at_start)?;
            at_start = false;
        }
        match (at_start, self.to_end) {
            (true, true) => (rest == last).then_some(""),
            (false, true) => rest.ends_with(last.as_str()).then_some(""),
            (_, false) => after(rest, last, at_start),
        }
    }
}

/// What follows a piece: at the start, or wherever it comes first.
fn after<'a>(name: &'a str, piece: &str, at_start: bool) -> Option<&'a str> {
    if at_start {
        return name.strip_prefix(piece);
    }
    let at = name.find(piece)?;
    Some(&name[at + piece.len()..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().fits(name)
    }

    #[test]
    fn patterns_fit_as_those_of_sanitizers_do() {
        for (pattern, name, wanted) in [
            ("foo", "foo", true),
            ("foo", "a_foo_b", true),
            ("foo", "Foo", false),
            ("foo", "fo", false),
            ("^foo", "foobar", true),
            ("^foo", "a_foo", false),
            ("foo$", "a_foo", true),
            ("foo$", "foobar", false),
            ("^foo$", "foo", true),
            ("^foo$", "foo(int)", false),
            ("^foo(*)$", "foo(int, char)", true),
            ("a*c", "xabcx", true),
            ("a*c", "ca", false),
            ("^*foo", "a_foo", true),
            ("foo*$", "foobar", true),
            ("^a*c$", "abcbc", true),
            ("*", "x", true),
            ("*", "", false),
            ("**a**", "bab", true),
            ("libfoo.so", "/usr/lib/libfoo.so.1", true),
            ("/src/*.c$", "/home/x/src/y/z.c", true),
            ("foo$ignored", "a_foo", true),
            ("a^b", "a^b", true),
            ("a^b", "ab", false),
            ("operator new(unsigned long)", "operator new(unsigned long)", true),
            ("foo?", "foox", false),
            ("Ä*é", "xÄyé", true),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn a_later_end_is_an_end_too() {
        assert!(fits("foo$", "foofoo") && fits("a*b$", "abcb"));
    }

    #[test]
    fn what_says_nothing_of_a_name_is_no_pattern() {
        for text in ["", "^", "$", "^$", "$foo"] {
            assert_eq!(Pattern::new(text), None, "{text}");
        }
    }

    /// All ways to read the pattern, one character at a time.
    fn fits_naively(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                fits_naively(rest, name) || (!name.is_empty() && fits_naively(pattern, &name[1..]))
            }
            ([wanted, rest @ ..], [is, name @ ..]) => wanted == is && fits_naively(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn anchors_and_stars_mean_what_they_say(
            start in any::<bool>(), name in "[ab]{1,10}", pattern in "[ab*]{1,5}", end in any::<bool>(),
        ) {
            let typed = format!("{}{pattern}{}", if start { "^" } else { "" }, if end { "$" } else { "" });
            let whole = format!("{}{pattern}{}", if start { "" } else { "*" }, if end { "" } else { "*" });
            let whole: Vec<char> = whole.chars().collect();
            let wanted = fits_naively(&whole, &name.chars().collect::<Vec<_>>());
            prop_assert_eq!(fits(&typed, &name), wanted);
        }

        #[test]
        fn nothing_makes_it_panic(pattern in ".{0,12}", name in ".{0,24}") {
            if let Some(pattern) = Pattern::new(&pattern) {
                pattern.fits(&name);
            }
        }
    }
}
