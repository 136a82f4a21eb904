//! Why the caller's own id is all that a container has: one cause, its code, and the remedy of that very cause.
#![forbid(unsafe_code)]

use std::path::Path;

use super::Note;
use crate::error::shell_word;
use crate::host::{HelperObstacle, HostFacts, IdWish, skipped_code};

/// What every note on a single id begins with.
const OUTCOME: &str = "only the caller's own uid and gid are mapped, and her supplementary groups stay (setgroups(2) is denied)";

/// Why there is only one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleIdCause {
    /// Its code (`LDG-…`); none where the caller wants it so.
    pub code: Option<&'static str>,
    /// The cause, a clause.
    pub why: String,
    /// One line: what to do about it.
    pub remedy: String,
}

impl SingleIdCause {
    fn new(code: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    /// The note that says so.
    pub(super) fn note(&self) -> Note {
        let reason = format!("{OUTCOME}: {}", self.why);
        let note = Note::new("/linux/uidMappings", reason, &self.remedy);
        match self.code {
            Some(code) => note.code(code),
            None => note,
        }
    }
}

/// Why a container of this caller has one id only; `None`: it has the subordinate ones too. For one who is not in a user
/// namespace of her own already.
pub(super) fn cause(facts: &HostFacts) -> Option<SingleIdCause> {
    if facts.id_wish == IdWish::Single {
        return Some(SingleIdCause {
            code: None,
            why: "--single-id asks for it".to_owned(),
            remedy: "do without --single-id, where there are subordinate ids and helpers"
                .to_owned(),
        });
    }
    ranges(facts)
        .or_else(|| missing(facts))
        .or_else(|| nameless(facts))
        .or_else(|| facts.helper_obstacle.as_ref().map(|o| obstacle(o, facts)))
}

/// Why a caller who is in a user namespace already has no more than one id to share.
pub(super) fn of_present(facts: &HostFacts) -> Option<SingleIdCause> {
    let few = [(&facts.uid_map, "uid"), (&facts.gid_map, "gid")];
    let few = few.into_iter().find(|(map, _)| {
        let count: u64 = map.iter().map(|line| u64::from(line.count)).sum();
        count <= 1
    });
    let (_, kind) = few?;
    Some(SingleIdCause::new(
        "LDG-SUBID-NONE",
        format!("the user namespace that this session is in has only one {kind}"),
        "start what is around this session with a range of ids, as `podman run --uidmap` or `unshare --map-auto` do",
    ))
}

/// The account's name, or its uid.
fn name(facts: &HostFacts) -> String {
    let name = facts.user_name.clone();
    name.unwrap_or_else(|| facts.uid.to_string())
}

fn ranges(facts: &HostFacts) -> Option<SingleIdCause> {
    let (code, missing, flags) = match (facts.subuid.is_empty(), facts.subgid.is_empty()) {
        (true, true) => (
            "LDG-SUBID-NONE",
            "subordinate uids and gids",
            "--add-subuids FIRST-LAST --add-subgids FIRST-LAST",
        ),
        (true, false) => (
            "LDG-SUBID-GID-ONLY",
            "subordinate uids",
            "--add-subuids FIRST-LAST",
        ),
        (false, true) => (
            "LDG-SUBID-UID-ONLY",
            "subordinate gids",
            "--add-subgids FIRST-LAST",
        ),
        (false, false) => return None,
    };
    let name = name(facts);
    // A line that would be theirs, and is wrong, is the cause.
    let wrong = facts.subid_notes.iter().find_map(|reason| {
        let concerned = match (facts.subuid.is_empty(), facts.subgid.is_empty()) {
            (true, true) => true,
            (uids, _) => reason.contains("subgid") != uids,
        };
        let code = skipped_code(reason).filter(|_| concerned)?;
        Some((code, reason))
    });
    if let Some((code, reason)) = wrong {
        let why = format!("{name} has no usable {missing}: {reason}");
        return Some(SingleIdCause::new(code, why, skipped_remedy(code)));
    }
    let remedy = match facts.user_name {
        Some(_) => format!(
            "ask the administrator to run: lodger-admin subids {name}; without it: usermod {flags} {name}, with 65536 ids that nobody else has",
            name = shell_word(&name)
        ),
        None => account_remedy(facts),
    };
    Some(SingleIdCause::new(
        code,
        format!("{name} has no {missing}"),
        remedy,
    ))
}

fn missing(facts: &HostFacts) -> Option<SingleIdCause> {
    let program = match (&facts.newuidmap, &facts.newgidmap) {
        (Some(_), Some(_)) => return None,
        (None, _) => "newuidmap",
        (Some(_), None) => "newgidmap",
    };
    // Where one is there and not used, that is among the notes, and begins with its path.
    let unusable = facts.subid_notes.iter();
    let mut unusable = unusable.filter(|note| note.contains(&format!("/{program} is not used: ")));
    let (code, why, remedy) = match unusable.next() {
        Some(why) => (
            "LDG-HELPER-UNSAFE",
            why.clone(),
            // To be made root's as it is, it could be anything by now.
            "ask the administrator to install it anew, as others could have replaced it: apt install --reinstall uidmap (it is to be root's alone, with mode 4755)".to_owned(),
        ),
        None => (
            "LDG-HELPER-MISSING",
            format!("there is no usable {program} in the system's directories"),
            "ask the administrator to run: apt install uidmap".to_owned(),
        ),
    };
    Some(SingleIdCause::new(code, why, remedy))
}

/// The helpers look for the account's name, and fail where there is none.
fn nameless(facts: &HostFacts) -> Option<SingleIdCause> {
    facts.user_name.is_none().then(|| {
        SingleIdCause::new(
            "LDG-HELPER-NAME",
            format!(
                "uid {} has no account here, and newuidmap and newgidmap work for accounts alone",
                facts.uid
            ),
            account_remedy(facts),
        )
    })
}

fn account_remedy(facts: &HostFacts) -> String {
    format!(
        "ask the administrator for an account with subordinate ids: useradd --uid {} NAME",
        facts.uid
    )
}

fn obstacle(obstacle: &HelperObstacle, facts: &HostFacts) -> SingleIdCause {
    let both = |mode: &str| {
        let paths = [&facts.newuidmap, &facts.newgidmap];
        paths
            .into_iter()
            .flatten()
            .fold(mode.to_owned(), |line, path| {
                format!("{line} {}", shell_word(&path.display().to_string()))
            })
    };
    let file = |path: &Path| path.display().to_string();
    match obstacle {
        HelperObstacle::Unprivileged { helper } => SingleIdCause::new(
            "LDG-HELPER-PRIVILEGE",
            format!(
                "{} has neither the set-user-id bit nor file capabilities",
                file(helper)
            ),
            format!("ask the administrator to run: {}", both("chmod u+s")),
        ),
        HelperObstacle::NosuidMount { helper, mount } => SingleIdCause::new(
            "LDG-HELPER-NOSUID",
            format!(
                "{} gains nothing, as {} is mounted with nosuid",
                file(helper),
                file(mount)
            ),
            format!(
                "ask the administrator to run: mount -o remount,bind,suid {}",
                shell_word(&file(mount))
            ),
        ),
        HelperObstacle::NoNewPrivileges => SingleIdCause::new(
            "LDG-HELPER-NNP",
            "this session has no_new_privs, with which newuidmap and newgidmap gain nothing",
            "start lodger where it is not set: without NoNewPrivileges=yes of systemd, `--security-opt no-new-privileges`, or \
             with `allowPrivilegeEscalation: true` in a pod",
        ),
        HelperObstacle::BoundingSet { helper, missing } => bounding(&file(helper), missing),
    }
}

fn bounding(helper: &str, missing: &[String]) -> SingleIdCause {
    let why = format!(
        "the bounding set of this session lacks {}, without which {helper} cannot do its work",
        missing.join(" and ")
    );
    let grants: Vec<String> = missing
        .iter()
        .map(|name| format!("--cap-add {}", name.trim_start_matches("CAP_")))
        .collect();
    // With file capabilities it stays the caller's, and owns the namespace by that.
    let instead = match missing {
        [only] if only == "CAP_SYS_ADMIN" => {
            "; or give both helpers file capabilities in place of the set-user-id bit: \
             setcap cap_setuid=ep /usr/bin/newuidmap && setcap cap_setgid=ep /usr/bin/newgidmap"
        }
        _ => "",
    };
    let remedy = format!(
        "start the container or the pod around this session with {}{instead}",
        grants.join(" ")
    );
    SingleIdCause::new("LDG-HELPER-BOUNDING", why, remedy)
}

/// What was skipped while the ranges were read, but what `cause` says already.
pub(super) fn skipped(facts: &HostFacts, cause: Option<&SingleIdCause>) -> Vec<Note> {
    let said = |reason: &String| cause.is_some_and(|cause| cause.why.contains(reason.as_str()));
    let left = facts.subid_notes.iter().filter(|reason| !said(reason));
    left.map(|reason| {
        let property = match reason.contains("subgid") {
            true => "/linux/gidMappings",
            false => "/linux/uidMappings",
        };
        match skipped_code(reason) {
            Some(code) => Note::new(property, reason, skipped_remedy(code)).code(code),
            None => Note::new(property, reason, "ask the administrator to correct it"),
        }
    })
    .collect()
}

fn skipped_remedy(code: &str) -> &'static str {
    match code {
        "LDG-SUBID-OVERFLOW" => {
            "ask the administrator for a range whose last id is below 4294967295, as in NAME:100000:65536"
        }
        "LDG-SUBID-OVERLAP" => {
            "ask the administrator for a range that is in no other line: usermod --add-subuids and --add-subgids"
        }
        "LDG-SUBID-OWN" => {
            "ask the administrator to take the account's own id out of the line, or the line away: those that are left are used"
        }
        _ => {
            "ask the administrator to write the line as NAME:START:COUNT, with plain decimal numbers"
        }
    }
}

#[cfg(test)]
#[path = "single_id_tests.rs"]
mod tests;
