use super::*;
use crate::plan::IdMapping;

fn owners() -> Owners {
    let line = |container_id, host_id, size| IdMapping {
        container_id,
        host_id,
        size,
    };
    let map = vec![line(0, 1000, 1), line(1, 100_000, 65_536)];
    Owners::Mapped {
        uid_map: map.clone(),
        gid_map: map,
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn taken(name: &str, value: &str, owners: &Owners) -> Option<Vec<u8>> {
    match judge(name.as_bytes(), &hex(value), owners) {
        Judged::Taken(value) => Some(value.into_owned()),
        _ => None,
    }
}

#[test]
fn only_listed_attributes_are_taken() {
    for (name, is_taken) in [
        ("user.note", true),
        ("user.overlay.opaque", false),
        ("user.overlay.redirect", false),
        ("user.overlay.metacopy", false),
        ("user.overlay.whiteout", false),
        ("user.rootlesscontainers", false),
        ("trusted.overlay.opaque", false),
        ("trusted.x", false),
        ("security.selinux", false),
        ("security.ima", false),
        ("system.nfs4_acl", false),
        ("other", false),
        ("", false),
    ] {
        assert_eq!(taken(name, "79", &owners()).is_some(), is_taken, "{name}");
    }
}

#[test]
fn capabilities_are_those_of_the_containers_root() {
    let v2 = "01000002 00040000 00000000 00000000 00000000";
    let own = Some(hex("01000003 00040000 00000000 00000000 00000000 e8030000"));
    assert_eq!(taken(CAPABILITY, v2, &owners()), own);
    let v3 = "01000003 00040000 00000000 00000000 00000000 01000000";
    let other = Some(hex("01000003 00040000 00000000 00000000 00000000 a0860100"));
    assert_eq!(taken(CAPABILITY, v3, &owners()), other);
    for bad in [
        "",
        "010000",
        "01000001 00040000 00000000",
        "01000002 00040000",
        "01000003 00040000 00000000 00000000 00000000",
        "01000003 00040000 00000000 00000000 00000000 ffffffff",
        "01000009 00040000 00000000 00000000 00000000",
    ] {
        assert_eq!(taken(CAPABILITY, bad, &owners()), None, "{bad}");
    }
}

#[test]
fn ids_in_acls_are_mapped() {
    let acl = "02000000 01000600ffffffff 0200040005000000 04000400ffffffff 0800060000000000 10000600ffffffff 20000400ffffffff";
    let mapped = "02000000 01000600ffffffff 02000400a4860100 04000400ffffffff 08000600e8030000 10000600ffffffff 20000400ffffffff";
    assert_eq!(taken(ACL_ACCESS, acl, &owners()), Some(hex(mapped)));
    let far = hex("02000000 0200040000000100 0200040001000100");
    assert_eq!(
        judge(ACL_DEFAULT.as_bytes(), &far, &owners()),
        Judged::Unmapped(65_537)
    );
    let squashed = Owners::Squashed {
        uid: 1000,
        gid: 1000,
    };
    assert_eq!(taken(ACL_ACCESS, acl, &squashed), None);
    for bad in ["", "02", "01000000", "02000000 0100"] {
        assert_eq!(taken(ACL_ACCESS, bad, &owners()), None, "{bad}");
    }
}

/// As `protoc --encode` writes them.
#[test]
fn wanted_owners_are_kept_in_the_published_format() {
    assert_eq!(rootless_owner(0, 0), [0; 0]);
    assert_eq!(rootless_owner(1, 0), [0x08, 1]);
    assert_eq!(rootless_owner(0, 300), [0x10, 0xac, 0x02]);
    assert_eq!(rootless_owner(1000, 65_534), hex("08e807 10feff03"));
    assert_eq!(rootless_owner(u32::MAX, 0), hex("08 ffffffff0f"));
}
