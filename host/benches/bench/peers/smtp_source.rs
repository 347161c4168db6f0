//! Postfix's smtp-source, which keeps its connections (`-d`) and does not pipeline.

use crate::machine;
use crate::peers::{BODY_OCTETS, SESSIONS, Sent};
use crate::process::{output, program};
use crate::sinks::Address;
use std::process::Command;
use std::time::Instant;

/// Sends to a sink.
pub fn send(sink: Address, messages: usize) -> Sent {
    let mut command = Command::new(program("smtp-source").expect("it was looked for at the start"));
    command.args(["-4", "-d", "-f", "a@x.test", "-t", "b@y.test", "-S", "Hello"]);
    command.args(["-s", &SESSIONS.to_string(), "-m", &messages.to_string(), "-l", &BODY_OCTETS.to_string()]);
    let (start, before) = (Instant::now(), machine::cpu_of_ended_children());
    output(command.arg(format!("127.0.0.1:{}", sink.port))).unwrap_or_else(|error| panic!("smtp-source failed: {error}"));
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), machine::cpu_of_ended_children() - before);
    Sent { per_second: messages as f64 / seconds, cpu_us: cpu * 1e6 / messages as f64, sink_cpu_us: sink.cpu_us(messages) }
}
