//! Who does the same work beside the product, and how fast.

pub mod libraries;
pub mod openssl;
pub mod smtp_source;
pub mod unpipelined;

use crate::machine;
use crate::process::output;
use crate::readings;
use crate::sinks::Address;
use std::process::Command;

/// Connections of every sender.
pub const SESSIONS: usize = 20;
/// Octets of every message's body.
pub const BODY_OCTETS: usize = 5_000;

/// What a sender achieved.
#[derive(Clone, Copy)]
pub struct Sent {
    pub per_second: f64,
    /// Microseconds of the sender's CPU a message.
    pub cpu_us: f64,
    /// Microseconds of the sink's.
    pub sink_cpu_us: f64,
}

/// Runs a sender that says how many seconds it took for its messages, so that its start does not count against it.
fn timed(command: &mut Command, sink: Address, messages: usize) -> Sent {
    let before = machine::cpu_of_ended_children();
    let said = output(command).unwrap_or_else(|error| panic!("a peer failed: {error}"));
    let cpu = machine::cpu_of_ended_children() - before;
    let seconds = readings::said(&said, "seconds").unwrap_or_else(|| panic!("a peer was to say `seconds` and said `{said}`"));
    Sent { per_second: messages as f64 / seconds, cpu_us: cpu * 1e6 / messages as f64, sink_cpu_us: sink.cpu_us(messages) }
}
