//! What engines put before the verb, and how they read the version.

use crate::harness::{Fixture, lodger_only};

/// As moby reads it: the last word after `version`, and what follows `commit:`.
#[test]
fn engines_can_read_the_version() {
    lodger_only!("the version");
    let fixture = Fixture::new();
    for option in ["--version", "-v", "-V"] {
        let text = fixture.bare(&[option]).ok();
        let lines: Vec<&str> = text.lines().collect();
        let (name, version) = lines[0].split_once(" version ").unwrap();
        assert_eq!((name, version), ("lodger", env!("CARGO_PKG_VERSION")));
        let others: Vec<&&str> = lines[1..]
            .iter()
            .filter(|l| l.contains("version"))
            .collect();
        assert!(others.is_empty(), "{text}");
        let commit = lines.iter().find_map(|line| line.strip_prefix("commit: "));
        assert!(commit.is_some_and(|commit| !commit.is_empty()), "{text}");
        assert!(lines.contains(&"spec: 1.3.0"), "{text}");
        assert!(text.ends_with('\n'));
    }
}

#[test]
fn the_state_directory_is_never_the_root_of_the_filesystem() {
    lodger_only!("--root");
    let fixture = Fixture::new();
    for root in ["/", "//", "/."] {
        // The last one given would be an error of its own.
        let mut command = std::process::Command::new(crate::harness::runtime_binary());
        command.args(["--root", root, "list"]);
        crate::harness::spawn(&mut command, b"")
            .wait()
            .fails(1, "option --root argument should not be set to /");
    }
    // Relative to where it is called.
    let mut command = std::process::Command::new(crate::harness::runtime_binary());
    command
        .args(["--root=state", "list", "-q"])
        .current_dir(fixture.path(""));
    crate::harness::spawn(&mut command, b"").wait().ok();
}

/// Slurm's documented oci.conf, and what go-runc and conmon put before the verb.
#[test]
fn the_global_options_of_engines_are_taken() {
    lodger_only!("the options of engines");
    let mut fixture = Fixture::new();
    fixture.args(&["/bin/sleep", "600"]);
    fixture.write_config();
    let log = fixture.path("log");
    let bundle = fixture.bundle();
    let pid_file = fixture.path("pid");
    let (log, bundle, pid_file) = (
        log.to_str().unwrap(),
        bundle.to_str().unwrap(),
        pid_file.to_str().unwrap(),
    );
    let go_runc = [
        "--debug",
        "--log",
        log,
        "--log-format",
        "json",
        "--rootless=true",
    ];
    let run = |args: &[&str]| {
        let whole: Vec<&str> = go_runc.iter().chain(args).copied().collect();
        fixture.bare(&whole)
    };
    // The harness deletes what it saw `create` for.
    let _cleaned = fixture.command(&["create", "c"]);
    run(&["create", "--bundle", bundle, "--pid-file", pid_file, "c"]).ok();
    run(&["start", "c"]).ok();
    run(&["ps", "--format", "json", "c"]).ok();
    run(&["kill", "--all", "c", "9"]).ok();
    fixture.wait_status("c", "stopped");
    run(&["delete", "--force", "c"]).ok();
    let slurm = |args: &[&str]| {
        let whole: Vec<&str> = ["--rootless=true"].iter().chain(args).copied().collect();
        fixture.bare(&whole)
    };
    slurm(&["create", "c", "-b", bundle]).ok();
    slurm(&["start", "c"]).ok();
    slurm(&["state", "c"]).ok();
    slurm(&["kill", "-a", "c"]).ok();
    slurm(&["kill", "-a", "c", "KILL"]).ok();
    slurm(&["delete", "--force", "c"]).ok();
}
