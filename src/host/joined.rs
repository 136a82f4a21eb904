//! The namespaces that a config names by path: opened and looked at before this process goes into another user
//! namespace, from where fewer of them can be opened (ptrace(2), "Ptrace access mode checking").

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use super::{HostFacts, MapLine, parse_id_map};
use crate::sys;
use crate::sys::defence::{Defence, is_on};
use crate::sys::ns::flag;
use crate::sys::process::Cloned;

/// How deep user namespaces nest (user_namespaces(7)).
const MAX_DEPTH: usize = 33;

/// The longest id map.
const MAP_LIMIT: usize = 64 << 10;

/// What is at the path of one element of `linux.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceReading {
    /// Which element.
    pub index: usize,
    /// What was found.
    pub found: Found,
}

/// What was found at a path that is to be a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Found {
    /// Nothing that this caller can join.
    Unusable {
        /// Why not, and what would help.
        reason: String,
    },
    /// The namespace that the caller is in.
    Present,
    /// A user namespace that the caller can join.
    User {
        /// Its uid map, as the caller's own user namespace sees it.
        uid_map: Vec<MapLine>,
        /// Its gid map, likewise.
        gid_map: Vec<MapLine>,
        /// Whether setgroups(2) is allowed in it.
        setgroups: bool,
    },
    /// Another namespace that the caller can join.
    Other {
        /// Whether it belongs to the user namespace that the config names by path, or to one within that.
        beneath_user: bool,
    },
}

/// Namespaces to join, held open.
#[derive(Debug, Default)]
pub struct Joinable {
    readings: Vec<NamespaceReading>,
    files: BTreeMap<usize, OwnedFd>,
    has_user: bool,
    outer: Option<OwnedFd>,
}

/// Whether `config` may name a namespace by path, or network devices: what is found by looking at the text alone, which
/// never misses one.
pub fn may_join(config: &[u8]) -> bool {
    const LIST: &[u8] = b"\"namespaces\"";
    const PATH: &[u8] = b"\"path\"";
    let has = |text: &[u8], word: &[u8]| text.windows(word.len()).any(|found| found == word);
    // A name may be written with escapes (RFC 8259 §7): those of letters.
    let escapes: [&[u8]; 3] = [b"\\u004", b"\\u006", b"\\u007"];
    if has(config, b"\"netDevices\"") || escapes.iter().any(|escape| has(config, escape)) {
        return true;
    }
    let mut rest = config;
    while let Some(at) = rest.windows(LIST.len()).position(|found| found == LIST) {
        rest = &rest[at + LIST.len()..];
        if has(&rest[..end_of_list(rest)], PATH) {
            return true;
        }
    }
    false
}

/// Where the list ends that `text` begins with, after a colon; 0 where none begins there.
fn end_of_list(text: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b':' | b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

impl Joinable {
    /// Opens what `namespaces` name by path, and looks what it is. What cannot be joined is a reading, not an error.
    pub fn look(namespaces: &[LinuxNamespace], facts: &HostFacts) -> Self {
        let mut found = Self::default();
        let Some(caller) = Caller::look(facts) else {
            return found;
        };
        let named =
            |n: &LinuxNamespace| n.path().as_ref().is_some_and(|p| !p.as_os_str().is_empty());
        let is_user = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::User;
        let named = || namespaces.iter().enumerate().filter(|(_, n)| named(n));
        // The user namespace first: the others may be beneath it.
        let ordered = named()
            .filter(|(_, n)| is_user(n))
            .chain(named().filter(|(_, n)| !is_user(n)));
        let mut user = None;
        for (index, namespace) in ordered {
            let looked = found.examine(namespace, &caller, user);
            let reading = looked.unwrap_or_else(|reason| Opened {
                found: Found::Unusable { reason },
                file: None,
            });
            if let Some(file) = reading.file {
                if is_user(namespace) {
                    user = sys::ns::identity(&file).ok();
                    found.has_user = true;
                }
                found.files.insert(index, file);
            }
            found.readings.push(NamespaceReading {
                index,
                found: reading.found,
            });
        }
        found
    }

    /// What was found, for the plan.
    pub fn readings(&self) -> Vec<NamespaceReading> {
        self.readings.clone()
    }

    /// The namespace that element `index` names, if it can be joined.
    pub fn file(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.files.get(&index).map(AsFd::as_fd)
    }

    /// Whether a user namespace is among them.
    pub fn has_user(&self) -> bool {
        self.has_user
    }

    /// The user namespace, a child of the caller's present one, that all of them are in: whoever is to join one has to go
    /// through it. `None` where the caller's present one has power over them.
    pub fn outer(&self) -> Option<BorrowedFd<'_>> {
        self.outer.as_ref().map(AsFd::as_fd)
    }

    fn examine(
        &mut self,
        namespace: &LinuxNamespace,
        caller: &Caller,
        user: Option<Identity>,
    ) -> Result<Opened, String> {
        let kind = Kind::of(namespace.typ());
        let file = open(namespace, &kind)?;
        let identity = sys::ns::identity(&file).map_err(|e| e.to_string())?;
        let present = identity_of_own(kind.name)?;
        if identity == present {
            return kind.present();
        }
        let owner = match kind.flag {
            flag::USER => file.try_clone().map_err(|e| e.to_string())?,
            _ => sys::ns::owning(file.as_fd()).map_err(|_| kind.out_of_reach())?,
        };
        let (within, outer) = caller.reach(owner, &kind)?;
        let found = match kind.flag {
            flag::USER => maps(&file)?,
            flag::MOUNT => unoccupied(identity).map(|()| Found::Other {
                beneath_user: user.is_some_and(|user| within.contains(&user)),
            })?,
            _ => Found::Other {
                beneath_user: user.is_some_and(|user| within.contains(&user)),
            },
        };
        self.require_outer(outer)?;
        Ok(Opened {
            found,
            file: Some(file),
        })
    }

    /// All namespaces must be in one and the same child of the present user namespace: there is a way into one only.
    fn require_outer(&mut self, outer: Option<OwnedFd>) -> Result<(), String> {
        let Some(outer) = outer else { return Ok(()) };
        let identity = |fd: &OwnedFd| sys::ns::identity(fd).map_err(|e| e.to_string());
        match &self.outer {
            None => self.outer = Some(outer),
            Some(known) if identity(known)? == identity(&outer)? => {}
            Some(_) => {
                return Err("belongs to another family of user namespaces than one that is named before it; join \
                            namespaces of containers that were made with the same --root, or of one container"
                    .to_owned());
            }
        }
        Ok(())
    }
}

/// Device and inode (namespaces(7)).
type Identity = (u64, u64);

struct Opened {
    found: Found,
    file: Option<OwnedFd>,
}

/// A kind of namespaces.
struct Kind {
    flag: u32,
    /// Its name in /proc/PID/ns.
    name: &'static str,
    /// Its name in config.json.
    typ: &'static str,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::new(flag::USER, "user", "user"),
        Self::new(flag::MOUNT, "mnt", "mount"),
        Self::new(flag::PID, "pid", "pid"),
        Self::new(flag::IPC, "ipc", "ipc"),
        Self::new(flag::UTS, "uts", "uts"),
        Self::new(flag::NETWORK, "net", "network"),
        Self::new(flag::CGROUP, "cgroup", "cgroup"),
        Self::new(flag::TIME, "time", "time"),
    ];

    const fn new(flag: u32, name: &'static str, typ: &'static str) -> Self {
        Self { flag, name, typ }
    }

    fn of(kind: LinuxNamespaceType) -> Self {
        let [user, mount, pid, ipc, uts, network, cgroup, time] = Self::ALL;
        match kind {
            LinuxNamespaceType::User => user,
            LinuxNamespaceType::Mount => mount,
            LinuxNamespaceType::Pid => pid,
            LinuxNamespaceType::Ipc => ipc,
            LinuxNamespaceType::Uts => uts,
            LinuxNamespaceType::Network => network,
            LinuxNamespaceType::Cgroup => cgroup,
            LinuxNamespaceType::Time => time,
        }
    }

    /// What to make of the namespace that the caller is in: it is shared without being joined.
    fn present(&self) -> Result<Opened, String> {
        match self.flag {
            flag::USER => Err("is the user namespace that you are in, which cannot be joined once more: leave the path out \
                               for a new one, or the element for the usual one"
                .to_owned()),
            flag::MOUNT => Err("is the mount namespace that you are in: the container's root would become yours; leave \
                                the path out"
                .to_owned()),
            _ => Ok(Opened {
                found: Found::Present,
                file: None,
            }),
        }
    }

    fn out_of_reach(&self) -> String {
        format!(
            "this {} namespace belongs to a user namespace around yours, in which you have no capability: leave the path \
             out, or call lodger from there",
            self.typ
        )
    }
}

fn open(namespace: &LinuxNamespace, kind: &Kind) -> Result<OwnedFd, String> {
    let path = namespace.path().as_deref().unwrap_or(Path::new(""));
    if !path.is_absolute() {
        // Said by the checks of the config.
        return Err("must be an absolute path".to_owned());
    }
    let file = sys::ns::open(path).map_err(|error| unopened(&error))?;
    let file = file.ok_or_else(|| {
        "is not a namespace: a path like /proc/PID/ns/net is wanted, or one where such a file is mounted".to_owned()
    })?;
    let found = sys::ns::kind(&file).map_err(|error| error.to_string())?;
    if found == kind.flag {
        return Ok(file);
    }
    let other = Kind::ALL.into_iter().find(|kind| kind.flag == found);
    let other = other.map_or("another", |kind| kind.typ);
    Err(format!(
        "is a namespace of type {other:?}, not {:?}",
        kind.typ
    ))
}

fn unopened(error: &sys::Error) -> String {
    let hint = match error.errno {
        libc::ENOENT => "the process has ended, or the path is mistyped",
        libc::EACCES | libc::EPERM => {
            "its process is not yours, or keeps others from looking into it; to share a namespace that you are in yourself, \
             leave the element out"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {hint}")
}

fn identity_of_own(name: &str) -> Result<Identity, String> {
    let path = format!("/proc/self/ns/{name}");
    let own = sys::path::open_magic(Path::new(&path)).map_err(|error| error.to_string())?;
    sys::ns::identity(own).map_err(|error| error.to_string())
}

/// Who wants to join.
struct Caller {
    user: Identity,
    uid: u32,
    /// Whether her present user namespace has given her CAP_SYS_ADMIN.
    is_privileged: bool,
    in_user_namespace: bool,
}

impl Caller {
    fn look(facts: &HostFacts) -> Option<Self> {
        Some(Self {
            user: identity_of_own("user").ok()?,
            uid: facts.uid,
            is_privileged: facts.in_user_namespace && facts.sys_admin,
            in_user_namespace: facts.in_user_namespace,
        })
    }

    /// Whether the caller has power over what belongs to `owner`. Gives all user namespaces from `owner` up to the present
    /// one, and, where the caller has no power in the present one, the last before it.
    fn reach(
        &self,
        owner: OwnedFd,
        kind: &Kind,
    ) -> Result<(Vec<Identity>, Option<OwnedFd>), String> {
        let mut within = Vec::new();
        let (mut at, mut outer) = (owner, None);
        loop {
            let identity = sys::ns::identity(&at).map_err(|error| error.to_string())?;
            within.push(identity);
            if identity == self.user {
                break;
            }
            if within.len() > MAX_DEPTH {
                return Err(kind.out_of_reach());
            }
            let parent = sys::ns::parent(at.as_fd()).map_err(|_| kind.out_of_reach())?;
            outer = Some(std::mem::replace(&mut at, parent));
        }
        if self.is_privileged {
            return Ok((within, None));
        }
        let Some(outer) = outer else {
            return Err(self.without_power(kind));
        };
        match sys::ns::owner(outer.as_fd()).map_err(|error| error.to_string())? {
            uid if uid == self.uid => Ok((within, Some(outer))),
            uid => Err(format!(
                "this {} namespace belongs to a user namespace of uid {uid}: only that user can join it",
                kind.typ
            )),
        }
    }

    fn without_power(&self, kind: &Kind) -> String {
        let which = match self.in_user_namespace {
            true => "the user namespace that you are in",
            false => "the initial user namespace",
        };
        format!(
            "this {} namespace belongs to {which}, in which you have no CAP_SYS_ADMIN: join one of a container of yours, or \
             leave the path out",
            kind.typ
        )
    }
}

/// The ids of a user namespace, read from a child that has joined it: what can be had of it by path alone is its file.
fn maps(namespace: &OwnedFd) -> Result<Found, String> {
    let what = |error: sys::Error| format!("cannot be joined: {error}");
    let (ours, theirs) = sys::socket::pair().map_err(what)?;
    let child = match sys::process::clone(0).map_err(what)? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            // Once it has joined, processes in there must not look into this one (CVE-2016-9962).
            let joined = sys::cred::die_with_parent(true)
                .and_then(|()| sys::cred::set_dumpable(!is_on(Defence::NotDumpable)))
                .and_then(|()| sys::ns::join_user(namespace.as_fd()));
            let word = joined.err().map_or(String::new(), |e| e.to_string());
            let _nobody_to_tell = sys::socket::send(&theirs, format!("{word}.").as_bytes());
            // Until its maps are read.
            let _end = sys::socket::receive(&theirs);
            sys::process::exit_now(0)
        }
    };
    drop(theirs);
    let word = sys::socket::receive(&ours).map_err(what);
    let read = |name: &str| {
        let path = format!("/proc/{}/{name}", child.pid);
        let text = sys::path::read_regular(Path::new(&path), MAP_LIMIT).map_err(what)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let found = match word {
        Ok(Some(packet)) if packet.content == b"." => read("uid_map").and_then(|uids| {
            Ok(Found::User {
                uid_map: parse_id_map(&uids),
                gid_map: parse_id_map(&read("gid_map")?),
                setgroups: read("setgroups")?.trim() != "deny",
            })
        }),
        Ok(Some(packet)) => {
            let text = String::from_utf8_lossy(&packet.content).into_owned();
            Err(format!("cannot be joined: {}", text.trim_end_matches('.')))
        }
        Ok(None) => Err("cannot be joined: the process that tried has ended".to_owned()),
        Err(error) => Err(error),
    };
    drop(ours);
    let _ended = sys::process::wait(&child);
    match found? {
        Found::User {
            uid_map, gid_map, ..
        } if uid_map.is_empty() || gid_map.is_empty() => {
            Err("has no ids: its uid_map and gid_map have not been written yet".to_owned())
        }
        found => Ok(found),
    }
}

/// A mount namespace that is joined gets another root, and with it every process that is there.
fn unoccupied(namespace: Identity) -> Result<(), String> {
    let what = |error: std::io::Error| format!("cannot tell who is in there: {error}");
    let name = format!("mnt:[{}]", namespace.1);
    let mut inside = Vec::new();
    for process in std::fs::read_dir("/proc").map_err(what)? {
        let process = process.map_err(what)?;
        let link = std::fs::read_link(process.path().join("ns/mnt"));
        if link.is_ok_and(|link| link == Path::new(&name)) {
            inside.push(process.file_name().to_string_lossy().into_owned());
        }
    }
    if inside.is_empty() {
        return Ok(());
    }
    Err(format!(
        "processes are in this mount namespace ({}), and would find themselves in the container's root: leave the path \
         out, or give one that nobody is in",
        inside.join(", ")
    ))
}

#[cfg(test)]
#[path = "joined_tests.rs"]
mod tests;
