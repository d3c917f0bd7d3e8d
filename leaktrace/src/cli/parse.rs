//! Parsers of single values: sizes, times, process ids. Each error says what was expected.
//!
//! Must not know which options use them.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;

use crate::config::{Bound, Share};

/// A value that cannot be read; the message ends with what to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size.
    #[error("not a size: write bytes or a unit, such as 512, 4KiB, 1KB or 1.5MiB")]
    Size,
    /// A size above 2^64 bytes.
    #[error("above the largest size: write at most 15EiB")]
    SizeTooLarge,
    /// Not a time.
    #[error("not a time: write seconds or a unit, such as 500ms, 30s, 5m or 1h")]
    Time,
    /// A time too long for a clock.
    #[error("too long a time: write at most 8760h")]
    TimeTooLong,
    /// Not a process id.
    #[error("not a process id: write a number, such as -p 4242 or -p 4242,4243 (see 'pidof NAME')")]
    Pid,
    /// Not a number of things.
    #[error("not a count: write a whole number, such as 10")]
    Count,
    /// Not a number of things above 0.
    #[error("not a bound: write a whole number from 1 to 4294967295, such as 10000000")]
    Bound,
    /// Not a share that tracing can be held to.
    #[error("not a bound that can be held: write a percentage from 0.1% to 100%, such as 2%, or off")]
    Overhead,
    /// Not a name that a process can have.
    #[error("not a process's name: write one as `ps -o comm` has it, such as nginx")]
    Comm,
    /// No such user.
    #[error("no such user: write a name that `getent passwd NAME` finds, or a number")]
    User,
    /// Not something that can be left out.
    #[error("not something to leave out: write comm=NAME, user=USER, cgroup=PATH, container=NAME or pid=PID")]
    Exclude,
    /// Process id 0.
    #[error("0 is no process that can be traced: write the id of one (see 'pidof NAME')")]
    PidZero,
}

/// A size in bytes. `KiB`, `MiB`, `GiB` are powers of 1024, `KB`, `MB`, `GB` of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let bad = if digits_only {
            ValueError::SizeTooLarge
        } else {
            ValueError::Size
        };
        let size: ByteSize = text.parse().map_err(|_unhelpful: String| bad)?;
        // The crate saturates, so that a size beyond the range reads as the largest.
        if size.as_u64() == u64::MAX {
            return Err(ValueError::SizeTooLarge);
        }
        Ok(Self(size.as_u64()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In the largest unit that says it exactly: it is read back as a default.
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let exact = |(bits, _): &(u32, &str)| self.0 != 0 && self.0.trailing_zeros() >= *bits;
        match units.into_iter().find(exact) {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A time. A bare number counts seconds, as `sleep` and `timeout` take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl Time {
    /// A year: beyond it, sums of instants may overflow, and nobody waits for it.
    const MAX: Duration = Duration::from_hours(8760);
}

impl FromStr for Time {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let bare = text.ends_with(|last: char| last.is_ascii_digit());
        let with_unit = if bare { format!("{text}s") } else { text.to_owned() };
        let time = humantime::parse_duration(&with_unit).map_err(|error| match error {
            humantime::DurationError::NumberOverflow => ValueError::TimeTooLong,
            _ => ValueError::Time,
        })?;
        if time > Self::MAX {
            return Err(ValueError::TimeTooLong);
        }
        Ok(Self(time))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Processes that are not to be traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// Of this name.
    Comm(String),
    /// Run by this user.
    User(u32),
    /// In this control group.
    Cgroup(PathBuf),
    /// In this container.
    Container(String),
    /// This one.
    Pid(u32),
}

/// `KIND=VALUE`; a bare value is a name.
///
/// # Errors
/// When the kind is unknown or the value is none of its kind.
pub fn exclude(text: &str) -> Result<Excluded, ValueError> {
    let (kind, value) = text.split_once('=').unwrap_or(("comm", text));
    if value.is_empty() {
        return Err(ValueError::Exclude);
    }
    Ok(match kind {
        "comm" => Excluded::Comm(comm(value)?),
        "user" => Excluded::User(user(value)?),
        "cgroup" => Excluded::Cgroup(PathBuf::from(value)),
        "container" => Excluded::Container(value.to_owned()),
        "pid" => Excluded::Pid(pid(value)?),
        _ => return Err(ValueError::Exclude),
    })
}

/// A process's name.
///
/// # Errors
/// When it is empty or has a zero byte.
pub fn comm(text: &str) -> Result<String, ValueError> {
    if text.is_empty() || text.contains('\0') {
        return Err(ValueError::Comm);
    }
    Ok(text.to_owned())
}

/// A user's number, from that or the name.
///
/// # Errors
/// When there is no such user.
pub fn user(text: &str) -> Result<u32, ValueError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let found = nix::unistd::User::from_name(text).ok().flatten();
    found.map(|user| user.uid.as_raw()).ok_or(ValueError::User)
}

/// A process id: a positive number that the kernel could give.
///
/// # Errors
/// When it is not a number, is 0, or does not fit the kernel's `pid_t`.
pub fn pid(text: &str) -> Result<u32, ValueError> {
    match text.trim().parse::<i32>() {
        Ok(0) => Err(ValueError::PidZero),
        Ok(pid) => u32::try_from(pid).map_err(|_negative| ValueError::Pid),
        Err(_) => Err(ValueError::Pid),
    }
}

/// A number of things.
///
/// # Errors
/// When it is not a whole number.
pub fn count(text: &str) -> Result<usize, ValueError> {
    text.trim().parse().map_err(|_not_a_number| ValueError::Count)
}

/// A bound on the entries of a map in the kernel: 32 bits, and not 0.
///
/// # Errors
/// When it is not such a number.
pub fn bound(text: &str) -> Result<u32, ValueError> {
    match text.trim().parse() {
        Ok(0) | Err(_) => Err(ValueError::Bound),
        Ok(bound) => Ok(bound),
    }
}

/// A percentage, with or without its sign, within what tracing can be held to.
///
/// # Errors
/// When it is not one.
pub fn overhead(text: &str) -> Result<Bound, ValueError> {
    let text = text.trim();
    if text == "off" {
        return Ok(Bound::Off);
    }
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    // `f64` would also take "inf", "nan" and "1e-1".
    let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let percent: f64 = number
        .parse()
        .ok()
        .filter(|_| is_decimal)
        .ok_or(ValueError::Overhead)?;
    let share = Share::of_percent(percent);
    if (Share::LEAST_OVERHEAD..=Share::ALL).contains(&share) {
        Ok(Bound::Share(share))
    } else {
        Err(ValueError::Overhead)
    }
}

/// The values, each once, in the order given.
pub fn unique<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let mut unique = Vec::with_capacity(values.len());
    for value in values {
        if !unique.contains(value) {
            unique.push(*value);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("1KiB", 1024),
            ("1kib", 1024),
            ("1KB", 1000),
            ("1K", 1000),
            ("4 KiB", 4096),
            ("1.5MiB", 3 << 19),
            ("2GiB", 2 << 30),
            ("9007199254740993", 9_007_199_254_740_993),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert_eq!(overhead(" off "), Ok(Bound::Off));
        for text in [
            "",
            "KiB",
            "-1",
            "1.2.3",
            "1XB",
            "12 apples",
            "1e9",
            "0x10",
            "NaN",
            "inf",
        ] {
            assert_eq!(text.parse::<Size>(), Err(ValueError::Size), "{text}");
        }
        for text in ["99999999999999999999", "16EiB", "1000EiB"] {
            assert_eq!(text.parse::<Size>(), Err(ValueError::SizeTooLarge), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("30", 30_000),
            ("1.5", 1500),
            ("1.5s", 1500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "-1s", "5 parsecs", "banana", "1.s", "1,5s"] {
            assert_eq!(text.parse::<Time>(), Err(ValueError::Time), "{text}");
        }
        for text in ["99999999999999999999s", "2years", "8761h"] {
            assert_eq!(text.parse::<Time>(), Err(ValueError::TimeTooLong), "{text}");
        }
    }

    #[test]
    fn times_print_as_they_are_typed() {
        for text in ["0s", "5s", "500ms", "5m", "1h 30m"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn pids() {
        assert_eq!(pid("4242"), Ok(4242));
        assert_eq!(pid("2147483647"), Ok(2_147_483_647));
        assert_eq!(pid("0"), Err(ValueError::PidZero));
        for text in ["", "-1", "redis", "1.5", "2147483648", "99999999999"] {
            assert_eq!(pid(text), Err(ValueError::Pid), "{text}");
        }
        assert_eq!(unique(&[3, 1, 3, 2, 1]), [3, 1, 2]);
    }

    #[test]
    fn a_size_is_shown_as_it_can_be_typed() {
        for (size, shown) in [
            (0, "0"),
            (1, "1"),
            (1500, "1500"),
            (1 << 10, "1KiB"),
            (64 << 20, "64MiB"),
            (3 << 29, "1536MiB"),
        ] {
            assert_eq!(Size(size).to_string(), shown);
            assert_eq!(shown.parse(), Ok(Size(size)));
        }
    }

    #[test]
    fn shares_that_tracing_can_be_held_to() {
        for (text, share) in [
            ("2%", 0.02),
            ("0.5%", 0.005),
            ("5", 0.05),
            (" 2.5 % ", 0.025),
            ("0.1%", 0.001),
            ("100%", 1.0),
        ] {
            let Bound::Share(got) = overhead(text).unwrap() else {
                panic!("{text} is a share");
            };
            let got = got.to_f64();
            assert!((got - share).abs() < 1e-9, "{text}: {got}");
        }
        assert_eq!(overhead("off"), Ok(Bound::Off));
        for text in [
            "",
            "%",
            "0",
            "0%",
            "0.01%",
            "101%",
            "-2%",
            "two",
            "2%%",
            "1e1",
            "nan",
            "inf",
            "2 percent",
        ] {
            assert_eq!(overhead(text), Err(ValueError::Overhead), "{text}");
        }
    }

    #[test]
    fn counts_and_bounds() {
        assert_eq!((count("0"), count("25")), (Ok(0), Ok(25)));
        assert_eq!((bound("1"), bound("4294967295")), (Ok(1), Ok(u32::MAX)));
        for text in ["", "-1", "many", "1.5"] {
            assert_eq!(
                (count(text), bound(text)),
                (Err(ValueError::Count), Err(ValueError::Bound)),
                "{text}"
            );
        }
        for text in ["0", "4294967296"] {
            assert_eq!(bound(text), Err(ValueError::Bound), "{text}");
        }
    }
}
