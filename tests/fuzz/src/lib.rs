//! What the fuzz targets share: assertions about text and paths, and a mutator that keeps JSON well-formed.

use std::path::{Component, Path};

use serde_json::Value;

/// Fails when `text` holds a character that a terminal might act upon.
pub fn assert_printable(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Fails when a line of `text` does. Errors have several.
pub fn assert_lines_printable(text: &str) {
    text.split('\n').for_each(assert_printable);
}

/// Fails when `path` could lead anywhere but down from the root.
pub fn assert_clean(path: &Path) {
    assert!(path.is_absolute(), "{path:?}");
    let down = |c: Component| matches!(c, Component::RootDir | Component::Normal(_));
    assert!(path.components().all(down), "{path:?}");
}

/// Fails unless `spans` (start and count) are not empty, end before 2^32 - 1, and lie apart.
pub fn assert_apart(spans: impl IntoIterator<Item = (u32, u32)>) {
    let ends = spans.into_iter().map(|(start, count)| {
        assert_ne!(count, 0);
        (u64::from(start), u64::from(start) + u64::from(count))
    });
    let mut ends: Vec<(u64, u64)> = ends.collect();
    ends.sort_unstable();
    for (start, end) in &ends {
        assert!(*end <= u64::from(u32::MAX), "{start}..{end}");
    }
    for pair in ends.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?} overlap");
    }
}

/// Changes one place of a JSON text, most often to another JSON text: bytes changed at random seldom lead to one.
pub fn mutate_json(data: &mut [u8], size: usize, limit: usize, seed: u32) -> usize {
    let mut random = Random(u64::from(seed) << 1 | 1);
    let parsed: Option<Value> = serde_json::from_slice(&data[..size]).ok();
    let (Some(mut value), true) = (parsed, random.below(4) > 0) else {
        return libfuzzer_sys::fuzzer_mutate(data, size, limit);
    };
    for _ in 0..=random.below(3) {
        change(&mut value, &mut random);
    }
    match serde_json::to_vec(&value) {
        Ok(text) if text.len() <= limit.min(data.len()) => {
            data[..text.len()].copy_from_slice(&text);
            text.len()
        }
        _ => libfuzzer_sys::fuzzer_mutate(data, size, limit),
    }
}

/// xorshift64*: libFuzzer gives one number, and must get the same text for it again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// The value with this number, the whole being 0 and its parts following in order.
fn nth(value: &mut Value, mut number: usize) -> Option<&mut Value> {
    if number == 0 {
        return Some(value);
    }
    number -= 1;
    let parts: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Object(members) => Box::new(members.values_mut()),
        _ => return None,
    };
    for part in parts {
        let size = count(part);
        if number < size {
            return nth(part, number);
        }
        number -= size;
    }
    None
}

fn change(value: &mut Value, random: &mut Random) {
    let size = count(value);
    let donor = nth(value, random.below(size)).cloned();
    let Some(place) = nth(value, random.below(size)) else {
        return;
    };
    match (random.below(8), place) {
        (0, place) => *place = leaf(random),
        (1, place) => *place = donor.unwrap_or(Value::Null),
        (_, Value::Array(items)) => {
            let index = random.below(items.len() + 1);
            match random.below(4) {
                0 if index < items.len() => drop(items.remove(index)),
                1 if index < items.len() => items.insert(index, items[index].clone()),
                2 => items.insert(index, donor.unwrap_or(Value::Null)),
                _ => items.insert(index, leaf(random)),
            }
        }
        (_, Value::Object(members)) => {
            let names: Vec<String> = members.keys().cloned().collect();
            let name = match random.below(3) {
                0 => random.of(NAMES).to_owned(),
                _ if names.is_empty() => random.of(NAMES).to_owned(),
                _ => names[random.below(names.len())].clone(),
            };
            match random.below(3) {
                0 => drop(members.remove(&name)),
                1 => drop(members.insert(name, donor.unwrap_or(Value::Null))),
                _ => drop(members.insert(name, leaf(random))),
            }
        }
        (_, Value::String(text)) => match random.below(4) {
            0 => text.push_str(random.of(WORDS)),
            1 => text.insert_str(0, random.of(WORDS)),
            2 => drop(text.pop()),
            _ => *text = random.of(WORDS).to_owned(),
        },
        (_, place) => *place = leaf(random),
    }
}

fn leaf(random: &mut Random) -> Value {
    const NUMBERS: [i64; 14] = [
        0,
        1,
        -1,
        2,
        5,
        63,
        64,
        65,
        340,
        65_535,
        100_000,
        4_294_967_294,
        4_294_967_295,
        4_294_967_296,
    ];
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 1),
        2 => Value::Array(Vec::new()),
        3 => Value::Object(serde_json::Map::new()),
        4 => u64::MAX.into(),
        5 => NUMBERS[random.below(NUMBERS.len())].into(),
        _ => random.of(WORDS).into(),
    }
}

/// Names of config.json (runtime-spec config.md, config-linux.md) and of state.json.
const NAMES: &[&str] = &[
    "ociVersion",
    "root",
    "path",
    "readonly",
    "mounts",
    "destination",
    "type",
    "source",
    "options",
    "process",
    "terminal",
    "consoleSize",
    "height",
    "width",
    "user",
    "uid",
    "gid",
    "umask",
    "additionalGids",
    "args",
    "env",
    "cwd",
    "capabilities",
    "bounding",
    "effective",
    "permitted",
    "inheritable",
    "ambient",
    "rlimits",
    "soft",
    "hard",
    "noNewPrivileges",
    "oomScoreAdj",
    "hostname",
    "domainname",
    "hooks",
    "annotations",
    "linux",
    "namespaces",
    "uidMappings",
    "gidMappings",
    "containerID",
    "hostID",
    "size",
    "devices",
    "cgroupsPath",
    "resources",
    "sysctl",
    "rootfsPropagation",
    "maskedPaths",
    "readonlyPaths",
    "seccomp",
    "defaultAction",
    "defaultErrnoRet",
    "architectures",
    "flags",
    "listenerPath",
    "listenerMetadata",
    "syscalls",
    "names",
    "action",
    "errnoRet",
    "index",
    "value",
    "valueTwo",
    "op",
    "mountLabel",
    "timeOffsets",
    "personality",
    "a/b~c",
    "net.ipv4.ip_forward",
    "kernel/msgmax",
    "run.oci.x",
    "boot_id",
    "process",
    "pid",
    "start_time",
    "bundle",
    "rootfs",
    "created",
    "owner",
    "user_namespace",
    "uid_map",
    "gid_map",
    "outer",
    "notes",
    "x\u{1b}y",
    "image",
    "group",
    "passwd",
    "os",
    "architecture",
    "os.features",
    "config",
    "User",
    "USER",
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "Volumes",
    "Labels",
    "ExposedPorts",
    "StopSignal",
    "Healthcheck",
    "Memory",
    "org.opencontainers.image.os",
    "org.systemd.property.ExecStart",
];

/// Values that mean something somewhere, or should not.
const WORDS: &[&str] = &[
    "",
    "/",
    ".",
    "..",
    "../..",
    "/..",
    "/../proc",
    "/proc",
    "/proc/self/fd/7",
    "/proc/meminfo",
    "/proc/sys",
    "/sys",
    "/dev",
    "/dev/null",
    "/dev/pts",
    "x",
    "a b",
    "\u{0}",
    "\n",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{9b}1m",
    "=",
    "A=1",
    "1.0.2",
    "1.0",
    "2.0.0",
    "1.0.0-rc.1+b",
    "bind",
    "rbind",
    "ro",
    "rro",
    "rw",
    "noatime",
    "strictatime",
    "remount",
    "shared",
    "rslave",
    "private",
    "mode=755",
    "uid=5",
    "gid=70000",
    "size=1,nr_inodes=2",
    "tmpfs",
    "proc",
    "sysfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "overlay",
    "ext4",
    "pid",
    "network",
    "mount",
    "ipc",
    "uts",
    "user",
    "time",
    "CAP_KILL",
    "CAP_SYS_ADMIN",
    "CAP_NONE",
    "kill",
    "RLIMIT_NOFILE",
    "RLIMIT_NPROC",
    "RLIMIT_X",
    "r",
    "-",
    "net/ipv4/../../kernel",
    "65536",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_ARCH_X86",
    "SCMP_CMP_MASKED_EQ",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "execve",
    "linux",
    "www",
    "www:adm",
    "33",
    "33:",
    ":33",
    "4294967296",
    "-1",
    "root:x:0:0::/:\n",
    "\nwww:x:33:33::/:\n",
    "\n33:x:0:0::/:",
    "\nadm:x:4:www\n",
    "HOME",
    "/data",
    "SIGHUP",
];
