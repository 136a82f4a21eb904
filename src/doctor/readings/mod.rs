//! What the rows of the table look at: readings and the answers to trials, as plain data, so that a host is a fixture file.
//!
//! Everything may be missing: a failing command reads only what its step needs, and may be where much cannot be read any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Step;
use super::trials::answering;
use crate::error::{Origin, shell_word};
use crate::host::{CgroupReading, HostFacts};
use crate::sys::invalid::Call;

mod after;
mod caller;
mod helpers;
mod kernel;
mod limits;
mod mounts;
mod places;
mod session;
mod subids;
mod text;

pub use caller::Caller;
pub use helpers::Helper;
pub use kernel::Kernel;
pub use limits::{Device, Devices, Limits};
pub use mounts::{Mounts, Seen};
pub use places::{Place, Places, Turn, reach};
pub use session::Session;
pub use subids::SubIds;

/// A host and a caller, as far as they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readings {
    /// Who asks, and what was taken from her process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// What the kernel and its security modules are set to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// What `run` reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
    /// newuidmap(1) and newgidmap(1), in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helpers: Option<[Helper; 2]>,
    /// What is around the caller's subordinate ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subids: Option<SubIds>,
    /// /proc and /sys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Mounts>,
    /// Home, store and state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub places: Option<Places>,
    /// What of these does not answer, so that none was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<Turn>,
    /// The way to a place, where others than the caller cannot go it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Control groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupReading>,
    /// Devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Devices>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What a command failed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failed>,
    /// Whether it failed for a quota (EDQUOT).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub over_quota: bool,
    /// What was tried, or what a command failed at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub trials: BTreeMap<Trial, Outcome>,
    /// Calls, and the error number with which a filter, or a kernel without them, answers each; `None`: it is the kernel's to answer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, Option<i32>>,
}

/// A directory that keeps ids out that are neither its owner nor in its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// What is behind it.
    pub target: PathBuf,
    /// The directory.
    pub directory: PathBuf,
    /// Its mode.
    pub mode: u32,
}

/// What can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trial {
    /// A process, for the other trials.
    Process,
    /// A user namespace with all ids of the caller's, as `run` makes it.
    Outer,
    /// A user namespace with her own id alone.
    SingleId,
    /// In either: one more, with all other namespaces of a container.
    Inner,
    /// Without one more: the other namespaces of a container alone.
    Namespaces,
    /// The inner one's id maps.
    Maps,
    /// The propagation of all mounts.
    Propagation,
    /// A tmpfs.
    Tmpfs,
    /// A bind mount.
    Bind,
    /// An overlay on that tmpfs.
    Overlay,
    /// A new procfs.
    Proc,
    /// A new sysfs.
    Sysfs,
    /// A new mqueue.
    Mqueue,
    /// A new devpts.
    Devpts,
    /// A file of the tmpfs given to a second id.
    Chown,
    /// A file of the store's filesystem given to a second id.
    ChownStore,
    /// An extended attribute in the store's filesystem.
    Xattr,
    /// A session keyring.
    Keyring,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It works.
    Works,
    /// It does not.
    Failed(Failed),
}

/// Why something failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// The system call, if it is known which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What was being done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The message, for people.
    pub message: String,
}

impl Closed {
    /// The first such directory on the way to `target`.
    fn before(target: PathBuf) -> Option<Self> {
        let (directory, mode) = reach(&target)?;
        Some(Self {
            target,
            directory,
            mode,
        })
    }
}

impl Failed {
    /// The kernel's answer; 0 if it is not known.
    pub fn errno(&self) -> i32 {
        self.origin.as_ref().map_or(0, |origin| origin.errno)
    }

    /// Whether the kernel refused it as something that this caller may not do.
    pub fn is_denied(&self) -> bool {
        [libc::EPERM, libc::EACCES].contains(&self.errno())
    }
}

impl Readings {
    /// Everything but the trials; `store` and `root` are the places that were named.
    pub fn read(store: Option<&Path>, root: Option<&Path>) -> Self {
        let facts = HostFacts::probe();
        let silent = answering::silent(store, root);
        let places = silent.is_none().then(|| Places::read(store, root));
        let home = places.as_ref().and_then(|places| places.home.as_ref());
        let home = home.filter(|home| home.owner == facts.uid);
        let home = home.map(|home| home.path.clone());
        let mut readings = Self {
            caller: Some(Caller::read(Some(&facts))),
            kernel: Some(Kernel::read()),
            helpers: Some(Helper::both(Some(&facts))),
            subids: Some(SubIds::read(&facts)),
            mounts: Some(Mounts::read()),
            closed: home.and_then(Closed::before),
            session: Some(Session::read(&facts)),
            cgroup: facts.cgroup.clone(),
            devices: Some(Devices::read()),
            limits: Some(Limits::read(facts.uid)),
            places,
            silent,
            facts: Some(facts),
            ..Self::default()
        };
        readings.ask(&Call::EVERYWHERE);
        readings
    }

    /// Asks who answers `calls`.
    fn ask(&mut self, calls: &[Call]) {
        let answers = calls
            .iter()
            .map(|call| (call.name().to_owned(), call.ask()));
        self.calls.extend(answers);
    }

    /// Why the first of `trials` that failed did; `None`: none did, as far as they were made.
    pub fn failed(&self, trials: &[Trial]) -> Option<&Failed> {
        trials
            .iter()
            .find_map(|trial| match self.trials.get(trial) {
                Some(Outcome::Failed(failed)) => Some(failed),
                _ => None,
            })
    }

    /// Whether `trial` was made, and works.
    pub fn works(&self, trial: Trial) -> bool {
        self.trials.get(&trial) == Some(&Outcome::Works)
    }

    /// Whether what failed, if a command did, may have failed for a cause that gives one of `errnos`.
    pub fn may_be(&self, errnos: &[i32]) -> bool {
        let failure = self.failure.as_ref();
        failure.is_none_or(|failed| errnos.contains(&failed.errno()))
    }

    /// Whether what failed, if a command did, has to do with `word`.
    pub fn may_concern(&self, word: &str) -> bool {
        let failure = self.failure.as_ref();
        failure.is_none_or(|failed| failed.message.contains(word))
    }

    /// The error number with which a filter answers `call`.
    pub fn filtered(&self, call: &str) -> Option<i32> {
        self.calls.get(call).copied().flatten()
    }

    /// The caller's name, else her uid: what commands for her take.
    pub fn name(&self) -> String {
        let facts = self.facts.as_ref();
        let name = self.caller.as_ref().and_then(|caller| caller.name.clone());
        let name = name.or_else(|| facts.and_then(|facts| facts.user_name.clone()));
        let uid = || {
            let uid = self.caller.as_ref().map(|caller| caller.uid);
            let uid = uid.or_else(|| facts.map(|facts| facts.uid));
            uid.map_or_else(|| "USER".to_owned(), |uid| uid.to_string())
        };
        name.unwrap_or_else(uid)
    }

    /// As [`Self::name`], as a word of a shell.
    pub fn name_in_shell(&self) -> String {
        shell_word(&self.name())
    }

    /// Whether some user namespace can be made, with however few ids.
    pub fn user_namespace_works(&self) -> bool {
        self.works(Trial::Outer) || self.works(Trial::SingleId)
    }
}
