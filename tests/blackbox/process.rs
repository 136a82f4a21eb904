//! What the config says of the process: users, groups, capabilities, limits, directories.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Fixture, Ran, lodger_only, peer, peer_differs, spawn, write_program};

/// One field of the payload's /proc/self/status.
fn status_field(fixture: &mut Fixture, name: &str) -> String {
    fixture.args(&["cat", "/proc/self/status"]);
    let out = fixture.run().ok();
    let line = out
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")));
    line.unwrap().split_once(':').unwrap().1.trim().to_string()
}

#[test]
fn uid_and_gid() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["user"] = json!({"uid": 33, "gid": 44});
    fixture.sh("id -u; id -g");
    assert_eq!(fixture.run().ok(), "33\n44\n");
}

#[test]
fn a_user_without_capabilities_in_the_config_has_none() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["user"] = json!({"uid": 33, "gid": 33});
    fixture.config["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    assert_eq!(status_field(&mut fixture, "CapEff"), "0000000000000000");
    assert_eq!(status_field(&mut fixture, "CapPrm"), "0000000000000000");
}

#[test]
fn additional_groups() {
    peer_differs!("runc", "takes no additional groups when rootless");
    let mut fixture = Fixture::new();
    fixture.config["process"]["user"] =
        json!({"uid": 1, "gid": 2, "additionalGids": [3, 5, 65536]});
    let groups = status_field(&mut fixture, "Groups");
    let mut groups: Vec<&str> = groups
        .split_whitespace()
        .filter(|group| *group != "2")
        .collect();
    groups.sort_unstable();
    assert_eq!(groups, ["3", "5", "65536"]);
}

#[test]
fn the_callers_groups_stay_outside() {
    peer_differs!("runc", "keeps the caller's groups when rootless");
    let mut fixture = Fixture::new();
    let groups = status_field(&mut fixture, "Groups");
    assert!(groups.is_empty() || groups == "0", "{groups}");
}

#[test]
fn umask() {
    for (umask, text) in [(0o27, "0027"), (0, "0000")] {
        let mut fixture = Fixture::new();
        fixture.config["process"]["user"]["umask"] = umask.into();
        assert_eq!(status_field(&mut fixture, "Umask"), text);
    }
}

#[test]
fn the_five_capability_sets() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["user"] = json!({"uid": 7, "gid": 7});
    fixture.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        "inheritable": ["CAP_KILL", "CAP_SETUID"],
        "effective": ["CAP_KILL"],
        "ambient": ["CAP_KILL"]
    });
    // A program without file capabilities that is not run by root keeps of these what is ambient, and the bounding set.
    for (set, bits) in [
        ("CapBnd", "00000000000020a1"),
        ("CapInh", "00000000000000a0"),
        ("CapPrm", "0000000000000020"),
        ("CapEff", "0000000000000020"),
        ("CapAmb", "0000000000000020"),
    ] {
        assert_eq!(status_field(&mut fixture, set), bits, "{set}");
    }
}

#[test]
fn root_has_the_capabilities_of_the_bounding_set() {
    let mut fixture = Fixture::new();
    assert_eq!(status_field(&mut fixture, "CapBnd"), "0000000020000420");
    assert_eq!(status_field(&mut fixture, "CapEff"), "0000000020000420");
    assert_eq!(status_field(&mut fixture, "CapAmb"), "0000000000000000");
}

#[test]
fn an_unknown_capability_is_not_fatal() {
    let mut fixture = Fixture::new();
    let bounding = fixture.config["process"]["capabilities"]["bounding"]
        .as_array_mut()
        .unwrap();
    bounding.push("CAP_OF_THE_FUTURE".into());
    fixture.sh("echo ran");
    let ran = fixture.run();
    let ran = ran.exits(0);
    assert_eq!(ran.out, "ran\n");
    assert!(peer() || ran.err.contains("CAP_OF_THE_FUTURE"), "{ran:#?}");
}

#[test]
fn rlimits() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152}
    ]);
    fixture.args(&["cat", "/proc/self/limits"]);
    let out = fixture.run().ok();
    for (name, soft, hard) in [
        ("Max open files", "100", "200"),
        ("Max core file size", "0", "0"),
        ("Max stack size", "1048576", "2097152"),
    ] {
        let line = out
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields[..2], [soft, hard], "{name}");
    }
}

#[test]
fn a_limit_that_cannot_be_raised_is_an_error() {
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    let line = own
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    if line.split_whitespace().nth(5) == Some("unlimited") {
        crate::harness::skip!(
            "the hard limit of core files is unlimited here: run with ulimit -c 0"
        );
    }
    let mut fixture = Fixture::new();
    fixture.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_CORE", "soft": 1_u64 << 40, "hard": 1_u64 << 40}]);
    fixture.run().fails(1, "RLIMIT_CORE");
}

#[test]
fn no_new_privileges() {
    for (asked, seen) in [(true, "1"), (false, "0")] {
        let mut fixture = Fixture::new();
        fixture.config["process"]["noNewPrivileges"] = asked.into();
        assert_eq!(status_field(&mut fixture, "NoNewPrivs"), seen);
    }
}

#[test]
fn oom_score_adj() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["oomScoreAdj"] = 321.into();
    fixture.args(&["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(fixture.run().ok(), "321\n");
}

#[test]
fn an_oom_score_that_is_too_low_is_an_error() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["oomScoreAdj"] = (-900).into();
    fixture.run().fails(1, "oom");
}

#[test]
fn cwd() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["cwd"] = "/etc".into();
    fixture.args(&["pwd"]);
    assert_eq!(fixture.run().ok(), "/etc\n");
}

#[test]
fn a_cwd_that_is_missing_is_made() {
    let mut fixture = Fixture::with_own_root();
    fixture.config["process"]["cwd"] = "/srv/made/here".into();
    fixture.args(&["pwd"]);
    assert_eq!(fixture.run().ok(), "/srv/made/here\n");
    assert!(fixture.rootfs().join("srv/made/here").is_dir());
}

#[test]
fn a_cwd_that_is_a_file_is_an_error() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["cwd"] = "/etc/passwd".into();
    fixture.run().fails(1, "/etc/passwd");
}

#[test]
fn a_cwd_that_only_root_may_enter() {
    let mut fixture = Fixture::with_own_root();
    let private = fixture.rootfs().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    fixture.config["process"]["cwd"] = "/private".into();
    fixture.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    fixture.sh("echo ran");
    // Entered before the user changes: so it works (config.md, "cwd").
    assert_eq!(fixture.run().ok(), "ran\n");
}

#[test]
fn home_comes_from_the_containers_passwd() {
    let mut fixture = Fixture::with_own_root();
    fs::write(
        fixture.rootfs().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nann:x:77:77:Ann:/home/ann:/bin/sh\n",
    )
    .unwrap();
    fixture.sh("echo $HOME");
    fixture.config["process"]["user"] = json!({"uid": 77, "gid": 77});
    assert_eq!(fixture.run().ok(), "/home/ann\n");
    peer_differs!(
        "crun",
        "1.8 leaves HOME empty for a user that passwd has not"
    );
    fixture.config["process"]["user"] = json!({"uid": 78, "gid": 78});
    assert_eq!(fixture.run().ok(), "/\n");
    let env = fixture.config["process"]["env"].as_array_mut().unwrap();
    env.push("HOME=/given".into());
    assert_eq!(fixture.run().ok(), "/given\n");
}

#[test]
fn the_program_is_looked_up_in_the_path_of_the_container() {
    let mut fixture = Fixture::with_own_root();
    let tools = fixture.rootfs().join("tools");
    fs::create_dir(&tools).unwrap();
    write_program(&tools.join("hello"), b"#!/bin/sh\necho hello from tools\n");
    // A file of the same name that cannot be run comes first, and is passed over, as execvp(3) does.
    fs::create_dir(fixture.rootfs().join("first")).unwrap();
    fs::write(fixture.rootfs().join("first/hello"), "not a program").unwrap();
    fixture.config["process"]["env"] = json!(["PATH=/first:/no/such:/tools:/bin"]);
    fixture.args(&["hello"]);
    assert_eq!(fixture.run().ok(), "hello from tools\n");
}

#[test]
fn a_program_relative_to_the_cwd() {
    let mut fixture = Fixture::new();
    fixture.config["process"]["cwd"] = "/bin".into();
    fixture.args(&["./echo", "relative"]);
    assert_eq!(fixture.run().ok(), "relative\n");
}

#[test]
fn arguments_are_passed_as_they_are() {
    let mut fixture = Fixture::new();
    fixture.args(&[
        "/bin/sh",
        "-c",
        "for a; do echo \"[$a]\"; done",
        "sh",
        "",
        "a b",
        "ü",
        "$HOME",
        "x\ny",
    ]);
    assert_eq!(fixture.run().ok(), "[]\n[a b]\n[ü]\n[$HOME]\n[x\ny]\n");
}

/// `run`, started by a shell that ignores these signals.
fn run_ignoring(fixture: &Fixture, signals: &str) -> Ran {
    fixture.write_config();
    let run = fixture.command(&["run", "c"]);
    let mut command = std::process::Command::new("/bin/bash");
    command
        .arg("-c")
        .arg(format!("trap '' {signals}; exec \"$@\""))
        .arg("bash")
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait()
}

#[test]
fn a_caller_that_ignores_the_end_of_its_children() {
    peer_differs!(
        "crun",
        "1.8 fails: it waits for newuidmap, which the kernel has taken away"
    );
    let mut fixture = Fixture::new();
    fixture.sh("sleep 0; exit 6");
    run_ignoring(&fixture, "CHLD").exits(6);
}

#[test]
fn the_payload_has_default_signals() {
    lodger_only!("resetting signals");
    let mut fixture = Fixture::new();
    fixture.args(&["cat", "/proc/self/status"]);
    let out = run_ignoring(&fixture, "USR1 PIPE HUP RTMIN+2").ok();
    let mask = |name: &str| {
        let line = out
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // 32 and 33 too, which posix_spawn(3) of whoever starts us ignores, and which sigaction(3) does not know.
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigIgn:"), 0);
}

#[test]
fn the_payload_is_pid_1_and_leads_a_session() {
    let mut fixture = Fixture::new();
    fixture.sh("echo $$; read stat </proc/self/stat; set -- $stat; echo $5 $6");
    let out = fixture.run().ok();
    assert!(out.starts_with("1\n"), "{out}");
    if !peer() {
        assert_eq!(out, "1\n1 1\n");
    }
}
