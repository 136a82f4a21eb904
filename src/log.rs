//! Where messages go: stderr for people, `--log` for engines and the system's log, as text or as JSON lines.
//!
//! Engines parse the JSON (go-runc, containerd, podman): exactly `level`, `msg` and `time`, plus `hint` and `code`; on
//! failure one object and nothing else, so notes are written only once the command has succeeded.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::error::{Error, Result, printable, printable_json};
use crate::plan::Note;
use crate::sys;

mod explain;
mod sink;

use sink::Sink;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// time="…" level=error msg="…"
    Text,
    /// {"level":"error","msg":"…","time":"…"}, one object a line
    Json,
}

/// What is worth a line, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Level {
    /// Why the command failed
    Error,
    /// What was adapted, and is not as the config asks
    #[value(alias = "warn")]
    Warning,
    /// As warning: there is nothing in between
    Info,
    /// What is being done
    Debug,
    /// Everything there is
    Trace,
}

/// Writes errors, notes and, if asked, debug lines.
#[derive(Debug)]
pub struct Log {
    sink: Option<Arc<Sink>>,
    format: Format,
    level: Level,
    /// Whether notes are shown as a table.
    explain: bool,
    /// Whether any note was told.
    told: Cell<bool>,
}

/// How wide a table is where no terminal says so, in characters.
const USUAL_WIDTH: usize = 120;

impl Log {
    /// A log to `target` (`[file:]PATH`, `journald:ID` or `syslog:ID`) if there is one, else to stderr only.
    pub fn open(target: Option<&OsStr>, format: Format, level: Level) -> Result<Self> {
        let target = target.filter(|target| !target.is_empty());
        let sink = target.map(Sink::open).transpose()?.map(Arc::new);
        Ok(Self {
            sink,
            format,
            level,
            explain: false,
            told: Cell::new(false),
        })
    }

    /// With the notes as a table on stderr, if `explain` (`--explain`).
    #[must_use]
    pub fn explaining(self, explain: bool) -> Self {
        Self { explain, ..self }
    }

    /// Prints debug lines from here on, if the level asks for them. To be called once.
    pub fn trace(&self) -> Result<()> {
        if self.level < Level::Debug {
            return Ok(());
        }
        let lines = DebugLines {
            sink: self.sink.clone(),
            format: self.format,
            most: match self.level {
                Level::Trace => tracing::Level::TRACE,
                _ => tracing::Level::DEBUG,
            },
        };
        tracing::subscriber::set_global_default(lines)
            .map_err(|error| Error::new("cannot start the debug log").because(error))
    }

    /// Reports the failure of the command: once to the log, and always to stderr.
    pub fn error(&self, error: &Error) {
        self.error_saying(error, &format!("error: {error}\n"));
    }

    /// As [`Log::error`], with `text` for a person in place of the error's own.
    pub fn error_saying(&self, error: &Error, text: &str) {
        let line = log_line(
            self.format,
            Level::Error,
            &error.message(),
            Extra {
                hint: error.hints().as_deref(),
                code: error.cause_code(),
            },
        );
        match (&self.sink, self.format) {
            (Some(sink), _) => {
                sink.write(Level::Error, &line);
                write_stderr(text);
            }
            (None, Format::Text) => write_stderr(text),
            (None, Format::Json) => write_stderr(&line),
        }
    }

    /// Tells what was adapted: to the log if there is one, else to stderr.
    pub fn notes(&self, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        self.told.set(true);
        if self.explain {
            write_stderr(&explain::table(notes, width()));
        }
        if self.level >= Level::Warning {
            notes.iter().for_each(|note| self.note(note));
        }
    }

    fn note(&self, note: &Note) {
        let text = format!("{}: {}", note.property, note.reason);
        let extra = Extra {
            hint: Some(&note.remedy),
            code: note.code.as_deref(),
        };
        let line = || log_line(self.format, Level::Warning, &text, extra);
        match (&self.sink, self.format) {
            (Some(sink), _) => sink.write(Level::Warning, &line()),
            (None, Format::Json) => write_stderr(&line()),
            // It is in the table.
            (None, Format::Text) if self.explain => {}
            (None, Format::Text) => {
                let code = note.code.as_ref();
                let code = code.map_or_else(String::new, |code| format!("  code: {code}\n"));
                let text = format!("note: {text}\n  hint: {}\n{code}", note.remedy);
                write_stderr(&printable(&text));
            }
        }
    }

    /// Says that nothing was adapted where all was told that there is, and somebody wants to know.
    pub fn all_told(&self) {
        if self.explain && !self.told.replace(true) {
            write_stderr(explain::NOTHING);
        }
    }
}

/// How many characters a line of stderr has.
fn width() -> usize {
    let size = sys::tty::size(std::io::stderr()).ok();
    let columns = size.map_or(0, |size| usize::from(size.columns));
    match columns {
        0 => USUAL_WIDTH,
        columns => columns,
    }
}

/// What a line has besides what all have.
#[derive(Debug, Clone, Copy, Default)]
struct Extra<'a> {
    hint: Option<&'a str>,
    code: Option<&'a str>,
}

impl Level {
    /// The word in a line.
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::TRACE => Self::Trace,
        }
    }
}

fn log_line(format: Format, level: Level, message: &str, extra: Extra<'_>) -> String {
    let extra = [("hint", extra.hint), ("code", extra.code)];
    let extra = extra
        .into_iter()
        .filter_map(|(key, text)| Some((key, text?)));
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    let level = level.word();
    match format {
        Format::Json => {
            let mut object = serde_json::json!({
                "level": level,
                "msg": message,
                "time": time.to_string(),
            });
            for (key, text) in extra {
                object[key] = text.into();
            }
            // It may be read on a terminal.
            printable_json(&object.to_string()) + "\n"
        }
        Format::Text => {
            let mut line = format!("time=\"{time}\" level={level} msg={message:?}");
            for (key, text) in extra {
                let _infallible = write!(line, " {key}={text:?}");
            }
            line.push('\n');
            line
        }
    }
}

/// A message that cannot be written has nowhere else to go.
fn write_stderr(text: &str) {
    let _nowhere_to_report = std::io::stderr().write_all(text.as_bytes());
}

/// The debug log: every event of this program, one line each, no spans.
struct DebugLines {
    sink: Option<Arc<Sink>>,
    format: Format,
    most: tracing::Level,
}

impl Subscriber for DebugLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most && metadata.target().starts_with("lodger")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = Level::from(*event.metadata().level());
        let line = log_line(self.format, level, &message.0, Extra::default());
        match &self.sink {
            Some(sink) => sink.write(level, &line),
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
        let line = log_line(Format::Json, Level::Error, "no \"x\"", Extra::default());
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "msg", "time"]);
        assert_eq!(object["msg"], "no \"x\"");
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn json_line_has_no_control_characters() {
        let line = log_line(
            Format::Json,
            Level::Warning,
            "a\u{9b}2J\u{7f}\n",
            Extra {
                hint: Some("\u{85}"),
                code: Some("LDG-NPROC"),
            },
        );
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["msg"], "a\u{9b}2J\u{7f}\n");
        assert_eq!(object["code"], "LDG-NPROC");
    }

    #[test]
    fn text_line_escapes_quotes_and_control_characters() {
        let extra = Extra {
            hint: Some("h"),
            code: None,
        };
        let line = log_line(Format::Text, Level::Error, "a\"b\u{1b}", extra);
        assert!(
            line.ends_with("level=error msg=\"a\\\"b\\u{1b}\" hint=\"h\"\n"),
            "{line}"
        );
    }
}
