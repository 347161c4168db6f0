//! `postwarm healthcheck`: asks a service on this machine whether it is alive, for container health checks without a
//! shell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long each step may take.
const STEP_MAX: Duration = Duration::from_secs(3);
const OK: i32 = 0;
const FINDING: i32 = 1;

/// Returns 0 where `GET /livez` on this port of the loopback answers 200, else 1 with the reason on `err`.
pub fn run(port: u16, err: &mut dyn Write) -> i32 {
    match ask(port) {
        Ok(status) if status.contains(" 200 ") => OK,
        Ok(status) => fail(err, port, &format!("answers `{}`", status.trim_end())),
        Err(error) => fail(err, port, &error.to_string()),
    }
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), STEP_MAX)?;
    stream.set_read_timeout(Some(STEP_MAX))?;
    stream.set_write_timeout(Some(STEP_MAX))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn fail(err: &mut dyn Write, port: u16, words: &str) -> i32 {
    let _ = writeln!(err, "port {port}: {words}");
    FINDING
}
