//! System calls: thin wrappers with owned fds in their signatures and errors that print the call. No policy.
//!
//! The only room with unsafe code, and the only one that calls libc, nix or rustix for an effect.

pub mod cred;
mod error;
pub mod exe;
pub mod fd;
pub mod memory;
pub mod mount;
pub mod ns;
pub mod path;
pub mod process;
pub mod signal;
pub mod socket;

pub use error::{Error, Result};
