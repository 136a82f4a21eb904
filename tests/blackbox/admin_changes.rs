//! helpers/lodger-admin: how it changes files, and takes that back: undo, kills, locks, several at once, links.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::admin::with_directories;
use crate::admin_lab::{System, apart, ranges, set_mode, source};
use crate::harness::{Ran, lives, lodger_only, spawn, wait_for, which};

const ALL: &[&str] = &["--yes", "all", "--group", "students"];
const UNDO: &[&str] = &["--yes", "undo"];
const UNDO_ALL: &[&str] = &["--yes", "undo", "--all"];

/// A system with something to change, something to make, and something that is so already.
fn system() -> System {
    let system = System::new(&[
        ("etc/subuid", "eve:100000:65536"),
        ("etc/subgid", "eve:100000:65536\ncid:300000:65536\n"),
        ("etc/apparmor.d/abi/4.0", ""),
        (
            "etc/sysctl.d/99-lodger.conf",
            "user.max_user_namespaces = 5\n",
        ),
        ("var/lib/systemd/linger/cid", ""),
    ]);
    set_mode(&system.path("etc/subuid"), 0o640);
    system
}

#[test]
fn undo_restores_what_was_there() {
    lodger_only!("lodger-admin");
    let system = system();
    let tree = system.tree();
    system.admin(ALL).ok();
    assert_ne!(system.tree(), tree);
    let mode = system.path("etc/subuid").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o640, "the mode stays");
    assert!(system.read("etc/subuid").starts_with("eve:100000:65536\n"));

    let own = system.path("var/lib/lodger-admin").metadata().unwrap();
    assert_eq!(own.mode() & 0o777, 0o700, "what it keeps is not for all");

    let dry = system.admin(&["--dry-run", "undo"]).ok();
    assert!(dry.contains("      - ann:"), "{dry}");
    system.admin(UNDO).ok();
    assert_eq!(system.tree(), tree);
    assert_eq!(system.journal(), 0);
    let nothing = system.admin(UNDO).ok();
    assert!(nothing.contains("there is nothing to undo"), "{nothing}");
}

#[test]
fn undo_takes_back_one_call_or_all() {
    lodger_only!("lodger-admin");
    let system = system();
    let mut trees = vec![system.tree()];
    let calls: [&[&str]; 4] = [
        &["-y", "subids", "ann"],
        &["-y", "linger", "bob"],
        &["-y", "subids", "bob"],
        &["-y", "sysctl"],
    ];
    for call in calls {
        system.admin(call).ok();
        trees.push(system.tree());
    }
    for tree in trees[2..4].iter().rev() {
        system.admin(UNDO).ok();
        assert_eq!(&system.tree(), tree);
    }
    system.admin(&["-y", "subids", "cid"]).ok();
    system.admin(UNDO_ALL).ok();
    assert_eq!(system.tree(), trees[0]);
    assert_eq!(system.journal(), 0);
}

#[test]
fn undo_leaves_alone_what_somebody_has_changed() {
    lodger_only!("lodger-admin");
    let system = system();
    let tree = system.tree();
    system.admin(ALL).ok();
    let ours = system.read("etc/subuid");
    let changes: [&dyn Fn(); 3] = [
        &|| system.write("etc/subuid", &format!("{ours}zed:900000:65536\n")),
        &|| fs::remove_file(system.path("etc/subuid")).unwrap(),
        &|| {
            system.write("etc/subuid", &ours);
            system.write("etc/sysctl.d/99-lodger.conf", "# mine\n");
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        change();
        let changed = system.tree();
        let journal = system.journal();
        let text = if number == 2 {
            "99-lodger.conf was changed since"
        } else {
            "etc/subuid was changed since"
        };
        let ran = system.admin(UNDO).fails(6, text);
        assert!(ran.err.contains("hint: diff "), "{ran:?}");
        // Nothing of the call is taken back by halves.
        assert_eq!((system.tree(), system.journal()), (changed, journal));
    }
    // What is as it was before the call needs no taking back.
    system.write(
        "etc/sysctl.d/99-lodger.conf",
        "user.max_user_namespaces = 5\n",
    );
    system.admin(UNDO).ok();
    let mut restored = system.tree();
    let subuid = system.path("etc/subuid");
    // It was removed and written anew above.
    let mode = tree[&subuid].0;
    restored.get_mut(&subuid).unwrap().0 = mode;
    assert_eq!(restored, tree);
}

/// Killed, with all its children, before the Nth of the programs that change something, from when it takes its lock.
fn killed_at(system: &System, args: &[&str], number: u32) -> Ran {
    let counter = system.beside("counter");
    fs::write(&counter, "0\n").unwrap();
    // To the whole process group, the shell that says this among it.
    let before = format!(
        "read n <{0}; case $0 in */flock) n=1 ;; *) [ $n -eq 0 ] || n=$((n + 1)) ;; esac; echo $n >{0}
         [ $n -ne {number} ] || kill -9 0",
        counter.display()
    );
    let programs = [
        "cat", "chmod", "cp", "flock", "ln", "mkdir", "mv", "rm", "rmdir", "sync",
    ];
    let path = system.wrapped(&programs, &before);
    spawn(system.command(args).env("PATH", path), b"").wait()
}

/// A kill before each step: each file is the old one or the new one, the next call does the rest, and undo restores all.
#[test]
fn a_kill_at_any_step_leaves_old_or_new() {
    lodger_only!("lodger-admin");
    let (old, new) = {
        let system = system();
        let old = system.tree();
        system.admin(&["-y", "subids", "-g", "students"]).ok();
        (relative(&system, old), relative(&system, system.tree()))
    };
    let mut kills = 0;
    for number in 1_u32.. {
        let system = system();
        let ran = killed_at(&system, &["-y", "subids", "-g", "students"], number);
        if ran.code == 0 {
            break;
        }
        assert_eq!(ran.code, 128 + 9, "{ran:#?}");
        kills += 1;
        for (path, was) in &old {
            let file = system.path(path);
            let Ok(metadata) = file.symlink_metadata() else {
                panic!("{path} is gone after step {number}");
            };
            let is = (
                metadata.mode(),
                metadata
                    .is_file()
                    .then(|| fs::read_to_string(&file).unwrap()),
            );
            assert!(
                is == *was || is == new[path],
                "{path} after step {number}: {is:?}"
            );
        }
        system.admin(&["-y", "subids", "-g", "students"]).ok();
        assert_eq!(without_lock(&system), new, "again after step {number}");
        system.admin(UNDO_ALL).ok();
        assert_eq!(
            relative(&system, system.tree()),
            old,
            "undone after step {number}"
        );
    }
    assert!(kills > 20, "{kills} steps");
}

#[test]
fn a_kill_at_any_step_of_undo_leaves_the_rest_to_the_next() {
    lodger_only!("lodger-admin");
    let mut kills = 0;
    for number in 1_u32.. {
        let system = system();
        let old = system.tree();
        system.admin(&["-y", "subids", "ann"]).ok();
        let ran = killed_at(&system, UNDO_ALL, number);
        if ran.code == 0 {
            break;
        }
        assert_eq!(ran.code, 128 + 9, "{ran:#?}");
        kills += 1;
        system.admin(UNDO_ALL).ok();
        assert_eq!(
            without_lock(&system),
            relative(&system, old),
            "after step {number}"
        );
        assert_eq!(system.journal(), 0);
    }
    assert!(kills > 10, "{kills} steps");
}

/// By their names in the root directory.
fn relative(
    system: &System,
    tree: crate::admin_lab::Tree,
) -> std::collections::BTreeMap<String, (u32, Option<String>)> {
    let root = system.root();
    let name = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
    tree.into_iter()
        .map(|(path, what)| (name(&path), what))
        .collect()
}

/// Without the lock of one that was killed at its end, which the next to want it takes over.
fn without_lock(system: &System) -> std::collections::BTreeMap<String, (u32, Option<String>)> {
    let mut tree = relative(system, system.tree());
    tree.retain(|name, (_, text)| {
        let holder = text.as_deref().unwrap_or("").trim_end_matches('\0');
        !name.ends_with(".lock") || lives(holder.parse().unwrap())
    });
    tree
}

#[test]
fn several_at_once_give_ranges_that_do_not_meet() {
    lodger_only!("lodger-admin");
    let users: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    let passwd: String = (users.iter().zip(2000..))
        .map(|(name, uid)| format!("{name}:x:{uid}:100::/:\n"))
        .collect();
    let system = System::new(&[("etc/passwd", &passwd)]);
    let tree = system.tree();
    let all: Vec<_> = users
        .iter()
        .map(|name| spawn(&mut system.command(&["-y", "subids", name]), b""))
        .collect();
    for one in all {
        one.wait().ok();
    }
    for kind in ["etc/subuid", "etc/subgid"] {
        let text = system.read(kind);
        apart(&text);
        let mut owners: Vec<String> = ranges(&text).into_iter().map(|range| range.0).collect();
        owners.sort();
        assert_eq!(owners, users, "{text}");
    }
    system.admin(UNDO_ALL).ok();
    assert_eq!(system.tree(), with_directories(&system, tree));
}

/// As useradd(8) and usermod(8) lock it: a file with the pid of who has it.
#[test]
fn it_waits_for_who_has_the_lock_of_shadow() {
    lodger_only!("lodger-admin");
    let system = system();
    let lock = system.path("etc/subgid.lock");
    fs::write(&lock, format!("{}\0", std::process::id())).unwrap();
    let running = spawn(&mut system.command(&["-y", "subids", "ann"]), b"");
    let mine = system.path(&format!("etc/.lodger-admin.lock.{}", running.pid()));
    wait_for("its try", || {
        (mine.exists() && system.path("etc/subuid.lock").exists()).then_some(())
    });
    assert!(!system.read("etc/subuid").contains("ann"));
    // Somebody who had the lock has taken what it wanted to give.
    system.write("etc/subgid", "zed:165536:65536\n");
    fs::remove_file(&lock).unwrap();
    running.wait().ok();
    apart(&system.read("etc/subgid"));
    assert!(
        system.read("etc/subgid").contains("ann:"),
        "{}",
        system.read("etc/subgid")
    );
    assert!(!lock.exists() && !mine.exists() && !system.path("etc/subuid.lock").exists());
}

#[test]
fn the_lock_of_who_is_gone_is_taken_over() {
    lodger_only!("lodger-admin");
    let system = system();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    assert!(!lives(gone.id()));
    for text in [format!("{}\0", gone.id()), gone.id().to_string()] {
        fs::write(system.path("etc/subuid.lock"), text).unwrap();
        system.admin(&["-y", "subids", "ann"]).ok();
        assert!(!system.path("etc/subuid.lock").exists());
        system.admin(UNDO).ok();
    }
}

/// The plan is made before the lock is taken, so that nobody waits while an administrator reads it.
#[test]
fn what_changes_after_the_plan_is_planned_anew() {
    lodger_only!("lodger-admin");
    let system = system();
    let once = system.beside("once");
    let before = format!(
        "mkdir {} 2>/dev/null && echo zed:165536:65536 >>{}",
        once.display(),
        system.path("etc/subgid").display()
    );
    let path = system.wrapped(&["flock"], &before);
    let ran = spawn(
        system.command(&["-y", "subids", "ann"]).env("PATH", path),
        b"",
    )
    .wait();
    let said = ran.ok();
    let first = said.find("+ ann:165536:65536").expect(&said);
    let second = said.find("+ ann:231072:65536").expect(&said);
    assert!(first < second);
    assert!(system.read("etc/subgid").contains("ann:231072:65536\n"));
    apart(&system.read("etc/subgid"));
}

#[test]
fn links_do_not_lead_out_of_the_root_directory() {
    lodger_only!("lodger-admin");
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("subuid"), "eve:1:1\n").unwrap();
    let cases = [
        ("etc/subuid", "subuid", "subids"),
        ("etc/systemd/system", "", "delegate"),
        ("var/lib/systemd", "", "linger"),
        ("var/lib/lodger-admin", "", "subids"),
    ];
    for (link, target, verb) in cases {
        let system = System::new(&[("etc/systemd/x", ""), ("var/lib/x", "")]);
        symlink(victim.path().join(target), system.path(link)).unwrap();
        let tree = system.tree();
        let users: &[&str] = if verb == "delegate" { &[] } else { &["ann"] };
        let ran = system.admin(&[&["-y", verb], users].concat()).exits(1);
        assert!(ran.err.contains("is a symbolic link"), "{ran:?}");
        assert_eq!(system.tree(), tree);
        let left = fs::read_dir(victim.path()).unwrap().count();
        assert_eq!(left, 1, "{link}");
    }
}

#[test]
fn without_root_it_says_so() {
    lodger_only!("lodger-admin");
    let mut here = Command::new(source("helpers/lodger-admin"));
    let ran = spawn(here.args(["--yes", "delegate"]), b"").wait();
    assert!(
        ran.err.contains("this takes root") || ran.out.contains("nothing to do"),
        "{ran:?}"
    );
    let system = System::new(&[]);
    set_mode(&system.root(), 0o555);
    let ran = system.admin(&["-y", "subids", "ann"]).exits(3);
    set_mode(&system.root(), 0o755);
    assert!(ran.err.contains("cannot be made"), "{ran:?}");
}

/// On the running system files are not all: what is loaded and started is told before, done, and taken back. As root of a user
/// namespace, on directories of its own.
#[test]
fn on_the_running_system_changes_take_effect() {
    lodger_only!("lodger-admin");
    let system = System::new(&[
        ("etc/apparmor.d/abi/4.0", ""),
        ("var/lib/x", ""),
        ("proc/user/max_user_namespaces", "0\n"),
        ("proc/net/ipv4/ping_group_range", "1\t0\n"),
        ("run/systemd/system/x", ""),
        ("module/apparmor/parameters/enabled", "Y\n"),
    ]);
    let programs = system.beside("programs");
    fs::create_dir(&programs).unwrap();
    let log = system.beside("log");
    // Where /etc/alternatives is not.
    symlink(which("awk").canonicalize().unwrap(), programs.join("awk")).unwrap();
    for name in ["loginctl", "systemctl", "apparmor_parser"] {
        let text = format!("#!/bin/sh\necho {name} \"$@\" >>{}\n", log.display());
        crate::harness::write_program(&programs.join(name), text.as_bytes());
    }
    let script = r#"
        for pair in etc:/etc var/lib:/var/lib proc:/proc/sys run:/run module:/sys/module; do
            mount --bind "$1/${pair%%:*}" "${pair#*:}" || exit 99
        done
        shift
        exec "$@""#;
    let run = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg("sh")
            .arg(system.root())
            .arg(source("helpers/lodger-admin"))
            .args(args)
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        spawn(&mut command, b"").wait()
    };
    let said = run(&["--yes", "all", "ann"]).ok();
    for line in [
        "run: systemctl daemon-reload",
        "run: loginctl enable-linger ann",
        "run: apparmor_parser --replace /etc/apparmor.d/lodger",
        "run: sysctl -w user.max_user_namespaces=10000",
        "run: sysctl -w net.ipv4.ping_group_range=0 2147483647",
    ] {
        assert!(said.contains(line), "no {line} in {said}");
    }
    let done = fs::read_to_string(&log).unwrap();
    assert_eq!(
        done,
        "systemctl daemon-reload\nloginctl enable-linger ann\napparmor_parser --replace /etc/apparmor.d/lodger\n"
    );
    assert_eq!(system.read("proc/user/max_user_namespaces"), "10000\n");
    assert_eq!(
        system.read("proc/net/ipv4/ping_group_range"),
        "0 2147483647\n"
    );

    // Set back by hand: the file is as it should be, the kernel is not.
    system.write("proc/user/max_user_namespaces", "3\n");
    run(&["--yes", "sysctl"]).ok();
    assert_eq!(system.read("proc/user/max_user_namespaces"), "10000\n");
    run(&["--yes", "undo"]).ok();
    assert_eq!(system.read("proc/user/max_user_namespaces"), "3\n");

    fs::write(&log, "").unwrap();
    run(&["--yes", "undo"]).ok();
    let undone = fs::read_to_string(&log).unwrap();
    assert!(undone.contains("loginctl disable-linger ann\n"), "{undone}");
    assert!(undone.contains("apparmor_parser --remove /"), "{undone}");
    assert!(undone.contains("systemctl daemon-reload\n"), "{undone}");
    assert_eq!(system.read("proc/user/max_user_namespaces"), "0\n");
    assert_eq!(system.read("proc/net/ipv4/ping_group_range"), "1 0\n");
    assert!(!system.path("var/lib/systemd").exists());
}
