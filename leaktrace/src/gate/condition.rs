//! Conditions of `--fail-on`: what can be typed.
//!
//! Must not know how they are judged.

use std::{fmt, str::FromStr};

use crate::cli::parse::Size;

/// When a run has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Something grows.
    Growing,
    /// Blocks are outstanding, above a limit.
    Survivors(Limit),
    /// Bytes are outstanding, above a limit.
    Bytes(Limit),
}

/// What a number is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The number.
    pub number: u64,
    /// Whether the number itself is above it: `>=`.
    pub inclusive: bool,
}

impl Limit {
    /// Whether a number is above it.
    pub const fn is_passed_by(self, number: u64) -> bool {
        number > self.number || (self.inclusive && number == self.number)
    }

    const fn sign(self) -> &'static str {
        if self.inclusive { ">=" } else { ">" }
    }
}

/// A condition that cannot be read; the message ends with what to type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Not of the form.
    #[error("not a condition: write growing, 'survivors>N' or 'bytes>SIZE', such as --fail-on 'bytes>10MiB'")]
    Form,
    /// Only its name: a shell takes a bare `>` for itself.
    #[error("without a limit: write '{0}>{1}', in quotes, since a bare > is the shell's")]
    NoLimit(&'static str, &'static str),
    /// Not a number of blocks.
    #[error("not a number of blocks: write a whole number, such as 'survivors>100'")]
    Number,
    /// Its size cannot be read.
    #[error("not a condition: its size is {0}")]
    Size(String),
    /// It would hold in any run.
    #[error("holds in every run: write '{0}>0'")]
    Always(&'static str),
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let Some((name, limit)) = text.split_once('>') else {
            return match text.trim() {
                "growing" => Ok(Self::Growing),
                "survivors" => Err(ConditionError::NoLimit("survivors", "100")),
                "bytes" => Err(ConditionError::NoLimit("bytes", "10MiB")),
                _ => Err(ConditionError::Form),
            };
        };
        let (inclusive, number) = limit
            .strip_prefix('=')
            .map_or((false, limit), |number| (true, number));
        let limit = |name, number| {
            if inclusive && number == 0 {
                return Err(ConditionError::Always(name));
            }
            Ok(Limit { number, inclusive })
        };
        match name.trim() {
            "survivors" => {
                let number = number
                    .trim()
                    .parse()
                    .map_err(|_not_a_number| ConditionError::Number)?;
                limit("survivors", number).map(Self::Survivors)
            }
            "bytes" => {
                let size = number.parse::<Size>();
                let Size(number) = size.map_err(|why| ConditionError::Size(why.to_string()))?;
                limit("bytes", number).map(Self::Bytes)
            }
            _ => Err(ConditionError::Form),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Growing => f.write_str("growing"),
            Self::Survivors(limit) => write!(f, "survivors{}{}", limit.sign(), limit.number),
            Self::Bytes(limit) => write!(f, "bytes{}{}", limit.sign(), Size(limit.number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn limit(number: u64, inclusive: bool) -> Limit {
        Limit { number, inclusive }
    }

    #[test]
    fn conditions_are_read_and_written_alike() {
        for (text, condition, shown) in [
            ("growing", Condition::Growing, "growing"),
            (
                "survivors>100",
                Condition::Survivors(limit(100, false)),
                "survivors>100",
            ),
            (
                " survivors >= 7 ",
                Condition::Survivors(limit(7, true)),
                "survivors>=7",
            ),
            (
                "survivors>0",
                Condition::Survivors(limit(0, false)),
                "survivors>0",
            ),
            (
                "bytes>10MiB",
                Condition::Bytes(limit(10 << 20, false)),
                "bytes>10MiB",
            ),
            (
                "bytes>=1.5KiB",
                Condition::Bytes(limit(1536, true)),
                "bytes>=1536",
            ),
            ("bytes > 1KB", Condition::Bytes(limit(1000, false)), "bytes>1000"),
        ] {
            assert_eq!(text.parse(), Ok(condition), "{text}");
            assert_eq!(condition.to_string(), shown);
            assert_eq!(shown.parse(), Ok(condition));
        }
    }

    #[test]
    fn what_is_no_condition_says_what_to_type() {
        for (text, words) in [
            ("", "write growing"),
            ("leaking", "write growing"),
            ("growing>1", "write growing"),
            ("survivors<5", "write growing"),
            ("rss>1MiB", "write growing"),
            ("survivors", "write 'survivors>100', in quotes"),
            ("bytes", "write 'bytes>10MiB', in quotes"),
            ("survivors>", "a whole number"),
            ("survivors>-1", "a whole number"),
            ("survivors>1.5", "a whole number"),
            ("survivors>>1", "a whole number"),
            ("bytes>", "its size is not a size: write"),
            ("bytes>ten", "its size is not a size: write"),
            ("bytes>=0", "write 'bytes>0'"),
            ("survivors>=0", "write 'survivors>0'"),
        ] {
            let error = text.parse::<Condition>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_limit_is_passed_from_above_it_on() {
        for (inclusive, number, wanted) in [
            (false, 4, false),
            (false, 5, false),
            (false, 6, true),
            (true, 4, false),
            (true, 5, true),
        ] {
            assert_eq!(limit(5, inclusive).is_passed_by(number), wanted);
        }
    }
}
