//! What our reader says of an archive, against what Python's tarfile says of it: archives that Python writes, in every format it
//! has, and sparse ones that GNU tar writes. And archives that were damaged: they end the reading, never the program.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: it runs programs and reads what they wrote"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use lodger::image::tar::{Entry, Kind, Reader, TarError};
use lodger::image::{Digest, Limits};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// tests/archives.py, which answers a line with a line.
struct Python {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start() -> Self {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and tests/run set it");
        let mut child = Command::new("python3")
            .arg(PathBuf::from(package).join("tests/archives.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed: apt-get install python3");
        Self {
            requests: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, request: &Value) -> Vec<Value> {
        let requests = self.requests.as_mut().unwrap();
        writeln!(requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every entry with its content, holes filled.
fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut entries = Vec::new();
    let mut reader = Reader::new(archive, Limits::default());
    while let Some(entry) = reader.next()? {
        let mut content = vec![0; usize::try_from(entry.size).unwrap()];
        let mut data = reader.data();
        match &entry.extents {
            None => data.read_exact(&mut content)?,
            Some(extents) => {
                for extent in extents {
                    let [start, length] =
                        [extent.offset, extent.length].map(|n| usize::try_from(n).unwrap());
                    data.read_exact(&mut content[start..start + length])?;
                }
            }
        }
        assert_eq!(data.read(&mut [0])?, 0, "more content than the entry says");
        if entry.extents.is_none() && entry.kind == Kind::File {
            let start = usize::try_from(entry.offset).unwrap();
            assert!(
                archive[start..].starts_with(&content),
                "the content is not at its offset"
            );
        }
        entries.push((entry, content));
    }
    reader.finish()?;
    Ok(entries)
}

/// As tests/archives.py says it.
fn listed(archive: &[u8]) -> Vec<Value> {
    let line = |(entry, content): (Entry, Vec<u8>)| {
        let (letter, device) = match entry.kind {
            Kind::File => ("0", [0, 0]),
            Kind::HardLink => ("1", [0, 0]),
            Kind::Symlink => ("2", [0, 0]),
            Kind::CharDevice { major, minor } => ("3", [major, minor]),
            Kind::BlockDevice { major, minor } => ("4", [major, minor]),
            Kind::Directory => ("5", [0, 0]),
            Kind::Fifo => ("6", [0, 0]),
        };
        let name = match entry.kind {
            Kind::Directory => entry.path.strip_suffix(b"/").unwrap_or(&entry.path),
            _ => &entry.path,
        };
        let xattrs: BTreeMap<String, String> = entry
            .xattrs
            .iter()
            .map(|(name, value)| (String::from_utf8(name.clone()).unwrap(), hex(value)))
            .collect();
        json!({
            "name": hex(name),
            "type": letter,
            "link": hex(&entry.link),
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "quarters": entry.mtime.seconds * 4 + i64::from(entry.mtime.nanoseconds / 250_000_000),
            "device": device,
            "xattrs": xattrs,
            "size": content.len(),
            "sha256": Digest::of(&content).hex(),
        })
    };
    read(archive).unwrap().into_iter().map(line).collect()
}

/// What Python says, with the types that are the same to us made the same.
fn expected(mut entry: Value) -> Value {
    if matches!(entry["type"].as_str(), Some("\0" | "7" | "S")) {
        entry["type"] = json!("0");
    }
    entry
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'.' } else { byte });
    prop_oneof![
        "[a-z]{1,12}".prop_map(String::into_bytes),
        "[a-zäß€😀\n\\\\ ]{1,40}".prop_map(String::into_bytes),
        vec(byte, 1..60),
        Just(vec![b'x'; 100]),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(component(), 1..6).prop_map(|parts| parts.join(&b'/'))
}

/// Mostly such that every format can hold it, as the next.
fn id() -> impl Strategy<Value = u32> {
    prop_oneof![
        12 => 0..70_000u32,
        1 => Just(2_097_151),
        1 => Just(2_097_152),
        1 => 0..u32::MAX,
    ]
}

/// Quarters of a second since 1970.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![12 => 0..1i64 << 35, 1 => -1000..0i64, 1 => 0..1i64 << 42]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0),
        1..2000usize,
        Just(512),
        Just(513),
        Just(1024),
        60_000..70_000usize
    ]
}

fn entry() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["0", "\0", "7", "1", "2", "3", "4", "5", "6"]);
    let names = (name(), name(), kind, 0..0o10_000u32);
    let numbers = (id(), id(), 0..4096u32, 0..2_000_000u32, time());
    let xattrs = btree_map(
        "(user|security|trusted)\\.[a-z.]{1,20}",
        vec(any::<u8>(), 1..50),
        0..3,
    );
    (names, numbers, xattrs, size(), 1..250u32).prop_map(|(names, numbers, xattrs, size, seed)| {
        let (name, link, mut kind, mode) = names;
        // Python takes such a file for a directory where the name in its header, which is cut, ends with a slash.
        if kind == "\0" && name.len() > 100 {
            kind = "0";
        }
        let (uid, gid, devmajor, devminor, quarters) = numbers;
        let xattrs: BTreeMap<String, String> = xattrs.iter().map(|(name, value)| (name.clone(), hex(value))).collect();
        json!({
            "name": hex(&name), "link": hex(&link), "type": kind, "mode": mode, "uid": uid, "gid": gid,
            "devmajor": devmajor, "devminor": devminor, "quarters": quarters, "xattrs": xattrs, "size": size, "seed": seed,
        })
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn we_list_what_python_lists() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    let python = RefCell::new(Python::start());
    let format = prop::sample::select(vec!["ustar", "gnu", "pax"]);
    let found = RefCell::new(BTreeMap::new());
    let mut runner = TestRunner::new(config(150));
    let result = runner.run(&(format, vec(entry(), 0..12)), |(format, entries)| {
        let request = json!({"path": path, "format": format, "entries": entries});
        let theirs: Vec<Value> = python
            .borrow_mut()
            .ask(&request)
            .into_iter()
            .map(expected)
            .collect();
        let ours = listed(&fs::read(&path).unwrap());
        *found.borrow_mut().entry(format).or_insert(0) += ours.len();
        prop_assert_eq!(ours, theirs);
        Ok(())
    });
    result.unwrap();
    let found = found.into_inner();
    // What a format cannot hold is left out: not everything was.
    for format in ["ustar", "gnu", "pax"] {
        assert!(
            found.get(format).is_some_and(|count| *count > 20),
            "{found:?}"
        );
    }
}

/// Writes a file of `size` with some bytes here and there.
fn write_sparse(path: &Path, size: u64, parts: &[(u64, usize)]) {
    let mut file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, length) in parts {
        file.seek(SeekFrom::Start(*offset % size)).unwrap();
        file.write_all(&vec![b'x'; *length]).unwrap();
    }
}

/// `file` in `directory` as an archive of GNU tar's.
fn gnu_tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--sparse", "--hole-detection=raw", "--file=-"])
        .args(options)
        .arg("--directory")
        .arg(directory)
        .arg("file")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

const SPARSE: [&[&str]; 4] = [
    &["--format=gnu"],
    &["--format=posix", "--sparse-version=0.0"],
    &["--format=posix", "--sparse-version=0.1"],
    &["--format=posix", "--sparse-version=1.0"],
];

#[test]
fn sparse_files_are_what_gnu_tar_stored() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let parts = vec((0..2_000_000u64, 1..3000usize), 0..70);
    let sparse = Cell::new(0);
    let mut runner = TestRunner::new(config(16));
    let result = runner.run(&(1..2_000_000u64, parts), |(size, parts)| {
        write_sparse(&file, size, &parts);
        let content = fs::read(&file).unwrap();
        for options in SPARSE {
            let archive = gnu_tar(directory.path(), options);
            let entries = read(&archive).unwrap();
            prop_assert_eq!(entries.len(), 1);
            prop_assert_eq!(&entries[0].0.path, b"file");
            prop_assert!(entries[0].1 == content, "{:?}", options);
            let extents = entries[0].0.extents.as_ref().map_or(0, Vec::len);
            sparse.set(extents.max(sparse.get()));
        }
        Ok(())
    });
    result.unwrap();
    // More than a header and a block hold.
    assert!(sparse.get() > 25, "{sparse:?}");
}

/// Reads as far as it goes, and checks that what was read is bounded by what is there.
fn survives(archive: &[u8]) -> Result<(), TarError> {
    let limits = Limits {
        file: 1 << 22,
        layer: 1 << 23,
        ..Limits::default()
    };
    let mut reader = Reader::new(archive, limits);
    let (mut entries, mut stored) = (0, 0);
    while let Some(entry) = reader.next()? {
        entries += 1;
        assert!(entries * 512 <= archive.len(), "more entries than blocks");
        assert!(entry.offset <= archive.len() as u64);
        assert!(!entry.path.contains(&0) && !entry.link.contains(&0));
        let count = std::io::copy(&mut reader.data(), &mut std::io::sink())?;
        stored += count;
        assert!(stored <= archive.len() as u64, "more content than bytes");
        if entry.extents.is_none() {
            assert_eq!(count, entry.size);
        }
    }
    reader.finish().map(|_| ())
}

/// Makes the checksum of every block right that looks like a header.
fn mend(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn damage_ends_the_reading_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    let mut python = Python::start();
    let mut archives = Vec::new();
    let mut runner = TestRunner::deterministic();
    for format in ["ustar", "gnu", "pax"] {
        let entries = vec(entry(), 8..12).new_tree(&mut runner).unwrap().current();
        python.ask(&json!({"path": path, "format": format, "entries": entries}));
        archives.push(fs::read(&path).unwrap());
    }
    let parts: Vec<(u64, usize)> = (0..40).map(|part| (part * 20_000, 600)).collect();
    write_sparse(&directory.path().join("file"), 1_000_000, &parts);
    archives.extend(SPARSE.map(|options| gnu_tar(directory.path(), options)));
    for archive in &archives {
        survives(archive).unwrap();
    }

    let change = (any::<prop::sample::Index>(), any::<u8>());
    let damage = (
        vec(change, 1..20),
        any::<bool>(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..4u8,
    );
    let strategy = (0..archives.len(), damage);
    let (refused, read) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config(2000));
    let result = runner.run(&strategy, |(which, (changes, mended, from, to, cut))| {
        let mut archive = archives[which].clone();
        for (index, byte) in changes {
            let place = index.index(archive.len().min(16_384));
            archive[place] = byte;
        }
        let blocks = archive.len() / 512;
        let [from, to] = [from, to].map(|index| index.index(blocks) * 512);
        match cut {
            0 => archive.truncate(from + usize::from(mended) * 100),
            1 => archive.copy_within(from..from + 512, to),
            _ => {}
        }
        if mended {
            mend(&mut archive);
        }
        let ended = match survives(&archive) {
            Ok(()) => &read,
            Err(_) => &refused,
        };
        ended.set(ended.get() + 1);
        Ok(())
    });
    result.unwrap();
    assert!(
        refused.get() > 100 && read.get() > 100,
        "{refused:?} refused, {read:?} read"
    );
}
