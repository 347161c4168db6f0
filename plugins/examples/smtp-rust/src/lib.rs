//! Example: an external SMTP client in Rust.
