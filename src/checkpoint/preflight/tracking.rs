//! Whether this kernel keeps track of the memory that is written.

use std::path::Path;

use crate::error::{Doing, Error, Result};
use crate::sys;

/// The most of /proc/self/smaps that is read: of each mapping there are some 700 bytes.
const LIMIT: usize = 16 << 20;

/// Whether the kernel tells which pages were written since it was asked to forget it (Linux's Documentation/admin-guide/mm/soft-dirty.rst).
///
/// # Errors
/// It was built without CONFIG_MEM_SOFT_DIRTY.
pub fn tracking() -> Result<()> {
    let path = Path::new("/proc/self/smaps");
    let text = sys::path::read_regular(path, LIMIT)
        .doing(|| "cannot find out whether this kernel keeps track of memory".to_owned())?;
    match has_flag(&String::from_utf8_lossy(&text)) {
        true => Ok(()),
        false => Err(Error::new("this kernel does not keep track of the memory that is written")
            .because("it was built without CONFIG_MEM_SOFT_DIRTY: no mapping has the flag \"sd\" (/proc/self/smaps)")
            .hint("make a checkpoint without --pre-dump and --parent-path, which has all of it; or use a kernel that was built with it, as Debian's are")
            .code("LDG-CHECKPOINT-KERNEL")),
    }
}

/// A mapping that is new has the flag (proc_pid_smaps(5), VmFlags).
fn has_flag(smaps: &str) -> bool {
    let mut flags = smaps.lines().filter_map(|l| l.strip_prefix("VmFlags:"));
    flags.any(|flags| flags.split_whitespace().any(|flag| flag == "sd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_looked_for_among_flags() {
        let with = "Size: 4 kB\nVmFlags: rd wr mr mw me ac sd \n";
        assert!(has_flag(with));
        assert!(!has_flag(&with.replace(" sd", "")));
        assert!(!has_flag(
            "7f00-7f01 r--p 0 00:00 0 /sd sd\nVmFlags: rd mr\n"
        ));
    }
}
