//! What `create` does for a later checkpoint: the annotation that lets CRIU's vmsplice(2) pass, and what is saved.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use nix::libc;
use serde_json::{Value, json};

use crate::harness::{Fixture, lodger_only, spawn};
use crate::seccomp::{blocking, filtered};
use crate::weak::{Outcome, held_by};

const KEY: &str = "dev.lodger.checkpointable";

/// SPLICE_F_GIFT and SPLICE_F_NONBLOCK, as CRIU calls vmsplice(2); as nobody does; and with SPLICE_F_MOVE besides.
const FLAGS: [&str; 3] = ["10", "0", "11"];

/// The helper's words for vmsplice(2) on a file that is not open: the kernel answers EBADF, a filter EPERM.
fn vmsplice(flags: &str) -> Vec<String> {
    let number = libc::SYS_vmsplice.to_string();
    let words = ["/agent", "call", &number, "99", "0", "0", flags];
    words.map(str::to_owned).to_vec()
}

/// What a container's program is told of vmsplice(2) with each of [`FLAGS`].
fn told(seccomp: &Value, annotation: Option<&str>, options: &[&str]) -> [String; 3] {
    let mut fixture = filtered(seccomp.clone());
    if let Some(value) = annotation {
        fixture.config["annotations"] = json!({KEY: value});
    }
    FLAGS.map(|flags| {
        fixture.config["process"]["args"] = json!(vmsplice(flags));
        fixture.write_config();
        let words = [&["run"], options, &["c"]].concat();
        let ran = spawn(&mut fixture.command(&words), b"").wait();
        ran.exits(0).out.trim_end().to_owned()
    })
}

const REFUSED: [&str; 3] = ["errno 1", "errno 1", "errno 1"];
const AS_CRIU_CALLS_IT: [&str; 3] = ["errno 9", "errno 1", "errno 1"];

#[test]
fn the_annotation_lets_vmsplice_pass_as_criu_calls_it() {
    lodger_only!("dev.lodger.checkpointable");
    let denied = blocking(&["vmsplice"], "SCMP_ACT_ERRNO");
    // Twice: the second time the filter comes from the cache.
    for annotation in [None, Some("false")] {
        assert_eq!(told(&denied, annotation, &[]), REFUSED, "{annotation:?}");
    }
    assert_eq!(told(&denied, Some("true"), &[]), AS_CRIU_CALLS_IT);
    // What is not named there is refused as well.
    let mut profile = crate::seccomp_profile::long_profile();
    let names = profile["syscalls"][0]["names"].as_array_mut().unwrap();
    names.retain(|name| name != "vmsplice");
    assert_eq!(told(&profile, None, &[]), REFUSED);
    assert_eq!(told(&profile, Some("true"), &[]), AS_CRIU_CALLS_IT);
    // The filter that feigns is loaded beside it.
    let feigning = ["--fake-root=ignore"];
    assert_eq!(told(&denied, None, &feigning), REFUSED);
    assert_eq!(told(&denied, Some("true"), &feigning), AS_CRIU_CALLS_IT);
}

#[test]
fn a_filter_in_the_cache_is_not_that_of_the_other_annotation() {
    lodger_only!("dev.lodger.checkpointable");
    let mut fixture = filtered(blocking(&["vmsplice"], "SCMP_ACT_ERRNO"));
    fixture.config["process"]["args"] = json!(vmsplice("10"));
    for (value, expected) in [
        ("false", "errno 1\n"),
        ("true", "errno 9\n"),
        ("false", "errno 1\n"),
        ("true", "errno 9\n"),
    ] {
        fixture.config["annotations"] = json!({KEY: value});
        assert_eq!(fixture.run().exits(0).out, expected, "{value}");
    }
    let kept = fs::read_dir(fixture.path("state/.seccomp")).unwrap();
    assert_eq!(kept.count(), 2);
}

#[test]
fn a_process_of_exec_has_the_same_filter() {
    lodger_only!("dev.lodger.checkpointable");
    let mut fixture = filtered(blocking(&["vmsplice"], "SCMP_ACT_ERRNO"));
    fixture.config["annotations"] = json!({KEY: "true"});
    fixture.sleeping("c");
    for (flags, expected) in FLAGS.iter().zip(AS_CRIU_CALLS_IT) {
        let words = vmsplice(flags);
        let mut args = vec!["exec", "c"];
        args.extend(words.iter().map(String::as_str));
        let ran = fixture.runtime(&args).exits(0);
        assert_eq!(ran.out.trim_end(), expected, "{flags}");
    }
}

#[test]
fn another_value_is_refused_with_or_without_a_filter() {
    lodger_only!("dev.lodger.checkpointable");
    for seccomp in [blocking(&["vmsplice"], "SCMP_ACT_ERRNO"), Value::Null] {
        let mut fixture = filtered(seccomp);
        for value in ["maybe", "", "True", "1"] {
            fixture.config["annotations"] = json!({KEY: value});
            let expected =
                format!("/annotations/{KEY}: {value:?} is neither \"true\" nor \"false\"");
            fixture.run().fails(1, &expected);
        }
        fixture.config["annotations"] = json!({KEY: "true"});
        fixture.args(&["/bin/true"]);
        let ran = fixture.run().exits(0);
        assert_eq!(ran.err, "");
    }
}

#[test]
fn features_tell_of_the_annotations() {
    lodger_only!("features");
    let text = Fixture::new().bare(&["features"]).ok();
    let features: Value = serde_json::from_str(&text).unwrap();
    let told = features["potentiallyUnsafeConfigAnnotations"].as_array();
    for key in [KEY, "org.criu.config"] {
        assert!(told.unwrap().contains(&json!(key)), "{features:#}");
    }
}

#[test]
fn the_annotation_for_criu_is_not_called_foreign() {
    lodger_only!("notes");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/true"]);
    fixture.config["annotations"] = json!({"org.criu.config": "/etc/criu/x.conf"});
    assert_eq!(fixture.run().exits(0).err, "");
    fixture.config["annotations"] = json!({"org.criu.config.x": "y"});
    let ran = fixture.run().exits(0);
    assert!(
        ran.err
            .contains("/annotations/org.criu.config.x: kept, but")
    );
}

/// What is saved of a container: JSON, and the number of instructions of each filter.
struct Saved {
    told: Value,
    filters: Vec<usize>,
}

fn file(fixture: &Fixture, id: &str) -> PathBuf {
    fixture.path("state").join(id).join("checkpoint")
}

fn saved(fixture: &Fixture, id: &str) -> Saved {
    let path = file(fixture, id);
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..16], b"lodger created 1");
    let number = |at: usize| {
        let four = bytes[at..at + 4].try_into().unwrap();
        usize::try_from(u32::from_le_bytes(four)).unwrap()
    };
    let mut at = 20 + number(16);
    let told = serde_json::from_slice(&bytes[20..at]).unwrap();
    let mut filters = Vec::new();
    while at + 8 < bytes.len() {
        filters.push(number(at));
        at += 4 + 8 * number(at);
    }
    assert_eq!(at + 8, bytes.len());
    Saved { told, filters }
}

/// How many filters the kernel counts for the container's first process; `None` before Linux 5.9.
fn counted(fixture: &Fixture, id: &str) -> Option<usize> {
    let pid = fixture.state(id)["pid"].clone();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Seccomp_filters:"));
    line.map(|count| count.trim().parse().unwrap())
}

#[test]
fn the_filters_are_saved_as_the_kernel_has_them() {
    lodger_only!("what create saves");
    let around = {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("Seccomp_filters:"));
        line.map_or(0, |count| count.trim().parse::<usize>().unwrap())
    };
    let denied = blocking(&["vmsplice"], "SCMP_ACT_ERRNO");
    for (seccomp, annotation, options, expected) in [
        (Value::Null, "false", &[][..], 0),
        (denied.clone(), "false", &[], 1),
        (denied.clone(), "true", &[], 1),
        (Value::Null, "true", &["--fake-root=ignore"], 1),
        (denied.clone(), "true", &["--fake-root=ignore"], 2),
    ] {
        let mut fixture = filtered(seccomp);
        fixture.config["annotations"] = json!({KEY: annotation});
        fixture.args(&["/bin/sleep", "600"]);
        fixture.write_config();
        let words = [&["create"], options, &["c"]].concat();
        spawn(&mut fixture.command(&words), b"").wait().ok();
        let before = saved(&fixture, "c");
        assert_eq!(before.filters.len(), expected, "{options:?}");
        fixture.runtime(&["start", "c"]).ok();
        fixture.wait_status("c", "running");
        if let Some(counted) = counted(&fixture, "c") {
            assert_eq!(counted, expected + around, "{options:?}");
        }
        // The one that feigns is loaded first, and far longer than this profile.
        if let [first, second] = before.filters[..] {
            assert!(first > second, "{:?}", before.filters);
        }
        fixture.runtime(&["delete", "-f", "c"]).ok();
        assert!(!fixture.path("state/c").exists());
    }
}

#[test]
fn the_rule_makes_the_saved_filter_longer() {
    lodger_only!("what create saves");
    let length = |annotation: &str| {
        let mut fixture = filtered(blocking(&["vmsplice"], "SCMP_ACT_ERRNO"));
        fixture.config["annotations"] = json!({KEY: annotation});
        fixture.sleeping("c");
        saved(&fixture, "c").filters[0]
    };
    assert!(length("true") > length("false"));
}

#[test]
fn without_the_filter_none_is_saved() {
    held_by(&["Seccomp"], || {
        let mut fixture = filtered(blocking(&["mkdirat"], "SCMP_ACT_ERRNO"));
        fixture.sleeping("c");
        let filters = saved(&fixture, "c").filters.len();
        if let Some(counted) = counted(&fixture, "c") {
            assert_eq!(counted, filters);
        }
        let none = (filters == 0).then(|| "there is no filter, and none is saved".to_owned());
        Outcome::of(none, format!("{filters} filter, and saved"))
    });
}

#[test]
fn what_comes_from_outside_is_saved_in_the_order_of_its_making() {
    lodger_only!("what create saves");
    let mut fixture = Fixture::with_own_root();
    fs::create_dir(fixture.path("shared")).unwrap();
    fs::write(fixture.path("one"), "").unwrap();
    let [shared, one] = ["shared", "one"].map(|name| fixture.path(name));
    fixture.mount(json!({"destination": "/mnt/all", "source": shared, "options": ["rbind"]}));
    fixture.mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}));
    fixture
        .mount(json!({"destination": "/mnt/../mnt/one", "source": one, "options": ["bind", "ro"]}));
    fixture.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/no/such"]);
    fixture.config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    fixture.sleeping("c");
    let told = saved(&fixture, "c").told;
    let externals: Vec<(String, String)> = told["externals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|external| {
            let text = |key: &str| external[key].as_str().unwrap().to_owned();
            (text("kind"), text("destination"))
        })
        .collect();
    let pair = |kind: &str, destination: &str| (kind.to_owned(), destination.to_owned());
    let mut expected = vec![pair("recursive_bind", "/mnt/all"), pair("bind", "/mnt/one")];
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        expected.push(pair("device", &format!("/dev/{name}")));
    }
    expected.push(pair("mask", "/proc/kcore"));
    expected.push(pair("mask", "/no/such"));
    assert_eq!(externals, expected);
}

#[test]
fn the_notify_directory_comes_from_outside_too() {
    lodger_only!("what create saves");
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.write_config();
    let mut command = fixture.command(&["create", "c"]);
    command.env("NOTIFY_SOCKET", fixture.path("nobody"));
    spawn(&mut command, b"").wait().ok();
    let told = saved(&fixture, "c").told;
    let notify = json!({"destination": "/run/notify", "kind": "bind"});
    assert!(
        told["externals"].as_array().unwrap().contains(&notify),
        "{told:#}"
    );
}

/// What is saved of a stream must be what the container's process has.
#[test]
fn the_streams_are_those_of_the_first_process() {
    lodger_only!("what create saves");
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.write_config();
    let output = fs::File::create(fixture.path("output")).unwrap();
    let command = fixture.command(&["create", "--preserve-fds", "1", "c"]);
    // The shell can give it that number.
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", r#"exec 3>"$0" && exec "$@""#])
        .arg(fixture.path("preserved"))
        .arg(command.get_program())
        .args(command.get_args());
    shell.stdin(std::process::Stdio::null());
    shell.stdout(output.try_clone().unwrap());
    shell.stderr(output.try_clone().unwrap());
    shell.current_dir(fixture.bundle());
    assert!(shell.status().unwrap().success());
    let preserved = fs::metadata(fixture.path("preserved")).unwrap();
    let told = saved(&fixture, "c").told;
    let streams = told["streams"].as_array().unwrap();
    let pid = fixture.state("c")["pid"].clone();
    assert_eq!(streams.len(), 4, "{told:#}");
    for (stream, number) in streams.iter().zip(0u64..) {
        let real = fs::metadata(format!("/proc/{pid}/fd/{number}")).unwrap();
        let expected = json!({
            "number": number,
            "device": real.dev(),
            "inode": real.ino(),
            "rdev": real.rdev(),
            "mode": real.mode(),
        });
        assert_eq!(*stream, expected);
    }
    assert_eq!(streams[1]["inode"], output.metadata().unwrap().ino());
    assert_eq!(streams[3]["inode"], preserved.ino());
}

#[test]
fn of_a_terminal_of_its_own_no_stream_is_saved() {
    lodger_only!("what create saves");
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/cat", "/state/c/checkpoint"]);
    let state = fixture.path("state");
    fixture.mount(json!({"destination": "/state", "source": state, "options": ["rbind", "ro"]}));
    fixture.config["process"]["terminal"] = json!(true);
    let ran = fixture.run().exits(0);
    assert!(ran.out.contains("\"streams\":[]"), "{ran:#?}");
    fixture.config["process"]["terminal"] = json!(false);
    let ran = fixture.run().exits(0);
    assert!(ran.out.contains("\"streams\":[{\"number\":0,"), "{ran:#?}");
}
