//! `check`: whether a container would run here, from the plan and from what it names on this host.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::Serialize;

use super::image_options::ImageRun;
use super::spec::{self, Config};
use super::{Global, image_described, print};
use crate::bundle::{Bundle, BundleError, Problem};
use crate::doctor::{Diagnosis, Finding, Weight};
use crate::error::{Error, Result, printable, printable_json};
use crate::host::HostFacts;
use crate::image::merged::Merged;
use crate::plan::{Hook, MountSource, Note, Outer, Plan, UserNamespace, no_sys_note, sys_note};
use crate::state::Store;
use crate::{seccomp, sys};

/// Tell whether a container would run here, and make nothing
///
/// What would be refused, with the JSON pointer of each, or because nothing can run here; what would be adapted or not enforced; and what the config names that
/// is not on this host: the root filesystem, sources of mounts, the program, hooks. What only the kernel can tell is not
/// known before `run`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger check -b web
  lodger check --image debian sh -c true
  lodger check --json | jq .refused

Exit status:
  0  it would run as it is asked
  1  it would run with adaptations, or in a reduced mode
  2  it would be refused")]
pub(crate) struct Args {
    /// The bundle: a directory with config.json and, most often, the root filesystem
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Read FILE instead of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tell it as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Options for images")]
    image: ImageRun,
    /// With --image what is in place of the image's arguments
    #[arg(
        value_name = "ARGS",
        requires = "image",
        trailing_var_arg = true,
        help_heading = None::<&str>,
    )]
    args: Vec<String>,
}

/// What would come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    AsAsked,
    Adapted,
    Refused,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Outcome,
    /// What would stop it.
    refused: Vec<Problem>,
    /// What would be otherwise than it is asked, limits that nobody keeps among them.
    adapted: Vec<Note>,
}

/// Does what `check` asks.
pub(crate) fn check(global: &Global, args: &Args) -> Result<u8> {
    let mut refused = Vec::new();
    let mut adapted = Vec::new();
    look(global, args, &mut refused, &mut adapted)?;
    let strictly = global.is_strict() && !adapted.is_empty();
    let outcome = match (refused.is_empty() && !strictly, adapted.is_empty()) {
        (false, _) => Outcome::Refused,
        (true, false) => Outcome::Adapted,
        (true, true) => Outcome::AsAsked,
    };
    let report = Report {
        outcome,
        refused,
        adapted,
    };
    print(&match args.json {
        true => report.json()?,
        false => report.text(),
    })?;
    Ok(match report.outcome {
        Outcome::AsAsked => 0,
        Outcome::Adapted => 1,
        Outcome::Refused => 2,
    })
}

impl Report {
    fn json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::new("cannot print what was found").because(e))?;
        Ok(printable_json(&text) + "\n")
    }

    fn text(&self) -> String {
        let code = |code: &Option<String>| {
            let code = code.as_ref();
            code.map_or_else(String::new, |code| format!("  code: {code}\n"))
        };
        let refused = self.refused.iter();
        let refused = refused.map(|p| format!("refused: {p}\n{}", code(&p.code)));
        let adapted = self.adapted.iter().map(|note| {
            let Note {
                property,
                reason,
                remedy,
                ..
            } = note;
            let code = code(&note.code);
            format!("adapted: {property}: {reason}\n  hint: {remedy}\n{code}")
        });
        let last = match self.outcome {
            Outcome::AsAsked => "it would run here as it is asked\n",
            Outcome::Adapted => "it would run here, with what is adapted\n",
            Outcome::Refused => "it would be refused here\n",
        };
        let lines = refused.chain(adapted).chain([last.to_owned()]);
        printable(&lines.collect::<String>())
    }
}

/// Looks at everything; what is wrong with the command line alone is an error.
fn look(
    global: &Global,
    args: &Args,
    refused: &mut Vec<Problem>,
    adapted: &mut Vec<Note>,
) -> Result<()> {
    let mut facts = match global.facts() {
        Ok(facts) => facts,
        // As `run` would say, and go no further.
        Err(error) => {
            refused.push(problem("/linux/uidMappings", &error));
            return Ok(());
        }
    };
    super::cgroups::look_at_session(global.cgroups(), &mut facts);
    let host = Diagnosis::make(global.store(), global.root.as_deref());
    refused.extend(blocking(&host));
    if let Err(error) = Store::look_for_place(global.root.as_deref()) {
        refused.push(problem("", &error));
    }
    let (config, files) = match args.image.image() {
        None => (
            spec::read_config(&args.bundle, args.config.as_deref())?,
            None,
        ),
        Some(_) => {
            let words = ("check", args.args.as_slice(), false);
            let (config, files, notes) = image_described::look(global, &args.image, words, &facts)?;
            adapted.extend(notes);
            (config, Some(files))
        }
    };
    let bundle = match parse(config, &mut facts) {
        Ok(bundle) => bundle,
        Err(BundleError::Invalid(problems)) => {
            refused.extend(problems);
            return Ok(());
        }
        Err(other) => return Err(spec::explain(&other)),
    };
    global.learn(&mut facts, &bundle);
    let mut plan = match Plan::compute_with(&bundle, &facts, global.choices()) {
        Ok(plan) => plan,
        Err(problems) => {
            refused.extend(problems);
            return Ok(());
        }
    };
    plan.set_fake_root(global.fake_root().unwrap_or_default());
    adapted.extend(plan.notes.iter().cloned());
    adapted.extend(other_sys(&plan, &host));
    if let Some(filter) = &plan.seccomp
        && let Err(problems) = seccomp::prepare(filter, None)
    {
        refused.extend(problems);
    }
    refused.extend(own_filesystems(&plan, &host));
    refused.extend(mounts(&plan).chain(devices(&plan)).chain(hooks(&plan)));
    match files.map_or_else(|| root(&plan.root.path), Ok) {
        Ok(files) => refused.extend(program(&plan, &files)),
        Err(problem) => refused.push(problem),
    }
    if is_reduced(&plan) && adapted.iter().all(|note| note.code.is_none()) {
        adapted.push(Note::new(
            "/linux/uidMappings",
            "the container has one id alone, the caller's own: there are no subordinate ids to be had",
            "`lodger doctor` tells what is missing",
        ));
    }
    Ok(())
}

/// What keeps every container from being made here.
fn blocking(host: &Diagnosis) -> impl Iterator<Item = Problem> {
    let all = host.findings.iter();
    let blocking = all.filter(|finding| finding.weight == Weight::Blocks);
    blocking.map(|finding| found("", finding))
}

/// New filesystems of the container's that the kernel does not make here, where others can be made.
fn own_filesystems<'a>(plan: &'a Plan, host: &'a Diagnosis) -> impl Iterator<Item = Problem> + 'a {
    plan.mounts.iter().filter_map(|mount| {
        let MountSource::Filesystem { fstype, .. } = &mount.source else {
            return None;
        };
        let about = match fstype.as_str() {
            "proc" => "LDG-PROC-",
            "sysfs" => "LDG-SYS-",
            _ => return None,
        };
        let mut reducing = host.findings.iter().filter(|f| f.weight == Weight::Reduces);
        let finding = reducing.find(|finding| finding.code.starts_with(about))?;
        Some(found(&format!("{}/type", mount.property), finding))
    })
}

/// What is said of a sysfs that something else stands in for: the host's is masked, or there is none.
fn other_sys<'a>(plan: &'a Plan, host: &'a Diagnosis) -> impl Iterator<Item = Note> + 'a {
    let mut found = host.findings.iter();
    let known = ["LDG-SYS-MASKED", "LDG-SYS-NONE"];
    let finding = found.find(|finding| known.contains(&finding.code.as_str()));
    plan.mounts
        .iter()
        .filter_map(move |mount| match &mount.source {
            MountSource::Filesystem { fstype, .. } if fstype == "sysfs" => {
                let finding = finding?;
                if finding.code == "LDG-SYS-NONE" {
                    return Some(no_sys_note(&mount.property));
                }
                let note = sys_note(&mount.property, &finding.what, &finding.remedy);
                Some(note.code(&finding.code))
            }
            _ => None,
        })
}

fn found(pointer: &str, finding: &Finding) -> Problem {
    let message = format!("{}; {}{}", finding.what, finding.who.may(), finding.remedy);
    Problem::new(pointer, message).code(&finding.code)
}

fn parse(config: Config, facts: &mut HostFacts) -> std::result::Result<Bundle, BundleError> {
    match config.parse_if_joining(facts)? {
        Some((bundle, _)) => Ok(bundle),
        None => config.parsed(),
    }
}

fn is_reduced(plan: &Plan) -> bool {
    matches!(
        plan.user_namespace,
        UserNamespace::New {
            outer: Outer::SingleId { .. },
            ..
        }
    )
}

fn problem(pointer: &str, error: &Error) -> Problem {
    let hints = error
        .hints()
        .map_or_else(String::new, |hints| format!("; {hints}"));
    let problem = Problem::new(pointer, format!("{}{hints}", error.message()));
    match error.cause_code() {
        Some(code) => problem.code(code),
        None => problem,
    }
}

/// The files of a bundle, or the first directory on the way to them that cannot be entered.
fn root(path: &Path) -> std::result::Result<Merged, Problem> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for directory in way {
        let flags = match directory == path {
            true => flags,
            false => flags | OFlags::PATH,
        };
        match rustix::fs::openat(CWD, directory, flags, Mode::empty()) {
            Ok(root) if directory == path => return Ok(Merged::new(vec![root])),
            Ok(_) => {}
            Err(e) => {
                let cause = sys::Error::new("openat", format!("{directory:?}"), e);
                let message = format!("the root filesystem cannot be reached: {cause}");
                return Err(Problem::new("/root/path", message).code("LDG-ROOT-REACH"));
            }
        }
    }
    Err(Problem::new("/root/path", "there is no such directory"))
}

/// Sources of mounts that are not there.
fn mounts(plan: &Plan) -> impl Iterator<Item = Problem> {
    let binds = plan.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { source, .. } => Some((mount, source)),
        _ => None,
    });
    binds.filter_map(|(mount, source)| {
        let cause = missing(source)?;
        let message = format!("the source of the mount cannot be opened: {cause}");
        Some(Problem::new(format!("{}/source", mount.property), message))
    })
}

/// Devices that the host does not have: those of every container are looked for by init.
fn devices(plan: &Plan) -> impl Iterator<Item = Problem> {
    let defaults = plan.devices.iter().filter(|device| device.asked.is_none());
    defaults.filter_map(|device| {
        let cause = missing(&device.path)?;
        let message = format!("the host's {:?} cannot be used: {cause}", device.path);
        Some(Problem::new("/linux/devices", message))
    })
}

/// Programs of hooks that are not there, or cannot be run.
fn hooks(plan: &Plan) -> impl Iterator<Item = Problem> {
    let hooks = &plan.hooks;
    let of_host = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    of_host.into_iter().flatten().filter_map(|hook: &Hook| {
        let access = rustix::fs::Access::EXEC_OK;
        let found = rustix::fs::accessat(CWD, &hook.path, access, rustix::fs::AtFlags::empty());
        let cause = sys::Error::new("faccessat", format!("{:?}, X_OK", hook.path), found.err()?);
        let message = format!("the program of the hook cannot be run: {cause}");
        Some(Problem::new(format!("{}/path", hook.property), message))
    })
}

fn missing(path: &Path) -> Option<sys::Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, path, flags, Mode::empty());
    Some(sys::Error::new(
        "openat",
        format!("{path:?}, O_PATH"),
        opened.err()?,
    ))
}

/// Why the program cannot be run, as far as its root filesystem tells; what lies beneath a mount is not looked for.
fn program(plan: &Plan, files: &Merged) -> Option<Problem> {
    let process = &plan.process;
    let name = process.args.first()?;
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![process.cwd.join(name)]
    } else {
        let path = process.env.iter().find_map(|e| e.strip_prefix("PATH="));
        let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let directories = path.split(':').filter(|directory| !directory.is_empty());
        directories.map(|d| Path::new(d).join(name)).collect()
    };
    let covered = |path: &Path| {
        let mut mounts = plan.mounts.iter();
        mounts.any(|mount| path.starts_with(&mount.destination))
    };
    let mut why = "no such file or directory";
    for path in &candidates {
        if covered(path) {
            return None;
        }
        // What cannot be looked at is not known to be wrong.
        let Some(found) = files.lookup(path, true).transpose() else {
            continue;
        };
        let Ok(found) = found else { return None };
        let mode = found.stat.st_mode;
        let regular = FileType::from_raw_mode(mode) == FileType::RegularFile;
        if regular && mode & 0o111 != 0 {
            return None;
        }
        why = "permission denied";
    }
    let message = format!("the program {name:?} cannot be run in the root filesystem: {why}");
    Some(Problem::new("/process/args/0", message))
}
