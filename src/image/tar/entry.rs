//! What the reader says of an entry.
#![forbid(unsafe_code)]

/// A file, directory or whatever else an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, byte for byte as in the archive: nobody has judged it yet. Without NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The permissions, bits 07777.
    pub mode: u32,
    /// The owner, never 4294967295.
    pub uid: u32,
    /// The group, never 4294967295.
    pub gid: u32,
    /// When it was last changed.
    pub mtime: Time,
    /// The size of the file in bytes, holes included; 0 of all that is no file.
    pub size: u64,
    /// The target of a link, as in the archive, without NUL; empty of all that is no link.
    pub link: Vec<u8>,
    /// The extended attributes, sorted by name, each once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file: where the content goes. Sorted, apart, within `size`; the rest are holes.
    pub extents: Option<Vec<Extent>>,
    /// Where in the archive the content begins, in bytes.
    pub offset: u64,
}

/// The type of an entry (pax(1), "ustar Header Block", typeflag).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to `link`.
    Symlink,
    /// Another name of the file that the archive calls `link`.
    HardLink,
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A time since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// And so many nanoseconds more, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// A part of a sparse file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}
