//! For tests: a scripted SMTP server with a journal, and the conformance suite of the plugin contract.

pub mod conformance;
pub mod preset;
pub mod sink;
