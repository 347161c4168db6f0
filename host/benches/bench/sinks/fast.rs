//! Our own sink, in a process of its own, so that its CPU is nobody else's: pipelining, STARTTLS, a round trip.
//!
//! Prints `port N`, then `accepted N` for each line that it reads. Ends with its standard input.

use crate::sinks::dialogue::{Dialogue, Next};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The name of this role of the executable. Arguments: the delay of each group of replies in milliseconds, and where to put
/// the certificate, without which there is no TLS.
pub const ROLE: &str = "sink";

const READ_MAX: usize = 64 * 1024;

/// Messages accepted by all sessions.
static ACCEPTED: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
struct Manner {
    delay: Duration,
    tls: Option<TlsAcceptor>,
}

pub fn run(arguments: &[String]) -> ExitCode {
    let delay_ms = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(0);
    let manner = Manner { delay: Duration::from_millis(delay_ms), tls: arguments.get(1).map(|path| acceptor(path)) };
    std::thread::spawn(|| {
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(|_| println!("accepted {}", ACCEPTED.load(Ordering::Relaxed)));
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(listen(manner));
    ExitCode::SUCCESS
}

async fn listen(manner: Manner) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    println!("port {}", listener.local_addr().expect("it listens").port());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(stream, manner.clone()));
    }
}

/// A session ends with its connection, however that ends.
async fn serve(mut stream: TcpStream, manner: Manner) {
    let _ = stream.set_nodelay(true);
    tokio::time::sleep(manner.delay).await;
    if stream.write_all(b"220 sink ESMTP\r\n").await.is_err() {
        return;
    }
    let mut dialogue = Dialogue::new(manner.tls.is_some());
    let next = talk(&mut stream, &mut dialogue, manner.delay).await;
    if let (Ok(Next::StartTls), Some(tls)) = (next, manner.tls)
        && let Ok(mut stream) = tls.accept(stream).await
    {
        let _ = talk(&mut stream, &mut dialogue, manner.delay).await;
    }
}

/// Talks until the session ends or goes on in TLS.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, dialogue: &mut Dialogue, delay: Duration) -> std::io::Result<Next> {
    let (mut input, mut replies) = (Vec::with_capacity(READ_MAX), Vec::new());
    loop {
        input.reserve(READ_MAX);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(Next::Close);
        }
        let before = dialogue.accepted;
        let (done, next) = dialogue.take(&input, &mut replies);
        input.drain(..done);
        if !replies.is_empty() {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            // Before anybody can know of them from the replies.
            ACCEPTED.fetch_add(dialogue.accepted - before, Ordering::Relaxed);
            stream.write_all(&replies).await?;
            stream.flush().await?;
            replies.clear();
        }
        if next != Next::Go {
            return Ok(next);
        }
    }
}

/// Makes a certificate for `localhost` and leaves it, without its key, in a file.
fn acceptor(path: &str) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a self-signed certificate can be made");
    std::fs::write(path, made.cert.pem()).expect("the certificate can be left there");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("the key belongs to the certificate");
    TlsAcceptor::from(Arc::new(config))
}
