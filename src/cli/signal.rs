//! Signals by name or number.

use std::str::FromStr;

use crate::error::{Error, Result};

/// The first real-time signal that the C library leaves to programs, and the last (signal(7)).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of the signal `text`: `TERM`, `SIGTERM`, `15`, `RTMIN+3`, in any case.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    by_number(text)
        .or_else(|| real_time(name))
        .or_else(|| by_name(name))
        .ok_or_else(|| {
            Error::new(format!("unknown signal {text:?}"))
                .hint("use a name (TERM or SIGTERM) or a number from 1 to 64")
        })
}

fn by_number(text: &str) -> Option<i32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok()?;
    (digits && (1..=RTMAX).contains(&number)).then_some(number)
}

fn by_name(name: &str) -> Option<i32> {
    nix::sys::signal::Signal::from_str(&format!("SIG{name}"))
        .ok()
        .map(|signal| signal as i32)
}

fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN + offset(rest, '+')?
    } else {
        RTMAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    let number: u8 = digits.parse().ok()?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(i32::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("hup", 1),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "0", "65", "-9", "+9", "SIG", "SIGNAL", "RTMIN-1", "RTMIN+31", "RTMAX-31", "9 ",
            "RTMIN++1",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
