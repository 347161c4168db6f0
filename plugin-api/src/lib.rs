//! The contract between Postwarm and its plugins.
//!
//! A plugin is an [`SmtpClient`], which sends mail, or a [`FeedbackLoop`], which tells what became of it. A built-in
//! implements the trait and registers through `inventory` ([`register`]); an external `.so` crosses the C tables of
//! `abi` and is one more implementation of the same trait to the host.
//!
//! Invariant: this crate depends on nothing of ours and, but for the feature `export` that external plugins in Rust turn
//! on, starts no thread and no runtime.

pub mod abi;
pub mod abi_convert;
pub mod descriptor;
#[cfg(feature = "export")]
pub mod export;
#[cfg(feature = "export")]
mod export_feedback;
#[cfg(feature = "export")]
mod export_instance;
#[cfg(feature = "export")]
mod export_smtp;
pub mod feedback_loop;
pub mod mark;
pub mod message;
pub mod outcome;
pub mod register;
pub mod smtp_client;

pub use descriptor::{Descriptor, Instance, Kind, Secret, SettingsProblem};
pub use feedback_loop::{Aggregate, Capabilities, Fact, FactKind, FactSink, FeedbackLoop, Poll, PollError, Report, WatchList, Watched};
pub use mark::{KeepMarks, Mark};
pub use message::Message;
pub use outcome::{Cause, EnhancedCode, Fault, NoEnhancedCode, Outcome, Phase, Reply};
pub use register::{Builtin, FeedbackFactory, SmtpFactory};
pub use smtp_client::SmtpClient;

/// A boxed future that may be moved between threads; what every asynchronous method of the contract returns.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[doc(hidden)]
pub use inventory;

/// The JSON values of [`Instance::settings`], so that a plugin needs no dependency for them.
pub use serde_json;
