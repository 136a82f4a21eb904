//! contrib/install, and what contrib/build-all has built for it: completions and man pages.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::admin_lab::{System, source};
use crate::harness::{Ran, lodger_only, runtime_binary, skip, spawn};

/// What contrib/build-all has built.
fn dist() -> PathBuf {
    std::env::var_os("LODGER_DIST")
        .expect("LODGER_DIST: run the tests with tests/run")
        .into()
}

/// A home directory to install into.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(
            tempfile::Builder::new()
                .prefix("install")
                .tempdir()
                .unwrap(),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn install(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(source("contrib/install"));
        command
            .args(args)
            .arg("--from")
            .arg(dist())
            .env("HOME", self.0.path())
            .current_dir(self.0.path());
        spawn(&mut command, b"").wait()
    }

    /// Every path: its mode, its inode and when it was changed.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, u64, i64)> {
        let mut tree = BTreeMap::new();
        let mut open = vec![self.0.path().to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                if metadata.is_dir() {
                    open.push(path.clone());
                }
                let changed = if metadata.is_dir() {
                    0
                } else {
                    metadata.ctime_nsec()
                };
                tree.insert(path, (metadata.mode(), metadata.ino(), changed));
            }
        }
        tree
    }
}

/// The verbs that help shows.
fn verbs() -> Vec<String> {
    let help = spawn(Command::new(runtime_binary()).arg("--help"), b"")
        .wait()
        .ok();
    let listed = help.split_once("Verbs:\n").expect("a list of verbs").1;
    let verbs: Vec<String> = listed
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect();
    assert!(verbs.len() >= 15, "{verbs:?} in {help}");
    verbs
}

#[test]
fn a_prefix_in_a_home_gets_everything_and_gives_it_back() {
    lodger_only!("contrib/install");
    let home = Home::new();
    let foreign = home.path(".local/share/man/man1/other.1");
    fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, "").unwrap();
    let before = home.tree();

    let said = home.install(&["--prefix=~/.local"]).ok();
    let mut expected: Vec<(String, u32)> = [
        ("bin/lodger", 0o755),
        ("sbin/lodger-admin", 0o755),
        ("share/lodger/admin/changes.sh", 0o644),
        ("share/lodger/lodger-delegate.conf", 0o644),
        ("share/lodger/apparmor/lodger", 0o644),
        ("share/lodger/containers.conf.d/lodger.conf", 0o644),
        ("share/systemd/user/lodger@.service", 0o644),
        ("share/systemd/user/lodger.slice", 0o644),
        ("share/man/man1/lodger.1", 0o644),
        ("share/man/man8/lodger-admin.8", 0o644),
        ("share/bash-completion/completions/lodger", 0o644),
        ("share/zsh/site-functions/_lodger", 0o644),
        ("share/fish/vendor_completions.d/lodger.fish", 0o644),
        ("share/doc/lodger/README.md", 0o644),
        ("share/doc/lodger/LICENSE", 0o644),
    ]
    .map(|(path, mode)| (path.to_owned(), mode))
    .to_vec();
    expected.extend(
        verbs()
            .iter()
            .map(|verb| (format!("share/man/man1/lodger-{verb}.1"), 0o644)),
    );
    for (path, mode) in expected {
        let installed = home.path(".local").join(path);
        let metadata = installed
            .metadata()
            .unwrap_or_else(|error| panic!("{}: {error}", installed.display()));
        assert_eq!(metadata.mode() & 0o7777, mode, "{}", installed.display());
        let line = format!("installed  {}\n", installed.display());
        assert!(said.contains(&line), "no {line} in {said}");
    }
    let version = spawn(
        Command::new(home.path(".local/bin/lodger")).arg("--version"),
        b"",
    );
    assert!(version.wait().ok().starts_with("lodger"));

    let tree = home.tree();
    let again = home.install(&["--prefix", ".local"]).ok();
    assert!(
        !again.contains("installed  ") && again.contains("as it is   "),
        "{again}"
    );
    let mut after = home.tree();
    // Written anew each time.
    let manifest = home.path(".local/share/lodger/manifest");
    after.insert(manifest.clone(), tree[&manifest]);
    assert_eq!(after, tree);

    home.install(&["--prefix", ".local", "--uninstall"]).ok();
    assert_eq!(home.tree(), before);
    let ran = home.install(&["--prefix", ".local", "--uninstall"]);
    ran.fails(1, "nothing was installed");
}

#[test]
fn the_installed_helper_finds_its_parts() {
    lodger_only!("contrib/install");
    let home = Home::new();
    home.install(&["--prefix", "/opt/lodger", "--destdir", "pkg"])
        .ok();
    let prefix = home.path("pkg/opt/lodger");
    let system = System::new(&[("etc/apparmor.d/abi/4.0", "")]);
    let mut command = Command::new(prefix.join("sbin/lodger-admin"));
    command
        .arg("--root")
        .arg(system.root())
        .args(["--yes", "all", "ann"]);
    spawn(&mut command, b"").wait().ok();
    let profile = fs::read_to_string(source("contrib/apparmor/lodger")).unwrap();
    assert_eq!(system.read("etc/apparmor.d/lodger"), profile);
    assert!(system.read("etc/subuid").starts_with("ann:"));
}

#[test]
fn what_a_new_version_has_no_use_for_goes() {
    lodger_only!("contrib/install");
    let home = Home::new();
    home.install(&["--prefix", "p"]).ok();
    let gone = home.path("p/share/man/man1/lodger-gone.1");
    fs::write(&gone, "").unwrap();
    let manifest = home.path("p/share/lodger/manifest");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(
        &manifest,
        format!("file share/man/man1/lodger-gone.1\n{text}"),
    )
    .unwrap();
    let said = home.install(&["--prefix", "p"]).ok();
    assert!(said.contains("removed    ") && !gone.exists(), "{said}");

    let victim = home.path("victim");
    fs::write(&victim, "").unwrap();
    for line in ["file ../victim", "file /etc/passwd", "link share", "file "] {
        fs::write(&manifest, format!("{line}\n")).unwrap();
        let ran = home.install(&["--prefix", "p", "--uninstall"]);
        ran.fails(1, "is damaged");
    }
    assert!(victim.exists());
}

#[test]
fn a_wrong_command_line_installs_nothing() {
    lodger_only!("contrib/install");
    let home = Home::new();
    home.install(&[]).fails(1, "where to?");
    home.install(&["--prefix", "p", "--force"])
        .fails(1, "there is no option --force");
    fs::create_dir(home.path("ro")).unwrap();
    crate::admin_lab::set_mode(&home.path("ro"), 0o555);
    home.install(&["--prefix", "ro/p"])
        .fails(1, "cannot be written to");
    assert_eq!(fs::read_dir(home.path("")).unwrap().count(), 1);
}

/// Whether a shell reads a script without a complaint.
fn parses(shell: &str, args: &[&str], script: &Path) {
    if !Path::new("/usr/bin").join(shell).exists() {
        skip!("{shell} is not installed");
    }
    let ran = spawn(Command::new(shell).args(args).arg(script), b"").wait();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
}

#[test]
fn completions_are_scripts_that_know_every_verb() {
    lodger_only!("completion");
    let directory = dist().join("completions");
    for name in ["lodger", "_lodger", "lodger.fish"] {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        for verb in verbs() {
            assert!(text.contains(&verb), "{name} does not know {verb}");
        }
    }
    parses("bash", &["-n"], &directory.join("lodger"));
    let complete = "source \"$1\"; COMP_WORDS=(lodger del); COMP_CWORD=1; _lodger lodger del lodger; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", complete, "bash"])
        .arg(directory.join("lodger"));
    assert_eq!(spawn(&mut bash, b"").wait().ok(), "delete\n");
}

#[test]
fn zsh_reads_its_completions() {
    lodger_only!("completion");
    parses("zsh", &["-n"], &dist().join("completions/_lodger"));
}

#[test]
fn fish_reads_its_completions() {
    lodger_only!("completion");
    parses(
        "fish",
        &["--no-execute"],
        &dist().join("completions/lodger.fish"),
    );
}

#[test]
fn there_is_a_man_page_for_each_verb() {
    lodger_only!("the man page");
    let mut pages: Vec<String> = fs::read_dir(dist().join("man"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut expected: Vec<String> = verbs()
        .iter()
        .map(|verb| format!("lodger-{verb}.1"))
        .collect();
    expected.extend([
        "lodger.1".to_owned(),
        "lodger-help.1".to_owned(),
        "lodger-admin.8".to_owned(),
    ]);
    pages.sort();
    expected.sort();
    assert_eq!(pages, expected);
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    lodger_only!("the unit");
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        skip!("systemd-analyze is not installed");
    }
    let home = Home::new();
    home.install(&["--prefix", ".local"]).ok();
    let mut command = Command::new("systemd-analyze");
    command
        .args(["--user", "--man=no", "verify"])
        .arg(home.path(".local/share/systemd/user/lodger@web.service"))
        .env("HOME", home.path(""));
    let ran = spawn(&mut command, b"").wait();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
}

/// The drop-in is for a unit of systemd's own.
#[test]
fn systemd_has_nothing_to_say_about_the_drop_in() {
    lodger_only!("the drop-in");
    let unit = Path::new("/lib/systemd/system/user@.service");
    if !Path::new("/usr/bin/systemd-analyze").exists() || !unit.exists() {
        skip!("systemd is not installed");
    }
    let home = Home::new();
    let directory = home.path("user@.service.d");
    fs::create_dir(&directory).unwrap();
    fs::copy(unit, home.path("user@.service")).unwrap();
    let drop_in = directory.join("lodger-delegate.conf");
    fs::copy(
        source("systemd/user@.service.d/lodger-delegate.conf"),
        &drop_in,
    )
    .unwrap();
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command
            .args(["--man=no", "verify", "user@1000.service"])
            .env("SYSTEMD_UNIT_PATH", format!("{}:", home.0.path().display()));
        spawn(&mut command, b"").wait()
    };
    let about_it = |ran: &Ran| ran.err.contains("lodger-delegate.conf");
    let ran = verify();
    assert!(!about_it(&ran), "{ran:?}");
    // That it would say something.
    let text = fs::read_to_string(&drop_in).unwrap();
    fs::write(&drop_in, text.replace("Delegate=", "Delegat=")).unwrap();
    let ran = verify();
    assert!(about_it(&ran), "{ran:?}");
}
