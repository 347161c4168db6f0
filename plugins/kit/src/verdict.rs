//! What a broken connection and a refusal mean for the message under way.
//!
//! Invariant: pure.

use crate::classify::{Rules, classify};
use crate::settings::Deadlines;
use crate::wire::WireError;
use postwarm_plugin_api::{Cause, Outcome, Phase, Reply};
use std::time::Duration;

/// Why the connection ends before its time.
pub struct Broken {
    pub cause: Cause,
    pub detail: String,
}

impl Broken {
    pub fn session(detail: impl Into<String>) -> Broken {
        Broken { cause: Cause::Session, detail: detail.into() }
    }
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Broken {
        let cause = match error {
            WireError::Closed | WireError::Io(_) => Cause::Disconnected,
            WireError::Deadline | WireError::Reply(_) => Cause::Session,
        };
        Broken { cause, detail: error.to_string() }
    }
}

/// Turns a 4yz or 5yz reply into an outcome.
pub fn refused(rules: Rules, reply: Reply, phase: Phase) -> Outcome {
    let (fault, retry_after) = classify(rules, &reply, phase);
    match reply.code {
        400..=499 => Outcome::Deferred { reply, fault, retry_after },
        _ => Outcome::Rejected { reply, fault },
    }
}

/// How long the reply of an envelope's phase may take.
pub fn phase_deadline(deadlines: &Deadlines, phase: Phase) -> Duration {
    match phase {
        Phase::Rcpt => deadlines.rcpt,
        Phase::Data => deadlines.data,
        _ => deadlines.mail,
    }
}

/// A phase in the words of a detail.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Rcpt => "RCPT",
        Phase::Data => "DATA",
        Phase::EndOfData => "the end of data",
        _ => "MAIL",
    }
}
