//! Whether a restore could make the container once more. A checkpoint ends it: what a restore would refuse is refused before.

use super::cannot;
use crate::checkpoint::image::ExternalMount;
use crate::checkpoint::inspect::{Inspection, mounts::Mounts};
use crate::checkpoint::saved::{Passing, Saved};
use crate::error::{Error, Result};
use crate::host::{Revealing, too_revealing};
use crate::plan::IdMapping;
use crate::plan::idmap::maps_id;
use crate::state::{Record, UserNamespaceRecord};

/// Refuses what can be seen from how the container was made.
pub(super) fn made(record: &Record, saved: &Saved) -> Result<()> {
    match &saved.passing {
        None => {}
        Some(Passing::Changes) => {
            return Err(cannot()
                .because("what it has changed in its root filesystem is in memory (--tmpfs-upper), and would be lost")
                .hint("make it without --tmpfs-upper"));
        }
        Some(Passing::Overlay(place)) => {
            return Err(cannot()
                .because(format!(
                    "the overlay at {place:?} is of directories outside of it, which CRIU cannot find to mount it once more"
                ))
                .hint("have the config bind a directory there that the overlay is mounted on outside"));
        }
    }
    if saved.filter_flags.iter().any(|flags| flags & LOG != 0) {
        return Err(cannot()
            .because("its filter has SECCOMP_FILTER_FLAG_LOG (/linux/seccomp/flags), which CRIU does not give back without CAP_SYS_ADMIN on the host")
            .hint("make it without that flag: what the filter refuses is refused all the same"));
    }
    record
        .user_namespace
        .as_ref()
        .map_or(Ok(()), root_is_mapped)
}

/// Of the flags of seccomp(2), the one that would be missed after a restore.
const LOG: u64 = nix::libc::SECCOMP_FILTER_FLAG_LOG;

/// Whether the caller, whose ids are `uid` and `gid`, is somebody in the container of `record`: the images are the caller's, and at a
/// restore CRIU reads them as the container's root, which may where their owner's ids are mapped.
///
/// # Errors
/// The caller is nobody in there.
pub fn caller_is_known(record: &Record, uid: u32, gid: u32) -> Result<()> {
    record
        .user_namespace
        .as_ref()
        .map_or(Ok(()), |own| {
            caller_in(&own.uid_map, &own.gid_map, uid, gid)
        })
        .map_err(|error| error.within(cannot().message()))
}

/// As [`caller_is_known`], for these maps.
///
/// # Errors
/// The caller is nobody there.
pub fn caller_in(uid_map: &[IdMapping], gid_map: &[IdMapping], uid: u32, gid: u32) -> Result<()> {
    let is_mapped = |map: &[IdMapping], id: u32| {
        let mut lines = map.iter();
        lines.any(|line| {
            id.checked_sub(line.host_id)
                .is_some_and(|above| above < line.size)
        })
    };
    let ids = [("uid", uid_map, uid), ("gid", gid_map, gid)];
    match ids.iter().find(|(_, map, id)| !is_mapped(map, *id)) {
        None => Ok(()),
        Some((kind, _, id)) => Err(Error::new(format!("your own {kind}, {id}, is nobody's in the container"))
            .because("CRIU's images are yours, and it reads them as the container's root, which has power over the container's ids alone")
            .hint(format!(
                "make it with linux.{kind}Mappings that map a containerID to hostID {id}"
            ))),
    }
}

fn root_is_mapped(own: &UserNamespaceRecord) -> Result<()> {
    let maps = [("uid", &own.uid_map), ("gid", &own.gid_map)];
    match maps.iter().find(|(_, map)| !maps_id(map, 0)) {
        None => Ok(()),
        Some((kind, _)) => Err(cannot()
            .because(format!(
                "there is no {kind} 0 in it, as which CRIU has to run"
            ))
            .hint(format!(
                "make it with linux.{kind}Mappings that have containerID 0"
            ))),
    }
}

/// Refuses what can be seen in it.
pub(super) fn found(found: &Inspection, outside: &Mounts) -> Result<()> {
    own_proc(found)?;
    covered(&found.externals, cannot())?;
    let has_new = |kind: &str| {
        let mut mounts = found.mounts.iter();
        let is_external = |place: &std::path::Path| {
            found
                .externals
                .iter()
                .any(|external| external.mountpoint == place)
        };
        mounts.any(|mount| mount.fstype == kind && !is_external(&mount.mountpoint))
    };
    if !has_new("sysfs") {
        return Ok(());
    }
    let seen: Vec<_> = outside.0.iter().map(|mount| mount.line.clone()).collect();
    match too_revealing(&seen, "sysfs") {
        Revealing::Nothing => Ok(()),
        hidden => {
            let error = cannot()
                .because("its /sys is a part of this host's, which is covered by mounts: CRIU can neither mount a new one nor bind it")
                .hint("take the mount of type sysfs out of the config, or unmount what covers the host's");
            Err(match hidden.code("sysfs") {
                Some(code) => error.code(code),
                None => error,
            })
        }
    }
}

/// CRIU has a process of the container look for itself in /proc (parasite_get_proc_fd_seized).
fn own_proc(found: &Inspection) -> Result<()> {
    let is_proc = |place: &std::path::Path| place == std::path::Path::new("/proc");
    let is_there = found
        .mounts
        .iter()
        .any(|mount| mount.fstype == "proc" && is_proc(&mount.mountpoint));
    let why = match (
        is_there,
        found
            .externals
            .iter()
            .any(|mount| is_proc(&mount.mountpoint)),
    ) {
        (true, false) => return Ok(()),
        (_, true) => {
            "its /proc is this host's, where its processes have other numbers (--proc=bind, or the config binds it)"
        }
        (false, false) => "it has no /proc, by which CRIU finds its processes",
    };
    Err(cannot()
        .because(why)
        .hint("make it with a mount of type proc at /proc in the config, and without --proc"))
}

/// CRIU binds each mount by itself, which the kernel refuses where a less privileged mount namespace would uncover what lies
/// beneath others (mount_namespaces(7)). `cannot`: the error to which the reason is added.
///
/// # Errors
/// One of them is covered so.
pub fn covered(externals: &[ExternalMount], cannot: Error) -> Result<()> {
    let beneath = |external: &&ExternalMount| !external.beneath.as_os_str().is_empty();
    match externals.iter().find(beneath) {
        None => Ok(()),
        Some(external) if external.key == "/" => Err(cannot
            .because(format!(
                "something is mounted beneath the directory of its root filesystem, at {:?}, and CRIU takes that directory alone",
                external.mountpoint
            ))
            .hint("unmount it before the container is made, or have the config bind it into the container")),
        Some(external) => Err(cannot
            .because(format!(
                "the bind mount at {:?} has another one beneath its source, at {:?}: a restore has to bind each by itself, and the \
                 kernel does not let an ordinary user take the one without what covers it",
                external.key, external.mountpoint
            ))
            .hint("bind directories that have no other mounts beneath them (\"bind\", not \"rbind\", each by itself)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(key: &str, beneath: &str) -> ExternalMount {
        ExternalMount {
            key: key.to_owned(),
            beneath: beneath.into(),
            mountpoint: std::path::Path::new(key).join(beneath),
        }
    }

    #[test]
    fn what_covers_a_part_of_a_mount_is_named() {
        let told = |externals: &[ExternalMount]| {
            let refused = covered(externals, cannot()).err();
            refused.map_or_else(String::new, |error| error.message())
        };
        let plain = external("/a", "");
        let beneath = external("/b", "c/d");
        assert_eq!(told(std::slice::from_ref(&plain)), "");
        let both = [plain, beneath];
        let said = told(&both);
        assert!(
            said.contains("at \"/b\" has") && said.contains("\"/b/c/d\""),
            "{said}"
        );
        let root = [external("/", "x")];
        assert!(told(&root).contains("at \"/x\""));
    }

    #[test]
    fn a_filter_that_logs_would_not_any_more() {
        let told = |flags: &[u64]| {
            let saved = Saved {
                filter_flags: flags.to_vec(),
                ..Saved::default()
            };
            let record = super::super::tests::record(|_| {});
            made(&record, &saved).err().map(|error| error.message())
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[0, 4]), None);
        assert!(told(&[0, 2]).unwrap().contains("FLAG_LOG"));
    }

    #[test]
    fn the_caller_is_somebody_in_there() {
        let line = |container_id, host_id, size| IdMapping {
            container_id,
            host_id,
            size,
        };
        let whole = [line(0, 1000, 1), line(1, 100_000, 10)];
        let kept = [line(0, 100_000, 5), line(5, 990, 11)];
        let none = [line(0, 100_000, 10), line(10, 1001, 3), line(20, 999, 1)];
        let told = |uids: &[IdMapping], gids: &[IdMapping]| {
            let refused = caller_in(uids, gids, 1000, 1000).err();
            refused.map_or_else(String::new, |error| error.message())
        };
        assert_eq!(told(&whole, &whole), "");
        assert_eq!(told(&kept, &whole), "");
        assert!(told(&none, &whole).contains("your own uid, 1000"));
        assert!(told(&kept, &none).contains("your own gid, 1000"));
        assert!(told(&[], &whole).contains("your own uid, 1000"));
    }

    #[test]
    fn without_root_nobody_can_be_criu() {
        let line = |container_id| IdMapping {
            container_id,
            host_id: 100_000,
            size: 10,
        };
        let told = |uid, gid| {
            let own = UserNamespaceRecord {
                uid_map: vec![line(uid)],
                gid_map: vec![line(gid)],
                setgroups: true,
                outer: None,
            };
            root_is_mapped(&own).err().map(|error| error.message())
        };
        assert_eq!(told(0, 0), None);
        assert!(told(1, 0).unwrap().contains("no uid 0"));
        assert!(told(0, 1).unwrap().contains("no gid 0"));
    }
}
