//! From an image's config to config.json (image-spec conversion.md).

use std::env::consts::ARCH;

use serde_json::{Value, json};

use super::mounts::{self, Volumes};
use super::user::{self, User};
use super::{Asked, ImageConfig, ImageFiles, Network, capabilities, environment, labels};
use crate::bundle::template;
use crate::error::{Error, Result};
use crate::plan::Note;

/// The longest host name (HOST_NAME_MAX, gethostname(2)).
const LONGEST_HOSTNAME: usize = 64;

/// What became of an image's config.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// A complete config.json; its root filesystem is `rootfs`, beside it.
    pub config: Value,
    /// What was adapted. Those on the image's config have pointers into that.
    pub notes: Vec<Note>,
    /// Directories that the container is to have, made where the image has none: its volumes. They are absolute, without `..`,
    /// and in the image, so links on the way are to be resolved in the container.
    pub directories: Vec<String>,
}

impl Converted {
    /// The text of config.json.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.config)
    }
}

/// Makes a config.json of `image`, as `asked`; `files` are the image's.
///
/// # Errors
/// What the image says cannot be done, or what was asked for.
pub fn convert(image: &ImageConfig, asked: &Asked, files: &dyn ImageFiles) -> Result<Converted> {
    try_convert(image, asked, files)
        .map_err(|error| error.within(format!("cannot use image {:?}", asked.image)))
}

fn try_convert(image: &ImageConfig, asked: &Asked, files: &dyn ImageFiles) -> Result<Converted> {
    if image.os != "linux" {
        let what = format!("it is for another system: /os is {:?}", image.os);
        return Err(Error::new(what).hint("import one for linux"));
    }
    let mut notes: Vec<Note> = foreign_processor(image).into_iter().collect();
    notes.extend(not_applied(image));
    let mut config: Value = serde_json::from_str(template())
        .map_err(|error| Error::new("cannot read the template of config.json").because(error))?;
    config["process"] = process(image, asked, files, &mut notes)?;
    config["root"]["readonly"] = asked.read_only.into();
    config["hostname"] = hostname(asked)?.into();
    config["annotations"] = json!(labels::annotations(image, asked, &mut notes));
    if asked.network != Network::None
        && let Some(namespaces) = config["linux"]["namespaces"].as_array_mut()
    {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    let volumes = Volumes::new(&image.config.volumes, asked, &mut notes);
    mounts::add(&mut config, asked, &volumes)?;
    Ok(Converted {
        config,
        notes,
        directories: volumes.directories,
    })
}

/// `process`. Limits stay the caller's own, as the image says nothing of them.
fn process(
    image: &ImageConfig,
    asked: &Asked,
    files: &dyn ImageFiles,
    notes: &mut Vec<Note>,
) -> Result<Value> {
    let config = &image.config;
    let named = asked.user.as_deref().unwrap_or(&config.user);
    let mut user = match &asked.user {
        // What an image does not say is root; what a caller names must be somebody.
        None if named.is_empty() => User::default(),
        _ => user::resolve(named, files)
            .map_err(|error| error.within(format!("the user {named:?}")))?,
    };
    if !asked.setgroups && !user.additional_gids.is_empty() {
        user.additional_gids.clear();
        notes.push(Note::new(
            "/config/User",
            format!("{named:?} does not get its supplementary groups: setgroups(2) is refused without subordinate gids"),
            "give the account a range in /etc/subgid and install newgidmap (package uidmap)",
        ));
    }
    let mut ids = json!({"uid": user.uid, "gid": user.gid});
    if !user.additional_gids.is_empty() {
        ids["additionalGids"] = json!(user.additional_gids);
    }
    Ok(json!({
        "terminal": asked.tty,
        "user": ids,
        "args": environment::args(config, asked)?,
        "env": environment::env(config, asked)?,
        "cwd": cwd(image, asked)?,
        "capabilities": capabilities::sets(asked, user.uid, notes)?,
        "noNewPrivileges": asked.no_new_privileges,
    }))
}

fn cwd(image: &ImageConfig, asked: &Asked) -> Result<String> {
    let (of, path) = match &asked.cwd {
        Some(path) => ("-w", path),
        None => ("/config/WorkingDir", &image.config.working_dir),
    };
    if path.is_empty() && asked.cwd.is_none() {
        return Ok("/".to_owned());
    }
    // `/` is the one place that is not for mounts.
    if !mounts::is_place(path) && path != "/" {
        return Err(
            Error::new(format!("{of}: {path:?} is no working directory"))
                .hint("give an absolute path without `..` (-w)"),
        );
    }
    Ok(path.clone())
}

/// The host name: what was asked for, or what of the id can be in one.
fn hostname(asked: &Asked) -> Result<String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if let Some(name) = &asked.hostname {
        let fits = (1..=LONGEST_HOSTNAME).contains(&name.len());
        return if fits && name.chars().all(is_valid) {
            Ok(name.clone())
        } else {
            Err(Error::new(format!("{name:?} is no host name"))
                .hint("it has 1 to 64 letters, digits, `-` and `.`"))
        };
    }
    let name: String = asked
        .id
        .chars()
        .filter(|c| is_valid(*c))
        .take(LONGEST_HOSTNAME)
        .collect();
    Ok(if name.is_empty() {
        "lodger".to_owned()
    } else {
        name
    })
}

/// What config.md reserves, said aloud.
fn not_applied(image: &ImageConfig) -> Option<Note> {
    let reserved = &image.config.reserved;
    (!reserved.is_empty()).then(|| {
        Note::new(
            "/config",
            format!(
                "not applied, as the specification reserves it: {}",
                reserved.join(", ")
            ),
            "for limits: `lodger update`; for a health check: a timer and `lodger exec`",
        )
    })
}

/// Programs of other processors may run all the same, with an emulator (binfmt_misc).
fn foreign_processor(image: &ImageConfig) -> Option<Note> {
    let native: &[&str] = match ARCH {
        "x86_64" => &["amd64", "386"],
        "aarch64" => &["arm64", "arm"],
        "riscv64" => &["riscv64"],
        "s390x" => &["s390x"],
        "powerpc64" => &["ppc64le", "ppc64"],
        _ => return None,
    };
    let architecture = image.architecture.as_str();
    (!native.contains(&architecture)).then(|| {
        Note::new(
            "/architecture",
            format!("its programs are for {architecture:?}, and this machine is {:?}: they run if an emulator is registered", native[0]),
            "import the image for this machine (`lodger image import --platform`), or install qemu-user-static",
        )
    })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
