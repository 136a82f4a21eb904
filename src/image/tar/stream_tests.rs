//! How a source is read, and what becomes of its errors.
use std::io::{self, BufRead, ErrorKind, Read};

use super::tests::archive;
use super::{Limits, Reader, TarError};

/// Gives at most so many bytes at once, and fails now and then as an interrupted call does.
struct Slow<'a>(&'a [u8], usize, bool);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.2 = !self.2;
        if self.2 {
            return Err(ErrorKind::Interrupted.into());
        }
        let count = self.1.min(into.len());
        self.0.read(&mut into[..count])
    }
}

#[test]
fn content_may_be_read_in_any_pieces() {
    let big: Vec<u8> = (0..200_000u32)
        .map(|place| place.to_le_bytes()[0] ^ place.to_le_bytes()[1])
        .collect();
    let archive = archive()
        .entry(b'0', "a", &big)
        .entry(b'0', "b", &big[..700])
        .file("c", "")
        .end()
        .raw(&big);
    for at_once in [1, 511, 4096, 1 << 20] {
        for piece in [1usize, 700, 1 << 20] {
            let mut reader = Reader::new(Slow(&archive.0, at_once, false), Limits::default());
            assert_eq!(reader.next().unwrap().unwrap().path, b"a");
            let mut found = Vec::new();
            let mut buffer = vec![0; piece];
            loop {
                let count = reader.data().read(&mut buffer).unwrap();
                found.extend_from_slice(&buffer[..count]);
                if count == 0 {
                    break;
                }
            }
            assert!(found == big, "{at_once} {piece}");
            // Half of it, borrowed; the rest is passed over.
            assert_eq!(reader.next().unwrap().unwrap().path, b"b");
            let lent = reader.data().fill_buf().unwrap().len().min(350);
            assert!(lent > 0 && reader.data().fill_buf().unwrap()[..lent] == big[..lent]);
            reader.data().consume(lent);
            assert_eq!(reader.next().unwrap().unwrap().path, b"c");
            let rest = reader.finish().unwrap();
            assert!(
                rest.0.is_empty(),
                "{at_once} {piece}: the source was not read to its end"
            );
        }
    }
}

#[test]
fn errors_of_the_source_stay_what_they_are() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let bytes = archive().bare(b'0', "a", 2000).0;
    let mut reader = Reader::new(bytes.chain(Broken), Limits::default());
    reader.next().unwrap().unwrap();
    let error = TarError::from(reader.data().read_to_end(&mut Vec::new()).unwrap_err());
    assert_eq!(error.to_string(), "the disk is on fire");
    let error = reader.next().unwrap_err();
    assert!(
        matches!(error, TarError::Read { position: 512, .. }),
        "{error:?}"
    );
}

#[test]
fn too_little_content_is_said_by_what_reads_it() {
    let bytes = archive().bare(b'0', "a", 2000).raw(b"abc").0;
    let mut reader = Reader::new(&bytes[..], Limits::default());
    reader.next().unwrap().unwrap();
    let mut content = Vec::new();
    let error = TarError::from(reader.data().read_to_end(&mut content).unwrap_err());
    assert_eq!(content, b"abc");
    assert!(
        error.to_string().starts_with("\"a\" at byte 515"),
        "{error}"
    );
}
