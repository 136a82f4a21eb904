//! Control groups: lodger makes none yet, so that a container stays in the cgroup of whoever starts it. What is asked of a
//! cgroup and limits something was refused by `bundle`; the rest is told here.

use oci_spec::runtime::Linux;

use super::Note;
use crate::bundle::USUAL_SHARES;

/// Notes on what `linux` asks of a cgroup that is not made.
pub(super) fn notes(linux: Option<&Linux>, notes: &mut Vec<Note>) {
    let Some(linux) = linux else { return };
    if let Some(path) = linux
        .cgroups_path()
        .as_ref()
        .filter(|p| !p.as_os_str().is_empty())
    {
        notes.push(stays(format!("{path:?} is not made")));
    }
    let Some(resources) = linux.resources() else {
        return;
    };
    let mut unlimited = |property: &str, reason: &str| {
        notes.push(Note::new(
            format!("/linux/resources/{property}"),
            reason,
            "none is needed",
        ));
    };
    if resources
        .pids()
        .as_ref()
        .is_some_and(|pids| pids.limit() == 0)
    {
        unlimited(
            "pids/limit",
            "0 is taken for no limit, as it was before version 1.3 of the specification",
        );
    }
    let memory = resources.memory().as_ref();
    let zero = |value: Option<i64>| value == Some(0);
    for (name, value) in [
        ("limit", memory.and_then(|m| m.limit())),
        ("reservation", memory.and_then(|m| m.reservation())),
        ("swap", memory.and_then(|m| m.swap())),
        ("kernel", memory.and_then(|m| m.kernel())),
        ("kernelTCP", memory.and_then(|m| m.kernel_tcp())),
    ] {
        if zero(value) {
            unlimited(
                &format!("memory/{name}"),
                "0 is taken for no limit, as by other runtimes",
            );
        }
    }
    let shares = resources.cpu().as_ref().and_then(|cpu| cpu.shares());
    if shares == Some(USUAL_SHARES) {
        unlimited(
            "cpu/shares",
            "the container shares the processors with its caller's cgroup, whose part this is unasked",
        );
    }
}

/// The note on a cgroup that is asked for and not made; `what` begins the sentence.
pub(crate) fn stays(what: impl AsRef<str>) -> Note {
    Note::new(
        "/linux/cgroupsPath",
        format!(
            "{}: the container stays in its caller's cgroup, as lodger makes none yet",
            what.as_ref()
        ),
        "to limit what it may use, start it in a cgroup that has the limits: `systemd-run --user --scope -p MemoryMax=1G …`",
    )
}
