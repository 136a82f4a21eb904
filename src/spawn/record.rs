//! What is remembered of a container that is made.

use std::path::PathBuf;
use std::time::SystemTime;

use super::{Creation, joined_flags, new_flags};
use crate::error::Result;
use crate::state::{
    NamespaceMark, OuterRecord, ProcessIdentity, Record, UserNamespaceRecord, boot_id,
};
use crate::sys::process::Child;

impl Creation<'_> {
    /// What to remember of the container, with the notes of the plan.
    pub(super) fn record(
        &self,
        child: &Child,
        outer: Option<OuterRecord>,
        mark: Option<NamespaceMark>,
    ) -> Result<Record> {
        let user = &self.plan.user_namespace;
        let user_namespace = user.maps().map(|(uid_map, gid_map)| UserNamespaceRecord {
            uid_map: uid_map.to_vec(),
            gid_map: gid_map.to_vec(),
            setgroups: user.setgroups().unwrap_or(false),
            outer,
        });
        Ok(Record {
            oci_version: self.bundle.spec.version().clone(),
            process: ProcessIdentity::of(child.pid)?,
            boot_id: boot_id()?,
            bundle: self.bundle.directory.clone(),
            rootfs: PathBuf::from(&self.plan.root.path),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            owner: self.owner.clone(),
            annotations: self.plan.annotations.clone(),
            namespaces: new_flags(self.plan) | joined_flags(self.plan),
            joined: joined_flags(self.plan),
            keyring: self.manner.keyring.clone(),
            no_pivot: self.manner.no_pivot,
            user_namespace,
            hooks: self.plan.hooks.for_later(),
            notify: self.notify,
            cgroup: None,
            image: self.image.cloned(),
            mark,
            listener: self.plan.seccomp.as_ref().and_then(|s| s.listener.clone()),
            fake_root: self.plan.fake_root,
            notes: self.plan.notes.clone(),
        })
    }
}
