//! The lodger program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    lodger::cli::main(std::env::args_os())
}
