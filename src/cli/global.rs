//! The options before the verb.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use clap::ValueEnum;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::host::{HostFacts, IdWish};
use crate::log::{Format, Level};
use crate::plan::idmap;
use crate::plan::{CgroupManager, CgroupOptions, CgroupPolicy, Choices, FakeRoot, Note, ProcMode};

/// Options before the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Keep the state of containers in DIR [default: the first that can be written to of $XDG_RUNTIME_DIR/lodger,
    /// /run/user/UID/lodger, and lodger-UID in /tmp, /var/tmp and /dev/shm]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Keep images, and what containers write, in DIR [default: $LODGER_STORE, else $XDG_DATA_HOME/lodger, else
    /// ~/.local/share/lodger; where neither can be written to /var/tmp/lodger-store-UID, with a note]
    #[arg(long, value_name = "DIR", global = true, display_order = 500)]
    store: Option<PathBuf>,
    /// Look for images in DIR too, a store of somebody else's or of the site; may be given several times [default:
    /// $LODGER_STORE_RO, with `:` between several]
    #[arg(long, value_name = "DIR", global = true, display_order = 500)]
    store_ro: Vec<PathBuf>,
    /// Append messages to a file, or send them to the system's log: [file:]PATH, journald:ID or syslog:ID. Errors go to
    /// stderr as well
    #[arg(long, value_name = "TARGET")]
    pub(crate) log: Option<OsString>,
    /// How messages look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: Format,
    /// Which messages are written [default: warning]
    #[arg(long, value_name = "LEVEL", ignore_case = true)]
    pub(crate) log_level: Option<Level>,
    /// Print what is being done: --log-level debug
    #[arg(long)]
    pub(crate) debug: bool,
    /// Who makes the container's cgroup
    #[arg(long, value_name = "MANAGER", default_value = "auto")]
    cgroup_manager: CgroupManager,
    /// As --cgroup-manager systemd, unless that names another
    #[arg(long)]
    systemd_cgroup: bool,
    /// What becomes of limits that nobody can keep [default: strict where the config has limits]
    #[arg(long, value_name = "POLICY")]
    cgroup_policy: Option<CgroupPolicy>,
    /// Map your own id alone, although there are subordinate ones
    #[arg(
        long,
        global = true,
        display_order = 510,
        conflicts_with = "require_subids"
    )]
    single_id: bool,
    /// Make nothing where there are no subordinate ids to be had, for whatever reason
    #[arg(long, global = true, display_order = 510)]
    require_subids: bool,
    /// What becomes of calls that change owners and ids, where the container has one id [default: none]
    #[arg(long, value_name = "HOW", global = true, display_order = 510)]
    fake_root: Option<FakeRoot>,
    /// Taken because engines give it: true or auto, as lodger always is
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    rootless: String,
    /// CRIU's program, where `checkpoint` and `restore` are given none: containerd writes its CriuPath here, before any verb
    #[arg(long, value_name = "PATH", hide = true)]
    criu: Option<PathBuf>,
    /// Refuse what could only be done with an adaptation: every note is an error, and nothing is made
    #[arg(long, global = true, display_order = 510)]
    strict: bool,
    /// Show what was adapted, why, and what helps, as a table on stderr
    #[arg(long, global = true, display_order = 510)]
    pub(crate) explain: bool,
    /// How a container gets its /proc where the host's is masked [default: $LODGER_PROC, else new]
    #[arg(long, value_name = "HOW", global = true, display_order = 510)]
    proc: Option<ProcMode>,
    /// What was read of the host before this process changed its namespaces.
    #[arg(skip)]
    known: OnceCell<HostFacts>,
}

impl Global {
    /// What is worth a line in the log.
    pub(super) fn level(&self) -> Level {
        let asked = self.log_level.unwrap_or(Level::Warning);
        if self.debug {
            asked.max(Level::Debug)
        } else {
            asked
        }
    }

    /// What is asked of the container's cgroup.
    pub(super) fn cgroups(&self) -> CgroupOptions {
        let manager = match self.cgroup_manager {
            CgroupManager::Auto if self.systemd_cgroup => CgroupManager::Systemd,
            named => named,
        };
        CgroupOptions {
            manager,
            policy: self.cgroup_policy,
        }
    }

    /// What is asked of every container.
    pub(super) fn choices(&self) -> Choices {
        Choices {
            cgroups: self.cgroups(),
            proc: self.proc.unwrap_or_default(),
        }
    }

    /// Reads what the decisions about `bundle` depend on besides what is read of every host.
    pub(super) fn learn(&self, facts: &mut HostFacts, bundle: &Bundle) {
        facts.learn(&bundle.spec);
        if self.choices().proc != ProcMode::New {
            facts.learn_whole();
        }
    }

    /// Whether every note is an error (`--strict`).
    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    /// CRIU's program, if one is given before the verb.
    pub(super) fn criu(&self) -> Option<&Path> {
        self.criu.as_deref()
    }

    /// Refuses `notes` where they are errors.
    pub(super) fn allow(&self, notes: &[Note]) -> Result<()> {
        match self.strict {
            true => Note::refuse(notes),
            false => Ok(()),
        }
    }

    /// What is asked of calls that change owners and ids, if something is.
    pub(super) fn fake_root(&self) -> Option<FakeRoot> {
        self.fake_root
    }

    /// What is asked of the ids.
    pub(super) fn id_wish(&self) -> IdWish {
        match (self.single_id, self.require_subids) {
            (true, _) => IdWish::Single,
            (false, true) => IdWish::Subordinate,
            (false, false) => IdWish::Any,
        }
    }

    /// The facts, with what is asked of the ids.
    ///
    /// # Errors
    /// There is only one id, and `--require-subids` was given.
    pub(super) fn facts(&self) -> Result<HostFacts> {
        let mut facts = HostFacts::probe();
        facts.id_wish = self.id_wish();
        self.remember(&facts);
        if facts.id_wish == IdWish::Subordinate {
            require_subordinate(&facts)?;
        }
        Ok(facts)
    }

    /// Keeps `facts` for a diagnosis.
    pub(super) fn remember(&self, facts: &HostFacts) {
        // The first ones are those from before any change.
        let _known_already = self.known.set(facts.clone());
    }

    /// The facts as they were read, if they were: a diagnosis begins with them.
    pub(super) fn known(&self) -> Option<&HostFacts> {
        self.known.get()
    }

    /// Where images are kept, absolute; `None`: in the default place.
    pub(crate) fn store(&self) -> Option<&Path> {
        self.store.as_deref()
    }

    /// Further stores to look for images in, in this order, absolute; nothing is written to them.
    pub(crate) fn readonly_stores(&self) -> &[PathBuf] {
        &self.store_ro
    }

    /// Refuses what cannot be, looks at the environment where an option was not given, and makes paths absolute.
    pub(super) fn check(&mut self) -> Result<()> {
        check_rootless(&self.rootless)?;
        self.root = self.root.take().map(state_root).transpose()?;
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let (None, Some(word)) = (self.proc, set("LODGER_PROC")) {
            self.proc = Some(proc_mode(&word)?);
        }
        let store = self.store.take();
        let store = store.or_else(|| set("LODGER_STORE").map(PathBuf::from));
        self.store = store.map(|path| absolute("--store", path)).transpose()?;
        let mut readonly = std::mem::take(&mut self.store_ro);
        if let (true, Some(list)) = (readonly.is_empty(), set("LODGER_STORE_RO")) {
            let named = std::env::split_paths(&list);
            readonly.extend(named.filter(|path| !path.as_os_str().is_empty()));
        }
        let readonly = readonly.into_iter();
        self.store_ro = readonly
            .map(|path| absolute("--store-ro", path))
            .collect::<Result<_>>()?;
        Ok(())
    }
}

fn require_subordinate(facts: &HostFacts) -> Result<()> {
    let Some(cause) = idmap::single_id_cause(facts) else {
        return Ok(());
    };
    let error =
        Error::new("there are no subordinate ids to be had, and --require-subids was given")
            .because(cause.why)
            .hint(cause.remedy);
    Err(match cause.code {
        Some(code) => error.code(code),
        None => error,
    })
}

/// The words for yes and no are those of Go's strconv.ParseBool, which runc uses.
fn check_rootless(word: &str) -> Result<()> {
    match word {
        "" | "auto" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(()),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Err(Error::new(
            "cannot do what --rootless=false asks for",
        )
        .because("lodger works without privilege always, also for root")
        .hint("leave it out, or run containers that need the host's root with another runtime")),
        _ => {
            Err(Error::new(format!("invalid --rootless: {word:?}"))
                .hint("give true, false or auto"))
        }
    }
}

/// The word in LODGER_PROC, for engines that cannot be told to give an option.
fn proc_mode(word: &OsStr) -> Result<ProcMode> {
    let known = word.to_str().map(|word| ProcMode::from_str(word, false));
    known.and_then(std::result::Result::ok).ok_or_else(|| {
        Error::new(format!("invalid LODGER_PROC: {word:?}")).hint("give new, auto, bind or none")
    })
}

fn state_root(path: PathBuf) -> Result<PathBuf> {
    let hint = "give a directory that only you can write to";
    if path.as_os_str().is_empty() {
        return Err(Error::new("option --root argument should not be empty").hint(hint));
    }
    if is_slash(&path) {
        return Err(Error::new("option --root argument should not be set to /").hint(hint));
    }
    absolute("--root", path)
}

fn absolute(option: &str, path: PathBuf) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(format!("{option} is empty")).hint("give a directory"));
    }
    std::path::absolute(&path)
        .map_err(|error| Error::new(format!("cannot tell where {path:?} is")).because(error))
}

/// Whether `path` is `/` by another name, as far as names tell.
fn is_slash(path: &Path) -> bool {
    path.has_root()
        && !path
            .components()
            .any(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_filesystem_is_no_state_directory() {
        for path in ["/", "//", "/.", "/..", "/../."] {
            assert!(state_root(path.into()).is_err(), "{path}");
        }
        assert!(state_root("".into()).is_err());
        assert_eq!(state_root("/run/x".into()).unwrap(), Path::new("/run/x"));
        assert!(state_root("x".into()).unwrap().is_absolute());
    }

    #[test]
    fn stores_are_absolute_and_named() {
        let here = std::path::absolute("x").unwrap();
        assert_eq!(absolute("--store", "x".into()), Ok(here));
        let message = absolute("--store-ro", "".into()).unwrap_err().message();
        assert_eq!(message, "--store-ro is empty");
    }

    #[test]
    fn the_way_to_proc_has_four_names() {
        for word in ["new", "auto", "bind", "none"] {
            let mode = proc_mode(OsStr::new(word)).unwrap();
            assert_eq!(mode.to_possible_value().unwrap().get_name(), word);
        }
        for word in ["", "New", "mount"] {
            assert!(proc_mode(OsStr::new(word)).is_err(), "{word:?}");
        }
    }

    #[test]
    fn rootless_is_what_we_are() {
        for word in ["", "auto", "true", "1", "T"] {
            assert!(check_rootless(word).is_ok(), "{word:?}");
        }
        for word in ["false", "0", "F", "yes", "Auto", "tRUE"] {
            assert!(check_rootless(word).is_err(), "{word:?}");
        }
    }
}
