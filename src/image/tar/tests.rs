//! Archives made byte by byte, and what the reader says of them. The hostile ones have the names of their attacks.
use std::io::Read;

use super::*;

/// A record of an extended header, with its length before it.
pub(super) fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
}

/// An archive in the making.
#[derive(Clone, Default)]
pub(super) struct Archive(pub(super) Vec<u8>);

impl Archive {
    pub(super) fn header(typeflag: u8, name: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.as_old_mut().linkflag = [typeflag];
        header
    }

    /// A header with its checksum, and changes made before that.
    pub(super) fn changed(
        mut self,
        mut header: tar::Header,
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    pub(super) fn bare(self, typeflag: u8, name: &str, size: u64) -> Self {
        let header = Self::header(typeflag, name.as_bytes(), size);
        self.changed(header, |_| ())
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn content(self, content: &[u8]) -> Self {
        let padding = padding(content.len() as u64);
        self.raw(content)
            .raw(&vec![0; usize::try_from(padding).unwrap()])
    }

    pub(super) fn entry(self, typeflag: u8, name: &str, content: &[u8]) -> Self {
        self.bare(typeflag, name, content.len() as u64)
            .content(content)
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, content.as_bytes())
    }

    pub(super) fn link(self, typeflag: u8, name: &str, target: &str, size: u64) -> Self {
        let header = Self::header(typeflag, name.as_bytes(), size);
        self.changed(header, |header| {
            header.set_link_name_literal(target).unwrap()
        })
    }

    pub(super) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.records(b'x', records)
    }

    pub(super) fn records(self, typeflag: u8, records: &[(&str, &str)]) -> Self {
        let text = records
            .iter()
            .flat_map(|(keyword, value)| record(keyword, value.as_bytes()));
        self.entry(typeflag, "PaxHeaders/x", &text.collect::<Vec<u8>>())
    }

    pub(super) fn end(self) -> Self {
        self.raw(&[0; 2 * BLOCK])
    }
}

pub(super) fn archive() -> Archive {
    Archive::default()
}

fn limits() -> Limits {
    Limits {
        layer: 100_000,
        file: 50_000,
        entries: 10,
        name: 300,
        header: 4096,
        ..Limits::default()
    }
}

/// One line an entry: type, name, size, content or target.
pub(super) fn listed(bytes: &[u8]) -> Result<Vec<String>, TarError> {
    let mut lines = Vec::new();
    let mut reader = Reader::new(bytes, limits());
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader
            .data()
            .read_to_end(&mut content)
            .map_err(TarError::from)?;
        if let Some(extents) = &entry.extents {
            assert_eq!(
                content.len() as u64,
                extents.iter().map(|extent| extent.length).sum::<u64>()
            );
        }
        let letter = match entry.kind {
            Kind::File => 'f',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::HardLink => 'h',
            Kind::CharDevice { .. } => 'c',
            Kind::BlockDevice { .. } => 'b',
            Kind::Fifo => 'p',
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let rest = text(&[content, entry.link].concat());
        lines.push(
            format!("{letter} {} {} {rest}", text(&entry.path), entry.size)
                .trim_end()
                .to_owned(),
        );
    }
    assert!(reader.next()?.is_none());
    assert!(reader.finish()?.is_empty());
    Ok(lines)
}

fn one(archive: &Archive) -> Entry {
    let mut reader = Reader::new(&archive.0[..], limits());
    reader.next().unwrap().unwrap()
}

/// Reads `archive`, and an empty file behind it, and compares.
#[track_caller]
fn reads(name: &str, archive: Archive, expected: &[&str]) {
    let whole = archive.file("z", "").end();
    let lines = listed(&whole.0).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(lines, [expected, &["f z 0"]].concat(), "{name}");
}

#[test]
fn archives_end() {
    let one = || archive().file("a", "b");
    let zeros = [0; BLOCK];
    for (name, archive, expected) in [
        ("empty", archive(), &[][..]),
        ("only the end", archive().end(), &[]),
        ("no end", one(), &["f a 1 b"]),
        ("one block of zeros", one().raw(&zeros), &["f a 1 b"]),
        (
            "behind the end",
            one().end().raw(b"garbage").file("c", "d"),
            &["f a 1 b"],
        ),
    ] {
        assert_eq!(listed(&archive.0).unwrap(), expected, "{name}");
    }
}

#[test]
fn entries_are_of_every_type() {
    let files = archive().entry(0, "a", b"x").entry(b'7', "b", b"y");
    reads("files", files, &["f a 1 x", "f b 1 y"]);
    let full = "x".repeat(513);
    reads(
        "a block and a byte",
        archive().file("a", &full),
        &[&format!("f a 513 {full}")],
    );
    let nodes = archive()
        .bare(b'3', "e", 0)
        .bare(b'4', "f", 0)
        .bare(b'6', "g", 0);
    reads("nodes", nodes, &["c e 0", "b f 0", "p g 0"]);
    let links = archive().link(b'1', "g", "a", 0).link(b'2', "h", "../a", 0);
    reads("links", links, &["h g 0 a", "l h 0 ../a"]);
    let directories = archive()
        .bare(b'5', "c", 0)
        .bare(0, "d/", 0)
        .bare(b'0', "e/", 0);
    reads("directories", directories, &["d c 0", "d d/ 0", "d e/ 0"]);
    let told = archive().pax(&[("path", "d/")]).bare(0, "d", 0);
    reads("a directory by its record", told, &["d d/ 0"]);
}

#[test]
fn links_have_a_size_or_content_or_both() {
    let bare = archive()
        .link(b'1', "g", "a", 700)
        .link(b'2', "h", "b", 9)
        .bare(b'5', "d", 4096);
    reads("sizes", bare, &["h g 0 a", "l h 0 b", "d d 0"]);
    let full = archive()
        .link(b'1', "g", "a", 700)
        .content(&[b'x'; 700])
        .link(b'2', "h", "b", 1)
        .content(b"y");
    reads("content", full, &["h g 0 a", "l h 0 b"]);
    let told = archive()
        .pax(&[("size", "700")])
        .link(b'1', "g", "a", 0)
        .content(&[b'x'; 700]);
    reads("content by a record", told, &["h g 0 a"]);
    let last = archive().link(b'1', "g", "a", 700);
    assert_eq!(listed(&last.0).unwrap(), ["h g 0 a"]);
    assert_eq!(listed(&last.end().0).unwrap(), ["h g 0 a"]);
}

#[test]
fn names_come_from_extensions() {
    let long = "l/".repeat(60) + "name";
    let long_nul = format!("{long}\0");
    let both = archive()
        .entry(b'L', "././@LongLink", long_nul.as_bytes())
        .entry(b'K', "././@LongLink", b"target")
        .link(b'2', "short", "cut", 0);
    reads("GNU names", both, &[&format!("l {long} 0 target")]);
    let records = [
        ("path", "p\u{e4}th"),
        ("linkpath", "t"),
        ("comment", "c"),
        ("VENDOR.x", "y"),
    ];
    reads(
        "pax",
        archive().pax(&records).link(b'2', "n", "m", 0),
        &["l p\u{e4}th 0 t"],
    );
    let taken_back = archive().pax(&[("path", "p"), ("path", "")]).file("n", "");
    reads("an empty record", taken_back, &["f n 0"]);
    let global = archive()
        .records(b'g', &[("comment", "c"), ("mtime", "5")])
        .file("n", "");
    reads("a global header", global, &["f n 0"]);
    let twice = archive()
        .pax(&[("path", "p")])
        .entry(b'L', "", b"p\0")
        .file("n", "");
    reads("the same name twice", twice, &["f p 0"]);
}

/// CVE-2025-62518, CVE-2026-33055, RUSTSEC-2026-0112: programs took the content for entries, or entries for content.
#[test]
fn the_size_of_a_record_counts_for_the_entry() {
    let inner = archive().file("inner", "x").end();
    let size = inner.0.len().to_string();
    let zero = archive()
        .pax(&[("size", &size)])
        .bare(b'0', "a", 0)
        .content(&inner.0);
    let content = format!("f a {size} {}", String::from_utf8_lossy(&inner.0));
    reads("pax-size-zero-ustar", zero, &[content.trim_end()]);
    let other = archive()
        .pax(&[("size", "1")])
        .bare(b'0', "a", 1024)
        .content(b"x");
    reads("pax-size-over-ustar-nonzero", other, &["f a 1 x"]);
    let first = || archive().pax(&[("size", "3")]);
    let named = |archive: Archive| archive.entry(b'L', "././@LongLink", b"a longer name\0");
    let last = |archive: Archive| archive.bare(b'0', "n", 0).content(b"abc");
    reads(
        "pax-size-then-gnu-longname",
        last(named(first())),
        &["f a longer name 3 abc"],
    );
    let global = first().records(b'g', &[("comment", "0123456789")]);
    reads("pax-size-then-global", last(global), &["f n 3 abc"]);
    let after = named(archive()).pax(&[("size", "3")]);
    reads(
        "gnu-longname-then-pax",
        last(after),
        &["f a longer name 3 abc"],
    );
    let of_one = last(first()).file("y", "1");
    reads("pax-size-of-one-entry", of_one, &["f n 3 abc", "f y 1 1"]);
}

#[test]
fn metadata_comes_from_the_header_or_a_record() {
    let plain = one(&archive().file("a", "x").end());
    assert_eq!((plain.mode, plain.uid, plain.gid), (0o644, 1000, 100));
    assert_eq!(
        (plain.mtime.seconds, plain.mtime.nanoseconds, plain.offset),
        (1_000_000_000, 0, 512)
    );

    let records = [
        ("uid", "70000"),
        ("gid", "4294967294"),
        ("mtime", "1.5"),
        ("SCHILY.xattr.user.a", "b"),
    ];
    let told = one(&archive().pax(&records).file("a", "x").end());
    assert_eq!((told.uid, told.gid), (70_000, u32::MAX - 1));
    assert_eq!(
        (told.mtime.seconds, told.mtime.nanoseconds, told.offset),
        (1, 500_000_000, 1536)
    );
    assert_eq!(told.xattrs, [(b"user.a".to_vec(), b"b".to_vec())]);

    let global = archive().records(b'g', &[("uid", "7"), ("gid", "8")]);
    let mixed = one(&global
        .pax(&[("gid", ""), ("mtime", "-1")])
        .file("a", "")
        .end());
    assert_eq!((mixed.uid, mixed.gid, mixed.mtime.seconds), (7, 100, -1));

    let binary = archive().changed(Archive::header(b'0', b"a", 0), |header| {
        header.set_uid(1 << 31);
        let mtime = &mut header.as_old_mut().mtime;
        mtime.fill(0xff);
        header.as_old_mut().mode = *b"100755 \0";
    });
    let binary = one(&binary.end());
    assert_eq!(
        (binary.uid, binary.mtime.seconds, binary.mode),
        (1 << 31, -1, 0o755)
    );

    let device = archive().changed(Archive::header(b'4', b"a", 0), |header| {
        header.set_device_major(8).unwrap();
        header.set_device_minor(1 << 20).unwrap();
    });
    assert_eq!(
        one(&device.end()).kind,
        Kind::BlockDevice {
            major: 8,
            minor: 1 << 20
        }
    );
}

#[test]
fn every_format_of_header_is_known() {
    let make = |mut header: tar::Header, change: fn(&mut tar::Header)| {
        header.as_old_mut().name[..4].copy_from_slice(b"name");
        header.set_size(0);
        one(&archive().changed(header, change))
    };
    // The first programs filled fields with blanks, and knew no type.
    let old = make(tar::Header::new_old(), |header| {
        let old = header.as_old_mut();
        (old.mode, old.uid, old.gid) = (*b"   644 \0", *b"     1 \0", *b"        ");
        (old.size, old.mtime, old.linkflag) = (*b"          0 ", *b"          0 ", [0]);
    });
    assert_eq!(
        (&old.path[..], old.kind, old.mode, old.uid, old.gid),
        (&b"name"[..], Kind::File, 0o644, 1, 0)
    );
    let prefixed = |header: &mut tar::Header| {
        header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"dir");
    };
    assert_eq!(make(tar::Header::new_ustar(), prefixed).path, b"dir/name");
    let versioned = |header: &mut tar::Header| {
        header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"dir");
        header.as_mut_bytes()[263..265].copy_from_slice(b"  ");
    };
    assert_eq!(make(tar::Header::new_ustar(), versioned).path, b"dir/name");
    let full = make(tar::Header::new_ustar(), |header| {
        header.as_old_mut().name = [b'n'; 100];
        header.as_ustar_mut().unwrap().prefix = [b'p'; 155];
        header.as_old_mut().mode = [0; 8];
    });
    assert_eq!(full.path.len(), 256);
}

#[test]
fn sums_of_signed_bytes_are_checksums_too() {
    let mut bytes = archive().file("\u{e4}", "").0;
    let sum = |bytes: &[u8]| -> i64 {
        let byte = |at: usize| {
            if (148..156).contains(&at) {
                b' '
            } else {
                bytes[at]
            }
        };
        (0..BLOCK).map(|at| i64::from(byte(at).cast_signed())).sum()
    };
    let signed = format!("{:06o}\0 ", sum(&bytes));
    assert_ne!(bytes[148..154], signed.as_bytes()[..6]);
    bytes[148..156].copy_from_slice(signed.as_bytes());
    assert_eq!(listed(&bytes).unwrap(), ["f \u{e4} 0"]);
    bytes[150] ^= 1;
    assert!(listed(&bytes).is_err());
}

/// A GNU header of type S with these parts.
pub(super) fn old_sparse(stored: u64, size: u64, parts: &[(u64, u64)], more: bool) -> Archive {
    archive().changed(Archive::header(b'S', b"s", stored), |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        gnu.set_is_extended(more);
        for (place, (offset, length)) in gnu.sparse.iter_mut().zip(parts) {
            place.set_offset(*offset);
            place.set_length(*length);
        }
    })
}

pub(super) fn sparse_block(parts: &[(u64, u64)], more: bool) -> Vec<u8> {
    let mut block = tar::GnuExtSparseHeader::new();
    block.set_is_extended(more);
    for (place, (offset, length)) in block.sparse_mut().iter_mut().zip(parts) {
        place.set_offset(*offset);
        place.set_length(*length);
    }
    block.as_bytes().to_vec()
}

#[test]
fn sparse_files_have_maps() {
    let records = |version: &[(&'static str, &'static str)]| {
        let common = [("GNU.sparse.name", "s"), ("path", "GNUSparseFile.1/s")];
        [&common[..], version].concat()
    };
    let zero = records(&[
        ("GNU.sparse.size", "9000"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "1"),
        ("GNU.sparse.numbytes", "2"),
        ("GNU.sparse.offset", "5000"),
        ("GNU.sparse.numbytes", "3"),
    ]);
    let first = records(&[
        ("GNU.sparse.size", "9000"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.map", "1,2,5000,3"),
    ]);
    let second = records(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "9000"),
    ]);
    let mut map = b"2\n1\n2\n5000\n3\n".to_vec();
    map.resize(BLOCK, 0);
    let parts = [(1, 2), (5000, 3)];
    for (name, archive) in [
        ("old", old_sparse(5, 9000, &parts, false).content(b"abcde")),
        (
            "old, extended",
            old_sparse(5, 9000, &parts[..1], true)
                .raw(&sparse_block(&[], true))
                .raw(&sparse_block(&parts[1..], false))
                .content(b"abcde"),
        ),
        ("0.0", archive().pax(&zero).entry(b'0', "x", b"abcde")),
        ("0.1", archive().pax(&first).entry(b'0', "x", b"abcde")),
        (
            "1.0",
            archive()
                .pax(&second)
                .entry(b'0', "x", &[&map[..], b"abcde"].concat()),
        ),
    ] {
        let archive = archive.file("z", "");
        let extents = one(&archive).extents.unwrap();
        let found: Vec<(u64, u64)> = extents
            .iter()
            .map(|extent| (extent.offset, extent.length))
            .collect();
        assert_eq!(found, parts, "{name}");
        assert_eq!(
            listed(&archive.0).unwrap(),
            ["f s 9000 abcde", "f z 0"],
            "{name}"
        );
    }
}
