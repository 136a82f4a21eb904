//! Containers of images: what they share, where their changes go, and what is left of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::tidy;
use crate::harness::{Fixture, Ran, lodger_only, runtime_binary, spawn, wait_for};

/// A small image in a store of its own.
struct Images {
    fixture: Fixture,
}

impl Images {
    fn new() -> Images {
        let images = Images {
            fixture: Fixture::with_own_root(),
        };
        for name in ["var", "data", "home"] {
            fs::create_dir(images.fixture.rootfs().join(name)).unwrap();
        }
        let tar = images.fixture.path("image.tar");
        let mut command = std::process::Command::new("tar");
        command.args(["--owner=0", "--group=0", "-c", "-C"]);
        command
            .arg(images.fixture.rootfs())
            .arg("-f")
            .arg(&tar)
            .arg(".");
        spawn(&mut command, b"").wait().ok();
        images
            .lodger(&[
                "image",
                "import",
                &format!("rootfs:{}", tar.display()),
                "small",
            ])
            .ok();
        images
    }

    fn store(&self) -> PathBuf {
        self.fixture.path("store")
    }

    fn lodger(&self, args: &[&str]) -> Ran {
        let store = self.store();
        let mut all = vec!["--store", store.to_str().unwrap()];
        all.extend(args);
        self.fixture.bare(&all)
    }

    fn sh(&self, options: &[&str], id: &str, script: &str) -> Ran {
        let mut args = vec!["run", "--image", "small"];
        args.extend(options);
        args.extend([id, "/bin/sh", "-c", script]);
        self.lodger(&args)
    }

    /// The directories of containers that are there.
    fn containers(&self, kind: &str) -> Vec<String> {
        let Ok(found) = fs::read_dir(self.store().join(kind)) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = found.map(|e| name(e).into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The one layer of the image.
    fn layer(&self) -> PathBuf {
        let mut found = fs::read_dir(self.store().join("layers")).unwrap();
        found.next().unwrap().unwrap().path().join("root")
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        tidy(|| self.remove_all());
    }
}

impl Images {
    fn remove_all(&self) {
        let state = self.fixture.path("state");
        for entry in fs::read_dir(&state).into_iter().flatten().flatten() {
            let id = entry.file_name().into_string().unwrap();
            self.lodger(&["delete", "-f", &id]);
        }
        for id in self.containers("kept") {
            self.lodger(&["image", "remove", "--changes", &id]);
        }
        self.lodger(&["image", "remove", "small"]);
        // Files of subordinate ids are not hers to remove in any other way.
        self.lodger(&["image", "gc"]);
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut found| found.next().is_none())
}

#[test]
fn changes_go_with_the_container_and_never_into_the_image() {
    lodger_only!("an image");
    let images = Images::new();
    let script = "echo changed >/etc/passwd; rm /bin/ls; mkdir -p /var/new/deep; chown -R 33:33 /var/new; \
                  chmod 700 /var/new; cat /etc/passwd";
    assert_eq!(images.sh(&[], "a", script).ok(), "changed\n");
    let again = images
        .sh(
            &[],
            "a",
            "cat /etc/passwd; test -e /bin/ls && test ! -e /var/new",
        )
        .ok();
    assert!(again.starts_with("root:x:0:0:"), "{again}");
    assert!(images.layer().join("bin/ls").symlink_metadata().is_ok());
    assert_eq!(images.containers("containers"), Vec::<String>::new());
}

#[test]
fn delete_removes_what_subordinate_ids_own() {
    lodger_only!("an image");
    let images = Images::new();
    let script = "mkdir -p /var/mine/below; touch /var/mine/below/file; chown -R 33:33 /var/mine; chmod 700 /var/mine; exec sleep 600";
    images
        .lodger(&[
            "run", "-d", "--image", "small", "a", "/bin/sh", "-c", script,
        ])
        .ok();
    wait_for("the container's directory", || {
        let out = images.lodger(&["exec", "a", "/bin/sh", "-c", "stat -c %a /var/mine"]);
        (out.out == "700\n").then_some(())
    });
    assert_eq!(images.containers("containers"), ["a-0"]);
    let state: Value = serde_json::from_str(&images.lodger(&["state", "a"]).ok()).unwrap();
    let bundle = Path::new(state["bundle"].as_str().unwrap());
    assert!(bundle.join("config.json").exists() && bundle.starts_with(images.store()));
    images.lodger(&["delete", "-f", "a"]).ok();
    assert_eq!(images.containers("containers"), Vec::<String>::new());
}

#[test]
fn kept_changes_are_there_for_the_next_container() {
    lodger_only!("an image");
    let images = Images::new();
    images
        .sh(
            &["--keep-changes"],
            "work",
            "echo one >/data/kept; rm /etc/group",
        )
        .ok();
    assert_eq!(images.containers("kept"), ["work"]);
    let script = "cat /data/kept; test ! -e /etc/group";
    assert_eq!(images.sh(&["--keep-changes"], "work", script).ok(), "one\n");
    // Without the flag it is another one, and another id has other changes.
    images.sh(&[], "work", "test ! -e /data/kept").ok();
    images
        .sh(&["--keep-changes"], "other", "test ! -e /data/kept")
        .ok();
    // They outlive a gc, and only one container has them at a time.
    images.lodger(&["image", "gc"]).ok();
    let sleeping = [
        "run",
        "-d",
        "--keep-changes",
        "--image",
        "small",
        "work",
        "/bin/sleep",
        "600",
    ];
    images.lodger(&sleeping).ok();
    let elsewhere = images.fixture.path("elsewhere");
    let mut other = std::process::Command::new(runtime_binary());
    other.arg("--root").arg(elsewhere).arg("--store");
    other.arg(images.store()).args(sleeping);
    spawn(&mut other, b"")
        .wait()
        .fails(1, "a container has the changes that are kept under this id");
    images.lodger(&["delete", "-f", "work"]).ok();
    images
        .lodger(&["image", "remove", "--changes", "work"])
        .ok();
    assert_eq!(images.containers("kept"), ["other"]);
    images
        .sh(&["--keep-changes"], "work", "test ! -e /data/kept")
        .ok();
}

#[test]
fn read_only_needs_no_upper_and_makes_no_mount_point_in_the_image() {
    lodger_only!("an image");
    let images = Images::new();
    let mount = format!("{}:/srv/deep/data:ro", images.fixture.bundle().display());
    let script =
        "touch /etc/x 2>/dev/null && exit 1; ls -d /srv/deep/data; grep -c upperdir /proc/mounts";
    let ran = images.sh(&["--read-only", "-v", &mount], "a", script);
    assert_eq!(ran.exits(1).out, "/srv/deep/data\n0\n");
    assert!(!images.layer().join("srv").exists());
    assert_eq!(images.containers("containers"), Vec::<String>::new());
}

#[test]
fn changes_on_a_tmpfs_never_reach_the_store() {
    lodger_only!("an image");
    let images = Images::new();
    let args = [
        "run",
        "-d",
        "--tmpfs-upper=8m",
        "--image",
        "small",
        "a",
        "/bin/sleep",
        "600",
    ];
    images.lodger(&args).ok();
    let script = "echo x >/data/x; rm /etc/group; cat /data/x; dd if=/dev/zero of=/data/big bs=1M count=16 2>&1 | grep -c 'No space'";
    assert_eq!(
        images.lodger(&["exec", "a", "/bin/sh", "-c", script]).ok(),
        "x\n1\n"
    );
    let own = images.store().join("containers/a-0");
    assert!(!own.join("rootfs").exists() && !own.join("work").exists());
    assert!(!own.join("upper").exists());
}

#[test]
fn a_copy_is_a_root_filesystem_of_its_own() {
    lodger_only!("an image");
    let images = Images::new();
    let ran = images.sh(
        &["--copy"],
        "a",
        "rm /bin/ls; grep -c ' / overlay' /proc/mounts",
    );
    assert_eq!(ran.exits(1).out, "0\n");
    assert!(images.layer().join("bin/ls").symlink_metadata().is_ok());
    assert_eq!(images.containers("containers"), Vec::<String>::new());
}

#[test]
fn a_container_that_cannot_be_made_leaves_nothing() {
    lodger_only!("an image");
    let images = Images::new();
    images
        .lodger(&["run", "--image", "small", "a", "/no/such/program"])
        .fails(1, "/no/such/program");
    images
        .lodger(&[
            "run",
            "--image",
            "small",
            "-v",
            "/no/such:/x",
            "a",
            "/bin/true",
        ])
        .fails(1, "/no/such");
    images
        .lodger(&["run", "--image", "none", "a", "/bin/true"])
        .fails(1, "none");
    assert_eq!(images.containers("containers"), Vec::<String>::new());
}

#[test]
fn gc_spares_what_containers_have_and_removes_what_killed_ones_left() {
    lodger_only!("an image");
    let images = Images::new();
    let sleeping = ["run", "-d", "--image", "small", "a", "/bin/sleep", "600"];
    images.lodger(&sleeping).ok();
    // As a `create` that was killed leaves it.
    let left = images.store().join("containers/b-0");
    fs::create_dir_all(left.join("upper")).unwrap();
    images.lodger(&["image", "remove", "small"]).ok();
    images.lodger(&["image", "gc"]).ok();
    assert_eq!(images.containers("containers"), ["a-0"]);
    assert_eq!(
        images.lodger(&["exec", "a", "/bin/echo", "well"]).ok(),
        "well\n"
    );
    images.lodger(&["delete", "-f", "a"]).ok();
    images.lodger(&["image", "gc"]).ok();
    assert!(is_empty(&images.store().join("layers")));
}

#[test]
fn many_containers_of_one_image_start_at_once() {
    lodger_only!("an image");
    let images = Images::new();
    let store = images.store();
    let running: Vec<_> = (0..16)
        .map(|number| {
            let id = format!("c{number}");
            let script = format!("echo {number} >/data/mine; cat /data/mine");
            let mut command = images.fixture.command(&[
                "--store",
                store.to_str().unwrap(),
                "run",
                "--image",
                "small",
                &id,
                "/bin/sh",
                "-c",
                &script,
            ]);
            spawn(&mut command, b"")
        })
        .collect();
    for (number, one) in running.into_iter().enumerate() {
        assert_eq!(one.wait().ok(), format!("{number}\n"));
    }
    assert_eq!(images.containers("containers"), Vec::<String>::new());
}
