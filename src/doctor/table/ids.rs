//! newuidmap(1), newgidmap(1) and the subordinate ids (subuid(5)).

use super::{Found, Row};
use crate::doctor::finding::{Area, Weight, Who};
use crate::doctor::readings::{Caller, Failed, Helper, Readings, Seen, Trial};
use crate::doctor::step::Step;
use crate::error::shell_word;
use crate::host::{HelperObstacle, HostFacts, IdRange};
use crate::plan::idmap::single_id_cause;

/// How many ids a container should have: those that a distribution gives to its own users end before.
const USUAL: u64 = 65_536;

/// What is lost without subordinate ids.
const ONE_ID: &str = "containers have your own uid and gid alone: chown to others, and programs that change their user, fail in them";

const fn row(code: &'static str, who: Who, look: fn(&Readings) -> Option<Found>) -> Row {
    Row::new(code, Area::Ids, who, &[Step::IdHelper, Step::IdMap], look)
}

pub(super) const ROWS: [Row; 17] = [
    row("LDG-SUBID-NSS", Who::Administrator, directory_account),
    row("LDG-SUBID-NONE", Who::Administrator, no_ids),
    row("LDG-SUBID-UID-ONLY", Who::Administrator, uids_only),
    row("LDG-SUBID-GID-ONLY", Who::Administrator, gids_only),
    row("LDG-HELPER-MISSING", Who::Administrator, missing),
    row("LDG-HELPER-UNSAFE", Who::Administrator, unsafe_helper),
    row("LDG-HELPER-NAME", Who::Administrator, nameless),
    row("LDG-HELPER-NNP", Who::Surroundings, no_new_privileges),
    row("LDG-HELPER-NOSUID", Who::Administrator, nosuid),
    row("LDG-HELPER-PRIVILEGE", Who::Administrator, no_privilege),
    row("LDG-HELPER-BOUNDING", Who::Surroundings, bounding_set),
    row("LDG-HELPER-FAILED", Who::Administrator, failed),
    row("LDG-SUBID-OVERLAP", Who::Administrator, |r| {
        skipped(r, "overlaps")
    }),
    row("LDG-SUBID-OVERFLOW", Who::Administrator, |r| {
        skipped(r, "beyond")
    }),
    row("LDG-SUBID-MALFORMED", Who::Administrator, |r| {
        skipped(r, "NAME:START:COUNT").or_else(|| skipped(r, "count is 0"))
    }),
    row("LDG-SUBID-OWN", Who::Administrator, |r| {
        skipped(r, "own id")
    }),
    row("LDG-SUBID-SMALL", Who::Administrator, small),
];

/// The facts, where subordinate ids are of use: not for one who has all ids of her user namespace already.
fn facts(readings: &Readings) -> Option<&HostFacts> {
    let facts = readings.facts.as_ref()?;
    (!(facts.in_user_namespace && facts.sys_admin)).then_some(facts)
}

/// The facts, if there are ranges and both helpers, and yet they do not give the ids.
fn robbed(readings: &Readings) -> Option<(&HostFacts, &[Helper; 2], &Caller, &Failed)> {
    let facts = facts(readings)?;
    let failed = readings.failed(&[Trial::Outer])?;
    if failed.step != Some(Step::IdHelper) || facts.subuid.is_empty() || facts.subgid.is_empty() {
        return None;
    }
    let helpers = readings.helpers.as_ref()?;
    let there = facts.newuidmap.is_some() && facts.newgidmap.is_some();
    there.then_some((facts, helpers, readings.caller.as_ref()?, failed))
}

fn count(ranges: &[IdRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count)).sum()
}

/// One line that gives her a range that nobody has: another's would give her his files.
fn add_range(readings: &Readings, uids: bool, gids: bool) -> String {
    let free = readings.subids.as_ref().and_then(|subids| subids.free);
    let Some(first) = free else {
        return format!("sudo lodger-admin subids {}", readings.name_in_shell());
    };
    let range = format!("{first}-{}", first + USUAL - 1);
    let mut line = "sudo usermod".to_owned();
    for (wanted, option) in [(uids, "--add-subuids"), (gids, "--add-subgids")] {
        if wanted {
            line.push_str(&format!(" {option} {range}"));
        }
    }
    format!("{line} {}", readings.name_in_shell())
}

/// Where the ranges would have to be.
fn no_entry(uids: bool, gids: bool) -> &'static str {
    match (uids, gids) {
        (true, true) => "/etc/subuid and /etc/subgid have no range",
        (true, false) => "/etc/subuid has no range",
        _ => "/etc/subgid has no range",
    }
}

fn directory_account(readings: &Readings) -> Option<Found> {
    let facts = facts(readings)?;
    let subids = readings.subids.as_ref()?;
    let none = facts.subuid.is_empty() && facts.subgid.is_empty();
    let elsewhere = subids.sources.iter().any(|source| source != "files");
    if !none || (subids.is_local != Some(false) && !elsewhere) {
        return None;
    }
    let name = readings.name();
    let place = match elsewhere {
        true => format!(
            "{} (`subid` of /etc/nsswitch.conf)",
            subids.sources.join(", ")
        ),
        false => "/etc/subuid and /etc/subgid (no `subid` in /etc/nsswitch.conf)".to_owned(),
    };
    let from = match subids.is_local {
        Some(false) => "comes from a directory service, and",
        _ => "is looked up in a directory service, and",
    };
    Found::new(
        Weight::Reduces,
        format!("the account {name} {from} has no subordinate ids in {place}"),
        ONE_ID,
        add_range(readings, true, true),
    )
}

fn no_ids(readings: &Readings) -> Option<Found> {
    let facts = facts(readings)?;
    let none = facts.subuid.is_empty() && facts.subgid.is_empty();
    if !none || directory_account(readings).is_some() || has_skipped(facts) {
        return None;
    }
    Found::new(
        Weight::Reduces,
        format!("{} for {}", no_entry(true, true), readings.name()),
        ONE_ID,
        add_range(readings, true, true),
    )
}

fn uids_only(readings: &Readings) -> Option<Found> {
    let facts = facts(readings)?;
    if facts.subuid.is_empty() || !facts.subgid.is_empty() {
        return None;
    }
    let has = count(&facts.subuid);
    Found::new(
        Weight::Reduces,
        format!(
            "{} for {}, who has {has} subordinate uids",
            no_entry(false, true),
            readings.name()
        ),
        ONE_ID,
        add_range(readings, false, true),
    )
}

fn gids_only(readings: &Readings) -> Option<Found> {
    let facts = facts(readings)?;
    if facts.subgid.is_empty() || !facts.subuid.is_empty() {
        return None;
    }
    let has = count(&facts.subgid);
    Found::new(
        Weight::Reduces,
        format!(
            "{} for {}, who has {has} subordinate gids",
            no_entry(true, false),
            readings.name()
        ),
        ONE_ID,
        add_range(readings, true, false),
    )
}

/// The helper that `run` cannot use, as the facts say.
fn unusable<'a>(readings: &'a Readings, facts: &HostFacts) -> Option<&'a Helper> {
    let [uid_helper, gid_helper] = readings.helpers.as_ref()?;
    match (&facts.newuidmap, &facts.newgidmap) {
        (None, _) => Some(uid_helper),
        (_, None) => Some(gid_helper),
        _ => None,
    }
}

fn missing(readings: &Readings) -> Option<Found> {
    let helper = unusable(readings, facts(readings)?)?;
    if helper.path.is_some() {
        return None;
    }
    Found::new(
        Weight::Reduces,
        format!(
            "there is no {}, which writes id maps for you, in the system's directories",
            helper.name
        ),
        ONE_ID,
        install(readings),
    )
}

/// How this distribution installs both helpers.
fn install(readings: &Readings) -> &'static str {
    let distribution = readings
        .kernel
        .as_ref()
        .map_or(&[][..], |kernel| &kernel.distribution);
    let is = |names: &[&str]| {
        distribution
            .iter()
            .any(|name| names.contains(&name.as_str()))
    };
    match () {
        () if is(&["fedora", "rhel", "centos"]) => "sudo dnf install shadow-utils",
        () if is(&["suse", "opensuse"]) => "sudo zypper install shadow",
        () if is(&["arch"]) => "sudo pacman -S shadow",
        () if is(&["alpine"]) => "sudo apk add shadow-uidmap",
        () => "sudo apt install uidmap",
    }
}

fn unsafe_helper(readings: &Readings) -> Option<Found> {
    let helper = unusable(readings, facts(readings)?)?;
    helper.path.as_ref()?;
    let place = helper.place();
    Found::new(
        Weight::Reduces,
        format!(
            "{place} belongs to uid {} and has mode {:04o}: others than root could replace it, and it is not used",
            helper.owner, helper.mode
        ),
        ONE_ID,
        // Not to be made root's as it is: somebody may have replaced it.
        format!(
            "sudo rm {}, then install it anew: {}",
            helper.in_shell(),
            install(readings)
        ),
    )
}

/// In the words of `run`, which looks at the same.
fn nameless(readings: &Readings) -> Option<Found> {
    let cause = single_id_cause(facts(readings)?)?;
    (cause.code == Some("LDG-HELPER-NAME")).then_some(())?;
    Found::new(Weight::Reduces, cause.why, ONE_ID, cause.remedy)
}

fn no_new_privileges(readings: &Readings) -> Option<Found> {
    let (facts, _, caller, _) = robbed(readings)?;
    let known = matches!(facts.helper_obstacle, Some(HelperObstacle::NoNewPrivileges));
    if !known && caller.no_new_privileges != Some(true) {
        return None;
    }
    Found::new(
        Weight::Reduces,
        "this process has no_new_privs (NoNewPrivs: 1 in /proc/self/status), which takes the privilege of newuidmap and newgidmap",
        ONE_ID,
        "in a pod: securityContext: {allowPrivilegeEscalation: true}; docker: without --security-opt no-new-privileges; \
         in a unit: NoNewPrivileges=no",
    )
}

fn nosuid(readings: &Readings) -> Option<Found> {
    let (_, helpers, caller, _) = robbed(readings)?;
    let helper = helpers
        .iter()
        .find(|helper| helper.nosuid_mount.is_some())?;
    if caller.no_new_privileges == Some(true) {
        return None;
    }
    let mount = helper.nosuid_mount.as_ref()?.display().to_string();
    Found::new(
        Weight::Reduces,
        format!(
            "{} is on {mount}, a mount with nosuid, where no program gains privilege",
            helper.place()
        ),
        ONE_ID,
        format!(
            "sudo mount -o remount,suid {}; and take nosuid out of /etc/fstab",
            shell_word(&mount)
        ),
    )
}

fn no_privilege(readings: &Readings) -> Option<Found> {
    let (_, helpers, _, _) = robbed(readings)?;
    let lacks = |helper: &&Helper| {
        let has = helper
            .capabilities
            .is_some_and(|set| set & helper.needed().0 != 0);
        !helper.is_setuid_root() && !has
    };
    let helper = helpers.iter().find(lacks)?;
    let place = helper.place();
    Found::new(
        Weight::Reduces,
        format!(
            "{place} has neither the set-user-id bit of root (owner {}, mode {:04o}) nor {} in its file capabilities",
            helper.owner,
            helper.mode,
            helper.needed().1
        ),
        ONE_ID,
        format!(
            "sudo setcap cap_setuid=ep {} && sudo setcap cap_setgid=ep {}",
            helpers[0].in_shell(),
            helpers[1].in_shell()
        ),
    )
}

/// CAP_SYS_ADMIN: a helper that is set-user-id root writes a map as root, who is not the owner of the user namespace.
const SYS_ADMIN: u64 = 1 << 21;

fn bounding_set(readings: &Readings) -> Option<Found> {
    let (_, helpers, caller, _) = robbed(readings)?;
    let bounding_set = caller.bounding_set?;
    let missing = |helper: &Helper| {
        let (bit, name) = helper.needed();
        let mut wanted = vec![(bit, name)];
        if helper.is_setuid_root() {
            wanted.push((SYS_ADMIN, "CAP_SYS_ADMIN"));
        }
        wanted.retain(|(bit, _)| bounding_set & bit == 0);
        wanted.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let mut names: Vec<&str> = helpers.iter().flat_map(missing).collect();
    if names.is_empty() || caller.no_new_privileges == Some(true) {
        return None;
    }
    names.sort_unstable();
    names.dedup();
    let add: Vec<&str> = names
        .iter()
        .map(|name| name.trim_start_matches("CAP_"))
        .collect();
    Found::new(
        Weight::Reduces,
        format!(
            "the bounding set of this process (CapBnd: {bounding_set:016x}) lacks {}, which newuidmap and newgidmap need",
            names.join(" and ")
        ),
        ONE_ID,
        format!(
            "in a pod: securityContext: {{capabilities: {{add: [{}]}}}}; docker: --cap-add {}",
            add.join(", "),
            add.join(" --cap-add ")
        ),
    )
}

fn failed(readings: &Readings) -> Option<Found> {
    let (_, helpers, _, failed) = robbed(readings)?;
    let explained: [fn(&Readings) -> Option<Found>; 4] =
        [no_new_privileges, nosuid, no_privilege, bounding_set];
    let proc = readings.mounts.as_ref().map(|mounts| &mounts.proc);
    let read_only = matches!(proc, Some(Seen::ReadOnly | Seen::Nowhere));
    if read_only || explained.iter().any(|look| look(readings).is_some()) {
        return None;
    }
    Found::new(
        Weight::Reduces,
        format!(
            "the id map helpers have their privilege, and refuse: {}",
            failed.message
        ),
        ONE_ID,
        format!(
            "compare what it was asked with: grep -nwF -e {} /etc/subuid /etc/subgid; getsubids {}; {} --help",
            readings.name_in_shell(),
            readings.name_in_shell(),
            helpers[0].in_shell()
        ),
    )
}

fn has_skipped(facts: &HostFacts) -> bool {
    facts
        .subid_notes
        .iter()
        .any(|note| note.contains("is skipped"))
}

/// A line of subuid(5) that is not used, for the reason that has `why`.
fn skipped(readings: &Readings, why: &str) -> Option<Found> {
    let facts = facts(readings)?;
    let note = facts.subid_notes.iter().find(|note| note.contains(why))?;
    let place = note
        .split(' ')
        .next()
        .filter(|place| place.starts_with('/'));
    let line = note
        .split("line ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let remedy = match place.zip(line) {
        Some((file, line)) => format!(
            "correct line {line}, if it is still the one that is meant: sudoedit {}",
            shell_word(file)
        ),
        None => "correct the entry in the directory service".to_owned(),
    };
    let left = !facts.subuid.is_empty() && !facts.subgid.is_empty();
    let (weight, costs) = match left {
        true => (
            Weight::Costs,
            "containers lack the ids of that line; the others are there",
        ),
        false => (Weight::Reduces, ONE_ID),
    };
    Found::new(weight, note.clone(), costs, remedy)
}

fn small(readings: &Readings) -> Option<Found> {
    let facts = facts(readings)?;
    let (uids, gids) = (count(&facts.subuid), count(&facts.subgid));
    let fewest = uids.min(gids);
    if fewest == 0 || fewest >= USUAL {
        return None;
    }
    Found::new(
        Weight::Costs,
        format!(
            "{} has {uids} subordinate uids and {gids} gids, fewer than {USUAL}",
            readings.name()
        ),
        format!(
            "files of images, and users, with an id beyond {fewest} cannot be had in a container"
        ),
        add_range(readings, uids < USUAL, gids < USUAL),
    )
}
