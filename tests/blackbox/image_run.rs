//! `run --image` with images that say how they are to be run, friendly and hostile ones.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lodger::image::Digest;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::base::tidy;
use crate::harness::{Fixture, Ran, lodger_only, spawn};
use crate::weak::{Outcome, held_by};

/// The image `i` in a store of its own: the fixture's root filesystem, and a config.
pub(crate) struct Image {
    pub(crate) fixture: Fixture,
}

impl Image {
    /// An image whose config has `config`; `change` may change its files first.
    pub(crate) fn new(config: &Value, change: impl FnOnce(PathBuf)) -> Image {
        let image = Image {
            fixture: Fixture::with_own_root(),
        };
        let root = image.fixture.rootfs();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:w:/tmp:/bin/sh\n77:x:0:0::/:\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        fs::write(
            root.join("etc/group"),
            "root:x:0:\nwww:x:34:\nadm:x:4:www\n",
        )
        .unwrap();
        change(root);
        image.write_layout(config);
        let source = format!("oci:{}", image.fixture.path("layout").display());
        image.lodger(&["image", "import", &source, "i"]).ok();
        image
    }

    fn write_layout(&self, config: &Value) {
        let layout = self.fixture.path("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let tar = self.fixture.path("layer.tar");
        let mut command = Command::new("tar");
        command.args(["--owner=0", "--group=0", "--sparse", "-c", "-C"]);
        command
            .arg(self.fixture.rootfs())
            .arg("-f")
            .arg(&tar)
            .arg(".");
        spawn(&mut command, b"").wait().ok();
        let blob = |content: &[u8], kind: &str| {
            let digest = Digest::of(content);
            fs::write(layout.join("blobs/sha256").join(digest.hex()), content).unwrap();
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest.to_string(), "size": content.len()})
        };
        let layer = blob(&fs::read(&tar).unwrap(), "layer.v1.tar");
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "os": "linux", "architecture": architecture, "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}
        });
        let config = blob(config.to_string().as_bytes(), "config.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": [layer]
        });
        let manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json");
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(
            layout.join("oci-layout"),
            r#"{"imageLayoutVersion": "1.0.0"}"#,
        )
        .unwrap();
    }

    pub(crate) fn lodger(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.fixture.command(&[]);
        command
            .arg("--store")
            .arg(self.fixture.path("store"))
            .args(args);
        command
    }

    /// `run` with these options, and with `args` after the id.
    pub(crate) fn run(&self, options: &[&str], args: &[&str]) -> Ran {
        self.lodger(&[&["run", "--image", "i"], options, &["c"], args].concat())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Files of subordinate ids are not hers to remove in any other way.
        for args in [
            &["delete", "-f", "c"][..],
            &["image", "remove", "i"],
            &["image", "gc"],
        ] {
            tidy(|| drop(self.lodger(args)));
        }
    }
}

#[test]
fn the_image_says_what_runs_and_the_options_have_the_last_word() {
    lodger_only!("an image");
    let show = "echo $0 $* - $A $B - $(pwd) $(id -u):$(id -G)";
    let image = Image::new(
        &json!({
            "Entrypoint": ["/bin/sh", "-c", show, "zero"], "Cmd": ["one"], "Env": ["A=1", "B=2", "PATH=/bin"],
            "WorkingDir": "/tmp/work", "User": "www"
        }),
        |_| {},
    );
    let said = |options: &[&str], args: &[&str]| image.run(options, args).ok();
    assert_eq!(said(&[], &[]), "zero one - 1 2 - /tmp/work 33:34 4\n");
    // Whatever it begins with, it is the program's.
    assert_eq!(
        said(&[], &["-v", "-t"]),
        "zero -v -t - 1 2 - /tmp/work 33:34 4\n"
    );
    let options = ["-e", "A=mine", "-e", "B", "-w", "/", "-u", "0:adm"];
    let mut command = image.command(&["run", "--image", "i"]);
    command.args(options).arg("c").env("B", "of the caller");
    let out = spawn(&mut command, b"").wait().ok();
    assert_eq!(out, "zero one - mine of the caller - / 0:4\n");
    assert_eq!(said(&["--entrypoint", "/bin/echo"], &["-n", "x"]), "x");
    assert_eq!(said(&["--entrypoint", ""], &["/bin/echo", "y"]), "y\n");
    image
        .run(&["-u", "nobody"], &[])
        .fails(1, "there is no user \"nobody\" in its /etc/passwd");
    image
        .run(&["--entrypoint", ""], &[])
        .fails(1, "it says no program");
}

#[test]
fn directories_of_the_host_are_bound_and_volumes_stay_writable() {
    lodger_only!("an image");
    let image = Image::new(
        &json!({"Cmd": ["/bin/true"], "Volumes": {"/data": {}}}),
        |root| {
            fs::create_dir(root.join("data")).unwrap();
            fs::write(root.join("data/seed"), "seed\n").unwrap();
        },
    );
    let mine = image.fixture.bundle().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("file"), "mine\n").unwrap();
    let script = [
        "/bin/sh",
        "-c",
        "cat /data/seed /m/file; echo x >/data/x && echo y >/m/y",
    ];
    // The working directory is the bundle's.
    let out = image.run(&["-v", "./mine:/m"], &script).ok();
    assert_eq!(out, "seed\nmine\n");
    assert!(mine.join("y").exists());
    let ran = image
        .run(&["--read-only", "-v", "./mine:/m:ro"], &script)
        .exits(1);
    assert_eq!(ran.out, "seed\nmine\n");
    assert!(ran.err.contains("/m/y: Read-only file system"), "{ran:#?}");
    assert!(ran.err.contains("/config/Volumes/~1data"), "{ran:#?}");
    // Nobody else's data is in the way.
    let script = ["/bin/sh", "-c", "ls -A /data; touch /tmp/x"];
    let ran = image.run(
        &["--read-only", "--tmpfs", "/data", "--tmpfs", "/tmp"],
        &script,
    );
    assert_eq!(ran.ok(), "");
}

/// Whatever the root filesystem is, the directories of volumes are in it, and the image stays as it is.
#[test]
fn a_volume_that_the_image_lacks_is_there_and_writable() {
    lodger_only!("an image");
    let config = json!({"Volumes": {"/made/here": {}, "/link/too": {}}});
    let image = Image::new(&config, |root| {
        std::os::unix::fs::symlink("/tmp", root.join("link")).unwrap();
    });
    let script = "for d in /made/here /tmp/too; do echo written >$d/file && cat $d/file; done; grep -c ' /made/here ' /proc/mounts";
    for (options, mounts) in [
        (&[][..], "0"),
        (&["--read-only"], "1"),
        (&["--copy"], "0"),
        (&["--tmpfs-upper"], "0"),
    ] {
        let ran = image.run(options, &["/bin/sh", "-c", script]);
        let expected = format!("written\nwritten\n{mounts}\n");
        assert_eq!(ran.out, expected, "{options:?}: {ran:?}");
    }
    // Whatever the caller's umask, they are no one user's alone.
    for options in [&[][..], &["--copy"]] {
        let words = [
            &["run", "--image", "i", "-u", "33"],
            options,
            &["c", "/bin/ls", "-d", "/made/here/."],
        ];
        let command = image.command(&words.concat());
        let mut strict = Command::new("sh");
        strict.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        strict.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => strict.env(name, value),
                None => strict.env_remove(name),
            };
        }
        let out = spawn(&mut strict, b"").wait().ok();
        assert_eq!(out, "/made/here/.\n", "{options:?}");
    }
    let layers = fs::read_dir(image.fixture.path("store/layers")).unwrap();
    for layer in layers {
        let root = layer.unwrap().path().join("root");
        assert!(root.join("link").symlink_metadata().is_ok() && !root.join("made").exists());
    }
}

/// CVE-2026-47262, CVE-2024-9676: a passwd file that never ends, that nobody writes to, or that is the host's.
#[test]
fn a_passwd_file_that_is_none_is_refused_or_never_the_hosts() {
    lodger_only!("an image");
    // Not id(1), which would look into the file as well.
    let config = json!({"Cmd": ["/bin/echo", "ran"], "User": "lodger"});
    let passwd = |root: &PathBuf| {
        let path = root.join("etc/passwd");
        fs::remove_file(&path).unwrap();
        path
    };
    let fifo = Image::new(&config, |root| {
        let mode = Mode::from_raw_mode(0o644);
        mknodat(CWD, passwd(&root), FileType::Fifo, mode, 0).unwrap();
    });
    fifo.run(&[], &[]).fails(1, "/etc/passwd");
    assert_eq!(fifo.run(&["-u", "5:5"], &[]).ok(), "ran\n");
    let huge = Image::new(&config, |root| {
        fs::File::create(passwd(&root))
            .unwrap()
            .set_len(3 << 30)
            .unwrap();
    });
    huge.run(&[], &[]).fails(1, "/etc/passwd");
    let host = Image::new(&config, |root| {
        let far = "../".repeat(40) + "etc/passwd-of-the-host";
        std::os::unix::fs::symlink(far, passwd(&root)).unwrap();
    });
    host.run(&[], &[])
        .fails(1, "there is no user \"lodger\" in its /etc/passwd");
}

/// CVE-2016-3697, CVE-2024-40635.
#[test]
fn a_number_is_that_id_or_refused() {
    lodger_only!("an image");
    let image = Image::new(
        &json!({"Cmd": ["/bin/sh", "-c", "id -u"], "User": "77"}),
        |_| {},
    );
    assert_eq!(image.run(&[], &[]).ok(), "77\n");
    for user in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1:4294967296",
    ] {
        image.run(&["-u", user], &[]).fails(1, "is no id");
    }
    for user in ["", ":", "1:", ":1", "-1", "+0", "1:2:3"] {
        image.run(&[&format!("-u{user}")], &[]).exits(1);
    }
    image.run(&["-u", "4000000000"], &[]).fails(1, "not mapped");
}

/// CVE-2026-53488: a label that would keep the caller's own groups, were it an annotation.
#[test]
fn a_label_steers_nothing() {
    lodger_only!("an image");
    let image = Image::new(
        &json!({"Cmd": ["/bin/sh", "-c", "id -G"], "Labels": {"run.oci.keep_original_groups": "1", "\u{9b}1m": "\u{1b}[2J"}}),
        |_| {},
    );
    held_by(&["Labels"], || {
        let ran = image.run(&[], &[]).exits(0);
        assert!(!ran.err.contains(['\u{1b}', '\u{9b}']), "{ran:#?}");
        let groups = ran.out.trim().to_owned();
        let others = (groups != "0").then(|| format!("groups {groups}"));
        Outcome::of(others, format!("groups {groups}, {}", ran.err))
    });
}
