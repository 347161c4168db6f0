//! The list of built-in plugins.
