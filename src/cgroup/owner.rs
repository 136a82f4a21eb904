//! Whose a cgroup is: the container's root may divide it further, and change nothing that limits it (config-linux.md, "Cgroup
//! ownership").

use std::path::Path;

use rustix::fs::{AtFlags, Gid, Uid};

use super::fs::Dir;
use crate::error::{Doing, Result};
use crate::sys;

/// The files that come with a cgroup that is given to somebody (cgroups(7), "Cgroups delegation").
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";

/// Those of a kernel that does not tell them.
const USUAL: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

const MAX_FILE: usize = 64 << 10;

impl Dir {
    /// Gives the cgroup to `uid` and `gid` of this user namespace: the directory, and the files that the kernel names for that.
    /// The caller needs CAP_CHOWN over both (user_namespaces(7)).
    pub fn give_to(&self, uid: u32, gid: u32) -> Result<()> {
        let told = sys::path::read_regular(Path::new(DELEGATE), MAX_FILE).ok();
        let told = told.map(|text| String::from_utf8_lossy(&text).into_owned());
        for name in delegated(told.as_deref().unwrap_or(USUAL)) {
            self.chown(name, uid, gid)?;
        }
        self.chown(".", uid, gid)
    }

    fn chown(&self, name: &str, uid: u32, gid: u32) -> Result<()> {
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match rustix::fs::chownat(self, name, owner, group, AtFlags::SYMLINK_NOFOLLOW) {
            // Not every cgroup has every file.
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => {
                let args = format!("{:?}, {uid}, {gid}", self.place(name));
                Err(sys::Error::new("fchownat", args, e))
                    .doing(|| format!("cannot give the cgroup {} to the container", self.path()))
                    .map_err(|e| e.hint("uid and gid must be among those of the container's user namespace, and the cgroup yours"))
            }
        }
    }
}

/// The names in the text of [`DELEGATE`]; nothing but names of files.
fn delegated(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::super::fs::pretended;
    use super::*;

    #[test]
    fn only_names_of_files_are_given() {
        let names: Vec<&str> =
            delegated("cgroup.procs\n\n../x\n/etc/passwd\n..\nmemory.reclaim\n").collect();
        assert_eq!(names, ["cgroup.procs", "memory.reclaim"]);
        assert_eq!(delegated(USUAL).count(), 3);
    }

    #[test]
    fn files_that_are_not_there_are_no_failure() {
        let (_place, dir) = pretended(&[("cgroup.procs", ""), ("memory.max", "")]);
        let (uid, gid) = (sys::cred::uid(), nix::unistd::getegid().as_raw());
        dir.give_to(uid, gid).unwrap();
        if uid != 0 {
            let error = dir.give_to(0, gid).unwrap_err();
            assert!(
                error
                    .message()
                    .contains("fchownat(\"/sys/fs/cgroup/pretended/cgroup.procs\", 0"),
                "{error}"
            );
        }
    }
}
