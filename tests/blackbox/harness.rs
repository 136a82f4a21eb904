//! What every test uses: a bundle, a state root, a runtime with a time limit, and cleaning up after a panic.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::base::{base_config, patient, settle, tidy};

/// How long one command, or one condition, may take: only against a hang, for a machine with much else to do ([`patient`]).
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Prints why the test cannot run, for `tests/run` to count, and leaves the test.
macro_rules! skip {
    ($($why:tt)*) => {{
        println!("SKIP: {}", format_args!($($why)*));
        return;
    }};
}
pub(crate) use skip;

/// Leaves the test unless lodger itself is under test.
macro_rules! lodger_only {
    ($what:literal) => {
        if $crate::harness::peer() {
            $crate::harness::skip!("{} is lodger's own", $what);
        }
    };
}
pub(crate) use lodger_only;

/// Leaves the test for a peer that is known to behave otherwise. With `LODGER_CLAIMS` set it is run all the same, and must fail.
macro_rules! peer_differs {
    ($name:literal, $how:literal) => {
        if $crate::harness::under_test() == $name {
            if std::env::var_os("LODGER_CLAIMS").is_none() {
                $crate::harness::skip!("{} {}", $name, $how);
            }
            println!("CLAIM: {} {}", $name, $how);
        }
    };
}
pub(crate) use peer_differs;

/// Whether a peer (crun or runc) is under test.
pub(crate) fn peer() -> bool {
    under_test() != "lodger"
}

/// What asks a peer for a scope, where the caller has a systemd: lodger asks for one by itself.
fn systemd_for_peers() -> Option<&'static str> {
    let uid = rustix::process::getuid().as_raw();
    let bus = format!("/run/user/{uid}/bus");
    (peer() && Path::new(&bus).exists()).then_some("--systemd-cgroup")
}

/// The name of the runtime under test.
pub(crate) fn under_test() -> String {
    std::env::var("LODGER_UNDER_TEST").unwrap_or_else(|_| "lodger".into())
}

/// The runtime's binary.
pub(crate) fn runtime_binary() -> PathBuf {
    if peer() {
        return which(&under_test());
    }
    if crate::weak::off().is_some() {
        return crate::weak::binary();
    }
    std::env::var_os("LODGER_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_lodger")),
        PathBuf::from,
    )
}

pub(crate) fn which(name: &str) -> PathBuf {
    ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed"))
}

/// Polls until `condition` gives a value.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let late = begin.elapsed() >= patient(LIMIT);
        assert!(!late, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a command left: its exit code (128+n if a signal ended it) and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    #[expect(dead_code, reason = "read by the panic messages, through Debug")]
    command: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Asserts success; gives what was written to stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.exits(0).out
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts a failure with this exit code, nothing on stdout, and this text on stderr. Peers word it otherwise, and
    /// some use another code: of them only the failure is asked.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, text: &str) -> Ran {
        if peer() {
            assert_ne!(self.code, 0, "{self:#?}");
            return self;
        }
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.err.contains(text), "no {text:?} in {self:#?}");
        assert_eq!(self.out, "", "stdout must stay clean");
        self
    }
}

/// A command started in the background; it is killed when dropped.
pub(crate) struct Running {
    child: std::process::Child,
    directory: TempDir,
    command: String,
}

impl Running {
    /// The pid of the command.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub(crate) fn out(&self) -> String {
        read_lossy(&self.directory.path().join("out"))
    }

    /// Sends a signal, by name, to the command itself.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.pid(), name);
    }

    /// Waits for its end, at most [`LIMIT`].
    pub(crate) fn wait(mut self) -> Ran {
        self.wait_at_most(LIMIT).unwrap_or_else(|| {
            let out = self.out();
            let err = read_lossy(&self.directory.path().join("err"));
            panic!(
                "{} did not end; stdout {out:?} stderr {err:?}",
                self.command
            );
        })
    }

    /// Waits for its end, at most `limit`.
    pub(crate) fn wait_at_most(&mut self, limit: Duration) -> Option<Ran> {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > patient(limit) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Some(Ran {
            command: self.command.clone(),
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap()),
            out: self.out(),
            err: read_lossy(&self.directory.path().join("err")),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts a command with its output in files: a pipe would stay open in the container and never end.
pub(crate) fn spawn(command: &mut Command, stdin: &[u8]) -> Running {
    let directory = tempfile::tempdir().unwrap();
    // Appended to, so that a program that opens /dev/stdout anew writes after what is there.
    let file = |name: &str| {
        let path = directory.path().join(name);
        fs::OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(path)
            .unwrap()
    };
    file("in").write_all(stdin).unwrap();
    crate::weak::apply(command);
    command
        .stdin(fs::File::open(directory.path().join("in")).unwrap())
        .stdout(file("out"))
        .stderr(file("err"));
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Running {
        child,
        directory,
        command: format!("{command:?}"),
    }
}

/// Sends a signal, by name, to a process of ours.
pub(crate) fn send_signal(pid: u32, name: &str) {
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// Whether a process has not ended: one that has may wait to be reaped (Z), or be on its way out (X).
pub(crate) fn lives(pid: u32) -> bool {
    crate::tracing::process_state(pid).is_some_and(|state| !"ZXx".contains(state))
}

pub(crate) fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// A bundle, the state root and the containers of one test.
pub(crate) struct Fixture {
    directory: TempDir,
    /// The config, as the next command will see it.
    pub(crate) config: Value,
    ids: RefCell<Vec<String>>,
}

impl Fixture {
    /// A bundle on the shared root filesystem, which is read-only.
    pub(crate) fn new() -> Fixture {
        let mut fixture = Fixture::with_own_root();
        if let Some(rootfs) = std::env::var_os("LODGER_TEST_ROOTFS") {
            fixture.config["root"] = json!({"path": rootfs.to_str().unwrap(), "readonly": true});
        }
        fixture
    }

    /// A bundle with a busybox root filesystem of its own, which is writable.
    pub(crate) fn with_own_root() -> Fixture {
        let root = rustix::process::geteuid().is_root();
        assert!(!root, "the runtime is not tested as root: use tests/run");
        let directory = tempfile::Builder::new().prefix("bundle").tempdir().unwrap();
        let fixture = Fixture {
            config: base_config(),
            ids: RefCell::default(),
            directory,
        };
        for name in ["state", "bundle", "bundle/rootfs"] {
            fs::create_dir(fixture.path(name)).unwrap();
        }
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
            fs::create_dir(fixture.rootfs().join(name)).unwrap();
        }
        copy_program(&which("busybox"), &fixture.rootfs().join("bin/busybox"));
        for applet in APPLETS {
            symlink("busybox", fixture.rootfs().join("bin").join(applet)).unwrap();
        }
        fs::write(
            fixture.rootfs().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n",
        )
        .unwrap();
        fs::write(fixture.rootfs().join("etc/group"), "root:x:0:\n").unwrap();
        fixture
    }

    /// A path in the test's own directory on the host.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The bundle's directory.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    /// The bundle's own root filesystem.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path("bundle/rootfs")
    }

    /// Puts the probe at /probe of the bundle's own root filesystem.
    pub(crate) fn add_probe(&self) {
        copy_program(&probe_binary(), &self.rootfs().join("probe"));
    }

    /// Sets the program and its arguments.
    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// Sets a shell script as the program.
    pub(crate) fn sh(&mut self, script: &str) -> &mut Self {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Appends a mount.
    pub(crate) fn mount(&mut self, mount: Value) -> &mut Self {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Takes away the mount at this destination.
    pub(crate) fn unmount(&mut self, destination: &str) -> &mut Self {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != destination);
        self
    }

    /// Takes away a namespace.
    pub(crate) fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// Writes config.json as it stands.
    pub(crate) fn write_config(&self) {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        fs::write(self.bundle().join("config.json"), text).unwrap();
    }

    /// The runtime's command with the test's own state root, run in the bundle's directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        // The verb may come after options.
        let makes = args
            .iter()
            .any(|arg| ["run", "create", "restore"].contains(arg));
        if let Some(id) = args.last().filter(|_| makes) {
            // What cannot be an id cannot be deleted either.
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
            if !id.is_empty() && !id.starts_with('.') && id.chars().all(allowed) {
                self.ids.borrow_mut().push((*id).to_string());
            }
        }
        let mut command = Command::new(runtime_binary());
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(systemd_for_peers())
            .args(args)
            .current_dir(self.bundle());
        command
    }

    /// Writes config.json and runs the runtime to its end. The first argument is the verb, the last one of `run`,
    /// `create` and `restore` the container's id.
    pub(crate) fn runtime(&self, args: &[&str]) -> Ran {
        self.write_config();
        self.bare(args)
    }

    /// Runs the runtime to its end, with config.json as it lies there.
    pub(crate) fn bare(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    /// Writes config.json and starts the runtime in the background.
    pub(crate) fn background(&self, args: &[&str], stdin: &[u8]) -> Running {
        self.write_config();
        spawn(&mut self.command(args), stdin)
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Ran {
        self.runtime(&["run", "c"])
    }

    /// `state`, parsed.
    pub(crate) fn state(&self, id: &str) -> Value {
        let text = self.bare(&["state", id]).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// `state`'s status.
    pub(crate) fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_string()
    }

    /// All paths of the test's directory, sorted.
    pub(crate) fn listing(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let mut open = vec![self.directory.path().to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                paths.push(entry.path());
            }
        }
        paths.sort();
        paths
    }

    /// Waits until the container has this status: it may be about to come, or to go.
    pub(crate) fn wait_status(&self, id: &str, status: &str) {
        wait_for(&format!("{id} to be {status}"), || {
            let state = self.bare(&["state", id]).out;
            (serde_json::from_str::<Value>(&state).ok()?["status"] == status).then_some(())
        });
    }

    /// Creates and starts a container that waits to be killed.
    pub(crate) fn sleeping(&mut self, id: &str) {
        self.args(&["/bin/sleep", "600"]);
        self.runtime(&["run", "-d", id]).ok();
        self.wait_status(id, "running");
        settle(self, id);
    }

    /// Deletes its containers.
    fn delete_all(&self) {
        let mut report = String::new();
        for id in self.ids.take() {
            // An id may read as an option.
            let mut command = self.command(&["delete", "--force", "--", &id]);
            // All of them, whatever comes of the first.
            match spawn(&mut command, b"").wait_at_most(LIMIT) {
                Some(ran) if ran.code == 0 => {}
                Some(ran) => drop(writeln!(report, "delete --force {id}: {}", ran.err)),
                None => drop(writeln!(report, "delete --force {id} did not end")),
            }
        }
        assert!(report.is_empty(), "{report}");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        tidy(|| self.delete_all());
    }
}

/// Puts a program somewhere. Not written by this process: a child of another test's thread would hold the file open for
/// writing for a moment, and a file that is open for writing cannot be executed (ETXTBSY).
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let mut install = Command::new("/usr/bin/install");
    install.args(["-m", "755"]).arg(from).arg(to);
    spawn(&mut install, b"").wait().ok();
}

/// Writes a program; see [`copy_program`].
pub(crate) fn write_program(path: &Path, content: &[u8]) {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path);
    spawn(&mut shell, content).wait().ok();
}

/// The static probe that is run in a container.
pub(crate) fn probe_binary() -> PathBuf {
    PathBuf::from(
        std::env::var_os("LODGER_PROBE").expect("LODGER_PROBE: run the tests with tests/run"),
    )
}

const APPLETS: &[&str] = &[
    "cat", "chmod", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls",
    "mkdir", "mount", "nc", "pwd", "readlink", "rm", "sh", "sleep", "stat", "touch", "true",
    "umount",
];
