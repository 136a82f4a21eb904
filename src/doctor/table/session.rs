//! The session, its runtime directory and its systemd.

use super::{Found, Row};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::{Readings, Session};
use crate::doctor::step::Step;
use crate::host::{LogoutReading, SessionReading};

const STEPS: &[Step] = &[Step::Session];

const fn row(code: &'static str, who: Who, look: fn(&Readings) -> Option<Found>) -> Row {
    Row::new(code, Area::Session, who, STEPS, look)
}

pub(super) const ROWS: [Row; 7] = [
    row("LDG-XDG-UNSET", Who::You, unset),
    row("LDG-XDG-MISSING", Who::Administrator, missing),
    row("LDG-XDG-OWNER", Who::You, owner),
    row("LDG-SYSTEMD-NONE", Who::Surroundings, no_systemd),
    row("LDG-BUS-NONE", Who::Administrator, no_bus),
    row(
        "LDG-KILL-USER-PROCESSES",
        Who::Administrator,
        kill_user_processes,
    ),
    row("LDG-LINGER-OFF", Who::Administrator, no_linger),
];

/// The session, with the caller's uid.
fn session(readings: &Readings) -> Option<(&Session, u32)> {
    let uid = readings.caller.as_ref()?.uid;
    Some((readings.session.as_ref()?, uid))
}

fn unset(readings: &Readings) -> Option<Found> {
    let (session, uid) = session(readings)?;
    if session.runtime_directory.is_some() {
        return None;
    }
    let remedy = match session.has_usual {
        true => format!("export XDG_RUNTIME_DIR=/run/user/{uid}"),
        false => format!(
            "ssh {}@localhost (a session by pam_systemd sets it), or: lodger --root DIR …",
            readings.name_in_shell()
        ),
    };
    Found::new(
        Weight::Costs,
        "XDG_RUNTIME_DIR is not set, as it is after su, in cron and in batch jobs",
        match session.has_usual {
            true => "tools around lodger may look elsewhere for containers and for your systemd",
            false => "the state of containers is kept in /tmp, and your systemd is not found",
        },
        remedy,
    )
}

fn missing(readings: &Readings) -> Option<Found> {
    let (session, _) = session(readings)?;
    let directory = session.runtime_directory.as_ref()?;
    if session.owner.is_some() {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "XDG_RUNTIME_DIR is {}, which is not there",
            directory.display()
        ),
        "the state of containers is kept in /tmp, and there is no way to your systemd",
        format!(
            "sudo loginctl enable-linger {} (makes it now and at every boot); without root: unset XDG_RUNTIME_DIR",
            readings.name_in_shell()
        ),
    )
}

fn owner(readings: &Readings) -> Option<Found> {
    let (session, uid) = session(readings)?;
    let directory = session.runtime_directory.as_ref()?;
    let owner = session.owner.filter(|owner| *owner != uid)?;
    Found::new(
        Weight::Costs,
        format!(
            "XDG_RUNTIME_DIR is {}, which belongs to uid {owner}, not to you ({uid}): as after su or sudo -E",
            directory.display()
        ),
        "it is not used: the state of containers is kept elsewhere",
        match session.has_usual {
            true => format!("export XDG_RUNTIME_DIR=/run/user/{uid} (yours)"),
            false => {
                "unset XDG_RUNTIME_DIR, or log in as yourself (ssh, machinectl shell)".to_owned()
            }
        },
    )
}

fn no_systemd(readings: &Readings) -> Option<Found> {
    let (session, _) = session(readings)?;
    if session.has_systemd || !session.systemd.sockets.is_empty() {
        return None;
    }
    Found::new(
        Weight::Costs,
        "this machine or container was not booted with systemd (there is no /run/systemd/system)",
        "nobody makes cgroups for you: containers have no limits, statistics or pause, unless a cgroup is delegated to you",
        "have a cgroup of version 2 delegated: as root, mkdir a directory in /sys/fs/cgroup, chown it to you with its cgroup.procs, \
         cgroup.threads and cgroup.subtree_control, and begin your session in it",
    )
}

fn no_bus(readings: &Readings) -> Option<Found> {
    let (session, uid) = session(readings)?;
    if !session.systemd.sockets.is_empty() {
        return None;
    }
    Found::new(
        Weight::Costs,
        session.systemd.why_none(),
        "it cannot make cgroups for containers: no limits, statistics or pause, unless a cgroup is delegated to you",
        format!(
            "sudo apt install dbus-user-session && sudo systemctl start user@{uid}.service; then log in again"
        ),
    )
}

/// What becomes of processes at a logout, which makes nothing fail now.
fn logout(readings: &Readings) -> Option<(&SessionReading, &LogoutReading)> {
    let (session, _) = session(readings)?;
    let systemd = &session.systemd;
    let logout = systemd.logout.as_ref();
    Some((systemd, logout.filter(|_| readings.failure.is_none())?))
}

fn kill_user_processes(readings: &Readings) -> Option<Found> {
    let (_, logout) = logout(readings)?;
    if logout.kill_user_processes != Some(true) {
        return None;
    }
    Found::new(
        Weight::Costs,
        "logind is set to KillUserProcesses=yes",
        "what is left of a session is killed when you log out: containers too, but those in cgroups of your lingering systemd",
        "printf '[Login]\\nKillUserProcesses=no\\n' | sudo tee /etc/systemd/logind.conf.d/lodger.conf && sudo systemctl restart systemd-logind",
    )
}

fn no_linger(readings: &Readings) -> Option<Found> {
    let (systemd, logout) = logout(readings)?;
    if logout.lingering || systemd.sockets.is_empty() {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{} does not linger: her systemd ends with her last session",
            readings.name()
        ),
        "containers in cgroups of your systemd are killed when you log out",
        format!("sudo loginctl enable-linger {}", readings.name_in_shell()),
    )
}
