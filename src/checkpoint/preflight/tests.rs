use super::*;
use crate::checkpoint::inspect::{Has, Task};

fn process(inside: i32) -> Process {
    let pid = 1000 + inside;
    Process {
        pid,
        inside,
        name: "work".to_owned(),
        state: 'S',
        session: 1,
        group: 1,
        is_nested: false,
        is_descendant: true,
        tasks: vec![task(pid), task(pid + 1)],
    }
}

fn task(tid: i32) -> Task {
    Task {
        tid,
        inside: tid,
        tracer: 0,
        mode: 2,
        filters: Some(1),
    }
}

fn found(processes: Vec<Process>) -> Inspection {
    Inspection {
        processes,
        externals: Vec::new(),
        mounts: Vec::new(),
        streams: Vec::new(),
        sockets: Vec::new(),
        terminal: false,
        has: Has::default(),
        memory: std::collections::BTreeSet::new(),
        gone: std::collections::BTreeSet::new(),
        watches: false,
        obstacle: None,
        limits: Vec::new(),
        filters: 1,
    }
}

/// What is said of a container with a second process that `change` has changed.
fn told(change: impl Fn(&mut Process)) -> String {
    let mut second = process(7);
    change(&mut second);
    let looked = look(&found(vec![process(1), second]), 1);
    looked
        .err()
        .map_or_else(String::new, |error| error.message())
}

#[test]
fn this_kernel_can() {
    assert_eq!(kernel(), Ok(()));
}

#[test]
fn processes_that_stand_against_it_are_named() {
    assert_eq!(told(|_| {}), "");
    for (change, expected) in [
        (
            (|p| p.is_descendant = false) as fn(&mut Process),
            "process 7 (\"work\") did not come from its first process",
        ),
        (
            |p| p.is_nested = true,
            "process 7 (\"work\") is in a pid namespace of its own",
        ),
        (
            |p| p.session = 0,
            "process 7 (\"work\") is in a session of somebody outside",
        ),
        (
            |p| p.group = 0,
            "process 7 (\"work\") is in a process group of somebody outside",
        ),
        (
            |p| p.tasks[1].tracer = i32::MAX,
            "process 7 (\"work\") is traced by process 2147483647 (\"\")",
        ),
        (
            |p| p.tasks[0].mode = 1,
            "process 7 (\"work\") is in seccomp's strict mode, where",
        ),
        (
            |p| p.tasks[1].mode = 1,
            "strict mode in its thread 1008, where",
        ),
        (
            |p| p.tasks[0].filters = Some(2),
            "process 7 (\"work\") has installed 1 system call filter of its own, and",
        ),
        (
            |p| p.tasks[1].filters = Some(3),
            "process 7 (\"work\") has installed 2 system call filters of its own in its thread 1008, and",
        ),
        (
            |p| p.tasks[0].filters = Some(0),
            "is under 0 system call filters, and the container was made with 1",
        ),
    ] {
        let told = told(change);
        assert!(told.contains(expected), "{told:?} {expected:?}");
    }
}

#[test]
fn what_has_ended_is_no_matter() {
    let told = told(|p| {
        p.state = 'Z';
        p.is_descendant = false;
        p.session = 0;
        p.tasks[0].filters = Some(0);
    });
    assert_eq!(told, "");
}

#[test]
fn kernels_that_do_not_count_filters() {
    let told = |installed, mode| {
        let mut one = process(1);
        one.tasks = vec![Task {
            filters: None,
            mode,
            ..task(1001)
        }];
        look(&found(vec![one]), installed).is_err()
    };
    assert!(!told(0, 0) && !told(1, 2) && !told(2, 2));
    assert!(told(0, 2) && told(1, 0));
}

#[test]
fn only_a_few_of_many_are_named() {
    let mut others: Vec<Process> = (2..20).map(process).collect();
    others.iter_mut().for_each(|p| p.is_descendant = false);
    others.insert(0, process(1));
    let told = look(&found(others), 1).unwrap_err().message();
    assert!(
        told.contains("process 7 (\"work\") and 12 more did not"),
        "{told}"
    );
}

#[test]
fn the_first_process_leads_a_session() {
    let mut first = process(1);
    first.session = 3;
    let told = look(&found(vec![first]), 1).unwrap_err().message();
    assert!(
        told.contains("process 1 (\"work\"), leads no session"),
        "{told}"
    );
}

#[test]
fn files_that_stand_against_it_are_told() {
    for (from_outside, expected) in [
        (
            true,
            "process 7 (\"x\") has file 9 open (/a), which is on no mount of the container",
        ),
        (
            false,
            "process 7 (\"x\") has file 9 open (/a), of a kind that CRIU does not know",
        ),
    ] {
        let mut found = found(vec![process(1)]);
        found.obstacle = Some(Obstacle {
            process: "process 7 (\"x\")".to_owned(),
            number: 9,
            what: "/a".to_owned(),
            from_outside,
        });
        let told = look(&found, 1).unwrap_err().message();
        assert!(told.contains(expected), "{told}");
    }
}

pub(super) fn record(change: impl Fn(&mut Record)) -> Record {
    let all = flag::USER | flag::PID | flag::MOUNT | flag::IPC | flag::NETWORK;
    let mut record: Record = serde_json::from_value(serde_json::json!({
        "oci_version": "1.0.2",
        "process": {"pid": 7, "start_time": 42},
        "boot_id": "b",
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "created": "now",
        "owner": "ann",
        "annotations": {},
        "namespaces": all,
        "keyring": null,
        "user_namespace": null,
        "notes": [],
    }))
    .unwrap();
    change(&mut record);
    record
}

#[test]
fn what_is_shared_or_lacking_is_told() {
    let told = |change: fn(&mut Record)| {
        let looked = namespaces(&record(change));
        looked
            .err()
            .map_or_else(String::new, |error| error.message())
    };
    assert_eq!(told(|_| {}), "");
    // These may be the host's, or another's.
    assert_eq!(told(|r| r.joined = REJOINED), "");
    assert_eq!(told(|r| r.namespaces &= !(flag::IPC | flag::NETWORK)), "");
    // It is the caller's, as an engine makes them that is root of a user namespace.
    assert_eq!(told(|r| r.namespaces &= !flag::USER), "");
    for (change, expected) in [
        (
            (|r| r.joined = flag::PID) as fn(&mut Record),
            "its pid namespace is one that was there before it",
        ),
        (|r| r.joined = flag::MOUNT, "the mounts of what it restores"),
        (|r| r.joined = flag::USER, "its user namespace is one"),
        (|r| r.joined = flag::TIME, "its time namespace is one"),
        (
            |r| r.joined = flag::NETWORK | flag::USER,
            "they would have power over CRIU",
        ),
        (
            |r| r.namespaces &= !flag::PID,
            "it has no pid namespace of its own",
        ),
        (|r| r.no_pivot = true, "(--no-pivot)"),
    ] {
        let told = told(change);
        assert!(told.contains(expected), "{told:?} {expected:?}");
    }
}

#[test]
fn a_container_of_an_older_lodger_is_made_anew() {
    let error = check(&record(|_| {}), None, &[]).unwrap_err();
    assert!(error.message().contains("did not save how"), "{error}");
}

#[test]
fn sockets_of_another_network_namespace_are_told() {
    let mut found = found(vec![process(1)]);
    found.streams.push(crate::checkpoint::image::ExternalFile {
        number: 2,
        key: "socket:[7]".to_owned(),
    });
    let error = sockets(&record(|_| {}), &found).unwrap_err();
    assert!(
        error.message().contains("its file 2 is a socket"),
        "{error}"
    );
    let shared = record(|r| r.namespaces &= !flag::NETWORK);
    assert_eq!(sockets(&shared, &found), Ok(()));
}
