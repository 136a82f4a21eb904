//! The line to the caller's systemd: which socket, what is said at once, and whose answer is which.
//!
//! [`Bus::begin`] connects, says what is always said, and waits for nothing, so that the answers come while this process does other
//! things; it is to be called before this process enters another user namespace, so that a server sees the caller as she is. Every
//! wait is limited; where one socket does not answer, the next is tried.

use std::collections::VecDeque;
use std::time::Duration;

use zbus::message::Type;
use zbus::{Message, ObjectPath, Variant};

use super::bus_error::BusError;
use super::version::parse_version;
use super::wire::{Limit, Wire};
use crate::host::{BusSocket, SessionReading};
use crate::sys;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For one socket, from connecting until its systemd has said its version.
    pub connect: Duration,
    /// For one job, and for whatever else is asked.
    pub job: Duration,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    job: Duration::from_secs(25),
};

/// The most jobs whose end is remembered before anybody waits for it.
const REMEMBERED: usize = 64;

/// The name of systemd on the bus.
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
/// The manager's object.
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
/// The manager's interface.
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The interface of an object's properties.
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The error reply to a call.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// Its name.
    pub name: String,
    /// Its text.
    pub message: String,
}

impl Refusal {
    /// Whether it is systemd's error of this name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.strip_prefix("org.freedesktop.systemd1.") == Some(name)
    }

    pub(super) fn of(self, call: &'static str, unit: &str) -> BusError {
        BusError::Refused {
            call,
            unit: unit.to_owned(),
            name: self.name,
            message: self.message,
        }
    }
}

/// What a call gave.
pub(super) type Answer = Result<Message, Refusal>;

/// A connection to the caller's systemd.
#[derive(Debug)]
pub struct Bus {
    uid: u32,
    patience: Patience,
    wire: Wire,
    direct: bool,
    /// The sockets that are not tried yet.
    left: VecDeque<BusSocket>,
    failed: Vec<BusError>,
    /// The serials of the calls that are not answered yet.
    asked: Vec<u32>,
    /// Answers that came before they were waited for.
    answers: Vec<(u32, Answer)>,
    /// The jobs that have ended: path and result.
    removed: VecDeque<(String, String)>,
    opening: Opening,
}

/// What was asked when the connection was opened.
#[derive(Debug)]
struct Opening {
    hello: Option<u32>,
    version: u32,
    /// The version, once all is answered.
    known: Option<u32>,
}

impl Bus {
    /// Connects to the first of the session's sockets that lets it, and asks for what is always needed without waiting.
    pub fn begin(session: &SessionReading) -> Result<Self, BusError> {
        Self::begin_with(session, PATIENCE)
    }

    pub(super) fn begin_with(
        session: &SessionReading,
        patience: Patience,
    ) -> Result<Self, BusError> {
        let uid = sys::cred::uid();
        let mut left: VecDeque<BusSocket> = session.sockets.iter().cloned().collect();
        if left.is_empty() {
            return Err(BusError::NoSession {
                passed_over: session.passed_over.clone(),
            });
        }
        let mut failed = Vec::new();
        let (wire, direct, opening, asked) = open_next(uid, patience, &mut left, &mut failed)?;
        Ok(Self {
            uid,
            patience,
            wire,
            direct,
            left,
            failed,
            asked,
            answers: Vec::new(),
            removed: VecDeque::new(),
            opening,
        })
    }

    /// The socket that is spoken to.
    pub fn socket(&self) -> &std::path::Path {
        &self.wire.path
    }

    /// The version of systemd, 0 if it is not to be understood. Waits for it, the first time.
    pub fn version(&mut self) -> Result<u32, BusError> {
        loop {
            if let Some(version) = self.opening.known {
                return Ok(version);
            }
            match self.finish_opening() {
                Ok(version) => self.opening.known = Some(version),
                Err(error) if error.is_of_the_socket() => {
                    tracing::debug!(socket = ?self.wire.path, %error, "this bus is of no use");
                    self.failed.push(error);
                    let (left, failed) = (&mut self.left, &mut self.failed);
                    let next = open_next(self.uid, self.patience, left, failed)?;
                    (self.wire, self.direct, self.opening, self.asked) = next;
                    self.answers.clear();
                    self.removed.clear();
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn finish_opening(&mut self) -> Result<u32, BusError> {
        let limit = Limit::of(self.patience.connect, "its greeting");
        let no_systemd = |bus: &Self, refusal: Refusal| BusError::NoSystemd {
            socket: bus.wire.path.clone(),
            answer: format!("{}: {}", refusal.name, refusal.message),
        };
        if let Some(hello) = self.opening.hello {
            let answer = self.wait_for(hello, limit)?;
            answer.map_err(|refusal| BusError::Rejected {
                socket: self.wire.path.clone(),
                answer: refusal.message,
            })?;
        }
        let answer = self.wait_for(self.opening.version, limit)?;
        let answer = answer.map_err(|refusal| no_systemd(self, refusal))?;
        let text = self.text_property(&answer, limit)?;
        Ok(parse_version(&text).unwrap_or(0))
    }

    /// The string in the answer to Get.
    pub(super) fn text_property(
        &self,
        answer: &Message,
        limit: Limit<'_>,
    ) -> Result<String, BusError> {
        match answer.body().deserialize::<Variant<'_>>() {
            Ok(Variant::Str(text)) => Ok(text.as_str().to_owned()),
            Ok(other) => Err(self.garbage(limit, format!("{other:?} for a string"))),
            Err(e) => Err(self.garbage(limit, e.to_string())),
        }
    }

    /// The error of an answer that is not what the call gives.
    pub(super) fn garbage(&self, limit: Limit<'_>, found: String) -> BusError {
        self.wire.garbage(limit, found)
    }

    /// Sends the calls; their answers are to be waited for in any order.
    pub(super) fn send(&mut self, calls: &[Message], limit: Limit<'_>) -> Result<(), BusError> {
        self.wire.send_messages(calls, limit)?;
        self.asked.extend(calls.iter().map(serial));
        Ok(())
    }

    /// Whether systemd itself is at the other end, which sends its signals unasked.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The limit of one job, or of another request, from now on.
    pub(super) fn limit<'a>(&self, what: &'a str) -> Limit<'a> {
        Limit::of(self.patience.job, what)
    }

    /// Waits for the answer to the call with this serial.
    pub(super) fn wait_for(&mut self, serial: u32, limit: Limit<'_>) -> Result<Answer, BusError> {
        loop {
            if let Some(index) = self.answers.iter().position(|(to, _)| *to == serial) {
                return Ok(self.answers.swap_remove(index).1);
            }
            self.take_one(limit)?;
        }
    }

    /// Waits for the end of the job; its result.
    pub(super) fn wait_for_job(&mut self, job: &str, limit: Limit<'_>) -> Result<String, BusError> {
        loop {
            if let Some(index) = self.removed.iter().position(|(path, _)| path == job) {
                let found = self.removed.remove(index);
                return Ok(found.map(|(_, result)| result).unwrap_or_default());
            }
            self.take_one(limit)?;
        }
    }

    /// Takes the next message for what it is.
    fn take_one(&mut self, limit: Limit<'_>) -> Result<(), BusError> {
        let message = self.wire.receive(limit)?;
        let header = message.header();
        match header.message_type() {
            Type::MethodReturn | Type::Error => {
                let to = header.reply_serial().map_or(0, |serial| serial.get());
                let Some(index) = self.asked.iter().position(|asked| *asked == to) else {
                    let found = format!("an answer to a call {to} that was not made");
                    return Err(self.wire.garbage(limit, found));
                };
                self.asked.swap_remove(index);
                let answer = match header.error_name() {
                    None => Ok(message.clone()),
                    Some(name) => Err(Refusal {
                        name: name.to_string(),
                        message: message.body().deserialize::<String>().unwrap_or_default(),
                    }),
                };
                self.answers.push((to, answer));
            }
            Type::Signal => self.take_signal(&message),
            // Nobody has anything to ask of lodger.
            Type::MethodCall => {}
        }
        Ok(())
    }

    fn take_signal(&mut self, message: &Message) {
        let header = message.header();
        let is = |found: Option<&str>, expected| found == Some(expected);
        if !is(header.member().map(|m| m.as_str()), "JobRemoved")
            || !is(header.interface().map(|i| i.as_str()), MANAGER)
        {
            return;
        }
        let body = message.body();
        if let Ok((_, job, _, result)) = body.deserialize::<(u32, ObjectPath<'_>, String, String)>()
        {
            if self.removed.len() == REMEMBERED {
                self.removed.pop_front();
            }
            self.removed.push_back((job.as_str().to_owned(), result));
        }
    }
}

/// The serial of a message.
pub(super) fn serial(message: &Message) -> u32 {
    message.primary_header().serial_num().get()
}

/// A call of a method.
pub(super) fn call<B>(
    to: [&'static str; 2],
    path: &str,
    method: &'static str,
    body: &B,
) -> Result<Message, BusError>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    let [destination, interface] = to;
    Message::method_call(path, method)
        .destination(destination)
        .interface(interface)
        .build(body)
        .map_err(|e| BusError::Unspeakable {
            call: method,
            why: e.to_string(),
        })
}

/// A call of the manager.
pub(super) fn call_manager<B>(method: &'static str, body: &B) -> Result<Message, BusError>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    call([SYSTEMD, MANAGER], MANAGER_PATH, method, body)
}

/// A call for one property.
pub(super) fn get(path: &str, interface: &str, property: &str) -> Result<Message, BusError> {
    call([SYSTEMD, PROPERTIES], path, "Get", &(interface, property))
}

type Opened = (Wire, bool, Opening, Vec<u32>);

/// Opens the next socket that can be, and greets its server.
fn open_next(
    uid: u32,
    patience: Patience,
    left: &mut VecDeque<BusSocket>,
    failed: &mut Vec<BusError>,
) -> Result<Opened, BusError> {
    while let Some(socket) = left.pop_front() {
        match open(uid, patience.connect, &socket) {
            Err(error) if error.is_of_the_socket() => failed.push(error),
            other => return other,
        }
    }
    match failed.as_slice() {
        [only] => Err(only.clone()),
        several => Err(BusError::NoneAnswers {
            tried: several.iter().map(ToString::to_string).collect(),
        }),
    }
}

fn open(uid: u32, patience: Duration, socket: &BusSocket) -> Result<Opened, BusError> {
    let mut wire = Wire::open(&socket.path, uid, patience)?;
    let mut messages = Vec::new();
    let hello = (!socket.direct)
        .then(|| {
            let bus = "org.freedesktop.DBus";
            call([bus, bus], "/org/freedesktop/DBus", "Hello", &())
        })
        .transpose()?;
    let hello = hello.map(|message| {
        let number = serial(&message);
        messages.push(message);
        number
    });
    let version = get(MANAGER_PATH, MANAGER, "Version")?;
    let opening = Opening {
        hello,
        version: serial(&version),
        known: None,
    };
    messages.push(version);
    if !socket.direct {
        // For signals through the bus. It takes systemd a moment, and its answer says nothing.
        messages.push(call_manager("Subscribe", &())?);
    }
    let asked = messages.iter().map(serial).collect();
    wire.greet(&messages, Limit::of(patience, "it to listen"))?;
    Ok((wire, socket.direct, opening, asked))
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
