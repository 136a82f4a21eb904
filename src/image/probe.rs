//! What the filesystem of a store can do.
