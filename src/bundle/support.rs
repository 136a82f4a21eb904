//! What the specification knows and this program does not do: refused, never ignored.
//!
//! Values that ask for nothing (null, false, "", [], {}) pass.

use serde_json::Value;

use super::Problem;
use super::raw::visit;

/// Properties of other platforms.
const FOREIGN: &[(&str, &str)] = &[
    ("/windows", "Windows"),
    ("/solaris", "Solaris"),
    ("/zos", "z/OS"),
    ("/freebsd", "FreeBSD"),
    ("/vm", "virtual machines"),
    ("/process/commandLine", "Windows"),
    ("/process/user/username", "Windows"),
];

/// Takes from `config` what is for other platforms, and lists what of it asked for something.
pub(super) fn refuse(config: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (pattern, platform) in FOREIGN {
        visit(config, pattern, &mut |pointer, value| {
            if asks(value) {
                problems.push(Problem::new(
                    pointer,
                    format!("this is for {platform}, not Linux"),
                ));
            }
            *value = Value::Null;
        });
    }
    problems
}

/// Whether `value` asks for anything.
pub(super) fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        // A member that is an object is a name with something to it, as in `netDevices`.
        Value::Object(members) => members.values().any(|m| m.is_object() || asks(m)),
    }
}
