//! Whether the mounts of a restored container are those that it had: CRIU makes them by paths, which lead through what other
//! containers may have written since.

use std::path::{Path, PathBuf};

use crate::checkpoint::image::{Manifest, MountLine};
use crate::sys::defence::{Defence, is_on};

/// The attributes of mounts that restrict.
const RESTRICTING: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// Filesystems that are made anew, empty or with what the kernel has in them.
const MADE: [&str; 8] = [
    "binfmt_misc",
    "cgroup",
    "cgroup2",
    "devpts",
    "mqueue",
    "proc",
    "sysfs",
    "tmpfs",
];

/// Of these every container has one of its own.
const OWN: [&str; 3] = ["devpts", "proc", "tmpfs"];

/// Whose directories are shown from where the reader stands.
const RELATIVE: [&str; 2] = ["cgroup", "cgroup2"];

/// What of the mounts in `manifest` is not in `table` (proc_pid_mountinfo(5)), there without a restriction that it had, shows
/// something else, or was not there. `own` is this process's table.
pub(super) fn difference(manifest: &Manifest, table: &str, own: &str) -> Option<String> {
    let found: Vec<Found<'_>> = table.lines().filter_map(Found::parse).collect();
    let own: Vec<Found<'_>> = own.lines().filter_map(Found::parse).collect();
    let expected = Expected {
        manifest,
        found: &found,
        own: &own,
    };
    let mut used = vec![false; found.len()];
    for mount in &manifest.mounts {
        let place = mount.mountpoint.as_path();
        let mut wrong = None;
        let candidates = found
            .iter()
            .zip(&mut used)
            .filter(|(f, used)| !**used && f.mountpoint == place && f.fstype == mount.fstype);
        let mut whole = None;
        for (candidate, used) in candidates {
            match expected.lacks(mount, candidate) {
                None if whole.is_none() => whole = Some(used),
                None => {}
                Some(lost) => wrong = Some(lost),
            }
        }
        let Some(whole) = whole else {
            let missing = || {
                format!(
                    "the mount of type {} at {place:?} is not there",
                    mount.fstype
                )
            };
            return Some(wrong.unwrap_or_else(missing));
        };
        *whole = true;
    }
    let (other, _) = found.iter().zip(&used).find(|(_, used)| !**used)?;
    let (fstype, place) = (other.fstype, &other.mountpoint);
    Some(format!(
        "there is a mount of type {fstype} at {place:?}, where it had none"
    ))
}

/// What the mounts are to be like.
struct Expected<'a> {
    manifest: &'a Manifest,
    found: &'a [Found<'a>],
    own: &'a [Found<'a>],
}

impl Expected<'_> {
    /// What `found` lacks of what `mount` was.
    fn lacks(&self, mount: &MountLine, found: &Found<'_>) -> Option<String> {
        let place = &mount.mountpoint;
        let had = |name: &&str| mount.attributes.iter().any(|a| a == name);
        let restricting = RESTRICTING.into_iter().filter(had);
        if let Some(lost) = restricting.into_iter().find(|name| !found.has(name)) {
            return Some(format!("the mount at {place:?} has lost {lost:?}"));
        }
        let shows_it = self.is_given(mount) || self.shows(mount, found);
        (!shows_it && is_on(Defence::MountRoots)).then(|| {
            format!(
                "the mount at {place:?} shows something else ({:?})",
                found.root
            )
        })
    }

    /// Whether CRIU was given it.
    fn is_given(&self, mount: &MountLine) -> bool {
        let externals = &self.manifest.externals;
        mount.mountpoint == Path::new("/")
            || externals.iter().any(|e| e.mountpoint == mount.mountpoint)
    }

    /// Whether it shows the same of a filesystem that was given, or of a new one.
    fn shows(&self, mount: &MountLine, found: &Found<'_>) -> bool {
        let mut given = self.manifest.mounts.iter().filter(|m| self.is_given(m));
        if given.clone().any(|m| m.device == mount.device) {
            return given.any(|m| {
                let beneath = mount.root.strip_prefix(&m.root);
                let now = self.found.iter().rfind(|f| f.mountpoint == m.mountpoint);
                let (true, Ok(beneath), Some(now)) = (m.device == mount.device, beneath, now)
                else {
                    return false;
                };
                found.device == now.device && found.root == joined(&now.root, beneath)
            });
        }
        let is_shared = self.own.iter().any(|own| own.device == found.device);
        MADE.contains(&found.fstype)
            && !(is_shared && OWN.contains(&found.fstype))
            && (found.root == mount.root || RELATIVE.contains(&found.fstype))
    }
}

/// Without a slash at its end.
fn joined(path: &Path, beneath: &Path) -> PathBuf {
    match beneath.as_os_str().is_empty() {
        true => path.to_owned(),
        false => path.join(beneath),
    }
}

/// A line of a mount table.
struct Found<'a> {
    device: &'a str,
    root: PathBuf,
    mountpoint: PathBuf,
    fstype: &'a str,
    attributes: &'a str,
}

impl<'a> Found<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        Some(Self {
            device: fields.next()?,
            root: unescape(fields.next()?).into(),
            mountpoint: unescape(fields.next()?).into(),
            attributes: fields.next()?,
            fstype: after.split(' ').next()?,
        })
    }

    fn has(&self, attribute: &str) -> bool {
        self.attributes.split(',').any(|a| a == attribute)
    }
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..3).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                plain.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => plain.extend_from_slice(format!("\\{part}").as_bytes()),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
