//! For tests: a scripted SMTP server with a journal, the conformance suite of the plugin contract, and how a test says that it
//! was skipped.

pub mod conformance;
pub mod preset;
pub mod sink;
pub mod skip;
