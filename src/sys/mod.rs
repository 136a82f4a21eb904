//! System calls: thin wrappers with owned fds in their signatures and errors that print the call. No policy.
//!
//! The only room with unsafe code and raw system calls. The rooms that work on files by directory fd (`state`, `init`,
//! `spawn`) call the safe functions of rustix themselves, and report with this room's [`Error`].

pub mod buffer;
pub mod children;
mod clone;
pub mod cred;
pub mod defence;
mod error;
pub mod exe;
pub mod fd;
mod fd_list;
pub mod invalid;
pub mod keyring;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod notify;
pub mod ns;
mod ns_each;
pub mod path;
mod path_walk;
mod pid_dir;
pub mod pidfd;
pub mod process;
mod refused;
pub mod remote;
pub mod sched;
pub mod seccomp;
pub mod segment;
pub mod signal;
pub mod socket;
#[cfg(test)]
pub mod trace;
pub mod tty;

pub use error::{Error, Result};
