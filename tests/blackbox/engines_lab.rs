//! podman and buildah of the ordinary user, with a home, a runtime directory, images and storage of this run alone.
//!
//! `tests/run` gives these tests a view of the machine where cgroups are purely version 2, which the engines want, and a
//! process namespace of their own, so that nothing they start survives them.

use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::statfs;
use serde_json::Value;

use crate::base::tidy;
use crate::checkpoint_lab::criu;
use crate::harness::{Ran, Running, copy_program, peer, runtime_binary, skip, spawn, which};

/// The image of these tests: busybox.
pub(crate) const IMAGE: &str = "localhost/busybox:1";

/// What every engine finds in the home directory, besides the drop-in that is shipped.
const CONFIG: &[(&str, &str)] = &[
    (
        "policy.json",
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    ),
    (
        "containers.conf",
        "[containers]\nnetns = \"none\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
    ),
];

/// Where the engines live, shared by all tests: an import takes longer than a container.
#[derive(Debug)]
struct Lab {
    home: PathBuf,
    /// Short: podman waits for ever where the names of the sockets beneath it are too long for conmon.
    runtime_directory: PathBuf,
}

static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();

/// One test's view of the engines, with one runtime. Containers with its names are removed at the end.
pub(crate) struct Engines {
    lab: &'static Lab,
    /// The runtime, as `--runtime` gets it.
    pub(crate) runtime: PathBuf,
    control: bool,
    names: RefCell<Vec<String>>,
}

/// Runs `test` with the runtime under test. What fails with lodger is tried with crun: if that fails as well, the host is
/// at fault, and the test is skipped.
#[track_caller]
pub(crate) fn engines(test: impl Fn(&Engines)) {
    let lab = match LAB.get_or_init(Lab::set_up) {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let with = |runtime, control| {
        let engines = Engines {
            lab,
            runtime,
            control,
            names: RefCell::default(),
        };
        catch_unwind(AssertUnwindSafe(|| test(&engines)))
    };
    let Err(failure) = with(runtime_binary(), false) else {
        return;
    };
    if peer() {
        resume_unwind(failure);
    }
    if with(which("crun"), true).is_err() {
        skip!("this fails here with crun as well as with lodger");
    }
    resume_unwind(failure);
}

impl Lab {
    fn set_up() -> Result<Lab, String> {
        for program in ["podman", "buildah", "crun", "conmon"] {
            if !["/usr/bin", "/usr/local/bin"]
                .iter()
                .any(|d| Path::new(d).join(program).exists())
            {
                return Err(format!("{program} is not installed"));
            }
        }
        let cgroup2 = statfs("/sys/fs/cgroup").is_ok_and(|s| s.f_type == 0x6367_7270);
        if !cgroup2 {
            return Err(
                "the engines need a host with cgroup v2 alone, or root to make one for them".into(),
            );
        }
        let lab = Lab {
            home: std::env::temp_dir().join("engines"),
            runtime_directory: std::env::var_os("XDG_RUNTIME_DIR")
                .expect("tests/run sets it")
                .into(),
        };
        for directory in [".config/containers/containers.conf.d", "root"] {
            fs::create_dir_all(lab.home.join(directory)).unwrap();
        }
        let config = lab.home.join(".config/containers");
        for (name, content) in CONFIG {
            fs::write(config.join(name), content).unwrap();
        }
        let drop_in = Path::new("contrib/containers.conf.d/lodger.conf");
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("tests/run sets it");
        fs::copy(
            Path::new(&package).join(drop_in),
            config.join("containers.conf.d/lodger.conf"),
        )
        .unwrap();
        lab.make_image()?;
        Ok(lab)
    }

    /// Puts busybox into the storage. The overlay driver is what people have; where that cannot be, files are copied.
    fn make_image(&self) -> Result<(), String> {
        let root = self.home.join("root");
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        copy_program(&which("busybox"), &root.join("bin/busybox"));
        let applets = spawn(Command::new(which("busybox")).arg("--list"), b"").wait();
        for applet in applets.ok().lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
        let mut said = String::new();
        for driver in ["overlay", "vfs"] {
            let file = self.home.join(".config/containers/storage.conf");
            fs::write(file, format!("[storage]\ndriver = \"{driver}\"\n")).unwrap();
            let script = format!("tar -C \"$HOME/root\" -c . | podman import -q - {IMAGE}");
            let ran = spawn(&mut self.command(&["/bin/sh", "-c", &script]), b"").wait();
            if ran.code == 0 {
                return Ok(());
            }
            said = ran.err;
        }
        Err(format!("podman cannot import an image here: {said}"))
    }

    /// A command with the environment of the engines and no other, so that it can be run on a terminal.
    fn command(&self, command: &[&str]) -> Command {
        let mut env = Command::new("/usr/bin/env");
        let own = runtime_binary();
        let mut path = own.parent().unwrap().display().to_string();
        // The runtime finds CRIU where the engine's daemon would find it.
        if let Some(criu) = criu() {
            path = format!("{path}:{}", criu.parent().unwrap().display());
        }
        env.args(["-i", "TERM=xterm", "LANG=C.UTF-8"])
            .arg(format!(
                "PATH={path}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
            ))
            .arg(format!("HOME={}", self.home.display()))
            .arg(format!(
                "XDG_RUNTIME_DIR={}",
                self.runtime_directory.display()
            ))
            .arg(format!("TMPDIR={}", std::env::temp_dir().display()))
            .args(command)
            .current_dir(&self.home);
        env
    }
}

impl Engines {
    /// Whether crun is asked in place of lodger.
    pub(crate) fn with_peer(&self) -> bool {
        self.control || peer()
    }

    /// A name for a container of this test, which goes with the test.
    pub(crate) fn name(&self, name: &str) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.names.borrow_mut().push(unique.clone());
        unique
    }

    /// A path in the home directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.lab.home.join(name)
    }

    /// A new directory, for a volume or a build.
    pub(crate) fn directory(&self) -> PathBuf {
        let path = self.path(&self.name("directory"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// A new directory for sockets, whose name is short.
    pub(crate) fn socket_directory(&self) -> PathBuf {
        let path = self.lab.runtime_directory.join(self.name("s"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// Any command in the engines' environment.
    pub(crate) fn command(&self, command: &[&str]) -> Command {
        self.lab.command(command)
    }

    /// `podman` with the runtime.
    pub(crate) fn podman_command(&self, args: &[&str]) -> Command {
        let runtime = self.runtime.to_str().unwrap();
        self.command(&[&["podman", "--runtime", runtime], args].concat())
    }

    /// `podman`, to its end.
    pub(crate) fn podman(&self, args: &[&str]) -> Ran {
        spawn(&mut self.podman_command(args), b"").wait()
    }

    /// `podman run`, with what the runtime cannot do yet left out.
    pub(crate) fn run_command(&self, args: &[&str]) -> Command {
        self.podman_command(&[&["run"], self.without(), args].concat())
    }

    /// `podman run`, to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        spawn(&mut self.run_command(args), b"").wait()
    }

    /// `podman run` in the background.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        spawn(&mut self.run_command(args), b"")
    }

    /// `podman run IMAGE sh -c SCRIPT` with options: what it wrote, as the log has it.
    #[track_caller]
    pub(crate) fn sh(&self, options: &[&str], script: &str) -> String {
        let name = self.name("sh");
        let args = [&["--name", &name], options, &[IMAGE, "sh", "-c", script]].concat();
        self.run(&args).ok();
        self.podman(&["logs", &name]).ok()
    }

    /// A container that runs until it is ended: its name.
    #[track_caller]
    pub(crate) fn sleeping(&self, options: &[&str]) -> String {
        let name = self.name("sleeping");
        let args = [&["-d", "--name", &name], options, &[IMAGE, "sleep", "600"]].concat();
        self.run(&args).ok();
        name
    }

    /// The options that do without what the runtime says it cannot do.
    pub(crate) fn without(&self) -> &'static [&'static str] {
        if self.with_peer() || self.has("/linux/seccomp/enabled") {
            &[]
        } else {
            &["--security-opt", "seccomp=unconfined"]
        }
    }

    /// Whether lodger's `features` have this property true.
    fn has(&self, pointer: &str) -> bool {
        let mut features = Command::new(&self.runtime);
        let text = spawn(features.arg("features"), b"").wait().ok();
        let document: Value = serde_json::from_str(&text).unwrap();
        document.pointer(pointer).and_then(Value::as_bool) == Some(true)
    }
}

/// Runs `command` again while it has succeeded without a word: with every runtime podman 4.3 now and then shows nothing of
/// what a program wrote that was quick to end.
pub(crate) fn shown(mut command: impl FnMut() -> Ran) -> Ran {
    const TRIES: usize = 5;
    let mut tries = (0..TRIES).map(|_| command());
    let told = |ran: &Ran| ran.code != 0 || !ran.out.is_empty();
    tries.find(told).expect("podman shows nothing, each time")
}

impl Drop for Engines {
    fn drop(&mut self) {
        let names = self.names.take();
        if names.is_empty() {
            return;
        }
        let mut args = vec!["rm", "--force", "--ignore", "--time", "0"];
        args.extend(names.iter().map(String::as_str));
        tidy(|| drop(self.podman(&args).exits(0)));
    }
}
