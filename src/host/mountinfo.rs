//! The mounts that a process sees, and what among them keeps the kernel from making a new procfs or sysfs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Directories of procfs and sysfs that are there to be mounted on and are always empty: a mount there hides nothing
/// (`proc_create_mount_point`, `register_sysctl_mount_point` and `sysfs_create_mount_point` of the kernel).
const MOUNT_POINTS: [&str; 15] = [
    "/proc/fs/nfsd",
    "/proc/openprom",
    "/proc/sys/fs/binfmt_misc",
    "/sys/firmware/efi/efivars",
    "/sys/fs/bpf",
    "/sys/fs/cgroup",
    "/sys/fs/fuse/connections",
    "/sys/fs/pstore",
    "/sys/fs/selinux",
    "/sys/fs/smackfs",
    "/sys/hypervisor/s390",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
];

/// One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)); what nobody asks for is checked, and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// The mount's id.
    pub id: u32,
    /// The id of the mount it is on.
    pub parent: u32,
    /// Which directory of the filesystem is mounted; `/` is all of it.
    pub root: PathBuf,
    /// Where it is mounted: an absolute path, relative to the process's root.
    pub mount_point: PathBuf,
    /// Whether the mount or its filesystem is read-only.
    pub readonly: bool,
    /// The filesystem type.
    pub fstype: String,
}

/// Why the kernel refuses a new instance of a filesystem to a user namespace (`mount_too_revealing` of the kernel): the
/// namespace must see one already that shows as much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revealing {
    /// No mount shows the whole filesystem.
    NoneVisible,
    /// Those that do are mounted over, at these places.
    Covered(Vec<PathBuf>),
    /// Those that do are read-only.
    Readonly,
    /// As far as the mounts tell, there is no reason.
    Nothing,
}

impl Revealing {
    /// The code of this cause, for `proc` or `sysfs`.
    pub fn code(&self, fstype: &str) -> Option<&'static str> {
        let proc = fstype == "proc";
        match self {
            Self::Covered(_) if proc => Some("LDG-PROC-MASKED"),
            Self::Covered(_) => Some("LDG-SYS-MASKED"),
            Self::Readonly if proc => Some("LDG-PROC-READONLY"),
            Self::Readonly => Some("LDG-SYS-READONLY"),
            Self::NoneVisible if proc => Some("LDG-PROC-NONE"),
            Self::NoneVisible => Some("LDG-SYS-NONE"),
            Self::Nothing => None,
        }
    }
}

/// A few of `places`, and how many more there are.
pub fn listed(places: &[PathBuf]) -> String {
    const SHOWN: usize = 6;
    let shown = places.iter().take(SHOWN).map(|place| format!("{place:?}"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match places.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The lines of `text`, in their order; a line that does not parse is left out.
pub fn parse_mountinfo(text: &[u8]) -> Vec<MountLine> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAG…] - TYPE SOURCE SUPER-OPTIONS`
fn parse_line(line: &[u8]) -> Option<MountLine> {
    // By single spaces: the source may be empty.
    let mut words = line.split(|byte| *byte == b' ');
    let id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let device = std::str::from_utf8(words.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    number(major.as_bytes())?;
    number(minor.as_bytes())?;
    let root = unescaped(words.next()?)?;
    let mount_point = unescaped(words.next()?)?;
    let options = words.next()?;
    // Any number of tags (`shared:1`), of which more may come with a newer kernel.
    words.by_ref().find(|word| *word == b"-")?;
    let fstype = String::from_utf8(unescaped(words.next()?)?.into_vec()).ok()?;
    let _source = words.next()?;
    let super_options = words.next()?;
    let readonly = |options: &[u8]| options.split(|byte| *byte == b',').any(|o| o == b"ro");
    let mount_point = PathBuf::from(mount_point);
    (mount_point.is_absolute() && !fstype.is_empty()).then(|| MountLine {
        id,
        parent,
        root: PathBuf::from(root),
        mount_point,
        readonly: readonly(options) || readonly(super_options),
        fstype,
    })
}

fn number(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// `word` with its `\ooo` escapes resolved; the kernel writes blanks, line breaks, backslashes and `#` that way.
fn unescaped(word: &[u8]) -> Option<OsString> {
    let mut text = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            text.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<3>()?;
        rest = after;
        let octal = |value: u32, digit: &u8| match digit {
            b'0'..=b'7' => Some(value * 8 + u32::from(digit - b'0')),
            _ => None,
        };
        let value = digits.iter().try_fold(0, octal)?;
        text.push(u8::try_from(value).ok()?);
    }
    Some(OsString::from_vec(text))
}

/// Why a user namespace with `mounts` would be refused a new `fstype`.
///
/// All mounts count as locked, as they are in a mount namespace that was made together with its user namespace.
pub fn too_revealing(mounts: &[MountLine], fstype: &str) -> Revealing {
    let whole = |m: &&MountLine| m.fstype == fstype && m.root == Path::new("/");
    let mut readonly = false;
    let mut covered = Vec::new();
    let mut seen = false;
    for mount in mounts.iter().filter(whole) {
        seen = true;
        let over = coverings(mounts, mount);
        if over.is_empty() && !mount.readonly {
            return Revealing::Nothing;
        }
        readonly |= over.is_empty();
        covered.extend(over);
    }
    covered.sort();
    covered.dedup();
    match (seen, readonly) {
        (false, _) => Revealing::NoneVisible,
        // One that is only read-only is nearer to what is wanted than one that is covered.
        (true, true) => Revealing::Readonly,
        (true, false) => Revealing::Covered(covered),
    }
}

/// The places where something lies over `mount` and hides what is beneath.
fn coverings(mounts: &[MountLine], mount: &MountLine) -> Vec<PathBuf> {
    let child = |m: &&MountLine| m.parent == mount.id && m.id != mount.id;
    let made_for_it = |m: &MountLine| MOUNT_POINTS.iter().any(|p| m.mount_point == Path::new(p));
    let hides = |m: &&MountLine| !made_for_it(m);
    let places = mounts.iter().filter(child).filter(hides);
    places.map(|m| m.mount_point.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a container of Docker sees, in part.
    const DOCKER: &str = "\
620 515 0:55 / / rw,relatime master:218 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w
621 620 0:58 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
623 620 0:60 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
624 623 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
516 621 0:58 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw
521 621 0:61 / /proc/acpi ro,relatime - tmpfs tmpfs ro,inode64
522 621 0:59 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
";

    fn line(text: &str) -> Option<MountLine> {
        parse_mountinfo(text.as_bytes()).pop()
    }

    #[test]
    fn the_line_of_the_manual() {
        let text =
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n";
        let expected = MountLine {
            id: 36,
            parent: 35,
            root: PathBuf::from("/mnt1"),
            mount_point: PathBuf::from("/mnt2"),
            readonly: false,
            fstype: "ext3".to_owned(),
        };
        assert_eq!(parse_mountinfo(text.as_bytes()), [expected]);
    }

    #[test]
    fn tags_sources_and_escapes() {
        let none = line("1 0 0:1 / /a rw - tmpfs none rw").unwrap();
        let many = line(
            "1 0 0:1 / /a rw shared:1 master:2 propagate_from:3 unbindable new:x - tmpfs none rw",
        );
        assert_eq!(many.as_ref(), Some(&none));
        assert_eq!(line("1 0 0:1 / /a rw -  rw"), None, "no type");
        assert_eq!(line("1 0 0:1 / /a rw - tmpfs  rw").as_ref(), Some(&none));
        let path = |text: &str| line(text).map(|m| m.mount_point);
        let escaped = path(r"1 0 0:1 / /a\040b\011\012\134\043 rw - tmpfs none rw");
        assert_eq!(escaped, Some(PathBuf::from("/a b\t\n\\#")));
        let foreign = parse_mountinfo(b"1 0 0:1 / /\xff\\377 rw - tmpfs none rw");
        assert_eq!(
            foreign[0].mount_point.as_os_str().as_encoded_bytes(),
            b"/\xff\xff"
        );
    }

    #[test]
    fn read_only_by_the_mount_or_by_its_filesystem() {
        for (options, super_options, readonly) in [
            ("rw,relatime", "rw", false),
            ("ro,relatime", "rw", true),
            ("nosuid,ro", "rw", true),
            ("rw", "ro,inode64", true),
            ("rw,errors=ro", "rw,rota", false),
        ] {
            let text = format!("1 0 0:1 / /a {options} - tmpfs none {super_options}");
            assert_eq!(line(&text).map(|m| m.readonly), Some(readonly), "{text}");
        }
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        for bad in [
            "",
            "1 0 0:1 / /a rw",
            "1 0 0:1 / /a rw - tmpfs none",
            "-1 0 0:1 / /a rw - tmpfs none rw",
            "+1 0 0:1 / /a rw - tmpfs none rw",
            "4294967296 0 0:1 / /a rw - tmpfs none rw",
            "1 0 01 / /a rw - tmpfs none rw",
            "1 0 0: / /a rw - tmpfs none rw",
            "1 0 0:1 / a rw - tmpfs none rw",
            r"1 0 0:1 / /a\04 rw - tmpfs none rw",
            r"1 0 0:1 / /a\048 rw - tmpfs none rw",
            r"1 0 0:1 / /a\777 rw - tmpfs none rw",
        ] {
            let text = format!("{bad}\n7 0 0:1 / /b rw - tmpfs none rw\n");
            let lines = parse_mountinfo(text.as_bytes());
            assert_eq!(lines.len(), 1, "{bad}");
            assert_eq!(lines[0].id, 7, "{bad}");
        }
    }

    #[test]
    fn in_a_container_of_docker() {
        let mounts = parse_mountinfo(DOCKER.as_bytes());
        assert_eq!(mounts.len(), 7);
        let places = ["/proc/acpi", "/proc/bus", "/proc/kcore"].map(PathBuf::from);
        assert_eq!(
            too_revealing(&mounts, "proc"),
            Revealing::Covered(places.to_vec())
        );
        // The control groups lie on a directory that is there for them.
        assert_eq!(too_revealing(&mounts, "sysfs"), Revealing::Readonly);
        assert_eq!(too_revealing(&mounts, "mqueue"), Revealing::NoneVisible);
        assert_eq!(too_revealing(&mounts[4..], "proc"), Revealing::NoneVisible);
    }

    #[test]
    fn one_mount_that_shows_all_is_enough() {
        let text = DOCKER.to_owned() + "700 620 0:58 / /mnt/proc rw - proc proc rw\n";
        let mounts = parse_mountinfo(text.as_bytes());
        assert_eq!(too_revealing(&mounts, "proc"), Revealing::Nothing);
    }

    #[test]
    fn the_mounts_of_this_process() {
        let text =
            crate::sys::path::read_regular(Path::new("/proc/self/mountinfo"), 1 << 20).unwrap();
        let mounts = parse_mountinfo(&text);
        assert_eq!(mounts.len(), text.split(|b| *b == b'\n').count() - 1);
        assert!(mounts.iter().any(|m| m.mount_point == Path::new("/")));
    }
}
