//! Users of a container on the command line.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::sys::defence::{Defence, is_on};

/// `UID` or `UID:GID`, in decimal digits only: whatever else is in an id must never end as 0 (CVE-2026-30892).
///
/// # Errors
/// The text, when it is anything else.
pub fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let parsed = match text.split_once(':') {
        None => parse_id(text).map(|uid| (uid, None)),
        Some((uid, gid)) => parse_id(uid).zip(parse_id(gid).map(Some)),
    };
    parsed.ok_or_else(|| {
        Error::new(format!("invalid user {text:?}")).hint("give UID or UID:GID in digits")
    })
}

/// Group ids, in digits; one argument may hold several, with commas between them.
///
/// # Errors
/// The text, when it is anything else.
pub fn parse_groups(texts: &[String]) -> Result<Vec<u32>> {
    let mut groups = Vec::new();
    for text in texts.iter().flat_map(|text| text.split(',')) {
        groups.push(parse_id(text).ok_or_else(|| {
            Error::new(format!("invalid group {text:?}")).hint("give GIDs in digits")
        })?);
    }
    Ok(groups)
}

fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_on(Defence::DigitsOnly) {
        // What is not done: what is no number is taken for 0, as strtol(3) has it.
        return Some(text.parse().unwrap_or(0));
    }
    // 4294967295 is (uid_t) -1, which means "do not change" to the kernel.
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_number() {
        assert_eq!(parse_user("1"), Ok((1, None)));
        assert_eq!(parse_user("0:0"), Ok((0, Some(0))));
        assert_eq!(parse_user("1000:50"), Ok((1000, Some(50))));
    }

    #[test]
    fn groups_by_number() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse_groups(&strings(&["1", "2,3"])), Ok(vec![1, 2, 3]));
        for text in ["", "1,", ",1", "-1", "4294967295", "wheel"] {
            assert!(parse_groups(&strings(&[text])).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nothing_else_is_a_user() {
        for text in [
            "",
            ":",
            "1:",
            ":1",
            "-1",
            "+1",
            " 1",
            "1 ",
            "4294967295",
            "4294967296",
            "1:-1",
            "root",
            "1:2:3",
            "0x1",
        ] {
            assert!(parse_user(text).is_err(), "{text:?}");
        }
    }
}
