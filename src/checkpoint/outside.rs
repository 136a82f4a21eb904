//! What a container that is restored needs from outside, found in the plan of its config.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::image::ExternalMount;
use crate::error::{Error, Result};
use crate::plan::{MountSource, Plan};

/// A mount from outside that CRIU is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// CRIU's key of it.
    pub key: String,
    /// What it is made of.
    pub source: Source,
    /// Where beneath that it is; empty: it is the whole.
    pub beneath: PathBuf,
}

/// What of the plan a mount from outside is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The bind mount with this number among the plan's mounts.
    Bind(usize),
    /// The device with this number.
    Device(usize),
    /// The host's /dev/null, over a masked file.
    Mask,
}

/// The mounts from outside that the images want, as `plan` has them.
///
/// # Errors
/// A mount that the plan does not have, or one of the plan's that is not in the images: CRIU makes the mounts that were there, and
/// no others.
pub fn outside(plan: &Plan, externals: &[ExternalMount]) -> Result<Vec<Outside>> {
    let mut found = Vec::new();
    for external in externals {
        let source = source_of(plan, Path::new(&external.key)).ok_or_else(|| {
            Error::new("the config does not fit the images")
                .because(format!(
                    "the container had a mount from outside at {:?}, and the config has none there",
                    external.key
                ))
                .hint("restore with the bundle that the container was made from (--bundle)")
        })?;
        found.push(Outside {
            key: external.criu_key(),
            source,
            beneath: external.beneath.clone(),
        });
    }
    let has = |path: &Path| {
        let is = |external: &ExternalMount| Path::new(&external.key) == path;
        externals.iter().any(is)
    };
    let missing = |what: String| {
        Error::new("the config does not fit the images")
            .because(what)
            .hint("CRIU makes the mounts that were there, and no others: restore with the bundle that the container was made from (--bundle)")
    };
    for mount in &plan.mounts {
        if matches!(mount.source, MountSource::Bind { .. }) && !has(&mount.destination) {
            return Err(missing(format!(
                "{}: the container had no mount from outside at {:?}",
                mount.property, mount.destination
            )));
        }
    }
    for device in &plan.devices {
        if !has(&device.path) {
            let property = device.asked.as_ref().map_or("", |a| a.property.as_str());
            return Err(missing(format!(
                "{property}: the container did not have the device {:?}",
                device.path
            )));
        }
    }
    Ok(found)
}

fn source_of(plan: &Plan, key: &Path) -> Option<Source> {
    let bind = plan.mounts.iter().rposition(|mount| {
        mount.destination == key && matches!(mount.source, MountSource::Bind { .. })
    });
    let device = || plan.devices.iter().position(|device| device.path == key);
    let mask = || plan.masked_paths.iter().any(|path| path == key);
    bind.map(Source::Bind)
        .or_else(|| device().map(Source::Device))
        .or_else(|| mask().then_some(Source::Mask))
}

#[cfg(test)]
#[path = "outside_tests.rs"]
mod tests;
