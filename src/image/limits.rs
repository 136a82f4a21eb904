//! How much of an image is taken.
#![forbid(unsafe_code)]

/// Limits of one import; each can be raised on the command line. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What a layer's files may have together, holes included.
    pub layer: u64,
    /// What one file may have, holes included (RLIMIT_FSIZE besides).
    pub file: u64,
    /// How many entries a layer may have.
    pub entries: u64,
    /// How many directories deep an entry may be.
    pub depth: usize,
    /// What a name, or the target of a link, may have.
    pub name: usize,
    /// What the extended header of one entry may have.
    pub header: usize,
    /// The memory that a decompressor may ask for: the window of zstd, the dictionary of xz.
    pub window: u64,
    /// What a JSON document may have.
    pub json: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer: 32 << 30,
            file: 16 << 30,
            entries: 2_000_000,
            depth: 1024,
            name: 4096,
            header: 1 << 20,
            window: 16 << 20,
            json: 4 << 20,
        }
    }
}
