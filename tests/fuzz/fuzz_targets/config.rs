//! config.json, from its bytes to the plan: on several hosts, whatever it says.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use lodger::bundle::{Bundle, Problem};
use lodger::host::{HostFacts, IdRange};
use lodger::plan::idmap::{map_text, maps_id};
use lodger::plan::{CapabilitySet, IdMapping, MountSource, Outer, Plan, UserNamespace};
use lodger_fuzz::{
    assert_apart, assert_clean, assert_lines_printable, assert_printable, mutate_json,
};

static HOSTS: LazyLock<Vec<HostFacts>> = LazyLock::new(|| {
    let texts = [
        include_str!("../../plans/09-several-ranges/host.json"),
        include_str!("../../plans/05-template-no-subordinate-ids/host.json"),
        include_str!("../../plans/06-template-inside-user-namespace/host.json"),
        include_str!("../../plans/08-template-real-root/host.json"),
    ];
    texts
        .map(|text| serde_json::from_str(text).unwrap())
        .to_vec()
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed)
});

fuzz_target!(|data: &[u8]| {
    let bundle = match Bundle::parse(PathBuf::from("/bundle"), data.to_vec()) {
        Ok(bundle) => bundle,
        Err(error) => return assert_lines_printable(&error.to_string()),
    };
    check_problems(&bundle.warnings);
    for facts in &*HOSTS {
        match Plan::compute(&bundle, facts) {
            Ok(plan) => {
                assert_eq!(Plan::compute(&bundle, facts).as_ref(), Ok(&plan));
                check(&plan, &bundle, facts);
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "a refusal without a reason");
                check_problems(&problems);
            }
        }
    }
});

fn check_problems(problems: &[Problem]) {
    for problem in problems {
        assert_printable(&problem.pointer);
        assert_printable(&problem.message);
        assert!(
            problem.pointer.is_empty() || problem.pointer.starts_with('/'),
            "{problem}"
        );
        assert!(!problem.message.is_empty(), "{problem:?}");
    }
}

fn check(plan: &Plan, bundle: &Bundle, facts: &HostFacts) {
    let text = serde_json::to_string(plan).unwrap();
    assert_eq!(
        &serde_json::from_str::<Plan>(&text).unwrap(),
        plan,
        "does not survive JSON"
    );
    assert!(!text.contains("\\u0000"), "a NUL: {text}");
    for note in &plan.notes {
        for text in [&note.property, &note.reason, &note.remedy] {
            assert_printable(text);
        }
        assert!(
            !note.reason.is_empty() && !note.remedy.is_empty(),
            "{note:?}"
        );
    }
    check_paths(plan, bundle);
    check_ids(plan, facts);
    check_process(plan, facts);
    check_hooks(plan);
}

fn check_paths(plan: &Plan, bundle: &Bundle) {
    assert!(plan.root.path.is_absolute());
    assert!(plan.process.cwd.is_absolute());
    let inside = plan.masked_paths.iter().chain(&plan.readonly_paths);
    inside.for_each(|path| assert_clean(path));
    assert_eq!(
        plan.mounts.len(),
        bundle.spec.mounts().iter().flatten().count(),
        "a mount is lost"
    );
    for mount in &plan.mounts {
        assert_clean(&mount.destination);
        assert_ne!(mount.destination, Path::new("/"));
        let beneath =
            mount.destination.starts_with("/proc") && mount.destination != Path::new("/proc");
        assert_eq!(mount.inside_proc, beneath, "{mount:?}");
        let special = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|p| mount.destination == Path::new(p));
        assert!(mount.no_symlinks || !special, "{mount:?}");
        if let MountSource::Bind { source, .. } = &mount.source {
            assert!(source.is_absolute(), "{mount:?}");
        }
        for attributes in [&mount.attributes, &mount.recursive_attributes] {
            assert!(
                !attributes.set.iter().any(|a| attributes.clear.contains(a)),
                "{mount:?}"
            );
        }
    }
    // The specification lets a device be anywhere; links are lodger's own.
    for path in plan.devices.iter().map(|d| &d.path) {
        assert_clean(path);
    }
    for path in plan.links.iter().map(|l| &l.path) {
        assert_clean(path);
        assert!(path.starts_with("/dev"));
    }
    for parameter in &plan.sysctl {
        assert!(parameter.path.is_relative() && !parameter.path.as_os_str().is_empty());
        assert_clean(&Path::new("/").join(&parameter.path));
        assert!(!parameter.value.contains('\n'));
    }
}

fn check_hooks(plan: &Plan) {
    let hooks = &plan.hooks;
    let lists = [
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    for hook in lists
        .into_iter()
        .flatten()
        .chain(hooks.runtime_before_root())
    {
        assert!(hook.path.is_absolute() && !hook.args.is_empty(), "{hook:?}");
        assert!(hook.timeout != Some(0), "{hook:?}");
    }
}

fn check_ids(plan: &Plan, facts: &HostFacts) {
    let UserNamespace::New {
        outer,
        uid_map,
        gid_map,
        ..
    } = &plan.user_namespace
    else {
        assert!(facts.in_user_namespace && facts.sys_admin);
        return;
    };
    let all = |map: &[lodger::host::MapLine]| -> Vec<IdRange> {
        let range = |l: &lodger::host::MapLine| IdRange {
            start: l.inside,
            count: l.count,
        };
        map.iter().map(range).collect()
    };
    let one = |start| vec![IdRange { start, count: 1 }];
    let (uids, gids) = match outer {
        Outer::Current => (all(&facts.uid_map), all(&facts.gid_map)),
        Outer::Helpers { uids, gids, .. } => (uids.clone(), gids.clone()),
        Outer::SingleId { uid, gid } => (one(*uid), one(*gid)),
        Outer::OneLevel { helpers: None } => (one(facts.uid), one(facts.gid)),
        Outer::OneLevel { helpers: Some(_) } => (
            [one(facts.uid), facts.subuid.clone()].concat(),
            [one(facts.gid), facts.subgid.clone()].concat(),
        ),
    };
    check_map(uid_map, &uids);
    check_map(gid_map, &gids);
}

/// What the kernel asks of a map, and that no id in it is somebody else's.
fn check_map(map: &[IdMapping], owned: &[IdRange]) {
    assert!((1..=340).contains(&map.len()));
    assert!(map_text(map).len() < 4096);
    assert_apart(map.iter().map(|line| (line.container_id, line.size)));
    assert_apart(map.iter().map(|line| (line.host_id, line.size)));
    for line in map {
        let last = line.host_id + (line.size - 1);
        assert!(
            owned
                .iter()
                .any(|range| range.has(line.host_id) && range.has(last)),
            "{line:?}"
        );
    }
}

fn check_process(plan: &Plan, facts: &HostFacts) {
    let process = &plan.process;
    assert!(
        process
            .args
            .first()
            .is_some_and(|program| !program.is_empty())
    );
    for entry in &process.env {
        assert!(entry.find('=').is_some_and(|at| at > 0), "{entry:?}");
    }
    let (has_uid, has_gid): (Box<dyn Fn(u32) -> bool>, Box<dyn Fn(u32) -> bool>) =
        match &plan.user_namespace {
            UserNamespace::New {
                uid_map, gid_map, ..
            }
            | UserNamespace::Joined {
                uid_map, gid_map, ..
            } => (
                Box::new(|id| maps_id(uid_map, id)),
                Box::new(|id| maps_id(gid_map, id)),
            ),
            UserNamespace::Inherit => (
                Box::new(|id| facts.uid_map.iter().any(|line| line.has(id))),
                Box::new(|id| facts.gid_map.iter().any(|line| line.has(id))),
            ),
        };
    assert!(has_uid(process.uid) && process.uid != u32::MAX);
    assert!(has_gid(process.gid) && process.gid != u32::MAX);
    for gid in process.additional_gids.iter().flatten() {
        assert!(has_gid(*gid) && *gid != u32::MAX);
    }
    let sets = &process.capabilities;
    let within = |inner: CapabilitySet, outer: CapabilitySet| inner.0 & !outer.0 == 0;
    assert!(within(sets.effective, sets.permitted));
    assert!(within(sets.inheritable, sets.bounding));
    assert!(within(sets.ambient, sets.permitted) && within(sets.ambient, sets.inheritable));
    let known = CapabilitySet(u64::MAX >> (63 - facts.last_capability));
    assert!(within(sets.bounding, known) && within(sets.permitted, known));
    for limit in &process.rlimits {
        assert!(limit.soft <= limit.hard, "{limit:?}");
        let had = facts
            .limits
            .get(&limit.name)
            .map_or(u64::MAX, |limit| limit.hard);
        assert!(limit.hard <= had, "{limit:?}");
    }
    assert!(process.umask.unwrap_or(0) <= 0o777);
}
