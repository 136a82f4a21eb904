//! The children of this process.

use std::path::Path;

use super::{Error, Result, path, process};

/// A number for each child; a million fit.
const LIMIT: usize = 8 << 20;

/// The pids of the children of this process's first thread, those that have ended and were not waited for among them
/// (proc_pid_task(5), `children`).
///
/// ENOENT: a kernel without CONFIG_PROC_CHILDREN, or a /proc of another pid namespace.
pub fn own() -> Result<Vec<i32>> {
    let pid = process::own_pid();
    let name = format!("/proc/{pid}/task/{pid}/children");
    let text = path::read_regular(Path::new(&name), LIMIT)?;
    let text = String::from_utf8_lossy(&text);
    let numbers = text.split_ascii_whitespace().map(str::parse);
    numbers.collect::<std::result::Result<_, _>>().map_err(|_| {
        Error::new(
            "read",
            format!("{name:?} /* unknown format */"),
            libc::EINVAL,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_those_of_this_process() {
        // Tests run in threads, whose children are not the first thread's.
        assert!(!own().unwrap().contains(&process::own_pid()));
    }
}
