//! Checkpoint and restore with CRIU, without privilege.
//!
//! A container is dumped by an unmodified CRIU that runs as the root of the container's own user namespace ("C"). Joined to the
//! container's uts, network and cgroup namespaces it has nothing to dump of these; what the kernel keeps for the initial user
//! namespace, a supervisor of ours answers ([`supervisor`]). It is restored in a new C, whose namespaces are made by the code that
//! `create` uses, up to where the container's program would be run: CRIU is run there, and makes the pid, mount and ipc
//! namespaces and the processes.
//!
//! CRIU sees C alone: the outer user namespace ("O") is above it, and the container's namespaces are C's. So they are after a
//! restore, too.
//!
//! What a later checkpoint has to know of how the container was made is saved by `create` ([`saved`]); what a restore has to
//! know, beside CRIU's images ([`image`]).

use std::collections::BTreeMap;

use crate::plan::Note;

pub mod attributes;
pub mod criu;
pub mod dump;
pub mod image;
pub mod inspect;
pub mod lack;
pub mod outside;
pub mod preflight;
pub mod rpc;
pub mod saved;
pub mod stage;
pub mod supervisor;
pub mod tracked;

/// The annotation with which a container can be checkpointed under a system call filter that forbids vmsplice(2): `true` lets its
/// processes call it as CRIU does, and no other way. Every other rule stays. `false` is as none, and anything else an error. Where the
/// config has no filter there is nothing to add to: it changes nothing then.
pub const CHECKPOINTABLE: &str = "dev.lodger.checkpointable";

/// The annotation that names a configuration file of CRIU's, as for runc. What stands in it CRIU does with the caller's rights.
pub const CRIU_CONFIG: &str = "org.criu.config";

/// What is told of CRIU's configuration file, if there is one: whoever has written the config has it run programs (action-script).
pub fn note_of_config(annotations: &BTreeMap<String, String>) -> Option<Note> {
    let path = annotations.get(CRIU_CONFIG)?;
    Some(Note::new(
        format!("/annotations/{CRIU_CONFIG}"),
        format!(
            "CRIU does what {path:?} says, and the programs in there are run outside of the container, with your files in reach"
        ),
        "take the annotation out if the config is not yours",
    ))
}
