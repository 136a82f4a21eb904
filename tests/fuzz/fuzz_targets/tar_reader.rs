//! A layer's archive, however damaged: what was read of it is bounded by what is there, and is the same however it is read.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use lodger::image::Limits;
use lodger::image::tar::{Entry, Kind, Reader, TarError};
use lodger_fuzz::assert_lines_printable;

const BLOCK: usize = 512;
const LIMITS: Limits = Limits {
    layer: 1 << 40,
    file: 1 << 36,
    entries: 1000,
    depth: 100,
    name: 600,
    header: 2048,
    window: 0,
    json: 0,
};

// Nothing would be read behind a wrong checksum: every block that looks like a header gets the right one.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    if seed % 8 != 0 {
        for block in data[..size].chunks_exact_mut(BLOCK) {
            mend(block);
        }
    }
    size
});

fuzz_target!(|data: &[u8]| {
    let mut read = Vec::new();
    let ended = entries(data, &mut read, true);
    let mut skipped = Vec::new();
    let ended_too = entries(Slowly(data), &mut skipped, false);
    assert_eq!(read, skipped);
    assert_eq!(said(&ended), said(&ended_too));
    assert_lines_printable(&said(&ended));
    check(data, &read);
});

fn mend(block: &mut [u8]) {
    if block[257..262] == *b"ustar" {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Takes the entries of an archive until it ends, one way or another.
fn entries(archive: impl Read, into: &mut Vec<Entry>, content: bool) -> Result<(), TarError> {
    let mut reader = Reader::new(archive, LIMITS);
    while let Some(entry) = reader.next()? {
        let stored = match &entry.extents {
            Some(extents) => extents.iter().map(|extent| extent.length).sum(),
            None => entry.size,
        };
        into.push(entry);
        if content {
            match io::copy(&mut reader.data(), &mut io::sink()) {
                Ok(count) => assert_eq!(count, stored),
                // Passing over it fails too, and says so of the same place.
                Err(_) => continue,
            }
        }
    }
    reader.finish().map(|_| ())
}

fn said(ended: &Result<(), TarError>) -> String {
    match ended {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn check(data: &[u8], entries: &[Entry]) {
    assert!(
        entries.len() * BLOCK <= data.len(),
        "more entries than blocks"
    );
    let mut total = 0;
    for entry in entries {
        assert!(
            !entry.path.contains(&0) && !entry.link.contains(&0),
            "{entry:?}"
        );
        assert!(entry.path.len() <= LIMITS.name && entry.link.len() <= LIMITS.name);
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
        assert!(entry.uid != u32::MAX && entry.gid != u32::MAX);
        assert!(entry.offset <= data.len() as u64 && entry.offset >= BLOCK as u64);
        assert!(entry.size <= LIMITS.file);
        total += entry.size;
        let links = matches!(entry.kind, Kind::Symlink | Kind::HardLink);
        assert_eq!(links, !entry.link.is_empty(), "{entry:?}");
        assert!(entry.kind == Kind::File || (entry.size == 0 && entry.extents.is_none()));
        let mut end = 0;
        for extent in entry.extents.iter().flatten() {
            assert!(extent.offset >= end, "parts overlap: {entry:?}");
            end = extent.offset + extent.length;
        }
        assert!(end <= entry.size, "a part is behind the end: {entry:?}");
    }
    assert!(total <= LIMITS.layer);
}

/// Gives a few bytes at a time.
struct Slowly<'a>(&'a [u8]);

impl Read for Slowly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(300);
        self.0.read(&mut into[..count])
    }
}
