//! What the kernel and its security modules are set to.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::text;
use crate::host::{MountLine, parse_mountinfo};
use crate::sys;

/// The most that is read of the mount table, in bytes.
const MOUNT_TABLE_LIMIT: usize = 4 << 20;

/// The link of the initial user namespace (PROC_USER_INIT_INO).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// The kernel and its security modules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// uname -r.
    pub release: String,
    /// Whether /proc/self/ns/user is there; `None`: /proc tells nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespaces: Option<bool>,
    /// /proc/sys/user/max_user_namespaces, of the caller's user namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_user_namespaces: Option<u64>,
    /// kernel.unprivileged_userns_clone, which Debian's kernels have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userns_clone: Option<u64>,
    /// kernel.apparmor_restrict_unprivileged_userns, which Ubuntu's kernels have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_restricts: Option<u64>,
    /// The caller's AppArmor profile; `None`: there is no AppArmor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// Whether SELinux enforces its policy; `None`: there is no SELinux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_enforces: Option<bool>,
    /// The caller's SELinux context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_context: Option<String>,
    /// ID and ID_LIKE of os-release(5).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distribution: Vec<String>,
}

impl Kernel {
    /// Reads what it can.
    pub(super) fn read() -> Self {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let proc_tells = Path::new("/proc/self/ns").exists();
        let enabled = text::read("/sys/module/apparmor/parameters/enabled");
        let apparmor = enabled.is_some_and(|word| word == "Y");
        let own = || {
            text::read("/proc/self/attr/apparmor/current")
                .or_else(|| text::read("/proc/self/attr/current"))
                .unwrap_or_default()
        };
        let selinux_enforces = text::number("/sys/fs/selinux/enforce").map(|number| number == 1);
        Self {
            release,
            user_namespaces: proc_tells.then(|| Path::new("/proc/self/ns/user").exists()),
            max_user_namespaces: text::number("/proc/sys/user/max_user_namespaces"),
            userns_clone: text::number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: text::number(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            ),
            apparmor_profile: apparmor.then(own),
            selinux_context: selinux_enforces.and_then(|_| text::read("/proc/self/attr/current")),
            selinux_enforces,
            distribution: distribution(),
        }
    }

    /// Whether AppArmor confines this caller, or restricts user namespaces, as far as can be read.
    pub fn has_apparmor(&self) -> bool {
        let profile = self.apparmor_profile.as_deref();
        let confined = profile.is_some_and(|p| !p.is_empty() && p != "unconfined");
        confined || self.apparmor_restricts == Some(1)
    }

    /// Whether a security module confines this caller, as far as can be read.
    pub fn has_security_module(&self) -> bool {
        self.has_apparmor() || self.selinux_enforces == Some(true)
    }
}

/// The mounts that this process sees; none where /proc does not tell.
pub(super) fn mounts() -> Vec<MountLine> {
    let text = sys::path::read_regular(Path::new("/proc/self/mountinfo"), MOUNT_TABLE_LIMIT);
    text.map_or_else(|_| Vec::new(), |text| parse_mountinfo(&text))
}

/// Whether this process is in another user namespace than the initial one.
pub(super) fn in_user_namespace() -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/user");
    namespace.is_ok_and(|namespace| namespace != Path::new(INITIAL_USER_NAMESPACE))
}

fn distribution() -> Vec<String> {
    let text = text::read("/etc/os-release").or_else(|| text::read("/usr/lib/os-release"));
    let text = text.unwrap_or_default();
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        ["ID", "ID_LIKE"]
            .contains(&key)
            .then(|| value.trim_matches('"').to_owned())
    });
    values
        .flat_map(|value| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
