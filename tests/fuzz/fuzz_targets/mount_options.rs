//! Mount options, one a line, of a tmpfs and of a bind mount: what each does, against a second telling of config.md's table.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lodger::bundle::{Bundle, BundleError};
use lodger::host::HostFacts;
use lodger::plan::{Atime, Attribute, Attributes, Mount, MountSource, Note, Plan, PropagationKind};
use lodger_fuzz::assert_lines_printable;
use serde_json::json;

static HOST: LazyLock<HostFacts> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../plans/03-template/host.json")).unwrap()
});

/// Without a user namespace in the config, or maps of the mount's own, there is nothing to map ids with.
const REFUSED: [&str; 2] = ["idmap", "ridmap"];
/// What changes the kind of mount.
const KIND: [&str; 2] = ["tmpcopyup", "remount"];
const LOST: [&str; 3] = ["mand", "iversion", "silent"];
/// Superblock flags and what takes them back.
const FLAGS: [(&str, &str); 3] = [
    ("sync", "async"),
    ("dirsync", ""),
    ("lazytime", "nolazytime"),
];
const TAKEN_BACK: [&str; 5] = ["async", "nolazytime", "nomand", "noiversion", "loud"];
const ATTRIBUTES: [(Attribute, &str, &str); 6] = [
    (Attribute::Ro, "ro", "rw"),
    (Attribute::Nosuid, "nosuid", "suid"),
    (Attribute::Nodev, "nodev", "dev"),
    (Attribute::Noexec, "noexec", "exec"),
    (Attribute::Nodiratime, "nodiratime", "diratime"),
    (Attribute::Nosymfollow, "nosymfollow", "symfollow"),
];
const ATIMES: [(Option<Atime>, &str); 6] = [
    (Some(Atime::Noatime), "noatime"),
    (Some(Atime::Relatime), "relatime"),
    (Some(Atime::Strictatime), "strictatime"),
    (None, "atime"),
    (None, "norelatime"),
    (None, "nostrictatime"),
];
const PROPAGATIONS: [(PropagationKind, &str); 4] = [
    (PropagationKind::Shared, "shared"),
    (PropagationKind::Slave, "slave"),
    (PropagationKind::Private, "private"),
    (PropagationKind::Unbindable, "unbindable"),
];

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let options: Vec<&str> = text.split('\n').collect();
    let bind = options.iter().any(|o| ["bind", "rbind"].contains(o));
    check(&options, bind, "tmpfs");
    check(&options, true, "bind");
});

fn check(options: &[&str], bind: bool, kind: &str) {
    let refused = options
        .iter()
        .any(|o| REFUSED.contains(o) || o.contains('\0'));
    let data = data(options);
    let has = |name| options.contains(&name);
    let new = !bind && !has("remount");
    let possible = !refused && !(bind && !data.is_empty()) && (new || !has("tmpcopyup"));
    match plan(options, kind) {
        Ok(plan) => {
            assert!(possible, "{options:?} went through");
            check_mount(&plan.mounts[0], options, bind);
            check_notes(&plan, options, bind);
            check_data(&plan, &data);
        }
        Err(message) => {
            assert_lines_printable(&message);
            assert!(!possible, "{options:?}: {message}");
        }
    }
}

fn plan(options: &[&str], kind: &str) -> Result<Plan, String> {
    let config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["x"]},
        "mounts": [{"destination": "/m", "type": kind, "source": "source", "options": options}],
    });
    let text = serde_json::to_vec(&config).unwrap();
    let bundle =
        Bundle::parse(PathBuf::from("/bundle"), text).map_err(|e: BundleError| e.to_string())?;
    Plan::compute(&bundle, &HOST)
        .map_err(|problems| problems.iter().map(|p| format!("{p}\n")).collect())
}

/// Whether config.md gives `option` a meaning of its own.
fn known(option: &str) -> bool {
    let plain = |name: &str| {
        ATTRIBUTES
            .iter()
            .any(|(_, set, clear)| [*set, *clear].contains(&name))
            || ATIMES.iter().any(|(_, n)| *n == name)
            || PROPAGATIONS.iter().any(|(_, n)| *n == name)
            || ["bind", "idmap"].contains(&name)
    };
    let flag = FLAGS.iter().any(|(set, _)| *set == option) || TAKEN_BACK.contains(&option);
    plain(option)
        || option.strip_prefix('r').is_some_and(plain)
        || flag
        || LOST.contains(&option)
        || KIND.contains(&option)
        || REFUSED.contains(&option)
        || option == "defaults"
}

/// What is left for the filesystem.
fn data(options: &[&str]) -> Vec<String> {
    let parts = options
        .iter()
        .filter(|option| !known(option))
        .flat_map(|option| option.split(','));
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn check_mount(mount: &Mount, options: &[&str], bind: bool) {
    let tree: Vec<&str> = options.iter().filter_map(|o| o.strip_prefix('r')).collect();
    check_attributes(&mount.attributes, options);
    check_attributes(&mount.recursive_attributes, &tree);
    let named = |name: &str| {
        PROPAGATIONS
            .iter()
            .find(|(_, n)| *n == name)
            .map(|(kind, _)| *kind)
    };
    let asked = options.iter().filter_map(|o| {
        let whole = named(o).map(|kind| (kind, false));
        whole.or_else(|| Some((named(o.strip_prefix('r')?)?, true)))
    });
    let planned = mount.propagation.iter().map(|p| (p.kind, p.recursive));
    assert!(asked.eq(planned), "{options:?}: {:?}", mount.propagation);
    let remount = options.contains(&"remount");
    assert_eq!(mount.copy_up, options.contains(&"tmpcopyup"));
    assert_eq!(mount.id_map, None);
    match &mount.source {
        MountSource::Bind { recursive, .. } => {
            assert!(bind && !remount);
            assert_eq!(*recursive, options.contains(&"rbind"));
        }
        MountSource::Overlay { .. } => panic!("{options:?} make an overlay"),
        MountSource::Present { flags, .. } if bind => assert!(remount && flags.is_empty()),
        MountSource::Filesystem { flags, .. } | MountSource::Present { flags, .. } => {
            assert_eq!(remount, matches!(mount.source, MountSource::Present { .. }));
            assert!(!bind);
            for (set, clear) in FLAGS {
                let last = options
                    .iter()
                    .rfind(|o| **o == set || **o == clear && !clear.is_empty());
                assert_eq!(
                    flags.iter().any(|f| f == set),
                    last == Some(&set),
                    "{options:?}: {flags:?}"
                );
            }
            assert!(
                flags
                    .iter()
                    .all(|flag| FLAGS.iter().any(|(set, _)| flag == set)),
                "{flags:?}"
            );
        }
    }
}

/// Of two that contradict each other the later one holds.
fn check_attributes(planned: &Attributes, options: &[&str]) {
    for (attribute, set, clear) in ATTRIBUTES {
        let last = options.iter().rfind(|o| [set, clear].contains(o));
        assert_eq!(
            planned.set.contains(&attribute),
            last == Some(&set),
            "{options:?}: {planned:?}"
        );
        assert_eq!(
            planned.clear.contains(&attribute),
            last == Some(&clear),
            "{options:?}: {planned:?}"
        );
    }
    assert!(
        planned.set.len() + planned.clear.len() <= ATTRIBUTES.len(),
        "twice: {planned:?}"
    );
    let times = options
        .iter()
        .filter_map(|o| ATIMES.iter().find(|(_, name)| name == o));
    match times.last() {
        None => assert_eq!(planned.atime, None, "{options:?}"),
        Some((Some(policy), _)) => assert_eq!(planned.atime, Some(*policy), "{options:?}"),
        Some((None, name)) => {
            let taken_back = ATIMES
                .iter()
                .find(|(_, n)| Some(*n) == name.strip_prefix("no"));
            let taken_back = taken_back.map_or(Some(Atime::Noatime), |(policy, _)| *policy);
            let default = taken_back == Some(Atime::Relatime);
            assert!(
                planned.atime != taken_back || (!default && planned.atime == Some(Atime::Relatime)),
                "{options:?}"
            );
        }
    }
}

/// Nothing is left out in silence.
fn check_notes(plan: &Plan, options: &[&str], bind: bool) {
    for (index, option) in options.iter().enumerate() {
        let superblock = FLAGS.iter().any(|(set, _)| set == option) || TAKEN_BACK.contains(option);
        let pointer = format!("/mounts/0/options/{index}");
        let noted = plan.notes.iter().any(|note| note.property == pointer);
        let lost = LOST.contains(option) || (bind && superblock);
        assert!(noted || !lost, "{option:?} is lost without a note");
    }
}

fn check_data(plan: &Plan, asked: &[String]) {
    let (MountSource::Filesystem { options, .. } | MountSource::Present { options, .. }) =
        &plan.mounts[0].source
    else {
        return;
    };
    let left_out = |note: &&Note| note.reason.contains("is not mapped");
    let lacking = plan.notes.iter().filter(left_out).count();
    assert_eq!(
        options.len() + lacking,
        asked.len(),
        "{asked:?}: {options:?}"
    );
    let mut rest = asked.iter();
    for (name, value) in options {
        let text = value
            .as_ref()
            .map_or(name.clone(), |value| format!("{name}={value}"));
        assert!(
            rest.any(|part| *part == text),
            "{text:?} was not asked for, or not in this place"
        );
    }
}
