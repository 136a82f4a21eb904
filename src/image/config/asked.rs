//! What the caller wants of a container, in place of what its image says or besides.

use std::path::PathBuf;

/// What was asked for. By default: what the image says, and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The image's name, for messages.
    pub image: String,
    /// The container's id, of which the host name is made.
    pub id: String,
    /// The arguments, in place of `Cmd`.
    pub args: Vec<String>,
    /// The program and its first arguments, in place of `Entrypoint` and `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// Variables, upon those of `Env`; of two with one name the later counts.
    pub variables: Vec<Variable>,
    /// In place of `User`, in the same forms.
    pub user: Option<String>,
    /// In place of `WorkingDir`.
    pub cwd: Option<String>,
    /// Whether the program gets a terminal.
    pub tty: bool,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// Whether the program can gain no privileges by execve(2).
    pub no_new_privileges: bool,
    /// The host name, in place of one made of the id.
    pub hostname: Option<String>,
    /// Which network there is.
    pub network: Network,
    /// What is mounted besides, in any order.
    pub mounts: Vec<AskedMount>,
    /// Annotations, in place of the image's.
    pub annotations: Vec<(String, String)>,
    /// Capabilities besides podman's default ones, by name, with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to leave out, likewise.
    pub cap_drop: Vec<String>,
    /// Whether supplementary groups can be had: setgroups(2) is refused where the caller has no subordinate gids.
    pub setgroups: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            image: String::new(),
            id: String::new(),
            args: Vec::new(),
            entrypoint: None,
            variables: Vec::new(),
            user: None,
            cwd: None,
            tty: false,
            read_only: false,
            no_new_privileges: false,
            hostname: None,
            network: Network::None,
            mounts: Vec::new(),
            annotations: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            setgroups: true,
        }
    }
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// It has this value.
    Set(String, String),
    /// It is not there, whatever the image says.
    Unset(String),
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Its own, with nothing but the loopback device.
    None,
    /// The host's.
    Host {
        /// Files of the host that tell of the network, each with its place in the container: bound read-only.
        files: Vec<(PathBuf, String)>,
    },
}

/// A mount besides those that every container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedMount {
    /// The directory or file of the host; `None`: a new tmpfs.
    pub source: Option<PathBuf>,
    /// Where it goes: absolute, without `..`, not `/`.
    pub destination: String,
    /// Mount options (runtime-spec config.md, "Linux mount options").
    pub options: Vec<String>,
}
