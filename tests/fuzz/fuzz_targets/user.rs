//! `exec -u`: who the process becomes (CVE-2026-30892: an id that was misread as 0).
#![no_main]

use libfuzzer_sys::fuzz_target;
use lodger::cli::user::parse_user;
use lodger_fuzz::assert_lines_printable;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    match parse_user(&text) {
        Ok(user) => assert_eq!(Some(user), expected(&text), "{text:?}"),
        Err(error) => {
            assert_eq!(expected(&text), None, "{text:?}");
            assert_lines_printable(&error.to_string());
        }
    }
});

/// UID or UID:GID, and nothing else.
fn expected(text: &str) -> Option<(u32, Option<u32>)> {
    let mut ids = text.split(':').map(id);
    let user = (ids.next()??, ids.next());
    match (user, ids.next()) {
        ((uid, None), None) => Some((uid, None)),
        ((uid, Some(gid)), None) => Some((uid, Some(gid?))),
        _ => None,
    }
}

/// The number that the digits of `text` make, up to 4294967294.
fn id(text: &str) -> Option<u32> {
    let add = |value: u64, c: char| {
        let value = value * 10 + u64::from(c.to_digit(10)?);
        (value < u64::from(u32::MAX)).then_some(value)
    };
    let value = text.chars().try_fold(0, add)?;
    (!text.is_empty()).then(|| u32::try_from(value).ok())?
}
