//! What the mount API by file descriptor says with attributes and parameters, as mount(2) says it: flags, and one string.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Error, Result};

pub(super) type Flags = libc::c_ulong;

/// A row of [`TABLE`].
type Row = (u64, u64, Flags, &'static str, &'static str);

/// MOUNT_ATTR_… of linux/mount.h, ST_… of linux/statfs.h, MS_…, its name, and the word in mountinfo.
const TABLE: [Row; 6] = [
    (
        libc::MOUNT_ATTR_RDONLY,
        0x1,
        libc::MS_RDONLY,
        "MS_RDONLY",
        "ro",
    ),
    (
        libc::MOUNT_ATTR_NOSUID,
        0x2,
        libc::MS_NOSUID,
        "MS_NOSUID",
        "nosuid",
    ),
    (
        libc::MOUNT_ATTR_NODEV,
        0x4,
        libc::MS_NODEV,
        "MS_NODEV",
        "nodev",
    ),
    (
        libc::MOUNT_ATTR_NOEXEC,
        0x8,
        libc::MS_NOEXEC,
        "MS_NOEXEC",
        "noexec",
    ),
    (
        libc::MOUNT_ATTR_NODIRATIME,
        0x800,
        libc::MS_NODIRATIME,
        "MS_NODIRATIME",
        "nodiratime",
    ),
    (
        libc::MOUNT_ATTR_NOSYMFOLLOW,
        0x2000,
        libc::MS_NOSYMFOLLOW,
        "MS_NOSYMFOLLOW",
        "nosymfollow",
    ),
];

/// The flags whose only use is their name in a message.
const OTHERS: [(Flags, &str); 16] = [
    (libc::MS_NOATIME, "MS_NOATIME"),
    (libc::MS_RELATIME, "MS_RELATIME"),
    (libc::MS_STRICTATIME, "MS_STRICTATIME"),
    (libc::MS_SYNCHRONOUS, "MS_SYNCHRONOUS"),
    (libc::MS_DIRSYNC, "MS_DIRSYNC"),
    (libc::MS_MANDLOCK, "MS_MANDLOCK"),
    (libc::MS_LAZYTIME, "MS_LAZYTIME"),
    (libc::MS_REMOUNT, "MS_REMOUNT"),
    (libc::MS_BIND, "MS_BIND"),
    (libc::MS_REC, "MS_REC"),
    (libc::MS_MOVE, "MS_MOVE"),
    (libc::MS_SHARED, "MS_SHARED"),
    (libc::MS_SLAVE, "MS_SLAVE"),
    (libc::MS_PRIVATE, "MS_PRIVATE"),
    (libc::MS_UNBINDABLE, "MS_UNBINDABLE"),
    (libc::MS_SILENT, "MS_SILENT"),
];

/// All that says how access times are kept, but for directories. The kernel must be told one of them, or it keeps what is.
const ATIME: Flags = libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;

/// The flags of a mount with the attributes `attributes` (`MOUNT_ATTR_…`).
pub(super) fn of_attributes(attributes: u64) -> Flags {
    of_bits(attributes) | atime(attributes)
}

/// Those of `attributes` that are on or off.
fn of_bits(attributes: u64) -> Flags {
    flags_where(|(attribute, ..)| attributes & attribute != 0)
}

fn atime(attributes: u64) -> Flags {
    match attributes & libc::MOUNT_ATTR__ATIME {
        libc::MOUNT_ATTR_NOATIME => libc::MS_NOATIME,
        libc::MOUNT_ATTR_STRICTATIME => libc::MS_STRICTATIME,
        _ => libc::MS_RELATIME,
    }
}

/// The flags of a mount for which fstatfs(2) shows `shown` (`ST_…`).
pub(super) fn of_statfs(shown: u64) -> Flags {
    const NOATIME: u64 = 0x400;
    const RELATIME: u64 = 0x1000;
    let atime = present_atime(shown & NOATIME != 0, shown & RELATIME != 0);
    atime | flags_where(|(_, bit, ..)| shown & bit != 0)
}

/// The flags of a mount whose options in proc_pid_mountinfo(5) are `options`.
pub(super) fn of_options(options: &str) -> Flags {
    let has = |word: &str| options.split(',').any(|option| option == word);
    present_atime(has("noatime"), has("relatime")) | flags_where(|(.., word)| has(word))
}

fn present_atime(noatime: bool, relatime: bool) -> Flags {
    match (noatime, relatime) {
        (true, _) => libc::MS_NOATIME,
        (false, true) => libc::MS_RELATIME,
        (false, false) => libc::MS_STRICTATIME,
    }
}

fn flags_where(is_meant: impl Fn(&Row) -> bool) -> Flags {
    let rows = TABLE.iter().filter(|row| is_meant(row));
    rows.fold(0, |all, (_, _, flag, ..)| all | flag)
}

/// What becomes of `present` when the attributes `clear` are taken away and `set` are given, as mount_setattr(2) does it:
/// the access time changes only where `clear` has all of `MOUNT_ATTR__ATIME`.
pub(super) fn changed(present: Flags, set: u64, clear: u64) -> Flags {
    let atime = match clear & libc::MOUNT_ATTR__ATIME {
        0 => present & ATIME,
        _ => atime(set),
    };
    (present & !ATIME & !of_bits(clear)) | of_bits(set) | atime
}

/// `MS_NOSUID|MS_NODEV`; `0` when there is none.
pub(super) fn described(flags: Flags) -> String {
    let table = TABLE.iter().map(|(_, _, flag, name, _)| (*flag, *name));
    let names: Vec<&str> = table
        .chain(OTHERS)
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, name)| name)
        .collect();
    match names.is_empty() {
        true => "0".to_owned(),
        false => names.join("|"),
    }
}

/// What a filesystem is told.
#[derive(Debug, Clone)]
pub(super) enum Parameter<'a> {
    Flag(String),
    Text(String, String),
    Fd(String, BorrowedFd<'a>),
}

/// What mount(2) is told of a filesystem.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) source: Option<String>,
    pub(super) flags: Flags,
    pub(super) text: String,
}

/// `parameters` as mount(2) takes them. `remount`: for a filesystem that is mounted.
///
/// EINVAL: a value has a comma, which would begin another parameter. E2BIG: it is more than a page.
pub(super) fn data(fstype: &str, parameters: &[Parameter<'_>], remount: bool) -> Result<Data> {
    let mut data = Data::default();
    let mut words: Vec<String> = Vec::new();
    let mut layers = String::new();
    for parameter in parameters {
        match parameter {
            Parameter::Flag(flag) => match superblock_flag(flag, remount) {
                Some(bit) => data.flags |= bit,
                None => words.push(flag.clone()),
            },
            Parameter::Text(key, value) if key == "source" => data.source = Some(value.clone()),
            Parameter::Text(key, value) => words.push(assigned(fstype, key, value)?),
            // The layers of an overlay are one parameter: with "::" before those that have only data.
            Parameter::Fd(key, fd) => {
                let path = path_of(*fd);
                match key.as_str() {
                    "lowerdir+" if layers.is_empty() => layers = path,
                    "lowerdir+" => layers.push_str(&format!(":{path}")),
                    "datadir+" => layers.push_str(&format!("::{path}")),
                    key => words.push(format!("{key}={path}")),
                }
            }
        }
    }
    if !layers.is_empty() {
        words.insert(0, format!("lowerdir={layers}"));
    }
    data.text = words.join(",");
    // SAFETY: sysconf takes a number and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if data.text.len() >= usize::try_from(page).unwrap_or(4096) {
        let args = format!(
            "{fstype:?} /* {} bytes of options: mount(2) takes less than {page} */",
            data.text.len()
        );
        return Err(Error::new("mount", args, libc::E2BIG));
    }
    Ok(data)
}

/// The name of what `fd`, which may be O_PATH, is open on: whoever opens it gets that, whatever has been renamed.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The bit of a superblock flag. When it is mounted again, the kernel takes one of them only from the filesystem.
fn superblock_flag(name: &str, remount: bool) -> Option<Flags> {
    match name {
        "sync" => Some(libc::MS_SYNCHRONOUS),
        "dirsync" if !remount => Some(libc::MS_DIRSYNC),
        "lazytime" => Some(libc::MS_LAZYTIME),
        "mand" => Some(libc::MS_MANDLOCK),
        _ => None,
    }
}

fn assigned(fstype: &str, key: &str, value: &str) -> Result<String> {
    // SELinux's, whose categories are separated by commas, are quoted (selinux_sb_eat_lsm_opts of the kernel).
    let is_context = ["context", "fscontext", "defcontext", "rootcontext"].contains(&key);
    match value.contains(',') {
        false => Ok(format!("{key}={value}")),
        true if is_context && !value.contains('"') => Ok(format!("{key}=\"{value}\"")),
        true if fstype == "overlay" => Ok(format!("{key}={}", escaped(value))),
        true => {
            let args = format!("{fstype:?}, \"{key}={value}\" /* with a comma */");
            Err(Error::new("mount", args, libc::EINVAL))
        }
    }
}

/// As overlayfs has its paths: a backslash before each comma, but for those that have one.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 1);
    let mut escape = false;
    for c in value.chars() {
        if c == ',' && !escape {
            text.push('\\');
        }
        escape = c == '\\' && !escape;
        text.push(c);
    }
    text
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
