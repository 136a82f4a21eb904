//! Calls that came with Linux 5.18 and later, by the number that every architecture gives them (its own base added):
//! libseccomp 2.5 does not know them.

/// Name and number, in the order of the numbers.
const CALLS: [(&str, u32); 20] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
];

/// The number of the call `name`, if it is one of these.
pub(super) fn number(name: &str) -> Option<u32> {
    let found = CALLS.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_in_a_row() {
        for pair in CALLS.windows(2) {
            assert_eq!(pair[0].1 + 1, pair[1].1, "{pair:?}");
        }
        assert_eq!(number("fchmodat2"), Some(452));
        assert_eq!(number("read"), None);
    }
}
