//! For tests: a scripted SMTP server with a journal, the conformance suite of the plugin contract, instances, the reference
//! corpora, and how a test says that it was skipped.

pub mod conformance;
pub mod corpora;
pub mod instance;
pub mod marks;
pub mod preset;
pub mod sink;
pub mod skip;
