//! Limits of the caller and of the kernel, devices, and networks.

use super::{Found, Row, set_parameter_to};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::{Device, Failed, Limits, Readings, Trial};
use crate::doctor::step::Step;
use crate::error::shell_word;
use crate::host::Limit;

/// Fewer open files than that are used up by a start with some mounts and fds of the caller's.
const FEW_FILES: u64 = 1024;

/// So many processes a container and what starts it should have left.
const FEW_TASKS: u64 = 64;

use Area::{Devices, Limits as Ls, Network};
use Who::{Administrator, Surroundings};

pub(super) const ROWS: [Row; 12] = [
    Row::new("LDG-DEV-TUN", Devices, Administrator, &[Step::Device], tun),
    Row::new(
        "LDG-DEV-FUSE",
        Devices,
        Administrator,
        &[Step::Device],
        fuse,
    ),
    Row::new("LDG-DEV-SHM", Devices, Surroundings, &[Step::Device], shm),
    Row::new(
        "LDG-KEYRING-SECCOMP",
        Ls,
        Surroundings,
        &[Step::Keyring],
        keyring_filter,
    ),
    Row::new(
        "LDG-KEYRING-QUOTA",
        Ls,
        Administrator,
        &[Step::Keyring],
        keyring_quota,
    ),
    Row::new(
        "LDG-NPROC",
        Ls,
        Administrator,
        &[Step::Process, Step::UserNamespace],
        nproc,
    ),
    Row::new(
        "LDG-NOFILE",
        Ls,
        Administrator,
        &[Step::File, Step::Process, Step::State, Step::Store],
        nofile,
    ),
    Row::new("LDG-RLIMIT", Ls, Administrator, &[Step::Limit], rlimit),
    Row::new(
        "LDG-OOM-SCORE",
        Ls,
        Administrator,
        &[Step::Limit],
        oom_score,
    ),
    Row::new("LDG-PING-RANGE", Ls, Administrator, &[Step::Sysctl], ping),
    Row::new("LDG-PTRACE", Ls, Surroundings, &[Step::Process], ptrace),
    Row::new("LDG-NET-NONE", Network, Surroundings, &[], no_network),
];

fn tun(readings: &Readings) -> Option<Found> {
    readings.may_concern("/dev/net/tun").then_some(())?;
    let what = match readings.devices.as_ref()?.tun {
        Device::Usable => return None,
        Device::Denied => "/dev/net/tun is there, and closed to you",
        Device::Missing => "there is no /dev/net/tun",
    };
    Found::new(
        Weight::Costs,
        what,
        "networks of user space (pasta, slirp4netns) cannot be had: a container has the network around it, or none",
        "sudo modprobe tun && sudo chmod 666 /dev/net/tun; around a container: docker run --device /dev/net/tun …",
    )
}

fn fuse(readings: &Readings) -> Option<Found> {
    readings.may_concern("/dev/fuse").then_some(())?;
    let what = match readings.devices.as_ref()?.fuse {
        Device::Usable => return None,
        Device::Denied => "/dev/fuse is there, and closed to you",
        Device::Missing => "there is no /dev/fuse",
    };
    Found::new(
        Weight::Costs,
        what,
        "filesystems of user space (squashfuse, sshfs) cannot be mounted for a container, nor in one",
        "sudo modprobe fuse && sudo chmod 666 /dev/fuse; around a container: docker run --device /dev/fuse …",
    )
}

fn shm(readings: &Readings) -> Option<Found> {
    readings.may_concern("/dev/shm").then_some(())?;
    let what = match readings.devices.as_ref()?.shm {
        Device::Usable => return None,
        Device::Denied => "/dev/shm cannot be written to",
        Device::Missing => "there is no /dev/shm",
    };
    Found::new(
        Weight::Costs,
        what,
        "programs cannot share memory with containers through it (MPI); a container's own is not concerned",
        "sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm; around a container: docker run --shm-size 1g …",
    )
}

/// What failed: the trial, or the command.
fn failed(readings: &Readings, trial: Trial) -> Option<&Failed> {
    readings.failed(&[trial]).or(readings.failure.as_ref())
}

fn keyring_filter(readings: &Readings) -> Option<Found> {
    let answer = readings.filtered("keyctl")?;
    failed(readings, Trial::Keyring)?;
    Found::new(
        Weight::Costs,
        format!(
            "keyctl(2) is answered with {} before the kernel sees it, by a seccomp filter, or the kernel has no keys",
            super::errno_name(answer)
        ),
        "containers have no session keyring of their own: they share that of this session, or none",
        "have a filter around that allows keyctl: docker run --security-opt seccomp=unconfined …; without a keyring: lodger run --no-new-keyring …",
    )
}

fn keyring_quota(readings: &Readings) -> Option<Found> {
    let failed = failed(readings, Trial::Keyring)?;
    if failed.errno() != libc::EDQUOT {
        return None;
    }
    let used = match readings.limits.as_ref().and_then(|limits| limits.keys) {
        Some((used, most)) => format!("{used} of {most} keys are in use (/proc/key-users)"),
        None => "all keys that you may have are in use".to_owned(),
    };
    Found::new(
        Weight::Costs,
        used,
        "no container gets a session keyring until others end (each has one)",
        set_parameter_to("kernel.keys.maxkeys", "5000"),
    )
}

fn limit<'a>(readings: &'a Readings, name: &str) -> Option<&'a Limit> {
    readings.facts.as_ref()?.limits.get(name)
}

fn nproc(readings: &Readings) -> Option<Found> {
    let limit = limit(readings, "RLIMIT_NPROC")?;
    let no_process = readings.failed(&[Trial::Process]);
    let reached = no_process.or(readings.failure.as_ref());
    let reached = reached.is_some_and(|failed| failed.errno() == libc::EAGAIN);
    let used = readings.limits.as_ref().and_then(|limits| limits.tasks);
    let few = used.is_some_and(|used| limit.soft.saturating_sub(used) < FEW_TASKS);
    // After a failure, it is the cause only of what this limit gives.
    if limit.soft == u64::MAX || !(reached || (few && readings.failure.is_none())) {
        return None;
    }
    let weight = match no_process {
        Some(_) => Weight::Blocks,
        None => Weight::Costs,
    };
    let name = readings.name();
    let used = used.map_or_else(String::new, |used| format!(", of which {used} are in use"));
    Found::new(
        weight,
        format!(
            "{name} may have {} processes and threads (RLIMIT_NPROC){used}",
            limit.soft
        ),
        "containers, which count too, fail to start or to fork when they are used up (EAGAIN)",
        match limit.soft < limit.hard {
            true => format!("ulimit -u {}", shown(limit.hard)),
            false => format!(
                "echo {} | sudo tee /etc/security/limits.d/lodger-nproc.conf; then log in again",
                shell_word(&format!("{name} - nproc 16384"))
            ),
        },
    )
}

fn shown(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    }
}

fn nofile(readings: &Readings) -> Option<Found> {
    let limit = limit(readings, "RLIMIT_NOFILE")?;
    let failure = readings.failure.as_ref().map(Failed::errno);
    let system_wide = failure == Some(libc::ENFILE);
    let reached = failure == Some(libc::EMFILE) || system_wide;
    if !(reached || (failure.is_none() && limit.hard < FEW_FILES)) {
        return None;
    }
    let (what, remedy) = match system_wide {
        true => (
            "the whole machine has no file left to open (fs.file-max)".to_owned(),
            set_parameter_to("fs.file-max", "1000000"),
        ),
        false => (
            format!(
                "this process may have {} files open, and raise that to {} (RLIMIT_NOFILE)",
                shown(limit.soft),
                shown(limit.hard)
            ),
            match limit.soft < limit.hard {
                true => format!("ulimit -n {}", shown(limit.hard)),
                false => format!(
                    "echo {} | sudo tee /etc/security/limits.d/lodger-nofile.conf; then log in again",
                    shell_word(&format!("{} - nofile 65536", readings.name()))
                ),
            },
        ),
    };
    Found::new(
        Weight::Costs,
        what,
        "images with many layers, and configs with many mounts, fail to start (EMFILE)",
        remedy,
    )
}

fn rlimit(readings: &Readings) -> Option<Found> {
    let failed = readings.failure.as_ref()?;
    let args = failed
        .origin
        .as_ref()
        .map_or("", |origin| origin.args.as_str());
    if failed.origin.is_some() && failed.errno() != libc::EPERM {
        return None;
    }
    let facts = readings.facts.as_ref()?;
    let named = |text: &str| {
        let mut names = facts.limits.keys();
        names.find(|name| text.contains(name.as_str())).cloned()
    };
    let name = named(args).or_else(|| named(&failed.message))?;
    let hard = shown(facts.limits.get(&name)?.hard);
    let item = name.trim_start_matches("RLIMIT_").to_lowercase();
    Found::new(
        Weight::Costs,
        format!("{name} can be raised to {hard} at most: that is the hard limit of this session"),
        "a config that asks for more is refused",
        format!(
            "ask for no more in /process/rlimits, or: echo {} | sudo tee -a /etc/security/limits.d/lodger-hard.conf; then log in again",
            shell_word(&format!("{} hard {item} VALUE", readings.name()))
        ),
    )
}

fn oom_score(readings: &Readings) -> Option<Found> {
    let lowest = readings.limits.as_ref()?.oom_score_adj?;
    let failure = readings.failure.as_ref();
    let concerned = match failure {
        Some(failed) => failed.message.contains("oom_score_adj"),
        None => lowest > 0,
    };
    if !concerned {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "processes of this session have an oom_score_adj of {lowest}, and cannot go below it"
        ),
        "a config with a lower /process/oomScoreAdj is refused",
        "printf '[Service]\\nOOMScoreAdjust=0\\n' | sudo tee /etc/systemd/system/user@.service.d/lodger-oom.conf && sudo systemctl daemon-reload; then log in again",
    )
}

fn ping(readings: &Readings) -> Option<Found> {
    readings.may_concern("ping_group_range").then_some(())?;
    let (first, last) = readings.limits.as_ref()?.ping_groups?;
    let gid = u64::from(readings.caller.as_ref()?.gid);
    if (first..=last).contains(&gid) {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!("net.ipv4.ping_group_range is {first} {last}, which your group {gid} is not in"),
        "ping fails in containers that share this network, unless it has CAP_NET_RAW there",
        set_parameter_to("net.ipv4.ping_group_range", "0 2147483647"),
    )
}

fn ptrace(readings: &Readings) -> Option<Found> {
    let calls = ["ptrace", "process_vm_readv", "pidfd_getfd"];
    let filtered: Vec<&str> = calls
        .into_iter()
        .filter(|call| readings.filtered(call).is_some())
        .collect();
    let scope = readings
        .limits
        .as_ref()
        .and_then(|limits: &Limits| limits.ptrace_scope);
    let strict = scope.is_some_and(|scope| scope >= 2);
    if readings.failure.is_some() || (filtered.is_empty() && !strict) {
        return None;
    }
    let (what, remedy) = match strict {
        true => (
            format!(
                "kernel.yama.ptrace_scope is {}: no process may look into another without privilege",
                scope.unwrap_or(2)
            ),
            set_parameter_to("kernel.yama.ptrace_scope", "1"),
        ),
        false => (
            format!("a seccomp filter refuses {}", filtered.join(", ")),
            "docker run --cap-add SYS_PTRACE --security-opt seccomp=unconfined …".to_owned(),
        ),
    };
    Found::new(
        Weight::Costs,
        what,
        "debuggers, strace, seccomp agents, and MPI between containers of one node (CMA) fail in containers",
        remedy,
    )
}

fn no_network(readings: &Readings) -> Option<Found> {
    let interfaces = readings.limits.as_ref()?.interfaces.as_ref()?;
    if interfaces.iter().any(|name| name != "lo") {
        return None;
    }
    Found::new(
        Weight::Costs,
        "the network around this process has no interface but lo",
        "containers reach nothing beyond this machine; images come from files alone",
        "call lodger where there is a network: outside of unshare --net, docker run --network none, or the like",
    )
}
