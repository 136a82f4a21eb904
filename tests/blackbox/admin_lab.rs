//! A root directory with an /etc of its own, for `lodger-admin --root`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Ran, read_lossy, spawn, write_program};

pub(crate) const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1001:1001::/home/ann:/bin/sh\n\
    bob:x:1002:1002::/home/bob:/bin/sh\ncid:x:1003:2000::/home/cid:/bin/sh\n";
pub(crate) const GROUP: &str = "root:x:0:\nann:x:1001:\nbob:x:1002:\nstudents:x:2000:ann,root\n";

/// A file of the source.
pub(crate) fn source(name: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("tests/run sets it");
    PathBuf::from(package).join(name)
}

/// Files, by their paths.
pub(crate) type Files<'a> = &'a [(&'a str, &'a str)];

/// What a path is: its mode, and, unless it is a directory, what it has.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, Option<String>)>;

pub(crate) struct System {
    directory: TempDir,
}

impl System {
    /// With ann, bob and cid, of whom ann and cid are students, and these files besides, or instead.
    pub(crate) fn new(files: Files) -> System {
        let directory = tempfile::Builder::new().prefix("admin").tempdir().unwrap();
        let system = System { directory };
        fs::create_dir(system.root()).unwrap();
        system.write("etc/passwd", PASSWD);
        system.write("etc/group", GROUP);
        for (path, text) in files {
            system.write(path, text);
        }
        system
    }

    /// A path beside the root directory.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.beside("root")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A file's text; nothing where it is not.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The command on this root directory, in a process group of its own.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(source("helpers/lodger-admin"));
        command
            .arg("--root")
            .arg(self.root())
            .args(args)
            .process_group(0);
        command
    }

    pub(crate) fn admin(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    /// Everything but what the helper keeps of its own.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut open = vec![self.root()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.ends_with("var/lib/lodger-admin") {
                    continue;
                }
                let metadata = path.symlink_metadata().unwrap();
                let text = if metadata.is_symlink() {
                    Some(fs::read_link(&path).unwrap().display().to_string())
                } else {
                    metadata.is_file().then(|| read_lossy(&path))
                };
                if metadata.is_dir() {
                    open.push(path.clone());
                }
                tree.insert(path, (metadata.mode(), text));
            }
        }
        tree
    }

    /// The entries of the journal.
    pub(crate) fn journal(&self) -> usize {
        let entries = fs::read_dir(self.path("var/lib/lodger-admin/journal"));
        // What a kill has left unfinished begins with a dot.
        let finished = |entry: std::io::Result<fs::DirEntry>| {
            !entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with('.')
        };
        entries.map_or(0, |entries| {
            entries.filter_map(|e| finished(e).then_some(())).count()
        })
    }

    /// A directory to put first in PATH, where each of these programs does what a shell says before it is itself.
    pub(crate) fn wrapped(&self, programs: &[&str], before: &str) -> String {
        let directory = self.beside("wrapped");
        fs::create_dir_all(&directory).unwrap();
        for name in programs {
            let program = crate::harness::which(name);
            let text = format!("#!/bin/sh\n{before}\nexec {} \"$@\"\n", program.display());
            write_program(&directory.join(name), text.as_bytes());
        }
        format!("{}:/usr/bin:/bin", directory.display())
    }
}

/// The ranges of a file: owner, start and count of each line that is one.
pub(crate) fn ranges(text: &str) -> Vec<(String, u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let owner = fields.next()?.to_owned();
            Some((
                owner,
                fields.next()?.parse().ok()?,
                fields.next()?.parse().ok()?,
            ))
        })
        .collect()
}

/// Asserts that no two ranges of a file meet.
#[track_caller]
pub(crate) fn apart(text: &str) {
    let mut all = ranges(text);
    all.sort_by_key(|range| range.1);
    for pair in all.windows(2) {
        assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{pair:?} in {text}");
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
