//! How the kernel runs a process: policy and priority, I/O priority, CPUs, memory nodes, execution domain.

use super::{Error, Result};

/// Bits of a word of the kernel's masks, which are of `unsigned long`.
const WORD: usize = usize::BITS as usize;

/// Words of a mask that holds whatever this kernel has: 8192 CPUs or nodes.
const WORDS: usize = 8192 / WORD;

/// Policy and priority of a process (sched_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// The policy's number (`SCHED_OTHER` and its like).
    pub policy: u32,
    /// `SCHED_FLAG_…` bits.
    pub flags: u64,
    /// The nice value.
    pub nice: i32,
    /// The static priority of a real-time policy.
    pub priority: u32,
}

/// `struct sched_attr` of linux/sched/types.h.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Runtime, deadline and period of SCHED_DEADLINE.
    times: [u64; 3],
    /// The lower and the upper end of the utilisation clamp.
    clamp: [u32; 2],
}

/// The size of [`SchedAttr`]; a kernel that knows less takes it as long as what it does not know is 0.
const SCHED_ATTR_SIZE: u32 = 56;
const _: () = assert!(size_of::<SchedAttr>() == SCHED_ATTR_SIZE as usize);

/// Sets policy and priority of this process. A clamp that the flags tell of is 0.
pub fn set_scheduling(wanted: Scheduling) -> Result<()> {
    let Scheduling {
        policy,
        flags,
        nice,
        priority,
    } = wanted;
    let attr = SchedAttr {
        size: SCHED_ATTR_SIZE,
        policy,
        flags,
        nice,
        priority,
        ..SchedAttr::default()
    };
    // SAFETY: the kernel reads `size` bytes of `attr`, which outlives the call; 0 is this process.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if answer == 0 {
        return Ok(());
    }
    let args =
        format!("0, {{policy={policy}, flags={flags:#x}, nice={nice}, priority={priority}}}, 0");
    let errno = std::io::Error::last_os_error();
    Err(Error::new("sched_setattr", args, errno))
}

/// Policy and priority of this process (sched_getattr(2)).
pub fn scheduling() -> Result<Scheduling> {
    let attr = attributes_of(0)?;
    Ok(Scheduling {
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
    })
}

/// What sched_setattr(2) gives to a thread beside its policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// The policy's number, which [`set_share_of`] leaves alone.
    pub policy: u32,
    /// For how long it runs in one piece, in nanoseconds; 0 before Linux 6.12.
    pub slice: u64,
    /// The lower and the upper end of the utilisation clamp; both 0 without CONFIG_UCLAMP_TASK.
    pub clamp: [u32; 2],
}

/// The share of a thread; 0 is this one.
pub fn share_of(tid: i32) -> Result<Share> {
    let attr = attributes_of(tid)?;
    Ok(Share {
        policy: attr.policy,
        slice: attr.times[0],
        clamp: attr.clamp,
    })
}

/// Sets the slice of a thread, its clamp, or both, and nothing else.
pub fn set_share_of(tid: i32, slice: Option<u64>, clamp: Option<[u32; 2]>) -> Result<()> {
    // linux/sched.h
    const SCHED_FLAG_UTIL_CLAMP: u64 = 0x60;
    let mut attr = attributes_of(tid)?;
    attr.size = SCHED_ATTR_SIZE;
    attr.times[0] = slice.unwrap_or(attr.times[0]);
    attr.clamp = clamp.unwrap_or_default();
    attr.flags |= clamp.map_or(0, |_| SCHED_FLAG_UTIL_CLAMP);
    // SAFETY: the kernel reads `size` bytes of `attr`, which outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) };
    if answer == 0 {
        return Ok(());
    }
    let args = format!("{tid}, {{runtime={}, util={clamp:?}}}, 0", attr.times[0]);
    let errno = std::io::Error::last_os_error();
    Err(Error::new("sched_setattr", args, errno))
}

fn attributes_of(tid: i32) -> Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most the size it is told to `attr`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            tid,
            &raw mut attr,
            SCHED_ATTR_SIZE,
            0,
        )
    };
    if answer == 0 {
        return Ok(attr);
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new("sched_getattr", tid.to_string(), errno))
}

/// Where the class is in an I/O priority (linux/ioprio.h).
pub const IOPRIO_CLASS_SHIFT: u32 = 13;

/// linux/ioprio.h
const IOPRIO_WHO_PROCESS: u32 = 1;

/// Sets the I/O priority of this process (ioprio_set(2)).
pub fn set_io_priority(class: u32, level: u32) -> Result<()> {
    set_io_priority_of(0, class << IOPRIO_CLASS_SHIFT | level)
}

/// Sets the I/O priority of a thread, class and all; 0 is this one.
pub fn set_io_priority_of(tid: i32, value: u32) -> Result<()> {
    // SAFETY: ioprio_set takes plain integers.
    let answer = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, value) };
    if answer == 0 {
        return Ok(());
    }
    let args = format!("IOPRIO_WHO_PROCESS, {tid}, {value:#x}");
    Err(Error::new(
        "ioprio_set",
        args,
        std::io::Error::last_os_error(),
    ))
}

/// The I/O priority of a thread, class and all (ioprio_get(2)).
pub fn io_priority_of(tid: i32) -> Result<u32> {
    // SAFETY: ioprio_get takes plain integers.
    let answer = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    u32::try_from(answer).map_err(|_| {
        let args = format!("IOPRIO_WHO_PROCESS, {tid}");
        Error::new("ioprio_get", args, std::io::Error::last_os_error())
    })
}

/// Lets this process run on these CPUs alone (sched_setaffinity(2)). Those that are not there are passed over by the kernel.
pub fn set_cpus(cpus: impl Iterator<Item = u32>) -> Result<()> {
    set_cpus_of(0, cpus)
}

/// Lets a thread run on these CPUs alone; 0 is this one.
pub fn set_cpus_of(tid: i32, cpus: impl Iterator<Item = u32>) -> Result<()> {
    let mask = words(cpus);
    // SAFETY: the kernel reads the given number of bytes of `mask`, which outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            tid,
            size_of_val(mask.as_slice()),
            mask.as_ptr(),
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    Err(Error::new(
        "sched_setaffinity",
        format!("{tid}, mask"),
        errno,
    ))
}

/// Whether this process may run on a CPU (sched_getaffinity(2)).
pub fn cpus() -> Result<impl Fn(u32) -> bool> {
    cpus_of(0)
}

/// Whether a thread may run on a CPU; 0 is this one.
pub fn cpus_of(tid: i32) -> Result<impl Fn(u32) -> bool> {
    let mut mask = [0usize; WORDS];
    // SAFETY: the kernel writes at most the given number of bytes to `mask`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            size_of_val(&mask),
            mask.as_mut_ptr(),
        )
    };
    if answer < 0 {
        let errno = std::io::Error::last_os_error();
        return Err(Error::new("sched_getaffinity", tid.to_string(), errno));
    }
    Ok(move |number| has(&mask, number))
}

/// Sets the memory policy of this process; `mode` with its flags (set_mempolicy(2)). No nodes: the mask is NULL.
pub fn set_memory_policy(mode: u32, nodes: impl Iterator<Item = u32>) -> Result<()> {
    let mask = words(nodes);
    // The kernel takes one bit less than it is told of.
    let bits = if mask.is_empty() {
        0
    } else {
        mask.len() * WORD + 1
    };
    let address = if mask.is_empty() {
        std::ptr::null()
    } else {
        mask.as_ptr()
    };
    // SAFETY: the kernel reads the given number of bits of `mask`, which outlives the call, or none of NULL.
    let answer = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, address, bits) };
    if answer == 0 {
        return Ok(());
    }
    let args = format!("{mode:#x}, nodes, {bits}");
    Err(Error::new(
        "set_mempolicy",
        args,
        std::io::Error::last_os_error(),
    ))
}

/// Whether a memory node is in the policy of this process (get_mempolicy(2)).
pub fn memory_nodes() -> Result<impl Fn(u32) -> bool> {
    let mut mask = [0usize; WORDS];
    let mut mode: libc::c_int = 0;
    // SAFETY: both addresses are valid for what the kernel writes to them: an int, and as many bits as it is told of.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            WORDS * WORD + 1,
            0,
            0,
        )
    };
    if answer != 0 {
        let errno = std::io::Error::last_os_error();
        return Err(Error::new("get_mempolicy", "mode, nodes", errno));
    }
    Ok(move |number| has(&mask, number))
}

/// Sets the execution domain of this process (personality(2)).
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: personality takes a plain integer.
    let answer = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    if answer >= 0 {
        return Ok(());
    }
    let args = format!("{domain:#x}");
    Err(Error::new(
        "personality",
        args,
        std::io::Error::last_os_error(),
    ))
}

/// The mask that has these bits, as short as it can be.
fn words(bits: impl Iterator<Item = u32>) -> Vec<usize> {
    let mut words = Vec::new();
    for bit in bits {
        let bit = bit as usize;
        if words.len() <= bit / WORD {
            words.resize(bit / WORD + 1, 0);
        }
        words[bit / WORD] |= 1 << (bit % WORD);
    }
    words
}

fn has(mask: &[usize], bit: u32) -> bool {
    let bit = bit as usize;
    let word = mask.get(bit / WORD).copied().unwrap_or(0);
    word >> (bit % WORD) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert!(words(std::iter::empty()).is_empty());
        assert_eq!(words([0, 2].into_iter()), [5_usize]);
        let mask = words([1, 64, 130].into_iter());
        let bits: Vec<u32> = (0..300).filter(|bit| has(&mask, *bit)).collect();
        assert_eq!(bits, [1, 64, 130]);
    }

    #[test]
    fn this_process_has_a_cpu_and_a_policy() {
        let allowed = cpus().unwrap();
        assert!((0..8192).any(&allowed));
        assert!(scheduling().unwrap().policy < 8);
    }
}
