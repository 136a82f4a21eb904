//! A container's scope and its cgroup, as systemd and the kernel have them; for the tests in a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fixture, spawn, wait_for};

/// A controller's view in a container that may have the run of its own cgroup.
pub(crate) fn with_own_cgroups(fixture: &mut Fixture) {
    let namespaces = fixture.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({"type": "cgroup"}));
    fixture.mount(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev"]
    }));
}

/// What `systemctl --user` says.
pub(crate) fn systemctl(args: &[&str]) -> String {
    let mut command = Command::new("systemctl");
    spawn(command.arg("--user").args(args), b"").wait().ok()
}

/// Whether her manager can be asked.
pub(crate) fn answers() -> bool {
    let mut command = Command::new("systemctl");
    command.args(["--user", "show", "--property=Version"]);
    spawn(&mut command, b"").wait().code == 0
}

/// A property of a unit.
pub(crate) fn property(unit: &str, name: &str) -> String {
    let shown = systemctl(&["show", "--value", &format!("--property={name}"), unit]);
    shown.trim_end().to_owned()
}

/// The scopes that her manager has of this name, also those that failed or are only still loaded.
pub(crate) fn scopes(pattern: &str) -> Vec<String> {
    let listed = systemctl(&["list-units", "--all", "--plain", "--no-legend", pattern]);
    let units = listed.lines().filter_map(|l| l.split_whitespace().next());
    units.map(str::to_owned).collect()
}

/// The cgroup of a process, as a directory.
pub(crate) fn cgroup_of(pid: u64) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    Path::new("/sys/fs/cgroup").join(path.unwrap().trim_start_matches('/'))
}

/// The cgroup of the container's first process.
pub(crate) fn leaf(fixture: &Fixture, id: &str) -> PathBuf {
    cgroup_of(fixture.state(id)["pid"].as_u64().unwrap())
}

/// That of its scope.
pub(crate) fn scope(fixture: &Fixture, id: &str) -> PathBuf {
    let leaf = leaf(fixture, id);
    let is_scope = |path: &&Path| path.extension().is_some_and(|e| e == "scope");
    leaf.ancestors().find(is_scope).unwrap().to_owned()
}

/// The name of its scope.
pub(crate) fn unit(fixture: &Fixture, id: &str) -> String {
    let scope = scope(fixture, id);
    scope.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What a file of a cgroup says.
pub(crate) fn says(cgroup: &Path, file: &str) -> String {
    let text = fs::read_to_string(cgroup.join(file));
    let text = text.unwrap_or_else(|e| panic!("{cgroup:?} {file}: {e}"));
    text.trim_end().to_owned()
}

/// The number after `key` in a flat keyed file of a cgroup.
pub(crate) fn number(cgroup: &Path, file: &str, key: &str) -> u64 {
    let text = says(cgroup, file);
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {key} in {text}"))
}

/// Who keeps the limit that `property` of linux.resources asks for, as `state` tells it.
pub(crate) fn kept_by(state: &Value, property: &str) -> Value {
    let enforced = state["cgroup"]["enforced"].as_array().unwrap();
    let wanted = format!("/linux/resources/{property}");
    let found = enforced.iter().find(|limit| limit["property"] == wanted);
    found.unwrap_or_else(|| panic!("no {wanted} in {state}"))["by"].clone()
}

/// Waits until nothing is loaded of a scope.
#[track_caller]
pub(crate) fn assert_no_scope(pattern: &str) {
    wait_for(&format!("{pattern} to be unloaded"), || {
        scopes(pattern).is_empty().then_some(())
    });
}
