//! What the specification requires of the values, whatever the host. Every problem is listed, not the first.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Root, Spec};

use super::{Problem, attributes, hooks, pointer_token};

/// The longest host name and domain name, in bytes (uts_namespaces(7), `__NEW_UTS_LEN`).
const UTS_NAME_LIMIT: usize = 64;

/// The range of oom_score_adj (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

/// What was found so far.
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, pointer: impl AsRef<str>, message: impl AsRef<str>) {
        self.0.push(Problem::new(pointer, message));
    }

    pub(super) fn add_if(&mut self, wrong: bool, pointer: &str, message: &str) {
        if wrong {
            self.add(pointer, message);
        }
    }
}

/// Lists what is wrong with `spec`.
pub(super) fn check(spec: &Spec) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    version(spec.version(), &mut problems);
    root(spec.root().as_ref(), &mut problems);
    match spec.process() {
        Some(spec) => process(spec, &mut problems),
        None => problems.add("/process", "is required"),
    }
    uts(spec, &mut problems);
    mounts(spec, &mut problems);
    problems.0.extend(hooks::check(spec));
    for key in spec.annotations().iter().flatten().map(|(key, _)| key) {
        problems.add_if(key.is_empty(), "/annotations/", "a key must not be empty");
    }
    if let Some(spec) = spec.linux() {
        linux(spec, &mut problems);
    }
    attributes::check(spec, &mut problems);
    problems.0
}

fn version(version: &str, problems: &mut Problems) {
    match major(version) {
        None if version.is_empty() => problems.add("/ociVersion", "is required"),
        None => problems.add(
            "/ociVersion",
            format!("{version:?} is not a version (SemVer 2.0.0)"),
        ),
        Some(1) => {}
        Some(_) => problems.add(
            "/ociVersion",
            format!("version {version:?} of the specification is not supported: only 1.x is"),
        ),
    }
}

/// The major version of a SemVer 2.0.0 version; `None` when it is none.
fn major(version: &str) -> Option<u64> {
    let (version, build) = split_suffix(version, '+');
    let (core, release) = split_suffix(version, '-');
    let dotted = |text: &str, numeric: bool| {
        text.split('.').all(|part| {
            let word = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let number = part.bytes().all(|b| b.is_ascii_digit());
            let padded = number && part.len() > 1 && part.starts_with('0');
            !part.is_empty() && word && !(numeric && padded)
        })
    };
    let valid = build.is_none_or(|b| dotted(b, false)) && release.is_none_or(|r| dotted(r, true));
    let parts: Vec<u64> = core.split('.').map_while(number).collect();
    (valid && parts.len() == 3 && core.split('.').count() == 3).then(|| parts[0])
}

fn split_suffix(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    (digits && !padded).then(|| text.parse().ok())?
}

fn root(root: Option<&Root>, problems: &mut Problems) {
    match root {
        None => problems.add("/root", "is required"),
        Some(root) => {
            let empty = root.path().as_os_str().is_empty();
            problems.add_if(empty, "/root/path", "must not be empty");
        }
    }
}

fn process(process: &Process, problems: &mut Problems) {
    let args = process.args().as_deref().unwrap_or_default();
    match args.first() {
        None => problems.add("/process/args", "must name a program"),
        Some(program) => {
            problems.add_if(program.is_empty(), "/process/args/0", "must not be empty")
        }
    }
    absolute(process.cwd(), "/process/cwd", problems);
    let env = process.env().as_deref().unwrap_or_default();
    problems.0.extend(environment("/process/env", env));
    console_size(process, problems);
    rlimits(process, problems);
    let umask = process.user().umask().unwrap_or(0);
    problems.add_if(
        umask > 0o777,
        "/process/user/umask",
        "has more than the nine permission bits",
    );
    let score = process.oom_score_adj().unwrap_or(0);
    problems.add_if(
        !OOM_SCORE_ADJ.contains(&score),
        "/process/oomScoreAdj",
        "is not within -1000 and 1000",
    );
}

/// What is wrong with the variables at `pointer`.
pub(super) fn environment(pointer: &str, env: &[String]) -> Vec<Problem> {
    let problem = |(index, entry): (usize, &String)| {
        let message = match entry.split_once('=') {
            None => "is not of the form NAME=value",
            Some(("", _)) => "has no name before the \"=\"",
            Some(_) => return None,
        };
        Some(Problem::new(format!("{pointer}/{index}"), message))
    };
    env.iter().enumerate().filter_map(problem).collect()
}

/// What is ignored without a terminal may be anything.
fn console_size(process: &Process, problems: &mut Problems) {
    let Some(size) = process
        .console_size()
        .filter(|_| process.terminal() == Some(true))
    else {
        return;
    };
    for (name, value) in [("height", size.height()), ("width", size.width())] {
        let pointer = format!("/process/consoleSize/{name}");
        let wrong = value > u64::from(u16::MAX);
        problems.add_if(wrong, &pointer, "is more than a terminal can have: 65535");
    }
}

fn rlimits(process: &Process, problems: &mut Problems) {
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let pointer = format!("/process/rlimits/{index}");
        if limit.soft() > limit.hard() {
            let message = format!(
                "the soft limit {} of {} is above its hard limit {}",
                limit.soft(),
                limit.typ(),
                limit.hard()
            );
            problems.add(&pointer, message);
        }
    }
}

fn uts(spec: &Spec, problems: &mut Problems) {
    let own = has_namespace(spec, LinuxNamespaceType::Uts);
    let names = [
        ("/hostname", spec.hostname()),
        ("/domainname", spec.domainname()),
    ];
    for (pointer, name) in names {
        let Some(name) = name.as_ref().filter(|n| !n.is_empty()) else {
            continue;
        };
        problems.add_if(
            !own,
            pointer,
            "needs a namespace of type \"uts\" in /linux/namespaces",
        );
        let long = name.len() > UTS_NAME_LIMIT;
        problems.add_if(long, pointer, "is longer than the kernel's 64 bytes");
    }
}

fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|l| l.namespaces().as_ref());
    namespaces.is_some_and(|n| n.iter().any(|n| n.typ() == kind))
}

fn mounts(spec: &Spec, problems: &mut Problems) {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let pointer = |member: &str| format!("/mounts/{index}/{member}");
        let empty = mount.destination().as_os_str().is_empty();
        problems.add_if(empty, &pointer("destination"), "must not be empty");
        let options = mount.options().as_deref().unwrap_or_default();
        let has = |names: &[&str]| options.iter().any(|o| names.contains(&o.as_str()));
        let (bind, remount) = (has(&["bind", "rbind"]), has(&["remount"]));
        let kind = mount.typ().as_deref().unwrap_or_default();
        problems.add_if(
            kind.is_empty() && !bind && !remount,
            &pointer("type"),
            "is required, as the options have neither \"bind\" nor \"rbind\"",
        );
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        problems.add_if(
            (bind || kind == "bind") && !remount && source.as_os_str().is_empty(),
            &pointer("source"),
            "is required for a bind mount",
        );
        let given = |m: &Option<Vec<_>>| m.as_ref().is_some_and(|m| !m.is_empty());
        let (uids, gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
        let missing = if uids { "gidMappings" } else { "uidMappings" };
        problems.add_if(
            uids != gids,
            &pointer(missing),
            "is required when the other kind of mappings is given",
        );
    }
}

fn linux(linux: &Linux, problems: &mut Problems) {
    id_mappings(linux, problems);
    if let Some(seccomp) = linux.seccomp() {
        problems.0.extend(super::seccomp::check(seccomp));
    }
    problems.0.extend(super::namespaces::check(linux));
    let lists = [
        ("maskedPaths", linux.masked_paths()),
        ("readonlyPaths", linux.readonly_paths()),
    ];
    for (name, paths) in lists {
        for (index, path) in paths.iter().flatten().enumerate() {
            absolute(Path::new(path), &format!("/linux/{name}/{index}"), problems);
        }
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let pointer = format!("/linux/devices/{index}/path");
        absolute(device.path(), &pointer, problems);
    }
    for key in linux.sysctl().iter().flatten().map(|(key, _)| key) {
        let pointer = format!("/linux/sysctl/{}", pointer_token(key));
        problems.add_if(key.is_empty(), &pointer, "a key must not be empty");
    }
}

fn id_mappings(linux: &Linux, problems: &mut Problems) {
    let lists = [
        ("uidMappings", linux.uid_mappings()),
        ("gidMappings", linux.gid_mappings()),
    ];
    let user = |n: &oci_spec::runtime::LinuxNamespace| n.typ() == LinuxNamespaceType::User;
    let namespace = linux.namespaces().iter().flatten().any(user);
    let given = |m: &Option<Vec<_>>| m.as_ref().is_some_and(|m| !m.is_empty());
    for (name, mappings) in lists {
        let pointer = format!("/linux/{name}");
        problems.add_if(
            given(mappings) && !namespace,
            &pointer,
            "needs a namespace of type \"user\" in /linux/namespaces",
        );
    }
    let (uids, gids) = (given(linux.uid_mappings()), given(linux.gid_mappings()));
    if uids != gids {
        let missing = if uids { "gidMappings" } else { "uidMappings" };
        problems.add(
            format!("/linux/{missing}"),
            "is required when the other kind of mappings is given",
        );
    }
}

fn absolute(path: &Path, pointer: &str, problems: &mut Problems) {
    problems.add_if(!path.is_absolute(), pointer, "must be an absolute path");
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
