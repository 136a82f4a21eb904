//! After a failure: only what the causes of that failure are found by is read, and nothing is tried.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::{
    Caller, Closed, Devices, Failed, Helper, Kernel, Limits, Mounts, Outcome, Place, Places,
    Readings, Session, SubIds, Trial, kernel, reach,
};
use crate::doctor::Step;
use crate::error::Error;
use crate::host::{CgroupReading, HostFacts, own_uid_map};
use crate::sys;
use crate::sys::invalid::Call;

impl Readings {
    /// What the rows of `step` need after `error`. `facts` were read before this process changed, and count.
    pub(in crate::doctor) fn after(
        step: Step,
        error: &Error,
        facts: Option<&HostFacts>,
        named: (Option<&Path>, Option<&Path>),
    ) -> Self {
        let facts = facts.cloned().or_else(facts_now);
        let facts = facts.as_ref();
        let failed = Failed {
            origin: error.origin().cloned(),
            step: Some(step),
            message: error.message(),
        };
        let mut readings = Self {
            caller: Some(Caller::read(facts)),
            facts: facts.cloned(),
            over_quota: failed.errno() == libc::EDQUOT,
            ..Self::default()
        };
        readings.learn(step, &failed, named);
        if let Some(trial) = trial_of(step) {
            let outcome = Outcome::Failed(failed.clone());
            readings.trials = BTreeMap::from([(trial, outcome)]);
        }
        readings.failure = Some(failed);
        readings
    }

    fn learn(
        &mut self,
        step: Step,
        failed: &Failed,
        (store, root): (Option<&Path>, Option<&Path>),
    ) {
        let facts = self.facts.clone();
        let facts = facts.as_ref();
        let uid = self.caller.as_ref().map_or(0, |caller| caller.uid);
        match step {
            Step::UserNamespace | Step::IdHelper | Step::IdMap => {
                self.learn_namespaces(facts);
                self.helpers = Some(Helper::both(facts));
                self.subids = facts.map(SubIds::read);
                self.limits = Some(Limits::read(uid));
            }
            Step::Mount | Step::MountProc | Step::MountSys => self.learn_namespaces(facts),
            Step::MountOverlay => {
                self.learn_namespaces(facts);
                self.places = Some(Places::read(store, root));
            }
            Step::RootPath => self.closed = path_in(failed).and_then(closed_to),
            Step::State => {
                let path = path_in(failed);
                self.places = Some(Places::read(store, path.as_deref().or(root)));
            }
            Step::Store | Step::File | Step::Program => {
                let path = path_in(failed);
                self.places = Some(Places::read(path.as_deref().or(store), root));
                self.limits = Some(Limits::read(uid));
            }
            Step::Cgroup | Step::Session => {
                self.session = facts.map(Session::read);
                let read = facts.and_then(|facts| facts.cgroup.clone());
                self.cgroup = read.or_else(|| Some(CgroupReading::of_caller()));
            }
            Step::Device => self.devices = Some(Devices::read()),
            Step::Keyring => {
                self.ask(&[Call::Keyctl]);
                self.limits = Some(Limits::read(uid));
            }
            Step::Process => {
                self.kernel = Some(Kernel::read());
                self.ask(&Call::EVERYWHERE);
                self.limits = Some(Limits::read(uid));
            }
            Step::Limit | Step::Sysctl => self.limits = Some(Limits::read(uid)),
        }
    }

    fn learn_namespaces(&mut self, facts: Option<&HostFacts>) {
        self.kernel = Some(Kernel::read());
        self.forget_inner_limit(facts);
        self.ask(&Call::EVERYWHERE);
        self.mounts = Some(Mounts::read());
    }

    /// In a user namespace of our own the limit that can be read is not the one that was reached.
    fn forget_inner_limit(&mut self, facts: Option<&HostFacts>) {
        let outside = facts.is_some_and(|facts| !facts.in_user_namespace);
        let kernel = self.kernel.as_mut();
        if let Some(kernel) = kernel.filter(|_| outside && kernel::in_user_namespace()) {
            kernel.max_user_namespaces = None;
        }
    }
}

/// Where the command has read none, the facts as they can be read now: not where this process has no ids any more.
fn facts_now() -> Option<HostFacts> {
    let uid = sys::cred::uid();
    let is_mapped = own_uid_map().iter().any(|line| line.has(uid));
    is_mapped.then(HostFacts::probe)
}

/// The trial that a failed step amounts to.
fn trial_of(step: Step) -> Option<Trial> {
    match step {
        Step::UserNamespace | Step::IdHelper | Step::IdMap => Some(Trial::Outer),
        Step::Mount => Some(Trial::Tmpfs),
        Step::MountProc => Some(Trial::Proc),
        Step::MountSys => Some(Trial::Sysfs),
        Step::MountOverlay => Some(Trial::Overlay),
        Step::Keyring => Some(Trial::Keyring),
        _ => None,
    }
}

/// The first absolute path that stands in quotes in the call's arguments, else in the message.
fn path_in(failed: &Failed) -> Option<PathBuf> {
    let args = failed.origin.as_ref().map(|origin| origin.args.as_str());
    [args, Some(failed.message.as_str())]
        .into_iter()
        .flatten()
        .find_map(|text| {
            let mut quoted = text.split('"').skip(1).step_by(2);
            quoted.find(|word| word.starts_with('/')).map(PathBuf::from)
        })
}

/// The directory on the way to `path` that this process cannot pass, else the first that others cannot.
fn closed_to(path: PathBuf) -> Option<Closed> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let denied = |directory: &&Path| {
        let passed = rustix::fs::accessat(CWD, *directory, Access::EXEC_OK, AtFlags::EACCESS);
        passed == Err(rustix::io::Errno::ACCESS)
    };
    let Some(directory) = above.into_iter().find(denied).map(Path::to_owned) else {
        let (directory, mode) = reach(&path)?;
        return Some(Closed {
            target: path,
            directory,
            mode,
        });
    };
    let mode = Place::read(&directory).mode;
    Some(Closed {
        target: path,
        directory,
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Origin;

    #[test]
    fn the_path_of_a_failure() {
        let failed = |args: &str, message: &str| Failed {
            origin: Some(Origin {
                call: "openat".to_owned(),
                args: args.to_owned(),
                errno: 13,
            }),
            step: None,
            message: message.to_owned(),
        };
        let path = |args, message| path_in(&failed(args, message));
        assert_eq!(path("\"/a b\", O_PATH", ""), Some("/a b".into()));
        assert_eq!(
            path("\"rel\", 0", "cannot open \"/x/y\": no"),
            Some("/x/y".into())
        );
        assert_eq!(path("fd", "nothing"), None);
    }
}
