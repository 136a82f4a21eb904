//! Layers seen as one tree.
