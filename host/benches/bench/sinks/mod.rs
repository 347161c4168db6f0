//! Who takes the mail: Postfix's smtp-sink, or a sink of our own that is fast enough to show what lies beyond it.
//!
//! Invariant: a sink is a process and a port of its own, and the only one that listens there.

mod dialogue;
pub mod fast;

use crate::machine;
use crate::process::{Running, program, role};
use crate::readings;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Connections that a sink takes: an organization has one at least, and there are many.
const CONNECTIONS_MAX: &str = "4000";

/// Where a sink listens, and which process it is.
#[derive(Clone, Copy)]
pub struct Address {
    pub port: u16,
    pid: u32,
}

impl Address {
    /// Health sends nothing.
    pub const NOBODY: Address = Address { port: 25, pid: 0 };

    /// Microseconds of the sink's CPU a message, so far.
    pub fn cpu_us(self, messages: usize) -> f64 {
        machine::cpu_of(self.pid) * 1e6 / messages as f64
    }
}

/// A sink that listens.
pub struct Sink {
    pub address: Address,
    running: Running,
    out: Option<BufReader<ChildStdout>>,
}

/// How our own sink answers.
#[derive(Clone, Copy, Default)]
pub struct Manner<'a> {
    /// How long each group of replies takes.
    pub delay_ms: u32,
    /// Where to put the certificate of STARTTLS, which is not offered without.
    pub certificate: Option<&'a Path>,
}

impl Sink {
    /// Postfix's smtp-sink.
    pub fn postfix() -> Sink {
        let port = free_port();
        let mut command = Command::new(program("smtp-sink").expect("it was looked for at the start"));
        command.args(["-u", "nobody", "-m", CONNECTIONS_MAX, &format!("127.0.0.1:{port}"), "1000"]);
        let running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("smtp-sink starts"));
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "smtp-sink does not listen");
            std::thread::yield_now();
        }
        Sink::alone(port, running, None)
    }

    /// Our own.
    pub fn own(manner: Manner<'_>) -> Sink {
        let mut command = role(fast::ROLE);
        command.arg(manner.delay_ms.to_string()).args(manner.certificate);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut running = Running(child.expect("this program starts again"));
        let mut out = BufReader::new(running.0.stdout.take().expect("it is piped"));
        let port = read_line(&mut out, "port") as u16;
        Sink::alone(port, running, Some(out))
    }

    /// smtp-sink shares a port with a forgotten sink without a word.
    fn alone(port: u16, running: Running, out: Option<BufReader<ChildStdout>>) -> Sink {
        let listeners = machine::listeners(port).len();
        assert_eq!(listeners, 1, "{listeners} sockets listen on port {port}");
        Sink { address: Address { port, pid: running.0.id() }, running, out }
    }

    /// The messages that our own sink has accepted.
    pub fn accepted(&mut self) -> usize {
        let ask = self.running.0.stdin.as_mut().expect("it is piped");
        ask.write_all(b"\n").expect("the sink runs");
        read_line(self.out.as_mut().expect("our own sink has it"), "accepted") as usize
    }
}

fn read_line(out: &mut BufReader<ChildStdout>, name: &str) -> f64 {
    let mut line = String::new();
    out.read_line(&mut line).expect("the sink says it");
    readings::said(&line, name).unwrap_or_else(|| panic!("the sink was to say `{name}` and said `{line}`"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free").port()
}
