//! Opens a session: TCP, greeting, EHLO, TLS, authentication.
//!
//! Invariant: knows no message; whatever fails here leaves every message certainly unsent.

use crate::session::{AuthRefused, Capabilities, auth_answer, auth_command, choose_mechanism};
use crate::settings::{ServerSettings, Tls};
use crate::tls::{TlsCell, server_name};
use crate::wire::{Stream, Wire, WireError};
use postwarm_plugin_api::Cause;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// The challenges that an authentication may have.
const CHALLENGES_MAX: usize = 4;

/// Why a session could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    pub detail: String,
}

/// An open session.
pub struct Session {
    pub wire: Wire,
    pub capabilities: Capabilities,
}

/// Connects, encrypts and authenticates as the settings say. `greeted` becomes true once the server has spoken.
pub async fn open(settings: &ServerSettings, tls: &TlsCell, greeted: &AtomicBool) -> Result<Session, Failure> {
    let server = format!("{}:{}", settings.host, settings.port);
    open_inner(settings, tls, greeted).await.map_err(|failure| Failure { detail: format!("{server}: {}", failure.detail), ..failure })
}

async fn open_inner(settings: &ServerSettings, tls: &TlsCell, greeted: &AtomicBool) -> Result<Session, Failure> {
    let deadline = Instant::now() + settings.deadlines.connect;
    let stream = connect(settings, deadline).await?;
    let loopback = stream.peer_addr().is_ok_and(|address| is_loopback(address.ip()));
    let helo = match &settings.helo_name {
        Some(name) => name.clone(),
        None => stream.local_addr().map_or_else(|_| "localhost".to_owned(), address_literal),
    };
    let mut wire = match settings.tls {
        Tls::Implicit => Wire::new(encrypt(stream, settings, tls, deadline).await?),
        Tls::StartTls | Tls::None => Wire::new(Stream::Plain(stream)),
    };
    expect(&mut wire, settings, "the greeting", &[220]).await?;
    greeted.store(true, Ordering::Relaxed);
    let mut capabilities = ehlo(&mut wire, settings, &helo).await?;
    if settings.tls == Tls::StartTls {
        wire = start_tls(wire, &capabilities, settings, tls).await?;
        // What was announced in clear is forgotten (RFC 3207 4.2).
        capabilities = ehlo(&mut wire, settings, &helo).await?;
    }
    authenticate(&mut wire, &capabilities, settings, loopback).await?;
    Ok(Session { wire, capabilities })
}

/// Says QUIT and closes, politely but not for long.
pub async fn quit(mut wire: Wire, deadline: Instant) {
    wire.batch().extend_from_slice(b"QUIT\r\n");
    if wire.flush(std::time::Duration::from_secs(5), deadline).await.is_ok() && wire.reply(deadline).await.is_ok() {
        wire.shutdown(deadline).await;
    }
}

async fn connect(settings: &ServerSettings, deadline: Instant) -> Result<TcpStream, Failure> {
    let failed = |detail: String| Failure { cause: Cause::Connect, detail };
    let connecting = TcpStream::connect((settings.host.as_str(), settings.port));
    let stream = match timeout_at(deadline, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(format!("cannot connect: {error}"))),
        Err(_) => return Err(failed(format!("no connection within {:?}", settings.deadlines.connect))),
    };
    // Without it, Nagle's algorithm and delayed acknowledgements cost 40 ms a message.
    stream.set_nodelay(true).map_err(|error| failed(format!("cannot set TCP_NODELAY: {error}")))?;
    Ok(stream)
}

async fn encrypt(stream: TcpStream, settings: &ServerSettings, tls: &TlsCell, deadline: Instant) -> Result<Stream, Failure> {
    let failed = |detail: String| Failure { cause: Cause::Tls, detail };
    let name = server_name(settings).map_err(failed)?;
    let connector = tls.connector(settings).await.map_err(failed)?;
    match timeout_at(deadline, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => Err(failed(format!("TLS failed: {error}"))),
        Err(_) => Err(failed(format!("no TLS handshake within {:?}", settings.deadlines.connect))),
    }
}

async fn start_tls(mut wire: Wire, offered: &Capabilities, settings: &ServerSettings, tls: &TlsCell) -> Result<Wire, Failure> {
    let failed = |detail: &str| Failure { cause: Cause::Tls, detail: detail.to_owned() };
    if !offered.starttls {
        return Err(failed("the server does not offer STARTTLS; set tls to \"implicit\" for port 465"));
    }
    command(&mut wire, settings, b"STARTTLS\r\n").await?;
    match read(&mut wire, settings, "STARTTLS").await? {
        220 => {}
        421 => return Err(turned_away(&wire, "STARTTLS")),
        _ => return Err(failed(&format!("STARTTLS was refused: {}", wire.parser().reply()))),
    }
    // Octets behind the reply came in clear, from the server or from someone in between; they must not be read as if
    // they had come over TLS.
    if wire.has_input() {
        return Err(failed("the server sent octets behind its reply to STARTTLS, which may be an injection"));
    }
    let Stream::Plain(stream) = wire.into_stream() else {
        return Err(failed("the connection is encrypted already"));
    };
    let deadline = Instant::now() + settings.deadlines.connect;
    Ok(Wire::new(encrypt(stream, settings, tls, deadline).await?))
}

async fn ehlo(wire: &mut Wire, settings: &ServerSettings, helo: &str) -> Result<Capabilities, Failure> {
    command(wire, settings, format!("EHLO {helo}\r\n").as_bytes()).await?;
    expect(wire, settings, "EHLO", &[250]).await?;
    Ok(Capabilities::parse(wire.parser().lines()))
}

async fn authenticate(wire: &mut Wire, offered: &Capabilities, settings: &ServerSettings, loopback: bool) -> Result<(), Failure> {
    let failed = |detail: String| Failure { cause: Cause::Authenticate, detail };
    let encrypted = settings.tls != Tls::None;
    let chosen = choose_mechanism(settings, offered, encrypted, loopback).map_err(|error: AuthRefused| failed(error.to_string()))?;
    let (Some(mechanism), Some(username), Some(password)) = (chosen, &settings.username, &settings.password) else {
        return Ok(());
    };
    let password = password.expose();
    command(wire, settings, auth_command(mechanism, username, password).as_bytes()).await?;
    for nth in 0..=CHALLENGES_MAX {
        match read(wire, settings, "AUTH").await? {
            235 => return Ok(()),
            421 => return Err(turned_away(wire, "AUTH")),
            // An asterisk cancels (RFC 4954 4).
            334 => {
                let answer = auth_answer(mechanism, nth, username, password).unwrap_or_else(|| "*\r\n".to_owned());
                command(wire, settings, answer.as_bytes()).await?;
            }
            _ => return Err(failed(format!("the credentials were refused: {}", wire.parser().reply()))),
        }
    }
    Err(failed("the server asks for more than this authentication has to say".to_owned()))
}

async fn command(wire: &mut Wire, settings: &ServerSettings, line: &[u8]) -> Result<(), Failure> {
    wire.batch().extend_from_slice(line);
    let limit = settings.deadlines.greeting;
    wire.flush(limit, Instant::now() + limit).await.map_err(|error| session(error.to_string()))
}

async fn read(wire: &mut Wire, settings: &ServerSettings, what: &str) -> Result<u16, Failure> {
    let limit = settings.deadlines.greeting;
    wire.reply(Instant::now() + limit).await.map_err(|error| match error {
        WireError::Deadline => session(format!("no reply within {limit:?}, awaiting {what}")),
        error => session(format!("{error}, awaiting {what}")),
    })
}

async fn expect(wire: &mut Wire, settings: &ServerSettings, what: &str, codes: &[u16]) -> Result<(), Failure> {
    let code = read(wire, settings, what).await?;
    if codes.contains(&code) { Ok(()) } else { Err(turned_away(wire, what)) }
}

fn turned_away(wire: &Wire, what: &str) -> Failure {
    session(format!("the server turned the session away at {what}: {}", wire.parser().reply()))
}

fn session(detail: String) -> Failure {
    Failure { cause: Cause::Session, detail }
}

/// The EHLO argument of a host without a name (RFC 5321 4.1.3).
fn address_literal(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
