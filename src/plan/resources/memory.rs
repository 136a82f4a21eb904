//! `memory`.

use oci_spec::runtime::LinuxMemory;

use super::{Out, or_max};

const AS_PEERS: &str = "as by other runtimes";

/// Converts the limits; what version 2 does not have is refused where it asks for something.
pub(super) fn convert(memory: &LinuxMemory, out: &mut Out<'_>) {
    let swap = swap(memory, out);
    bytes("limit", memory.limit(), "memory.max", out);
    if let Some((member, value)) = swap {
        out.set(member, "memory.swap.max", value);
    }
    bytes("reservation", memory.reservation(), "memory.low", out);
    for (member, value) in [
        ("memory/kernel", memory.kernel()),
        ("memory/kernelTCP", memory.kernel_tcp()),
    ] {
        match value {
            Some(0) => out.note_zero(member, AS_PEERS),
            Some(1..) => out.problem(
                member,
                "version 2 of cgroups counts it within memory/limit and cannot limit it by itself: leave it out",
            ),
            _ => {}
        }
    }
    if memory.swappiness().is_some() {
        out.problem(
            "memory/swappiness",
            "version 2 of cgroups has none, only the whole system has (vm.swappiness): leave it out",
        );
    }
    if memory.disable_oom_killer() == Some(true) {
        out.problem(
            "memory/disableOOMKiller",
            "version 2 of cgroups cannot do without it: leave it out; `memory.high` in unified slows down instead",
        );
    }
    if memory.use_hierarchy() == Some(false) {
        out.note(
            "memory/useHierarchy",
            "version 2 of cgroups always counts what is beneath",
            "leave it out",
        );
    }
}

fn bytes(name: &str, value: Option<i64>, file: &str, out: &mut Out<'_>) {
    let member = format!("memory/{name}");
    match value {
        None => {}
        Some(0) => out.note_zero(&member, AS_PEERS),
        Some(value) if value < -1 => out.problem(&member, wrong(value)),
        Some(value) => out.set(&member, file, or_max(value)),
    }
}

fn wrong(value: i64) -> String {
    format!("{value} is no number of bytes, and not -1, which is for no limit")
}

/// What memory.swap.max is to be, and which member says so: the specification counts memory and swap together, version 2 swap
/// alone.
fn swap(memory: &LinuxMemory, out: &mut Out<'_>) -> Option<(&'static str, String)> {
    let member = "memory/swap";
    let limit = memory.limit().unwrap_or(0);
    let message = match memory.swap().unwrap_or(0) {
        // As the peers do: without a limit of memory there was none of both.
        0 if limit == -1 => return Some(("memory/limit", or_max(-1))),
        0 => {
            if memory.swap().is_some() {
                out.note_zero(member, AS_PEERS);
            }
            return None;
        }
        -1 => return Some((member, or_max(-1))),
        both if both < -1 => wrong(both),
        both if limit == -1 => return Some((member, both.to_string())),
        both if limit > 0 && both >= limit => return Some((member, (both - limit).to_string())),
        both if limit > 0 => format!(
            "{both} is less than memory/limit, {limit}: it is the limit of memory and swap together"
        ),
        _ => "needs memory/limit: version 2 of cgroups limits swap by itself, which is the difference of the two".to_owned(),
    };
    out.problem(member, message);
    None
}
