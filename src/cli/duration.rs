//! Durations as Go's time.ParseDuration has them, which runc takes: `5s`, `1m30s`, `1.5h`, `300ms`.

use std::time::Duration;

/// The units, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The most there is: Go counts nanoseconds in 63 bits.
const MAX: u128 = 1 << 63;

/// Parses a duration that must be longer than none. For clap.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let wrong = || "it is not a duration such as 5s, 1m30s or 500ms".to_owned();
    let nanoseconds = nanoseconds(digits).ok_or_else(wrong)?;
    if is_negative || nanoseconds == 0 {
        return Err("duration interval must be greater than 0".to_owned());
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn nanoseconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut sum: u128 = 0;
    loop {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| !c.is_ascii_digit() && c != '.');
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum += scaled(number, u128::from(*size))?;
        if sum >= MAX {
            return None;
        }
        if after.is_empty() {
            return u64::try_from(sum).ok();
        }
        rest = after;
    }
}

/// `number`, which may have a fraction, of units of `size` nanoseconds.
fn scaled(number: &str, size: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let parse = |digits: &str| match digits {
        "" => Some(0),
        // Also refuses a second point.
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u64>().ok(),
        _ => None,
    };
    // More digits than nanoseconds have say nothing.
    let fraction = &fraction[..fraction.len().min(15)];
    let parts = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(u128::from(parse(whole)?) * size + u128::from(parse(fraction)?) * size / parts)
}

/// What `belongs` to the begin of `text`, and the rest.
fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_has_them() {
        for (text, nanoseconds) in [
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("+300ms", 300_000_000),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("2μs", 2_000),
            ("1ns", 1),
            ("1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("0.000000001s", 1),
            ("2562047h", 9_223_369_200_000_000_000),
        ] {
            let expected = Ok(Duration::from_nanos(nanoseconds));
            assert_eq!(positive(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration() {
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "5x",
            ".",
            ".s",
            "1.2.3s",
            "five",
            "+",
            "-",
            "--5s",
            "1s5",
            "5S",
            "1e3s",
            "２s",
            "2562048h",
            "99999999999999999999s",
        ] {
            let error = positive(text).unwrap_err();
            assert!(error.contains("not a duration"), "{text}: {error}");
        }
        for text in ["0", "0s", "-5s", "-0", "+0", "0h0m", "0.1ns"] {
            let error = positive(text).unwrap_err();
            assert_eq!(error, "duration interval must be greater than 0", "{text}");
        }
    }
}
