//! Archives that somebody made to be misread. They have the names of their attacks.
use super::header::BLOCK;
use super::tests::{Archive, archive, listed, old_sparse, sparse_block};
use crate::error::Error;

/// Refuses every archive, with a message that says this.
#[track_caller]
fn refuses<const N: usize>(cases: [(&str, Archive, &str); N]) {
    for (name, archive, expected) in cases {
        let error = Error::from(listed(&archive.0).expect_err(name)).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

fn ended(archive: Archive) -> Archive {
    archive.file("a", "").end()
}

#[test]
fn what_is_cut_short_or_damaged() {
    let mut damaged = archive().file("a", "b");
    damaged.0[0] = b'b';
    let middle = "ends in the middle";
    refuses([
        (
            "no archive",
            archive().raw(&[b'x'; BLOCK]),
            "no octal number",
        ),
        ("wrong checksum", damaged, "checksum"),
        ("header", archive().file("a", "b").raw(&[b'x'; 100]), middle),
        (
            "content",
            archive().bare(b'0', "a", 600).raw(&[0; 512]),
            "\"a\" at byte 1024",
        ),
        (
            "padding",
            archive().bare(b'0', "a", 600).raw(&[0; 700]),
            middle,
        ),
        (
            "extension",
            archive().bare(b'x', "a", 600).raw(&[b'x'; 512]),
            middle,
        ),
        (
            "zeros-then-more",
            archive().raw(&[0; BLOCK]).file("a", "b").end(),
            "no second one",
        ),
        ("zeros-then-half", archive().raw(&[0; BLOCK + 100]), middle),
    ]);
}

#[test]
fn malformed_extensions() {
    let text = |text: &[u8]| ended(archive().entry(b'x', "x", text));
    let record = |keyword, value| archive().pax(&[(keyword, value)]);
    let long = |name: &[u8]| archive().entry(b'L', "././@LongLink", name);
    let two = "two extended headers";
    let missing = "is missing";
    refuses([
        ("pax-no-equals", text(b"9 foobar\n"), "has no '='"),
        (
            "pax-bad-length-past-the-end",
            text(b"99 path=b\n"),
            "longer than",
        ),
        (
            "pax-bad-length-short",
            text(b"5 path=b\n"),
            "does not end where",
        ),
        ("path-pax-nul", ended(record("path", "a\0b")), "NUL"),
        (
            "pax-size-negative",
            ended(record("size", "-1")),
            "is no number",
        ),
        (
            "pax-uid-wraps",
            ended(record("uid", "4294967296")),
            "is no id",
        ),
        ("pax-nothing-after", record("path", "a").end(), missing),
        ("pax-nothing-after, no end", record("path", "a"), missing),
        ("gnu-longname-nothing-after", long(b"abc\0").end(), missing),
        (
            "pax-twice",
            ended(record("path", "a").pax(&[("size", "1")])),
            two,
        ),
        (
            "gnu-longname-twice",
            ended(long(b"a\0").entry(b'L', "", b"b\0")),
            two,
        ),
        ("gnu-longname-nul", ended(long(b"a\0b\0")), "NUL"),
        (
            "two-names",
            ended(record("path", "p").entry(b'L', "", b"q\0")),
            "two names",
        ),
        (
            "global-path",
            ended(archive().records(b'g', &[("path", "p")])),
            "all later",
        ),
        (
            "global-size",
            ended(archive().records(b'g', &[("size", "1")])),
            "all later",
        ),
    ]);
}

#[test]
fn more_than_is_taken() {
    let long = "a".repeat(400);
    let big = "x".repeat(49_000);
    let of_400 = "400, more than the 300";
    let globals = archive().records(b'g', &[("comment", "c")]).0.repeat(11);
    let files = archive().file("a", "").0.repeat(11);
    let layer = archive()
        .file("a", &big)
        .file("b", &big)
        .file("c", &big[..3000]);
    refuses([
        (
            "pax-claimed-1tib",
            ended(archive().bare(b'x', "x", 1 << 40)),
            "1099511627776, more than the 4096",
        ),
        (
            "pax-size-claimed-1tib",
            ended(archive().pax(&[("size", "1099511627776")])),
            "more than the 50000",
        ),
        (
            "bomb-longname",
            ended(archive().entry(b'L', "", long.as_bytes())),
            "400, more than the 301",
        ),
        (
            "bomb-longname-claimed",
            ended(archive().bare(b'K', "", 1 << 40)),
            "more than the 301",
        ),
        (
            "bomb-path",
            ended(archive().pax(&[("path", &long)])),
            of_400,
        ),
        (
            "bomb-linkpath",
            archive()
                .pax(&[("linkpath", &long)])
                .link(b'2', "a", "b", 0),
            of_400,
        ),
        (
            "bomb-global",
            archive().bare(b'g', "g", 1 << 33),
            "more than the 4096",
        ),
        (
            "bomb-globals",
            archive().raw(&globals).end(),
            "11, more than the 10",
        ),
        ("bomb-entries", archive().raw(&files).end(), "--max-entries"),
        (
            "bomb-file",
            archive().bare(b'0', "a", u64::from(u32::MAX)),
            "--max-file-size",
        ),
        ("bomb-layer", layer.end(), "--max-layer-size"),
    ]);
}

#[test]
fn what_no_layer_has() {
    let of_type = |typeflag| archive().bare(typeflag, "a", 0).end();
    let field = |change: fn(&mut tar::Header)| {
        archive()
            .changed(Archive::header(b'3', b"a", 0), change)
            .end()
    };
    refuses([
        ("a link to nothing", of_type(b'2'), "without a target"),
        ("type V", of_type(b'V'), "type V"),
        ("type M", of_type(b'M'), "type M"),
        ("type D", of_type(b'D'), "type D"),
        ("type X", of_type(b'X'), "type 'X'"),
        ("type 8", of_type(b'8'), "type '8'"),
        (
            "uid",
            field(|header| header.set_uid(1 << 32)),
            "uid 4294967296",
        ),
        (
            "uid of none",
            field(|header| header.set_uid(0xffff_ffff)),
            "uid 4294967295",
        ),
        (
            "gid below 0",
            field(|header| header.as_old_mut().gid = [0xff; 8]),
            "gid -1",
        ),
        (
            "size below 0",
            field(|header| header.as_old_mut().size = [0xff; 12]),
            "negative",
        ),
        (
            "size that wraps",
            field(|header| header.as_old_mut().size = *b"\x80\0\0\x01\0\0\0\0\0\0\0\0"),
            "out of range",
        ),
        (
            "size of no digits",
            field(|header| header.as_old_mut().size = *b"0000000000x\0"),
            "octal",
        ),
        (
            "mode of no digits",
            field(|header| header.as_old_mut().mode = *b"+000644\0"),
            "octal",
        ),
        (
            "major of no digits",
            field(|header| header.as_gnu_mut().unwrap().dev_major = [b'9'; 8]),
            "devmajor",
        ),
    ]);
}

const VERSION: [(&str, &str); 3] = [
    ("GNU.sparse.major", "1"),
    ("GNU.sparse.minor", "0"),
    ("GNU.sparse.realsize", "9"),
];

fn sparse(records: &[(&str, &str)], content: &[u8]) -> Archive {
    archive().pax(records).entry(b'0', "x", content)
}

#[test]
fn sparse_bombs() {
    let told = [("GNU.sparse.size", "8589934592"), ("GNU.sparse.map", "0,1")];
    let old = old_sparse(1, 8 << 30, &[(0, 1)], false).content(b"a");
    let endless =
        old_sparse(0, 9, &[(1, 0)], true).raw(&sparse_block(&[(1, 0); 21], true).repeat(12_500));
    let claimed = [&b"99999999999\n"[..], &[b'1'; 500]].concat();
    let unfinished = [&b"1\n"[..], &[b'\n'; 510]].concat();
    refuses([
        ("bomb-sparse-8g", old, "--max-file-size"),
        ("bomb-sparse-pax", sparse(&told, b"a"), "--max-file-size"),
        ("bomb-sparse-map", endless, "262145"),
        (
            "bomb-sparse-map-claimed",
            sparse(&VERSION, &claimed),
            "99999999999",
        ),
        (
            "sparse-map-longer-than-content",
            sparse(&VERSION, b"1\n"),
            "longer than its",
        ),
        (
            "sparse-map-endless",
            sparse(&VERSION, &[b'1'; 512]),
            "not made of numbers",
        ),
        (
            "sparse-map-unfinished",
            sparse(&VERSION, &unfinished),
            "is no number",
        ),
    ]);
}

#[test]
fn sparse_maps_that_do_not_fit() {
    let old = |stored: usize, parts: &[(u64, u64)]| {
        old_sparse(stored as u64, 9, parts, false).content(&vec![0; stored])
    };
    let size = ("GNU.sparse.size", "1");
    let version = ("GNU.sparse.major", "2");
    let foreign = "does not belong";
    let truncated = old_sparse(1, 9, &[(0, 1)], true);
    let directory = archive().pax(&[size]).bare(b'5', "d", 0);
    let twice = archive().pax(&[size]).raw(&old(0, &[]).0);
    refuses([
        ("sparse-overlap", old(2, &[(1, 1), (1, 1)]), "overlap"),
        ("sparse-behind-the-end", old(2, &[(8, 2)]), "behind the end"),
        (
            "sparse-wraps",
            old(2, &[(u64::MAX >> 1, 2)]),
            "behind the end",
        ),
        (
            "sparse-more-than-stored",
            old(1, &[(0, 5)]),
            "another number",
        ),
        (
            "sparse-less-than-stored",
            old(9, &[(0, 5)]),
            "another number",
        ),
        ("sparse-truncated-map", truncated, "ends in the middle"),
        ("sparse-directory", directory, foreign),
        ("sparse-twice", twice, foreign),
        (
            "sparse-version",
            sparse(&[size, version], b""),
            "neither 0.0",
        ),
    ]);
}
