//! The mounts of a container, in a mount namespace that ends with this process.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::mount::MountFlags;

use super::{Report, Said};
use crate::doctor::readings::Trial;
use crate::doctor::step::Step;
use crate::error::{Doing, Result};
use crate::sys;
use crate::sys::invalid::Call;

/// Directories that every system has one of: a tmpfs is mounted there, in which all else is done.
const PLACES: [&str; 6] = ["/tmp", "/var", "/run", "/etc", "/usr", "/dev"];

const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Tries all. `many`: there is more than one id.
pub(super) fn try_all(many: bool, report: &mut Report) {
    for call in Call::WHERE_MOUNTS_ARE_ALLOWED {
        report.say(&Said::Call(call.name().to_owned(), call.ask()));
    }
    let slave = sys::mount::make_all_slave().doing(|| "cannot keep mounts apart".to_owned());
    report.trial(Trial::Propagation, Step::Mount, slave);
    let place = PLACES.into_iter().find(|place| Path::new(place).is_dir());
    let Some(place) = place else {
        return;
    };
    let tmpfs = mount("tmpfs", place, SAFE, c"mode=0700");
    if report.trial(Trial::Tmpfs, Step::Mount, tmpfs).is_some() && enter(place).is_ok() {
        try_within(report);
        if many {
            let given = rustix::fs::chown(
                "mqueue",
                Some(rustix::fs::Uid::from_raw(1)),
                Some(rustix::fs::Gid::from_raw(1)),
            )
            .map_err(|e| sys::Error::new("fchownat", "\"mqueue\", 1, 1", e))
            .doing(|| "cannot give a file in memory to another id".to_owned());
            report.trial(Trial::Chown, Step::File, given);
        }
    }
    let keyring = sys::keyring::join_session("lodger-doctor")
        .doing(|| "cannot join a session keyring".to_owned());
    report.trial(Trial::Keyring, Step::Keyring, keyring);
}

/// Goes into the tmpfs and makes the mount points.
fn enter(place: &str) -> rustix::io::Result<()> {
    rustix::process::chdir(place)?;
    for name in [
        "lower", "upper", "work", "merged", "proc", "sys", "mqueue", "pts", "bound",
    ] {
        rustix::fs::mkdirat(CWD, name, Mode::RWXU)?;
    }
    Ok(())
}

fn try_within(report: &mut Report) {
    let bound = rustix::mount::mount_bind("lower", "bound")
        .map_err(|e| sys::Error::new("mount", "\"lower\", \"bound\", NULL, MS_BIND, NULL", e))
        .doing(|| "cannot bind a directory".to_owned());
    report.trial(Trial::Bind, Step::Mount, bound);
    let options = c"lowerdir=lower,upperdir=upper,workdir=work,userxattr";
    let none = MountFlags::empty();
    let new = [
        (
            Trial::Overlay,
            Step::MountOverlay,
            "overlay",
            "merged",
            none,
            options,
        ),
        (Trial::Proc, Step::MountProc, "proc", "proc", SAFE, c""),
        (Trial::Sysfs, Step::MountSys, "sysfs", "sys", SAFE, c""),
        (Trial::Mqueue, Step::Mount, "mqueue", "mqueue", SAFE, c""),
        (
            Trial::Devpts,
            Step::Mount,
            "devpts",
            "pts",
            MountFlags::NOSUID,
            c"newinstance,ptmxmode=0666",
        ),
    ];
    for (trial, step, fstype, place, flags, options) in new {
        report.trial(trial, step, mount(fstype, place, flags, options));
    }
}

/// Mounts a new filesystem by mount(2), or where that is refused by the mount API: a container is content with either.
fn mount(fstype: &str, place: &str, flags: MountFlags, options: &CStr) -> Result<()> {
    let data = Some(options).filter(|options| !options.is_empty());
    let Err(errno) = rustix::mount::mount(fstype, place, fstype, flags, data) else {
        return Ok(());
    };
    if by_descriptor(fstype, place, options).is_ok() {
        return Ok(());
    }
    let options = options.to_string_lossy();
    let args = format!(
        "{fstype:?}, {place:?}, {fstype:?}, {:#x}, {options:?}",
        flags.bits()
    );
    Err(sys::Error::new("mount", args, errno)).doing(|| format!("cannot mount a new {fstype}"))
}

fn by_descriptor(fstype: &str, place: &str, options: &CStr) -> sys::Result<()> {
    let mut context = sys::mount::FsContext::open(fstype)?;
    let options = options.to_string_lossy();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => context.set_string(key, value)?,
            None => context.set_flag(option)?,
        }
    }
    let mounted = context.mount(0)?;
    let place = sys::mount::open_path(Path::new(place))?;
    sys::mount::attach(&mounted, &place, Path::new(fstype))
}
