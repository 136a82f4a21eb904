//! Who makes the cgroup of a container that is created.

use std::cell::RefCell;

use super::Global;
use crate::bundle::Bundle;
use crate::cgroup::{Bus, Dir, Maker};
use crate::error::{Error, Result};
use crate::host::{CgroupKind, HostFacts, ManagerCgroup, SessionReading};
use crate::plan::{CgroupManager, CgroupOptions, CgroupPlace, Choices, Note, Plan};

/// What is asked of the cgroup, and the way to the caller's systemd, begun early: it answers while other things are done.
pub(super) struct Cgroups {
    choices: Choices,
    bus: Option<Bus>,
}

impl Cgroups {
    /// Looks who could make one.
    pub(super) fn begin(global: &Global, facts: &mut HostFacts) -> Self {
        let choices = global.choices();
        look_at_session(choices.cgroups, facts);
        let mut bus = None;
        if let Some(session) = facts.session.as_mut().filter(|s| !s.sockets.is_empty()) {
            match Bus::begin(session) {
                Ok(begun) => bus = Some(begun),
                Err(why) => session.refuse(&why),
            }
        }
        Self { choices, bus }
    }

    /// The plan. A systemd that does not answer is as none, if the container can do without.
    pub(super) fn plan(&mut self, bundle: &Bundle, facts: &mut HostFacts) -> Result<Plan> {
        let choices = self.choices;
        let compute = |facts: &HostFacts| {
            Plan::compute_with(bundle, facts, choices).map_err(|p| super::spec::problems(&p))
        };
        let plan = compute(facts)?;
        let Some(cgroup) = plan.cgroup.as_ref().filter(|c| by_systemd(&c.place)) else {
            return Ok(plan);
        };
        let Some(bus) = &mut self.bus else {
            return Ok(plan);
        };
        let answer = match facts.cgroup.as_ref().and_then(|r| r.manager.as_ref()) {
            Some(_) => bus.version().map(|_| None),
            None => bus.manager_cgroup().map(Some),
        };
        match answer {
            Ok(None) => Ok(plan),
            Ok(Some(path)) => {
                self.look_for_manager(path, facts)?;
                compute(facts)
            }
            Err(why) if cgroup.required => Err(why.into()),
            Err(why) => {
                self.refuse(why, facts);
                compute(facts)
            }
        }
    }

    /// The manager's cgroup is none of the usual ones. One that is not in view is no use: scopes would be made out of sight.
    fn look_for_manager(&mut self, path: String, facts: &mut HostFacts) -> Result<()> {
        let Some(dir) = Dir::open(&path)? else {
            let socket = self.bus.as_ref().map(|bus| bus.socket().to_owned());
            let socket = socket.unwrap_or_default();
            let why = format!("{socket:?}: its cgroup {path} is not beneath /sys/fs/cgroup here");
            self.refuse(why, facts);
            return Ok(());
        };
        let controllers = dir.controllers()?;
        if let Some(reading) = &mut facts.cgroup {
            reading.manager = Some(ManagerCgroup { path, controllers });
        }
        Ok(())
    }

    fn refuse(&mut self, why: impl std::fmt::Display, facts: &mut HostFacts) {
        self.bus = None;
        if let Some(session) = &mut facts.session {
            session.refuse(why);
        }
    }

    /// Who makes the cgroup of `plan`, if it has one.
    pub(super) fn maker(self, plan: &Plan, facts: &HostFacts) -> Result<Option<Maker>> {
        let Some(cgroup) = &plan.cgroup else {
            return Ok(None);
        };
        let reading = facts.cgroup.as_ref();
        let maker = if by_systemd(&cgroup.place) {
            let boundary = reading.and_then(|r| r.manager.as_ref());
            self.bus.map(|bus| Maker::Systemd {
                bus: Box::new(RefCell::new(bus)),
                boundary: boundary.map(|b| b.path.clone()),
            })
        } else {
            reading.and_then(|r| r.base.clone()).map(Maker::Cgroupfs)
        };
        maker
            .map(Some)
            .ok_or_else(|| Error::new("there is nobody to make the container's cgroup"))
    }
}

fn by_systemd(place: &CgroupPlace) -> bool {
    matches!(place, CgroupPlace::Systemd { .. })
}

/// Looks for the caller's systemd, where a scope of it could be asked for.
pub(super) fn look_at_session(options: CgroupOptions, facts: &mut HostFacts) {
    let usable = facts.cgroup.as_ref();
    let usable = usable.is_some_and(|r| r.kind == CgroupKind::Unified && !r.read_only);
    let wanted = matches!(
        options.manager,
        CgroupManager::Auto | CgroupManager::Systemd
    );
    if wanted && usable {
        facts.session = Some(SessionReading::find(facts.uid, &facts.uid_map));
    }
}

/// The note on a container that does not outlive its caller's session, for one that is left to itself.
pub(super) fn logout_note(plan: &Plan, facts: &mut HostFacts) -> Option<Note> {
    let own = facts.cgroup.as_ref()?.own.clone()?;
    let name = facts.user_name.clone();
    let session = facts.session.as_mut()?;
    session.learn_logout(name.as_deref());
    let logout = session.logout.as_ref()?;
    let why = match &plan.cgroup {
        Some(cgroup) if by_systemd(&cgroup.place) && !logout.lingering => {
            "the container ends when you log out: your systemd does, as lingering is off"
        }
        Some(cgroup) if by_systemd(&cgroup.place) => return None,
        // What is in no session is not the session's to end.
        _ if own.contains("/session-") && logout.kill_user_processes == Some(true) => {
            "the container ends when you log out: it is in your session's cgroup, and KillUserProcesses= is set \
             (logind.conf(5))"
        }
        _ => return None,
    };
    let remedy = "`loginctl enable-linger` lets your systemd, and what is in its scopes, stay; where that is refused, ask the \
                  administrator for `loginctl enable-linger` with your name";
    Some(Note::new("/linux/cgroupsPath", why, remedy))
}
