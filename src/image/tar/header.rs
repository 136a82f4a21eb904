//! One block that begins an entry (pax(1), "ustar Header Block"; tar(5)).
#![forbid(unsafe_code)]

use tar::Header;

use super::entry::Kind;
use super::error::Problem;

/// The size of a block, in bytes.
pub(super) const BLOCK: usize = 512;

/// What a header says, before extended headers have their say.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) typeflag: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) mtime: i64,
}

impl Fields {
    /// Reads a block whose checksum holds.
    pub(super) fn read(header: &Header) -> Result<Self, Problem> {
        let old = header.as_old();
        let mode = number(&old.mode).map_err(|why| wrong("mode", &why))?;
        Ok(Self {
            typeflag: old.linkflag[0],
            path: header.path_bytes().into_owned(),
            link: header.link_name_bytes().unwrap_or_default().into_owned(),
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            uid: number(&old.uid).map_err(|why| wrong("uid", &why))?,
            gid: number(&old.gid).map_err(|why| wrong("gid", &why))?,
            size: unsigned(&old.size).map_err(|why| wrong("size", &why))?,
            mtime: number(&old.mtime).map_err(|why| wrong("mtime", &why))?,
        })
    }
}

/// The major and the minor number. The oldest headers have no place for them.
pub(super) fn device(header: &Header) -> Result<(u32, u32), Problem> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Ok((0, 0)),
    };
    let read = |field: &[u8]| -> Result<u32, String> {
        u32::try_from(number(field)?).map_err(|_| "is out of range".to_owned())
    };
    Ok((
        read(major).map_err(|why| wrong("devmajor", &why))?,
        read(minor).map_err(|why| wrong("devminor", &why))?,
    ))
}

/// A header of `block`, unless the checksum is wrong. Some old programs summed signed bytes: GNU tar takes both.
pub(super) fn checked(block: &mut [u8; BLOCK]) -> Result<&Header, Problem> {
    let old = view(block).as_old();
    let said = number(&old.cksum).map_err(|why| wrong("checksum", &why))?;
    let blanks = 8 * i64::from(b' ');
    let sum = |value: fn(u8) -> i64| -> i64 {
        let all: i64 = block.iter().map(|byte| value(*byte)).sum();
        let own: i64 = old.cksum.iter().map(|byte| value(*byte)).sum();
        all - own + blanks
    };
    if said != sum(i64::from) && said != sum(|byte| i64::from(byte.cast_signed())) {
        return Err(Problem::malformed(
            "the checksum of its header is wrong: this is no tar archive, or a damaged one",
        ));
    }
    // The magic alone says what it is, as GNU tar has it; the crate wants this version too.
    if block[257..263] == *b"ustar\0" {
        block[263..265].copy_from_slice(b"00");
    }
    Ok(view(block))
}

/// Whether `block` may begin an entry or end the archive.
pub(super) fn may_be_next(block: &[u8; BLOCK]) -> bool {
    is_zero(block) || checked(&mut block.clone()).is_ok()
}

pub(super) fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// A number as headers hold it: octal digits with blanks or NULs around them, or, with the first bit set, a big-endian two's
/// complement (GNU tar's "base-256"). A blank field is 0.
pub(super) fn number(field: &[u8]) -> Result<i64, String> {
    let out_of_range = || "is out of range".to_owned();
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        let negative = first & 0x40 != 0;
        let first = if negative { first | 0x80 } else { first & 0x3f };
        let start = i128::from(first.cast_signed());
        let value = rest
            .iter()
            .try_fold(start, |value, byte| {
                value.checked_mul(256)?.checked_add(i128::from(*byte))
            })
            .ok_or_else(out_of_range)?;
        return i64::try_from(value).map_err(|_| out_of_range());
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0i64, |value, byte| {
        if !(b'0'..=b'7').contains(byte) {
            return Err("is no octal number".to_owned());
        }
        value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(byte - b'0')))
            .ok_or_else(out_of_range)
    })
}

/// A number that is not negative.
pub(super) fn unsigned(field: &[u8]) -> Result<u64, String> {
    u64::try_from(number(field)?).map_err(|_| "is negative".to_owned())
}

pub(super) fn wrong(field: &str, why: &str) -> Problem {
    Problem::malformed(format!("the {field} of its header {why}"))
}

/// What an entry is, by its typeflag.
pub(super) fn kind(fields: &Fields, path: &[u8], block: &[u8; BLOCK]) -> Result<Kind, Problem> {
    let (major, minor) = match fields.typeflag {
        b'3' | b'4' => device(view(block))?,
        _ => (0, 0),
    };
    let unsupported = |what: &str| Err(Problem::unsupported(what));
    match fields.typeflag {
        // Before there was a type for directories, a slash said it.
        0 | b'0' | b'7' if path.ends_with(b"/") => Ok(Kind::Directory),
        0 | b'0' | b'7' | b'S' => Ok(Kind::File),
        b'1' => Ok(Kind::HardLink),
        b'2' => Ok(Kind::Symlink),
        b'3' => Ok(Kind::CharDevice { major, minor }),
        b'4' => Ok(Kind::BlockDevice { major, minor }),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        b'D' => unsupported("it is a directory of an incremental archive (type D)"),
        b'M' => unsupported("it goes on from another volume of its archive (type M)"),
        b'V' => unsupported("it is a label of the archive (type V), which no layer has"),
        other => Err(Problem::unsupported(format!(
            "it is of the type {:?}, which is not a standard one",
            char::from(other)
        ))),
    }
}

/// The block as a header, whatever it is.
pub(super) fn view(block: &[u8; BLOCK]) -> &Header {
    Header::from_byte_slice(&block[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"\0 644 \0\0", Some(0o644)),
            (b"77777777", Some(0o7777_7777)),
            (b"        ", Some(0)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"12\0junk\0", Some(0o12)),
            (b"\x80\0\0\0\0\0\0\x2a", Some(42)),
            (b"\x80\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\x05", None),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\x05", None),
            (b"+644    ", None),
            (b"-644    ", None),
            (b"0000689\0", None),
            (b"644x   \0", None),
            (b"0x1ff\0  ", None),
            (b"777777777777777777777777", None),
        ];
        for (field, value) in cases {
            assert_eq!(number(field).ok(), *value, "{field:?}");
        }
        assert!(unsigned(b"\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}
