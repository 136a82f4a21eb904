//! Sizes on the command line: `64M`, `1.5g`, `1048576`, `-1`.

/// Powers of 1024, by their first letters.
const UNITS: &str = "kmgtp";

/// The bytes that `text` stands for, as with runc: a number, perhaps with a fraction, and a unit like `k`, `KB` or `KiB`, all of
/// 1024. -1 is for no limit.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    bytes(text).ok_or_else(|| {
        format!("{text:?} is no size: give a number of bytes, or one with a unit like 64M or 1.5g, or -1 for no limit")
    })
}

/// As [`parse`], of something that has a limit always.
pub(super) fn parse_whole(text: &str) -> Result<u64, String> {
    bytes(text)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| {
            format!(
                "{text:?} is no size: give a number of bytes, or one with a unit like 64M or 1.5g"
            )
        })
}

/// `bytes` for people, with a unit of powers of 1000: 17 B, 1.2 kB, 178 MB.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // In tenths of the unit.
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    let unit = UNITS[unit];
    if tenths < 100 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

fn bytes(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        unit => {
            let short = unit
                .strip_suffix("ib")
                .or(unit.strip_suffix('b'))
                .unwrap_or(unit);
            let letter = short.chars().next().filter(|_| short.len() == 1)?;
            UNITS.find(letter)? + 1
        }
    };
    let of_unit = 1024_u128.pow(u32::try_from(power).ok()?);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // More places than anybody needs would not fit.
    if whole.is_empty() || !digits(fraction) || fraction.len() > 18 || number.ends_with('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let places = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let bytes = whole
        .checked_mul(of_unit)?
        .checked_add(fraction * of_unit / places)?;
    i64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("-1", -1),
            ("1048576", 1 << 20),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("0.5k", 512),
            ("7b", 7),
            ("2T", 2 << 40),
            ("1P", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "-2",
            "M",
            "1x",
            "1MM",
            "1iB",
            "1.",
            ".5",
            "1.2.3",
            "+1",
            "1e3",
            "0x10",
            " 1",
            "1  M",
            "max",
            "8192P",
            "9223372036854775808",
            "1.0000000000000000000001",
            "64Mi",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1234, "1.2 kB"),
            (12_345, "12 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (178_400_000, "178 MB"),
            (5_120_000_000, "5.1 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(human(bytes), text);
        }
        assert!(parse_whole("-1").is_err());
        assert_eq!(parse_whole("1k"), Ok(1024));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9.]{0,40}[ kKmMgGtTpPiIbB]{0,4}\\PC{0,2}") {
            let _either = parse(&text);
        }
    }
}
