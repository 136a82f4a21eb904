//! Where the C library hands over to this program.
//!
//! The language's own start reads /proc/self/maps and sets up handlers for a stack that this program does not
//! overflow: a tenth of the time of `state`. What matters of it is done in [`lodger::sys::fd`] and
//! [`lodger::sys::signal`], first thing.

use std::ffi::{c_char, c_int};

// SAFETY: the one symbol of this name; the C library calls it with the arguments that `std::env` has from it as well.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    c_int::from(lodger::cli::main(std::env::args_os()))
}
