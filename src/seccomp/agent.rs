//! The agent that answers notified calls: it gets the listener and is told of the container (config-linux.md,
//! "listenerPath"; runtime.md, "The container process state").

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Doing, Error, Result};
use crate::plan::SeccompListener;
use crate::state::ContainerState;
use crate::sys;

/// The version of the container process state.
const STATE_VERSION: &str = "1.3.0";

/// A connection to the agent, for one process.
#[derive(Debug)]
pub struct Agent {
    socket: OwnedFd,
    path: PathBuf,
    metadata: String,
    state: Vec<u8>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'static str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a ContainerState<'a>,
}

fn what(path: &Path) -> String {
    format!("cannot reach the seccomp agent at {path:?} (/linux/seccomp/listenerPath)")
}

const REMEDY: &str =
    "start the agent first: it must listen there, on a stream socket (AF_UNIX, SOCK_STREAM)";

impl Agent {
    /// Connects to the agent. To be done in the caller's view of the filesystem, and before anything is made.
    pub fn connect(listener: &SeccompListener) -> Result<Self> {
        let socket = sys::socket::connect_stream(&listener.path)
            .doing(|| what(&listener.path))
            .map_err(|error| error.hint(REMEDY))?;
        Ok(Self {
            socket,
            path: listener.path.clone(),
            metadata: listener.metadata.clone(),
            state: Vec::new(),
        })
    }

    /// Whether an agent listens, without a word to it: `create` wants to know, and `start` will tell.
    pub fn require(listener: &SeccompListener) -> Result<()> {
        let path = &listener.path;
        let refused = |because: String| Error::new(what(path)).because(because).hint(REMEDY);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
        else {
            return Err(refused("it is no path of a socket".to_owned()));
        };
        let directory = sys::mount::open_path(parent).map_err(|e| refused(e.to_string()))?;
        match sys::socket::is_bound(&directory, name) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused("nobody listens there".to_owned())),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Keeps what the agent is to be told: `pid` is the process that is filtered, `container` the one it is in.
    pub fn introduce(&mut self, pid: i32, container: &ContainerState<'_>) -> Result<()> {
        let state = ProcessState {
            oci_version: STATE_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: &self.metadata,
            state: container,
        };
        self.state = serde_json::to_vec(&state)
            .map_err(|error| Error::new("cannot tell the seccomp agent").because(error))?;
        Ok(())
    }

    /// Hands over the listener with the state, and closes the connection: there is one for each process.
    pub fn hand_over(self, listener: BorrowedFd<'_>) -> Result<()> {
        let what = || format!("cannot hand over to the seccomp agent at {:?}", self.path);
        sys::socket::send_all_with(&self.socket, &self.state, listener).doing(what)
    }
}
