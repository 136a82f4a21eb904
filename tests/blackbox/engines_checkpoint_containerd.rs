//! Checkpoints that containerd asks for, root of a user namespace of the ordinary user: by its shim, through go-runc.

use crate::checkpoint_lab::checkpoints_or_skip;
use crate::engines_containerd::{Containerd, is_installed};
use crate::engines_lab::{IMAGE, engines};
use crate::harness::{Ran, skip, wait_for};

/// Tells a word that no other process has, and counts; the trap is for its end.
const COUNTER: &str = "trap 'exit 7' TERM; w=$(cat /proc/sys/kernel/random/uuid); touch /kept; chown 7:8 /dev/shm; i=0; \
                       while :; do i=$((i + 1)); echo $w $i >/dev/shm/new; mv /dev/shm/new /dev/shm/now; sleep 0.05; done";

/// Runs `test` with a containerd that has a runtime which can checkpoint.
fn containerd(test: impl Fn(&Containerd<'_>)) {
    engines(|e| {
        // crun cannot.
        if !e.with_peer() {
            test(&Containerd::start(e));
        }
    });
}

fn exec(c: &Containerd<'_>, words: &[&str]) -> Ran {
    c.ctr(&[&["task", "exec", "--exec-id", "e", c.id()], words].concat())
}

/// The word of the container's program, and how far it is.
fn counted(c: &Containerd<'_>) -> Option<(String, u64)> {
    let now = exec(c, &["cat", "/dev/shm/now"]).out;
    let (word, count) = now.trim().split_once(' ')?;
    Some((word.to_owned(), count.parse().ok()?))
}

fn counts_on(c: &Containerd<'_>, from: &(String, u64)) -> (String, u64) {
    wait_for("its counter", || {
        counted(c).filter(|now| now.0 == from.0 && now.1 > from.1)
    })
}

/// Ends its task, and removes the container; what its exit code was.
fn end(c: &Containerd<'_>, signal: &str) -> String {
    c.ctr(&["task", "kill", "--signal", signal, c.id()]).ok();
    wait_for("its end", || {
        (c.task_status(c.id())? == "STOPPED").then_some(())
    });
    let told = c.ctr(&["task", "delete", c.id()]).err;
    c.ctr(&["container", "delete", c.id()]).ok();
    told
}

/// Makes a checkpoint of the container and what it has written, and lets it go on.
fn checkpoint(c: &Containerd<'_>, name: &str) {
    c.ctr(&[
        "container",
        "checkpoint",
        "--task",
        "--rw",
        "--image",
        c.id(),
        name,
    ])
    .ok();
}

#[test]
fn a_container_goes_on_twice_where_it_was() {
    checkpoints_or_skip!();
    if !is_installed() {
        skip!("containerd is not installed");
    }
    containerd(|c| {
        c.run(&["-d", IMAGE, c.id(), "sh", "-c", COUNTER]).ok();
        let mut before = wait_for("its first word", || counted(c));

        for name in ["localhost/ck:1", "localhost/ck:2"] {
            checkpoint(c, name);
            // It was left running; what comes after the checkpoint is lost with it.
            let later = counts_on(c, &before);
            assert!(end(c, "KILL").contains("exit code 137"), "{later:?}");
            let restore = ["container", "restore", "--live", "--rw", c.id(), name];
            c.ctr(&restore).ok();
            assert_eq!(c.task_status(c.id()).as_deref(), Some("RUNNING"));
            before = counts_on(c, &before);
            // containerd 1.6 passes over a second checkpoint whose config is one that it has.
            c.ctr(&["image", "rm", "--sync", name]).ok();
        }
        let kept = "stat -c %u:%g /dev/shm; stat -c %u:%g /kept; id -u; cat /proc/1/comm";
        assert_eq!(exec(c, &["sh", "-c", kept]).ok(), "7:8\n0:0\n0\nsh\n");
        c.ctr(&["task", "pause", c.id()]).ok();
        assert_eq!(c.task_status(c.id()).as_deref(), Some("PAUSED"));
        c.ctr(&["task", "resume", c.id()]).ok();
        let told = end(c, "TERM");
        assert!(told.contains("exit code 7"), "{told}");
    });
}

#[test]
fn one_that_ends_with_its_checkpoint_and_why_another_cannot() {
    checkpoints_or_skip!();
    if !is_installed() {
        skip!("containerd is not installed");
    }
    containerd(|c| {
        c.run(&["-d", IMAGE, c.id(), "sh", "-c", COUNTER]).ok();
        wait_for("its first word", || counted(c));
        let images = c.engines.directory().join("ck");
        let mut ask = vec!["task", "checkpoint", "--exit", "--image-path"];
        ask.extend([images.to_str().unwrap(), c.id()]);
        let other = ["task", "exec", "--detach", "--exec-id", "other", c.id()];
        let tail = ["tail", "-f", "/dev/null"];
        c.ctr(&[&other[..], &tail].concat()).ok();
        let ran = c.ctr(&ask);
        let why = "the container cannot be checkpointed: process";
        assert!(ran.code != 0 && ran.err.contains(why), "{ran:#?}");
        assert!(!images.exists());
        assert_eq!(c.task_status(c.id()).as_deref(), Some("RUNNING"));
        let kill = [
            "task",
            "kill",
            "--signal",
            "KILL",
            "--exec-id",
            "other",
            c.id(),
        ];
        c.ctr(&kill).ok();
        wait_for("the end of the other program", || {
            (exec(c, &["pidof", "tail"]).code == 1).then_some(())
        });
        c.ctr(&ask).ok();
        assert!(images.join("lodger.json").exists());
        wait_for("its end", || {
            (c.task_status(c.id())? == "STOPPED").then_some(())
        });
        let told = c.ctr(&["task", "delete", c.id()]);
        assert!(told.err.contains("exit code 137"), "{told:#?}");
        c.ctr(&["container", "delete", c.id()]).ok();
    });
}
