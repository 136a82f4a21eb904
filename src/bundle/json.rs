//! JSON text to a value, more strictly than serde_json: no duplicate keys, at most [`MAX_DEPTH`] levels, nothing after the value.
//!
//! Two readers that disagree about a duplicate key would disagree about what the container may do (RFC 8259 §4).

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{BundleError, escape};

/// How deep arrays and objects may be nested; below serde_json's own limit of 128.
pub(crate) const MAX_DEPTH: usize = 64;

/// What was found that serde_json itself would have accepted.
enum Fault {
    Depth,
    Duplicate(String),
}

/// Parses the whole of `text` as one JSON value.
pub(crate) fn parse(text: &[u8]) -> Result<Value, BundleError> {
    read::<true>(text)
}

/// Refuses what [`parse`] refuses, and keeps nothing: a value in memory may take a hundred times what its text takes.
pub(crate) fn check(text: &[u8]) -> Result<(), BundleError> {
    read::<false>(text).map(drop)
}

/// Reads `text`; the value is null unless it is to be kept.
fn read<const KEEP: bool>(text: &[u8]) -> Result<Value, BundleError> {
    let text = std::str::from_utf8(text).map_err(|e| BundleError::NotUtf8 {
        offset: e.valid_up_to(),
    })?;
    let fault = RefCell::new(None);
    let seed = Seed::<KEEP> {
        depth: 0,
        fault: &fault,
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed
        .deserialize(&mut deserializer)
        .map_err(|e| explain(&e, fault.take()))?;
    deserializer.end().map_err(|e| BundleError::TrailingBytes {
        line: e.line(),
        column: e.column(),
    })?;
    Ok(value)
}

fn explain(error: &serde_json::Error, fault: Option<Fault>) -> BundleError {
    let (line, column) = (error.line(), error.column());
    match fault {
        Some(Fault::Depth) => BundleError::TooDeep { line, column },
        Some(Fault::Duplicate(key)) => BundleError::DuplicateKey { key, line, column },
        None => {
            let text = error.to_string();
            let position = format!(" at line {line} column {column}");
            BundleError::NotJson {
                message: escape(text.strip_suffix(&position).unwrap_or(&text)),
                line,
                column,
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a, const KEEP: bool> {
    depth: usize,
    fault: &'a RefCell<Option<Fault>>,
}

impl<const KEEP: bool> Seed<'_, KEEP> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            self.fault.replace(Some(Fault::Depth));
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de, const KEEP: bool> DeserializeSeed<'de> for Seed<'_, KEEP> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const KEEP: bool> Visitor<'de> for Seed<'_, KEEP> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(if KEEP {
            value.to_owned()
        } else {
            String::new()
        }))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            if KEEP {
                list.push(item);
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                self.fault.replace(Some(Fault::Duplicate(key)));
                return Err(A::Error::custom("duplicate key"));
            }
            let value = entries.next_value_seed(inner)?;
            map.insert(key, value);
        }
        if !KEEP {
            return Ok(Value::Null);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked or parsed, the answer is the same.
    fn error(text: &str) -> String {
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!(check(text.as_bytes()), Err(error.clone()));
        error.to_string()
    }

    #[test]
    fn values_are_read_as_serde_json_reads_them() {
        let text = r#"{"a":[1,-2,1.5,"x\u00e9",null,true],"b":{}}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap(), plain);
    }

    #[test]
    fn syntax_errors_have_a_position() {
        assert_eq!(
            error("{\n  \"a\": }"),
            "config.json is not JSON: expected value at line 2, column 8"
        );
    }

    #[test]
    fn duplicate_keys_are_refused_at_any_level() {
        assert_eq!(
            error(r#"{"a":[{"b\n":1,"b\n":2}]}"#),
            r#"config.json has the key "b\n" twice in one object, at line 1, column 20"#
        );
    }

    #[test]
    fn sixty_four_levels_are_allowed_and_one_more_is_not() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nested(64).as_bytes()).is_ok());
        assert!(matches!(
            parse(nested(65).as_bytes()),
            Err(BundleError::TooDeep { .. })
        ));
        // Far beyond what the stack would bear, were it recursed into.
        assert!(matches!(
            parse("[".repeat(1 << 20).as_bytes()),
            Err(BundleError::TooDeep { .. })
        ));
    }

    #[test]
    fn trailing_bytes_and_bad_utf8_are_refused() {
        assert!(matches!(
            parse(b"{} {}"),
            Err(BundleError::TrailingBytes { line: 1, column: 4 })
        ));
        assert!(matches!(
            parse(b"{}\0"),
            Err(BundleError::TrailingBytes { .. })
        ));
        assert!(matches!(
            parse(b"{\"\xff\":1}"),
            Err(BundleError::NotUtf8 { offset: 2 })
        ));
        assert!(parse(b"{}\n \t").is_ok());
    }
}
