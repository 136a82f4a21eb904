//! newuidmap(1) and newgidmap(1), and what gives them their privilege.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::HostFacts;

/// The usual places; where one is that `run` does not use, that is worth a word.
const DIRECTORIES: [&str; 7] = [
    "/usr/bin",
    "/bin",
    "/usr/local/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/sbin",
    "/run/wrappers/bin",
];

/// One of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Helper {
    /// Its name.
    pub name: String,
    /// Where it is, whether it is used or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whose it is.
    pub owner: u32,
    /// Its mode.
    pub mode: u32,
    /// The permitted set of its file capabilities (capabilities(7)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<u64>,
    /// The mount with `nosuid` that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nosuid_mount: Option<PathBuf>,
}

impl Helper {
    /// Looks at both.
    pub(super) fn both(facts: Option<&HostFacts>) -> [Self; 2] {
        let path =
            |of: fn(&HostFacts) -> &Option<PathBuf>| facts.and_then(|facts| of(facts).clone());
        [
            Self::read("newuidmap", path(|facts| &facts.newuidmap)),
            Self::read("newgidmap", path(|facts| &facts.newgidmap)),
        ]
    }

    fn read(name: &str, path: Option<PathBuf>) -> Self {
        let usual = || {
            let mut paths = DIRECTORIES.iter().map(|d| Path::new(d).join(name));
            paths.find(|path| path.is_file())
        };
        let mut helper = Self {
            name: name.to_owned(),
            path: path.or_else(usual),
            ..Self::default()
        };
        let Some(path) = &helper.path else {
            return helper;
        };
        if let Ok(metadata) = std::fs::metadata(path) {
            helper.owner = metadata.uid();
            helper.mode = metadata.mode() & 0o7777;
        }
        let mut value = [0u8; 64];
        if let Ok(size) = rustix::fs::getxattr(path, "security.capability", &mut value) {
            helper.capabilities = value.get(..size).and_then(permitted);
        }
        let flags = rustix::fs::statvfs(path).map(|found| found.f_flag);
        if flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::NOSUID)) {
            helper.nosuid_mount = Some(mount_of(path));
        }
        helper
    }

    /// Whether it is set-user-id root.
    pub fn is_setuid_root(&self) -> bool {
        self.mode & 0o4000 != 0 && self.owner == 0
    }

    /// Where it is, for commands.
    pub fn place(&self) -> String {
        let path = self.path.as_ref().map(|path| path.display().to_string());
        path.unwrap_or_else(|| format!("/usr/bin/{}", self.name))
    }

    /// As [`Self::place`], as a word of a shell.
    pub fn in_shell(&self) -> String {
        crate::error::shell_word(&self.place())
    }

    /// The capability that it is there to use, as a bit and by its name.
    pub fn needed(&self) -> (u64, &'static str) {
        match self.name.as_str() {
            "newgidmap" => (1 << 6, "CAP_SETGID"),
            _ => (1 << 7, "CAP_SETUID"),
        }
    }
}

/// The permitted set in a `security.capability` attribute: `struct vfs_cap_data` of linux/capability.h, in little endian.
fn permitted(value: &[u8]) -> Option<u64> {
    let word = |index: usize| {
        let bytes = value.get(index * 4..index * 4 + 4)?;
        Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
    };
    let revision = word(0)? >> 24;
    let low = word(1)?;
    match revision {
        1 => Some(low),
        2 | 3 => Some(low | word(3)? << 32),
        _ => None,
    }
}

/// The mount that `path` is on: the longest mount point that is above it.
fn mount_of(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = super::kernel::mounts();
    let above = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point));
    let nearest = above.max_by_key(|mount| mount.mount_point.as_os_str().len());
    nearest.map_or_else(|| PathBuf::from("/"), |mount| mount.mount_point.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_capabilities_are_read_as_the_kernel_writes_them() {
        // setcap cap_setuid=ep
        let two = [
            1u8, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(permitted(&two), Some(1 << 32 | 1 << 7));
        assert_eq!(permitted(&two[..8]), None);
        assert_eq!(permitted(&[]), None);
        assert_eq!(permitted(&[0, 0, 0, 9, 1, 1, 1, 1]), None);
    }
}
