//! The lock of one container: whoever changes it holds it, and whoever waits for it finds out whether the container is still there.

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{Entry, holder, missing};
use crate::error::{Doing, Error, Result};
use crate::sys;

impl Entry {
    /// Waits for the lock and holds it until [`Entry::unlock`] or drop. The container may be gone by then.
    pub fn lock(&self) -> Result<()> {
        match self.lock_if_there()? {
            true => Ok(()),
            false => Err(missing()),
        }
    }

    /// As [`Entry::lock`]; whether the container is still there.
    pub fn lock_if_there(&self) -> Result<bool> {
        if !self.try_lock()? {
            holder::refuse_ancestor(&self.fd, &self.id)?;
            self.flock(FlockOperation::LockExclusive)?;
        }
        Ok(!self.is_removed()?)
    }

    /// Lets go of the lock.
    pub fn unlock(&self) -> Result<()> {
        self.flock(FlockOperation::Unlock)
    }

    pub(super) fn flock(&self, operation: FlockOperation) -> Result<()> {
        loop {
            match rustix::fs::flock(&self.fd, operation) {
                Err(rustix::io::Errno::INTR) => {}
                answer => return answer.map_err(|e| self.lock_error(operation, e)),
            }
        }
    }

    /// Takes the lock unless somebody works on the container; whether it was taken.
    pub(super) fn try_lock(&self) -> Result<bool> {
        let free = |operation| {
            loop {
                match rustix::fs::flock(&self.fd, operation) {
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
                    answer => {
                        return answer
                            .map(|()| true)
                            .map_err(|e| self.lock_error(operation, e));
                    }
                }
            }
        };
        if free(FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
        // Those who only ask whether it is locked (is_locked) share it, for a moment.
        if !free(FlockOperation::NonBlockingLockShared)? {
            return Ok(false);
        }
        self.flock(FlockOperation::LockExclusive).map(|()| true)
    }

    fn lock_error(&self, operation: FlockOperation, errno: rustix::io::Errno) -> Error {
        Error::new(format!("cannot lock the state of container {:?}", self.id)).because(
            sys::Error::new("flock", format!("state directory, {operation:?}"), errno),
        )
    }

    pub(super) fn is_removed(&self) -> Result<bool> {
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|e| sys::Error::new("fstat", "state directory", e))
            .doing(|| format!("cannot examine the state of container {:?}", self.id))?;
        Ok(stat.st_nlink == 0)
    }

    /// Whether somebody works on the container now. Asked by an open file of its own: the lock that this one may hold
    /// would be changed by the question (flock(2)).
    pub(super) fn is_locked(&self) -> Result<bool> {
        let what = || format!("cannot examine the state of container {:?}", self.id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let another = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
            .map_err(|e| sys::Error::new("openat", "state directory", e))
            .doing(what)?;
        match rustix::fs::flock(&another, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(sys::Error::new("flock", "state directory", e)).doing(what),
        }
    }
}
