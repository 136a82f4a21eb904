//! `restore`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};

use super::Global;
use super::checkpoint::{check_cgroups_mode, note_of_cgroups_mode, own_map};
use super::create::{self, Common};
use super::io::Io;
use crate::checkpoint::criu::Criu;
use crate::checkpoint::image::{self, Manifest, Opened};
use crate::checkpoint::outside::outside;
use crate::checkpoint::preflight::fit::{files_fit, limits_fit, maps_fit, shared_map};
use crate::checkpoint::preflight::{caller_in, covered};
use crate::checkpoint::rpc::Opts;
use crate::checkpoint::saved::{self, Program, SAVED, Saved};
use crate::checkpoint::{self, CRIU_CONFIG};
use crate::error::{Doing, Error, Result};
use crate::log::Log;
use crate::plan::idmap::maps_id;
use crate::plan::{Note, Plan, notify};
use crate::spawn::{Restoring, joined_flags, new_flags};
use crate::state::check_id;
use crate::sys;

/// Restore a container from a checkpoint
///
/// Its processes go on where `checkpoint` has stopped them, in new namespaces and a new control group, which are made from the
/// bundle's config as `run` makes them: resources, hooks, the host name and the sources of bind mounts are what it says now. What
/// is part of the processes stays as it was, with a note where the config says otherwise. Needs CRIU 4.0 or newer.
///
/// Options that the checkpoint was made with need not be given again. Of the hooks, prestart, createRuntime and poststart are run.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_long_help = "\
Examples:
  lodger checkpoint --image-path ck web && lodger restore -d --image-path ck web
  lodger restore --image-path ck -b /srv/web web2   under another id, with another bundle

Exit status:
  with --detach, 0; else that of the container's first process, 128 + n when signal n ended it
  1  also when the container could not be restored, and nothing of it is left"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct Args {
    /// The directory that `checkpoint` has written
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: PathBuf,
    /// Where CRIU's log goes, restore.log [default: to the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// The bundle [default: the working directory if there is a config.json in it, else that of the checkpoint]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Return once the container runs
    #[arg(short, long)]
    detach: bool,
    /// Write the pid of the container's first process to FILE
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Hand the first end of the terminal over to the socket at PATH
    ///
    /// For a container with a terminal, with --detach; as for `run`.
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Accepted for runc's callers: CRIU changes the root by itself
    #[arg(long)]
    no_pivot: bool,
    /// Accepted for runc's callers: lodger never makes itself a subreaper
    #[arg(long)]
    no_subreaper: bool,
    /// Restore established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Restore TCP connections closed
    #[arg(long, conflicts_with = "tcp_established")]
    tcp_close: bool,
    /// Allow unix sockets whose other end is outside of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a terminal that is the caller's
    #[arg(long)]
    shell_job: bool,
    /// Restore file locks
    #[arg(long)]
    file_locks: bool,
    /// How control groups are restored: `ignore`, as the config's are made; `soft`, runc's default, is the same with a note
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<String>,
    /// Namespaces to restore empty: `network` alone, which always is one that the config describes
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<String>,
    /// Give the processes this label of a security module in place of theirs: apparmor:NAME or selinux:CONTEXT
    #[arg(long, value_name = "LABEL")]
    lsm_profile: Option<String>,
    /// Mount with this SELinux context in place of that in the images
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// Refused: it would change the images, which are verified
    #[arg(long, hide = true)]
    auto_dedup: bool,
    /// Refused: userfaultfd(2) and a server of pages take privilege
    #[arg(long, hide = true)]
    lazy_pages: bool,
    /// CRIU's program [default: criu in PATH]
    #[arg(long, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// How long CRIU may do nothing that can be seen before it is ended
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::duration::positive)]
    timeout: std::time::Duration,
    /// Restore processes with lower limits (setrlimit(2)) than they had, where yours are lower
    #[arg(long)]
    allow_lower_rlimits: bool,
    /// The id of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what `restore` asks.
pub(crate) fn restore(global: &Global, args: Args, log: &Log) -> Result<u8> {
    let what = || format!("cannot restore container {:?}", args.id);
    check_id(&args.id)?;
    args.refuse().map_err(|e| e.within(what()))?;
    let restore = args.prepare(global).map_err(|e| e.within(what()))?;
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None if Path::new("config.json").exists() => PathBuf::from("."),
        None => restore.opened.manifest.bundle.clone(),
    };
    let io = Io::new(args.console_socket, args.pid_file);
    let common = Common::of_restore(args.id, bundle, io, restore);
    match args.detach {
        true => create::detached(global, &common, log),
        false => create::foreground(global, &common, (false, None), log),
    }
}

/// What a container is restored from.
#[derive(Debug)]
pub(super) struct Restore {
    criu: Criu,
    opened: Opened,
    work: OwnedFd,
    work_path: PathBuf,
    opts: Opts,
    patience: std::time::Duration,
    allow_lower_rlimits: bool,
    /// What is told of its options.
    note: Option<Note>,
    /// The caller's uid and gid, which in the outer user namespace may be nobody's.
    caller: (u32, u32),
}

impl Args {
    /// What cannot be had.
    fn refuse(&self) -> Result<()> {
        let refused = |option: &str, why: &str, hint: &str| {
            Err(Error::new(format!("cannot do what {option} asks for"))
                .because(why)
                .hint(hint))
        };
        check_cgroups_mode(self.manage_cgroups_mode.as_deref())?;
        if let Some(kind) = self.empty_ns.iter().find(|kind| *kind != "network") {
            return refused(
                &format!("--empty-ns {kind}"),
                "only a network namespace can be restored empty",
                "leave it out, or give \"network\"",
            );
        }
        if self.auto_dedup {
            return refused(
                "--auto-dedup",
                "it would punch holes into the images, which are verified, and may be restored once more",
                "leave it out",
            );
        }
        if self.lazy_pages {
            return refused(
                "--lazy-pages",
                "pages are given later by userfaultfd(2), which handles faults of the kernel only with privilege, and by a server",
                "leave it out: all pages are restored at once",
            );
        }
        Ok(())
    }

    fn prepare(&self, global: &Global) -> Result<Restore> {
        let criu = Criu::find(self.criu.as_deref().or(global.criu()))?;
        let opened = image::read(&self.image_path)?;
        let work_path = self.work_path.as_ref().unwrap_or(&self.image_path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let work = rustix::fs::openat(CWD, work_path, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{work_path:?}, O_DIRECTORY"), e))
            .doing(|| "cannot open the directory for CRIU's log".to_owned())?;
        let had = opened.manifest.options;
        let on = |option: bool| option.then_some(true);
        let opts = Opts {
            tcp_established: on((had.tcp_established || self.tcp_established) && !self.tcp_close),
            tcp_close: on(self.tcp_close),
            ext_unix_sk: on(had.ext_unix_sk || self.ext_unix_sk),
            shell_job: on(had.shell_job || self.shell_job),
            file_locks: on(had.file_locks || self.file_locks),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            ..Opts::default()
        };
        Ok(Restore {
            criu,
            opened,
            work,
            work_path: work_path.clone(),
            opts,
            patience: self.timeout,
            allow_lower_rlimits: self.allow_lower_rlimits,
            note: note_of_cgroups_mode(self.manage_cgroups_mode.as_deref()),
            caller: (sys::cred::uid(), sys::cred::gid()),
        })
    }
}

impl Restore {
    /// Whether its program had a socket to tell of itself on (NOTIFY_SOCKET).
    pub(super) fn tells_of_itself(&self) -> bool {
        let externals = &self.opened.manifest.externals;
        externals.iter().any(|mount| mount.key == notify::DIRECTORY)
    }

    /// Whether the images and `plan` fit each other; adds notes to it. What is restored.
    pub(super) fn fit(
        &self,
        global: &Global,
        plan: &mut Plan,
        config: &[u8],
    ) -> Result<Restoring<'_>> {
        let manifest = &self.opened.manifest;
        if global
            .fake_root()
            .is_some_and(|asked| asked != manifest.fake_root)
        {
            return Err(Error::new("cannot do what --fake-root asks for")
                .because("the processes have what the container was made with, and that is another")
                .hint("do without --fake-root"));
        }
        if global.fake_root().is_none() {
            plan.set_fake_root(manifest.fake_root);
        }
        self.fit_namespaces(plan)?;
        if plan.process.terminal.is_some() != manifest.terminal {
            let (had, has) = match manifest.terminal {
                true => ("the container had a terminal", "false"),
                false => ("the container had no terminal", "true"),
            };
            return Err(unfit(format!("/process/terminal is {has}, and {had}")));
        }
        fit_ids(plan, manifest, self.caller)?;
        let outside = outside(plan, &manifest.externals)?;
        let cannot = Error::new("the container cannot be restored");
        covered(&manifest.externals, cannot)?;
        self.fit_limits(plan)?;
        self.add_notes(plan);
        let now = serde_json::from_slice(config)
            .map_err(|e| Error::new("cannot compare config.json with the images").because(e))?;
        plan.notes
            .extend(image::differences(&manifest.config, &now));
        let (filters, filter_flags) = self.filters()?;
        global.allow(&plan.notes)?;
        let config = plan.annotations.get(CRIU_CONFIG);
        let config = config.map(|path| criu_config(path));
        Ok(Restoring {
            criu: &self.criu,
            images: self.opened.directory.as_fd(),
            work: self.work.as_fd(),
            work_path: &self.work_path,
            manifest,
            outside,
            filters,
            filter_flags,
            config: config.transpose()?,
            opts: self.opts.clone(),
            patience: self.patience,
        })
    }

    /// The filters that the processes are under, in the order in which they were loaded, and the flags of each.
    fn filters(&self) -> Result<(Vec<Program>, Vec<u64>)> {
        let opened = &self.opened;
        if opened.manifest.filters == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let what = || format!("cannot read {SAVED:?} of the images");
        let path = Path::new(SAVED);
        let limit = saved::LARGEST;
        let bytes = sys::path::read_regular_beneath(&opened.directory, path, limit).doing(what)?;
        let damaged = || Error::new(what()).because("it is damaged");
        let (saved, filters) = Saved::decode(&bytes).ok_or_else(damaged)?;
        Ok((filters, saved.filter_flags))
    }

    fn fit_namespaces(&self, plan: &Plan) -> Result<()> {
        let manifest = &self.opened.manifest;
        let list = |flags| match flags {
            0 => "none".to_owned(),
            flags => sys::ns::describe(flags),
        };
        let (had, has) = (manifest.namespaces, new_flags(plan));
        if had != has {
            return Err(unfit(format!(
                "/linux/namespaces: the container had of its own {}, and the config asks for {}",
                list(had),
                list(has)
            )));
        }
        let (had, has) = (manifest.joined, joined_flags(plan));
        if had != has {
            return Err(unfit(format!(
                "/linux/namespaces: the container had joined {}, and the config joins {} (\"path\")",
                list(had),
                list(has)
            )));
        }
        Ok(())
    }

    /// CRIU passes over a limit that it cannot give back.
    fn fit_limits(&self, plan: &mut Plan) -> Result<()> {
        files_fit()?;
        let lower = limits_fit(&self.opened.manifest.limits)?;
        let remedy = "raise your limits (ulimit -H, limits.conf(5))";
        if let (Some(_), false) = (lower.first(), self.allow_lower_rlimits) {
            let error = Error::new("limits of the container's processes cannot be given back");
            let error = lower.into_iter().fold(error, Error::because);
            return Err(error.hint(format!("{remedy}, or give --allow-lower-rlimits")));
        }
        let notes = lower.into_iter();
        let notes = notes.map(|why| Note::new("/process/rlimits", why, remedy));
        plan.notes.extend(notes);
        Ok(())
    }

    fn add_notes(&self, plan: &mut Plan) {
        let hooks = &plan.hooks;
        let made = [
            ("/hooks/createContainer", &hooks.create_container),
            ("/hooks/startContainer", &hooks.start_container),
        ];
        let mut notes = Vec::new();
        for (property, _) in made.iter().filter(|(_, hooks)| !hooks.is_empty()) {
            notes.push(Note::new(
                property,
                "these hooks are not run: the container's mounts and processes are what is in the images",
                "have prestart, createRuntime or poststart hooks do what a restored container needs",
            ));
        }
        notes.extend(checkpoint::note_of_config(&plan.annotations));
        notes.extend(self.note.clone());
        let others = self.opened.manifest.streams.iter().filter(|s| s.number > 2);
        for stream in others {
            notes.push(Note::new(
                "/process",
                format!(
                    "fd {}, a file of the caller's, is /dev/null now",
                    stream.number
                ),
                "only the standard streams are passed on to a container that is restored",
            ));
        }
        plan.notes.extend(notes);
    }
}

/// Whether the ids of the new container hold those that the old one had.
fn fit_ids(plan: &Plan, manifest: &Manifest, (uid, gid): (u32, u32)) -> Result<()> {
    let shared;
    let (uid_map, gid_map) = match plan.user_namespace.maps() {
        Some(maps) => maps,
        // It is in the caller's user namespace.
        None => {
            shared = [own_map("uid_map")?, own_map("gid_map")?].map(|map| shared_map(&map));
            (&*shared[0], &*shared[1])
        }
    };
    maps_fit("uid", &manifest.uid_map, uid_map)?;
    maps_fit("gid", &manifest.gid_map, gid_map)?;
    if plan.user_namespace.maps().is_some() {
        caller_in(uid_map, gid_map, uid, gid)?;
    }
    if maps_id(uid_map, 0) && maps_id(gid_map, 0) {
        return Ok(());
    }
    Err(Error::new("CRIU needs the ids 0 in the container")
        .because("/linux/uidMappings or gidMappings do not map them"))
}

/// CRIU's configuration file, read with the caller's rights: CRIU itself has the container's.
fn criu_config(path: &str) -> Result<OwnedFd> {
    /// Far more than all of its options.
    const LONGEST: usize = 1 << 20;
    let what = || format!("cannot read CRIU's configuration file (/annotations/{CRIU_CONFIG})");
    let content = sys::path::read_regular(Path::new(path), LONGEST).doing(what)?;
    let copy = rustix::fs::memfd_create("criu.conf", MemfdFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("memfd_create", "\"criu.conf\"", e))
        .doing(what)?;
    let written = copy
        .try_clone()
        .map_err(|e| Error::new(what()).because(e))?;
    sys::path::write_all(written, &content, Path::new(path)).doing(what)?;
    Ok(copy)
}

fn unfit(why: String) -> Error {
    Error::new("the config does not fit the images")
        .because(why)
        .hint("restore with the bundle that the container was made from (--bundle)")
}
