//! The commands. Each returns its exit code and writes to the writers that it is given.

pub mod check;
pub mod key;
