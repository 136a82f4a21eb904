//! What the machine with Debian's own kernel has, which the other tests `debian_…` rely on: `tests/guest/debian`.

use std::fs;
use std::os::unix::fs::FileExt as _;

use crate::harness::Fixture;

/// It is an old one, as users have it: what newer ones can do is not there.
#[test]
fn the_kernel_is_debians_own() {
    let version = fs::read_to_string("/proc/version").unwrap();
    assert!(version.contains(" Debian 6.1."), "{version}");
}

const PAGE: usize = 4096;

/// Whether the kernel tells that the page of this byte was written to (pagemap, bit 55: Linux's Documentation/admin-guide/mm/pagemap.rst).
pub(crate) fn is_written(byte: &u8) -> bool {
    let entry = std::ptr::from_ref(byte).addr() / PAGE * 8;
    let mut bits = [0; 8];
    let pagemap = fs::File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut bits, entry as u64).unwrap();
    u64::from_ne_bytes(bits) & 1 << 55 != 0
}

/// What most kernels are built without: pages that were written to since somebody asked are told apart.
#[test]
fn the_kernel_tells_what_was_written() {
    let mut memory = vec![1_u8; 16 * PAGE];
    let index = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr() + 4 * PAGE;
    fs::write("/proc/self/clear_refs", "4").unwrap();
    assert!(!is_written(&memory[index]));
    memory[index] = 2;
    assert!(is_written(&memory[index]));
    assert_eq!(memory[index], 2);
}

/// She is in a cgroup of root's, and no systemd answers her: a container runs all the same.
#[test]
fn a_container_runs() {
    let mut fixture = Fixture::new();
    fixture.sh("echo from $(hostname)");
    assert_eq!(fixture.run().ok(), "from inside\n");
}
