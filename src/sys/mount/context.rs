//! A filesystem that is being configured: by fsopen(2), or with what mount(2) will be told at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags};

use super::call::{Call, context_is_known_missing};
use super::flags::Parameter;
use super::{Error, Result, legacy};

/// A filesystem that is being configured (fsopen(2)).
#[derive(Debug)]
pub struct FsContext<'a> {
    /// `None`: mount(2) does it all.
    fd: Option<OwnedFd>,
    fstype: String,
    /// What it is told, for mount(2).
    told: Vec<Parameter<'a>>,
    /// A mount of the filesystem that is to be changed.
    place: Option<BorrowedFd<'a>>,
}

impl<'a> FsContext<'a> {
    /// Begins to configure a filesystem of type `fstype`.
    pub fn open(fstype: &str) -> Result<Self> {
        let fd = opened(Call::FsOpen, || {
            rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
                .map_err(|e| Error::new("fsopen", format!("{fstype:?}"), e))
        })?;
        Ok(Self::with(fd, fstype, None))
    }

    /// As [`Self::open`], for mount(2), which takes what is open for all paths: it needs nothing that is newer.
    pub fn open_for_mount(fstype: &str) -> Self {
        Self::with(None, fstype, None)
    }

    /// Begins to change the filesystem of the mount that `place` is the root of (fspick(2)).
    pub fn of(place: &'a OwnedFd) -> Result<Self> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let fd = opened(Call::FsPick, || {
            rustix::mount::fspick(place, "", flags)
                .map_err(|e| Error::new("fspick", "fd, \"\", FSPICK_EMPTY_PATH", e))
        })?;
        Ok(Self::with(
            fd,
            "the one that is mounted",
            Some(place.as_fd()),
        ))
    }

    fn with(fd: Option<OwnedFd>, fstype: &str, place: Option<BorrowedFd<'a>>) -> Self {
        Self {
            fd,
            fstype: fstype.to_owned(),
            told: Vec::new(),
            place,
        }
    }

    /// Sets a flag (`FSCONFIG_SET_FLAG`).
    pub fn set_flag(&mut self, key: &str) -> Result<()> {
        self.configure(
            |fd| rustix::mount::fsconfig_set_flag(fd, key),
            || format!("FSCONFIG_SET_FLAG, {key:?}"),
        )?;
        self.told.push(Parameter::Flag(key.to_owned()));
        Ok(())
    }

    /// Sets an option (`FSCONFIG_SET_STRING`).
    pub fn set_string(&mut self, key: &str, value: &str) -> Result<()> {
        self.configure(
            |fd| rustix::mount::fsconfig_set_string(fd, key, value),
            || format!("FSCONFIG_SET_STRING, {key:?}, {value:?}"),
        )?;
        let text = Parameter::Text(key.to_owned(), value.to_owned());
        self.told.push(text);
        Ok(())
    }

    /// Sets an option to what `fd`, which may be O_PATH, is open on (`FSCONFIG_SET_FD`; for overlayfs since Linux 6.13).
    pub fn set_fd(&mut self, key: &str, fd: BorrowedFd<'a>) -> Result<()> {
        self.configure(
            |context| rustix::mount::fsconfig_set_fd(context, key, fd),
            || format!("FSCONFIG_SET_FD, {key:?}, fd"),
        )?;
        self.told.push(Parameter::Fd(key.to_owned(), fd));
        Ok(())
    }

    /// Changes the filesystem (`FSCONFIG_CMD_RECONFIGURE`).
    pub fn reconfigure(mut self) -> Result<()> {
        let what = || "FSCONFIG_CMD_RECONFIGURE".to_owned();
        self.configure(|fd| rustix::mount::fsconfig_reconfigure(fd), what)?;
        match (&self.fd, self.place) {
            (None, Some(place)) => legacy::reconfigure(place, &self.told),
            _ => Ok(()),
        }
    }

    /// Creates the filesystem and a detached mount of it, with the `MOUNT_ATTR_…` bits of `attributes`.
    pub fn mount(mut self, attributes: u64) -> Result<OwnedFd> {
        let what = || "FSCONFIG_CMD_CREATE".to_owned();
        self.configure(|fd| rustix::mount::fsconfig_create(fd), what)?;
        let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(u32::MAX));
        let made = self.fd.as_ref().and_then(|fd| {
            Call::FsMount.attempt(|| {
                rustix::mount::fsmount(fd, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(|e| {
                    Error::new("fsmount", format!("{:?}, {attributes:#x}", self.fstype), e)
                })
            })
        });
        made.unwrap_or_else(|| legacy::new_mount(&self.fstype, &self.told, attributes))
    }

    /// Makes a call of fsconfig(2), unless mount(2) does it all, or will from now on.
    fn configure(
        &mut self,
        call: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let made = Call::FsConfig.attempt(|| call(fd).map_err(|e| self.error(fd, what(), e)));
        made.unwrap_or_else(|| {
            self.fd = None;
            Ok(())
        })
    }

    /// The kernel explains itself through the context's fd: its words go into the error.
    fn error(&self, fd: &OwnedFd, args: String, errno: rustix::io::Errno) -> Error {
        let mut args = format!("{:?}, {args}", self.fstype);
        let mut message = [0u8; 512];
        while let Ok(count) = rustix::io::read(fd, &mut message) {
            let text = String::from_utf8_lossy(&message[..count]);
            args.push_str(&format!(" /* {} */", text.trim().escape_debug()));
        }
        Error::new("fsconfig", args, errno)
    }
}

/// What `make` opens with `call`; `None` when a call that it would need is missing.
fn opened(call: Call, make: impl FnOnce() -> Result<OwnedFd>) -> Result<Option<OwnedFd>> {
    if context_is_known_missing() {
        return Ok(None);
    }
    call.attempt(make).transpose()
}
