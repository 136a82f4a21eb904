//! Where messages go: stderr for people, `--log FILE` for engines, as text or as JSON lines.
//!
//! Engines parse the JSON (go-runc, containerd, podman): exactly `level`, `msg` and `time`, plus `hint`; on failure one
//! object and nothing else, so notes are written only once the command has succeeded.
#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::{Error, Result, printable};
use crate::plan::Note;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Writes errors, notes and, if asked, debug lines.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: Format,
}

impl Log {
    /// A log to `path` if there is one, else to stderr only.
    pub fn open(path: Option<&Path>, format: Format) -> Result<Self> {
        let file = path.map(open_append).transpose()?;
        Ok(Self { file, format })
    }

    /// Prints debug lines from here on. To be called once.
    pub fn trace_to(&self) -> Result<()> {
        let sink = match &self.file {
            Some(file) => Some(Mutex::new(file.try_clone().map_err(|error| {
                Error::new("cannot duplicate the log's file descriptor").because(error)
            })?)),
            None => None,
        };
        let lines = DebugLines {
            sink,
            format: self.format,
        };
        tracing::subscriber::set_global_default(lines)
            .map_err(|error| Error::new("cannot start the debug log").because(error))
    }

    /// Reports the failure of the command: once to the log, and always to stderr.
    pub fn error(&self, error: &Error) {
        let line = self.line("error", &error.message(), error.hints().as_deref());
        match (&self.file, self.format) {
            (Some(file), _) => {
                write_line(file, &line);
                write_stderr(&format!("error: {error}\n"));
            }
            (None, Format::Text) => write_stderr(&format!("error: {error}\n")),
            (None, Format::Json) => write_stderr(&line),
        }
    }

    /// Tells what was adapted: to the log if there is one, else to stderr.
    pub fn notes(&self, notes: &[Note]) {
        for note in notes {
            let text = format!("{}: {}", note.property, note.reason);
            let line = self.line("warning", &text, Some(&note.remedy));
            match (&self.file, self.format) {
                (Some(file), _) => write_line(file, &line),
                (None, Format::Json) => write_stderr(&line),
                (None, Format::Text) => write_stderr(&printable(&format!(
                    "note: {text}\n  hint: {}\n",
                    note.remedy
                ))),
            }
        }
    }

    fn line(&self, level: &str, message: &str, hint: Option<&str>) -> String {
        log_line(self.format, level, message, hint)
    }
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

fn log_line(format: Format, level: &str, message: &str, hint: Option<&str>) -> String {
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    match format {
        Format::Json => {
            let mut object = serde_json::json!({
                "level": level,
                "msg": message,
                "time": time.to_string(),
            });
            if let Some(hint) = hint {
                object["hint"] = hint.into();
            }
            format!("{object}\n")
        }
        Format::Text => {
            let mut line = format!("time=\"{time}\" level={level} msg={message:?}");
            if let Some(hint) = hint {
                let _infallible = write!(line, " hint={hint:?}");
            }
            line.push('\n');
            line
        }
    }
}

/// A message that cannot be written has nowhere else to go.
fn write_line(mut file: &File, line: &str) {
    let _nowhere_to_report = file.write_all(line.as_bytes());
}

fn write_stderr(text: &str) {
    let _nowhere_to_report = std::io::stderr().write_all(text.as_bytes());
}

/// The debug log: every event of this program, one line each, no spans.
struct DebugLines {
    sink: Option<Mutex<File>>,
    format: Format,
}

impl Subscriber for DebugLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.target().starts_with("lodger")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let line = log_line(self.format, "debug", &message.0, None);
        match &self.sink {
            Some(file) => {
                if let Ok(file) = file.lock() {
                    write_line(&file, &line);
                }
            }
            None => write_stderr(&line),
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Collects `message` and the other fields of an event into one string.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _infallible = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_line_has_the_keys_engines_parse() {
        let line = log_line(Format::Json, "error", "no \"x\"", None);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "msg", "time"]);
        assert_eq!(object["msg"], "no \"x\"");
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn text_line_escapes_quotes_and_control_characters() {
        let line = log_line(Format::Text, "error", "a\"b\u{1b}", Some("h"));
        assert!(
            line.ends_with("level=error msg=\"a\\\"b\\u{1b}\" hint=\"h\"\n"),
            "{line}"
        );
    }
}
