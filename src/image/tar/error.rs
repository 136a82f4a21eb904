//! Why an archive was not read.
#![forbid(unsafe_code)]

use std::io;

use crate::error::Error;

/// What stopped the reader, and where.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed: what it says is its own matter.
    #[error("{error}")]
    Read {
        /// How many bytes had been read.
        position: u64,
        /// What the source said.
        #[source]
        error: io::Error,
    },
    /// The archive is not sound, or more than what is taken.
    #[error("{} at byte {position}: {problem}", named(.name))]
    Archive {
        /// Where its header, or what is missing, begins.
        position: u64,
        /// The entry's name, as far as it is known.
        name: Vec<u8>,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It ends where more must follow.
    #[error("the archive ends in the middle of it")]
    Truncated,
    /// It breaks the rules of the format.
    #[error("{0}")]
    Malformed(String),
    /// A kind of entry that no layer has.
    #[error("{0}")]
    Unsupported(String),
    /// More than what is taken.
    #[error("{} {said}, more than the {most} that are taken", .limit.what())]
    Limit {
        /// Which limit.
        limit: Limit,
        /// What the archive says.
        said: u64,
        /// The limit.
        most: u64,
    },
}

/// What the reader limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`crate::image::Limits::name`].
    Name,
    /// [`crate::image::Limits::header`].
    Header,
    /// [`crate::image::Limits::entries`].
    Entries,
    /// [`crate::image::Limits::file`].
    File,
    /// [`crate::image::Limits::layer`].
    Layer,
    /// The parts of a sparse file.
    Extents,
}

impl Limit {
    fn what(self) -> &'static str {
        match self {
            Self::Name => "the bytes of its name or target are",
            Self::Header => "the bytes of its extended header are",
            Self::Entries => "the entries of the archive are",
            Self::File => "the bytes of the file, holes included, are",
            Self::Layer => "the bytes of all files, holes included, are",
            Self::Extents => "the parts of the sparse file are",
        }
    }

    /// The option of `image import` that raises it.
    pub fn option(self) -> Option<&'static str> {
        match self {
            Self::Entries => Some("--max-entries"),
            Self::File => Some("--max-file-size"),
            Self::Layer => Some("--max-layer-size"),
            Self::Name | Self::Header | Self::Extents => None,
        }
    }
}

impl Problem {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }

    pub(super) fn at(self, position: u64, name: &[u8]) -> TarError {
        TarError::Archive {
            position,
            name: name.to_vec(),
            problem: self,
        }
    }
}

impl TarError {
    /// The limit that was exceeded, if that is what it was.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::Archive {
                problem: Problem::Limit { limit, .. },
                ..
            } => Some(*limit),
            _ => None,
        }
    }
}

/// [`super::Data`] can only fail with the one, and says the other in it.
impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read { error, .. } => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// What [`super::Data`] said, taken out again.
impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        error
            .downcast::<Self>()
            .unwrap_or_else(|error| Self::Read { position: 0, error })
    }
}

impl From<TarError> for Error {
    fn from(error: TarError) -> Self {
        let said = Self::new("cannot read the layer's archive").because(&error);
        match error.limit().and_then(Limit::option) {
            Some(option) => said.hint(format!(
                "if it is to be trusted with that, raise the limit with {option}"
            )),
            None => said,
        }
    }
}

fn named(name: &[u8]) -> String {
    if name.is_empty() {
        "the entry".to_owned()
    } else {
        format!("{:?}", String::from_utf8_lossy(name))
    }
}
