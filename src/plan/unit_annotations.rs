//! `org.systemd.property.NAME`: properties of the container's scope that the config sets by annotations, as with runc and crun.
//!
//! An annotation may come from whoever made an image (CVE-2024-3154: ExecStart of a unit that runs as another user). Only
//! names on a list are taken, whose values can do no more than the limits of a config can.

use std::collections::BTreeMap;

use super::{Note, PropertyValue, UnitProperty};
use crate::bundle::{Problem, pointer_token};
use crate::cgroup::since;

/// What the keys begin with.
pub const PREFIX: &str = "org.systemd.property.";

/// What annotations ask of the scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitAnnotations {
    /// What is set.
    pub properties: Vec<UnitProperty>,
    /// What is not done for want of a scope, and limits nothing.
    pub notes: Vec<Note>,
    /// What cannot be done.
    pub problems: Vec<Problem>,
}

/// The types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bool,
    U64,
    I32,
    Bytes,
    Text,
    Texts,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// A name that is taken, and its type.
type Known = (&'static str, Type);

/// What limits the container, or says what becomes of it when a limit is reached: nothing else would keep it.
const LIMITS: &[Known] = &[
    ("AllowedCPUs", Type::Bytes),
    ("AllowedMemoryNodes", Type::Bytes),
    ("CPUQuotaPerSecUSec", Type::U64),
    ("CPUQuotaPeriodUSec", Type::U64),
    ("CPUWeight", Type::U64),
    ("IOWeight", Type::U64),
    ("MemoryHigh", Type::U64),
    ("MemoryLow", Type::U64),
    ("MemoryMax", Type::U64),
    ("MemoryMin", Type::U64),
    ("MemorySwapMax", Type::U64),
    ("MemoryZSwapMax", Type::U64),
    ("MemoryZSwapWriteback", Type::Bool),
    ("OOMPolicy", Type::Choice(&["continue", "stop", "kill"])),
    ("TasksMax", Type::U64),
    ("ManagedOOMMemoryPressure", Type::Choice(&["auto", "kill"])),
    ("ManagedOOMMemoryPressureDurationUSec", Type::U64),
    (
        "ManagedOOMPreference",
        Type::Choice(&["none", "avoid", "omit"]),
    ),
    ("ManagedOOMSwap", Type::Choice(&["auto", "kill"])),
    ("RuntimeMaxUSec", Type::U64),
];

/// What says how the scope looks and ends.
const OTHERS: &[Known] = &[
    ("CPUAccounting", Type::Bool),
    (
        "CollectMode",
        Type::Choice(&["inactive", "inactive-or-failed"]),
    ),
    ("Description", Type::Text),
    ("Documentation", Type::Texts),
    ("IOAccounting", Type::Bool),
    ("KillSignal", Type::I32),
    ("MemoryAccounting", Type::Bool),
    ("SendSIGHUP", Type::Bool),
    ("TasksAccounting", Type::Bool),
    ("TimeoutStopUSec", Type::U64),
];

/// Whether the property limits the container, so that it must not be done without.
pub fn is_limit(property: &str) -> bool {
    LIMITS.iter().any(|(name, _)| *name == property)
}

/// Reads those of `annotations` that are for the scope; `scope` says whether there will be one.
pub fn unit_annotations(annotations: &BTreeMap<String, String>, scope: bool) -> UnitAnnotations {
    let mut found = UnitAnnotations::default();
    for (key, text) in annotations {
        let Some(asked) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let pointer = format!("/annotations/{}", pointer_token(key));
        match property(&pointer, asked, text) {
            Err(message) => found.problems.push(Problem::new(pointer, message)),
            Ok(property) if scope => found.properties.push(property),
            Ok(property) if is_limit(&property.name) => {
                let message = "needs a scope of the caller's systemd, and there is none: take it out, or write it as a limit of /linux/resources";
                found.problems.push(Problem::new(pointer, message));
            }
            Ok(_) => found.notes.push(Note::new(
                pointer,
                "kept, but not acted upon: it is for a scope of the caller's systemd, and there is none",
                "none is needed",
            )),
        }
    }
    found
}

fn property(pointer: &str, asked: &str, text: &str) -> Result<UnitProperty, String> {
    // systemd's options are in seconds where its properties are in microseconds: both names are taken, as by runc.
    let in_seconds = asked
        .strip_suffix("Sec")
        .filter(|stem| !stem.ends_with('U'));
    let name = in_seconds.map_or_else(|| asked.to_owned(), |stem| format!("{stem}USec"));
    let known = LIMITS
        .iter()
        .chain(OTHERS)
        .find(|(known, _)| *known == name);
    let Some((_, kind)) = known else {
        return Err(
            "is not on the list of properties that a config may set: those that limit the container or describe its scope"
                .to_owned(),
        );
    };
    let value = if in_seconds.is_some() {
        microseconds(text).map(PropertyValue::U64)
    } else {
        value(*kind, text)
    };
    let wanted = if in_seconds.is_some() {
        "a number of seconds".to_owned()
    } else {
        kind.describe()
    };
    let value = value.ok_or_else(|| format!("{text:?} is not {wanted}"))?;
    Ok(UnitProperty {
        property: pointer.to_owned(),
        value,
        since: since(&name).unwrap_or_default(),
        name,
    })
}

impl Type {
    /// What is wanted, as GVariant text (GVariant Format Strings, "GVariant Text Format").
    fn describe(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::U64 => "a whole number like `uint64 5`".to_owned(),
            Self::I32 => "a whole number like `5`".to_owned(),
            Self::Bytes => "a list of bytes like `[byte 0x03]`".to_owned(),
            Self::Text => "a text like `'a'`".to_owned(),
            Self::Texts => "a list of texts like `['a', 'b']`".to_owned(),
            Self::Choice(choices) => {
                let quoted: Vec<_> = choices
                    .iter()
                    .map(|choice| format!("`'{choice}'`"))
                    .collect();
                quoted.join(" or ")
            }
        }
    }
}

fn value(kind: Type, text: &str) -> Option<PropertyValue> {
    let text = text.trim();
    match kind {
        Type::Bool => match without_type(text, &["boolean", "@b"]) {
            "true" => Some(PropertyValue::Bool(true)),
            "false" => Some(PropertyValue::Bool(false)),
            _ => None,
        },
        Type::U64 => whole(text).map(PropertyValue::U64),
        Type::I32 => i32::try_from(whole(text)?).ok().map(PropertyValue::I32),
        Type::Bytes => {
            let list = list(without_type(text, &["@ay"]))?;
            let bytes = list.iter().map(|item| u8::try_from(whole(item)?).ok());
            bytes.collect::<Option<_>>().map(PropertyValue::Bytes)
        }
        Type::Text => quoted(text).map(PropertyValue::Text),
        Type::Texts => {
            let list = list(without_type(text, &["@as"]))?;
            let texts = list.iter().map(|item| quoted(item));
            texts.collect::<Option<_>>().map(PropertyValue::Texts)
        }
        Type::Choice(choices) => {
            let text = quoted(text).filter(|text| choices.contains(&text.as_str()));
            text.map(PropertyValue::Text)
        }
    }
}

/// `text` without the name of its type before it.
fn without_type<'a>(text: &'a str, types: &[&str]) -> &'a str {
    let found = types.iter().find_map(|name| text.strip_prefix(name));
    let rest = found.filter(|rest| rest.starts_with(char::is_whitespace));
    rest.map_or(text, str::trim_start)
}

/// A number that is not negative, decimal or `0x`, with or without its type.
fn whole(text: &str) -> Option<u64> {
    let types = [
        "byte", "int16", "uint16", "int32", "uint32", "int64", "uint64", "@y", "@n", "@q", "@i",
        "@u", "@x", "@t",
    ];
    let text = without_type(text, &types);
    let (digits, radix) = text
        .strip_prefix("0x")
        .map_or((text, 10), |digits| (digits, 16));
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

/// Microseconds of a number of seconds, which may have a fraction.
fn microseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(seconds) = whole(text) {
        return seconds.checked_mul(1_000_000);
    }
    let text = without_type(text, &["double", "@d"]);
    let (seconds, fraction) = text.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || fraction.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let padded: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let whole: u64 = seconds.parse().ok()?;
    whole
        .checked_mul(1_000_000)?
        .checked_add(padded.parse().ok()?)
}

/// The items between `[` and `]`; a comma within quotes separates nothing.
fn list(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let (mut items, mut start, mut quote) = (Vec::new(), 0, None);
    for (at, c) in inner.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, ',') => {
                items.push(inner[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(inner[start..].trim());
    Some(items)
}

/// What is between two quotes of a kind; escapes are not taken.
fn quoted(text: &str) -> Option<String> {
    let text = without_type(text, &["string", "@s"]);
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let odd = |c: char| c == quote || c == '\\' || c.is_control();
    (!inner.contains(odd)).then(|| inner.to_owned())
}

#[cfg(test)]
#[path = "unit_annotations_tests.rs"]
mod tests;
