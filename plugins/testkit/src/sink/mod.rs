//! A scripted SMTP server on loopback, with a journal of what reached it.
//!
//! It pipelines, offers STARTTLS with a certificate of its own, authenticates, and misbehaves as its [`Script`] says.
//!
//! Invariant: a message is in the journal as accepted before its positive reply leaves.

pub mod certificate;
mod content;
pub mod journal;
pub mod lenient;
pub mod script;
mod session;

use certificate::Certificate;
use journal::{Fact, Journal};
use script::{Script, Tls};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// A running sink. Dropping it closes its port and its connections.
pub struct Sink {
    /// Where it listens: 127.0.0.1 and a port of the system's choice.
    pub addr: SocketAddr,
    journal: Arc<Journal>,
    certificate: Arc<Certificate>,
    task: tokio::task::JoinHandle<()>,
}

impl Sink {
    /// Starts a sink on the current runtime.
    pub async fn start(script: Script) -> Sink {
        Sink::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Starts one at an address, as where an earlier sink listened.
    pub async fn start_at(addr: SocketAddr, script: Script) -> Sink {
        let listener = listen(addr, &script).unwrap_or_else(|error| panic!("cannot listen on {addr}: {error}"));
        let addr = listener.local_addr().expect("a bound socket has an address");
        let journal = Arc::new(Journal::new(script.journal_file.as_deref()));
        let certificate = Arc::new(Certificate::new(&script.certificate_names));
        let task = tokio::spawn(accept(listener, Arc::new(script), Arc::clone(&journal), Arc::clone(&certificate)));
        Sink { addr, journal, certificate, task }
    }

    /// What reached the sink so far, and a way to wait for more.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Closes its port and its connections; the journal stays.
    pub fn close(&self) {
        self.task.abort();
    }

    /// The certificate that signs itself, as PEM; give it to a client as a root.
    pub fn ca_pem(&self) -> &str {
        &self.certificate.pem
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}

/// Connections take the sizes of buffers and segments from the listener; small segments make the client's buffer small too.
fn listen(addr: SocketAddr, script: &Script) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Connections of an earlier sink may still end there.
    socket.set_reuseaddr(true)?;
    if script.small_buffers {
        socket.set_recv_buffer_size(4096)?;
        socket2::SockRef::from(&socket).set_tcp_mss(536)?;
    }
    socket.bind(addr)?;
    socket.listen(1024)
}

async fn accept(listener: TcpListener, script: Arc<Script>, journal: Arc<Journal>, certificate: Arc<Certificate>) {
    let mut sessions = JoinSet::new();
    let mut connection = 0;
    while let Ok((stream, _)) = listener.accept().await {
        connection += 1;
        let _ = stream.set_nodelay(true);
        journal.push(connection, 0, Fact::Connected);
        let (script, journal, certificate) = (Arc::clone(&script), Arc::clone(&journal), Arc::clone(&certificate));
        sessions.spawn(async move {
            let stream: session::Stream = match script.tls {
                Tls::Implicit => match certificate.acceptor.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return journal.push(connection, 0, Fact::TlsFailed),
                },
                Tls::None | Tls::StartTls => Box::new(stream),
            };
            session::Session::new(stream, connection, &script, &journal, &certificate).serve().await;
            journal.push(connection, 0, Fact::Closed);
        });
        while sessions.try_join_next().is_some() {}
    }
}
