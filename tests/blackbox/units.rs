//! The units of systemd/, installed for her, and containers that are services of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;

use crate::harness::{Fixture, Ran, runtime_binary, spawn, wait_for};

/// The directory of the units in the source.
pub(crate) fn source() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("tests/run sets it");
    PathBuf::from(package).join("systemd")
}

fn home() -> PathBuf {
    std::env::var_os("HOME").expect("HOME").into()
}

/// Installs the units as they say, and the program where they look for it.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let units = home().join(".config/systemd/user");
        let programs = home().join(".local/bin");
        for directory in [&units, &programs] {
            fs::create_dir_all(directory).unwrap();
        }
        for name in ["lodger@.service", "lodger.slice"] {
            fs::copy(source().join(name), units.join(name)).unwrap();
        }
        symlink(runtime_binary(), programs.join("lodger")).unwrap();
        systemctl(&["daemon-reload"]).ok();
    });
}

/// `systemctl --user`.
pub(crate) fn systemctl(args: &[&str]) -> Ran {
    spawn(Command::new("systemctl").arg("--user").args(args), b"").wait()
}

/// A container that is the service lodger@NAME, on the shared root filesystem.
pub(crate) struct Service {
    name: &'static str,
    pub(crate) fixture: Fixture,
}

impl Service {
    /// With this shell script as its program, and a drop-in that has these lines.
    pub(crate) fn new(name: &'static str, script: &str, drop_in: &str) -> Service {
        install();
        let mut fixture = Fixture::new();
        fixture.sh(script);
        fixture.mount(json!({
            "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]
        }));
        let service = Service { name, fixture };
        if !drop_in.is_empty() {
            let directory = home().join(format!(".config/systemd/user/{}.d", service.unit()));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("test.conf"), format!("[Service]\n{drop_in}")).unwrap();
            systemctl(&["daemon-reload"]).ok();
        }
        service.write();
        service
    }

    /// Writes the bundle.
    pub(crate) fn write(&self) {
        let bundle = home().join(".local/share/lodger/bundles").join(self.name);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), self.fixture.config.to_string()).unwrap();
    }

    pub(crate) fn unit(&self) -> String {
        format!("lodger@{}.service", self.name)
    }

    /// `systemctl --user VERB` of it.
    pub(crate) fn does(&self, verb: &str) -> Ran {
        systemctl(&[verb, &self.unit()])
    }

    /// A property of it.
    pub(crate) fn property(&self, name: &str) -> String {
        let property = format!("--property={name}");
        let shown = systemctl(&["show", &property, "--value", &self.unit()]);
        shown.ok().trim_end().to_owned()
    }

    /// Waits until a property has this value.
    pub(crate) fn wait_property(&self, name: &str, value: &str) {
        wait_for(&format!("{name} to be {value}"), || {
            (self.property(name) == value).then_some(())
        });
    }

    /// lodger as she calls it, with the state directory of her session.
    #[expect(clippy::unused_self, reason = "it is about this one's runtime")]
    pub(crate) fn lodger(&self, args: &[&str]) -> Ran {
        spawn(Command::new(runtime_binary()).args(args), b"").wait()
    }

    /// `state`, parsed.
    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::from_str(&self.lodger(&["state", self.name]).ok()).unwrap()
    }

    /// Waits until its journal has a line.
    pub(crate) fn wait_journal(&self, line: &str) {
        wait_for(&format!("{line:?} in the journal"), || {
            self.journal_has(line).then_some(())
        });
    }

    pub(crate) fn journal_has(&self, line: &str) -> bool {
        let args = ["--user", "--output=cat", "--user-unit", &self.unit()];
        let read = spawn(Command::new("journalctl").args(args), b"").wait();
        read.out.lines().any(|there| there == line)
    }

    /// Nothing is left of it: no state, and no cgroup.
    pub(crate) fn is_gone(&self) {
        let listed = self.lodger(&["list", "-q"]).ok();
        assert!(!listed.lines().any(|id| id == self.name), "{listed}");
        let uid = rustix::process::getuid().as_raw();
        let cgroup = format!(
            "/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/lodger.slice/{}",
            self.unit()
        );
        assert!(!std::path::Path::new(&cgroup).exists(), "{cgroup}");
        let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").unwrap();
        let left = fs::read_dir(PathBuf::from(runtime_directory).join("lodger")).unwrap();
        for entry in left {
            let name = entry.unwrap().file_name();
            assert_ne!(name.to_str(), Some(self.name), "a state directory");
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ended = self.does("kill").code + systemctl(&["stop", &self.unit()]).code;
        let _forgotten = self.does("reset-failed");
    }
}
