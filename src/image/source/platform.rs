//! For which machine an image is (image-spec image-index.md, "platform").

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Operating system, architecture and variant, in the words of Go (GOOS, GOARCH).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`, …; most architectures have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The one that this program was built for, in its lowest variant.
    pub fn host() -> Self {
        let little = cfg!(target_endian = "little");
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "loongarch64" => ("loong64", None),
            "powerpc64" if little => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "mips64" if little => ("mips64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Reads `OS/ARCHITECTURE[/VARIANT]`. The names of uname(1) are understood, too.
    ///
    /// # Errors
    /// Another form, or another system than linux.
    pub fn parse(text: &str) -> Result<Self> {
        let form = || {
            Error::new(format!("{text:?} is no platform"))
                .hint("a platform is linux/ARCHITECTURE[/VARIANT], such as linux/arm64")
        };
        let words: Vec<&str> = text.split('/').collect();
        let (architecture, variant) = match words[..] {
            ["linux", architecture] => (architecture, None),
            ["linux", architecture, variant] => (architecture, Some(variant)),
            _ => return Err(form()),
        };
        if architecture.is_empty() || variant == Some("") {
            return Err(form());
        }
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            other => other,
        };
        Ok(Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// How well an image for `offered` runs here: 0 is best; `None` when it does not.
    pub(super) fn rank(&self, offered: &Self) -> Option<usize> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let wanted = self.variant.as_deref().unwrap_or_default();
        let offered = offered.variant.as_deref().unwrap_or_default();
        // Later ones run what was made for the earlier ones; none said is the first of each list's end.
        let order: &[&str] = match self.architecture.as_str() {
            "amd64" => &["v4", "v3", "v2", "v1", ""],
            "arm64" => &["v9", "v8", ""],
            "arm" => &["v8", "v7", "v6", "v5", ""],
            _ => &[""],
        };
        let default = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            "arm" => "v7",
            _ => "",
        };
        let wanted = if wanted.is_empty() { default } else { wanted };
        if offered == wanted {
            return Some(0);
        }
        let from = order.iter().position(|variant| *variant == wanted)?;
        let at = order.iter().position(|variant| *variant == offered)?;
        at.checked_sub(from)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_nothing_else() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            "amd64",
            "linux/",
            "linux/arm/",
            "linux/arm/v7/x",
            "windows/amd64",
        ] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Platform::host().os, "linux");
    }

    #[test]
    fn the_nearest_variant_that_runs_is_the_best() {
        for (wanted, offered, rank) in [
            ("linux/amd64", "linux/amd64", Some(1)),
            ("linux/amd64", "linux/amd64/v1", Some(0)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(1)),
            ("linux/amd64/v3", "linux/amd64", Some(3)),
            ("linux/amd64", "linux/386", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(1)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("linux/s390x/z13", "linux/s390x/z13", Some(0)),
            ("linux/s390x", "linux/s390x/z13", None),
        ] {
            let of = |text| Platform::parse(text).unwrap();
            assert_eq!(of(wanted).rank(&of(offered)), rank, "{wanted} {offered}");
        }
    }
}
