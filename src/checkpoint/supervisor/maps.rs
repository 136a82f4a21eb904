//! What the kernel says of the mappings of a process (proc_pid_maps(5)), and the names of its map_files (proc_pid_map_files(5)).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;

/// Addresses: the first, and the first after.
pub(super) type Range = (u64, u64);

/// As many mappings as a process has at most where the limit is as high as distributions set it (vm.max_map_count).
const MOST: usize = 1 << 20;

/// What is mapped somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Where.
    pub(super) range: Range,
    /// The file, as the kernel names it here: on some filesystems (overlayfs, btrfs) not as stat(2) does. Zeros: there is none.
    pub(super) file: Identity,
    /// Whether it is shared memory of System V (shmget(2)): then the file's inode is the segment's id.
    pub(super) segment: bool,
    /// Whether what is written to it stays with the process.
    pub(super) private: bool,
}

/// Device (major, minor) and inode of a mapped file.
pub(super) type Identity = (u32, u32, u64);

/// All mappings of a process.
#[derive(Debug, Default)]
pub(super) struct Maps(Vec<Mapping>);

impl Maps {
    /// Reads what the file of /proc says; `None` when it cannot be read, or is like none that is known.
    pub(super) fn read(file: OwnedFd) -> Option<Self> {
        // A name may have 16 KiB, escaped.
        let mut reader = BufReader::with_capacity(1 << 16, File::from(file));
        let mut mappings = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).ok()? == 0 {
                return Some(Self(mappings));
            }
            if mappings.len() == MOST {
                return None;
            }
            mappings.push(parse(&line)?);
        }
    }

    /// The mapping that is exactly there. They are sorted, as the kernel lists them.
    pub(super) fn find(&self, range: Range) -> Option<&Mapping> {
        let found = self.0.binary_search_by_key(&range.0, |one| one.range.0);
        found
            .ok()
            .map(|at| &self.0[at])
            .filter(|one| one.range == range)
    }

    /// The mapping that begins at `address`.
    pub(super) fn at(&self, address: u64) -> Option<&Mapping> {
        self.0
            .iter()
            .find(|one| (one.range.0..one.range.1).contains(&address))
    }
}

/// One line: `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE  NAME`. The name is the container's: it may hold anything but a line
/// break, which the kernel writes as `\012`.
fn parse(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let range = range(fields.next()?)?;
    let [_, _, _, shared] = fields.next()? else {
        return None;
    };
    let _offset = fields.next()?;
    let (major, minor) = text(fields.next()?)?.split_once(':')?;
    let inode = text(fields.next()?)?.trim_end().parse().ok()?;
    let name = fields.next().unwrap_or_default().trim_ascii_start();
    let major = u32::from_str_radix(major, 16).ok()?;
    Some(Mapping {
        range,
        file: (major, u32::from_str_radix(minor, 16).ok()?, inode),
        // Filesystems in memory have no major number; that of segments cannot be mounted.
        private: *shared == b'p',
        segment: major == 0 && *shared == b's' && is_segment(name),
    })
}

/// `/SYSV` and the key, eight hexadecimal digits; then ` (deleted)`, as it is in no directory.
fn is_segment(name: &[u8]) -> bool {
    let key = name.trim_ascii_end().strip_prefix(b"/SYSV");
    let key = key.and_then(|rest| rest.strip_suffix(b" (deleted)"));
    key.is_some_and(|key| key.len() == 8 && key.iter().all(u8::is_ascii_hexdigit))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// `START-END`, hexadecimal digits: the name of a file in map_files, and how a line of maps begins.
pub(super) fn range(name: &[u8]) -> Option<Range> {
    let (start, end) = text(name)?.split_once('-')?;
    let number = |digits: &str| {
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
    };
    Some((number(start)?, number(end)?))
}

/// Whose map_files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The asking process's own, by `self`.
    Own,
    /// Those of the process with this number.
    Process(i32),
}

/// Reads `/proc/WHOSE/map_files/START-END`.
pub(super) fn map_file(path: &[u8]) -> Option<(Whose, Range)> {
    let (whose, rest) = split(path.strip_prefix(b"/proc/")?)?;
    let name = rest.strip_prefix(b"map_files/")?;
    let whose = match whose {
        b"self" => Whose::Own,
        digits if digits.iter().all(u8::is_ascii_digit) => {
            Whose::Process(text(digits)?.parse().ok()?)
        }
        _ => return None,
    };
    Some((whose, range(name)?))
}

fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().position(|b| *b == b'/')?;
    Some((&path[..at], &path[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(range: Range, file: Identity) -> Mapping {
        Mapping {
            range,
            file,
            segment: false,
            private: true,
        }
    }

    #[test]
    fn lines_are_read_whatever_the_name_is() {
        let file = mapping((0x55d0_0000, 0x55d0_2000), (0xfe, 0x1, 1234));
        for name in [
            "/bin/x",
            "/a b/c  d",
            "/line\\012break",
            "/gone (deleted)",
            "/5-6 rw-s 0 0:0 9  /x",
            "/\u{1b}[2J",
            "",
        ] {
            let line = format!("55d00000-55d02000 r-xp 00001000 fe:01 1234      {name}\n");
            assert_eq!(parse(line.as_bytes()), Some(file), "{name:?}");
        }
        assert_eq!(
            parse(b"55d00000-55d02000 r-xp 00001000 fe:01 1234 /\xff\xfe\n"),
            Some(file)
        );
        // As the kernel writes what has no file: no name, a space at the end.
        assert_eq!(
            parse(b"1000-2000 rw-p 00000000 00:00 0 \n"),
            Some(mapping((0x1000, 0x2000), (0, 0, 0)))
        );
        assert_eq!(
            parse(b"1000-2000 r--s 00000000 00:1b 18446744073709551615 /x\n"),
            Some(Mapping {
                private: false,
                ..mapping((0x1000, 0x2000), (0, 0x1b, u64::MAX))
            })
        );
    }

    #[test]
    fn segments_are_told_from_files_that_have_their_names() {
        let is = |line: &str| parse(line.as_bytes()).unwrap().segment;
        assert!(is(
            "1000-2000 rw-s 00000000 00:01 3    /SYSV00000000 (deleted)\n"
        ));
        for other in [
            "1000-2000 rw-p 00000000 00:01 3    /SYSV00000000 (deleted)\n",
            "1000-2000 rw-s 00000000 fe:01 3    /SYSV00000000 (deleted)\n",
            "1000-2000 rw-s 00000000 00:01 3    /SYSV00000000\n",
            "1000-2000 rw-s 00000000 00:01 3    /SYSV0000000 (deleted)\n",
            "1000-2000 rw-s 00000000 00:01 3    /x/SYSV00000000 (deleted)\n",
            "1000-2000 rw-s 00000000 00:01 3    /dev/zero (deleted)\n",
        ] {
            assert!(!is(other), "{other:?}");
        }
    }

    #[test]
    fn what_is_no_line_is_not_guessed_at() {
        for line in [
            "",
            "\n",
            "1000 r-xp 0 fe:01 1 /x",
            "1000-2000",
            "1000-2000 r-x 0 fe:01 1 /x",
            "1000-2000 r-xpp 0 fe:01 1 /x",
            "1000-2000 r-xp 0 fe01 1 /x",
            "1000-2000 r-xp 0 fe:01 -1 /x",
            "1000-2000 r-xp 0 fe:01 18446744073709551616 /x",
            "1000-10000000000000000 r-xp 0 fe:01 1 /x",
            "+1-2000 r-xp 0 fe:01 1 /x",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_mapping_is_found_by_both_its_ends() {
        let maps = Maps(vec![
            mapping((1, 2), (1, 1, 1)),
            mapping((2, 5), (1, 1, 2)),
            mapping((7, 9), (1, 1, 3)),
        ]);
        let inode = |range| maps.find(range).map(|one| one.file.2);
        assert_eq!(inode((2, 5)), Some(2));
        assert_eq!(inode((7, 9)), Some(3));
        for other in [(2, 4), (3, 5), (5, 7), (0, 1), (9, 9)] {
            assert_eq!(inode(other), None, "{other:?}");
        }
        assert_eq!(maps.at(8).map(|one| one.file.2), Some(3));
        assert_eq!(maps.at(5), None);
    }

    #[test]
    fn names_of_map_files() {
        let own = |range| Some((Whose::Own, range));
        let of = |pid, range| Some((Whose::Process(pid), range));
        for (path, expected) in [
            ("/proc/self/map_files/1000-2000", own((0x1000, 0x2000))),
            (
                "/proc/42/map_files/a-ffffffffffffffff",
                of(42, (0xa, u64::MAX)),
            ),
            ("/proc/42/map_files/0a-0B", of(42, (10, 11))),
            ("/proc/42/map_files/", None),
            ("/proc/42/map_files/1-2/", None),
            ("/proc/42/map_files/1-2/3-4", None),
            ("/proc/42/map_files/../../43/map_files/1-2", None),
            ("/proc/42/task/42/map_files/1-2", None),
            ("/proc/42/map_files/+1-2", None),
            ("/proc/42/map_files/1-2 ", None),
            ("/proc/42/map_files/1-10000000000000000", None),
            ("/proc/+42/map_files/1-2", None),
            ("/proc/-42/map_files/1-2", None),
            ("/proc/99999999999/map_files/1-2", None),
            ("/proc//map_files/1-2", None),
            ("/proc/thread-self/map_files/1-2", None),
            ("/x/proc/42/map_files/1-2", None),
            ("proc/42/map_files/1-2", None),
            ("", None),
        ] {
            assert_eq!(map_file(path.as_bytes()), expected, "{path:?}");
        }
    }
}
