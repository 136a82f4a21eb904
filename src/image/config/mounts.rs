//! Mounts besides those that every container has: the caller's, the image's volumes, the host's network.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::{Asked, AskedMount, Network};
use crate::bundle::pointer_token;
use crate::error::{Error, Result};
use crate::plan::Note;

/// The directories of a container that are the kernel's or the runtime's.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Whether `path` names a place for a mount: absolute, without `..`, and not the root.
pub(crate) fn is_place(path: &str) -> bool {
    let path = Path::new(path);
    let mut parts = path.components();
    path.is_absolute()
        && path.file_name().is_some()
        && !parts.any(|part| part == Component::ParentDir)
}

/// What the image's volumes become.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Volumes {
    /// A tmpfs each, where the root filesystem cannot be written to.
    mounts: Vec<AskedMount>,
    /// Those that need a directory in the container's writable layer, and nothing more: what is written there is kept as long
    /// as anything else.
    pub(super) directories: Vec<String>,
}

impl Volumes {
    /// Decides on `volumes` (`Config.Volumes`).
    pub(super) fn new(volumes: &[String], asked: &Asked, notes: &mut Vec<Note>) -> Self {
        let mut found = Self::default();
        for volume in volumes {
            let pointer = format!("/config/Volumes/{}", pointer_token(volume));
            let beneath = |place: &str| Path::new(volume).starts_with(place);
            if !is_place(volume) || KERNELS.iter().any(|place| beneath(place)) {
                notes.push(Note::new(
                    pointer,
                    "passed over: it is no place for data in a container",
                    "-v SRC:DST gives the container a directory of yours",
                ));
            } else if asked.mounts.iter().any(|mount| beneath(&mount.destination)) {
                // The caller has put something there.
            } else if asked.read_only {
                found.mounts.push(AskedMount {
                    source: None,
                    destination: volume.clone(),
                    options: ["nosuid", "nodev", "tmpcopyup"].map(str::to_owned).to_vec(),
                });
                notes.push(Note::new(
                    pointer,
                    "a tmpfs with what the image has there, as the root filesystem is read-only: it is gone when the container is",
                    "-v SRC:DST gives it a directory of yours, which stays",
                ));
            } else {
                found.directories.push(volume.clone());
            }
        }
        found
    }
}

/// Adds the mounts to `config`, outer ones first, so that none hides another.
pub(super) fn add(config: &mut Value, asked: &Asked, volumes: &Volumes) -> Result<()> {
    let Some(mounts) = config["mounts"].as_array_mut() else {
        return Ok(());
    };
    let taken = |path: &Path| {
        asked
            .mounts
            .iter()
            .any(|mount| Path::new(&mount.destination) == path)
    };
    if let Network::Host { files } = &asked.network {
        bind_sys(mounts);
        for (source, destination) in files {
            if !taken(Path::new(destination)) {
                mounts.push(bind(
                    source,
                    destination,
                    &["rbind", "ro", "nosuid", "nodev", "noexec"],
                )?);
            }
        }
    }
    let mut all: Vec<&AskedMount> = volumes.mounts.iter().chain(&asked.mounts).collect();
    all.sort_by_key(|mount| Path::new(&mount.destination).components().count());
    for (index, mount) in all.iter().enumerate() {
        let path = Path::new(&mount.destination);
        if all[..index]
            .iter()
            .any(|other| Path::new(&other.destination) == path)
        {
            return Err(
                Error::new(format!("two mounts go to {path:?}")).hint("take out one of the two")
            );
        }
        let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        let made = match &mount.source {
            Some(source) => bind(source, &mount.destination, &options)?,
            None => json!({
                "destination": mount.destination,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": options,
            }),
        };
        mounts.push(made);
    }
    Ok(())
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Value> {
    let source = source.to_str().ok_or_else(|| {
        Error::new(format!(
            "the path {source:?} is not UTF-8, and config.json is"
        ))
        .hint("give it another name")
    })?;
    Ok(json!({
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": options,
    }))
}

/// The network that a sysfs shows must be the container's own to be mounted anew; the host's is bound.
fn bind_sys(mounts: &mut [Value]) {
    for mount in mounts {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys",
                "type": "bind",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "rro"],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: Option<&str>, destination: &str) -> AskedMount {
        AskedMount {
            source: source.map(Into::into),
            destination: destination.to_owned(),
            options: vec!["rbind".to_owned()],
        }
    }

    fn volumes(list: &[&str], asked: &Asked) -> (Volumes, Vec<Note>) {
        let list: Vec<String> = list.iter().map(|&path| path.to_owned()).collect();
        let mut notes = Vec::new();
        let found = Volumes::new(&list, asked, &mut notes);
        (found, notes)
    }

    #[test]
    fn places_for_mounts() {
        for path in ["/a", "/a/b", "/a/", "/a/./b", "//a"] {
            assert!(is_place(path), "{path:?}");
        }
        for path in [
            "", "/", "//", "/.", "a", "./a", "/..", "/a/..", "/a/../b", "../a",
        ] {
            assert!(!is_place(path), "{path:?}");
        }
    }

    #[test]
    fn a_volume_loses_nothing() {
        let mut asked = Asked {
            mounts: vec![mount(Some("/h"), "/mine")],
            ..Asked::default()
        };
        let list = [
            "/data",
            "/mine",
            "/mine/deeper",
            "/minetoo",
            "/",
            "/x/../proc",
            "/proc/sys",
            "rel",
            "/dev",
        ];
        let (found, notes) = volumes(&list, &asked);
        assert_eq!(found.directories, ["/data", "/minetoo"]);
        assert_eq!(found.mounts, []);
        assert_eq!(notes.len(), 5, "{notes:?}");
        asked.read_only = true;
        let (found, notes) = volumes(&list, &asked);
        let places: Vec<&str> = found
            .mounts
            .iter()
            .map(|m| m.destination.as_str())
            .collect();
        assert_eq!(places, ["/data", "/minetoo"]);
        assert!(found.mounts[0].options.contains(&"tmpcopyup".to_owned()));
        assert_eq!(found.directories, [""; 0]);
        assert_eq!(notes.len(), 7, "{notes:?}");
    }

    fn added(asked: &Asked) -> Result<Vec<(String, String)>> {
        let mut config = json!({"mounts": [{"destination": "/sys", "type": "sysfs"}]});
        add(&mut config, asked, &Volumes::default())?;
        let mounts = config["mounts"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(mounts
            .iter()
            .map(|m| (text(&m["destination"]), text(&m["source"])))
            .collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    }

    #[test]
    fn outer_mounts_come_first() {
        let asked = Asked {
            mounts: vec![
                mount(Some("/1"), "/a/b/"),
                mount(None, "/a"),
                mount(Some("/2"), "/c"),
            ],
            ..Asked::default()
        };
        let expected = [("/sys", ""), ("/a", "tmpfs"), ("/c", "/2"), ("/a/b/", "/1")];
        assert_eq!(added(&asked), Ok(pairs(&expected)));
    }

    #[test]
    fn two_mounts_in_one_place_are_refused() {
        let asked = Asked {
            mounts: vec![mount(Some("/1"), "/a"), mount(None, "/a/")],
            ..Asked::default()
        };
        assert!(
            added(&asked)
                .unwrap_err()
                .message()
                .contains("two mounts go to")
        );
    }

    #[test]
    fn the_hosts_network_comes_with_its_files() {
        let file = |name: &str| (name.into(), name.to_owned());
        let asked = Asked {
            network: Network::Host {
                files: vec![file("/etc/hosts"), file("/etc/resolv.conf")],
            },
            mounts: vec![mount(Some("/h"), "/etc/hosts")],
            ..Asked::default()
        };
        let expected = [
            ("/sys", "/sys"),
            ("/etc/resolv.conf", "/etc/resolv.conf"),
            ("/etc/hosts", "/h"),
        ];
        assert_eq!(added(&asked), Ok(pairs(&expected)));
    }
}
