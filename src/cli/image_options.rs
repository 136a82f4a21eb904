//! The options of `run` and `create` for a container of an image.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::size;
use crate::error::{Doing, Error, Result};
use crate::image::config::{Asked, AskedMount, Network, Variable, is_place};
use crate::sys;

/// The largest file of variables that is read, in bytes.
const ENV_FILE_LIMIT: usize = 1 << 20;
/// Files of the host that tell of its network.
const NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Which image, and what is different from what it says.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ImageRun {
    /// Run the image NAME, in place of a bundle
    ///
    /// The program, its environment, user and working directory are what the image says and the options change. The root
    /// filesystem is the image's, with a layer for what the container writes, which `delete` removes.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["bundle", "config"])]
    image: Option<String>,
    /// Set an environment variable; NAME alone takes yours, or takes it out if you have none
    #[arg(short, long, value_name = "NAME[=VALUE]", requires = "image")]
    env: Vec<String>,
    /// Read environment variables from FILE, one a line as with --env
    ///
    /// Empty lines and those that begin with # are passed over. --env comes after it.
    #[arg(long, value_name = "FILE", requires = "image")]
    env_file: Vec<PathBuf>,
    /// Run as this user, by name or number, in place of the image's
    ///
    /// Names are looked up in the image. A user by name without a group has its supplementary groups too.
    #[arg(short, long, value_name = "USER[:GROUP]", requires = "image")]
    user: Option<String>,
    /// The working directory, in place of the image's
    #[arg(short, long, value_name = "DIR", requires = "image")]
    workdir: Option<String>,
    /// The program, in place of the image's entry point and arguments; may be a JSON list, or empty for none
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    entrypoint: Option<String>,
    /// Mount the file or directory SRC of the host at DST
    ///
    /// SRC has to be there, and a relative one has a slash in it. Options, with commas between them: ro (of the whole tree),
    /// rw, bind (without what is mounted beneath it), noexec, exec, suid, dev, noatime, private, slave, shared (and rprivate,
    /// rslave, rshared).
    #[arg(short, long, value_name = "SRC:DST[:OPTIONS]", requires = "image")]
    volume: Vec<String>,
    /// Mount an empty tmpfs at DST; OPTIONS are those of tmpfs(5), like size=64m
    #[arg(long, value_name = "DST[:OPTIONS]", requires = "image")]
    tmpfs: Vec<String>,
    /// Make the root filesystem read-only; the image's volumes become a tmpfs each
    #[arg(long, requires = "image")]
    read_only: bool,
    /// The network: none but a loopback device of its own, or the host's
    #[arg(
        long,
        value_name = "NETWORK",
        default_value = "none",
        requires = "image"
    )]
    network: NetworkWord,
    /// The host name [default: of the id, what can be in one]
    #[arg(long, value_name = "NAME", requires = "image")]
    hostname: Option<String>,
    /// Add an annotation to the config
    #[arg(long, value_name = "KEY=VALUE", requires = "image")]
    annotation: Vec<String>,
    /// Add a capability to podman's default ones; ALL adds every one
    #[arg(long, value_name = "CAP", requires = "image")]
    cap_add: Vec<String>,
    /// Leave out a capability; ALL leaves out every one that is not added
    #[arg(long, value_name = "CAP", requires = "image")]
    cap_drop: Vec<String>,
    /// Let the program gain no privileges by set-user-id programs and file capabilities (no_new_privs)
    #[arg(long, requires = "image")]
    no_new_privileges: bool,
    #[command(flatten)]
    upper: Upper,
}

/// Where what the container writes goes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Upper {
    /// Keep what the container writes in memory, up to SIZE [default: half of the memory]
    ///
    /// For a home on a filesystem that cannot be the upper layer of an overlay, like NFS. It is gone when the container ends.
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0",
        value_parser = tmpfs_size,
        requires = "image",
        conflicts_with_all = ["keep_changes", "copy", "read_only"],
    )]
    pub(super) tmpfs_upper: Option<u64>,
    /// Keep what the container wrote when `delete` removes the rest of it
    #[arg(long, requires = "image", conflicts_with = "read_only")]
    pub(super) keep_changes: bool,
    /// Copy the image's files for this container, in place of an overlay
    #[arg(long, requires = "image")]
    pub(super) copy: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum NetworkWord {
    #[default]
    None,
    Host,
}

/// Bytes of a tmpfs; 0 is for the kernel's default.
fn tmpfs_size(text: &str) -> std::result::Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    let bytes = size::parse(text)?;
    u64::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is no size of a filesystem"))
}

impl ImageRun {
    /// The image's name, if the container is to be one of an image.
    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Where what the container writes goes.
    pub(super) fn upper(&self) -> &Upper {
        &self.upper
    }

    /// What is asked for, for a container with this `id` and terminal; `args` are those after the id. Reads the environment
    /// and files of the caller's: to be called where she is. `setgroups`: as in [`Asked`].
    pub(super) fn asked(
        &self,
        id: &str,
        args: &[String],
        tty: bool,
        setgroups: bool,
    ) -> Result<Asked> {
        Ok(Asked {
            image: self.image.clone().unwrap_or_default(),
            id: id.to_owned(),
            args: args.to_vec(),
            entrypoint: self.entrypoint.as_deref().map(entrypoint).transpose()?,
            variables: self.variables()?,
            user: self.user.clone(),
            cwd: self.workdir.clone(),
            tty,
            read_only: self.read_only,
            no_new_privileges: self.no_new_privileges,
            hostname: self.hostname.clone(),
            network: match self.network {
                NetworkWord::None => Network::None,
                NetworkWord::Host => Network::Host {
                    files: NETWORK_FILES.into_iter().filter_map(network_file).collect(),
                },
            },
            mounts: self.mounts()?,
            annotations: self.annotations()?,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            setgroups,
        })
    }

    fn variables(&self) -> Result<Vec<Variable>> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            let what = || format!("--env-file: cannot read {path:?}");
            let text = sys::path::read_regular(path, ENV_FILE_LIMIT).doing(what)?;
            let text =
                String::from_utf8(text).map_err(|error| Error::new(what()).because(error))?;
            for line in text.lines().map(str::trim_start) {
                if !line.is_empty() && !line.starts_with('#') {
                    variables.push(variable("--env-file", line)?);
                }
            }
        }
        for text in &self.env {
            variables.push(variable("--env", text)?);
        }
        Ok(variables)
    }

    fn mounts(&self) -> Result<Vec<AskedMount>> {
        let binds = self.volume.iter().map(|text| bind(text));
        let new = self.tmpfs.iter().map(|text| tmpfs(text));
        binds.chain(new).collect()
    }

    fn annotations(&self) -> Result<Vec<(String, String)>> {
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(
                Error::new(format!("--annotation: {text:?} is not KEY=VALUE"))
                    .hint("give both, with `=` between them"),
            ),
        };
        self.annotation.iter().map(pair).collect()
    }
}

/// A program and its arguments as a JSON list, or its name alone.
fn entrypoint(text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if !text.starts_with('[') {
        return Ok(vec![text.to_owned()]);
    }
    serde_json::from_str(text).map_err(|error| {
        Error::new(format!("--entrypoint: {text:?} is no list of strings"))
            .because(error)
            .hint(r#"give a program, or a list like ["sh", "-c"]"#)
    })
}

fn variable(option: &str, text: &str) -> Result<Variable> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(
            Error::new(format!("{option}: {text:?} has no name of a variable"))
                .hint("give NAME=VALUE, or NAME for the one that you have"),
        );
    }
    let own = || match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::new(format!(
            "{option}: your variable {name} is not UTF-8, and config.json is"
        ))
        .hint("give NAME=VALUE with another value")),
    };
    let value = value.map_or_else(own, |value| Ok(Some(value)))?;
    Ok(match value {
        Some(value) => Variable::Set(name.to_owned(), value),
        None => Variable::Unset(name.to_owned()),
    })
}

/// A file that tells of the host's network and is there, wherever links lead to, and its place.
fn network_file(path: &str) -> Option<(PathBuf, String)> {
    let source = std::fs::canonicalize(path).ok()?;
    source.is_file().then(|| (source, path.to_owned()))
}

/// `SRC:DST[:OPTIONS]`.
fn bind(text: &str) -> Result<AskedMount> {
    let wrong = |why: &str| Error::new(format!("--volume: {text:?}: {why}"));
    let form = "give SRC:DST or SRC:DST:OPTIONS";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts.as_slice() {
        [source, destination] => (*source, *destination, ""),
        [source, destination, options] => (*source, *destination, *options),
        [_] => {
            return Err(
                wrong("there are no volumes without a directory of the host")
                    .hint(format!("{form}; --tmpfs DST is for what nobody keeps")),
            );
        }
        _ => return Err(wrong("it has too many parts").hint(form)),
    };
    if source.is_empty() {
        return Err(wrong("SRC is empty").hint(form));
    }
    if !source.contains('/') && source != "." && source != ".." {
        return Err(wrong("there are no volumes by name")
            .hint(format!("give a path: ./{source} for the directory here")));
    }
    check_place("--volume", text, destination)?;
    let source = std::fs::canonicalize(source).map_err(|error| {
        let error_is_missing = error.kind() == ErrorKind::NotFound;
        let told = wrong("SRC cannot be used").because(error);
        if error_is_missing {
            told.hint("make it first: mkdir -p")
        } else {
            told
        }
    })?;
    Ok(AskedMount {
        source: Some(source),
        destination: destination.to_owned(),
        options: bind_options(text, options)?,
    })
}

/// What is mounted at `place` must be able to be there.
fn check_place(option: &str, text: &str, place: &str) -> Result<()> {
    if is_place(place) {
        return Ok(());
    }
    Err(Error::new(format!(
        "{option}: {text:?}: nothing can be mounted at {place:?}"
    ))
    .hint("DST is an absolute path without `..`, and not /"))
}

/// Mount options of a bind, upon those by default: the whole tree, and nothing in it that would give a privilege.
fn bind_options(text: &str, options: &str) -> Result<Vec<String>> {
    let mut made = vec!["rbind", "rprivate", "nosuid", "nodev"];
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rbind" => {}
            "rw" => made.retain(|other| *other != "rro"),
            "ro" => made.push("rro"),
            "bind" => made[0] = "bind",
            "suid" => made.retain(|other| *other != "nosuid"),
            "dev" => made.retain(|other| *other != "nodev"),
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => made[1] = option,
            "exec" | "noexec" | "nosuid" | "nodev" | "noatime" => made.push(option),
            "z" | "Z" => {
                return Err(Error::new(format!(
                    "--volume: {text:?}: files are not relabelled ({option})"
                ))
                .hint("chcon(1) gives them a label that the container may use"));
            }
            _ => {
                return Err(Error::new(format!(
                    "--volume: {text:?}: there is no option {option:?}"
                ))
                .hint("`lodger help run` lists them"));
            }
        }
    }
    Ok(made.into_iter().map(str::to_owned).collect())
}

/// `DST[:OPTIONS]`.
fn tmpfs(text: &str) -> Result<AskedMount> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    check_place("--tmpfs", text, destination)?;
    let asked = options.split(',').filter(|option| !option.is_empty());
    let options = ["nosuid", "nodev"].into_iter().chain(asked);
    Ok(AskedMount {
        source: None,
        destination: destination.to_owned(),
        options: options.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
#[path = "image_options_tests.rs"]
mod tests;
