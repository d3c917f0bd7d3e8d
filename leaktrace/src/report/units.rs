//! Numbers as people read them: sizes, rates, times, counts. Pure.

use std::time::Duration;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Groups of three digits; ASCII, since reports are piped, mailed and searched.
const GROUP: char = ',';

/// Bytes with a binary unit and one decimal: `0 B`, `1023 B`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    size_f64(bytes as f64)
}

/// As [`size`], of a mean or a rate. Negative values and those that are no number read as 0.
pub fn size_f64(bytes: f64) -> String {
    let mut value = if bytes.is_finite() { bytes.max(0.0) } else { 0.0 };
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0: it belongs to the next unit. Bytes have no decimal.
    while unit + 1 < UNITS.len() && value >= if unit == 0 { 1023.5 } else { 1023.95 } {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Two sizes: `11.9 to 12.9 MiB`, with both units where they differ.
pub fn size_range([low, high]: [u64; 2]) -> String {
    let (low, high) = (size(low), size(high));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

/// A change in bytes per second, signed: `+12.3 KiB/s`, `-512 B/s`, `0 B/s`.
pub fn growth(bytes_per_s: f64) -> String {
    let text = size_f64(bytes_per_s.abs());
    let sign = match () {
        () if text == "0 B" => "",
        () if bytes_per_s < 0.0 => "-",
        () => "+",
    };
    format!("{sign}{text}/s")
}

/// A change of a count: `+18,400`, `-3`, `0`.
pub fn change(number: i64) -> String {
    format!("{}{}", sign(number), count(number.unsigned_abs()))
}

/// A change in bytes: `+4.1 MiB`, `-512 B`, `0 B`.
pub fn size_change(bytes: i64) -> String {
    format!("{}{}", sign(bytes), size(bytes.unsigned_abs()))
}

const fn sign(number: i64) -> &'static str {
    match number {
        0 => "",
        1.. => "+",
        _ => "-",
    }
}

/// Bytes per second: `12.3 KiB/s`.
pub fn rate(bytes_per_s: f64) -> String {
    format!("{}/s", size_f64(bytes_per_s))
}

/// A count: `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(GROUP);
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 block`, `2 blocks`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A share from 0 to 1 in hundredths, with two figures at least: `3.1 %`, `0.04 %`, `42 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent >= 9.95 => format!("{percent:.0} %"),
        _ if (0.005..0.095).contains(&percent) => format!("{percent:.2} %"),
        _ => format!("{percent:.1} %"),
    }
}

/// A time of two parts at most: `412 ms`, `3.2 s`, `1m 12s`, `2h 05m`, `3d 04h`.
pub fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    // Rounded once, before the unit is chosen, so that 59.96 s is not printed as 60.0 s.
    let tenths = (ms + 50) / 100;
    let s = (ms + 500) / 1000;
    match () {
        () if ms < 1000 => format!("{ms} ms"),
        () if tenths < 600 => format!("{}.{} s", tenths / 10, tenths % 10),
        () if s < 3600 => format!("{}m {:02}s", s / 60, s % 60),
        () if s < 86400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        () => format!("{}d {:02}h", s / 86400, s % 86400 / 3600),
    }
}

/// As [`duration`], of milliseconds.
pub fn duration_ms(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

/// As [`duration`], of seconds. What is no time reads as 0.
pub fn duration_s(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_a_sign() {
        for (number, text, bytes) in [
            (18_400, "+18,400", "+18.0 KiB"),
            (-3, "-3", "-3 B"),
            (0, "0", "0 B"),
            (i64::MIN, "-9,223,372,036,854,775,808", "-8.0 EiB"),
        ] {
            assert_eq!(
                (change(number), size_change(number)),
                (text.to_owned(), bytes.to_owned())
            );
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_524, "1023.9 KiB"),
            (1_048_575, "1.0 MiB"),
            (3 << 19, "1.5 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size_f64(99.6), "100 B");
        assert_eq!(size_f64(1023.6), "1.0 KiB");
        assert_eq!(size_f64(f64::NAN), "0 B");
        assert_eq!(size_f64(f64::INFINITY), "0 B");
    }

    #[test]
    fn ranges() {
        assert_eq!(size_range([12_478_054, 13_526_630]), "11.9 to 12.9 MiB");
        assert_eq!(size_range([512 << 10, 3 << 19]), "512.0 KiB to 1.5 MiB");
        assert_eq!(size_range([0, 7]), "0 to 7 B");
    }

    #[test]
    fn rates_and_growth() {
        assert_eq!(growth(12_595.2), "+12.3 KiB/s");
        assert_eq!(growth(-512.0), "-512 B/s");
        assert_eq!(growth(0.0), "0 B/s");
        assert_eq!(growth(-0.2), "0 B/s");
        assert_eq!(rate(12_595.2), "12.3 KiB/s");
    }

    #[test]
    fn counts() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (100_000, "100,000"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "block"), "1 block");
        assert_eq!(counted(0, "block"), "0 blocks");
        assert_eq!(counted(1200, "site"), "1,200 sites");
    }

    #[test]
    fn durations() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (3249, "3.2 s"),
            (59_949, "59.9 s"),
            (59_950, "1m 00s"),
            (72_000, "1m 12s"),
            (3_599_499, "59m 59s"),
            (3_599_500, "1h 00m"),
            (7_500_000, "2h 05m"),
            (273_600_000, "3d 04h"),
        ] {
            assert_eq!(duration_ms(ms), text, "{ms}");
        }
        assert_eq!(duration_s(1.25), "1.3 s");
        assert_eq!(duration_s(f64::NAN), "0 ms");
        assert_eq!(duration_s(-1.0), "0 ms");
    }

    #[test]
    fn shares() {
        for (share, text) in [
            (0.0, "0.0 %"),
            (0.0004, "0.04 %"),
            (0.005, "0.5 %"),
            (0.031, "3.1 %"),
            (0.0996, "10 %"),
            (0.42, "42 %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }
}
