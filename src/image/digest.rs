//! Digests (image-spec descriptor.md, "Digests").
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest of registered algorithm: `sha256:` or `sha512:`, and lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: String,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm than the two.
    #[error("the digest {0:?} is neither sha256 nor sha512")]
    Algorithm(String),
    /// Not the digits that the algorithm has.
    #[error("the digest {0:?} is not its algorithm's number of hexadecimal digits, in lower case")]
    Digits(String),
}

impl Digest {
    /// Reads `ALGORITHM:HEX`. Nothing else gets through: the digits become names of files.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) = text.split_once(':').unwrap_or((text, ""));
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm(text.to_owned())),
        };
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != length || !digits.bytes().all(is_digit) {
            return Err(DigestError::Digits(text.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// The sha256 digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(content);
        hasher.finish()
    }

    /// The chain id of the layer with diff id `diff` upon those with chain id `below` (image-spec config.md, "Layer ChainID").
    pub fn chain(below: Option<&Self>, diff: &Self) -> Self {
        match below {
            None => diff.clone(),
            Some(below) => Self::of(format!("{below} {diff}").as_bytes()),
        }
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.text.split_once(':').map_or("", |(name, _)| name)
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, digits)| digits)
    }

    /// The first twelve digits, for tables.
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Computes a digest of what it is given piece by piece.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// One for sha256.
    pub fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    /// One of the algorithm of `digest`.
    pub fn like(digest: &Digest) -> Self {
        match digest.algorithm() {
            "sha512" => Self::Sha512(Sha512::new()),
            _ => Self::sha256(),
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(piece),
            Self::Sha512(hasher) => hasher.update(piece),
        }
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Self::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Digest {
            text: format!("{algorithm}:{digits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_are_what_sha256sum_prints() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let mut hasher = Hasher::like(&Digest::parse(EMPTY).unwrap());
        hasher.update(b"a");
        hasher.update(b"bc");
        assert!(hasher.finish().hex().starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn the_first_chain_id_is_the_diff_id() {
        let diff = Digest::parse(EMPTY).unwrap();
        let first = Digest::chain(None, &diff);
        assert_eq!(first, diff);
        let second = Digest::chain(Some(&first), &diff);
        assert_eq!(second, Digest::of(format!("{EMPTY} {EMPTY}").as_bytes()));
    }

    #[test]
    fn nothing_else_is_a_digest() {
        let long = "a".repeat(64);
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:abc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha256:../../../../../../../../../../../../../../../../../../../../../etc",
            &EMPTY.to_uppercase(),
            &EMPTY.replace("e3b0", "E3B0"),
            &format!("sha512:{long}"),
            &format!("{EMPTY}0"),
            &long,
        ] {
            assert!(Digest::parse(text).is_err(), "{text:?}");
        }
    }
}
