//! The lodger program.
#![deny(unsafe_code)]
#![no_main]

#[path = "sys/entry.rs"]
#[allow(unsafe_code, reason = "part of the one room that may")]
mod entry;
