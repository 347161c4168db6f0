//! Example: an external feedback loop in Rust that reads a CSV file.
