//! Hooks: programs of the caller's that run at certain points of a container's life (config.md, "POSIX-platform Hooks").

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::{Namespace, Note, Plan, UserNamespace};

/// The hooks of a container, by when and where they run (runtime.md, "Lifecycle").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Before the root is changed, in the caller's namespaces. Deprecated since 1.0.2, and run first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// Before the root is changed, in the caller's namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// Before the root is changed, in the container's namespaces; the path is one of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// Before the program, in its place; the path is one of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// Once the program runs, in the caller's namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// Once the container is removed, in the caller's namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// A program to run, with the container's state as JSON on standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// JSON pointer to the hook in config.json, for messages.
    pub property: String,
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its arguments, its name first.
    pub args: Vec<String>,
    /// Its whole environment. `None`: that of the container's process for a `startContainer` hook, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// After how many seconds it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

impl Hooks {
    /// The hooks of a configuration that was checked.
    pub(super) fn of(spec: &Spec) -> Self {
        let Some(hooks) = spec.hooks() else {
            return Self::default();
        };
        Self {
            prestart: list("prestart", hooks.prestart()),
            create_runtime: list("createRuntime", hooks.create_runtime()),
            create_container: list("createContainer", hooks.create_container()),
            start_container: list("startContainer", hooks.start_container()),
            poststart: list("poststart", hooks.poststart()),
            poststop: list("poststop", hooks.poststop()),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether some run before the root is changed.
    pub fn has_any_before_root(&self) -> bool {
        self.runtime_before_root().next().is_some() || !self.create_container.is_empty()
    }

    /// Those that run in the caller's namespaces before the root is changed, in their order.
    pub fn runtime_before_root(&self) -> impl Iterator<Item = &Hook> {
        self.prestart.iter().chain(&self.create_runtime)
    }

    /// Whether some run in the caller's namespaces.
    pub fn has_any_in_runtime(&self) -> bool {
        let mut lists = [&self.poststart, &self.poststop].into_iter();
        self.runtime_before_root().next().is_some() || lists.any(|list| !list.is_empty())
    }

    /// Those that run after `create` has returned, in the caller's namespaces.
    pub fn for_later(&self) -> Self {
        Self {
            poststart: self.poststart.clone(),
            poststop: self.poststop.clone(),
            ..Self::default()
        }
    }
}

impl Plan {
    /// Whether processes of other containers may find init among theirs, and have power over it, while the host's files are
    /// still in its reach: those of the user namespace that it joins, where it has no pid namespace of its own.
    pub fn others_see_init(&self) -> bool {
        let joins_user = matches!(self.user_namespace, UserNamespace::Joined { .. });
        joins_user && !self.namespaces.contains(&Namespace::Pid)
    }

    /// Tells that hooks cannot look into an init that is hidden from others.
    pub(super) fn note_hidden_init(&mut self) {
        let hooks = self.hooks.runtime_before_root().next();
        let Some(first) = hooks.filter(|_| self.others_see_init()) else {
            return;
        };
        self.notes.push(Note::new(
            &first.property,
            "hooks before the start cannot open the container's namespaces at /proc/PID/ns, nor its files at /proc/PID/root: the \
             processes of other containers, among which it is, could reach the host's files there",
            "give the container a pid namespace of its own, or a user namespace of its own; poststart hooks can look into it",
        ));
    }
}

fn list(name: &str, asked: &Option<Vec<oci_spec::runtime::Hook>>) -> Vec<Hook> {
    let asked = asked.iter().flatten().enumerate();
    asked
        .map(|(index, hook)| {
            let named = || vec![hook.path().display().to_string()];
            Hook {
                property: format!("/hooks/{name}/{index}"),
                path: hook.path().clone(),
                args: hook
                    .args()
                    .clone()
                    .filter(|args| !args.is_empty())
                    .unwrap_or_else(named),
                env: hook.env().clone(),
                timeout: hook.timeout().and_then(|seconds| seconds.try_into().ok()),
            }
        })
        .collect()
}
