//! Layers as one directory, by copying.
