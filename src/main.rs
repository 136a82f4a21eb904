//! The lodger program.
#![forbid(unsafe_code)]

fn main() {}
