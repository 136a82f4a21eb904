//! What a program has, before a checkpoint and after the restore: one test for each kind of thing.

use serde_json::json;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};

/// Checkpoints a program with these things, restores it and uses them up.
#[track_caller]
fn kept(words: &[&str], options: &[&str], used: &[(&str, &str)]) {
    let lab = Lab::with(words);
    lab.start();
    lab.survives(options);
    lab.consume("c", used);
}

#[test]
fn a_program_goes_on_where_it_was() {
    checkpoints_or_skip!();
    let lab = Lab::with(&[]);
    lab.start();
    let after = lab.survives(&[]);
    let later = lab.look("c");
    later.goes_on_from(&after);
    assert_eq!(after.get("process.1"), "patient R 0 1 1");
    assert_ne!(after.get("nonce"), "0");
}

#[test]
fn threads_of_several_names_and_masks() {
    checkpoints_or_skip!();
    let on = "goes on";
    kept(
        &["threads"],
        &[],
        &[("threads.0", on), ("threads.1", on), ("threads.2", on)],
    );
}

#[test]
fn memory_shared_with_a_child() {
    checkpoints_or_skip!();
    kept(&["shared"], &[], &[("shared.child", "goes on")]);
}

#[test]
fn a_sealed_file_in_memory() {
    checkpoints_or_skip!();
    kept(
        &["memfd"],
        &[],
        &[("memfd.first", "75"), ("memfd.rest", "ept in memory")],
    );
}

#[test]
fn memory_semaphores_and_messages_of_system_v() {
    checkpoints_or_skip!();
    kept(
        &["sysv"],
        &[],
        &[("sysv.semaphore", "0"), ("sysv.message", "message2")],
    );
}

#[test]
fn an_open_file_without_a_name() {
    checkpoints_or_skip!();
    kept(
        &["unlinked"],
        &[],
        &[("unlinked.rest", "a name"), ("unlinked.length", "21")],
    );
}

#[test]
fn a_mapped_file() {
    checkpoints_or_skip!();
    kept(&["mapped"], &[], &[("mapped.file", "SHARED........")]);
}

#[test]
fn a_working_directory_limits_and_files_opened_in_several_ways() {
    checkpoints_or_skip!();
    kept(
        &["place"],
        &[],
        &[("place.appended", "one two"), ("place.read", "3456789")],
    );
}

#[test]
fn descriptors_of_events() {
    checkpoints_or_skip!();
    kept(
        &["events"],
        &[],
        &[("events.count", "7"), ("events.poll", "0 0x0")],
    );
}

#[test]
fn a_watch_on_a_directory() {
    checkpoints_or_skip!();
    kept(&["watch"], &[], &[("watch.name", "new")]);
}

#[test]
fn a_lock_on_a_file() {
    checkpoints_or_skip!();
    kept(&["lock"], &["--file-locks"], &[("lock.held", "true")]);
}

#[test]
fn unix_sockets_with_data_on_its_way() {
    checkpoints_or_skip!();
    kept(
        &["unix"],
        &[],
        &[
            ("unix.forth", "forth"),
            ("unix.back", "back"),
            ("unix.datagrams", "first second"),
            ("unix.accepted", "hello"),
        ],
    );
}

#[test]
fn pipes_with_data_on_its_way() {
    checkpoints_or_skip!();
    kept(
        &["pipes"],
        &[],
        &[
            ("pipes.text", "in the pipe!"),
            ("pipes.named", "in the fifo"),
        ],
    );
}

#[test]
fn a_terminal_that_the_program_has_made() {
    checkpoints_or_skip!();
    kept(&["pty"], &[], &[("pty.out", "out"), ("pty.in", "in")]);
}

#[test]
fn ports_that_are_listened_at() {
    checkpoints_or_skip!();
    kept(
        &["listen", "udp"],
        &[],
        &[("listen.accepted", "hello"), ("udp.message", "datagram")],
    );
}

#[test]
fn an_established_connection_with_data_on_its_way() {
    checkpoints_or_skip!();
    kept(
        &["tcp"],
        &["--tcp-established"],
        &[
            ("tcp.server", "to the server"),
            ("tcp.client", "to the client"),
            ("tcp.more", "more"),
            ("tcp.new", "new"),
        ],
    );
}

#[test]
fn signals_that_wait_handlers_and_timers() {
    checkpoints_or_skip!();
    kept(
        &["signals"],
        &[],
        &[
            ("signals.handled", "1"),
            ("signals.taken", "[(28, 0), (37, 41), (37, 42)]"),
        ],
    );
}

#[test]
fn a_name_a_score_and_a_niceness() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["marks"]);
    lab.start();
    let after = lab.survives(&[]);
    assert_eq!(after.get("status.Name"), "marked");
    assert_eq!(after.get("marks.score"), "500");
    assert_eq!(after.get("marks.nice"), "5");
    assert_eq!(after.get("marks.reaper"), "1");
}

#[test]
fn a_tree_of_processes_with_sessions_and_groups() {
    checkpoints_or_skip!();
    let on = "goes on";
    kept(
        &["tree"],
        &[],
        &[("tree.0", on), ("tree.1", on), ("tree.2", on)],
    );
}

#[test]
fn a_child_that_has_ended_and_one_that_is_stopped() {
    checkpoints_or_skip!();
    kept(
        &["zombie", "stopped"],
        &[],
        &[("zombie", "23"), ("stopped", "goes on")],
    );
}

#[test]
fn two_hundred_megabytes() {
    checkpoints_or_skip!();
    let lab = Lab::with(&["large"]);
    lab.start();
    let after = lab.survives(&[]);
    assert_eq!(after.get("large.right"), "26214400");
}

#[test]
fn another_user_with_groups_and_no_capabilities() {
    checkpoints_or_skip!();
    let mut lab = Lab::with(&["shared", "threads"]);
    lab.fixture.config["process"]["user"] =
        json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 1002], "umask": 0o003});
    lab.fixture.config["process"]["env"] = json!(["A=b c"]);
    lab.fixture.config["process"]["cwd"] = json!("/tmp");
    lab.open_answers();
    lab.start();
    let after = lab.survives(&[]);
    assert_eq!(after.get("status.Uid"), "1000 1000 1000 1000");
    assert_eq!(after.get("status.Gid"), "1001 1001 1001 1001");
    assert_eq!(after.get("status.Groups"), "7 1002");
    assert_eq!(after.get("status.CapEff"), "0000000000000000");
    assert_eq!(after.get("cwd"), "/tmp");
    assert!(after.get("environment").contains(r#"("A", "b c")"#));
}

#[test]
fn privileges_as_the_config_gives_them() {
    checkpoints_or_skip!();
    for (no_new_privileges, told, effective) in [(true, "1", "21"), (false, "0", "2021")] {
        let mut lab = Lab::with(&[]);
        let process = &mut lab.fixture.config["process"];
        process["noNewPrivileges"] = json!(no_new_privileges);
        let caps = json!(["CAP_CHOWN", "CAP_KILL"]);
        process["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "permitted": caps, "effective": caps, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]
        });
        lab.start();
        let after = lab.survives(&[]);
        assert_eq!(after.get("status.NoNewPrivs"), told);
        // A program that root runs may get all of the bounding set.
        assert_eq!(after.get("status.CapEff"), format!("{effective:0>16}"));
        assert_eq!(after.get("status.CapBnd"), "0000000000002021");
        assert_eq!(after.get("status.CapAmb"), "0000000000000020");
    }
}

/// All of it at once, three times over, the last time under another name.
#[test]
fn three_generations_of_everything() {
    checkpoints_or_skip!();
    let words = [
        "shared", "memfd", "sysv", "mapped", "unlinked", "place", "events", "unix", "pipes", "pty",
        "listen", "tcp", "udp", "signals", "marks", "threads", "tree", "zombie", "stopped",
    ];
    let lab = Lab::with(&words);
    lab.start();
    let options = &["--tcp-established"];
    let first = lab.survives(options);
    let second = lab.survives(options);
    second.goes_on_from(&first);
    lab.checkpoint(options).ok();
    lab.restore(&["--tcp-established", "-d"], "third").ok();
    assert_eq!(lab.ids(), ["third"]);
    let third = lab.look("third");
    third.goes_on_from(&second);
    lab.consume(
        "third",
        &[("tcp.server", "to the server"), ("stopped", "goes on")],
    );
}
