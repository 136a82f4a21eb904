//! What a person names as the source of an image.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::image::Digest;

/// Where an image comes from, as it is given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `oci:DIR[:TAG|@DIGEST]`: an OCI image layout (image-spec image-layout.md).
    Oci(PathBuf, Option<Selector>),
    /// `oci-archive:FILE[:TAG|@DIGEST]`: a tar file of one.
    OciArchive(PathBuf, Option<Selector>),
    /// `docker-archive:FILE[:NAME:TAG|@DIGEST]`: what `docker save` and `podman save` write; the digest is the image's id.
    DockerArchive(PathBuf, Option<Selector>),
    /// `rootfs:FILE` or `rootfs:DIR`: a tar file of a root filesystem, compressed or not, or a directory that holds one.
    Rootfs(PathBuf),
}

/// Which image of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The one of this name.
    Tag(String),
    /// The one with this digest: of its manifest, or in a docker-archive of its config.
    Digest(Digest),
}

/// The forms, for an error.
const FORMS: &str = "a source is oci:DIR[:TAG|@DIGEST], oci-archive:FILE[:TAG|@DIGEST], \
    docker-archive:FILE[:NAME:TAG|@DIGEST], rootfs:FILE.tar[.gz|.zst|.xz] or rootfs:DIR";

/// Transports of others that name a registry or a daemon.
const ELSEWHERE: [&str; 6] = [
    "docker",
    "docker-daemon",
    "containers-storage",
    "registry",
    "http",
    "https",
];

impl Reference {
    /// Reads a source. As with skopeo, a path ends at its first `:`; that of `rootfs:` is all of the rest.
    ///
    /// # Errors
    /// Another form than these; one of a registry, with the way to get it.
    pub fn parse(text: &str) -> Result<Self> {
        let unknown = || Error::new(format!("{text:?} is no source of an image"));
        let (transport, rest) = text
            .split_once(':')
            .ok_or_else(|| not_here(unknown(), text).hint(FORMS))?;
        let make = match transport {
            "oci" => Self::Oci,
            "oci-archive" => Self::OciArchive,
            "docker-archive" => Self::DockerArchive,
            "rootfs" if rest.is_empty() => return Err(no_path(text)),
            "rootfs" => return Ok(Self::Rootfs(PathBuf::from(rest))),
            "dir" => {
                return Err(unknown()
                    .hint("`skopeo copy dir:DIR oci-archive:FILE` makes one")
                    .hint(FORMS));
            }
            _ if ELSEWHERE.contains(&transport) => {
                let name = rest.trim_start_matches('/');
                return Err(not_here(unknown(), name).hint(FORMS));
            }
            // `debian:12`, `quay.io/fedora:40`.
            _ => return Err(not_here(unknown(), text).hint(FORMS)),
        };
        let (path, selector) = split(text, rest)?;
        Ok(make(path, selector))
    }

    /// The path, of a file or a directory.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Oci(path, _)
            | Self::OciArchive(path, _)
            | Self::DockerArchive(path, _)
            | Self::Rootfs(path) => path,
        }
    }
}

/// Adds to `error` how an image `name` of a registry becomes a file.
fn not_here(error: Error, name: &str) -> Error {
    error.hint(format!(
        "lodger pulls nothing: `skopeo copy docker://{name} oci-archive:FILE` does, and oci-archive:FILE is a source"
    ))
}

fn no_path(text: &str) -> Error {
    Error::new(format!("{text:?} names no file")).hint(FORMS)
}

/// The path and what follows it: `:TAG` or `@DIGEST`.
fn split(text: &str, rest: &str) -> Result<(PathBuf, Option<Selector>)> {
    let digest_at = ["@sha256:", "@sha512:"]
        .iter()
        .filter_map(|mark| rest.rfind(mark))
        .max();
    let (path, selector) = match (digest_at, rest.split_once(':')) {
        (Some(at), _) => {
            let digest = Digest::parse(&rest[at + 1..])
                .map_err(|e| Error::new(format!("{text:?} names no image")).because(e))?;
            if rest[..at].contains(':') {
                let error = Error::new(format!("{text:?} has a tag and a digest"));
                return Err(error.hint("give one of them; a path cannot have a colon"));
            }
            (&rest[..at], Some(Selector::Digest(digest)))
        }
        (None, Some((path, tag))) => {
            if tag.is_empty() {
                let error = Error::new(format!("the tag in {text:?} is empty"));
                return Err(
                    error.hint("a path ends at its first colon: one that has a colon needs a symbolic link without")
                );
            }
            (path, Some(Selector::Tag(tag.to_owned())))
        }
        (None, None) => (rest, None),
    };
    if path.is_empty() {
        return Err(no_path(text));
    }
    Ok((PathBuf::from(path), selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn tag(text: &str) -> Option<Selector> {
        Some(Selector::Tag(text.to_owned()))
    }

    #[test]
    fn sources_are_read_as_skopeo_reads_them() {
        let path = PathBuf::from;
        let digest = || Some(Selector::Digest(Digest::parse(DIGEST).unwrap()));
        for (text, expected) in [
            ("oci:dir", Reference::Oci(path("dir"), None)),
            ("oci:/a/b:1.0", Reference::Oci(path("/a/b"), tag("1.0"))),
            ("oci:d:a:b@c", Reference::Oci(path("d"), tag("a:b@c"))),
            (
                &format!("oci:d@{DIGEST}"),
                Reference::Oci(path("d"), digest()),
            ),
            (
                "oci-archive:a.tar:quay.io/x/y:1",
                Reference::OciArchive(path("a.tar"), tag("quay.io/x/y:1")),
            ),
            (
                "docker-archive:a.tar:debian:12",
                Reference::DockerArchive(path("a.tar"), tag("debian:12")),
            ),
            (
                &format!("docker-archive:a@b.tar@{DIGEST}"),
                Reference::DockerArchive(path("a@b.tar"), digest()),
            ),
            ("rootfs:a:b.tar", Reference::Rootfs(path("a:b.tar"))),
        ] {
            assert_eq!(Reference::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_way_out() {
        let upper = DIGEST.to_uppercase().replace("SHA256", "sha256");
        for (text, part) in [
            ("debian", "skopeo copy docker://debian oci-archive:FILE"),
            ("debian:12", "skopeo copy docker://debian:12 oci-archive"),
            ("docker://quay.io/a:1", "docker://quay.io/a:1 oci-archive"),
            ("dir:/x", "skopeo copy dir:DIR"),
            ("oci:", "names no file"),
            ("oci::tag", "names no file"),
            ("oci:dir:", "is empty"),
            ("rootfs:", "names no file"),
            ("", "a source is oci:DIR"),
            ("oci:d@sha256:abc", "hexadecimal"),
            (&format!("oci:d@{upper}"), "in lower case"),
            (&format!("oci:d:tag@{DIGEST}"), "a tag and a digest"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
