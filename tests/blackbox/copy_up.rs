//! `tmpcopyup`: a tmpfs that begins with a copy of what it covers, which is the image's and may be hostile.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs, spawn};
use crate::weak::{Outcome, held_by};

/// A bundle with a tmpfs that copies up what is in /data of its root.
fn over_data(options: Value) -> Fixture {
    let mut fixture = Fixture::with_own_root();
    fs::create_dir(fixture.rootfs().join("data")).unwrap();
    let mut options = options;
    options.as_array_mut().unwrap().push("tmpcopyup".into());
    fixture.mount(json!({
        "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options
    }));
    fixture
}

/// Runs a script in the image's /data, on the host.
fn prepare(fixture: &Fixture, script: &str) {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-euc", script])
        .current_dir(fixture.rootfs().join("data"));
    spawn(&mut shell, b"").wait().ok();
}

#[test]
fn files_directories_and_links_are_copied() {
    peer_differs!("crun", "1.8 does not keep the times of files");
    peer_differs!(
        "runc",
        "1.1 keeps neither the times nor the whole mode of a directory: 1777 becomes 1755"
    );
    let mut fixture = over_data(json!(["nosuid", "nodev"]));
    prepare(
        &fixture,
        "mkdir -p sub/deep; echo one >file; echo two >sub/deep/file; ln -s ../file sub/link; ln -s /nowhere dangling; \
         mkdir empty; : >sub/nothing; ln file hard; touch -d '2001-02-03 04:05:06 UTC' file sub sub/nothing",
    );
    for (path, mode) in [("file", 0o640), ("sub", 0o751), ("empty", 0o1777)] {
        let path = fixture.rootfs().join("data").join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fixture.sh(
        "cd /data; cat file hard sub/deep/file sub/link; readlink sub/link; readlink dangling; stat -c '%n %a %s' file sub empty; \
         stat -c '%n %Y' file sub/nothing; ls -A . | wc -l; stat -f -c %T /data; rm -r sub; echo changed >file",
    );
    // Modes of directories differ in their size only.
    let out = fixture.run().ok();
    let expected = "one\none\ntwo\none\n../file\n/nowhere\nfile 640 4\n";
    assert!(out.starts_with(expected), "{out}");
    assert!(
        out.contains("\nsub 751 ") && out.contains("\nempty 1777 "),
        "{out}"
    );
    let times = "\nfile 981173106\nsub/nothing 981173106\n";
    assert!(out.contains(times), "{out}");
    assert!(out.ends_with("5\ntmpfs\n"), "{out}");
    // The image is as it was.
    let data = fixture.rootfs().join("data");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "one\n");
    assert_eq!(
        fs::read_to_string(data.join("sub/deep/file")).unwrap(),
        "two\n"
    );
}

#[test]
fn the_times_of_directories_and_links_are_kept() {
    lodger_only!("keeping times");
    let mut fixture = over_data(json!([]));
    prepare(
        &fixture,
        "mkdir sub; echo x >sub/file; ln -s file sub/link; mkfifo -m 620 sub/pipe; \
         touch -h -d @1000000000 sub/link sub/pipe sub .",
    );
    fixture
        .sh("stat -c '%n %F %Y' /data/sub/link /data/sub /data; stat -c '%F %a %Y' /data/sub/pipe");
    assert_eq!(
        fixture.run().ok(),
        "/data/sub/link symbolic link 1000000000\n/data/sub directory 1000000000\n/data directory 1000000000\n\
         fifo 620 1000000000\n"
    );
}

#[test]
fn the_tmpfs_is_as_the_directory_unless_the_options_say_otherwise() {
    peer_differs!(
        "runc",
        "1.1 gives the tmpfs the mode of the directory, whatever mode= says"
    );
    peer_differs!(
        "crun",
        "1.8 gives the tmpfs mode 1777, whatever the directory has"
    );
    for (options, seen) in [(json!([]), "750\n"), (json!(["mode=711"]), "711\n")] {
        let mut fixture = over_data(options);
        let data = fixture.rootfs().join("data");
        fs::set_permissions(data, fs::Permissions::from_mode(0o750)).unwrap();
        fixture.sh("stat -c %a /data");
        assert_eq!(fixture.run().ok(), seen);
    }
}

#[test]
fn what_is_not_there_is_an_empty_tmpfs() {
    let mut fixture = over_data(json!([]));
    fs::remove_dir(fixture.rootfs().join("data")).unwrap();
    fixture.sh("ls -A /data; echo x >/data/file && cat /data/file");
    assert_eq!(fixture.run().ok(), "x\n");
}

#[test]
fn a_read_only_copy() {
    let mut fixture = over_data(json!(["ro"]));
    prepare(&fixture, "echo x >file");
    fixture.sh("cat /data/file; touch /data/new 2>/dev/null && echo WRITABLE; true");
    assert_eq!(fixture.run().ok(), "x\n");
}

/// What the container owns stays its own, and what the mounts before have is not part of the image.
#[test]
fn owners_attributes_and_other_mounts() {
    lodger_only!("copying owners, attributes and no other mounts");
    let mut fixture = over_data(json!([]));
    prepare(&fixture, "echo x >file; : >mounted; mkdir dir");
    // As a container of before has left them.
    let mut first = Fixture::with_own_root();
    first.config["root"]["path"] = fixture.rootfs().to_str().unwrap().into();
    first.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]
    });
    first.sh("/bin/busybox chown 7:9 /data/file");
    first.run().ok();
    let mounts = fixture.config["mounts"].as_array_mut().unwrap();
    let at = mounts.len() - 1;
    mounts.insert(
        at,
        json!({
            "destination": "/data/dir", "type": "tmpfs", "source": "t"
        }),
    );
    mounts.insert(at, json!({
        "destination": "/data/mounted", "type": "bind", "source": "/etc/hostname", "options": ["bind"]
    }));
    fixture.sh(
        "stat -c '%n %u:%g %s' /data/file /data/mounted; ls -A /data/dir; stat -f -c %T /data/dir",
    );
    let ran = fixture.run().exits(0);
    assert_eq!(ran.out, "/data/file 7:9 2\n/data/mounted 0:0 0\ntmpfs\n");
    assert!(
        ran.err.contains("2 in all, the first is \"/data/"),
        "{ran:?}"
    );
    assert!(
        ran.err
            .contains("/options: tmpcopyup: what other mounts have is not copied"),
        "{ran:?}"
    );
}

#[test]
fn sockets_are_left_out_with_a_word() {
    lodger_only!("notes");
    let mut fixture = over_data(json!([]));
    let _socket = std::os::unix::net::UnixListener::bind(fixture.rootfs().join("data/s")).unwrap();
    fixture.sh("ls -A /data");
    let ran = fixture.run().exits(0);
    assert_eq!(ran.out, "");
    assert!(
        ran.err
            .contains("sockets and devices are not copied, 1 in all, the first is \"/data/s\""),
        "{ran:?}"
    );
}

#[test]
fn only_a_new_tmpfs_can_copy_up() {
    peer_differs!("runc", "1.1 passes over tmpcopyup where it means nothing");
    for mount in [
        json!({"destination": "/data", "type": "bind", "source": "/etc", "options": ["bind", "tmpcopyup"]}),
        json!({"destination": "/data", "type": "ramfs", "source": "r", "options": ["ro", "tmpcopyup"]}),
    ] {
        let mut fixture = Fixture::with_own_root();
        fixture.mount(mount);
        fixture
            .run()
            .fails(1, "/options/1: only a new tmpfs can begin with a copy");
    }
}

/// CVE-2022-23648 is the same in an engine: a link of the image must not bring in files of the host.
#[test]
fn a_link_to_a_file_of_the_host() {
    lodger_only!("switching defences off");
    held_by(&["RefuseLinks"], || {
        let mut fixture = over_data(json!([]));
        let secret = fixture.path("secret");
        fs::write(&secret, "of the host").unwrap();
        symlink(&secret, fixture.rootfs().join("data/link")).unwrap();
        fixture.sh("cat /data/link 2>&1");
        let ran = fixture.run();
        Outcome::of(
            ran.out.contains("of the host").then_some(ran.out.clone()),
            ran.out,
        )
    });
}

#[test]
fn a_file_that_does_not_fit() {
    let mut fixture = over_data(json!(["size=1m"]));
    prepare(&fixture, "head -c 3000000 /dev/zero | tr '\\0' x >big");
    fixture.sh("echo ran");
    let ran = fixture.run().fails(1, "cannot copy up \"/data/big\"");
    if !crate::harness::peer() {
        assert!(ran.err.contains("ENOSPC"), "{ran:?}");
        assert!(ran.err.contains("give it a larger size="), "{ran:?}");
    }
    assert!(!ran.out.contains("ran"));
}

/// A hole takes no room, however large it is.
#[test]
fn a_huge_file_that_is_a_hole() {
    peer_differs!("crun", "1.8 writes the holes");
    peer_differs!("runc", "1.1 writes the holes");
    let mut fixture = over_data(json!(["size=1m"]));
    prepare(
        &fixture,
        "truncate -s 3G holes; echo end >>holes; echo begin | dd of=holes conv=notrunc 2>/dev/null",
    );
    fixture.sh(
        "cd /data; stat -c %s holes; head -c 6 holes; tail -c 4 holes; du -k holes | head -c 1",
    );
    assert_eq!(fixture.run().ok(), "3221225476\nbegin\nend\n8");
}

/// Many names for one file become as many files: the size of the tmpfs holds.
#[test]
fn hard_links_do_not_get_around_the_size() {
    let fixture = over_data(json!(["size=1m"]));
    prepare(
        &fixture,
        "head -c 100000 /dev/zero | tr '\\0' x >0; for n in $(seq 1 40); do ln 0 $n; done",
    );
    fixture.run().fails(1, "give it a larger size=");
}

/// A tree that is deeper than any path is long, and than any process may have files open.
#[test]
fn a_tree_ten_thousand_directories_deep() {
    peer_differs!(
        "crun",
        "1.8 keeps every directory on the way open, and has no more fds"
    );
    peer_differs!("runc", "1.1 copies by path, and the path is too long");
    let mut fixture = over_data(json!([]));
    // Not for the runtimes that other tests start meanwhile.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let no_mode = rustix::fs::Mode::empty();
    let data = fixture.rootfs().join("data");
    let mut at = rustix::fs::openat(rustix::fs::CWD, data, flags, no_mode).unwrap();
    for _ in 0..10_000 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", flags, no_mode).unwrap();
    }
    rustix::fs::symlinkat("bottom", &at, "link").unwrap();
    drop(at);
    fixture.sh("stat -f -c '%c %d' /data");
    let ran = fixture.run();
    // The fixture would go down by recursion: each directory is taken up in place of the one above it.
    let data = fixture.rootfs().join("data");
    for _ in 1..10_000 {
        fs::rename(data.join("d/d"), data.join("next")).unwrap();
        fs::remove_dir(data.join("d")).unwrap();
        fs::rename(data.join("next"), data.join("d")).unwrap();
    }
    let out = ran.ok();
    let inodes: Vec<u64> = out.split_whitespace().map(|n| n.parse().unwrap()).collect();
    // The directories, the link at the bottom, and the root of the tmpfs.
    assert_eq!(inodes[0] - inodes[1], 10_002);
}

/// What the container's root may not read is told, and is not left out.
#[test]
fn a_directory_that_cannot_be_read() {
    lodger_only!("the message");
    let mut fixture = over_data(json!([]));
    crate::base::add_user_namespace(&mut fixture.config);
    // The caller's own id is not mapped, so that the container's root is nobody to her files.
    let (start, _) = crate::base::subordinate_range("/etc/subuid").unwrap();
    fixture.config["linux"]["uidMappings"] =
        json!([{"containerID": 0, "hostID": start, "size": 100}]);
    prepare(&fixture, "mkdir secret; chmod 700 secret");
    let ran = fixture.run().fails(1, "cannot copy up \"/data/secret\"");
    assert!(ran.err.contains("its owner is not mapped"), "{ran:?}");
}
