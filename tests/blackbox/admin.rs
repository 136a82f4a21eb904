//! helpers/lodger-admin: what it gives to whom, and what it installs.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::admin_lab::{Files, PASSWD, System, source};
use crate::harness::{lodger_only, spawn, which};

#[test]
fn what_cannot_be_given_is_an_error_that_says_why_and_changes_nothing() {
    lodger_only!("lodger-admin");
    let full = ("etc/login.defs", "SUB_UID_MAX 165534\n");
    let cases: &[(Files, &[&str], i32, &str)] = &[
        (
            &[full],
            &["subids", "ann"],
            5,
            "no 65536 ids in a row are left from 100000 to 165534 for ann",
        ),
        (&[], &["subids", "zed"], 4, "there is no user zed"),
        (
            &[],
            &["subids", "--group", "zeds"],
            4,
            "there is no group zeds",
        ),
        (
            &[("etc/nsswitch.conf", "subid: sss\n")],
            &["subids", "ann"],
            1,
            "ranges come from 'sss'",
        ),
        (
            &[("etc/login.defs", "SUB_UID_MIN 0x100\n")],
            &["subids", "ann"],
            1,
            "SUB_UID_MIN",
        ),
        (&[], &["subids"], 2, "subids needs a user"),
        (&[], &["linger"], 2, "linger needs a user"),
        (
            &[],
            &["linger", "../../tmp/x"],
            2,
            "cannot be the name of a user",
        ),
        (
            &[],
            &["subids", "a:b"],
            2,
            "'a:b' cannot be the name of a user",
        ),
        (&[], &["delegate", "ann"], 2, "delegate is not about users"),
        (
            &[],
            &["apparmor", "bin/lodger"],
            2,
            "does not begin at the root",
        ),
        (&[], &["apparmor", "/a,b"], 2, "mean something to AppArmor"),
        (
            &[],
            &["subids", "--size", "1e3", "ann"],
            2,
            "--size takes a number",
        ),
        (&[], &["subids", "--size", "0", "ann"], 2, "no range"),
        (&[], &["subids", "ann", "--size"], 2, "--size needs a value"),
        (&[], &["subid", "ann"], 2, "there is no verb 'subid'"),
        (&[], &["--force", "delegate"], 2, "there is no option"),
        (
            &[],
            &["--root", "/nowhere", "delegate"],
            2,
            "/nowhere is no directory",
        ),
        (&[], &[], 2, "Usage: lodger-admin"),
    ];
    for (files, args, code, text) in cases {
        let system = System::new(files);
        let tree = system.tree();
        system
            .admin(&[&["--yes"], *args].concat())
            .fails(*code, text);
        assert_eq!(system.tree(), tree, "{args:?}");
    }
}

#[test]
fn it_says_what_it_will_do_and_does_nothing_unasked() {
    lodger_only!("lodger-admin");
    let system = System::new(&[]);
    let tree = system.tree();
    let said = system.admin(&["--dry-run", "all", "ann"]).ok();
    for part in [
        "etc/subuid\n      + ann:100000:65536\n",
        "etc/subgid\n",
        "+ Delegate=cpu cpuset io memory pids\n",
        "var/lib/systemd/linger/ann\n",
        "+ -net.ipv4.ping_group_range = 0 2147483647\n",
        "nothing was changed",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let refused = system.admin(&["all", "ann"]).exits(2);
    assert!(refused.err.contains("no terminal to ask on"), "{refused:?}");
    // Not even a directory of its own.
    assert_eq!(system.tree(), tree);
    assert!(!system.path("var").exists());

    let done = system.admin(&["--yes", "all", "ann"]).ok();
    let plan = said.rsplit_once("nothing was").unwrap().0;
    assert!(done.starts_with(plan), "{done} is not {said}");
}

#[test]
fn everything_is_installed_once() {
    lodger_only!("lodger-admin");
    let system = System::new(&[("etc/apparmor.d/abi/4.0", "")]);
    let everything = ["--yes", "all", "--group", "students"];
    system.admin(&everything).ok();
    for (installed, from) in [
        (
            "etc/systemd/system/user@.service.d/lodger-delegate.conf",
            "systemd/user@.service.d/lodger-delegate.conf",
        ),
        ("etc/apparmor.d/lodger", "contrib/apparmor/lodger"),
    ] {
        let text = fs::read_to_string(source(from)).unwrap();
        assert_eq!(system.read(installed), text);
        assert_eq!(
            system.path(installed).metadata().unwrap().mode() & 0o7777,
            0o644
        );
    }
    for name in ["ann", "cid"] {
        assert!(system.path("var/lib/systemd/linger").join(name).exists());
    }
    assert!(!system.path("var/lib/systemd/linger/bob").exists());

    let (tree, journal) = (system.tree(), system.journal());
    let again = system.admin(&everything).ok();
    assert!(again.ends_with("nothing to do\n"), "{again}");
    assert_eq!((system.tree(), system.journal()), (tree, journal));

    let path = "etc/apparmor.d/tunables/lodger.d/paths";
    for _ in 0..2 {
        system
            .admin(&["--yes", "apparmor", "/home/*/.local/bin/lodger", "/opt/l"])
            .ok();
        assert_eq!(
            system.read(path),
            "@{lodger} += /home/*/.local/bin/lodger\n@{lodger} += /opt/l\n"
        );
    }
    let old = System::new(&[]);
    let said = old.admin(&["--yes", "apparmor"]).ok();
    assert!(said.contains("no AppArmor profile is needed"), "{said}");
    assert!(!old.path("etc/apparmor.d").exists());
}

#[test]
fn a_sysctl_is_raised_never_lowered() {
    lodger_only!("lodger-admin");
    let file = "etc/sysctl.d/99-lodger.conf";
    let clone = "-kernel.unprivileged_userns_clone = 1\n";
    let limit = "-user.max_user_namespaces = 10000\n";
    let ping = "-net.ipv4.ping_group_range = 0 2147483647\n";
    let cases: &[(Files, &[&str], &[&str])] = &[
        (&[], &[ping], &[clone, limit]),
        (
            &[(
                "etc/sysctl.d/10-hard.conf",
                "kernel.unprivileged_userns_clone=0\nuser/max_user_namespaces = 0\n",
            )],
            &[clone, limit, ping],
            &[],
        ),
        (
            &[
                (
                    "usr/lib/sysctl.d/50-default.conf",
                    "-net.ipv4.ping_group_range = 0 2147483647\n",
                ),
                ("etc/sysctl.conf", "user.max_user_namespaces = 200000\n"),
            ],
            &[],
            &[clone, limit, ping],
        ),
        (
            &[("etc/sysctl.conf", "net.ipv4.ping_group_range = 0 1000\n")],
            &[ping],
            &[],
        ),
    ];
    for (files, there, not) in cases {
        let system = System::new(files);
        system.admin(&["--yes", "sysctl"]).ok();
        let text = system.read(file);
        for line in *there {
            assert!(text.contains(line), "no {line} in {text}");
        }
        for line in *not {
            assert!(!text.contains(line), "{line} in {text}");
        }
        system.admin(&["--yes", "sysctl"]).ok();
        assert_eq!(system.read(file), text, "twice");
    }
    let later = System::new(&[(
        "etc/sysctl.d/99-security.conf",
        "user.max_user_namespaces = 0\n",
    )]);
    let ran = later.admin(&["--yes", "sysctl"]).exits(0);
    assert!(
        ran.err
            .contains("99-security.conf sets user.max_user_namespaces to 0 at boot"),
        "{ran:?}"
    );
}

#[test]
fn status_tells_what_is_lacking() {
    lodger_only!("lodger-admin");
    let system = System::new(&[
        ("etc/subuid", "ann:100000:65536\nbob:165000:70000\n"),
        ("etc/subgid", "ann:100000:65536\n"),
    ]);
    let ran = system.admin(&["status"]).exits(1);
    for line in [
        "ann: uids 100000-165535, gids 100000-165535, does not linger\n",
        "bob: uids 165000-234999, gids none: less than 65536, does not linger\n",
        "overlap: /etc/subuid: 165000: of bob is also of ann\n",
        "delegation: lacking",
        "sysctls: lacking",
    ] {
        assert!(ran.out.contains(line), "no {line:?} in {ran:#?}");
    }
    let good = System::new(&[]);
    good.admin(&["--yes", "all", "ann"]).ok();
    let said = good.admin(&["status", "ann"]).ok();
    assert!(
        said.contains("ann: uids 100000-165535, gids 100000-165535, lingers\n"),
        "{said}"
    );
}

/// An image builder may have nothing else.
#[test]
fn busybox_is_enough_to_run_it() {
    lodger_only!("lodger-admin");
    let system = System::new(&[("etc/apparmor.d/abi/4.0", "")]);
    let programs = system.beside("programs");
    fs::create_dir(&programs).unwrap();
    let busybox = which("busybox");
    let listed = spawn(Command::new(&busybox).arg("--list"), b"").wait().ok();
    for name in listed.lines().filter(|name| *name != "busybox") {
        symlink(&busybox, programs.join(name)).unwrap();
    }
    // Debian's busybox has none.
    if !programs.join("flock").exists() {
        symlink(which("flock"), programs.join("flock")).unwrap();
    }
    let tree = system.tree();
    let run = |args: &[&str]| {
        let mut command = Command::new(&busybox);
        command
            .arg("sh")
            .arg(source("helpers/lodger-admin"))
            .arg("--root")
            .arg(system.root())
            .args(args)
            .env("PATH", &programs);
        spawn(&mut command, b"").wait()
    };
    run(&["--yes", "all", "--group", "students"]).ok();
    assert_eq!(
        system.read("etc/subuid"),
        "ann:100000:65536\ncid:165536:65536\n"
    );
    run(&["--yes", "undo"]).ok();
    assert_eq!(system.tree(), with_directories(&system, tree));
}

/// What is made for the journal, and stays.
pub(crate) fn with_directories(
    system: &System,
    mut tree: crate::admin_lab::Tree,
) -> crate::admin_lab::Tree {
    for name in ["var", "var/lib"] {
        let path = system.path(name);
        let mode = path.metadata().unwrap().mode();
        tree.insert(path, (mode, None));
    }
    tree
}

/// The issue wants it plain.
#[test]
fn it_is_posix_sh() {
    lodger_only!("lodger-admin");
    let Some(shellcheck) = ["/usr/bin/shellcheck"]
        .iter()
        .find(|path| fs::exists(path).unwrap())
    else {
        crate::harness::skip!("shellcheck is not installed");
    };
    let mut command = Command::new(shellcheck);
    command
        .arg("--external-sources")
        .arg("helpers/lodger-admin")
        .current_dir(source(""));
    spawn(&mut command, b"").wait().ok();
}

#[test]
fn names_that_are_paths_are_left_out() {
    lodger_only!("lodger-admin");
    let passwd = format!("{PASSWD}../../x:x:1009:2000::/:/bin/sh\n");
    let system = System::new(&[("etc/passwd", &passwd)]);
    let ran = system
        .admin(&["-y", "linger", "--group", "students"])
        .exits(0);
    assert!(ran.err.contains("is left out"), "{ran:#?}");
    assert!(system.path("var/lib/systemd/linger/cid").exists());
    assert!(!system.path("var/lib/x").exists());
}
