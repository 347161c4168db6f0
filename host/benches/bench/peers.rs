//! Postfix's smtp-sink and smtp-source.

use crate::machine;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
}

pub fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.exists())
}

/// A process that ends with its handle.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody listens on: smtp-sink shares one with a forgotten sink without a word.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free").port()
}

/// Starts smtp-sink on a port of its own.
pub fn sink() -> (Running, u16) {
    let port = free_port();
    let program = program("smtp-sink").expect("it was looked for at the start");
    let child = Command::new(program)
        .args(["-u", "nobody", "-c", &format!("127.0.0.1:{port}"), "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let running = Running(child.expect("smtp-sink starts"));
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "smtp-sink does not listen");
        std::thread::yield_now();
    }
    (running, port)
}

/// `smtp-source -d` to a sink of its own.
pub fn smtp_source(rows: usize) -> Sent {
    let (_sink, port) = sink();
    let (sessions, rows_text, octets) = (SESSIONS.to_string(), rows.to_string(), BODY_OCTETS.to_string());
    let arguments = ["-d", "-s", &sessions, "-m", &rows_text, "-l", &octets, "-f", "a@x.test", "-t", "b@y.test"];
    let (start, before) = (Instant::now(), machine::cpu_of_ended_children());
    let program = program("smtp-source").expect("it was looked for at the start");
    let status = Command::new(program).args(arguments).arg(format!("127.0.0.1:{port}")).status().expect("smtp-source starts");
    assert!(status.success(), "smtp-source failed: {status}");
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), machine::cpu_of_ended_children() - before);
    Sent { per_second: rows as f64 / elapsed, cpu_us: cpu * 1e6 / rows as f64 }
}
