//! What is lost over a checkpoint: CRIU does not save it, and nobody but the process itself can set it. A container that is restored
//! goes on without it, which is told.

use std::path::Path;

use crate::checkpoint::attributes::{common_personality, personality};
use crate::checkpoint::inspect::Process;
use crate::plan::Note;
use crate::sys;

/// How many processes are looked at.
const MOST: usize = 4096;

/// The most that is read of a file.
const LIMIT: usize = 16 << 10;

/// One note for each kind of thing that a process has set for itself and a restore will not give back. `config` is config.json.
pub fn notes(processes: &[Process], config: &serde_json::Value) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut tell = |what: &str, is_it: &dyn Fn(i32) -> bool| {
        let processes = processes.iter().filter(|process| !process.has_ended());
        let mut those = processes.take(MOST);
        if let Some(one) = those.find(|process| is_it(process.pid)) {
            notes.push(Note::new(
                "/process",
                format!(
                    "a restored container has not the {what} that process {} ({}) has set: CRIU does not save it",
                    one.inside, one.name
                ),
                "have its programs set it again after a restore",
            ));
        }
    };
    let common = common_personality(processes);
    tell("personality(2)", &|pid| {
        personality(pid).is_some_and(|domain| domain != common)
    });
    let policy = &config["linux"]["memoryPolicy"]["mode"];
    let policy = policy.as_str().map_or("default", mode_of);
    tell("memory policy", &|pid| {
        let first = beginning(pid, "numa_maps");
        first.is_some_and(|line| !has_policy(&line, policy))
    });
    tell("nice value of its session (autogroup)", &|pid| {
        file(pid, "autogroup").is_some_and(|group| !group.trim_end().ends_with(" nice 0"))
    });
    tell("merging of memory (PR_SET_MEMORY_MERGE)", &|pid| {
        file(pid, "ksm_stat").is_some_and(|stat| merges(&stat))
    });
    notes
}

fn file(pid: i32, name: &str) -> Option<String> {
    let path = format!("/proc/{pid}/{name}");
    let text = sys::path::read_regular(Path::new(&path), LIMIT).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// As much as the kernel has at once: to count the pages of all mappings takes it long.
fn beginning(pid: i32, name: &str) -> Option<String> {
    let path = format!("/proc/{pid}/{name}");
    let file = sys::path::open_magic(Path::new(&path)).ok()?;
    let mut line = [0; 256];
    let count = rustix::io::read(file, &mut line).ok()?;
    Some(String::from_utf8_lossy(line.get(..count)?).into_owned())
}

/// What the kernel calls a mode of set_mempolicy(2) (`policy_modes` of mm/mempolicy.c).
fn mode_of(name: &str) -> &'static str {
    match name {
        "MPOL_PREFERRED" => "prefer",
        "MPOL_BIND" => "bind",
        "MPOL_INTERLEAVE" => "interleave",
        "MPOL_LOCAL" => "local",
        "MPOL_PREFERRED_MANY" => "prefer (many)",
        "MPOL_WEIGHTED_INTERLEAVE" => "weighted interleave",
        _ => "default",
    }
}

/// Whether the first line of numa_maps (numa(7)) has this policy: that of the process, as hardly anybody has one of its own for the
/// mapping of a program.
fn has_policy(maps: &str, mode: &str) -> bool {
    let line = maps.lines().next().unwrap_or_default();
    let Some((_, policy)) = line.split_once(' ') else {
        return true;
    };
    let rest = policy.strip_prefix(mode);
    rest.is_some_and(|rest| {
        !rest.starts_with(|c: char| c.is_alphanumeric()) && !rest.starts_with(" (")
    })
}

fn merges(stat: &str) -> bool {
    let mut lines = stat.lines();
    lines.any(|line| line.strip_prefix("ksm_merge_any:").map(str::trim) == Some("yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_usual_is_seen() {
        assert!(merges(
            "ksm_rmap_items 0\nksm_merge_any: yes\nksm_mergeable: yes\n"
        ));
        assert!(!merges(
            "ksm_rmap_items 0\nksm_merge_any: no\nksm_mergeable: yes\n"
        ));
    }

    #[test]
    fn policies_as_the_kernel_writes_them() {
        for (line, mode, has) in [
            ("00400000 default file=/x mapped=1", "MPOL_DEFAULT", true),
            ("00400000 default\n00600000 bind:0", "MPOL_DEFAULT", true),
            ("00400000 bind:0 file=/x", "MPOL_DEFAULT", false),
            ("00400000 bind:0 file=/x", "MPOL_BIND", true),
            ("00400000 bind=static:0-1", "MPOL_BIND", true),
            ("00400000 prefer:1", "MPOL_PREFERRED", true),
            ("00400000 prefer (many):1", "MPOL_PREFERRED", false),
            ("00400000 prefer (many):1", "MPOL_PREFERRED_MANY", true),
            ("00400000 local", "MPOL_LOCAL", true),
            ("00400000 weighted interleave:0", "MPOL_INTERLEAVE", false),
            // A kernel thread, or one that has ended.
            ("", "MPOL_BIND", true),
        ] {
            assert_eq!(has_policy(line, mode_of(mode)), has, "{line} {mode}");
        }
    }
}
