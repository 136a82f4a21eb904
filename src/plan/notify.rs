//! The program's own NOTIFY_SOCKET (sd_notify(3)), where the caller has one.

use std::path::{Path, PathBuf};

use super::{Attribute, Attributes, Mount, MountSource, Plan};

/// Where the directory with the socket is in the container, as with runc.
pub const DIRECTORY: &str = "/run/notify";

/// The socket's name in it.
pub const SOCKET: &str = "notify.sock";

impl Plan {
    /// Gives the program a socket of its own: one that lodger listens on in `directory` of the host. The caller's would let the
    /// container speak to her service manager as it likes.
    pub fn pass_notify_socket(&mut self, directory: PathBuf) {
        let set = vec![
            Attribute::Ro,
            Attribute::Nosuid,
            Attribute::Nodev,
            Attribute::Noexec,
        ];
        self.mounts.push(Mount {
            copy_up: false,
            id_map: None,
            property: "NOTIFY_SOCKET".to_owned(),
            destination: PathBuf::from(DIRECTORY),
            source: MountSource::Bind {
                source: directory,
                recursive: false,
            },
            attributes: Attributes {
                set,
                ..Attributes::default()
            },
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
            no_symlinks: false,
            inside_proc: false,
        });
        let env = &mut self.process.env;
        env.retain(|entry| !entry.starts_with("NOTIFY_SOCKET="));
        let socket = Path::new(DIRECTORY).join(SOCKET);
        env.push(format!("NOTIFY_SOCKET={}", socket.display()));
    }
}
