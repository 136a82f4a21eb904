//! `checkpoint`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

use super::iterative::Iterative;
use super::{Global, duration};
use crate::checkpoint::criu::Criu;
use crate::checkpoint::dump::{self, Asked, Subject};
use crate::checkpoint::image::{Draft, MANIFEST, Options};
use crate::checkpoint::lack;
use crate::checkpoint::saved::Saved;
use crate::checkpoint::{self, CRIU_CONFIG, tracked};
use crate::error::{Doing, Error, Result};
use crate::host::{MapLine, parse_id_map};
use crate::image::containers;
use crate::log::Log;
use crate::plan::Note;
use crate::spawn::Poststop;
use crate::state::{Entry, ImageUse, Record, Status, Store};
use crate::sys;

/// How long CRIU may do nothing.
const PATIENCE: &str = "60s";

/// Save the state of a running container's processes to files, and end it
///
/// CRIU 4.0 or newer does the work, without privilege. Until the images are whole the container is there as before, whatever fails
/// or is killed; then it is removed as by `delete`, unless --leave-running. What it has on disk stays where it is: with
/// `restore` it goes on from there. Under a system call filter that forbids vmsplice(2), as engines' default one does, the container
/// must have been made with the annotation dev.lodger.checkpointable=true.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_long_help = "\
Examples:
  lodger checkpoint --image-path ck web && lodger restore -d --image-path ck -b web web
  lodger checkpoint --leave-running --image-path ck1 web   it goes on; ck1 is how it was
  lodger checkpoint --pre-dump --image-path ck0 web && lodger checkpoint --parent-path ../ck0 --image-path ck web

Exit status:
  0  the images are whole (with --pre-dump: of its memory)
  1  they are not; the container goes on as before, and the error says why"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct Args {
    /// Where the images go: a directory, which is made
    ///
    /// An earlier checkpoint in there is replaced once the new one is whole.
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: PathBuf,
    /// Where CRIU's log goes (dump.log); to the images if not given
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    leave_running: bool,
    /// End the container only when the images have reached the disk, and what it has changed of its image
    #[arg(long)]
    sync: bool,
    /// With established TCP connections: they go on where the other end is in the container
    #[arg(long)]
    tcp_established: bool,
    /// Leave TCP connections out that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// With unix sockets whose other end is outside of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// With a terminal that is the caller's
    #[arg(long)]
    shell_job: bool,
    /// With file locks
    #[arg(long)]
    file_locks: bool,
    /// Link deleted files that have another name, instead of copying them
    #[arg(long)]
    link_remap: bool,
    /// Who sees to the control groups: `ignore`, as the config's are made; `soft`, runc's default, is the same with a note
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<String>,
    /// How connections are locked meanwhile; only `skip` is possible
    #[arg(long, value_name = "METHOD")]
    network_lock: Option<String>,
    /// Namespaces of which nothing is saved: `network`, of which nothing but sockets ever is
    #[arg(long, value_name = "KIND")]
    empty_ns: Vec<EmptyNs>,
    /// Write a zero byte to file descriptor N once the images are whole
    #[arg(long, value_name = "N")]
    status_fd: Option<i32>,
    /// The CRIU to use; otherwise the one in PATH
    #[arg(long, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// How long CRIU may do nothing that can be seen before it is ended
    #[arg(long, value_name = "DURATION", default_value = PATIENCE, value_parser = duration::positive)]
    timeout: Duration,
    #[command(flatten)]
    iterative: Iterative,
    #[command(flatten)]
    refused: Refused,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// Namespaces whose content runc can leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EmptyNs {
    /// The network namespace.
    Network,
}

/// Options of runc's that cannot be had.
#[derive(Debug, clap::Args)]
struct Refused {
    /// Refused: take out of earlier images what is in later ones
    #[arg(long, hide = true)]
    auto_dedup: bool,
    /// Refused: serve memory when it is asked for
    #[arg(long, hide = true)]
    lazy_pages: bool,
    /// Refused: send memory to a server
    #[arg(long, value_name = "ADDRESS:PORT", hide = true)]
    page_server: Option<String>,
}

impl Refused {
    fn check(&self) -> Result<()> {
        let holes = "it punches holes into the images of earlier dumps, whose digests would not be right any more; their files are \
                     shared, and take no room twice";
        let remote = "the pages would be served by a process that stays behind with the container's memory; without CAP_SYS_PTRACE \
                      on the host nobody may fill them in (userfaultfd(2), vm.unprivileged_userfaultfd)";
        let options = [
            (self.auto_dedup, "--auto-dedup", holes),
            (self.lazy_pages, "--lazy-pages", remote),
            (self.page_server.is_some(), "--page-server", remote),
        ];
        match options.into_iter().find(|(given, ..)| *given) {
            None => Ok(()),
            Some((_, option, why)) => Err(Error::new(format!("{option} cannot be had"))
                .because(why)
                .hint(format!("leave {option} out"))),
        }
    }
}

/// Refuses modes of `--manage-cgroups-mode` that are not lodger's. `soft` is runc's default, which callers write out: for a control
/// group that is there before CRIU comes it asks for nothing, and lodger makes the container's itself.
pub(super) fn check_cgroups_mode(mode: Option<&str>) -> Result<()> {
    match mode {
        None | Some("ignore" | "soft") => Ok(()),
        Some(mode @ ("full" | "strict" | "props" | "none")) => {
            Err(Error::new(format!("--manage-cgroups-mode {mode} cannot be had"))
                .because("CRIU would need the host's control groups; lodger makes the container's itself, as its config says")
                .hint("give `ignore`, or leave the option out"))
        }
        Some(mode) => Err(Error::new(format!("Invalid manage-cgroups-mode value {mode:?}"))
            .hint("give `ignore`, or leave the option out")),
    }
}

/// What is told of the mode `soft`.
pub(super) fn note_of_cgroups_mode(mode: Option<&str>) -> Option<Note> {
    mode.filter(|mode| *mode == "soft").map(|_| {
        Note::new(
            "--manage-cgroups-mode",
            "the container's control group is made from the config; those that the container makes in there are not saved",
            "give `ignore`, or leave the option out",
        )
    })
}

impl Args {
    fn check(&self) -> Result<()> {
        self.refused.check()?;
        check_cgroups_mode(self.manage_cgroups_mode.as_deref())?;
        match self.network_lock.as_deref() {
            None | Some("skip") => Ok(()),
            Some(method) => Err(Error::new(format!("--network-lock {method} cannot be had"))
                .because("rules of a packet filter need tools and rights that an ordinary user's container has not")
                .hint("give `skip`, or leave the option out")),
        }
    }

    /// Whether the container goes on afterwards.
    fn stays(&self) -> bool {
        self.leave_running || self.iterative.pre_dump
    }

    fn options(&self) -> Options {
        Options {
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
        }
    }
}

/// Does what `checkpoint` asks.
pub(crate) fn checkpoint(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let what = |error: Error| {
        let error = error.within(format!("cannot checkpoint container {:?}", args.id));
        // containerd's shim shows the first line of stderr alone, and does not look into the log for this verb.
        match global.log.is_some() {
            true => error.in_one_line(),
            false => error,
        }
    };
    args.check().map_err(what)?;
    let store = Store::open_with(global.root.as_deref(), &args.id).map_err(what)?;
    let store = store.ok_or_else(|| what(Error::new("container does not exist")))?;
    let entry = store.find(&args.id).map_err(what)?;
    entry.lock().map_err(what)?;
    let record = entry.existing_record().map_err(what)?;
    let soft = note_of_cgroups_mode(args.manage_cgroups_mode.as_deref());
    global.allow(soft.as_slice()).map_err(what)?;
    let criu = args.criu.as_deref().or(global.criu());
    let mut notes = dump_to(&entry, &record, (args, criu)).map_err(what)?;
    notes.extend(soft);
    notes.extend(checkpoint::note_of_config(&record.annotations));
    log.notes(&notes);
    if !args.stays() {
        end(&store, &entry, &record, log).map_err(|error| {
            error
                .within(format!(
                    "the checkpoint of container {:?} is whole, but it cannot be removed",
                    args.id
                ))
                .hint(format!("`lodger delete -f {}` removes it", args.id))
        })?;
    }
    Ok(0)
}

fn dump_to(
    entry: &Entry,
    record: &Record,
    (args, criu): (&Args, Option<&Path>),
) -> Result<Vec<Note>> {
    let paused = match entry.status(record) {
        Status::Running => false,
        Status::Paused => true,
        Status::Created => {
            return Err(Error::new("it has not been started")
                .because("there is nothing of it to save: its program does not run yet")
                .hint(format!("`lodger start {}` starts it", args.id)));
        }
        Status::Stopped | Status::Creating => return Err(Error::new("container not running")),
    };
    let status_fd = args.status_fd.map(status_fd).transpose()?;
    let criu = Criu::find(criu)?;
    let Some((saved, filters)) = Saved::read(entry)? else {
        return Err(
            Error::new("it was made by a lodger that could not checkpoint")
                .because("what a checkpoint has to know was not saved when it was made")
                .hint("make it anew with this version"),
        );
    };
    let config = serde_json::from_slice(&entry.config()?)
        .map_err(|error| Error::new("cannot read its config").because(error))?;
    let images = absolute(&args.image_path)?;
    let work = args.work_path.as_deref().map(work_directory).transpose()?;
    args.iterative.check(paused)?;
    let changes = args.sync.then(|| changes_of(record)).transpose()?.flatten();
    let own_maps = [own_map("uid_map")?, own_map("gid_map")?];
    let draft = Draft::open(&images).map_err(|e| lack::explain(e, &images, None))?;
    let extent = match args.iterative.extent(entry, &draft, &images) {
        Ok(extent) => extent,
        Err(error) => {
            let error = lack::explain(error, &images, None);
            return Err(error.after(draft.abandon()));
        }
    };
    let asked = Asked {
        options: args.options(),
        leave_running: args.stays(),
        extent,
        link_remap: args.link_remap,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        patience: args.timeout,
        status_fd,
        criu,
        config_file: record.annotations.get(CRIU_CONFIG).cloned(),
        images,
        work,
        to_disk: args.sync,
        changes,
        own_maps,
    };
    let subject = Subject {
        id: entry.id(),
        record,
        paused,
        saved,
        filters,
        config,
    };
    if !asked.extent.is_tracked() {
        return dump_kept(&subject, &asked, draft);
    }
    tracked::forget(entry)?;
    let notes = dump_kept(&subject, &asked, draft)?;
    if asked.leave_running {
        tracked::begin(entry, &asked.images)?;
    }
    Ok(notes)
}

/// Dumps it; what it has changed of its image stays with its checkpoint.
fn dump_kept(subject: &Subject<'_>, asked: &Asked, draft: Draft) -> Result<Vec<Note>> {
    let changes = subject.record.image.as_ref();
    let changes = changes.filter(|image| !image.keep && !asked.extent.is_memory());
    let changes = changes.map(|image| image.directory.as_path());
    let pinned = changes.map(containers::pin).transpose()? == Some(true);
    match (dump::dump(subject, asked, draft), changes) {
        (Ok(mut notes), Some(changes)) => {
            notes.push(changes_note(changes));
            Ok(notes)
        }
        // Where there is a checkpoint all the same, whoever was killed on the way, it needs them.
        (Err(error), Some(changes)) if pinned && !has_checkpoint(&asked.images) => {
            Err(error.after(containers::unpin(changes)))
        }
        (done, _) => done,
    }
}

fn has_checkpoint(images: &Path) -> bool {
    rustix::fs::statat(CWD, images.join(MANIFEST), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Where the container's image is changed, if it is of one.
fn changes_of(record: &Record) -> Result<Option<OwnedFd>> {
    let open = |image: &ImageUse| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = &image.directory;
        rustix::fs::openat(CWD, place, flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", format!("{place:?}, O_DIRECTORY"), e))
            .doing(|| "cannot open what the container has changed of its image".to_owned())
    };
    record.image.as_ref().map(open).transpose()
}

fn changes_note(directory: &Path) -> Note {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    Note::new(
        "/root",
        format!(
            "the checkpoint needs what the container has changed of its image, which stays in {directory:?}"
        ),
        format!(
            "restore with `-b` that directory; once no checkpoint needs it any more, `lodger image remove --changes {name}`"
        ),
    )
}

/// The directory for CRIU's log, absolute; it is made if it is missing. Looked at before: the container has ended when the log is put
/// there.
fn work_directory(path: &Path) -> Result<PathBuf> {
    let _one_that_is_there_is_looked_at = rustix::fs::mkdir(path, Mode::RWXU);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", format!("{path:?}, O_DIRECTORY"), e))
        .and_then(|_| {
            rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)
                .map_err(|e| sys::Error::new("faccessat2", format!("{path:?}, W_OK|X_OK"), e))
        })
        .doing(|| "cannot put CRIU's log into --work-path".to_owned())
        .map_err(|error| error.hint("give a directory of yours, or leave --work-path out"))?;
    absolute(path)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::new(format!("{path:?}")).because(error))
}

/// A map of this process's user namespace, which is the caller's.
pub(super) fn own_map(name: &str) -> Result<Vec<MapLine>> {
    const LIMIT: usize = 64 << 10;
    let path = format!("/proc/self/{name}");
    let text =
        sys::path::read_regular(Path::new(&path), LIMIT).doing(|| format!("cannot read {path}"))?;
    Ok(parse_id_map(&String::from_utf8_lossy(&text)))
}

/// The caller's file with this number.
fn status_fd(number: i32) -> Result<OwnedFd> {
    sys::fd::duplicate(number)
        .doing(|| format!("--status-fd {number}"))
        .map_err(|e| e.hint("give the number of a file that is open for writing"))
}

/// Removes a container whose processes CRIU has ended, but for what it has on disk.
fn end(store: &Store, entry: &Entry, record: &Record, log: &Log) -> Result<()> {
    let mut notes = Vec::new();
    // Whoever was killed after the images were whole has not ended it.
    super::delete::end(entry, Some(record), true, &mut notes)?;
    super::remnants::remove(store, record)?;
    store.remove(entry)?;
    let poststop = Poststop::of(entry.id(), record)?;
    notes.extend(poststop.map_or_else(Vec::new, |poststop| poststop.run_here()));
    log.notes(&notes);
    Ok(())
}
