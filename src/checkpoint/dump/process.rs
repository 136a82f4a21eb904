//! The second process: looks at the container, supervises CRIU, and commits the images.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::attributes;
use super::super::criu::last_error;
use super::super::image::{
    Draft, Follower, Ids, LOG, Manifest, PARENT, VERSION, clear_death_signal, free_streams,
    machine, translate,
};
use super::super::inspect::{Inspection, processes};
use super::super::lack;
use super::super::preflight;
use super::super::rpc::{self, Opts, Swrk};
use super::super::saved::SAVED;
use super::super::supervisor::Supervisor;
use super::ids;
use super::program::{self, Becoming};
use super::pulse::Pulse;
use super::watch::{Ended, Watch};
use super::{Asked, Subject};
use crate::error::{Doing, Error, Result, printable};
use crate::spawn::WholeFile;
use crate::spawn::line::{self, Failure, InitEnd, Report};
use crate::state::once_visible;
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::ns::flag;
use crate::sys::process::{Child, Cloned};

/// All of it (criu(8), `-v4`): what fails is looked for in there.
const LOG_LEVEL: i32 = 4;

/// The largest deleted file that goes into the images, in bytes: CRIU's own limit, 1 MiB, is less than many a temporary file.
const GHOST_LIMIT: u32 = 1 << 30;

/// The most that is read of a log.
const MAX_LOG: usize = 64 << 20;

/// Dumps, tells how it went, and ends.
pub(super) fn run(what: (&Subject<'_>, &Asked), draft: Draft, line: InitEnd, pulse: &Pulse) -> ! {
    let done = dump(what, draft, &line, pulse);
    let report = match &done {
        Ok(()) => Report::Ready,
        Err(error) => Report::Failed(Failure::of(error)),
    };
    let _nobody_to_tell = line.send(&report);
    sys::process::exit_now(i32::from(done.is_err()))
}

/// A dump that has been begun.
pub(super) struct Begun<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) asked: &'a Asked,
    pub(super) found: &'a Inspection,
    pub(super) draft: &'a mut Draft,
    /// Until they are committed.
    follower: Option<Follower>,
    /// Whether they are.
    is_whole: bool,
    /// Moved as long as this process does.
    pub(super) pulse: &'a Pulse,
}

/// CRIU, at work.
struct Started {
    found: Inspection,
    swrk: Swrk,
    supervisor: Supervisor,
    child: Child,
    /// What it says before it has a log.
    complaints: OwnedFd,
    follower: Follower,
}

fn dump(
    (subject, asked): (&Subject<'_>, &Asked),
    mut draft: Draft,
    line: &InitEnd,
    pulse: &Pulse,
) -> Result<()> {
    let started = match start((subject, asked), &draft, line) {
        Ok(started) => started,
        Err(error) => {
            let error = lack::explain(error, &asked.images, None);
            return Err(error.after(draft.abandon()));
        }
    };
    let mut begun = Begun {
        subject,
        asked,
        found: &started.found,
        follower: Some(started.follower),
        draft: &mut draft,
        is_whole: false,
        pulse,
    };
    let (supervisor, swrk) = (started.supervisor, started.swrk);
    let ended = Watch::new(&mut begun, supervisor, swrk, &started.child, line).run()?;
    let is_whole = begun.is_whole;
    if let Some(follower) = begun.follower {
        follower.stop();
    }
    conclude(is_whole, draft, asked, ended, &started.complaints)
}

/// Looks at the container, and lets CRIU begin.
fn start(
    (subject, asked): (&Subject<'_>, &Asked),
    draft: &Draft,
    line: &InitEnd,
) -> Result<Started> {
    // What the terminal's keys send is for who waits.
    sys::cred::new_session().doing(|| "cannot begin a session".to_owned())?;
    if asked.extent.is_memory() {
        sys::process::adopt_orphans().doing(|| "cannot adopt what CRIU may leave".to_owned())?;
    }
    preflight::caller_is_known(subject.record, sys::cred::uid(), sys::cred::gid())?;
    let init = enter(subject)?;
    let found = preflight::check(subject.record, Some(&subject.saved), &subject.filters)?;
    let lost = match asked.extent.is_memory() {
        true => Vec::new(),
        false => preflight::lost::notes(&found.processes, &subject.config),
    };
    for note in lost {
        line.send(&Report::Note(note))
            .doing(|| "cannot tell who waits".to_owned())?;
    }
    let what = || "cannot prepare to run CRIU".to_owned();
    let (swrk, socket) = Swrk::pair()?;
    let complaints = rustix::fs::memfd_create("criu", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| sys::Error::new("memfd_create", "\"criu\"", e))
        .doing(what)?;
    let (listening, theirs) = line::pair().doing(what)?;
    let images = draft.new_path();
    let child = match sys::process::clone(0).doing(what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => Becoming {
            criu: &asked.criu,
            record: subject.record,
            init: init.as_fd(),
            images: (&images, draft.new_files()),
            socket,
            complaints: complaints.as_fd(),
            line: theirs,
        }
        .run(),
    };
    drop((socket, theirs));
    let listener = match listening.receive() {
        Ok(Some((Report::Listener, Some(listener)))) => listener,
        Ok(Some((Report::Failed(failure), _))) => return Err(crate::spawn::reported(failure)),
        other => {
            let end = sys::process::wait(&child).map(|exit| exit.to_string());
            return Err(Error::new("CRIU could not be run").because(format!("{other:?}, {end:?}")));
        }
    };
    let begin = || -> Result<_> {
        let (first, flags) = (subject.record.process.pid, &subject.saved.filter_flags);
        let supervisor = Supervisor::new(listener, first, &subject.filters, flags)?;
        let follower = Follower::begin(draft.new_files())?;
        let kind = match asked.extent.is_memory() {
            true => rpc::Kind::SinglePreDump,
            false => rpc::Kind::Dump,
        };
        swrk.ask(kind, opts(subject, asked, &found))?;
        Ok((supervisor, follower))
    };
    let (supervisor, follower) = begin().inspect_err(|_| end(&child))?;
    Ok(Started {
        found,
        swrk,
        supervisor,
        child,
        complaints,
        follower,
    })
}

/// Ends CRIU, which has not been asked anything: it must not outlive this process.
fn end(criu: &Child) {
    let ended = sys::process::send_signal_to(criu, nix::libc::SIGKILL);
    let ended = ended.and_then(|()| sys::process::wait(criu));
    tracing::debug!("CRIU is ended: {ended:?}");
}

/// Joins the container's user namespace: in there this process has every capability over the container, and none over anything
/// else of the caller's. One that is the caller's own, who is root of it as an engine is, need not be joined. Returns the pidfd of
/// the container's first process.
fn enter(subject: &Subject<'_>) -> Result<OwnedFd> {
    let record = subject.record;
    let what = || "cannot join the container's user namespace".to_owned();
    let stopped = || Error::new("container not running").because("its first process has ended");
    let init = record.process.open(&record.boot_id)?.ok_or_else(stopped)?;
    let pid = record.process.pid;
    let path = format!("/proc/{pid}/ns/user");
    let open = || sys::path::open_magic(Path::new(&path));
    let namespace = once_visible(pid, &init, open).doing(what)?;
    if record.namespaces & flag::USER == 0 {
        ids::same_namespace(namespace.as_fd())?;
    }
    // Processes in there must not look into this one (CVE-2016-9962).
    sys::cred::set_dumpable(!is_on(Defence::NotDumpable)).doing(what)?;
    let own = record.namespaces & flag::USER;
    match record.joined & preflight::REJOINED {
        0 if own == 0 => {}
        0 => sys::ns::join_user(namespace.as_fd()).doing(what)?,
        // They belong to others: from in there they could not be joined any more.
        others => sys::ns::join_process(init.as_fd(), own | others)
            .doing(|| "cannot join the container's namespaces".to_owned())?,
    }
    Ok(init)
}

fn opts(subject: &Subject<'_>, asked: &Asked, found: &Inspection) -> Opts {
    let mounts = found
        .externals
        .iter()
        .map(|mount| format!("mnt[{}]:{}", mount.mountpoint.display(), mount.criu_key()));
    // Pipes are dumped as what they are: it is at the restore that another takes their place.
    let files = found.streams.iter().map(|file| file.key.clone());
    let files = files.filter(|key| !key.starts_with("pipe:"));
    let frozen = subject.record.cgroup.as_ref().filter(|_| subject.paused);
    let on = |option: bool| option.then_some(true);
    let options = asked.options;
    Opts {
        images_dir_fd: -1,
        images_dir: Some(program::images().display().to_string()),
        pid: Some(subject.record.process.pid),
        leave_running: on(asked.leave_running),
        ext_unix_sk: on(options.ext_unix_sk),
        tcp_established: on(options.tcp_established),
        shell_job: on(options.shell_job),
        file_locks: on(options.file_locks),
        log_level: Some(LOG_LEVEL),
        log_file: Some(LOG.to_owned()),
        notify_scripts: Some(true),
        parent_img: asked.extent.parent().map(|_| PARENT.to_owned()),
        track_mem: on(asked.extent.is_tracked()),
        link_remap: on(asked.link_remap),
        ghost_limit: Some(GHOST_LIMIT),
        force_irmap: on(found.watches),
        irmap_scan_paths: found.watched_places(),
        manage_cgroups_mode: Some(rpc::CGROUPS_IGNORE),
        external: mounts.chain(files).collect(),
        freeze_cgroup: frozen.map(|cgroup| format!("/sys/fs/cgroup{}", cgroup.top)),
        tcp_skip_in_flight: on(asked.tcp_skip_in_flight),
        orphan_pts_master: on(found.terminal),
        config_file: asked.config_file.clone(),
        network_lock: Some(rpc::NETWORK_LOCK_SKIP),
        unprivileged: Some(true),
        ..Opts::default()
    }
}

impl Begun<'_> {
    /// All images are written, and the container stands still: makes a whole checkpoint of them.
    pub(super) fn commit(&mut self) -> Result<()> {
        self.pulse.begin_work();
        let follower = self.follower.take();
        let follower = follower.ok_or_else(|| Error::new("the images were committed already"))?;
        let new = self.draft.new_files();
        let [uids, gids] = ids::initial(self.subject.record, &self.asked.own_maps)?;
        let ids = Ids {
            uids: &uids,
            gids: &gids,
        };
        if !self.asked.extent.is_memory() {
            translate(new, ids)?;
            clear_death_signal(new)?;
            free_streams(new)?;
            self.keep_saved()?;
        }
        if let Some(changes) = &self.asked.changes {
            rustix::fs::syncfs(changes)
                .map_err(|e| sys::Error::new("syncfs", "the container's changes", e))
                .doing(|| "cannot bring the container's changes to the disk".to_owned())?;
        }
        let files = follower.finish()?;
        let manifest = self.manifest()?;
        self.draft.commit(manifest, files, self.asked.to_disk)?;
        self.is_whole = true;
        if let Some(fd) = &self.asked.status_fd {
            sys::path::write_once(fd, b"\0", Path::new("status-fd"))
                .doing(|| "cannot write to --status-fd".to_owned())?;
        }
        Ok(())
    }

    /// How it was made goes along: for a checkpoint of what is restored.
    fn keep_saved(&self) -> Result<()> {
        let what = || "cannot keep how the container was made".to_owned();
        let content = self.subject.saved.encode(&self.subject.filters)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(self.draft.new_files(), SAVED, flags, mode)
            .map_err(|e| sys::Error::new("openat", format!("{SAVED:?}, O_CREAT|O_EXCL"), e))
            .doing(what)?;
        sys::path::write_all(file, &content, Path::new(SAVED)).doing(what)
    }

    /// All but the files.
    fn manifest(&self) -> Result<Manifest> {
        let (subject, found) = (self.subject, self.found);
        let record = subject.record;
        // Who they are by now, too.
        let processes = processes::tree(record.process.pid)?;
        let user = record.user_namespace.as_ref();
        let [uid_map, gid_map] = ids::recorded(record, &self.asked.own_maps);
        Ok(Manifest {
            version: VERSION,
            runtime: concat!("lodger ", env!("CARGO_PKG_VERSION")).to_owned(),
            criu: self.asked.criu.version(),
            machine: machine(),
            id: subject.id.to_owned(),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            bundle: record.bundle.clone(),
            paused: subject.paused,
            uid_map,
            gid_map,
            setgroups: user.is_some_and(|own| own.setgroups),
            namespaces: record.own_namespaces(),
            joined: record.joined,
            terminal: found.terminal,
            externals: found.externals.clone(),
            streams: found.streams.clone(),
            mounts: found.mounts.clone(),
            limits: found.limits.clone(),
            filters: found.filters,
            fake_root: record.fake_root,
            attributes: attributes::of(&processes),
            pre_dump: self.asked.extent.is_memory(),
            parent: self.asked.extent.parent().cloned(),
            options: self.asked.options,
            config: subject.config.clone(),
            files: BTreeMap::new(),
        })
    }

    /// How much is written so far, in bytes.
    pub(super) fn volume(&self) -> u64 {
        let new = self.draft.new_files();
        let names = sys::path::names(new).unwrap_or_default();
        let sizes = names.iter().filter_map(|name| {
            let stat = rustix::fs::statat(new, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            u64::try_from(stat.st_size).ok()
        });
        sizes.sum()
    }
}

/// After CRIU's end: what is left is put in order, and why it failed is found out.
fn conclude(
    is_whole: bool,
    draft: Draft,
    asked: &Asked,
    ended: Ended,
    complaints: &OwnedFd,
) -> Result<()> {
    let log = sys::path::read_regular_beneath(draft.new_files(), Path::new(LOG), MAX_LOG);
    let is_logged = log.is_ok();
    let done = ended.done;
    // While what fills the disk is still there.
    let failed = (!is_whole).then(|| {
        let said = log.unwrap_or_default();
        let error = why(ended, &said, complaints);
        // What it said before it had a log.
        let said = [read_complaints(complaints).into_bytes(), said].concat();
        lack::explain(error, &asked.images, Some((&said, draft.new_files())))
    });
    let tidied = match is_whole {
        true => draft.finish(),
        false => draft.abandon(),
    };
    let log_path = place_log(asked, is_logged);
    // What CRIU did after it was whole is no failure: whoever asked ends the container herself, or lets it go on.
    let Some(error) = failed else {
        tracing::debug!(done, "the checkpoint is whole");
        if let Err(left) = log_path {
            tracing::debug!("{}", left.message());
        }
        return tidied;
    };
    let error = match log_path {
        Ok(Some(path)) => error.hint(format!("full log: {}", path.display())),
        Ok(None) => error,
        Err(left) => error.hint(left.message()),
    };
    Err(error.after(tidied))
}

/// One error for the reader: what this side knows comes first, what CRIU says next.
fn why(ended: Ended, log: &[u8], complaints: &OwnedFd) -> Error {
    let said = last_error(log).or_else(|| complaint(complaints));
    let criu = match &said {
        Some(said) => Error::new(format!("criu failed: {said}")),
        None => Error::new("criu failed").because(ended.exit),
    };
    match (ended.why, ended.complaint) {
        (Some(why), _) => why.because(criu.message()),
        (None, Some(complaint)) => Error::new(complaint).because(criu.message()),
        (None, None) => criu,
    }
}

/// What CRIU, or what runs it, said before it had a log.
fn complaint(complaints: &OwnedFd) -> Option<String> {
    let text = read_complaints(complaints);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(printable(line.trim()))
}

fn read_complaints(complaints: &OwnedFd) -> String {
    let read = || {
        let again = complaints.try_clone().ok()?;
        rustix::fs::seek(&again, rustix::fs::SeekFrom::Start(0)).ok()?;
        sys::path::read_limited(again, Path::new("criu"), MAX_LOG).ok()
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Moves the log from the images to where it was asked for; where it is now, if there is one.
fn place_log(asked: &Asked, is_there: bool) -> Result<Option<PathBuf>> {
    let own = asked.images.join(LOG);
    let Some(work) = asked.work.as_ref().filter(|_| is_there) else {
        return Ok(is_there.then_some(own));
    };
    let place = work.join(LOG);
    let what = || format!("cannot move CRIU's log to {place:?}");
    match rustix::fs::rename(&own, &place) {
        Ok(()) => return Ok(Some(place)),
        Err(Errno::XDEV) => {}
        Err(e) => {
            return Err(sys::Error::new("rename", format!("{own:?}, {place:?}"), e)).doing(what);
        }
    }
    let log = sys::path::read_regular(&own, MAX_LOG).doing(what)?;
    WholeFile::prepare("log", &place)?.write(&String::from_utf8_lossy(&log))?;
    let unlinked = rustix::fs::unlink(&own);
    unlinked
        .map_err(|e| sys::Error::new("unlink", format!("{own:?}"), e))
        .doing(what)?;
    Ok(Some(place))
}
