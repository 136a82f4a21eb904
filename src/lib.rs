//! lodger: an OCI container runtime for people without root.
//!
//! `cli` reads the command line, `bundle` the configuration, `host` what this machine allows; `plan` decides, as pure
//! data; `userns` and `spawn` act outside the container, `init` inside it, `state` remembers. Only `sys` holds unsafe code.
#![deny(unsafe_code)]

pub mod bundle;
pub mod cgroup;
pub mod checkpoint;
pub mod cli;
pub mod doctor;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod host;
pub mod image;
pub mod init;
pub mod log;
pub mod plan;
pub mod seccomp;
pub mod spawn;
pub mod state;
#[allow(
    unsafe_code,
    reason = "the one room for system calls and the unsafe they need"
)]
pub mod sys;
pub mod userns;
