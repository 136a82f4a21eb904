//! Extended headers (pax(1), "pax Extended Header"). What is malformed is an error, never passed over (CVE-2026-32766).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::entry::Time;
use super::error::Problem;
use super::sparse::Told;

/// What the records of an extended header change in the entry that follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// `path`.
    pub path: Option<Vec<u8>>,
    /// `linkpath`.
    pub link: Option<Vec<u8>>,
    /// `size`: of what is stored.
    pub size: Option<u64>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `mtime`.
    pub mtime: Option<Time>,
    /// `SCHILY.xattr.NAME` and `LIBARCHIVE.xattr.NAME`, decoded; what is no attribute, but says as much, by its keyword.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.*`.
    pub(super) sparse: Told,
}

/// For whom an extended header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The next entry (typeflag x).
    Next,
    /// All entries from here on (typeflag g).
    Later,
}

impl Records {
    /// Reads `text` on top of what held before. Unknown keywords are passed over, as pax(1) says.
    ///
    /// # Errors
    /// What is malformed, or makes no sense for all later entries.
    pub fn parse(before: &Self, text: &[u8], scope: Scope) -> Result<Self, Problem> {
        let mut records = before.clone();
        let mut rest = text;
        while !rest.is_empty() {
            let (keyword, value, after) = next(rest).map_err(|why| {
                Problem::malformed(format!("a record of its extended header {why}"))
            })?;
            records.take(keyword, value, scope).map_err(|why| {
                Problem::malformed(format!(
                    "the record {keyword:?} of its extended header {why}"
                ))
            })?;
            rest = after;
        }
        Ok(records)
    }

    fn take(&mut self, keyword: &str, value: &[u8], scope: Scope) -> Result<(), String> {
        let xattr = keyword
            .strip_prefix("SCHILY.xattr.")
            .map(|name| Ok((name.as_bytes().to_vec(), value.to_vec())))
            .or_else(|| {
                let name = keyword.strip_prefix("LIBARCHIVE.xattr.")?;
                Some(percent_decoded(name).and_then(|name| Ok((name, base64_decoded(value)?))))
            });
        let of_one = matches!(keyword, "path" | "linkpath" | "size")
            || keyword.starts_with("GNU.sparse.")
            || xattr.is_some();
        if of_one && scope == Scope::Later {
            return Err("makes no sense for all later entries".to_owned());
        }
        if let Some(xattr) = xattr {
            let (name, value) = xattr?;
            if name.is_empty() || name.contains(&0) {
                return Err("names no attribute".to_owned());
            }
            // An attribute may well be empty: no deletion here.
            self.xattrs.insert(name, value);
            return Ok(());
        }
        if keyword.starts_with("SCHILY.acl.") || keyword == "RHT.security.selinux" {
            // Of users and groups it has the names of the machine that it was made on, so nobody can take it: it is to be told.
            self.xattrs
                .insert(keyword.as_bytes().to_vec(), value.to_vec());
            return Ok(());
        }
        match keyword {
            "path" => self.path = unless_empty(value, without_nul)?,
            "linkpath" => self.link = unless_empty(value, without_nul)?,
            "size" => self.size = unless_empty(value, decimal)?,
            "uid" => self.uid = unless_empty(value, id)?,
            "gid" => self.gid = unless_empty(value, id)?,
            "mtime" => self.mtime = unless_empty(value, time)?,
            _ => {
                if let Some(what) = keyword.strip_prefix("GNU.sparse.") {
                    self.sparse.take(what, value)?;
                }
            }
        }
        Ok(())
    }
}

/// `LENGTH KEYWORD=VALUE\n`, and what follows. LENGTH counts itself too.
fn next(text: &[u8]) -> Result<(&str, &[u8], &[u8]), &'static str> {
    let bad_length = "does not begin with its length and a blank";
    let blank = text.iter().take(21).position(|byte| *byte == b' ');
    let (digits, _) = text.split_at(blank.ok_or(bad_length)?);
    let length = decimal(digits).map_err(|_| bad_length)?;
    let length = usize::try_from(length).map_err(|_| bad_length)?;
    if length > text.len() {
        return Err("is longer than the header");
    }
    let (record, after) = text.split_at(length);
    let body = record
        .get(digits.len() + 1..)
        .and_then(|body| body.strip_suffix(b"\n"))
        .ok_or("does not end where its length says")?;
    let equals = body.iter().position(|byte| *byte == b'=');
    let (keyword, value) = body.split_at(equals.ok_or("has no '='")?);
    let keyword = std::str::from_utf8(keyword).map_err(|_| "has a keyword that is not UTF-8")?;
    if keyword.is_empty() || keyword.contains('\0') {
        return Err("has no keyword");
    }
    Ok((keyword, &value[1..], after))
}

/// An empty value takes back what held before: the header's own field counts again.
fn unless_empty<T>(
    value: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    read(value).map(Some)
}

pub(super) fn without_nul(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.contains(&0) {
        return Err("has a NUL in it".to_owned());
    }
    Ok(value.to_vec())
}

/// Decimal digits, nothing else, up to 2^63 - 1.
pub(super) fn decimal(value: &[u8]) -> Result<u64, String> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err("is no number".to_owned());
    }
    value
        .iter()
        .try_fold(0i64, |sum, digit| {
            sum.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
        })
        .map(i64::unsigned_abs)
        .ok_or_else(|| "is out of range".to_owned())
}

fn id(value: &[u8]) -> Result<u32, String> {
    usable_id(decimal(value)?).ok_or_else(|| "is no id".to_owned())
}

/// An id that the kernel takes: the last one means "none" there.
pub(super) fn usable_id(value: u64) -> Option<u32> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX)
}

/// Seconds, with a fraction perhaps, and a minus before them perhaps.
fn time(value: &[u8]) -> Result<Time, String> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let point = value.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = value.split_at(point.unwrap_or(value.len()));
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("is no time".to_owned());
    }
    let seconds = decimal(whole).map_err(|why| format!("{why} of seconds"))?;
    let seconds = seconds.cast_signed();
    // What is finer than a nanosecond is cut off; below 1970 that is downwards, as it is above.
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0'));
    let nanoseconds = digits
        .take(9)
        .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, nanoseconds) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// RFC 3986 §2.1.
fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()
            .zip(digit())
            .and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(value.ok_or("has a '%' without two digits in its name")?);
    }
    Ok(decoded)
}

/// RFC 4648 §4; padding may be left out, as libarchive does.
fn base64_decoded(text: &[u8]) -> Result<Vec<u8>, String> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    if padding > 2 || digits.len() % 4 == 1 {
        return Err("is not base64".to_owned());
    }
    let mut decoded = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for place in 0..4 {
            let value = match group.get(place) {
                Some(byte @ b'A'..=b'Z') => byte - b'A',
                Some(byte @ b'a'..=b'z') => byte - b'a' + 26,
                Some(byte @ b'0'..=b'9') => byte - b'0' + 52,
                Some(b'+') => 62,
                Some(b'/') => 63,
                Some(_) => return Err("is not base64".to_owned()),
                None => 0,
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        decoded.extend_from_slice(&bytes[..group.len() * 3 / 4]);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Records, String> {
        Records::parse(&Records::default(), text, Scope::Next).map_err(|error| error.to_string())
    }

    fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
        super::super::tests::record(keyword, value)
    }

    #[test]
    fn what_is_malformed_is_an_error() {
        let cases: &[(&str, &[u8])] = &[
            ("pax-no-equals", b"9 foobar\n"),
            ("pax-bad-length-zero", b"0 path=a\n"),
            ("pax-bad-length-short", b"5 path=a\n"),
            ("pax-bad-length-one-off", b"9 path=ab\n"),
            ("pax-bad-length-past-the-end", b"99 path=a\n"),
            ("pax-bad-length-huge", b"99999999999999999999 path=a\n"),
            ("pax-bad-length-huger", b"999999999999999999999999 path=a\n"),
            ("pax-bad-length-negative", b"-9 path=a\n"),
            ("pax-bad-length-plus", b"+10 path=a\n"),
            ("pax-bad-length-hex", b"0xa path=a\n"),
            ("pax-bad-length-none", b" path=a\n"),
            ("pax-no-length", b"path=a\n"),
            ("pax-only-length", b"2 "),
            ("pax-length-of-itself", b"3 \n"),
            ("pax-leading-blank", b" 10 path=a\n"),
            ("pax-no-newline", b"9 path=ab"),
            ("pax-trailing-nul", b"9 path=a\n\0"),
            ("pax-no-keyword", b"6 =ab\n"),
            ("pax-keyword-not-utf8", b"9 p\xffth=a\n"),
            ("pax-keyword-nul", b"10 pa\0th=a\n"),
        ];
        assert!(parse(b"9 path=a\n").is_ok());
        for (name, text) in cases {
            assert!(parse(text).is_err(), "{name}");
        }
        let values: &[(&str, &[u8])] = &[
            ("path", b"a\0b"),
            ("linkpath", b"\0"),
            ("size", b"-1"),
            ("size", b"0x10"),
            ("size", b" 1"),
            ("size", b"1.0"),
            ("size", b"9223372036854775808"),
            ("size", b"18446744073709551617"),
            ("uid", b"root"),
            ("uid", b"-1"),
            ("uid", b"4294967295"),
            ("uid", b"4294967296"),
            ("gid", b"4294967296"),
            ("gid", b"1 "),
            ("mtime", b"now"),
            ("mtime", b"1.x"),
            ("mtime", b"1.1.1"),
            ("mtime", b"--1"),
            ("mtime", b"."),
            ("mtime", b"99999999999999999999"),
            ("SCHILY.xattr.", b"a"),
            ("LIBARCHIVE.xattr.user.a", b"*"),
            ("LIBARCHIVE.xattr.user.a", b"AAAAA"),
            ("LIBARCHIVE.xattr.user.%4", b"AAAA"),
            ("LIBARCHIVE.xattr.user.%00", b"AAAA"),
            ("LIBARCHIVE.xattr.%zz", b"AAAA"),
        ];
        for (keyword, value) in values {
            let text = record(keyword, value);
            assert!(parse(&text).is_err(), "{keyword} {value:?}");
        }
    }

    #[test]
    fn records_are_read() {
        let mut text = Vec::new();
        for (keyword, value) in [
            ("path", &b"\xc3\xa4=\n/\xff"[..]),
            ("comment", b"\0\xff"),
            ("uid", b"4294967294"),
            ("gid", b"1"),
            ("gid", b""),
            ("size", b"9223372036854775807"),
            ("mtime", b"-1.25"),
            ("hdrcharset", b"BINARY"),
            ("SCHILY.xattr.user.a", b"\0=\n"),
            ("SCHILY.xattr.user.empty", b""),
            ("LIBARCHIVE.xattr.user.b%20%3d", b"AP8Q"),
            ("LIBARCHIVE.xattr.user.c", b"YQ"),
            ("LIBARCHIVE.xattr.user.d", b"YWI="),
            ("SCHILY.acl.access", b"user:www:r--"),
            ("SCHILY.fflags", b"nodump"),
        ] {
            text.extend(record(keyword, value));
        }
        let records = parse(&text).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"\xc3\xa4=\n/\xff"[..]));
        assert_eq!((records.uid, records.gid), (Some(u32::MAX - 1), None));
        assert_eq!(records.size, Some(i64::MAX.unsigned_abs()));
        let xattrs: Vec<(&[u8], &[u8])> = records
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        let expected: [(&[u8], &[u8]); 6] = [
            (b"SCHILY.acl.access", b"user:www:r--"),
            (b"user.a", b"\0=\n"),
            (b"user.b =", b"\0\xff\x10"),
            (b"user.c", b"a"),
            (b"user.d", b"ab"),
            (b"user.empty", b""),
        ];
        assert_eq!(xattrs, expected);
    }

    #[test]
    fn times_have_nanoseconds() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1", 1, 0),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("9223372036854775807", i64::MAX, 0),
            ("-9223372036854775807.5", i64::MIN, 500_000_000),
        ] {
            let time = time(text.as_bytes()).unwrap();
            assert_eq!((time.seconds, time.nanoseconds), (seconds, nanoseconds));
        }
    }

    #[test]
    fn a_global_header_is_for_what_all_may_have() {
        let later = |text: &[u8]| Records::parse(&Records::default(), text, Scope::Later);
        let global = later(&record("mtime", b"7")).unwrap();
        assert!(later(&record("comment", b"0123")).is_ok());
        for keyword in [
            "path",
            "linkpath",
            "size",
            "GNU.sparse.size",
            "SCHILY.xattr.user.a",
            "LIBARCHIVE.xattr.user.a",
        ] {
            assert!(later(&record(keyword, b"1")).is_err(), "{keyword}");
        }
        let parse = |text: &[u8]| Records::parse(&global, text, Scope::Next).unwrap();
        assert_eq!(parse(b"").mtime.unwrap().seconds, 7);
        assert_eq!(parse(&record("mtime", b"8")).mtime.unwrap().seconds, 8);
        assert_eq!(parse(&record("mtime", b"")).mtime, None);
    }
}
