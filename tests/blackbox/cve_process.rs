//! Attacks by way of what a process is: its ids, capabilities, groups, session, and what is said about it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Fixture, LIMIT, Ran, lodger_only, skip, spawn, write_program};
use crate::nested::{maps_all, nested};
use crate::weak::{Outcome, held_by, off, without};

/// Each of them was uid 0 to some runtime.
#[test]
fn cve_2026_30892_exec_user_strings() {
    lodger_only!("switching defences off");
    let id = |user: &str, split: bool| {
        let mut fixture = Fixture::new();
        fixture.sleeping("c");
        let joined = format!("--user={user}");
        let option: &[&str] = if split { &["-u", user] } else { &[&joined] };
        let args = [&["exec"], option, &["c", "/bin/sh", "-c", "id -u; id -g"]].concat();
        fixture.bare(&args)
    };
    for user in [
        "-1",
        "4294967296",
        "1:",
        ":1",
        "",
        "0x0",
        "+0",
        " 0",
        "0 ",
        "1:-1",
        "4294967295",
        "1:4294967295",
        "00x",
    ] {
        held_by(&["DigitsOnly"], || {
            let mut found = None;
            for split in [false, true] {
                let ran = id(user, split);
                if off().is_none() {
                    assert_ne!(ran.code, 0, "{ran:?}");
                    assert_eq!(ran.out, "", "{ran:?}");
                }
                // Parsed, it would be 0, or the -1 that changes nothing and leaves 0.
                let zero = ran.out.lines().any(|line| line == "0");
                let parsed =
                    zero || ran.err.contains("not mapped") || ran.err.contains("4294967295");
                found = found.or((parsed && off().is_some()).then(|| format!("{ran:?}")));
            }
            Outcome::of(found, "refused")
        });
    }
    assert_eq!(id("1", true).ok(), "1\n0\n");
    assert_eq!(id("1", false).ok(), "1\n0\n");
    assert_eq!(id("1:2", true).ok(), "1\n2\n");
}

/// (uid_t) -1 and what wraps around: refused by the type of the property, or as not mapped.
#[test]
fn cve_2024_40635_user_overflow_in_the_config() {
    lodger_only!("the checks of ids");
    for id in [
        json!(-1),
        json!(4_294_967_296_u64),
        json!(4_294_967_295_u32),
        json!("0"),
        json!(0.5),
    ] {
        for key in ["uid", "gid"] {
            let mut fixture = Fixture::new();
            fixture.config["process"]["user"][key] = id.clone();
            fixture.sh("id -u; id -g");
            fixture.run().fails(1, "/process/user");
        }
    }
}

fn status(ran: Ran, name: &str) -> String {
    let out = ran.ok();
    let line = out.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {out}"))
        .trim_start_matches(':')
        .trim()
        .to_owned()
}

/// Capabilities that are inherited reach a program that a file capability or a uid was meant to keep them from.
#[test]
fn cve_2022_29162_caps_inheritable_empty() {
    lodger_only!("switching defences off");
    let inheritable = |joins: bool| {
        let mut fixture = Fixture::with_own_root();
        fixture.args(&["cat", "/proc/self/status"]);
        let ran = if joins {
            fixture.sleeping("c");
            fixture.bare(&["exec", "c", "cat", "/proc/self/status"])
        } else {
            fixture.run()
        };
        let set = status(ran, "CapInh");
        Outcome::of((set != "0000000000000000").then(|| set.clone()), set)
    };
    held_by(&["Capabilities"], || inheritable(false));
    held_by(&["Capabilities"], || inheritable(true));
    // What `spec` writes asks for none.
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("new")).unwrap();
    let path = fixture.path("new");
    fixture
        .bare(&["spec", "--bundle", path.to_str().unwrap()])
        .ok();
    let spec: Value = serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
    let asked = &spec["process"]["capabilities"]["inheritable"];
    assert!(asked.is_null() || asked == &json!([]), "{asked}");
}

#[test]
fn cve_2025_27612_exec_has_no_capability_outside_the_config() {
    lodger_only!("switching defences off");
    held_by(&["Capabilities"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.config["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]});
        fixture.sleeping("c");
        let text = fixture
            .bare(&["exec", "c", "cat", "/proc/self/status"])
            .ok();
        let more: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("Cap"))
            .filter(|line| {
                let (name, set) = line.split_once(":\t").unwrap();
                let set = u64::from_str_radix(set, 16).unwrap();
                set & !(if name == "CapBnd" { 0x20 } else { 0 }) != 0
            })
            .collect();
        Outcome::of((!more.is_empty()).then(|| more.join(" ")), text.clone())
    });
}

/// A setuid program of the image gives its owner's id to whoever runs it, but not with no_new_privs.
#[test]
fn no_new_privs_holds_a_setuid_program() {
    lodger_only!("switching defences off");
    let effective = |joins: bool| {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        let mode = fs::Permissions::from_mode(0o4755);
        fs::set_permissions(fixture.rootfs().join("probe"), mode).unwrap();
        fixture.config["process"]["user"] = json!({"uid": 1, "gid": 1});
        fixture.args(&["/probe", "report"]);
        let text = if joins {
            fixture.sleeping("c");
            fixture.bare(&["exec", "c", "/probe", "report"]).ok()
        } else {
            fixture.run().ok()
        };
        let seen: Value = serde_json::from_str(&text).unwrap();
        let ids = seen["status"]["Uid"].as_str().unwrap().to_owned();
        Outcome::of((ids != "1\t1\t1\t1").then(|| ids.clone()), ids)
    };
    held_by(&["NoNewPrivs"], || effective(false));
    held_by(&["NoNewPrivs"], || effective(true));
}

/// A group of the caller's may be one that is denied something: it must be neither kept nor lost unasked.
#[test]
fn cve_2022_2990_supplementary_groups() {
    lodger_only!("switching defences off");
    if !maps_all() {
        skip!("unshare(1) has no --map-auto, or there are no subordinate ids");
    }
    let options = ["--map-auto", "setpriv", "--groups", "5,7"];
    for user_namespace in [false, true] {
        held_by(&["Groups"], || {
            let mut fixture = Fixture::with_own_root();
            if user_namespace {
                let namespaces = fixture.config["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap();
                namespaces.push(json!({"type": "user"}));
            }
            fixture.config["process"]["user"]["additionalGids"] = json!([9]);
            fixture.args(&["cat", "/proc/self/status"]);
            let groups = status(nested(&fixture, &options, ":", &["run", "c"]), "Groups");
            Outcome::of((groups != "9").then(|| groups.clone()), groups)
        });
    }
}

/// Without helpers only the caller's own group is mapped: setgroups(2) would lose her the groups that deny.
#[test]
fn cve_2018_7169_setgroups_is_denied_without_helpers() {
    lodger_only!("switching defences off");
    // The switch that makes PATH count is used to have no helpers.
    without(&["HelperPaths"], || {
        let mut fixture = Fixture::with_own_root();
        fixture.add_probe();
        fixture.args(&["/probe", "report"]);
        fixture.write_config();
        let mut command = fixture.command(&["run", "c"]);
        let ran = spawn(command.env("PATH", "/nonexistent"), b"").wait();
        let seen: Value = serde_json::from_str(&ran.ok()).unwrap();
        let gids = seen["maps"]["gid"].as_str().unwrap();
        assert_eq!(gids.split_whitespace().last(), Some("1"), "one id: {gids}");
        assert_eq!(seen["maps"]["setgroups"], "deny");
        assert_eq!(seen["setgroups_works"], false);
    });
}

/// A program in the session of the caller's terminal can open it again, and type into it (TIOCSTI).
#[test]
fn cve_2017_5226_the_callers_terminal_is_out_of_reach() {
    lodger_only!("switching defences off");
    if !Path::new("/usr/bin/script").exists() {
        skip!("script(1) is not installed");
    }
    let reached = |joins: bool| {
        let mut fixture = Fixture::with_own_root();
        const TRY: &str = "exec 3<>/dev/tty && echo reached";
        fixture.sh(TRY);
        if joins {
            fixture.sleeping("c");
        }
        fixture.write_config();
        let exec = ["exec", "c", "/bin/sh", "-c", TRY];
        let args: &[&str] = if joins { &exec } else { &["run", "c"] };
        let inner = fixture.command(args);
        let quote = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
        let line: Vec<String> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(quote)
            .collect();
        let mut terminal = Command::new("/usr/bin/script");
        terminal
            .args(["-qec", &line.join(" "), "/dev/null"])
            .current_dir(fixture.bundle());
        let ran = spawn(&mut terminal, b"").wait();
        let tried = ran.out.contains("reached") || ran.out.contains("/dev/tty");
        assert!(tried, "it was not even tried: {ran:?}");
        Outcome::of(
            ran.out.contains("reached").then(|| ran.out.clone()),
            ran.out,
        )
    };
    held_by(&["OwnSession"], || reached(false));
    held_by(&["OwnSession"], || reached(true));
}

/// The helpers that root installed are the only ones, wherever PATH leads.
#[test]
fn path_hijack_of_newuidmap() {
    lodger_only!("switching defences off");
    held_by(&["HelperPaths"], || {
        let mut fixture = Fixture::new();
        fixture.sh("echo ran");
        fixture.write_config();
        let fake = fixture.path("fake");
        fs::create_dir(&fake).unwrap();
        let witness = fixture.path("witness");
        for name in ["newuidmap", "newgidmap", "getsubids"] {
            let script = format!("#!/bin/sh\necho {name} >>{}\nexit 1\n", witness.display());
            write_program(&fake.join(name), script.as_bytes());
        }
        let mut command = fixture.command(&["run", "c"]);
        command.env("PATH", format!("{}:.:/usr/bin:/bin", fake.display()));
        let ran = spawn(&mut command, b"").wait();
        assert!(off().is_some() || ran.out == "ran\n", "{ran:?}");
        Outcome::of(fs::read_to_string(&witness).ok(), "no fake was run")
    });
}

/// What has not ended after this time waits for what never comes, where that is expected.
const SOON: Duration = Duration::from_secs(2);

/// Runs `args` with little memory; evidence of a hang or of memory without bound.
fn bounded(fixture: &Fixture, args: &[&str]) -> Outcome {
    let inner = fixture.command(args);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -v 300000; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(fixture.bundle());
    let mut running = spawn(&mut command, b"");
    // A machine that stands still for a moment says nothing against the defence.
    let limit = if off().is_some() { SOON } else { LIMIT };
    match running.wait_at_most(limit) {
        None => Outcome::Succeeded("it waits, or reads, for ever".into()),
        Some(ran) => {
            let died = ran.code >= 128 || ran.err.contains("ended") || ran.err.contains("lost");
            let memory = ran.err.contains("memory");
            assert!(off().is_some() || !(died || memory), "{ran:?}");
            Outcome::of(
                (died || memory).then(|| format!("{ran:?}")),
                format!("{ran:?}"),
            )
        }
    }
}

fn make_fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
}

/// Puts a file in place that never ends, or is larger than memory.
fn hostile_file(kind: &str, path: &Path) {
    let _ = fs::remove_file(path);
    match kind {
        "fifo" => make_fifo(path),
        "devzero" => symlink("/dev/zero", path).unwrap(),
        _ => fs::File::create(path).unwrap().set_len(3 << 30).unwrap(),
    }
}

#[test]
fn cve_2026_47262_passwd_fifo_devzero_and_sparse() {
    lodger_only!("switching defences off");
    for kind in ["fifo", "devzero", "sparse"] {
        for joins in [false, true] {
            held_by(&["BoundedReads"], || {
                let mut fixture = Fixture::with_own_root();
                if joins {
                    fixture.sleeping("c");
                }
                hostile_file(kind, &fixture.rootfs().join("etc/passwd"));
                fixture.sh("echo $HOME");
                fixture.write_config();
                let exec = ["exec", "c", "/bin/sh", "-c", "echo $HOME"];
                bounded(&fixture, if joins { &exec } else { &["run", "c"] })
            });
        }
    }
}

/// The file is a device that the config binds, or it is no file at all: HOME is a default.
#[test]
fn a_hostile_passwd_gives_a_default_home() {
    lodger_only!("reading the passwd file of an image");
    for kind in ["fifo", "devzero", "sparse", "loop", "directory", "bound"] {
        let mut fixture = Fixture::with_own_root();
        let passwd = fixture.rootfs().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        match kind {
            "loop" => symlink("passwd", &passwd).unwrap(),
            "directory" => fs::create_dir(&passwd).unwrap(),
            "bound" => {
                fixture.mount(json!({"destination": "/etc/passwd", "type": "bind", "source": "/dev/zero", "options": ["bind"]}));
            }
            kind => hostile_file(kind, &passwd),
        }
        fixture.sh("echo $HOME");
        assert_eq!(fixture.run().ok(), "/\n", "{kind}");
    }
}

#[test]
fn config_json_fifo_devzero_and_sparse() {
    lodger_only!("switching defences off");
    for kind in ["fifo", "devzero", "sparse"] {
        for args in [&["run", "c"][..], &["plan", "."]] {
            held_by(&["BoundedReads"], || {
                let fixture = Fixture::new();
                hostile_file(kind, &fixture.bundle().join("config.json"));
                bounded(&fixture, args)
            });
        }
    }
}

#[test]
fn state_json_fifo_devzero_and_sparse() {
    lodger_only!("switching defences off");
    for kind in ["fifo", "devzero", "sparse"] {
        held_by(&["BoundedReads"], || {
            let fixture = Fixture::new();
            let directory = fixture.path("state/c");
            fs::create_dir(&directory).unwrap();
            hostile_file(kind, &directory.join("state.json"));
            fs::set_permissions(fixture.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
            bounded(&fixture, &["state", "c"])
        });
    }
}

/// A message that repeats what was typed, or what a config says, must not drive the terminal it is printed on.
#[test]
fn rawctrl_in_messages() {
    lodger_only!("switching defences off");
    const EVIL: &str = "x\u{1b}]0;t\u{7}\u{9b}1m\r\u{8}y";
    let raw = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    let typed: &[&[&str]] = &[&[EVIL], &["list", EVIL], &["list", "-f", EVIL]];
    for args in typed {
        held_by(&["Printable"], || {
            let ran = Fixture::new().bare(args);
            assert_ne!(ran.code, 0, "{ran:?}");
            Outcome::of(raw(&ran.err).then(|| format!("{:?}", ran.err)), ran.err)
        });
    }
    let listed = |args: &[&str]| {
        let fixture = Fixture::new();
        fixture.write_config();
        let evil = fixture.path(EVIL);
        fs::rename(fixture.bundle(), &evil).unwrap();
        let mut command = fixture.command(&["create", "c"]);
        spawn(command.current_dir(&evil), b"").wait().ok();
        fs::create_dir(fixture.bundle()).unwrap();
        let out = fixture.bare(args).ok();
        Outcome::of(raw(&out).then(|| format!("{out:?}")), out.clone())
    };
    for args in [&["list"][..], &["list", "-f", "json"], &["state", "c"]] {
        held_by(&["Printable"], || listed(args));
    }
}

/// Other users of the machine can neither list nor open anything of a container's state.
#[test]
fn cve_2021_41091_state_modes() {
    lodger_only!("the modes of the state directory");
    let fixture = Fixture::new();
    fs::remove_dir(fixture.path("state")).unwrap();
    fixture.write_config();
    let mut loose = Command::new("/bin/sh");
    let inner = fixture.command(&["create", "c"]);
    loose
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(fixture.bundle());
    spawn(&mut loose, b"").wait().ok();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&fixture.path("state")), 0o700);
    assert_eq!(mode(&fixture.path("state/c")), 0o700);
    for entry in fs::read_dir(fixture.path("state/c")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        }
    }
}

/// The variables of one container, or of the caller, are not those of the next.
#[test]
fn cve_2021_3602_env_of_the_caller_stays_outside() {
    lodger_only!("the environment of a program");
    let mut fixture = Fixture::with_own_root();
    fixture.config["process"]["env"] = json!(["PATH=/bin"]);
    fixture.sleeping("c");
    fixture.args(&["env"]);
    fixture.write_config();
    for args in [&["run", "d"][..], &["exec", "c", "env"]] {
        let mut command = fixture.command(args);
        command
            .env("SECRET", "secret")
            .env("LD_PRELOAD", "/nonexistent");
        let out = spawn(&mut command, b"").wait().ok();
        assert!(
            !out.contains("SECRET") && !out.contains("LD_PRELOAD"),
            "{out}"
        );
        assert!(
            !out.contains("XDG_RUNTIME_DIR") && !out.contains("LODGER"),
            "{out}"
        );
    }
}
