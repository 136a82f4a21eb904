//! Calls that are made wrongly on purpose: the kernel's own answer to them is known, and whatever else comes is a filter's.
//!
//! A seccomp filter answers before the kernel has looked at the arguments; a security module after it. None of the calls does
//! anything.

/// A call that a filter may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// unshare(2) with CLONE_NEWUSER and a bit that it has not.
    UnshareUser,
    /// clone3(2) with arguments of no size.
    Clone3,
    /// openat2(2), likewise.
    Openat2,
    /// close_range(2) from 1 to 0.
    CloseRange,
    /// pidfd_open(2) of process -1.
    PidfdOpen,
    /// mount(2) on no place.
    Mount,
    /// open_tree(2) with a bit that it has not.
    OpenTree,
    /// mount_setattr(2), likewise.
    MountSetattr,
    /// keyctl(2) with an operation that it has not.
    Keyctl,
    /// setns(2) with no fd.
    Setns,
    /// ptrace(2) of process 0.
    Ptrace,
    /// pidfd_getfd(2) with no fd.
    PidfdGetfd,
    /// process_vm_readv(2) with a bit that it has not.
    ProcessVmReadv,
    /// fsopen(2) of no name; for a process that may mount.
    Fsopen,
    /// move_mount(2) with a bit that it has not; likewise.
    MoveMount,
    /// pivot_root(2) with no paths; likewise.
    PivotRoot,
}

impl Call {
    /// Those that anybody can ask.
    pub const EVERYWHERE: [Self; 13] = [
        Self::UnshareUser,
        Self::Clone3,
        Self::Openat2,
        Self::CloseRange,
        Self::PidfdOpen,
        Self::Mount,
        Self::OpenTree,
        Self::MountSetattr,
        Self::Keyctl,
        Self::Setns,
        Self::Ptrace,
        Self::PidfdGetfd,
        Self::ProcessVmReadv,
    ];
    /// Those that the kernel itself refuses to a process without CAP_SYS_ADMIN.
    pub const WHERE_MOUNTS_ARE_ALLOWED: [Self; 3] =
        [Self::Fsopen, Self::MoveMount, Self::PivotRoot];

    /// The call's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnshareUser => "unshare",
            Self::Clone3 => "clone3",
            Self::Openat2 => "openat2",
            Self::CloseRange => "close_range",
            Self::PidfdOpen => "pidfd_open",
            Self::Mount => "mount",
            Self::OpenTree => "open_tree",
            Self::MountSetattr => "mount_setattr",
            Self::Keyctl => "keyctl",
            Self::Setns => "setns",
            Self::Ptrace => "ptrace",
            Self::PidfdGetfd => "pidfd_getfd",
            Self::ProcessVmReadv => "process_vm_readv",
            Self::Fsopen => "fsopen",
            Self::MoveMount => "move_mount",
            Self::PivotRoot => "pivot_root",
        }
    }

    /// Makes the call. `None`: it came as far as the kernel; else the error number of what stopped it before, ENOSYS where the
    /// kernel does not have it.
    pub fn ask(self) -> Option<i32> {
        let answer = self.make();
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let stopped = [libc::ENOSYS, libc::EPERM, libc::EACCES].contains(&errno);
        (answer < 0 && stopped).then_some(errno)
    }

    fn make(self) -> libc::c_long {
        let (number, [a, b, c, d, e, f]) = self.wrong();
        // SAFETY: the kernel refuses each of these calls for its arguments before it does anything: unknown bits, a size of zero,
        // an fd or a process that cannot be, a null path. No address is given that could be written to.
        unsafe { libc::syscall(number, a, b, c, d, e, f) }
    }

    /// The call's number, and arguments that cannot be.
    fn wrong(self) -> (libc::c_long, [libc::c_long; 6]) {
        /// Among them are bits that none of the calls has, and no operation has this number.
        const ALL: libc::c_long = 0x7fff_ffff;
        const NEW_USER: libc::c_long = libc::CLONE_NEWUSER as libc::c_long;
        match self {
            Self::UnshareUser => (libc::SYS_unshare, [NEW_USER | 1, 0, 0, 0, 0, 0]),
            Self::Clone3 => (libc::SYS_clone3, [0; 6]),
            Self::Openat2 => (libc::SYS_openat2, [-1, 0, 0, 0, 0, 0]),
            Self::CloseRange => (libc::SYS_close_range, [1, 0, 0, 0, 0, 0]),
            Self::PidfdOpen => (libc::SYS_pidfd_open, [-1, 0, 0, 0, 0, 0]),
            Self::Mount => (libc::SYS_mount, [0; 6]),
            Self::OpenTree => (libc::SYS_open_tree, [-1, 0, ALL, 0, 0, 0]),
            Self::MountSetattr => (libc::SYS_mount_setattr, [-1, 0, ALL, 0, 0, 0]),
            Self::Keyctl => (libc::SYS_keyctl, [ALL, 0, 0, 0, 0, 0]),
            Self::Setns => (libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
            Self::Ptrace => (libc::SYS_ptrace, [ALL, 0, 0, 0, 0, 0]),
            Self::PidfdGetfd => (libc::SYS_pidfd_getfd, [-1, -1, 0, 0, 0, 0]),
            Self::ProcessVmReadv => (libc::SYS_process_vm_readv, [-1, 0, 0, 0, 0, ALL]),
            Self::Fsopen => (libc::SYS_fsopen, [0, ALL, 0, 0, 0, 0]),
            Self::MoveMount => (libc::SYS_move_mount, [-1, 0, -1, 0, ALL, 0]),
            Self::PivotRoot => (libc::SYS_pivot_root, [0; 6]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_refused_and_does_nothing() {
        for call in Call::EVERYWHERE {
            assert!(call.make() < 0, "{call:?}");
        }
        for call in Call::WHERE_MOUNTS_ARE_ALLOWED {
            assert!(call.make() < 0, "{call:?}");
        }
    }
}
