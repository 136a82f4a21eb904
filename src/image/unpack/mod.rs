//! A layer becomes a directory.
