//! The caller's session.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{HostFacts, SessionReading};

/// The session, its runtime directory and its systemd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// `$XDG_RUNTIME_DIR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_directory: Option<PathBuf>,
    /// Whose that is; `None`: it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// Whether /run/user/UID is there and the caller's.
    pub has_usual: bool,
    /// Whether the machine was booted with systemd (sd_booted(3)).
    pub has_systemd: bool,
    /// Where the caller's own may be spoken to, and what a logout means.
    pub systemd: SessionReading,
}

impl Session {
    /// Reads all.
    pub(super) fn read(facts: &HostFacts) -> Self {
        let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
        let runtime_directory = runtime_directory.map(PathBuf::from);
        let owner = |path: &Path| std::fs::metadata(path).ok().map(|found| found.uid());
        let usual = format!("/run/user/{}", facts.uid);
        let mut systemd = SessionReading::find(facts.uid, &facts.uid_map);
        systemd.learn_logout(facts.user_name.as_deref());
        Self {
            owner: runtime_directory.as_deref().and_then(owner),
            runtime_directory,
            has_usual: owner(Path::new(&usual)) == Some(facts.uid),
            has_systemd: Path::new("/run/systemd/system").exists(),
            systemd,
        }
    }
}
