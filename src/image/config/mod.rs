//! An image's config, and what it becomes.
