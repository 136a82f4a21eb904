//! State that outlives what it tells of, or is damaged, or has no room: one clear error or a clean result each.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Fixture, LIMIT, Ran, lodger_only, runtime_binary, send_signal, skip, spawn};
use crate::tracing::process_state;

fn record_path(fixture: &Fixture) -> PathBuf {
    fixture.path("state/c/state.json")
}

fn pid_of(fixture: &Fixture) -> u32 {
    let pid = fixture.state("c")["pid"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

/// After a reboot the pid is somebody else's, even if it began at the same tick.
#[test]
fn after_a_reboot_every_container_has_stopped() {
    lodger_only!("the record of a container");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid = pid_of(&fixture);
    let text = fs::read_to_string(record_path(&fixture)).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let earlier = text.replace(boot.trim(), "01234567-89ab-4cde-8f01-23456789abcd");
    assert_ne!(earlier, text);
    fs::write(record_path(&fixture), earlier).unwrap();
    assert_eq!(fixture.status("c"), "stopped");
    fixture
        .bare(&["start", "c"])
        .fails(1, "cannot start a container that has stopped");
    fixture
        .bare(&["kill", "c", "KILL"])
        .fails(1, "container not running");
    fixture
        .bare(&["exec", "c", "true"])
        .fails(255, "cannot exec in a stopped container");
    fixture.bare(&["create", "c"]).fails(1, "already exists");
    fixture.bare(&["delete", "c"]).ok();
    let alive = matches!(process_state(pid), Some('S' | 'R' | 'D'));
    assert!(alive, "somebody else's process");
    send_signal(pid, "KILL");
    fixture.bare(&["create", "c"]).ok();
}

/// In a pid namespace with few pids the number of a container that ended comes back soon.
#[test]
fn a_pid_that_comes_back_is_not_the_containers() {
    lodger_only!("the record of a container");
    let mut fixture = Fixture::with_own_root();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.write_config();
    let script = r#"
        echo 400 >/proc/sys/kernel/pid_max 2>/dev/null || { echo SKIP; exit 0; }
        lodger() { "$LODGER" --root "$STATE" "$@"; }
        # The first 300 are given once only.
        while /bin/true & [ $! -lt 305 ]; do wait; done
        lodger run -d c
        pid=$(lodger state c | sed -n 's/.*"pid": \([0-9]*\),/\1/p')
        kill -KILL "$pid"
        while kill -0 "$pid" 2>/dev/null; do :; done
        tries=0
        while :; do
            sleep 600 & other=$!
            [ "$other" = "$pid" ] && break
            kill -KILL "$other"; wait "$other" 2>/dev/null || :
            tries=$((tries + 1)); [ $tries -lt 2000 ] || { echo never; exit 1; }
        done
        echo "again $((other - pid)) $([ $tries -ge 1 ] && echo later)"
        lodger state c | sed -n 's/.*"status": "\(.*\)",/\1/p'
        lodger kill c KILL 2>&1 || :
        lodger exec c true 2>&1 || :
        lodger delete -f c
        kill -0 "$other" && echo alive
        lodger list -q
    "#;
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "/bin/sh",
            "-ec",
            script,
        ])
        .env("LODGER", runtime_binary())
        .env("STATE", fixture.path("state"))
        .current_dir(fixture.bundle());
    let mut running = spawn(&mut command, b"");
    // Thousands of processes and six commands: more than what one command may take.
    let ran = running
        .wait_at_most(LIMIT * 6)
        .unwrap_or_else(|| panic!("it did not end: {:?}", running.out()));
    if ran.out == "SKIP\n" {
        skip!("this kernel has one pid_max for all pid namespaces (before 6.14)");
    }
    let out = ran.ok();
    let lines: Vec<&str> = out.lines().collect();
    let expected = ["again 0 later", "stopped"];
    assert_eq!(lines[..2], expected, "{out}");
    assert!(
        out.contains("container not running") && out.contains("stopped container"),
        "{out}"
    );
    assert_eq!(lines.last(), Some(&"alive"), "{out}");
}

/// Whatever was written to it: no panic, no hang, no signal to the wrong process, and `delete -f` clears it away.
#[test]
fn a_damaged_record_is_one_error() {
    lodger_only!("the record of a container");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let whole = fs::read(record_path(&fixture)).unwrap();
    let assert_clear = |ran: Ran, what: &str| {
        assert!(
            ran.err.contains("cannot read the state of container \"c\""),
            "{what}: {ran:#?}"
        );
        assert!(
            ran.err.contains("hint: ") && ran.err.contains("delete -f c"),
            "{what}: {ran:#?}"
        );
        assert!(
            !ran.err.chars().any(|c| c.is_control() && c != '\n'),
            "{what}: {ran:?}"
        );
        assert_eq!((ran.code, &*ran.out), (1, ""), "{what}: {ran:#?}");
    };
    for length in 0..whole.len() {
        fs::write(record_path(&fixture), &whole[..length]).unwrap();
        assert_clear(
            fixture.bare(&["state", "c"]),
            &format!("the first {length} bytes"),
        );
    }
    for args in [
        &["start", "c"][..],
        &["kill", "c"],
        &["delete", "c"],
        &["create", "c"],
    ] {
        let ran = fixture.bare(args).exits(1);
        assert!(
            ran.err.contains("cannot read the state") || ran.err.contains("already exists"),
            "{ran:#?}"
        );
    }
    let listed = fixture.bare(&["list", "-q"]).exits(0);
    assert_eq!(listed.out, "");
    assert!(listed.err.contains("note: c: not listed"), "{listed:#?}");
    // A generator with a fixed start (Knuth, MMIX), so that a failure can be repeated.
    let mut random = 42_u64;
    let mut next = |end: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % end
    };
    let mut refused = 0;
    for round in 0..400 {
        let mut damaged = whole.clone();
        for _ in 0..=next(3) {
            let place = next(damaged.len());
            damaged[place] ^= 1 << next(8);
        }
        fs::write(record_path(&fixture), &damaged).unwrap();
        let ran = fixture.bare(&["state", "c"]);
        if ran.code == 0 {
            // Some bits are those of a word that may be any.
            let state: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            assert!(
                ["running", "stopped"].contains(&state["status"].as_str().unwrap()),
                "{state}"
            );
        } else {
            assert_clear(ran, &format!("round {round}"));
            refused += 1;
        }
        fixture.bare(&["list"]).ok();
    }
    assert!(refused > 200, "{refused}");
    fs::write(record_path(&fixture), &whole).unwrap();
}

/// A record that was cut off still tells which process was the container's: that is not left behind. With nothing to tell,
/// that is said.
#[test]
fn a_damaged_record_is_deleted_with_what_it_still_tells() {
    lodger_only!("the record of a container");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    let pid = pid_of(&fixture);
    let whole = fs::read(record_path(&fixture)).unwrap();
    let cut = whole.len() - 10;
    fs::write(record_path(&fixture), &whole[..cut]).unwrap();
    let ran = fixture.bare(&["delete", "-f", "c"]).exits(0);
    assert_eq!(ran.err, "");
    assert!(!fixture.path("state/c").exists());
    let state = process_state(pid);
    // X: on its way from Z to nothing.
    assert!(matches!(state, None | Some('Z' | 'X')), "{state:?}");
    fixture.sleeping("c");
    let pid = pid_of(&fixture);
    fs::write(record_path(&fixture), b"{").unwrap();
    let ran = fixture.bare(&["delete", "-f", "c"]).exits(0);
    assert!(ran.err.contains("its container may run"), "{ran:#?}");
    assert!(!fixture.path("state/c").exists());
    send_signal(pid, "KILL");
}

/// Runs `script` where $STATE is a tmpfs with these mount options; $LODGER is the runtime.
fn on_tmpfs(fixture: &Fixture, options: &str, script: &str) -> Ran {
    fixture.write_config();
    let script = format!(
        "mount -t tmpfs -o mode=700,{options} none \"$STATE\"\nlodger() {{ \"$LODGER\" --root \"$STATE\" \"$@\"; }}\n{script}"
    );
    let mut command = Command::new("/usr/bin/unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "/bin/sh",
            "-ec",
            &script,
        ])
        .env("LODGER", runtime_binary())
        .env("STATE", fixture.path("state"))
        .current_dir(fixture.bundle());
    spawn(&mut command, b"").wait()
}

/// What is said when it is full, inode by inode and page by page, until there is room.
#[test]
fn a_full_state_filesystem_is_one_error_that_says_what_it_lacks() {
    lodger_only!("the state directory");
    let create = r#"
        if lodger create c 2>"$STATE/../err"; then echo created; lodger state c >/dev/null; lodger delete -f c
        else cat "$STATE/../err"; fi
        for left in "$STATE"/*; do [ -e "$left" ] && [ "$left" != "$STATE/fill" ] && echo "left: $left"; done
        :
    "#;
    let fill = r#"
        dd if=/dev/zero of="$STATE/fill" bs=4096 count=PAGES 2>/dev/null
    "#;
    let fixture = Fixture::with_own_root();
    let mut said = Vec::new();
    let mut created = 0;
    let inodes = (1..=8).map(|inodes| {
        (
            format!("size=1m,nr_inodes={inodes}"),
            create.to_owned(),
            "inodes",
        )
    });
    let pages = (5..=8).rev().map(|pages| {
        let script = fill.replace("PAGES", &pages.to_string()) + create;
        ("size=32k,nr_inodes=100".to_owned(), script, "space")
    });
    for (options, script, lacks) in inodes.chain(pages) {
        let out = on_tmpfs(&fixture, &options, &script).ok();
        assert!(!out.contains("left: "), "{options}: {out}");
        if out == "created\n" {
            created += 1;
            continue;
        }
        assert!(
            out.starts_with("error: cannot create container \"c\": "),
            "{options}: {out}"
        );
        assert!(
            out.contains("ENOSPC (No space left on device)"),
            "{options}: {out}"
        );
        let hint = format!("the filesystem of the state directory has no free {lacks}");
        assert!(out.contains(&hint), "{options}: {out}");
        said.push(out.lines().next().unwrap().to_owned());
    }
    assert!(created >= 2, "{said:#?}");
    said.sort();
    said.dedup();
    // The directory, the socket, the config, the record: each of them was the one that had no room.
    assert!(said.len() >= 3, "{said:#?}");
}

/// A file that grows over the caller's limit (RLIMIT_FSIZE) is an error too, not the end by a signal.
#[test]
fn a_file_size_limit_is_one_error() {
    lodger_only!("the state directory");
    let fixture = Fixture::new();
    fixture.write_config();
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            "ulimit -f 0; exec \"$LODGER\" --root \"$STATE\" create c",
        ])
        .env("LODGER", runtime_binary())
        .env("STATE", fixture.path("state"))
        .current_dir(fixture.bundle());
    let ran = spawn(&mut command, b"").wait();
    // Its own output is a file too.
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert_eq!(fs::read_dir(fixture.path("state")).unwrap().count(), 0);
    let mut command = Command::new("/bin/sh");
    let script = "ulimit -f 0; \"$LODGER\" --root \"$STATE\" create c 2>&1 | cat >/dev/stderr";
    command
        .args([
            "-c",
            &format!("exec 3>&2; ({script}) 2>&1 >&3 | (ulimit -f unlimited; cat)"),
        ])
        .env("LODGER", runtime_binary())
        .env("STATE", fixture.path("state"))
        .current_dir(fixture.bundle());
    let out = spawn(&mut command, b"").wait().ok();
    // A runtime that the caller could overwrite is copied first, which is a file too.
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    let what = if owner(&runtime_binary()) == owner(&fixture.bundle()) {
        "cannot protect this program"
    } else {
        "cannot keep the config"
    };
    assert!(out.contains(what) && out.contains("EFBIG"), "{out}");
}

#[test]
fn a_bundle_that_is_gone_is_not_missed() {
    lodger_only!("the snapshot of the config");
    let mut fixture = Fixture::new();
    fixture.sleeping("c");
    fs::remove_dir_all(fixture.bundle()).unwrap();
    let call = |args: &[&str]| {
        let mut command = fixture.command(args);
        spawn(command.current_dir("/"), b"").wait()
    };
    assert!(call(&["state", "c"]).ok().contains("\"running\""));
    assert_eq!(call(&["exec", "c", "/bin/echo", "here"]).ok(), "here\n");
    call(&["kill", "c", "KILL"]).ok();
    crate::harness::wait_for("it to stop", || {
        call(&["state", "c"])
            .ok()
            .contains("\"stopped\"")
            .then_some(())
    });
    call(&["delete", "c"]).ok();
    fs::create_dir(fixture.bundle()).unwrap();
    assert_eq!(fs::read_dir(fixture.path("state")).unwrap().count(), 0);
}

/// A relative state root is where the caller is, for every command anew.
#[test]
fn a_relative_root_counts_from_where_the_caller_is() {
    lodger_only!("the state directory");
    let fixture = Fixture::new();
    fixture.write_config();
    let call = |root: &str, directory: &Path, args: &[&str]| {
        let mut command = Command::new(runtime_binary());
        command
            .arg("--root")
            .arg(root)
            .args(args)
            .current_dir(directory);
        spawn(&mut command, b"").wait()
    };
    let top = fixture.path("");
    let bundle = fixture.bundle();
    call("../state", &bundle, &["create", "c"]).ok();
    assert_eq!(fixture.status("c"), "created");
    call("state", &top, &["start", "c"]).ok();
    call("state", &bundle, &["start", "c"]).fails(1, "container does not exist");
    call("state", &bundle, &["delete", "c"]).fails(1, "container does not exist");
    assert!(!bundle.join("state").exists());
    call("./bundle/../state/", &top, &["delete", "-f", "c"]).ok();
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    // From anywhere else, by its absolute path.
    fixture.bare(&["create", "c"]).ok();
    call(
        fixture.path("state").to_str().unwrap(),
        Path::new("/"),
        &["delete", "-f", "c"],
    )
    .ok();
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
}

#[test]
fn a_state_root_that_is_removed_takes_nothing_with_it() {
    lodger_only!("the state directory");
    let mut fixture = Fixture::new();
    fixture.sh("while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 7");
    fixture.mount(serde_json::json!(
        {"destination": "/tmp", "type": "bind", "source": fixture.path("").to_str().unwrap(), "options": ["bind"]}
    ));
    let running = fixture.background(&["run", "c"], b"");
    fixture_running(&fixture);
    let pid = pid_of(&fixture);
    fs::remove_dir_all(fixture.path("state")).unwrap();
    for args in [
        &["state", "c"][..],
        &["kill", "c"],
        &["start", "c"],
        &["delete", "c"],
    ] {
        fixture.bare(args).fails(1, "container does not exist");
    }
    assert_eq!(fixture.bare(&["list", "-q"]).ok(), "");
    fixture.bare(&["delete", "-f", "c"]).ok();
    assert!(matches!(process_state(pid), Some('S' | 'R' | 'D')));
    fs::write(fixture.path("go"), "").unwrap();
    let ran = running.wait().exits(7);
    assert_eq!(ran.err, "");
    assert!(!fixture.path("state").exists());
}

fn fixture_running(fixture: &Fixture) {
    crate::harness::wait_for("it to run", || {
        let ran = fixture.bare(&["state", "c"]);
        ran.out.contains("\"running\"").then_some(())
    });
}
