//! The reader of a layer's tar.
