//! `spec` and `plan`, and how problems of a config are said.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::{Global, print};
use crate::bundle::{self, Bundle, BundleError, Problem, rootless_template, template};
use crate::error::{Doing, Error, Result, printable_json};
use crate::host::{self, HostFacts, Joinable};
use crate::plan::{FakeRoot, Plan};
use crate::sys;

/// Write a config.json to begin with
///
/// The config is a shell in the root filesystem `rootfs` beside it. It runs as it is, also without subordinate ids. A
/// file that is there is not overwritten.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mkdir -p web/rootfs && tar -C web/rootfs -xf debian.tar
  lodger spec -b web && lodger run -b web web")]
pub(crate) struct SpecArgs {
    /// The bundle: the directory to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write it to FILE, relative to the bundle
    #[arg(short, long, value_name = "FILE", default_value = "config.json")]
    file: PathBuf,
    /// Write one that other runtimes, too, can run without root: with a user namespace of your own id alone. It has the
    /// host's network and its /sys
    #[arg(long)]
    rootless: bool,
}

/// Print, as JSON, what would be done for a bundle, and touch nothing
///
/// The id maps, mounts, devices, capabilities and all else that `run` would do here and now, and what it would adapt, as
/// notes. It fails where `run` would refuse the config.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger plan web
  lodger plan | jq .notes")]
pub(crate) struct PlanArgs {
    /// The bundle: a directory with config.json
    #[arg(value_name = "BUNDLE", default_value = ".")]
    bundle: PathBuf,
}

/// Does what `spec` asks.
pub(crate) fn spec(args: &SpecArgs) -> Result<u8> {
    let text = if args.rootless {
        rootless_template(sys::cred::uid(), sys::cred::gid())
            .map_err(|error| Error::new("cannot print the config").because(error))?
    } else {
        template().to_owned()
    };
    // `run` could not give more than the caller may have.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let text = bundle::with_open_files(&text, files.unwrap_or(u64::MAX));
    let path = args.bundle.join(&args.file);
    let what = || format!("cannot write {path:?}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o666)) {
        Err(rustix::io::Errno::EXIST) => {
            return Err(Error::new(what())
                .because("it exists")
                .hint("remove it first"));
        }
        opened => opened
            .map_err(|e| sys::Error::new("openat", format!("{path:?}, O_CREAT|O_EXCL"), e))
            .doing(what)?,
    };
    sys::path::write_all(fd, text.as_bytes(), &path).doing(what)?;
    Ok(0)
}

/// Does what `plan` asks.
pub(crate) fn plan(global: &Global, args: &PlanArgs) -> Result<u8> {
    let mut facts = global.facts()?;
    super::cgroups::look_at_session(global.cgroups(), &mut facts);
    let config = read_config(&args.bundle, None)?;
    let bundle = match config.parse_if_it_joins(&mut facts)? {
        Some((bundle, _)) => bundle,
        None => config.parse()?,
    };
    global.learn(&mut facts, &bundle);
    let mut plan =
        Plan::compute_with(&bundle, &facts, global.choices()).map_err(|p| problems(&p))?;
    // It fails where `run` would.
    super::filter::filter(plan.seccomp.as_ref(), FakeRoot::None, None)?;
    plan.set_fake_root(global.fake_root().unwrap_or_default());
    let text = serde_json::to_string_pretty(&plan)
        .map_err(|error| Error::new("cannot print the plan").because(error))?;
    print(&(printable_json(&text) + "\n"))?;
    Ok(0)
}

/// The text of a config.json, and the bundle that it is of.
pub(super) struct Config {
    directory: PathBuf,
    text: Vec<u8>,
}

/// Reads the config of the bundle at `path`, which may be relative to the working directory; `file` is read in place of
/// its config.json.
pub(super) fn read_config(path: &Path, file: Option<&Path>) -> Result<Config> {
    let directory = std::fs::canonicalize(path)
        .map_err(|error| Error::new(format!("cannot find the bundle {path:?}")).because(error))?;
    let usual = directory.join("config.json");
    let text = bundle::read(file.unwrap_or(&usual)).map_err(|error| explain(&error))?;
    Ok(Config { directory, text })
}

impl Config {
    /// The config `text` of the bundle in `directory`, which is absolute.
    pub(super) fn new(directory: PathBuf, text: Vec<u8>) -> Self {
        Self { directory, text }
    }

    /// Whether it may have hooks; seen without parsing it.
    pub(super) fn may_have_hooks(&self) -> bool {
        bundle::may_have_hooks(&self.text)
    }

    /// The bundle.
    pub(super) fn parse(self) -> Result<Bundle> {
        self.parsed().map_err(|error| explain(&error))
    }

    /// As [`Config::parse`], with what is wrong as it is.
    pub(super) fn parsed(self) -> std::result::Result<Bundle, BundleError> {
        Bundle::parse(self.directory, self.text)
    }

    /// The bundle, with what else has to be looked at before this process goes into another user namespace: namespaces that
    /// it names by path, and network devices. `None`: it names none.
    pub(super) fn parse_if_it_joins(
        &self,
        facts: &mut HostFacts,
    ) -> Result<Option<(Bundle, Joinable)>> {
        self.parse_if_joining(facts)
            .map_err(|error| explain(&error))
    }

    /// As [`Config::parse_if_it_joins`], with what is wrong as it is.
    pub(super) fn parse_if_joining(
        &self,
        facts: &mut HostFacts,
    ) -> std::result::Result<Option<(Bundle, Joinable)>, BundleError> {
        if !host::may_join(&self.text) {
            return Ok(None);
        }
        let bundle = Bundle::parse(self.directory.clone(), self.text.clone())?;
        let linux = bundle.spec.linux().as_ref();
        let namespaces = linux.and_then(|l| l.namespaces().as_deref());
        let joinable = Joinable::look(namespaces.unwrap_or_default(), facts);
        facts.namespaces = joinable.readings();
        let devices = linux.and_then(|l| l.net_devices().as_ref());
        if let Some(devices) = devices.filter(|devices| !devices.is_empty()) {
            facts.network = Some(host::net_devices(devices.keys(), facts));
        }
        Ok(Some((bundle, joinable)))
    }
}

/// The error of a bundle that cannot be used.
pub(super) fn explain(error: &BundleError) -> Error {
    match error {
        BundleError::Invalid(found) => problems(found),
        other => {
            let mut told = Error::new("cannot use the bundle").because(other);
            if let Some(cause) = std::error::Error::source(other) {
                told = told.because(cause);
            }
            match other.hint() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        }
    }
}

/// The error of a config that asks for what cannot be done: all of it, one cause a problem.
pub(super) fn problems(found: &[Problem]) -> Error {
    let error = found.iter().fold(
        Error::new("cannot do what config.json asks for"),
        |error, problem| error.because(problem),
    );
    let mut codes: Vec<&String> = found.iter().filter_map(|p| p.code.as_ref()).collect();
    codes.dedup();
    match codes.as_slice() {
        [code] => error.code(*code),
        _ => error,
    }
}
