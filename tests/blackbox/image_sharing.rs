//! From an image file to running containers: one copy for all of them, in this store or in somebody else's.

use std::process::Command;

use crate::harness::{Ran, runtime_binary, spawn};
use crate::image_lab::{Images, images_or_skip, within};

/// The programs of containers of this store, removed at the end.
struct Containers<'a> {
    images: &'a Images,
    ids: Vec<String>,
}

impl<'a> Containers<'a> {
    /// Containers that sleep, all started at once.
    #[track_caller]
    fn started(images: &'a Images, image: &str, ids: impl Iterator<Item = String>) -> Self {
        let containers = Self {
            images,
            ids: ids.collect(),
        };
        let start = |id: &String| {
            let args = ["run", "-d", "--image", image, id, "sleep", "600"];
            spawn(&mut images.command(&args), b"")
        };
        let running: Vec<_> = containers.ids.iter().map(start).collect();
        for each in running {
            each.wait().ok();
        }
        containers
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            let ran = self.images.lodger(&["delete", "--force", id]);
            if ran.code != 0 && !std::thread::panicking() {
                panic!("{ran:#?}");
            }
        }
    }
}

fn read_os_release(images: &Images, image: &str, id: &str) -> Ran {
    images.lodger(&["run", "--image", image, id, "cat", "/etc/os-release"])
}

/// What the issue is accepted by.
#[test]
fn from_an_archive_to_a_container() {
    let images = images_or_skip!();
    images.skopeo(&[&images.made("debian"), "oci-archive:debian.tar"]);
    images.import("oci-archive:debian.tar", "debian");
    let out = read_os_release(&images, "debian", "t1").ok();
    assert!(out.contains("ID=debian\n"), "{out}");
    let listed = images.lodger(&["image", "list"]).ok();
    assert!(listed.contains("debian"), "{listed}");
    images.lodger(&["image", "verify", "debian"]).ok();
    images.lodger(&["image", "gc"]).ok();
    assert!(read_os_release(&images, "debian", "t1").code == 0);
}

/// What one container writes no other sees, and a container adds next to nothing on the disk.
#[test]
fn fifty_containers_of_one_image() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    let image_alone = images.disk_use();
    assert!(image_alone > 100 << 10, "{image_alone} KiB");
    let first = Containers::started(&images, "debian", ["first".to_owned()].into_iter());
    let with_one = images.disk_use();
    let others = Containers::started(&images, "debian", (2..=50).map(|n| format!("c{n}")));
    let with_fifty = images.disk_use();
    let each = (with_fifty - with_one) / 49;
    assert!(
        each < 50,
        "{each} KiB: {image_alone}, {with_one}, {with_fifty}"
    );

    images
        .lodger(&["exec", "first", "sh", "-c", "echo mine >/etc/os-release"])
        .ok();
    let read = |id: &str| images.lodger(&["exec", id, "cat", "/etc/os-release"]).ok();
    assert_eq!(read("first"), "mine\n");
    assert!(read("c50").contains("ID=debian\n"));
    drop((first, others));
    let left = images.disk_use();
    assert!(left <= image_alone + 50, "{left} KiB, {image_alone} before");
    assert!(
        read_os_release(&images, "debian", "again")
            .ok()
            .contains("ID=debian\n")
    );
}

#[test]
fn sixty_four_starts_at_once() {
    let images = images_or_skip!();
    images.import(&images.made("small"), "small");
    let all = Containers::started(&images, "small", (1..=64).map(|n| format!("c{n}")));
    let listed = images.lodger(&["list", "-q"]).ok();
    assert_eq!(listed.lines().count(), 64, "{listed}");
    for id in ["c1", "c64"] {
        assert_eq!(
            images.lodger(&["exec", id, "cat", "/etc/os-release"]).ok(),
            "NAME=small\n"
        );
    }
    drop(all);
    assert_eq!(images.lodger(&["list", "-q"]).ok(), "");
}

/// Two images with a layer in common have it once.
#[test]
fn layers_are_shared_by_images() {
    let images = images_or_skip!();
    images.import(&images.made("small"), "one");
    let used = images.disk_use();
    images.import(&images.made("small"), "two");
    assert!(images.disk_use() - used < 50);
    images.lodger(&["image", "remove", "one"]).ok();
    images.lodger(&["image", "gc"]).ok();
    assert_eq!(read_os_release(&images, "two", "c").ok(), "NAME=small\n");
}

/// A program of the image that has capabilities of its own has them for whoever runs it.
#[test]
fn file_capabilities_work_for_a_user_that_is_not_root() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    let effective = |program: &str| {
        let args = [
            "run",
            "--image",
            "debian",
            "-u",
            "33:33",
            "c",
            program,
            "/proc/self/status",
        ];
        let out = images.lodger(&args).ok();
        assert!(out.contains("Uid:\t33\t33\t33\t33\n"), "{out}");
        let line = out.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        u64::from_str_radix(line.unwrap(), 16).unwrap()
    };
    const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
    assert_eq!(
        effective("/usr/local/bin/capable-cat"),
        CAP_NET_BIND_SERVICE
    );
    assert_eq!(effective("/bin/cat"), 0);
}

/// A setuid program makes its caller root of the container, who may read what is root's.
#[test]
fn setuid_programs_work() {
    let images = images_or_skip!();
    images.import(&images.made("debian"), "debian");
    let secret = |program: &str| {
        let args = [
            "run",
            "--image",
            "debian",
            "-u",
            "33",
            "c",
            program,
            "/opt/secret",
        ];
        images.lodger(&args)
    };
    assert_eq!(secret("/usr/local/bin/setuid-cat").ok(), "root's\n");
    secret("/bin/cat").exits(1);
}

/// What another user makes of a store: one with one of the caller's subordinate ids, who has no subordinate ids herself.
fn other(images: &Images, args: &[&str]) -> Ran {
    // The caller's temporary directory is hers alone.
    let script = "mount -t tmpfs tmpfs /mnt; mkdir /mnt/store; mount --bind \"$0\" /mnt/store
        mkdir -m 700 /mnt/other /mnt/other/run; chown -R 1000:1000 /mnt/other
        export HOME=/mnt/other TMPDIR=/mnt/other XDG_RUNTIME_DIR=/mnt/other/run LODGER_STORE_RO=/mnt/store
        cd /; exec setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all \"$@\"";
    let (store, program) = (images.word("store"), runtime_binary());
    let fixed = ["sh", "-euc", script, &store, program.to_str().unwrap()];
    within(&[&fixed, args].concat())
}

/// Lets everybody read the store, as README.md has it.
fn open_to_all(images: &Images) {
    let script = "cd store && chmod a+rx . layers layers/* && chmod -R a+rX images blobs && chmod a+r layers/*/layer.json";
    let mut chmod = Command::new("/bin/sh");
    chmod.args(["-euc", script]).current_dir(images.path(""));
    spawn(&mut chmod, b"").wait().ok();
}

/// A store that everybody may read, and whose containers are somebody else's: only what they write is their own.
#[test]
fn another_user_runs_from_a_store_that_is_readable() {
    let images = images_or_skip!();
    images.import(&images.made("small"), "small");
    // As long as it is the caller's alone, it is not to be read.
    let args = ["run", "--image", "small", "c", "cat", "/etc/os-release"];
    let ran = other(&images, &args);
    assert!(
        ran.code != 0 && ran.err.contains("Permission denied"),
        "{ran:?}"
    );
    open_to_all(&images);
    assert_eq!(other(&images, &args).ok(), "NAME=small\n");
    // Of her files nothing can be changed, which is said.
    let script = "echo new >/srv/new || echo new >/dev/shm/new && cat /dev/shm/new";
    let ran = other(
        &images,
        &["run", "--image", "small", "c", "sh", "-c", script],
    )
    .exits(0);
    assert!(
        ran.out == "new\n" && ran.err.contains("the root filesystem is read-only"),
        "{ran:?}"
    );
    assert!(other(&images, &["image", "list"]).ok().contains("small"));
    assert!(!images.merged("small").contains_key("srv/new"));
}

/// A copy of what is in somebody else's store belongs to who has made it. What she may not read is an error, and what she may not
/// have is told.
#[test]
fn another_user_runs_a_copy_that_is_her_own() {
    let images = images_or_skip!();
    let script =
        "umask 022; cd \"$0\"; mkdir -p open/bin open/etc; cp /bin/busybox open/bin/busybox
        for name in sh stat; do ln -s busybox open/bin/$name; done; cp /bin/busybox open/bin/capable
        chown -hR 33:33 open; setcap cap_net_raw+ep open/bin/capable
        tar --xattrs --xattrs-include='*' -C open -cf open.tar .; rm -rf open";
    within(&["sh", "-euc", script, &images.word("")]).ok();
    images.import(&format!("rootfs:{}", images.word("open.tar")), "open");
    images.import(&images.made("small"), "closed");
    open_to_all(&images);
    let script = "echo new >/etc/new; exec stat -c %u:%g /etc/new /bin/capable";
    let run = |image: &str| {
        let args = [
            "run", "--copy", "--image", image, "c", "/bin/sh", "-c", script,
        ];
        other(&images, &args)
    };
    let ran = run("open").exits(0);
    assert_eq!(ran.out, "0:0\n0:0\n");
    for said in [
        "files are yours that were others'",
        "extended attributes could not be kept, first of \"/bin/capable\"",
        "the root filesystem is a copy of the image: --copy asks for one",
    ] {
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    let ran = run("closed").fails(1, "cannot copy \"/");
    assert!(ran.err.contains("only its owner may read it"), "{ran:?}");
    assert!(!images.layers("open")[0].join("etc/new").exists());
}
