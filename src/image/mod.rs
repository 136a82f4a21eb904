//! Images: from a file to directories that the kernel's overlay stacks, and to a configuration that runs.
//!
//! `source` finds manifest, config and layers in what was given; `tar` reads a layer's entries; `unpack` makes them a directory,
//! beneath its fd; `store` keeps layers by chain id and images by name; `merged` looks at layers as one tree, `flatten` copies them
//! into one; `config` turns an image's config into that of a container. `import` puts these together, under `confine`.

pub mod base;
pub mod config;
pub mod confine;
pub mod containers;
pub mod digest;
pub mod flatten;
pub mod import;
pub mod limits;
pub mod merged;
pub mod names;
pub mod obstacle;
pub mod owners;
pub mod probe;
pub mod remove;
pub mod source;
pub mod store;
pub mod tar;
pub mod unpack;

pub use digest::{Digest, Hasher};
pub use limits::Limits;
pub use merged::Merged;
pub use names::Names;
pub use owners::Owners;
