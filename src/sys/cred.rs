//! Credentials: ids, groups, capabilities, limits, and what a process may become.

use rustix::process::{DumpableBehavior, Gid, Pid, Signal, Uid};
use rustix::thread::CapabilitySets;

use super::{Error, Result};

/// Sets real, effective and saved uid.
pub fn set_uid(uid: u32) -> Result<()> {
    let id = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(id, id, id)
        .map_err(|e| Error::new("setresuid", format!("{uid}, {uid}, {uid}"), e))
}

/// Sets real, effective and saved gid.
pub fn set_gid(gid: u32) -> Result<()> {
    let id = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(id, id, id)
        .map_err(|e| Error::new("setresgid", format!("{gid}, {gid}, {gid}"), e))
}

/// Sets the supplementary groups to exactly `gids`.
pub fn set_groups(gids: &[u32]) -> Result<()> {
    let groups: Vec<Gid> = gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)
        .map_err(|e| Error::new("setgroups", format!("{gids:?}"), e))
}

/// Keeps, or lets go of, the permitted capabilities across a change of uid away from 0 (PR_SET_KEEPCAPS).
pub fn keep_capabilities(keep: bool) -> Result<()> {
    rustix::thread::set_keep_capabilities(keep)
        .map_err(|e| Error::new("prctl", format!("PR_SET_KEEPCAPS, {keep}"), e))
}

/// Sets effective, permitted and inheritable capabilities, one bit a capability (capset(2)).
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let bits = rustix::thread::CapabilitySet::from_bits_retain;
    let sets = CapabilitySets {
        effective: bits(effective),
        permitted: bits(permitted),
        inheritable: bits(inheritable),
    };
    rustix::thread::set_capabilities(None, sets).map_err(|e| {
        let args = format!(
            "effective={effective:#x}, permitted={permitted:#x}, inheritable={inheritable:#x}"
        );
        Error::new("capset", args, e)
    })
}

/// Takes capability `number` out of the bounding set for good (PR_CAPBSET_DROP).
pub fn drop_bounding(number: u8) -> Result<()> {
    prctl(
        "PR_CAPBSET_DROP",
        libc::PR_CAPBSET_DROP,
        u64::from(number),
        0,
    )
}

/// The highest capability this kernel knows (PR_CAPBSET_READ answers EINVAL for one it does not).
pub fn last_capability() -> u8 {
    /// CAP_CHECKPOINT_RESTORE, of Linux 5.9: no kernel this program runs on is older.
    const OLDEST: u8 = 40;
    (OLDEST..63)
        .find(|number| in_bounding_set(number + 1).is_none())
        .unwrap_or(63)
}

/// The bounding set up to capability `last`, one bit a capability.
pub fn bounding_set(last: u8) -> u64 {
    (0..=last.min(63))
        .filter(|number| in_bounding_set(*number) == Some(true))
        .fold(0, |set, number| set | 1 << number)
}

/// Whether capability `number` is in the bounding set; `None`: this kernel does not know it.
pub fn in_bounding_set(number: u8) -> Option<bool> {
    // SAFETY: PR_CAPBSET_READ takes a plain integer.
    let answer = unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0, 0, 0) };
    (answer >= 0).then_some(answer == 1)
}

/// The effective set of this process, one bit a capability (capget(2)).
pub fn effective_set() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits())
}

/// Empties the ambient set.
pub fn clear_ambient() -> Result<()> {
    let operation = u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    prctl(
        "PR_CAP_AMBIENT, CLEAR_ALL",
        libc::PR_CAP_AMBIENT,
        operation,
        0,
    )
}

/// Adds capability `number` to the ambient set; it must be permitted and inheritable.
pub fn raise_ambient(number: u8) -> Result<()> {
    let operation = u64::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs());
    prctl(
        "PR_CAP_AMBIENT, RAISE",
        libc::PR_CAP_AMBIENT,
        operation,
        u64::from(number),
    )
}

fn prctl(name: &str, option: libc::c_int, first: u64, second: u64) -> Result<()> {
    // SAFETY: the options used in this file take plain integers.
    let answer = unsafe { libc::prctl(option, first, second, 0u64, 0u64) };
    if answer == 0 {
        return Ok(());
    }
    let args = format!("{name}, {first}, {second}");
    Err(Error::new("prctl", args, std::io::Error::last_os_error()))
}

/// Sets no_new_privs for good.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true)
        .map_err(|e| Error::new("prctl", "PR_SET_NO_NEW_PRIVS, 1", e))
}

/// Whether this process has no_new_privs: no program that it runs gains anything by its file (PR_GET_NO_NEW_PRIVS).
pub fn has_no_new_privs() -> bool {
    rustix::thread::no_new_privs().unwrap_or(false)
}

/// Whether other processes of the same user may look into this one (PR_SET_DUMPABLE).
///
/// Not dumpable also means that /proc/PID of this process belongs to the root of the initial user namespace.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    let behavior = if dumpable {
        DumpableBehavior::Dumpable
    } else {
        DumpableBehavior::NotDumpable
    };
    rustix::process::set_dumpable_behavior(behavior)
        .map_err(|e| Error::new("prctl", format!("PR_SET_DUMPABLE, {dumpable}"), e))
}

/// Whether this process is killed with its parent (PR_SET_PDEATHSIG, SIGKILL).
pub fn die_with_parent(die: bool) -> Result<()> {
    let signal = die.then_some(Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal)
        .map_err(|e| Error::new("prctl", format!("PR_SET_PDEATHSIG, {die}"), e))
}

/// Sets a limit of this process; `u64::MAX` is unlimited. `resource` is the kernel's number (getrlimit(2)).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: prlimit64 reads one rlimit64, which outlives the call, and writes nothing as the old limit is NULL.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let args = format!("{resource}, {{soft={soft}, hard={hard}}}");
    Err(Error::new(
        "setrlimit",
        args,
        std::io::Error::last_os_error(),
    ))
}

/// Sets the file mode creation mask and returns the one before.
pub fn swap_umask(mask: u32) -> u32 {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask)).as_raw_mode()
}

/// Sets the host name of this UTS namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| Error::new("sethostname", format!("{name:?}"), e))
}

/// Sets the NIS domain name of this UTS namespace.
pub fn set_domainname(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes())
        .map_err(|e| Error::new("setdomainname", format!("{name:?}"), e))
}

/// Begins a session of its own: the caller's terminal is no longer this process's (TIOCSTI, CVE-2017-5226).
pub fn new_session() -> Result<()> {
    rustix::process::setsid()
        .map(|_: Pid| ())
        .map_err(|e| Error::new("setsid", "", e))
}

/// The effective uid.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective gid.
pub fn gid() -> u32 {
    rustix::process::getegid().as_raw()
}
