//! System call filters: compiling rules with libseccomp (seccomp_rule_add(3)), and loading a program (seccomp(2)).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};

use libseccomp_sys as scmp;

use super::{Error, Result, fd, path};

/// One instruction of a filter (linux/filter.h, `struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does: `BPF_…` bits.
    pub code: u16,
    /// How many instructions to pass over where a condition holds.
    pub jt: u8,
    /// How many to pass over where it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// The bytes of one instruction.
pub const INSTRUCTION_SIZE: usize = 8;

/// A condition on an argument of a call (`struct scmp_arg_cmp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare {
    /// Which argument, from 0 to 5.
    pub argument: u32,
    /// How: the number of libseccomp's `SCMP_CMP_…`.
    pub operator: u32,
    /// With what; for `SCMP_CMP_MASKED_EQ` the mask.
    pub first: u64,
    /// For `SCMP_CMP_MASKED_EQ`: with what.
    pub second: u64,
}

/// The version of libseccomp in use.
pub fn version() -> (u32, u32, u32) {
    // SAFETY: the call has no preconditions; it returns the address of a constant of the library.
    let version = unsafe { scmp::seccomp_version() };
    // SAFETY: it is never NULL, and valid as long as the program runs.
    let version = unsafe { &*version };
    (version.major, version.minor, version.micro)
}

/// The number of the call `name`, as [`Rules::add`] wants it: negative where this machine's architecture does not have
/// it, but another one does. `None`: libseccomp does not know it.
pub fn number(name: &CStr) -> Option<i32> {
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let number = unsafe { scmp::seccomp_syscall_resolve_name(name.as_ptr()) };
    (number != scmp::__NR_SCMP_ERROR).then_some(number)
}

/// The number of the call `name` on the architecture with libseccomp's token `arch`; `None`: it does not have it.
pub fn number_on(arch: u32, name: &CStr) -> Option<u32> {
    // SAFETY: the name is a NUL-terminated string that outlives the call; an unknown token has no calls.
    let number = unsafe { scmp::seccomp_syscall_resolve_name_arch(arch, name.as_ptr()) };
    u32::try_from(number).ok()
}

/// This machine's architecture, as libseccomp's token.
pub fn native() -> u32 {
    // SAFETY: the call has no preconditions.
    unsafe { scmp::seccomp_arch_native() }
}

/// Rules on their way to a program.
#[derive(Debug)]
pub struct Rules(scmp::scmp_filter_ctx);

impl Rules {
    /// No rules yet: every call gets `default`, and one of an architecture that is not listed `foreign`. Both are
    /// `SECCOMP_RET_…` values.
    pub fn new(default: u32, foreign: u32) -> Result<Self> {
        // SAFETY: the call has no preconditions; NULL when it refuses the action.
        let context = unsafe { scmp::seccomp_init(default) };
        if context.is_null() {
            return Err(Error::new(
                "seccomp_init",
                format!("{default:#x}"),
                libc::EINVAL,
            ));
        }
        let rules = Self(context);
        rules.set(scmp::scmp_filter_attr::SCMP_FLTATR_ACT_BADARCH, foreign)?;
        // 2: a binary tree of the numbers, not a list.
        rules.set(scmp::scmp_filter_attr::SCMP_FLTATR_CTL_OPTIMIZE, 2)?;
        Ok(rules)
    }

    fn set(&self, attribute: scmp::scmp_filter_attr, value: u32) -> Result<()> {
        // SAFETY: the context is valid until drop.
        let answer = unsafe { scmp::seccomp_attr_set(self.0, attribute, value) };
        check("seccomp_attr_set", answer, || {
            format!("{attribute:?}, {value:#x}")
        })
    }

    /// Lets the rules that follow be for this architecture, too.
    pub fn add_arch(&self, token: u32) -> Result<()> {
        // SAFETY: the context is valid until drop; unknown tokens are refused.
        let answer = unsafe { scmp::seccomp_arch_add(self.0, token) };
        if answer == -libc::EEXIST {
            return Ok(());
        }
        check("seccomp_arch_add", answer, || format!("{token:#x}"))
    }

    /// Adds a rule: `action` for call `number` where all of `conditions` hold. EEXIST when they are there with another
    /// action.
    pub fn add(&self, action: u32, number: i32, conditions: &[Compare]) -> Result<()> {
        let list: Vec<scmp::scmp_arg_cmp> = conditions.iter().filter_map(compare).collect();
        let args = || format!("{action:#x}, {number}, {conditions:?}");
        let count = libc::c_uint::try_from(list.len()).unwrap_or(libc::c_uint::MAX);
        if list.len() != conditions.len() {
            return Err(Error::new("seccomp_rule_add_array", args(), libc::EINVAL));
        }
        // SAFETY: the context is valid until drop, and the list has `count` elements and outlives the call.
        let answer =
            unsafe { scmp::seccomp_rule_add_array(self.0, action, number, count, list.as_ptr()) };
        check("seccomp_rule_add_array", answer, args)
    }

    /// The program of the rules.
    pub fn compile(&self) -> Result<Vec<Instruction>> {
        /// Far more than the kernel takes (BPF_MAXINSNS, 4096).
        const LIMIT: usize = 16 << 20;
        let name = std::path::Path::new("seccomp");
        let file = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|e| Error::new("memfd_create", "\"seccomp\"", e))?;
        // SAFETY: the context is valid until drop; the file is ours and open.
        let answer = unsafe { scmp::seccomp_export_bpf(self.0, file.as_raw_fd()) };
        check("seccomp_export_bpf", answer, String::new)?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))
            .map_err(|e| Error::new("lseek", "memfd, 0", e))?;
        Ok(from_bytes(&path::read_limited(file, name, LIMIT)?))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // SAFETY: the context came from seccomp_init and is released once.
        unsafe { scmp::seccomp_release(self.0) }
    }
}

fn compare(condition: &Compare) -> Option<scmp::scmp_arg_cmp> {
    use scmp::scmp_compare::{
        SCMP_CMP_EQ, SCMP_CMP_GE, SCMP_CMP_GT, SCMP_CMP_LE, SCMP_CMP_LT, SCMP_CMP_MASKED_EQ,
        SCMP_CMP_NE,
    };
    let op = [
        SCMP_CMP_NE,
        SCMP_CMP_LT,
        SCMP_CMP_LE,
        SCMP_CMP_EQ,
        SCMP_CMP_GE,
        SCMP_CMP_GT,
        SCMP_CMP_MASKED_EQ,
    ]
    .into_iter()
    .find(|op| *op as u32 == condition.operator)?;
    Some(scmp::scmp_arg_cmp {
        arg: condition.argument,
        op,
        datum_a: condition.first,
        datum_b: condition.second,
    })
}

/// libseccomp answers with a negative errno.
fn check(call: &'static str, answer: libc::c_int, args: impl FnOnce() -> String) -> Result<()> {
    if answer == 0 {
        return Ok(());
    }
    Err(Error::new(call, args(), -answer))
}

/// The instructions in `bytes`, as the kernel and libseccomp lay them out.
pub fn from_bytes(bytes: &[u8]) -> Vec<Instruction> {
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION_SIZE>();
    let one = |b: &[u8; INSTRUCTION_SIZE]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    instructions.iter().map(one).collect()
}

/// The other way round.
pub fn to_bytes(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * INSTRUCTION_SIZE);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

/// Loads `program` into this thread, for good. With SECCOMP_FILTER_FLAG_NEW_LISTENER among `flags` it returns the
/// listener (seccomp_unotify(2)), close-on-exec.
///
/// EACCES without no_new_privs and without CAP_SYS_ADMIN; EINVAL for a flag or a program the kernel does not take.
/// Nothing is allocated once the filter is loaded: every call after that is the filter's to decide on.
pub fn load(program: &[Instruction], flags: u64) -> Result<Option<OwnedFd>> {
    let mut code: Vec<libc::sock_filter> = program
        .iter()
        .map(|one| libc::sock_filter {
            code: one.code,
            jt: one.jt,
            jf: one.jf,
            k: one.k,
        })
        .collect();
    let args = || {
        format!(
            "SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions",
            program.len()
        )
    };
    let Ok(length) = libc::c_ushort::try_from(code.len()) else {
        return Err(Error::new("seccomp", args(), libc::EINVAL));
    };
    let list = libc::sock_fprog {
        len: length,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: the list has `len` instructions, which outlive the call; the kernel copies and verifies them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const list,
        )
    };
    // To free memory may be a call that the filter refuses.
    std::mem::forget(code);
    if answer < 0 {
        return Err(Error::new(
            "seccomp",
            args(),
            std::io::Error::last_os_error(),
        ));
    }
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let number = i32::try_from(answer).unwrap_or(-1);
    Ok(Some(fd::owned(number)))
}

/// Whether this kernel knows the flag of seccomp(2): with no program EFAULT says so, and EINVAL that it does not.
pub fn knows_flag(flag: u64) -> bool {
    // Flags that the kernel takes together with others only.
    let flag = flag | needed_with(flag);
    // SAFETY: NULL is no address of a program: the kernel answers EFAULT and does nothing.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flag,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    answer < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

fn needed_with(flag: u64) -> u64 {
    if flag & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 {
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    } else {
        0
    }
}

/// `name` for libseccomp; `None` for one with a NUL in it, which no call has.
pub fn c_name(name: &str) -> Option<CString> {
    CString::new(name).ok()
}
