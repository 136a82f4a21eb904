//! Filters as engines write them: everything is refused but a long list of calls.

use std::fs;

use nix::libc;
use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, peer_differs, skip};
use crate::seccomp::{blocking, filtered};

/// Podman's default profile, where it is installed.
const PODMANS: &str = "/usr/share/containers/seccomp.json";

/// A profile in the shape of Docker's default one: an allow-list, rules on arguments, and three architectures.
pub(crate) fn long_profile() -> Value {
    let names: Vec<&str> = include_str!("seccomp_allowed.txt")
        .split_whitespace()
        .collect();
    assert!(names.len() > 350);
    let allow = |names: &[&str], args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let equal = |value: u64| json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
    let mut rules = vec![allow(&names, Value::Null)];
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(allow(&["personality"], equal(persona)));
    }
    // No socket between virtual machines.
    rules.push(allow(
        &["socket"],
        json!([{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]),
    ));
    // No new namespace: all CLONE_NEW… but CLONE_NEWTIME, whose bit is a signal's.
    rules.push(allow(
        &["clone"],
        json!([{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
    ));
    // Its flags are behind a pointer: the C library falls back to clone.
    rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

/// What `call` of the helper says of a call with these arguments.
fn told(fixture: &mut Fixture, number: i64, arguments: &[u64]) -> String {
    let mut words = vec!["/agent".to_owned(), "call".to_owned(), number.to_string()];
    words.extend(arguments.iter().map(u64::to_string));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fixture.args(&words);
    fixture.run().ok().trim_end().to_owned()
}

#[test]
fn a_profile_like_dockers_lets_programs_work_and_holds_the_rest() {
    for no_new_privs in [true, false] {
        let mut fixture = filtered(long_profile());
        fixture.config["process"]["noNewPrivileges"] = json!(no_new_privs);
        fixture
            .sh("echo hello >/tmp/x && cat /tmp/x | head -n 1 && mkdir /tmp/y && ls /tmp && id -u");
        assert_eq!(fixture.run().ok(), "hello\nx\ny\n0\n");
        assert_eq!(told(&mut fixture, libc::SYS_keyctl, &[]), "errno 1");
        assert_eq!(
            told(&mut fixture, libc::SYS_personality, &[0xffff_ffff]),
            "value 0"
        );
        assert_eq!(told(&mut fixture, libc::SYS_personality, &[7]), "errno 1");
        assert_eq!(told(&mut fixture, libc::SYS_socket, &[40, 1, 0]), "errno 1");
        assert_ne!(told(&mut fixture, libc::SYS_socket, &[1, 1, 0]), "errno 1");
        let new_user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        assert_eq!(told(&mut fixture, libc::SYS_clone, &[new_user]), "errno 1");
        assert_eq!(told(&mut fixture, libc::SYS_clone3, &[]), "errno 38");
    }
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist_for_the_program() {
    peer_differs!(
        "crun",
        "1.8 gives new calls the default error, on which the C library does not fall back"
    );
    let mut fixture = filtered(long_profile());
    assert_eq!(told(&mut fixture, 900, &[]), "errno 38");
    // Older, and not named.
    assert_eq!(told(&mut fixture, libc::SYS_bpf, &[]), "errno 1");
    // An error that was asked for stays.
    fixture.config["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_LOG");
    fixture.config["linux"]["seccomp"]["defaultErrnoRet"] = Value::Null;
    assert_eq!(told(&mut fixture, 900, &[]), "errno 38");
}

#[test]
fn a_call_that_libseccomp_does_not_know_is_blocked_by_its_name() {
    peer_differs!(
        "crun",
        "passes over what its libseccomp does not know: the call is not blocked"
    );
    peer_differs!(
        "runc",
        "passes over what its libseccomp does not know: the call is not blocked"
    );
    let mut fixture = filtered(crate::seccomp::blocking(
        &["listns", "fchmodat2"],
        "SCMP_ACT_ERRNO",
    ));
    assert_eq!(told(&mut fixture, 452, &[]), "errno 1");
    assert_eq!(told(&mut fixture, 470, &[]), "errno 1");
}

/// Podman's default profile as it makes it for a container with these capabilities; `None` where it is not installed.
pub(crate) fn installed_podmans(capabilities: &[&str]) -> Option<Value> {
    let text = fs::read_to_string(PODMANS).ok()?;
    Some(podmans(&text, capabilities))
}

/// The profile of containers-common in the form of the specification, as podman makes it for a container with these
/// capabilities.
fn podmans(text: &str, capabilities: &[&str]) -> Value {
    let profile: Value = serde_json::from_str(text).unwrap();
    let list = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    let has = |names: &[String]| {
        names
            .iter()
            .any(|name| capabilities.contains(&name.as_str()))
    };
    let mut rules = Vec::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        let (wanted, unwanted) = (&rule["includes"], &rule["excludes"]);
        let archs = list(&wanted["arches"]);
        let caps = list(&wanted["caps"]);
        let here = archs.is_empty() || archs.iter().any(|arch| arch == "amd64");
        let elsewhere = list(&unwanted["arches"]).iter().any(|arch| arch == "amd64");
        if !here || elsewhere || (!caps.is_empty() && !has(&caps)) || has(&list(&unwanted["caps"]))
        {
            continue;
        }
        let mut kept = rule.clone();
        for extra in ["includes", "excludes", "comment", "errno", "name"] {
            kept.as_object_mut().unwrap().remove(extra);
        }
        rules.push(kept);
    }
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

#[test]
fn podmans_own_profile_works() {
    let Ok(text) = fs::read_to_string(PODMANS) else {
        skip!("{PODMANS} is not there: containers-common is not installed");
    };
    for capabilities in [&[][..], &["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]] {
        let mut fixture = filtered(podmans(&text, capabilities));
        fixture.sh("echo hello >/tmp/x && cat /tmp/x && ls /tmp && id -u");
        let ran = fixture.run().exits(0);
        assert_eq!((&*ran.out, &*ran.err), ("hello\nx\n0\n", ""));
    }
}

#[test]
fn all_that_features_promises_of_filters_is_taken() {
    lodger_only!("features");
    let mut fixture = filtered(Value::Null);
    let text = fixture.bare(&["features"]).ok();
    let document: Value = serde_json::from_str(&text).unwrap();
    let promised = &document["linux"]["seccomp"];
    assert_eq!(promised["enabled"], true);
    let list = |name: &str| promised[name].as_array().unwrap().clone();
    let mut filters = Vec::new();
    let rule = |action: &Value, op: &Value| json!({"names": ["chroot"], "action": action, "args": [{"index": 0, "value": 1, "op": op}]});
    let (log, equal) = (json!("SCMP_ACT_LOG"), json!("SCMP_CMP_EQ"));
    for action in list("actions") {
        filters.push(json!({"syscalls": [rule(&action, &equal)], "listenerPath": "/x"}));
    }
    for op in list("operators") {
        filters.push(json!({"syscalls": [rule(&log, &op)]}));
    }
    filters.push(json!({"architectures": list("archs")}));
    filters.push(json!({"flags": list("supportedFlags")}));
    let counts = ["actions", "operators", "archs", "knownFlags"].map(|name| list(name).len());
    assert_eq!(counts, [9, 7, 23, 4]);
    let known = list("knownFlags");
    assert!(
        list("supportedFlags")
            .iter()
            .all(|flag| known.contains(flag))
    );
    for mut filter in filters {
        filter["defaultAction"] = json!("SCMP_ACT_ALLOW");
        fixture.config["linux"]["seccomp"] = filter.clone();
        fixture.write_config();
        let ran = fixture.bare(&["plan", "."]);
        assert_eq!(ran.code, 0, "{filter}: {ran:#?}");
    }
}

#[test]
fn an_errno_for_an_action_without_one_is_refused() {
    peer_differs!("runc", "1.1 ignores errnoRet where the action has none");
    let mut seccomp = blocking(&["mkdirat"], "SCMP_ACT_KILL");
    seccomp["syscalls"][0]["errnoRet"] = json!(1);
    filtered(seccomp).run().fails(
        1,
        "/linux/seccomp/syscalls/0/errnoRet: SCMP_ACT_KILL has no errno",
    );
}
