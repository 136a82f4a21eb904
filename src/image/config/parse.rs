//! The JSON of an image's config, strictly: every type is checked, and every problem told with its JSON pointer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::bundle::{BundleError, Problem, json, pointer_token};
use crate::error::{Error, Result};

/// An image's config (image-spec config.md, "Properties"), without what is about its layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// When it was made.
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// The processors it is for, in the words of Go's GOARCH.
    pub architecture: String,
    /// Which of them (`v8`).
    pub variant: Option<String>,
    /// The system it is for (GOOS).
    pub os: String,
    /// Its version.
    pub os_version: Option<String>,
    /// What it must have.
    pub os_features: Vec<String>,
    /// How it is run.
    pub config: Execution,
}

/// How an image is run (`config` of config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Execution {
    /// Who the program is: `user`, `uid`, `user:group` and so on. Empty: it does not say.
    pub user: String,
    /// The keys of `ExposedPorts`, sorted.
    pub exposed_ports: Vec<String>,
    /// The environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// The program, with arguments that are always there.
    pub entrypoint: Vec<String>,
    /// Arguments by default; the program too, where there is no `entrypoint`.
    pub cmd: Vec<String>,
    /// The keys of `Volumes`, sorted.
    pub volumes: Vec<String>,
    /// Where it begins. Empty: it does not say.
    pub working_dir: String,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end, by name or number.
    pub stop_signal: Option<String>,
    /// What else it asks for that would matter: reserved by the specification, and not applied.
    pub reserved: Vec<&'static str>,
}

impl ImageConfig {
    /// Reads the text of an image's config; the caller has seen to its size.
    ///
    /// # Errors
    /// Every problem, each with its JSON pointer.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let value = json::parse(text).map_err(|error| unreadable(&error))?;
        let mut problems = Vec::new();
        let parsed = Self::of(&value, &mut problems);
        if problems.is_empty() {
            return Ok(parsed);
        }
        Err(problems.iter().fold(unusable(), Error::because))
    }

    fn of(value: &Value, problems: &mut Vec<Problem>) -> Self {
        let Value::Object(members) = value else {
            problems.push(Problem::new("/", "is not an object"));
            return Self::default();
        };
        let empty = Map::new();
        let mut object = Object {
            at: "",
            members,
            problems,
        };
        let parsed = Self {
            created: object.text("created"),
            author: object.text("author"),
            architecture: object.required("architecture"),
            variant: object.text("variant"),
            os: object.required("os"),
            os_version: object.text("os.version"),
            os_features: object.texts("os.features"),
            config: Execution::default(),
        };
        object.members = object.object("config").unwrap_or(&empty);
        object.at = "/config";
        Self {
            config: Execution::of(&mut object),
            ..parsed
        }
    }
}

impl Execution {
    fn of(object: &mut Object<'_>) -> Self {
        Self {
            user: object.text("User").unwrap_or_default(),
            exposed_ports: object.keys("ExposedPorts"),
            env: object.texts("Env"),
            entrypoint: object.texts("Entrypoint"),
            cmd: object.texts("Cmd"),
            volumes: object.keys("Volumes"),
            working_dir: object.text("WorkingDir").unwrap_or_default(),
            labels: object.map("Labels"),
            stop_signal: object.text("StopSignal").filter(|text| !text.is_empty()),
            reserved: reserved(object),
        }
    }
}

/// What config.md reserves, as Docker has a use for it, and this image gives.
fn reserved(object: &mut Object<'_>) -> Vec<&'static str> {
    let mut found = Vec::new();
    for name in ["Memory", "MemorySwap", "CpuShares"] {
        if object
            .member(name)
            .is_some_and(|value| value.as_i64() != Some(0))
        {
            found.push(name);
        }
    }
    // Healthcheck: "Test" is empty where it is inherited, and "NONE" where there is none.
    let test = object
        .member("Healthcheck")
        .and_then(|check| check.get("Test"));
    let first = test.and_then(Value::as_array).and_then(|list| list.first());
    if first.is_some_and(|word| word != "NONE") {
        found.push("Healthcheck");
    }
    found
}

/// The error of an image's config.
pub(super) fn unusable() -> Error {
    Error::new("cannot use the image's config")
}

/// What JSON is, is told in the words for config.json.
fn unreadable(error: &BundleError) -> Error {
    let text = error.to_string();
    let told = text.strip_prefix("config.json").unwrap_or(&text);
    unusable().because(format!("it{told}"))
}

/// An object that is read member by member; what is wrong is put on the list.
struct Object<'a> {
    /// Its JSON pointer.
    at: &'a str,
    members: &'a Map<String, Value>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Object<'a> {
    /// The member `name`, if it is there and not null, which means the same (config.md, "Properties").
    fn member(&mut self, name: &str) -> Option<&'a Value> {
        let members = self.members;
        // Go's reader takes a key in any case: what it would read, and this one would not, is not for either to guess.
        let other = members
            .keys()
            .find(|key| *key != name && key.eq_ignore_ascii_case(name));
        if let Some(other) = other {
            self.problem(
                other,
                format!("some programs would take it for {name:?}, and some not"),
            );
        }
        members.get(name).filter(|value| !value.is_null())
    }

    fn problem(&mut self, below: &str, message: impl AsRef<str>) {
        let pointer = format!("{}/{}", self.at, pointer_token(below));
        self.problems.push(Problem::new(pointer, message));
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let value = self.member(name)?;
        let pointer = format!("{}/{}", self.at, pointer_token(name));
        Some(self.string(pointer, value))
    }

    fn required(&mut self, name: &str) -> String {
        let text = self.text(name);
        if text.as_deref().is_none_or(str::is_empty) {
            self.problem(name, "is required");
        }
        text.unwrap_or_default()
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let Some(value) = self.member(name) else {
            return Vec::new();
        };
        let Value::Array(items) = value else {
            self.problem(name, "is not a list of strings");
            return Vec::new();
        };
        let pointer = |index| format!("{}/{}/{index}", self.at, pointer_token(name));
        let pointers: Vec<String> = (0..items.len()).map(pointer).collect();
        pointers
            .into_iter()
            .zip(items)
            .map(|(pointer, item)| self.string(pointer, item))
            .collect()
    }

    fn object(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        let members = self.member(name)?.as_object();
        if members.is_none() {
            self.problem(name, "is not an object");
        }
        members
    }

    /// The keys of what Go writes for a set: an object whose members say nothing.
    fn keys(&mut self, name: &str) -> Vec<String> {
        let members = self.object(name).into_iter().flatten();
        let mut keys: Vec<String> = members.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.check(format!("{}/{name}/{}", self.at, pointer_token(key)), key);
        }
        keys.sort();
        keys
    }

    fn map(&mut self, name: &str) -> BTreeMap<String, String> {
        let members = self.object(name).into_iter().flatten();
        let mut map = BTreeMap::new();
        for (key, value) in members {
            let pointer = format!("{}/{name}/{}", self.at, pointer_token(key));
            self.check(pointer.clone(), key);
            map.insert(key.clone(), self.string(pointer, value));
        }
        map
    }

    fn string(&mut self, pointer: String, value: &Value) -> String {
        let Value::String(text) = value else {
            self.problems.push(Problem::new(pointer, "is not a string"));
            return String::new();
        };
        self.check(pointer, text);
        text.clone()
    }

    /// Nothing with a NUL in it can reach the kernel.
    fn check(&mut self, pointer: String, text: &str) {
        if text.contains('\0') {
            self.problems
                .push(Problem::new(pointer, "contains a NUL character"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_of_a_config_is_read() {
        let json = json!({
            "created": "2015-10-31T22:22:56Z", "author": "A", "architecture": "arm64", "variant": "v8", "os": "linux",
            "os.version": "1", "os.features": ["a", "b"], "rootfs": {"type": "layers", "diff_ids": []},
            "config": {
                "User": "www:33", "ExposedPorts": {"80/tcp": {}, "443": {}}, "Env": ["A=1"], "Entrypoint": ["/e"],
                "Cmd": ["c"], "Volumes": {"/v": {}}, "WorkingDir": "/w", "Labels": {"k": "v"}, "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD", "true"]}, "Memory": 0, "CpuShares": 2, "OnBuild": null, "Shell": ["sh"]
            }
        });
        let text = |text: &str| text.to_owned();
        let parsed = ImageConfig::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.os_features, ["a", "b"]);
        assert_eq!(parsed.variant, Some(text("v8")));
        let config = parsed.config;
        assert_eq!(config.user, "www:33");
        assert_eq!(config.exposed_ports, ["443", "80/tcp"]);
        assert_eq!(
            (config.env, config.cmd),
            (vec![text("A=1")], vec![text("c")])
        );
        assert_eq!(config.volumes, ["/v"]);
        assert_eq!(config.labels, [(text("k"), text("v"))].into());
        assert_eq!(config.reserved, ["CpuShares", "Healthcheck"]);
    }

    fn with(config: &str) -> String {
        format!(r#"{{"os":"linux","architecture":"amd64","config":{config}}}"#)
    }

    #[test]
    fn null_is_nothing() {
        for config in [
            "null",
            r#"{"User":null,"Env":null,"Labels":null,"Volumes":null,"Healthcheck":null,"Memory":null}"#,
            r#"{"Healthcheck":{"Test":["NONE"]}}"#,
            r#"{"Healthcheck":{}}"#,
        ] {
            let parsed = ImageConfig::parse(with(config).as_bytes()).unwrap();
            assert_eq!(parsed.config, Execution::default(), "{config}");
        }
    }

    #[test]
    fn problems_have_pointers() {
        for (text, told) in [
            ("[]", "/: is not an object"),
            ("{}", "/architecture: is required: /os: is required"),
            (
                r#"{"os":"","architecture":1}"#,
                "/architecture: is not a string",
            ),
            (&with("[]"), "/config: is not an object"),
            (
                &with(r#"{"Env":"A=1"}"#),
                "/config/Env: is not a list of strings",
            ),
            (
                &with(r#"{"Env":["A=1",2]}"#),
                "/config/Env/1: is not a string",
            ),
            (
                &with(r#"{"Env":["A=\u0000"]}"#),
                "/config/Env/0: contains a NUL character",
            ),
            (
                &with(r#"{"Volumes":["/v"]}"#),
                "/config/Volumes: is not an object",
            ),
            (
                &with(r#"{"Labels":{"a/b":1}}"#),
                "/config/Labels/a~1b: is not a string",
            ),
            (
                &with(r#"{"Labels":{"\u0000":"1"}}"#),
                "contains a NUL character",
            ),
            (
                &with(r#"{"User":"1","user":"0"}"#),
                "/config/user: some programs would take it for \"User\"",
            ),
            (
                &with(r#"{"Env":[],"Env":[]}"#),
                "it has the key \"Env\" twice in one object",
            ),
            ("{", "it is not JSON"),
            ("{} {}", "it goes on after the end"),
            (&"[".repeat(9999), "it is nested deeper"),
        ] {
            let message = ImageConfig::parse(text.as_bytes()).unwrap_err().message();
            assert!(message.contains(told), "{text}: {message}");
            assert!(message.starts_with("cannot use the image's config: "));
        }
        let message = ImageConfig::parse(b"{\"a\":\"\xff\"}")
            .unwrap_err()
            .message();
        assert!(message.contains("it is not UTF-8"), "{message}");
    }
}
