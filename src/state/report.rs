//! What others are told of a container: hooks and seccomp agents.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Record, Status};

/// The state of a container (runtime.md, "State").
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState<'a> {
    /// ociVersion of its config.
    pub oci_version: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its status.
    pub status: &'static str,
    /// Its first process, as whoever is told numbers it; none when it has stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Its config's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
}

impl<'a> ContainerState<'a> {
    /// Of the container `id` with this record, for one in the caller's pid namespace.
    pub fn of(id: &'a str, record: &'a Record, status: Status) -> Self {
        Self {
            oci_version: &record.oci_version,
            id,
            status: status.word(),
            pid: Some(record.process.pid),
            bundle: &record.bundle,
            annotations: &record.annotations,
        }
    }
}
