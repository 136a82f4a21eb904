//! The error of a system call, printed as strace prints it.

use std::fmt;

/// A system call that failed, with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The call's name.
    pub call: &'static str,
    /// Its arguments, as they were made.
    pub args: String,
    /// The error number (errno(3)).
    pub errno: i32,
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `call(args)` with the kernel's answer, taken from rustix, nix or a plain number.
    pub fn new(call: &'static str, args: impl Into<String>, errno: impl Errno) -> Self {
        Self {
            call,
            args: args.into(),
            errno: errno.number(),
        }
    }

    /// Whether the kernel answered `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

/// The error number types of the crates that `sys` builds on.
pub trait Errno {
    /// The error number (errno(3)).
    fn number(self) -> i32;
}

impl Errno for rustix::io::Errno {
    fn number(self) -> i32 {
        self.raw_os_error()
    }
}

impl Errno for nix::errno::Errno {
    fn number(self) -> i32 {
        self as i32
    }
}

impl Errno for i32 {
    fn number(self) -> i32 {
        self
    }
}

impl Errno for std::io::Error {
    fn number(self) -> i32 {
        self.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// `EPERM (Operation not permitted)`.
fn describe_errno(errno: i32) -> String {
    let known = nix::errno::Errno::from_raw(errno);
    format!("{known:?} ({})", known.desc())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}({}): {}",
            self.call,
            self.args,
            describe_errno(self.errno)
        )
    }
}

impl std::error::Error for Error {}
