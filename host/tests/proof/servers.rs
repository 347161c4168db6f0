//! Servers as an organization's file names them, and addresses where none answers.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// Connections that may be tried until the system leaves one without an answer.
const QUEUED_MAX: usize = 16;
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// A `[[smtp]]` that speaks to a server without TLS, unless `settings` say otherwise.
pub fn client(name: &str, address: SocketAddr, settings: &str, limits: &str) -> String {
    let port = address.port();
    let tls = if settings.contains("tls =") { "" } else { ", tls = \"none\"" };
    let settings = if settings.is_empty() { String::new() } else { format!(", {settings}") };
    format!(
        "[[smtp]]\nname = \"{name}\"\nplugin = \"smtp\"\nlimits = {{ {limits} }}\n\
         settings = {{ host = \"127.0.0.1\", port = {port}{tls}{settings} }}\n"
    )
}

/// An address that refuses connections for as long as this lives.
pub struct Closed {
    pub addr: SocketAddr,
    _socket: TcpSocket,
}

impl Closed {
    pub fn bind() -> Closed {
        let socket = bound();
        Closed { addr: socket.local_addr().unwrap(), _socket: socket }
    }
}

/// An address that leaves connections without an answer: its queue is full, and nobody takes from it.
pub struct Deaf {
    pub addr: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    pub async fn listen() -> Deaf {
        let socket = bound();
        let addr = socket.local_addr().unwrap();
        let listener = socket.listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(connected) = timeout(ANSWER_MAX, TcpStream::connect(addr)).await {
            queued.push(connected.unwrap());
            assert!(queued.len() < QUEUED_MAX, "the system queues connections without an end");
        }
        Deaf { addr, _listener: listener, _queued: queued }
    }
}

fn bound() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}
