//! One import, from source to store.
