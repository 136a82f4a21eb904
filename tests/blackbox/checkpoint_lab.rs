//! What the tests of checkpoints use: CRIU, a container whose program tells what it has (helpers/patient), and two answers of it
//! compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::{Fixture, Ran, copy_program, probe_binary, spawn, wait_for};

/// Why there can be no checkpoint here.
pub(crate) fn obstacle() -> Option<&'static str> {
    if criu().is_none() {
        return Some("no CRIU that can run without privilege is to be had here");
    }
    (!Path::new("/proc/self/map_files").exists())
        .then_some("the kernel has no CONFIG_CHECKPOINT_RESTORE")
}

/// Leaves the test where there can be no checkpoint.
macro_rules! checkpoints_or_skip {
    () => {
        $crate::harness::lodger_only!("a checkpoint without privilege");
        if let Some(why) = $crate::checkpoint_lab::obstacle() {
            $crate::harness::skip!("{why}");
        }
    };
}
pub(crate) use checkpoints_or_skip;

/// The CRIU of the tests.
pub(crate) fn criu() -> Option<PathBuf> {
    std::env::var_os("LODGER_TEST_CRIU").map(PathBuf::from)
}

/// PATH with the directory of this program in front.
pub(crate) fn path_with(program: &Path) -> OsString {
    let mut path = program.parent().unwrap().as_os_str().to_owned();
    path.push(":/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// What the program tells: by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer(BTreeMap<String, String>);

impl Answer {
    fn parse(text: &str) -> Answer {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Answer(lines.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(value) => value,
            None => panic!("no {name:?} in {:#?}", self.0),
        }
    }

    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap()
    }

    /// All but what goes on by itself.
    fn lasting(&self) -> BTreeMap<&str, &str> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !["count", "asked"].contains(name) && !name.starts_with("used."))
            .collect()
    }

    /// Whether it has kept everything of `before`.
    pub(crate) fn has_kept(&self, before: &Answer) -> bool {
        self.lasting() == before.lasting()
    }

    /// Asserts that this is the same program as `before`, some time later, and that it has kept everything.
    #[track_caller]
    pub(crate) fn goes_on_from(&self, before: &Answer) {
        assert_eq!(self.lasting(), before.lasting());
        for name in ["asked", "count"] {
            let (then, now) = (before.number(name), self.number(name));
            assert!(then <= now, "{name} went back from {then} to {now}");
        }
    }
}

/// A container to be checkpointed, with a root filesystem of its own.
pub(crate) struct Lab {
    pub(crate) fixture: Fixture,
    /// Where the answers are, on the host.
    answers: PathBuf,
}

impl Lab {
    /// A container whose program keeps these things.
    pub(crate) fn with(words: &[&str]) -> Lab {
        let mut fixture = Fixture::with_own_root();
        let patient = probe_binary().with_file_name("patient");
        copy_program(&patient, &fixture.rootfs().join("patient"));
        fixture.args(&[&["/patient"], words].concat());
        Lab::of(fixture)
    }

    pub(crate) fn of(fixture: Fixture) -> Lab {
        Lab {
            answers: fixture.rootfs(),
            fixture,
        }
    }

    /// Has the answers at /answers, where every user can write.
    pub(crate) fn open_answers(&mut self) {
        self.answers = self.fixture.rootfs().join("answers");
        fs::create_dir(&self.answers).unwrap();
        fs::set_permissions(&self.answers, fs::Permissions::from_mode(0o777)).unwrap();
        let environment = self.fixture.config["process"]["env"]
            .as_array_mut()
            .unwrap();
        environment.push(json!("ANSWERS=/answers"));
    }

    /// lodger, with CRIU in its PATH.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.fixture.command(args);
        command.env("PATH", path_with(&criu().unwrap()));
        command
    }

    /// lodger, to its end.
    pub(crate) fn lodger(&self, args: &[&str]) -> Ran {
        spawn(&mut self.command(args), b"").wait()
    }

    /// A path in the test's own directory, for a command line.
    pub(crate) fn word(&self, name: &str) -> String {
        self.fixture.path(name).to_str().unwrap().to_owned()
    }

    /// Runs the container `c` with config.json as it stands, and waits until its program has everything.
    #[track_caller]
    pub(crate) fn start(&self) {
        self.fixture.write_config();
        self.forget();
        self.lodger(&["run", "-d", "c"]).ok();
        self.first_answer();
    }

    /// Waits until the program has everything.
    #[track_caller]
    pub(crate) fn first_answer(&self) {
        wait_for("the program to begin", || self.answered());
    }

    fn answered(&self) -> Option<Answer> {
        let text = fs::read_to_string(self.answers.join("answer")).ok()?;
        Some(Answer::parse(&text))
    }

    /// Takes away what was answered: of two that were one, each has its own count, and of two that were begun in one root each
    /// answers once unasked.
    pub(crate) fn forget(&self) {
        fs::remove_file(self.answers.join("answer")).unwrap_or_default();
    }

    /// Sends the program of `id` a signal, and waits for its answer.
    #[track_caller]
    fn asked_with(&self, id: &str, signal: &str) -> Answer {
        self.forget();
        self.lodger(&["kill", id, signal]).ok();
        wait_for("the program's answer", || self.answered())
    }

    /// What the program of `c` has, if it does not end: one that was killed may not have gone yet.
    #[track_caller]
    pub(crate) fn look_if_it_lives(&self) -> Option<Answer> {
        self.forget();
        let told = self.lodger(&["kill", "c", "USR1"]);
        let runs = || {
            let state = self.fixture.bare(&["state", "c"]);
            state.code == 0 && state.out.contains("\"running\"")
        };
        wait_for("the program's answer, or its end", || match runs() {
            true => self.answered().filter(|_| told.code == 0).map(Some),
            false => Some(None),
        })
    }

    /// What the program of `id` has.
    #[track_caller]
    pub(crate) fn look(&self, id: &str) -> Answer {
        self.asked_with(id, "USR1")
    }

    /// What comes of using it all up: each of these names must have its value.
    #[track_caller]
    pub(crate) fn consume(&self, id: &str, expected: &[(&str, &str)]) {
        let answer = self.asked_with(id, "USR2");
        for (name, value) in expected {
            assert_eq!(answer.get(&format!("used.{name}")), *value, "{name}");
        }
    }

    /// `checkpoint` of `c` into the directory `ck`.
    pub(crate) fn checkpoint(&self, options: &[&str]) -> Ran {
        let images = self.word("ck");
        self.lodger(&[&["checkpoint", "--image-path", &images], options, &["c"]].concat())
    }

    /// `restore` of the directory `ck`, as `id`.
    pub(crate) fn restore(&self, options: &[&str], id: &str) -> Ran {
        let images = self.word("ck");
        self.lodger(&[&["restore", "--image-path", &images], options, &[id]].concat())
    }

    /// The ids that `list` has.
    pub(crate) fn ids(&self) -> Vec<String> {
        let out = self.fixture.bare(&["list", "-q"]).ok();
        out.lines().map(str::to_owned).collect()
    }

    /// Checkpoints `c` with everything that the program has, restores it, and compares; `options` go to both.
    #[track_caller]
    pub(crate) fn survives(&self, options: &[&str]) -> Answer {
        let before = self.look("c");
        self.checkpoint(options).ok();
        assert_eq!(self.ids(), [""; 0], "it is gone after a checkpoint");
        self.restore(&[options, &["-d"]].concat(), "c").ok();
        assert_eq!(self.fixture.status("c"), "running");
        let after = self.look("c");
        after.goes_on_from(&before);
        after
    }

    /// Pid on the host.
    pub(crate) fn pid(&self, id: &str) -> u32 {
        let pid = self.fixture.state(id)["pid"].as_u64().unwrap();
        u32::try_from(pid).unwrap()
    }
}

/// Sets the annotation that lets a checkpoint through the container's own filter.
pub(crate) fn checkpointable(lab: &mut Lab) {
    lab.fixture.config["annotations"] = json!({"dev.lodger.checkpointable": "true"});
}
