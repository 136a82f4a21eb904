//! Instead of a program: CRIU, which makes the container's processes, and their pid, mount and ipc namespaces.
//!
//! Everything else is as for a program, up to the mounts: what they are made of is put where CRIU finds it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::beneath::RootDir;
use super::{Begun, Init, Stage, give_up, mounts, network, protocol, rootfs, scheduling, sysctl};
use super::{die_with_runtime, join_keyring, set_names};
use crate::checkpoint::criu::{Criu, Program};
use crate::checkpoint::image::ExternalFile;
use crate::checkpoint::outside::{Outside, Source};
use crate::checkpoint::rpc::{InheritFd, Kind, Opts, Swrk};
use crate::checkpoint::stage;
use crate::error::{Doing, Error, Result};
use crate::plan::Process;
use crate::spawn::line::{Order, Report};
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// What CRIU is given.
#[derive(Debug)]
pub struct Given<'a> {
    /// Its program.
    pub criu: &'a Criu,
    /// The directory of the images.
    pub images: BorrowedFd<'a>,
    /// The directory of its log.
    pub work: BorrowedFd<'a>,
    /// The log, for what it says before it opens that itself.
    pub log: BorrowedFd<'a>,
    /// Its configuration file, if it is to read one.
    pub config: Option<BorrowedFd<'a>>,
    /// The mounts from outside.
    pub outside: &'a [Outside],
    /// The files from outside.
    pub streams: &'a [ExternalFile],
    /// The execution domain of the container's processes (personality(2)).
    pub personality: u32,
    /// What it is asked; what only this process knows is added.
    pub opts: Opts,
}

/// Files that CRIU gets under the numbers that they have.
#[derive(Default)]
struct Kept {
    files: Vec<OwnedFd>,
}

impl Init<'_> {
    /// Sets up the container and becomes CRIU, which has been asked to restore it.
    pub fn restore(self, given: Given<'_>) -> ! {
        let mut kept = Kept::default();
        let error = match self.prepare_restore(given, &mut kept) {
            Ok(None) => sys::process::exit_now(1),
            Ok(Some(criu)) => match self.line.receive().map_err(protocol) {
                Ok(Some(Order::Exec { .. })) => {
                    self.enter(Stage::Exec);
                    become_criu(&criu)
                }
                Ok(_) => sys::process::exit_now(1),
                Err(error) => error,
            },
            Err(error) => error,
        };
        give_up(&self.line, &error)
    }

    fn prepare_restore(&self, given: Given<'_>, kept: &mut Kept) -> Result<Option<Program>> {
        let mut open = vec![self.line.as_fd(), given.images, given.work, given.log];
        open.extend(given.config);
        let Some(Begun { sources, proc, .. }) = self.begin(&open)? else {
            return Ok(None);
        };
        let plan = self.plan;
        self.enter(Stage::Mounts);
        // CRIU moves mounts, which the kernel refuses beneath a shared one.
        let own = sys::mount::open_path(Path::new("/")).doing(|| "cannot open /".to_owned())?;
        sys::mount::set_attributes(own, true, 0, 0, sys::mount::MS_PRIVATE)
            .doing(|| "cannot leave mount propagation".to_owned())?;
        let root = self.root_tree(&sources)?;
        let outside = given.outside.iter();
        let outside: Vec<_> = outside
            .map(|outside| self.outside_tree(&sources, outside))
            .collect::<Result<_>>()?;
        drop(sources);
        set_names(plan)?;
        network::set_loopback_up(plan)?;
        let of_network = plan.sysctl.iter().filter(|s| s.path.starts_with("net"));
        sysctl::write_all(of_network, &host_root()?)?;
        join_keyring(self.manner, &plan.process, proc.as_ref(), &self.line)?;
        // What is written from here on is written to what CRIU is shown.
        stage::close_host(&["/proc"])?;
        let stage = stage::Stage::make()?;
        let mut opts = given.opts;
        opts.root = Some(text(&stage.show("root", &root)?)?);
        for (number, (outside, tree)) in given.outside.iter().zip(&outside).enumerate() {
            let path = stage.show(&format!("mount-{number}"), tree)?;
            let path = beneath(path, &outside.beneath);
            opts.external
                .push(format!("mnt[{}]:{}", outside.key, text(&path)?));
        }
        if let Some(config) = given.config {
            opts.config_file = Some(format!("/proc/self/fd/{}", kept.keep(config)?));
        }
        self.enter(Stage::Privileges);
        leave_groups(&plan.process)?;
        opts.inherit_fd = streams(given.streams, kept)?;
        opts.images_dir_fd = kept.keep(given.images)?;
        opts.work_dir_fd = Some(kept.keep(given.work)?);
        scheduling::apply_inherited(given.personality, &plan.process.attributes)?;
        let socket = self.ask(opts)?;
        let files: Vec<_> = kept.files.iter().map(AsFd::as_fd).collect();
        let program = given.criu.prepare(socket.as_fd(), given.log, &files)?;
        kept.take(socket);
        self.line
            .send(&Report::Ready)
            .doing(|| "cannot report to the runtime".to_owned())?;
        Ok(Some(program))
    }

    /// The root filesystem, to be shown to CRIU.
    fn root_tree(&self, sources: &rootfs::Sources) -> Result<OwnedFd> {
        let what = || "cannot show CRIU the root filesystem".to_owned();
        let root = rootfs::attach(self.plan, sources)?;
        let tree = sys::mount::clone_tree(root.fd(), true, &self.plan.root.path).doing(what)?;
        if self.plan.root.readonly {
            sys::mount::set_attributes(&tree, false, sys::mount::MOUNT_ATTR_RDONLY, 0, 0)
                .doing(|| "cannot apply /root/readonly".to_owned())?;
        }
        Ok(tree)
    }

    /// What a mount is made of, to be shown to CRIU.
    fn outside_tree(&self, sources: &rootfs::Sources, outside: &Outside) -> Result<OwnedFd> {
        let key = &outside.key;
        let what = || format!("cannot show CRIU what is to be mounted at {key:?}");
        let lost = || Error::new(what()).because("its source was not opened");
        let node = |node: Option<&OwnedFd>| {
            sys::mount::clone_tree(node.ok_or_else(lost)?, false, Path::new(key)).doing(what)
        };
        let mount = match outside.source {
            Source::Device(index) => return node(sources.devices().get(index)),
            Source::Mask => return node(sources.null()),
            Source::Bind(index) => (self.plan.mounts.get(index), sources.of(index)),
        };
        let (Some(mount), source) = mount else {
            return Err(lost());
        };
        let mut notes = Vec::new();
        let tree =
            mounts::outside(mount, source, &mut notes).map_err(|error| error.within(what()))?;
        for note in notes {
            self.line.send(&Report::Note(note)).doing(what)?;
        }
        Ok(tree)
    }

    /// Makes the line to CRIU, and asks it. It is made here as CRIU takes the numbers of directories for those of the process
    /// that has made the line, and that must be one whose files it may see: itself.
    fn ask(&self, opts: Opts) -> Result<OwnedFd> {
        let (line, criu) = Swrk::pair()?;
        line.ask(Kind::Restore, opts)?;
        self.line
            .send_criu(line.socket().as_fd())
            .doing(|| "cannot hand over the line to CRIU".to_owned())?;
        Ok(criu)
    }
}

/// Leaves the caller's groups: CRIU gives a process those that it had, but one that had none it leaves its own.
fn leave_groups(process: &Process) -> Result<()> {
    if process.additional_gids.is_none() || !is_on(Defence::Groups) {
        return Ok(());
    }
    sys::cred::set_groups(&[]).doing(|| "cannot leave the caller's groups".to_owned())
}

/// Becomes CRIU; returns only on failure. It does not end with the runtime, but when the line to that does: then it takes back
/// what it has done.
fn become_criu(program: &Program) -> Error {
    if let Err(error) = die_with_runtime(false) {
        return error;
    }
    let hint = "where CRIU runs, /tmp and /proc/tty/ldisc are empty: have its program elsewhere";
    program.exec().hint(hint)
}

impl Kept {
    /// The number under which CRIU will have it.
    fn take(&mut self, file: OwnedFd) -> i32 {
        let number = file.as_raw_fd();
        self.files.push(file);
        number
    }

    fn keep(&mut self, file: BorrowedFd<'_>) -> Result<i32> {
        let copy = rustix::io::fcntl_dupfd_cloexec(file, 3)
            .map_err(|e| sys::Error::new("fcntl", "fd, F_DUPFD_CLOEXEC, 3", e))
            .doing(|| "cannot give CRIU a file".to_owned())?;
        Ok(self.take(copy))
    }
}

/// The files from outside: this process's standard streams, and /dev/null for what else there was.
fn streams(wanted: &[ExternalFile], kept: &mut Kept) -> Result<Vec<InheritFd>> {
    let own = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let null = null()?;
    let mut given: Vec<InheritFd> = Vec::new();
    for stream in wanted {
        if given.iter().any(|given| given.key == stream.key) {
            continue;
        }
        let number = usize::try_from(stream.number).ok();
        let file = number.and_then(|number| own.get(number).copied());
        if file.is_some() {
            check_stream(stream.number)?;
        }
        given.push(InheritFd {
            key: stream.key.clone(),
            fd: kept.keep(file.unwrap_or(null.as_fd()))?,
        });
    }
    Ok(given)
}

/// CRIU opens what is given to it once more, by its magic link.
fn check_stream(number: u32) -> Result<()> {
    let flags = match number {
        0 => OFlags::RDONLY,
        _ => OFlags::WRONLY,
    };
    let path = format!("/proc/self/fd/{number}");
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(e @ rustix::io::Errno::ACCESS) => {
            let names = ["input", "output", "error"];
            let name = usize::try_from(number).ok().and_then(|n| names.get(n));
            let name = name.unwrap_or(&"stream");
            Err(Error::new(format!("cannot give standard {name} to the container"))
                .because(sys::Error::new("openat", format!("{path:?}"), e))
                .hint("it was opened by another user, and CRIU has to open it once more: give a file or pipe of your own, as with `| cat`"))
        }
        _ => Ok(()),
    }
}

/// What is at `beneath` in what is shown at `path`.
fn beneath(path: PathBuf, beneath: &Path) -> PathBuf {
    match beneath.strip_prefix("/") {
        Ok(beneath) => path.join(beneath),
        Err(_) if beneath.as_os_str().is_empty() => path,
        Err(_) => path.join(beneath),
    }
}

fn null() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty())
        .map_err(|e| sys::Error::new("openat", "/dev/null, O_RDWR", e))
        .doing(|| "cannot open /dev/null".to_owned())
}

fn host_root() -> Result<RootDir> {
    sys::mount::open_path(Path::new("/"))
        .map(RootDir::new)
        .doing(|| "cannot open /".to_owned())
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(format!("cannot tell CRIU of {path:?}")).because("the name is not UTF-8")
    })
}
