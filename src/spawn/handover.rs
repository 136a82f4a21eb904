//! Handing an fd to the caller over a socket of hers: `--console-socket`, `--pidfd-socket`.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::sys;

/// A socket on which somebody waits for one fd.
#[derive(Debug)]
pub struct Receiver {
    socket: OwnedFd,
    option: &'static str,
    path: PathBuf,
}

impl Receiver {
    /// Connects to the stream socket at `path`, which `option` names. To be done before anything is made.
    pub fn connect(option: &'static str, path: &Path) -> Result<Self> {
        let socket = sys::socket::connect_stream(path)
            .doing(|| format!("cannot use {option} {path:?}"))
            .map_err(|e| {
                e.hint("the caller must listen there, on a stream socket (AF_UNIX, SOCK_STREAM)")
            })?;
        Ok(Self {
            socket,
            option,
            path: path.to_owned(),
        })
    }

    /// Sends `fd`, and `name` as the data that goes with it.
    pub fn hand_over(&self, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
        sys::socket::send_with(&self.socket, name.as_bytes(), fd)
            .doing(|| format!("cannot hand over to {} {:?}", self.option, self.path))
    }
}
