//! Where a log goes: a file, the journal, or syslog.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::Level;
use crate::error::{Error, Result};

/// Where systemd-journald(8) listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog(3) writes to.
const SYSLOG: &str = "/dev/log";
/// LOG_USER (syslog(3)).
const FACILITY: u8 = 1;

/// Somewhere to write lines to.
#[derive(Debug)]
pub(super) enum Sink {
    File(File),
    Journal { socket: UnixDatagram, id: String },
    Syslog { socket: UnixDatagram, id: String },
}

impl Sink {
    /// `[file:]PATH`, `journald:ID` or `syslog:ID`.
    pub(super) fn open(target: &OsStr) -> Result<Self> {
        match split(target) {
            (Scheme::File, path) => open_append(Path::new(OsStr::from_bytes(path))).map(Self::File),
            (Scheme::Journal, id) => Ok(Self::Journal {
                id: identifier("journald", id)?,
                socket: connect(JOURNAL)?,
            }),
            (Scheme::Syslog, id) => Ok(Self::Syslog {
                id: identifier("syslog", id)?,
                socket: connect(SYSLOG)?,
            }),
        }
    }

    /// Writes one line. One that cannot be written has nowhere else to go.
    pub(super) fn write(&self, level: Level, line: &str) {
        let _nowhere_to_report = match self {
            Self::File(file) => {
                let mut file: &File = file;
                file.write_all(line.as_bytes())
            }
            Self::Journal { socket, id } => {
                socket.send(&journal_entry(level, id, line)).map(|_| ())
            }
            Self::Syslog { socket, id } => {
                socket.send(&syslog_message(level, id, line)).map(|_| ())
            }
        };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    File,
    Journal,
    Syslog,
}

fn split(target: &OsStr) -> (Scheme, &[u8]) {
    let bytes = target.as_bytes();
    for (prefix, scheme) in [
        (&b"file:"[..], Scheme::File),
        (b"journald:", Scheme::Journal),
        (b"syslog:", Scheme::Syslog),
    ] {
        if let Some(rest) = bytes.strip_prefix(prefix) {
            return (scheme, rest);
        }
    }
    (Scheme::File, bytes)
}

/// What the lines are found by. It becomes a field of its own, and must not make another.
fn identifier(kind: &str, id: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(id).ok();
    text.filter(|id| !id.is_empty() && !id.contains(char::is_control))
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::new(format!(
                "invalid log \"{kind}:{}\"",
                String::from_utf8_lossy(id)
            ))
            .hint(format!(
                "give {kind}:ID, where ID is a word to find the lines by"
            ))
        })
}

fn connect(path: &str) -> Result<UnixDatagram> {
    let connected = UnixDatagram::unbound().and_then(|socket| {
        socket.connect(path)?;
        Ok(socket)
    });
    connected.map_err(|error| {
        Error::new(format!("cannot reach the system's log at {path:?}"))
            .because(error)
            .hint("nothing listens there, or not for you: write to a file with --log FILE")
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the caller's own file, at the path she gave; it may be a FIFO or a terminal"
)]
fn open_append(path: &Path) -> Result<File> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| Error::new(format!("cannot open the log {path:?}")).because(error))
}

/// LOG_ERR and its neighbours (syslog(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// An entry of the journal's native protocol (systemd.journal-fields(7)). The message is given with its length: it may
/// hold line breaks.
fn journal_entry(level: Level, id: &str, line: &str) -> Vec<u8> {
    let message = line.trim_end_matches('\n');
    let mut entry = format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER={id}\nMESSAGE\n",
        priority(level)
    )
    .into_bytes();
    entry.extend((message.len() as u64).to_le_bytes());
    entry.extend(message.as_bytes());
    entry.push(b'\n');
    entry
}

/// What syslog(3) sends, without the time, which the daemon knows as well.
fn syslog_message(level: Level, id: &str, line: &str) -> Vec<u8> {
    let priority = FACILITY << 3 | priority(level);
    let message = line.trim_end_matches('\n');
    format!("<{priority}>{id}[{}]: {message}", std::process::id()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_unless_it_says_otherwise() {
        let table: [(&str, Scheme, &str); 6] = [
            ("/var/log/x", Scheme::File, "/var/log/x"),
            ("file:x", Scheme::File, "x"),
            ("file:journald:x", Scheme::File, "journald:x"),
            ("journald:web", Scheme::Journal, "web"),
            ("syslog:web", Scheme::Syslog, "web"),
            ("journal:x", Scheme::File, "journal:x"),
        ];
        for (target, scheme, rest) in table {
            let expected = (scheme, rest.as_bytes());
            assert_eq!(split(OsStr::new(target)), expected, "{target}");
        }
    }

    #[test]
    fn an_identifier_makes_no_second_field() {
        assert_eq!(identifier("journald", b"web").unwrap(), "web");
        for id in [&b""[..], b"a\nMESSAGE=forged", b"\xff", b"a\0b"] {
            assert!(identifier("journald", id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_journal_entry_has_the_message_with_its_length() {
        let entry = journal_entry(Level::Error, "web", "no\nforged=1\n");
        assert_eq!(
            entry,
            b"PRIORITY=3\nSYSLOG_IDENTIFIER=web\nMESSAGE\n\x0b\0\0\0\0\0\0\0no\nforged=1\n"
        );
    }

    #[test]
    fn a_syslog_message_has_its_priority() {
        let message = syslog_message(Level::Warning, "web", "text\n");
        let text = String::from_utf8(message).unwrap();
        assert!(
            text.starts_with("<12>web[") && text.ends_with("]: text"),
            "{text}"
        );
    }
}
