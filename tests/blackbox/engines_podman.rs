//! `podman run` with every option that reaches the runtime.

use std::fs;
use std::path::Path;

use crate::engines_lab::{IMAGE, engines, shown};
use crate::harness::{peer_differs, read_lossy, skip, spawn};

#[test]
fn output_and_exit_codes() {
    engines(|e| {
        let ran = shown(|| e.run(&["--rm", IMAGE, "echo", "hi"]));
        assert_eq!(ran.ok(), "hi\n");
        e.run(&["--rm", IMAGE, "sh", "-c", "exit 7"]).exits(7);
        e.run(&["--rm", "--no-such-option", IMAGE, "true"])
            .exits(125);
        e.run(&["--rm", IMAGE, "/etc"]).exits(126);
        e.run(&["--rm", IMAGE, "nosuchprogram"]).exits(127);
        e.run(&["--rm", IMAGE, "/no/such/program"]).exits(127);
        let killed = "sh -c 'kill -9 $$'; exit $?";
        e.run(&["--rm", IMAGE, "sh", "-c", killed]).exits(137);
        e.run(&["--rm", "--init", IMAGE, "sh", "-c", "kill -15 $$"])
            .exits(143);
    });
}

#[test]
fn the_error_of_a_program_that_is_not_there_is_podmans_own() {
    engines(|e| {
        let ran = e.run(&["--rm", IMAGE, "nosuchprogram"]).exits(127);
        let text = "OCI runtime attempted to invoke a command that was not found";
        assert!(ran.err.contains(text), "{ran:#?}");
        let ran = e.run(&["--rm", IMAGE, "/etc"]).exits(126);
        assert!(ran.err.contains("OCI permission denied"), "{ran:#?}");
    });
}

#[test]
fn standard_input_and_open_files() {
    engines(|e| {
        let mut command = e.run_command(&["--rm", "-i", IMAGE, "cat"]);
        let ran = shown(|| spawn(&mut command, b"to be read\n").wait());
        assert_eq!(ran.ok(), "to be read\n");
        let script = "exec 3<<!\nthree\n!\nexec \"$@\"";
        let podman = e.run_command(&["--rm", "--preserve-fds=1", IMAGE, "cat", "/dev/fd/3"]);
        let mut shell = std::process::Command::new("/bin/sh");
        shell
            .args(["-c", script, "sh"])
            .arg(podman.get_program())
            .args(podman.get_args());
        assert_eq!(shown(|| spawn(&mut shell, b"").wait()).ok(), "three\n");
    });
}

#[test]
fn what_the_process_is_given() {
    engines(|e| {
        let options = [
            "--env",
            "A=b c",
            "--user",
            "1:2",
            "--workdir",
            "/tmp",
            "--hostname",
            "named",
        ];
        let out = e.sh(&options, "echo $A; id -u; id -g; pwd; hostname");
        assert_eq!(out, "b c\n1\n2\n/tmp\nnamed\n");
        let out = e.sh(
            &[
                "--ulimit",
                "nofile=64:65",
                "--umask",
                "077",
                "--oom-score-adj",
                "100",
            ],
            "ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj",
        );
        assert_eq!(out, "64\n65\n0077\n100\n");
        let out = e.sh(
            &["--cap-drop", "all", "--cap-add", "net_raw"],
            "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status",
        );
        assert_eq!(out.matches("0000000000002000").count(), 3, "{out}");
        let out = e.sh(
            &["--security-opt", "no-new-privileges"],
            "grep NoNewPrivs /proc/self/status",
        );
        assert_eq!(out, "NoNewPrivs:\t1\n");
        let out = e.sh(
            &["--sysctl", "kernel.msgmax=9000"],
            "cat /proc/sys/kernel/msgmax",
        );
        assert_eq!(out, "9000\n");
    });
}

#[test]
fn a_first_process_that_reaps() {
    engines(|e| {
        let out = e.sh(&["--init"], "readlink /proc/1/exe; echo $$");
        assert!(out.contains("init") && !out.ends_with("\n1\n"), "{out}");
    });
}

#[test]
fn a_root_that_is_read_only() {
    engines(|e| {
        let out = e.sh(
            &["--read-only"],
            "touch /x 2>/dev/null || echo refused; touch /tmp/x /run/x /dev/shm/x && echo written",
        );
        assert_eq!(out, "refused\nwritten\n");
    });
}

#[test]
fn temporary_filesystems() {
    engines(|e| {
        let out = e.sh(
            &["--tmpfs", "/etc:size=1m"],
            "stat -f -c %T /etc; df -k /etc | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; head -n 1 /etc/passwd",
        );
        assert_eq!(out, "tmpfs\n1024\nroot:x:0:0:root:/root:/bin/sh\n");
    });
}

#[test]
fn volumes() {
    engines(|e| {
        let volume = e.directory();
        fs::write(volume.join("file"), "old\n").unwrap();
        let at = |options: &str| format!("{}:/mnt{options}", volume.display());
        let script = "cat /mnt/file; echo new >/mnt/file || echo refused";
        assert_eq!(
            e.sh(&["-v", &at(":ro")], &format!("{script} 2>&1"))
                .lines()
                .last(),
            Some("refused")
        );
        assert_eq!(read_lossy(&volume.join("file")), "old\n");
        // Over an overlay of podman's own, which goes with the container.
        assert_eq!(
            e.sh(&["-v", &at(":O")], &format!("{script}; cat /mnt/file")),
            "old\nnew\n"
        );
        assert_eq!(read_lossy(&volume.join("file")), "old\n");
        assert_eq!(e.sh(&["-v", &at("")], script), "old\n");
        assert_eq!(read_lossy(&volume.join("file")), "new\n");
        let named = e.name("volume");
        let volume = format!("{named}:/data");
        e.sh(&["-v", &volume], "echo kept >/data/file");
        assert_eq!(e.sh(&["-v", &volume], "cat /data/file"), "kept\n");
        e.podman(&["volume", "rm", "--force", &named]).ok();
    });
}

#[test]
fn devices() {
    engines(|e| {
        let script = "[ -c /dev/fuse ] && stat -c %t:%T /dev/fuse";
        assert_eq!(e.sh(&["--device", "/dev/fuse"], script), "a:e5\n");
        let other = ["--device", "/dev/null:/dev/other"];
        assert_eq!(
            e.sh(&other, "echo x >/dev/other && stat -c %t:%T /dev/other"),
            "1:3\n"
        );
    });
}

#[test]
fn ids_of_the_user() {
    engines(|e| {
        let own = rustix::process::getuid().as_raw();
        let out = e.sh(
            &["--userns=keep-id"],
            "id -u; touch /tmp/x && stat -c %u /tmp/x",
        );
        assert_eq!(out, format!("{own}\n{own}\n"));
        let volume = e.directory();
        let mount = format!("{}:/mnt", volume.display());
        e.sh(&["--userns=keep-id", "-v", &mount], "echo mine >/mnt/file");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(volume.join("file")).unwrap().uid(), own);
    });
}

/// They have no number in the container, and are kept nevertheless.
#[test]
fn groups_of_the_user() {
    peer_differs!("runc", "1.1 keeps no groups under podman");
    engines(|e| {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let groups = own.lines().find(|l| l.starts_with("Groups:")).unwrap();
        let count = groups.split_whitespace().count() - 1;
        let out = e.sh(
            &["--group-add", "keep-groups"],
            "grep Groups: /proc/self/status",
        );
        assert_eq!(out.split_whitespace().count() - 1, count, "{groups}, {out}");
    });
}

#[test]
fn namespaces_of_the_host() {
    engines(|e| {
        let own = |kind: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            link.to_str().unwrap().to_owned() + "\n"
        };
        for kind in ["pid", "ipc", "uts", "cgroup"] {
            // podman binds it, and not every host has it.
            if kind == "ipc" && !Path::new("/dev/mqueue").exists() {
                continue;
            }
            let option = format!(
                "--{}=host",
                if kind == "cgroup" { "cgroupns" } else { kind }
            );
            let script = format!("readlink /proc/self/ns/{kind}");
            assert_eq!(e.sh(&[&option], &script), own(kind), "{kind}");
            assert_ne!(e.sh(&[], &script), own(kind), "{kind}");
        }
        assert_eq!(
            e.sh(&["--network=host"], "readlink /proc/self/ns/net"),
            own("net")
        );
        let alone = e.sh(&["--network=none"], "ls /sys/class/net");
        assert_eq!(alone, "lo\n");
    });
}

#[test]
fn everything_that_can_be_had() {
    engines(|e| {
        let out = e.sh(
            &["--privileged"],
            "grep CapEff /proc/self/status; [ -w /proc/sys/net/ipv4/ip_forward ] && echo open",
        );
        assert!(
            out.ends_with("open\n") && !out.contains("0000000000000000"),
            "{out}"
        );
    });
}

#[test]
fn a_root_that_is_a_directory() {
    engines(|e| {
        let root = e.path("root");
        let root = root.to_str().unwrap();
        let ran = shown(|| e.run(&["--rm", "--rootfs", root, "ls", "/bin/busybox"]));
        assert_eq!(ran.ok(), "/bin/busybox\n");
    });
}

/// A profile of one's own, and podman's.
#[test]
fn seccomp_profiles() {
    engines(|e| {
        let profile = e.path(&e.name("seccomp"));
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#;
        fs::write(&profile, text).unwrap();
        let option = format!("seccomp={}", profile.display());
        let out = e.sh(
            &["--security-opt", &option],
            "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status",
        );
        assert!(
            out.contains("not supported") && out.ends_with("Seccomp:\t2\n"),
            "{out}"
        );
        assert_eq!(
            e.sh(&[], "grep Seccomp: /proc/self/status"),
            "Seccomp:\t2\n"
        );
        let out = e.sh(
            &["--security-opt", "seccomp=unconfined"],
            "grep Seccomp: /proc/self/status",
        );
        assert_eq!(out, "Seccomp:\t0\n");
    });
}

/// What the drop-in in contrib says is what podman reads: it knows lodger by name, as a runtime that does without cgroups
/// and whose errors are JSON.
#[test]
fn the_drop_in_is_read() {
    engines(|e| {
        if e.with_peer() {
            skip!("the drop-in is lodger's own");
        }
        let podman = |args: &[&str]| {
            let words = [
                &["podman", "--runtime", "lodger", "run", "--rm"],
                e.without(),
                args,
            ]
            .concat();
            shown(|| spawn(&mut e.command(&words), b"").wait())
        };
        assert_eq!(podman(&[IMAGE, "echo", "hi"]).ok(), "hi\n");
        assert_eq!(
            podman(&["--cgroups=disabled", IMAGE, "echo", "none"]).ok(),
            "none\n"
        );
        let ran = podman(&[IMAGE, "nosuchprogram"]).exits(127);
        assert!(
            ran.err
                .starts_with("Error: lodger: cannot create container"),
            "{ran:#?}"
        );
        assert!(!ran.err.contains("lodger: error:"), "{ran:#?}");
    });
}

/// The cgroup of these tests has no controller for what limits something: refused, unless a note is enough.
#[test]
fn limits_are_refused_where_nobody_can_keep_them() {
    engines(|e| {
        if e.with_peer() {
            skip!("the words of a refused limit are lodger's own");
        }
        for (option, property) in [
            ("--pids-limit=100", "/linux/resources/pids/limit: "),
            ("--memory=64m", "/linux/resources/memory/limit: "),
        ] {
            let ran = e.run(&["--rm", option, IMAGE, "true"]);
            assert_ne!(ran.code, 0);
            assert!(ran.err.contains(property), "{ran:#?}");
            assert!(ran.err.contains("nobody can keep this limit"), "{ran:#?}");
            assert!(ran.err.contains("--cgroup-policy best-effort"), "{ran:#?}");
        }
        e.run(&["--rm", "--pids-limit=-1", IMAGE, "true"]).ok();
    });
}
