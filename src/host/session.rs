//! The user's systemd session: where her manager listens, and what becomes of her processes when she logs out.
//!
//! Only the user's own manager is looked for, never the system's. The environment may be a stranger's, as after su(1) and sudo(8): a
//! socket counts only if it belongs to the caller, and whoever connects asks the kernel who serves it (SO_PEERCRED).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::MapLine;
use crate::sys::defence::{Defence, is_on};
use crate::sys::path::read_regular;

/// The most that is read of one file, in bytes.
const MAX_FILE: usize = 1 << 20;

/// Where lingering users are listed (loginctl(1), enable-linger).
const LINGER: &str = "/var/lib/systemd/linger";

/// Where logind.conf(5) may be, what is looked at first at the begin.
const LOGIND: [&str; 4] = [
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
];

/// Where the caller's manager can be spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReading {
    /// The sockets that are there and belong to the caller, in the order to be tried.
    pub sockets: Vec<BusSocket>,
    /// What was passed over, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
    /// What becomes of the caller's processes when she logs out; read only for what is to outlive her session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logout: Option<LogoutReading>,
}

/// A socket of the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusSocket {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is the manager's own, with no bus between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// What becomes of the caller's processes when she logs out (logind.conf(5), loginctl(1)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoutReading {
    /// Whether her manager, and so every scope of it, stays.
    pub lingering: bool,
    /// KillUserProcesses: whether all that is left of a session is killed with it. `None`: nothing says so.
    pub kill_user_processes: Option<bool>,
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub struct SessionPlaces<'a> {
    /// `$DBUS_SESSION_BUS_ADDRESS`.
    pub address: Option<&'a OsStr>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_directory: Option<&'a OsStr>,
    /// The caller's uid in this user namespace: whose a socket must be.
    pub uid: u32,
    /// Her uid in the user namespace that systemd runs in, if it can be known.
    pub host_uid: Option<u32>,
}

impl SessionReading {
    /// Looks for the sockets of `uid`'s manager; `uid_map` is that of this user namespace.
    pub fn find(uid: u32, uid_map: &[MapLine]) -> Self {
        let address = std::env::var_os("DBUS_SESSION_BUS_ADDRESS");
        let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR");
        Self::look(SessionPlaces {
            address: address.as_deref(),
            runtime_directory: runtime_directory.as_deref(),
            uid,
            host_uid: host_uid(uid, uid_map),
        })
    }

    /// As [`SessionReading::find`], for this process.
    pub fn of_caller() -> Self {
        Self::find(crate::sys::cred::uid(), &super::own_uid_map())
    }

    /// As [`SessionReading::find`], in the places given.
    pub fn look(places: SessionPlaces<'_>) -> Self {
        let mut found = Self::default();
        let mut seen = Vec::new();
        for candidate in candidates(places) {
            match candidate {
                Err(why) => found.passed_over.push(why),
                Ok(candidate) => found.consider(candidate, places.uid, &mut seen),
            }
        }
        found
    }

    /// Takes the socket if it is one and the caller's; one that has several names, once.
    fn consider(&mut self, candidate: Candidate, uid: u32, seen: &mut Vec<(u64, u64)>) {
        let Candidate { path, direct, from } = candidate;
        let mut pass_over = |why: String| {
            let from = from.map_or_else(String::new, |from| format!(" ({from})"));
            self.passed_over.push(format!("{path:?}{from} {why}"));
        };
        let stat = match rustix::fs::stat(&path) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return pass_over("is not there".to_owned()),
            Err(rustix::io::Errno::ACCESS) => return pass_over("is out of reach".to_owned()),
            Err(e) => return pass_over(format!("cannot be looked at: {e}")),
        };
        if seen.contains(&(stat.st_dev, stat.st_ino)) {
            return;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return pass_over("is not a socket".to_owned());
        }
        if stat.st_uid != uid && is_on(Defence::OwnBus) {
            return pass_over(format!("belongs to uid {}", stat.st_uid));
        }
        seen.push((stat.st_dev, stat.st_ino));
        self.sockets.push(BusSocket { path, direct });
    }

    /// Why there is nobody to speak to, as a clause.
    pub fn why_none(&self) -> String {
        if self.passed_over.is_empty() {
            return "there is no systemd of the caller's".to_owned();
        }
        format!(
            "there is no systemd of the caller's: {}",
            self.passed_over.join("; ")
        )
    }

    /// Takes none of the sockets, for this reason.
    pub fn refuse(&mut self, why: impl std::fmt::Display) {
        self.sockets.clear();
        self.passed_over.push(why.to_string());
    }

    /// Reads what becomes of `user_name`'s processes when she logs out.
    pub fn learn_logout(&mut self, user_name: Option<&str>) {
        self.logout = Some(LogoutReading {
            lingering: user_name.is_some_and(lingers),
            kill_user_processes: parse_kill_user_processes(&logind_files()),
        });
    }
}

struct Candidate {
    path: PathBuf,
    direct: bool,
    /// The variable that names it.
    from: Option<&'static str>,
}

/// What is to be looked at, in order, no path twice; and what is not even looked at.
fn candidates(places: SessionPlaces<'_>) -> Vec<Result<Candidate, String>> {
    let mut found: Vec<Result<Candidate, String>> = Vec::new();
    let address = places.address.unwrap_or_default();
    for part in parse_bus_address(address.as_bytes()) {
        let from = Some("$DBUS_SESSION_BUS_ADDRESS");
        found.push(match part {
            Ok(path) => Ok(Candidate {
                path,
                direct: false,
                from,
            }),
            Err(why) => Err(format!("$DBUS_SESSION_BUS_ADDRESS: {why}")),
        });
    }
    let mut add = |path: PathBuf, direct, from| {
        let there = |c: &Result<Candidate, String>| c.as_ref().is_ok_and(|c| c.path == path);
        if !found.iter().any(there) {
            found.push(Ok(Candidate { path, direct, from }));
        }
    };
    let directory = places.runtime_directory.filter(|d| !d.is_empty());
    let directory = directory.map(Path::new);
    if let Some(directory) = directory.filter(|d| d.is_absolute()) {
        add(directory.join("bus"), false, Some("$XDG_RUNTIME_DIR"));
    }
    if let Some(host_uid) = places.host_uid {
        let usual = PathBuf::from(format!("/run/user/{host_uid}"));
        add(usual.join("bus"), false, None);
        add(usual.join("systemd/private"), true, None);
    }
    if let Some(directory) = directory.filter(|d| !d.is_absolute()) {
        found.push(Err(format!(
            "$XDG_RUNTIME_DIR: {directory:?} is not an absolute path"
        )));
    }
    found
}

/// The paths that a D-Bus address names, in order, and why others of its parts are not used (D-Bus specification, "Server
/// Addresses").
///
/// Nothing but a path is taken. `unixexec:` runs a program and `tcp:` has no owner that the kernel vouches for; an abstract name
/// belongs to whoever took it first, in this network namespace, and no user manager's bus has one.
pub fn parse_bus_address(address: &[u8]) -> Vec<Result<PathBuf, String>> {
    address
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
        .map(parse_one_address)
        .collect()
}

fn parse_one_address(part: &[u8]) -> Result<PathBuf, String> {
    let shown = || String::from_utf8_lossy(part);
    let Some(keys) = part.strip_prefix(b"unix:") else {
        return Err(format!("{:?} is not unix:path=…", shown()));
    };
    let value = keys
        .split(|byte| *byte == b',')
        .find_map(|pair| pair.strip_prefix(b"path="));
    let Some(value) = value else {
        return Err(format!("{:?} names no path", shown()));
    };
    let path = unescape(value).ok_or_else(|| format!("{:?} is badly escaped", shown()))?;
    let path = PathBuf::from(OsStr::from_bytes(&path));
    if !path.is_absolute() {
        return Err(format!("{path:?} is not an absolute path"));
    }
    Ok(path)
}

/// Undoes `%` and two hexadecimal digits; `None` when there is something else, or a NUL, which no path has.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            plain.push(*byte);
            continue;
        }
        let mut digit = || char::from(*rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        plain.push(u8::try_from(high * 16 + low).ok()?);
    }
    (!plain.contains(&0)).then_some(plain)
}

/// `uid` as the parent user namespace has it.
pub fn host_uid(uid: u32, uid_map: &[MapLine]) -> Option<u32> {
    let line = uid_map.iter().find(|line| line.has(uid))?;
    line.outside.checked_add(uid - line.inside)
}

fn lingers(user_name: &str) -> bool {
    // A name with a slash is no account's, and would be a path.
    !user_name.contains('/') && Path::new(LINGER).join(user_name).exists()
}

/// The texts of logind.conf(5) that hold, the weakest first.
fn logind_files() -> Vec<String> {
    let read = |path: &Path| {
        let bytes = read_regular(path, MAX_FILE).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let main = LOGIND
        .iter()
        .find_map(|directory| read(&Path::new(directory).join("logind.conf")));
    let mut texts: Vec<String> = main.into_iter().collect();
    texts.extend(drop_ins().iter().filter_map(|path| read(path)));
    texts
}

/// The drop-ins, in the order of their names; of those with the same name only the one of the first directory counts.
fn drop_ins() -> Vec<PathBuf> {
    let mut found = std::collections::BTreeMap::new();
    for directory in LOGIND {
        let directory = Path::new(directory).join("logind.conf.d");
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            if name.as_bytes().ends_with(b".conf") {
                found.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    found.into_values().collect()
}

/// What the last of `texts` that says something says of KillUserProcesses. If none does, what the file that is installed with
/// systemd has as a comment: the value that is built in, which distributions choose.
pub fn parse_kill_user_processes(texts: &[String]) -> Option<bool> {
    let (mut said, mut built_in) = (None, None);
    for line in texts.iter().flat_map(|text| text.lines()) {
        let line = line.trim();
        let comment = line.strip_prefix('#').map(str::trim_start);
        let Some((key, value)) = comment.unwrap_or(line).split_once('=') else {
            continue;
        };
        if key.trim_end() != "KillUserProcesses" {
            continue;
        }
        let target = if comment.is_some() {
            &mut built_in
        } else {
            &mut said
        };
        *target = parse_boolean(value.trim()).or(*target);
    }
    said.or(built_in)
}

/// A boolean of systemd.syntax(7).
fn parse_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
