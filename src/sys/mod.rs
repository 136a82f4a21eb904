//! System calls: thin wrappers with owned fds in their signatures and errors that print the call. No policy.
//!
//! The only room with unsafe code, and the only one that calls libc, nix or rustix for an effect.

mod error;
pub mod path;

pub use error::{Error, Result};
