//! Which Python an object is: the number, and how it is written down. Must not know files or processes.

use std::fmt;

/// A version of CPython.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3.
    pub major: u8,
    /// What the layout of everything depends on.
    pub minor: u8,
    /// The patch release.
    pub micro: u8,
}

impl Version {
    /// Of `PY_VERSION_HEX`: major, minor, micro, and what stage of a release, 8 bits each.
    pub const fn of_hex(hex: u32) -> Self {
        let [_, micro, minor, major] = hex.to_le_bytes();
        Self { major, minor, micro }
    }

    /// Of text that begins with one, such as `3.11.2` or `3.11.2+`. Without the last number that is 0.
    pub fn of_text(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| {
            let digits = part.find(|digit: char| !digit.is_ascii_digit());
            part[..digits.unwrap_or(part.len())].parse().ok()
        });
        Some(Self {
            major: numbers.next()??,
            minor: numbers.next()??,
            micro: numbers.next().flatten().unwrap_or(0),
        })
    }

    /// In the name of a file: `python3.11`, `libpython3.9d.so.1.0`.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, rest) = name.rsplit_once("python")?;
        let (major, rest) = rest.split_once('.')?;
        let digits = rest.find(|digit: char| !digit.is_ascii_digit());
        Some(Self {
            major: major.parse().ok()?,
            minor: rest[..digits.unwrap_or(rest.len())].parse().ok()?,
            micro: 0,
        })
    }

    /// The one version that stands in read-only data as a string: what `sys.version` begins with. Linkers keep a string
    /// that another one ends with as a part of that, such as `/opt/python/3.8.18`. `wanted` says which major and minor
    /// number it can have, if they are known.
    pub fn of_strings(data: &[u8], wanted: Option<Self>) -> Option<Self> {
        let mut found: Option<Self> = None;
        for text in data.split(|byte| *byte == 0) {
            let text = text.rsplit(|byte| b"/- ".contains(byte)).next();
            let Some(version) = text.and_then(of_string) else {
                continue;
            };
            let is_wanted =
                wanted.is_none_or(|wanted| (wanted.major, wanted.minor) == (version.major, version.minor));
            if !is_wanted || found == Some(version) {
                continue;
            }
            if found.is_some() {
                return None;
            }
            found = Some(version);
        }
        found
    }
}

/// Exactly `3.x.y`, or with what follows in releases that are not final (`3.13.0rc2`, `3.11.2+`).
fn of_string(text: &[u8]) -> Option<Version> {
    // "3.10.13" has 7 characters, "3.13.0rc2+" 10.
    if !(5..=10).contains(&text.len()) || !text.starts_with(b"3.") {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let rest = text.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == '.');
    let is_stage = ["", "+"].contains(&rest) || ["a", "b", "rc"].iter().any(|stage| rest.starts_with(stage));
    let numbers = &text[..text.len() - rest.len()];
    (is_stage && numbers.split('.').count() == 3 && numbers.split('.').all(|number| !number.is_empty()))
        .then(|| Version::of_text(numbers))
        .flatten()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(minor: u8, micro: u8) -> Version {
        Version {
            major: 3,
            minor,
            micro,
        }
    }

    #[test]
    fn it_is_read_from_every_form() {
        assert_eq!(Version::of_hex(0x030b_02f0), version(11, 2));
        assert_eq!(Version::of_text("3.9.18 (main, ...)"), Some(version(9, 18)));
        assert_eq!(Version::of_text("3.14"), Some(version(14, 0)));
        assert_eq!(Version::of_text("three"), None);
        assert_eq!(Version::of_name("libpython3.11.so.1.0"), Some(version(11, 0)));
        assert_eq!(
            Version::of_name("/usr/lib/python/python3.8d"),
            Some(version(8, 0))
        );
        assert_eq!(Version::of_name("libpython3.so"), None);
        assert_eq!(Version::of_name("libc.so.6"), None);
        assert_eq!(version(13, 0).to_string(), "3.13.0");
    }

    #[test]
    fn in_data_it_must_be_the_only_one() {
        let found = |data: &[u8]| Version::of_strings(data, None);
        assert_eq!(found(b"x\x003.10.13\0%s\x003.10.13\0"), Some(version(10, 13)));
        assert_eq!(found(b"\x003.13.0rc2\0"), Some(version(13, 0)));
        assert_eq!(found(b"\x003.11.2+\0"), Some(version(11, 2)));
        assert_eq!(found(b"a3.10.13\x003.10\x003.10.1.1\x003..10\x003.10.x\0"), None);
        assert_eq!(found(b"\x003.10.13\x003.9.18\0"), None);
        assert_eq!(found(b"/opt/python/3.8.18\0"), Some(version(8, 18)));
        assert_eq!(found(b"/opt/python3.8.18\0"), None);
        assert_eq!(
            Version::of_strings(b"\x003.10.13\x003.9.18\0", Some(version(9, 0))),
            Some(version(9, 18))
        );
    }
}
