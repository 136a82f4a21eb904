//! The text of an extended header of a layer's archive: what was taken means the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lodger::image::tar::Time;
use lodger::image::tar::pax::{Records, Scope};
use lodger_fuzz::assert_lines_printable;

fuzz_target!(|data: &[u8]| {
    let none = Records::default();
    let later = Records::parse(&none, data, Scope::Later);
    let records = match Records::parse(&none, data, Scope::Next) {
        Ok(records) => records,
        Err(error) => {
            assert!(later.is_err(), "refused for one, taken for all");
            return assert_lines_printable(&error.to_string());
        }
    };
    assert_eq!(
        lengths(data),
        Some(()),
        "taken, although no records follow one another"
    );
    if let Ok(later) = later {
        assert_eq!((&later.path, &later.link, later.size), (&None, &None, None));
        assert!(later.xattrs.is_empty());
        assert_eq!(later, records);
    }
    for name in [&records.path, &records.link].into_iter().flatten() {
        assert!(!name.is_empty() && !name.contains(&0));
    }
    assert!(records.uid != Some(u32::MAX) && records.gid != Some(u32::MAX));
    assert!(records.size.is_none_or(|size| i64::try_from(size).is_ok()));
    assert!(
        records
            .xattrs
            .keys()
            .all(|name| !name.is_empty() && !name.contains(&0))
    );

    let again = Records::parse(&none, &written(&records), Scope::Next).unwrap();
    assert_eq!(
        (&again.path, &again.link, again.size),
        (&records.path, &records.link, records.size)
    );
    assert_eq!(
        (again.uid, again.gid, again.mtime),
        (records.uid, records.gid, records.mtime)
    );
    assert_eq!(again.xattrs, records.xattrs);
});

/// Whether the text is records, by their lengths and last bytes.
fn lengths(mut text: &[u8]) -> Option<()> {
    while !text.is_empty() {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length: usize = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
        let record = text.get(..length)?;
        (record.get(digits) == Some(&b' ') && record.ends_with(b"\n")).then_some(())?;
        record.contains(&b'=').then_some(())?;
        text = &text[length..];
    }
    Some(())
}

fn written(records: &Records) -> Vec<u8> {
    let mut text = Vec::new();
    let numbers = [
        ("size", records.size),
        ("uid", records.uid.map(u64::from)),
        ("gid", records.gid.map(u64::from)),
    ];
    for (keyword, number) in numbers {
        if let Some(number) = number {
            text.extend(record(keyword.as_bytes(), number.to_string().as_bytes()));
        }
    }
    for (keyword, name) in [("path", &records.path), ("linkpath", &records.link)] {
        if let Some(name) = name {
            text.extend(record(keyword.as_bytes(), name));
        }
    }
    if let Some(time) = records.mtime {
        text.extend(record(b"mtime", decimal(time).as_bytes()));
    }
    for (name, value) in &records.xattrs {
        // Any byte may be in such a name, but for '=' and what is not UTF-8 only the encoded form has a place.
        let name: String = name.iter().map(|byte| format!("%{byte:02x}")).collect();
        let keyword = format!("LIBARCHIVE.xattr.{name}");
        text.extend(record(keyword.as_bytes(), base64(value).as_bytes()));
    }
    text
}

fn record(keyword: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let length = (rest..)
        .find(|length| *length == rest + length.to_string().len())
        .unwrap();
    [
        length.to_string().as_bytes(),
        b" ",
        keyword,
        b"=",
        value,
        b"\n",
    ]
    .concat()
}

fn decimal(time: Time) -> String {
    assert!(time.nanoseconds < 1_000_000_000);
    let all = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let (sign, all) = if all < 0 { ("-", -all) } else { ("", all) };
    format!("{sign}{}.{:09}", all / 1_000_000_000, all % 1_000_000_000)
}

fn base64(value: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in value.chunks(3) {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=group.len() {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}
