use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(words: &[&str]) -> clap::error::Result<Args> {
    let line = ["update"].iter().chain(words).chain(&["c"]);
    Line::try_parse_from(line).map(|line| line.args)
}

/// What is written for the options, in a cgroup that has `files`: `file=value` of each setting.
fn settings(words: &[&str], files: &[(&str, &str)]) -> std::result::Result<Vec<String>, String> {
    let asked = args(words).unwrap().asked().map_err(|e| e.message())?;
    let found = convert(asked, "1.3.0", |file| {
        let found = files.iter().find(|(name, _)| *name == file);
        found.map(|(_, text)| (*text).to_owned())
    });
    let converted = found.map_err(|e| e.message())?;
    let writes = converted.settings.iter().map(|setting| &setting.writes[0]);
    Ok(writes.map(|w| format!("{}={}", w.file, w.value)).collect())
}

#[test]
fn options_become_limits() {
    let found = settings(
        &[
            "--memory",
            "64M",
            "--memory-reservation",
            "1m",
            "--memory-swap",
            "96M",
            "--pids-limit",
            "-1",
            "--cpu-quota",
            "50000",
            "--cpu-period",
            "100000",
            "--cpu-burst",
            "1000",
            "--cpu-share",
            "1024",
            "--cpu-idle",
            "0",
            "--cpuset-cpus",
            "0-1",
            "--cpuset-mems",
            "0",
            "--blkio-weight",
            "10",
            "--cpu-rt-period",
            "5",
            "--cpu-rt-runtime",
            "-1",
        ],
        &[],
    );
    let expected = [
        "memory.max=67108864",
        "memory.swap.max=33554432",
        "memory.low=1048576",
        "cpu.idle=0",
        "cpu.weight=100",
        "cpu.max=50000 100000",
        "cpu.max.burst=1000",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "pids.max=max",
        "io.bfq.weight=default 10",
    ];
    assert_eq!(found.unwrap(), expected);
    assert_eq!(settings(&[], &[]).unwrap(), [""; 0]);
}

#[test]
fn what_is_not_given_is_taken_from_what_holds() {
    let files = [("cpu.max", "20000 50000"), ("memory.max", "1000")];
    let table: [(&[&str], &[(&str, &str)], &str); 7] = [
        (&["--cpu-quota", "30000"], &files, "cpu.max=30000 50000"),
        (&["--cpu-period", "100000"], &files, "cpu.max=20000 100000"),
        (
            &["--cpu-period", "100000"],
            &[("cpu.max", "max 100000")],
            "cpu.max=max 100000",
        ),
        (&["--cpu-quota", "-1"], &files, "cpu.max=max 50000"),
        (&["--cpu-quota", "30000"], &[], "cpu.max=30000 100000"),
        (&["--memory-swap", "3000"], &files, "memory.swap.max=2000"),
        (
            &["--memory-swap", "3000"],
            &[("memory.max", "max")],
            "memory.swap.max=3000",
        ),
    ];
    for (words, files, expected) in table {
        assert_eq!(settings(words, files).unwrap(), [expected], "{words:?}");
    }
    let error = settings(&["--memory-swap", "3000"], &[]).unwrap_err();
    assert!(
        error.contains("/linux/resources/memory/swap: needs memory/limit"),
        "{error}"
    );
    let error = settings(&["--memory-swap", "30"], &files).unwrap_err();
    assert!(
        error.contains("30 is less than memory/limit, 1000"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_is_refused() {
    for (words, why) in [
        (["--l3-cache-schema", "L3:0=f"], "resctrl"),
        (["--mem-bw-schema", "MB:0=50"], "resctrl"),
        (["--cpu-rt-runtime", "5"], "realtimeRuntime: version 2"),
        (["--blkio-weight", "5"], "blockIO/weight: 5 is not within"),
        (["--cpuset-cpus", "x"], "cpu/cpus: is not a list"),
        (["--cpu-idle", "2"], "cpu/idle: is neither"),
    ] {
        let error = settings(&words, &[]).unwrap_err();
        assert!(error.contains(why), "{words:?}: {error}");
    }
    for words in [
        &["--memory", "x"][..],
        &["--memory", "-2"],
        &["--pids-limit", "1.5"],
        &["--cpu-share", "-1"],
        &["--resources", "-", "--memory", "5"],
    ] {
        assert!(args(words).is_err(), "{words:?}");
    }
}

#[test]
fn zeros_change_nothing_and_are_told() {
    let asked = args(&["--memory", "0", "--cpu-share", "0"])
        .unwrap()
        .asked()
        .unwrap();
    let converted = convert(asked, "1.3.0", |_| None).unwrap();
    assert_eq!(converted.settings, []);
    assert_eq!(converted.notes.len(), 1);
    assert!(converted.notes[0].reason.contains("what holds stays"));
    let notes = args(&["--kernel-memory", "5", "--kernel-memory-tcp", "0"])
        .unwrap()
        .limits
        .notes();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].property, "--kernel-memory");
}

#[test]
fn less_than_is_in_use_is_found() {
    let asked = args(&["--memory", "1000", "--memory-swap", "1500"])
        .unwrap()
        .asked()
        .unwrap();
    let converted = convert(asked, "1.3.0", |_| None).unwrap();
    for (memory, swap, fits) in [
        ("1000", "500", true),
        ("1001", "0", false),
        ("0", "501", false),
    ] {
        let checked = check_usage(&converted, |file| {
            let usage = if file == "memory.current" {
                memory
            } else {
                swap
            };
            Some(usage.to_owned())
        });
        assert_eq!(checked.is_ok(), fits, "{memory} {swap}");
    }
    let none = args(&["--memory", "-1"]).unwrap().asked().unwrap();
    let none = convert(none, "1.3.0", |_| None).unwrap();
    assert!(check_usage(&none, |_| Some("5".to_owned())).is_ok());
}
