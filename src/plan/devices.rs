//! Device nodes: those that every container has, and those that the config asks for.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use super::mounts::clean;
use super::{Ids, Link};
use crate::bundle::Problem;

/// A device node, bound from the host because mknod(2) is refused in a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path in the container, and on the host; where the host's node there is not the one that the config asks
    /// for, the host's node of the same numbers is taken.
    pub path: PathBuf,
    /// Whether it is a block device; else it is a character device.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub block: bool,
    /// Major number the host's node must have.
    pub major: u32,
    /// Minor number the host's node must have.
    pub minor: u32,
    /// What the config says of it. `None`: it is there in every container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

/// What the config says of a device (config-linux.md, "Devices"). The node is the host's: what of this is otherwise
/// there cannot be changed, and is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// JSON pointer to the device in config.json.
    pub property: String,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner, in the container.
    pub uid: Option<u32>,
    /// Group, in the container.
    pub gid: Option<u32>,
}

/// A FIFO to make (fifo(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// JSON pointer to the device in config.json.
    pub property: String,
    /// Absolute path in the container.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner, in the container.
    pub uid: u32,
    /// Group, in the container.
    pub gid: u32,
}

/// Devices that every container has (config-linux.md, "Default Devices"): name, major, minor.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links that every container has (runtime-linux.md, "Dev symbolic links"; devpts(5) for ptmx): name, target, replace.
const LINKS: [(&str, &str, bool); 5] = [
    ("ptmx", "pts/ptmx", true),
    ("fd", "/proc/self/fd", false),
    ("stdin", "/proc/self/fd/0", false),
    ("stdout", "/proc/self/fd/1", false),
    ("stderr", "/proc/self/fd/2", false),
];

/// The device behind /dev/ptmx, which is a link in every container.
const PTMX: (&str, u32, u32) = ("/dev/ptmx", 5, 2);

/// The largest numbers that mknod(2) takes (linux/kdev_t.h: 12 and 20 bits).
const MAJOR_LIMIT: u32 = (1 << 12) - 1;
const MINOR_LIMIT: u32 = (1 << 20) - 1;

/// The permission bits of a mode, with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;

/// The bits of a mode that say what kind of file it is, which some callers leave in (inode(7), S_IFMT).
const FILE_TYPE: u32 = 0o170_000;

/// The mode of a FIFO that the config gives none.
const FIFO_MODE: u32 = 0o666;

/// Device nodes and FIFOs to make.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Nodes to bind from the host.
    pub devices: Vec<Device>,
    /// FIFOs to make.
    pub fifos: Vec<Fifo>,
}

/// Plans the nodes. `own_dev`: the container's /dev is not the host's, and needs the default ones.
pub(super) fn nodes(
    linux: Option<&Linux>,
    own_dev: bool,
    ids: Ids<'_>,
    problems: &mut Vec<Problem>,
) -> Nodes {
    let default = own_dev.then_some(DEFAULT).into_iter().flatten();
    let mut planner = Planner {
        own_dev,
        ids,
        problems,
        nodes: Nodes {
            devices: default.map(default_device).collect(),
            fifos: Vec::new(),
        },
    };
    let asked = linux.and_then(|l| l.devices().as_deref());
    for (index, device) in asked.unwrap_or_default().iter().enumerate() {
        planner.plan(&format!("/linux/devices/{index}"), device);
    }
    planner.nodes
}

/// The links of /dev.
pub(super) fn links() -> Vec<Link> {
    let link = |(name, target, replace)| Link {
        path: Path::new("/dev").join(name),
        target: PathBuf::from(target),
        replace,
    };
    LINKS.map(link).to_vec()
}

fn default_device((name, major, minor): (&str, u32, u32)) -> Device {
    Device {
        path: Path::new("/dev").join(name),
        block: false,
        major,
        minor,
        asked: None,
    }
}

struct Planner<'a> {
    own_dev: bool,
    ids: Ids<'a>,
    problems: &'a mut Vec<Problem>,
    nodes: Nodes,
}

impl Planner<'_> {
    fn plan(&mut self, property: &str, asked: &LinuxDevice) {
        let Some(path) = self.path(property, asked.path()) else {
            return;
        };
        let mode = self.mode(property, asked.file_mode());
        match asked.typ() {
            LinuxDeviceType::P => self.fifo(property, path, mode, asked),
            kind => self.device(property, path, mode, (kind, asked)),
        }
    }

    fn path(&mut self, property: &str, asked: &Path) -> Option<PathBuf> {
        let path = clean(asked);
        let message = if path == Path::new("/") {
            "names no file"
        } else if path.starts_with("/proc") {
            "no device may be put into /proc"
        } else {
            return Some(path);
        };
        self.problem(property, "/path", message);
        None
    }

    fn mode(&mut self, property: &str, mode: Option<u32>) -> Option<u32> {
        if mode.is_some_and(|mode| mode & !(PERMISSIONS | FILE_TYPE) != 0) {
            self.problem(property, "/fileMode", "has more than permission bits");
        }
        mode.map(|mode| mode & PERMISSIONS)
    }

    fn fifo(&mut self, property: &str, path: PathBuf, mode: Option<u32>, asked: &LinuxDevice) {
        if (asked.major(), asked.minor()) != (0, 0) {
            self.problem(property, "/type", "a FIFO (\"p\") has no numbers");
        }
        let (uid, gid) = (asked.uid().unwrap_or(0), asked.gid().unwrap_or(0));
        for (member, id, has) in [
            ("/uid", uid, self.ids.has_uid(uid)),
            ("/gid", gid, self.ids.has_gid(gid)),
        ] {
            if !has {
                let message = format!("{id} is not mapped in the container's user namespace");
                self.problem(property, member, message);
            }
        }
        if self.nodes.devices.iter().any(|d| d.path == path) {
            self.problem(property, "/path", format!("{path:?} is a device already"));
        }
        let fifo = Fifo {
            property: property.to_owned(),
            path,
            mode: mode.unwrap_or(FIFO_MODE),
            uid,
            gid,
        };
        match self.nodes.fifos.iter().find(|f| f.path == fifo.path) {
            None => self.nodes.fifos.push(fifo),
            Some(first) => {
                let message = format!("{:?} is {} already", fifo.path, first.property);
                self.problem(property, "/path", message);
            }
        }
    }

    fn device(
        &mut self,
        property: &str,
        path: PathBuf,
        mode: Option<u32>,
        (kind, asked): (LinuxDeviceType, &LinuxDevice),
    ) {
        let numbers = [
            ("/major", asked.major(), MAJOR_LIMIT),
            ("/minor", asked.minor(), MINOR_LIMIT),
        ];
        let [major, minor] = numbers.map(|(member, value, limit)| {
            let number = u32::try_from(value).ok().filter(|n| *n <= limit);
            if number.is_none() {
                self.problem(property, member, format!("is not within 0 and {limit}"));
            }
            number
        });
        let Some((major, minor)) = major.zip(minor) else {
            return;
        };
        let device = Device {
            path,
            block: kind == LinuxDeviceType::B,
            major,
            minor,
            asked: Some(Asked {
                property: property.to_owned(),
                mode,
                uid: asked.uid(),
                gid: asked.gid(),
            }),
        };
        self.add(property, device);
    }

    /// Adds the device, if its path is free; what is there already with the same numbers is what is asked for.
    fn add(&mut self, property: &str, device: Device) {
        let (path, major, minor) = PTMX;
        let same = |other: &Device| {
            (other.block, other.major, other.minor) == (device.block, device.major, device.minor)
        };
        if self.own_dev && device.path == Path::new(path) {
            if (device.block, device.major, device.minor) != (false, major, minor) {
                let message =
                    format!("{path:?} is the container's own: character device {major}:{minor}");
                self.problem(property, "/path", message);
            }
            return;
        }
        if let Some(fifo) = self.nodes.fifos.iter().find(|f| f.path == device.path) {
            let message = format!("{:?} is {} already", fifo.path, fifo.property);
            self.problem(property, "/path", message);
            return;
        }
        let place = self
            .nodes
            .devices
            .iter()
            .position(|d| d.path == device.path);
        match place.map(|place| &mut self.nodes.devices[place]) {
            None => self.nodes.devices.push(device),
            Some(present) if same(present) => present.asked = device.asked,
            Some(present) => {
                let message = format!("{:?} is {} already", present.path, present.described());
                self.problem(property, "/path", message);
            }
        }
    }

    fn problem(&mut self, property: &str, member: &str, message: impl AsRef<str>) {
        let pointer = format!("{property}{member}");
        self.problems.push(Problem::new(pointer, message));
    }
}

impl Device {
    /// `character device 1:3`.
    pub fn described(&self) -> String {
        let kind = if self.block { "block" } else { "character" };
        format!("{kind} device {}:{}", self.major, self.minor)
    }
}
