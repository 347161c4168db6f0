//! Requests whose head HTTP forbids but the HTTP library takes: no `Host`, and two lengths of one body.
//!
//! A proxy in front that reads such a request in another way would see another request than we do (RFC 9112 11.2).
//!
//! Invariant: octets pass unchanged, and a head is only read along with them, line by line in bounded memory. After a
//! chunked body the connection closes, so that its end never has to be found here.

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, Version};
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The part of a line that is kept: longer than any that is looked at.
const LINE_OCTETS_MAX: usize = 64;

/// Whether a head of this connection named both lengths of a body. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct TwoLengths(Arc<AtomicBool>);

/// Tells what is wrong with a head that the HTTP library took; `None` where nothing is.
pub fn wrong_head<B>(request: &Request<B>, two_lengths: &TwoLengths) -> Option<&'static str> {
    // RFC 9112 6.1. A chunked request is the last of its connection: what was seen is of this one.
    if is_chunked(request.headers()) && two_lengths.0.load(Ordering::Relaxed) {
        return Some("`Content-Length` and `Transfer-Encoding` stand together; send one of the two");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        // RFC 9112 3.2.
        (None, _) if request.version() == Version::HTTP_11 => Some("`Host` is missing; HTTP/1.1 needs it"),
        (Some(_), Some(_)) => Some("`Host` stands twice; send it once"),
        (Some(host), None) if !host.is_empty() && Authority::try_from(host.as_bytes()).is_err() => {
            Some("`Host` is no name or address, with or without a port")
        }
        _ => None,
    }
}

/// Tells whether a request's body is chunked, after which its connection closes.
pub fn is_chunked(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
}

/// A stream whose request heads are read along.
pub struct Watched<S> {
    stream: S,
    heads: Heads,
}

impl<S> Watched<S> {
    pub fn new(stream: S, two_lengths: TwoLengths) -> Watched<S> {
        Watched { stream, heads: Heads { two_lengths, place: Place::Start, line: Vec::new(), length: None, chunked: false } }
    }
}

/// Finds the heads in a stream of requests.
struct Heads {
    two_lengths: TwoLengths,
    place: Place,
    /// The beginning of the present line.
    line: Vec<u8>,
    /// `Content-Length` of the present head.
    length: Option<u64>,
    /// The present head has `Transfer-Encoding`.
    chunked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a request line.
    Start,
    Head,
    /// So many octets of a body are to come.
    Body(u64),
    /// The connection's last request, or none that we understand.
    Rest,
}

impl Heads {
    fn see(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            match self.place {
                Place::Rest => return,
                Place::Body(left) => {
                    let skip = usize::try_from(left).unwrap_or(usize::MAX).min(octets.len());
                    octets = &octets[skip..];
                    let left = left - skip as u64;
                    self.place = if left == 0 { Place::Start } else { Place::Body(left) };
                }
                Place::Start | Place::Head => {
                    let end = memchr::memchr(b'\n', octets);
                    let part = &octets[..end.unwrap_or(octets.len())];
                    let room = LINE_OCTETS_MAX.saturating_sub(self.line.len());
                    self.line.extend_from_slice(&part[..part.len().min(room)]);
                    octets = &octets[end.map_or(octets.len(), |at| at + 1)..];
                    if end.is_some() {
                        self.end_line();
                    }
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        match (line.is_empty(), self.place) {
            // Empty lines before a request are skipped (RFC 9112 2.2).
            (true, Place::Start) => {}
            (true, _) => self.end_head(),
            (false, Place::Start) => self.place = Place::Head,
            (false, _) => self.field(line),
        }
        self.line = Vec::new();
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = memchr::memchr(b':', line) else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // A length that is no number is refused by the HTTP library.
            self.length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).or(Some(u64::MAX));
        }
    }

    fn end_head(&mut self) {
        if self.chunked && self.length.is_some() {
            self.two_lengths.0.store(true, Ordering::Relaxed);
        }
        self.place = match self.length.take() {
            _ if self.chunked => Place::Rest,
            None | Some(0) => Place::Start,
            Some(length) => Place::Body(length),
        };
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.heads.see(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether two lengths are seen; in pieces of every size the same.
    fn seen(text: &str) -> bool {
        let in_pieces = |size: usize| {
            let mut watched = Watched::new((), TwoLengths::default());
            text.as_bytes().chunks(size).for_each(|piece| watched.heads.see(piece));
            watched.heads.two_lengths.0.load(Ordering::Relaxed)
        };
        let whole = in_pieces(text.len());
        assert!((1..text.len().min(80)).all(|size| in_pieces(size) == whole));
        whole
    }

    #[test]
    fn two_lengths_of_one_body_are_seen_in_either_order_and_in_any_request() {
        assert!(seen("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(seen("\r\nPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: x\r\n\r\n"));
        assert!(seen("GET / HTTP/1.1\n\nPOST / HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked\n\n"));
        let long = "x".repeat(200);
        assert!(seen(&format!(
            "PUT /{long} HTTP/1.1\r\nContent-Length: 4\r\nX: {long}\r\n\r\n\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        )));
    }

    #[test]
    fn bodies_and_other_requests_are_no_heads() {
        assert!(!seen("POST / HTTP/1.1\r\nContent-Length: 53\r\n\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabcd"));
        assert!(!seen(
            "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\naPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 3\r\n\r\n"
        ));
    }
}
