//! Access control lists of an image (acl(5)): on the disk and in the container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use crate::base::tidy;
use crate::harness::{Fixture, Ran, lodger_only, spawn};
use crate::tarball::{Header, Tar, docker_archive};

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const READ: u16 = 4;
const WRITE: u16 = 2;
const NOBODY: u32 = u32::MAX;

/// An attribute's value (linux/posix_acl_xattr.h).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// Root may read and write; uid 33 and gid 44 may read.
fn readable_by(uid: u32, gid: u32) -> Vec<u8> {
    acl(&[
        (USER_OBJ, READ | WRITE, NOBODY),
        (USER, READ, uid),
        (GROUP_OBJ, 0, NOBODY),
        (GROUP, READ, gid),
        (MASK, READ, NOBODY),
        (OTHER, 0, NOBODY),
    ])
}

struct Lab {
    fixture: Fixture,
}

impl Lab {
    /// The image `i`: the fixture's root filesystem, and a layer with ACLs for uid 33 and gid 44.
    fn new() -> Lab {
        let lab = Lab {
            fixture: Fixture::with_own_root(),
        };
        let tar = lab.fixture.path("base.tar");
        let mut command = Command::new("tar");
        command.args(["--owner=0", "--group=0", "-c", "-C"]);
        command
            .arg(lab.fixture.rootfs())
            .arg("-f")
            .arg(&tar)
            .arg(".");
        spawn(&mut command, b"").wait().ok();
        let record = |name: &str| {
            let key = format!("SCHILY.xattr.system.posix_acl_{name}");
            (key, readable_by(33, 44))
        };
        let header = |kind: u8, name: &str, mode: u32, owner: (u32, u32)| {
            let mut header = Header::new(kind, name);
            (header.mode, header.owner) = (mode, owner);
            header
        };
        let mut secret = header(b'0', "d/secret", 0o640, (0, 0));
        secret.size = 7;
        let layer = Tar::new()
            .pax_bytes(&[record("default")])
            .entry(&header(b'5', "d", 0o755, (0, 0)), b"")
            .pax_bytes(&[record("access")])
            .entry(&secret, b"secret\n")
            .pax(&[(
                "SCHILY.acl.access",
                "user::rw-\nuser:www-data:r--\nmask::r--\n",
            )])
            .entry(&header(b'0', "owned", 0o644, (33, 44)), b"");
        let archive = docker_archive(&[fs::read(tar).unwrap(), layer.end()]);
        fs::write(lab.fixture.path("image.tar"), archive).unwrap();
        lab
    }

    fn lodger(&self, args: &[&str]) -> Ran {
        let store = self.fixture.path("store");
        let mut all = vec!["--store", store.to_str().unwrap()];
        all.extend(args);
        spawn(&mut self.fixture.command(&all), b"").wait()
    }

    fn import(&self, options: &[&str]) -> Ran {
        let source = format!(
            "docker-archive:{}",
            self.fixture.path("image.tar").display()
        );
        let words = [&["image", "import", &source, "i"], options];
        self.lodger(&words.concat()).exits(0)
    }

    /// A file of the layer with the ACLs.
    fn on_disk(&self, name: &str) -> PathBuf {
        let layers = fs::read_dir(self.fixture.path("store/layers")).unwrap();
        let mut paths = layers.map(|layer| layer.unwrap().path().join("root").join(name));
        paths.find(|path| path.exists()).unwrap()
    }

    fn run(&self, options: &[&str], script: &str) -> Ran {
        let words = [
            &["run", "--image", "i"],
            options,
            &["c", "/bin/sh", "-c", script],
        ];
        self.lodger(&words.concat())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        tidy(|| {
            self.lodger(&["image", "remove", "--changes", "c"]);
            self.lodger(&["image", "remove", "i"]);
            // Files of subordinate ids are not hers to remove in any other way.
            self.lodger(&["image", "gc"]);
        });
    }
}

fn attribute(path: &PathBuf, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn acls_name_the_ids_of_the_container() {
    lodger_only!("an image");
    let lab = Lab::new();
    // As GNU tar writes them, they are of users of another machine.
    let ran = lab.import(&[]);
    assert!(ran.err.contains("SCHILY.acl.access (1)"), "{ran:?}");
    let owned = fs::metadata(lab.on_disk("owned")).unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert!(owned.uid() != uid && owned.uid() != 33, "{}", owned.uid());
    let expected = Some(readable_by(owned.uid(), owned.gid()));
    for (name, kind) in [("d/secret", "access"), ("d", "default")] {
        let kind = format!("system.posix_acl_{kind}");
        assert_eq!(attribute(&lab.on_disk(name), &kind), expected, "{name}");
    }
    assert_eq!(
        attribute(&lab.on_disk("owned"), "system.posix_acl_access"),
        None
    );
    for mode in [&[][..], &["--read-only"], &["--copy"]] {
        for (user, may) in [("33", true), ("5:44", true), ("34", false), ("5:45", false)] {
            let ran = lab.run(&[mode, &["-u", user]].concat(), "cat /d/secret");
            assert_eq!(ran.out == "secret\n", may, "{mode:?} {user}: {ran:?}");
            assert_eq!(ran.code == 0, may, "{mode:?} {user}: {ran:?}");
        }
    }
    // What is made in the directory gets its list.
    let keep = ["--keep-changes"];
    lab.run(&keep, "umask 0; echo new >/d/new").ok();
    for (user, may) in [("33", true), ("34", false)] {
        let ran = lab.run(&[&keep[..], &["-u", user]].concat(), "cat /d/new");
        assert_eq!(ran.out == "new\n", may, "{user}: {ran:?}");
    }
}

/// With one id there is nobody whom a list could name: it is left out, and that is told.
#[test]
fn acls_are_told_where_all_is_hers() {
    lodger_only!("an image");
    let lab = Lab::new();
    let ran = lab.import(&["--squash-owners"]);
    assert!(ran.err.contains("system.posix_acl_access"), "{ran:?}");
    assert!(ran.err.contains("system.posix_acl_default"), "{ran:?}");
    let secret = lab.on_disk("d/secret");
    assert_eq!(attribute(&secret, "system.posix_acl_access"), None);
    assert_eq!(fs::metadata(secret).unwrap().mode() & 0o7777, 0o640);
}
