//! Landlock around an import.
