//! A client as most are: MAIL, RCPT, DATA and the content, each waited for. It keeps its connections and sends at once
//! (`TCP_NODELAY`), each group in one write, so that nothing but the round trips is against it.

use crate::peers::{BODY_OCTETS, Sent, timed};
use crate::process::role;
use crate::sinks::Address;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::Instant;

/// The name of this role of the executable. Arguments: port, connections, messages of each.
pub const ROLE: &str = "unpipelined";

/// Sends to a sink; the messages are shared out evenly.
pub fn send(sink: Address, connections: usize, messages: usize) -> Sent {
    let each = messages.div_ceil(connections);
    timed(role(ROLE).args([usize::from(sink.port), connections, each].map(|n| n.to_string())), sink, each * connections)
}

pub fn run(arguments: &[String]) -> ExitCode {
    let numbers: Vec<usize> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let &[port, connections, messages] = numbers.as_slice() else { return ExitCode::from(64) };
    let ready = Arc::new(Barrier::new(connections + 1));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let ready = ready.clone();
            std::thread::spawn(move || session(port as u16, messages, &ready))
        })
        .collect();
    ready.wait();
    let begun = Instant::now();
    let failed = threads.into_iter().any(|thread| !matches!(thread.join(), Ok(Ok(()))));
    println!("seconds {}", begun.elapsed().as_secs_f64());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn session(port: u16, messages: usize, ready: &Barrier) -> Result<()> {
    let opened = open(port);
    // Also where it failed: the others wait.
    ready.wait();
    let mut stream = opened?;
    let line = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\r\n";
    let content = format!("From: a@x.test\r\nTo: b@y.test\r\nSubject: Hello\r\n\r\n{}.\r\n", line.repeat(BODY_OCTETS / line.len()));
    for _ in 0..messages {
        for group in ["MAIL FROM:<a@x.test>\r\n", "RCPT TO:<b@y.test>\r\n", "DATA\r\n", &content] {
            stream.get_mut().write_all(group.as_bytes())?;
            reply(&mut stream)?;
        }
    }
    Ok(())
}

fn open(port: u16) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    reply(&mut stream)?;
    stream.get_mut().write_all(b"EHLO x.test\r\n")?;
    reply(&mut stream)?;
    Ok(stream)
}

fn reply(stream: &mut BufReader<TcpStream>) -> Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.as_bytes() {
            [b'2' | b'3', _, _, b'-', ..] => {}
            [b'2' | b'3', _, _, b' ', ..] => return Ok(()),
            _ => return Err(std::io::Error::other(format!("the sink said `{line}`"))),
        }
    }
}
