//! Whether a checkpoint can be restored here: its resource limits, and its ids.

use std::path::Path;

use crate::checkpoint::inspect::limits;
use crate::error::{Doing, Error, Result};
use crate::host::MapLine;
use crate::plan::{IdMapping, Rlimit};
use crate::sys;

/// The hard limits among `saved` that this process cannot give back, a sentence for each: to raise one takes CAP_SYS_RESOURCE in
/// the initial user namespace (getrlimit(2)), and CRIU passes over the failure.
///
/// # Errors
/// This process's own limits cannot be read.
pub fn limits_fit(saved: &[Rlimit]) -> Result<Vec<String>> {
    Ok(beyond(saved, &own_limits()?))
}

fn own_limits() -> Result<Vec<Rlimit>> {
    let path = Path::new("/proc/self/limits");
    let text = sys::path::read_regular(path, limits::FILE_LIMIT)
        .doing(|| "cannot read the resource limits of this process".to_owned())?;
    Ok(limits::parse(&String::from_utf8_lossy(&text)))
}

/// CRIU keeps files of its own above those of each process, in tables of this many (`choose_service_fd_base` of its servicefd.c).
const FILES_STEP: u64 = 128;

/// RLIMIT_NOFILE
const NOFILE: u32 = 7;

/// Whether CRIU can restore anything under this process's own limit of open files.
///
/// # Errors
/// It cannot.
pub fn files_fit() -> Result<()> {
    let own = own_limits()?;
    let hard = own.iter().find(|own| own.resource == NOFILE);
    match hard.map(|own| own.hard).filter(|hard| *hard < FILES_STEP) {
        None => Ok(()),
        Some(hard) => Err(few_files(&format!(
            "CRIU needs {FILES_STEP} at least, and the hard limit of RLIMIT_NOFILE is {hard} here"
        ))),
    }
}

/// The error for what CRIU says where a process has more open files than there is room for beside its own: `Can't chose
/// service_fd_base: ROOM NEEDED`.
pub fn too_few_files(said: &str) -> Option<Error> {
    let (_, numbers) = said.split_once("service_fd_base: ")?;
    let needed = numbers.split_ascii_whitespace().nth(1)?;
    let needed: u64 = needed.parse().ok()?;
    let needed = needed.checked_next_multiple_of(FILES_STEP)?;
    Some(few_files(&format!(
        "the numbers of a process's files and CRIU's own above them reach up to {needed}, and the hard limit of RLIMIT_NOFILE is lower here"
    )))
}

fn few_files(why: &str) -> Error {
    Error::new("this session may open too few files to restore the container")
        .because(why)
        .hint("raise the hard limit (ulimit -H -n, nofile in limits.conf(5)); --allow-lower-rlimits does not help here")
}

/// Those of `saved` whose hard limit is over the one in `own`.
fn beyond(saved: &[Rlimit], own: &[Rlimit]) -> Vec<String> {
    let allowed = |saved: &Rlimit| own.iter().find(|own| own.resource == saved.resource);
    let over = |saved: &Rlimit| {
        let own = allowed(saved).filter(|own| own.hard < saved.hard)?;
        Some(format!(
            "{} hard limit {} was recorded but only {} is allowed here",
            saved.name,
            shown(saved.hard),
            shown(own.hard)
        ))
    };
    saved.iter().filter_map(over).collect()
}

fn shown(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    }
}

/// Whether each id of the map `old` is in the map `new` of the container that is to be restored. `kind`: `uid` or `gid`.
///
/// # Errors
/// The first id that is not.
pub fn maps_fit(kind: &str, old: &[IdMapping], new: &[IdMapping]) -> Result<()> {
    match first_missing(old, new) {
        None => Ok(()),
        Some(id) => Err(
            Error::new(format!("the {kind}s of the checkpoint do not fit"))
                .because(format!(
                    "its {kind} map is {}, and that of the new container, {}, cannot hold {kind} {id}",
                    described(old),
                    described(new)
                ))
                .hint(
                    "restore it with an account that has as many subordinate ids (/etc/subuid and /etc/subgid), and with \
                     mappings in the config that have all ids of the old ones",
                ),
        ),
    }
}

/// The map of a container in the caller's user namespace, whose own map is `own`: with the ids above that as those of the host.
pub fn shared_map(own: &[MapLine]) -> Vec<IdMapping> {
    let line = |line: &MapLine| IdMapping {
        container_id: line.inside,
        host_id: line.outside,
        size: line.count,
    };
    own.iter().map(line).collect()
}

/// `[0+1, 1+65535]`: first id and how many.
fn described(map: &[IdMapping]) -> String {
    const SHOWN: usize = 8;
    let lines = map.iter().take(SHOWN);
    let mut lines: Vec<String> = lines
        .map(|line| format!("{}+{}", line.container_id, line.size))
        .collect();
    if map.len() > SHOWN {
        lines.push("…".to_owned());
    }
    format!("[{}]", lines.join(", "))
}

/// The lowest container id that is in `old` and not in `new`.
fn first_missing(old: &[IdMapping], new: &[IdMapping]) -> Option<u32> {
    let sorted = |map: &[IdMapping]| {
        let mut ranges: Vec<(u64, u64)> = map
            .iter()
            .filter(|line| line.size > 0)
            .map(|line| {
                let first = u64::from(line.container_id);
                (first, first + u64::from(line.size))
            })
            .collect();
        ranges.sort_unstable();
        ranges
    };
    let (old, new) = (sorted(old), sorted(new));
    let mut there = new.iter().peekable();
    for (first, end) in old {
        let mut at = first;
        while at < end {
            // Those that end before it hold nothing of what follows either.
            while there.next_if(|(_, new_end)| *new_end <= at).is_some() {}
            match there.peek() {
                Some((new_first, new_end)) if *new_first <= at => at = *new_end,
                _ => return Some(u32::try_from(at).unwrap_or(u32::MAX)),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(resource: u32, hard: u64) -> Rlimit {
        Rlimit {
            name: format!("RLIMIT_{resource}"),
            resource,
            soft: 0,
            hard,
        }
    }

    #[test]
    fn what_criu_says_of_too_few_files() {
        let said = "sfd: Can't chose service_fd_base: 512 541";
        let error = too_few_files(said).unwrap();
        assert!(error.message().contains("reach up to 640"), "{error}");
        for said in [
            "sfd: Can't chose service_fd_base: 0",
            "sfd: Can't chose service_fd_base: 0 x",
            "sfd: Can't chose service_fd_base: 0 18446744073709551615",
            "mnt: Can't mount",
        ] {
            assert!(too_few_files(said).is_none(), "{said}");
        }
    }

    #[test]
    fn a_hard_limit_that_is_lower_here_is_told() {
        let own = [limit(1, u64::MAX), limit(7, 500)];
        assert!(beyond(&[limit(1, u64::MAX), limit(7, 500)], &own).is_empty());
        // One that this kernel does not have.
        assert!(beyond(&[limit(16, 9)], &own).is_empty());
        let told = |limit| beyond(&[limit], &own).join(";");
        assert_eq!(
            told(limit(7, 20000)),
            "RLIMIT_7 hard limit 20000 was recorded but only 500 is allowed here"
        );
        assert_eq!(
            told(limit(7, u64::MAX)),
            "RLIMIT_7 hard limit unlimited was recorded but only 500 is allowed here"
        );
    }

    #[test]
    fn own_limits_fit() {
        let text = sys::path::read_regular(Path::new("/proc/self/limits"), 1 << 16).unwrap();
        let own = limits::parse(&String::from_utf8_lossy(&text));
        assert_eq!(own.len(), 16);
        assert!(limits_fit(&own).unwrap().is_empty());
    }

    fn map(lines: &[(u32, u32)]) -> Vec<IdMapping> {
        let line = |(container_id, size): &(u32, u32)| IdMapping {
            container_id: *container_id,
            host_id: 100_000 + container_id,
            size: *size,
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn ids_that_are_missing() {
        let usual = map(&[(0, 1), (1, 65535)]);
        for (old, new, missing) in [
            (&[][..], &[][..], None),
            (&[(0, 1)], &[], Some(0)),
            (&[(0, 1)], &[(0, 1), (1, 65535)], None),
            (&[(0, 65536)], &[(1, 65535), (0, 1)], None),
            (&[(0, 65536)], &[(0, 1), (1, 4999)], Some(5000)),
            (&[(0, 65536)], &[(0, 1), (2, 65535)], Some(1)),
            (&[(5000, 1), (0, 10)], &[(0, 10), (6000, 9)], Some(5000)),
            (&[(0, 10), (20, 10)], &[(0, 5), (5, 17), (22, 8)], None),
            (&[(0, u32::MAX)], &[(0, u32::MAX)], None),
            (&[(0, u32::MAX)], &[(0, u32::MAX - 1)], Some(u32::MAX - 1)),
        ] {
            assert_eq!(
                first_missing(&map(old), &map(new)),
                missing,
                "{old:?} {new:?}"
            );
        }
        assert!(maps_fit("uid", &usual, &usual).is_ok());
        let error = maps_fit("uid", &map(&[(0, 65536)]), &map(&[(0, 1000)])).unwrap_err();
        assert!(error.message().ends_with(
            "its uid map is [0+65536], and that of the new container, [0+1000], cannot hold uid 1000"
        ), "{error}");
    }
}
