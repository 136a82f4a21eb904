//! `spec` and `plan`, and how problems of a config are said.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::print;
use crate::bundle::{self, Bundle, BundleError, Problem, rootless_template, template};
use crate::error::{Doing, Error, Result, printable_json};
use crate::host::HostFacts;
use crate::plan::Plan;
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
pub(crate) fn plan(args: &PlanArgs) -> Result<u8> {
    let mut facts = HostFacts::probe();
    let (directory, config) = read_bundle(&args.bundle, None)?;
    let bundle = Bundle::parse(directory, config).map_err(|error| explain(&error))?;
    facts.learn(&bundle.spec);
    let plan = Plan::compute(&bundle, &facts).map_err(|p| problems(&p))?;
    // It fails where `run` would.
    super::create::filter(plan.seccomp.as_ref(), None)?;
    let text = serde_json::to_string_pretty(&plan)
        .map_err(|error| Error::new("cannot print the plan").because(error))?;
    print(&(printable_json(&text) + "\n"))?;
    Ok(0)
}

/// The directory of the bundle at `path`, which may be relative to the working directory, and the text of its config.json,
/// or of `config` in place of it.
pub(super) fn read_bundle(path: &Path, config: Option<&Path>) -> Result<(PathBuf, Vec<u8>)> {
    let directory = std::fs::canonicalize(path)
        .map_err(|error| Error::new(format!("cannot find the bundle {path:?}")).because(error))?;
    let usual = || directory.join("config.json");
    let config = bundle::read(&config.map_or_else(usual, Path::to_owned));
    let config = config.map_err(|error| explain(&error))?;
    Ok((directory, config))
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
    found.iter().fold(
        Error::new("cannot do what config.json asks for"),
        |error, problem| error.because(problem),
    )
}
