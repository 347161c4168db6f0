//! One connection's octets: buffered replies in, one buffer of commands and content out, one timer.
//!
//! Invariant: knows replies but not what they answer.
//! Invariant: [`handed`](Wire::handed) never understates what may have left, so that "unsent" is certain.

use crate::reply::{ReplyError, ReplyParser};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

/// Octets of replies that are buffered; more than a line, so that a whole group fits.
const INPUT_OCTETS: usize = 8192;

/// A connection, encrypted or not.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the server did not go on in time")]
    Deadline,
    #[error(transparent)]
    Reply(#[from] ReplyError),
}

/// A connection with its buffers.
pub struct Wire {
    stream: Stream,
    input: Box<[u8; INPUT_OCTETS]>,
    start: usize,
    end: usize,
    parser: ReplyParser,
    out: Vec<u8>,
    /// Octets that the stream took.
    taken: usize,
    /// Octets that may have left.
    handed: usize,
    timer: Pin<Box<Sleep>>,
}

impl Wire {
    pub fn new(stream: Stream) -> Wire {
        Wire {
            stream,
            input: Box::new([0; INPUT_OCTETS]),
            start: 0,
            end: 0,
            parser: ReplyParser::default(),
            out: Vec::with_capacity(8192),
            taken: 0,
            handed: 0,
            timer: Box::pin(sleep_until(Instant::now() + Duration::from_secs(30))),
        }
    }

    /// Gives the stream back, for STARTTLS. What was buffered is lost: ask [`has_input`](Self::has_input) first.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// The parser, which holds the reply that was read last.
    pub fn parser(&self) -> &ReplyParser {
        &self.parser
    }

    /// Tells whether octets were received that belong to no reply yet.
    pub fn has_input(&self) -> bool {
        self.start < self.end
    }

    /// Starts a new batch and returns the buffer that it is written to.
    pub fn batch(&mut self) -> &mut Vec<u8> {
        // A large message must not keep its memory for the connection's life.
        if self.out.capacity() > 256 * 1024 {
            self.out = Vec::with_capacity(8192);
        }
        self.out.clear();
        (self.taken, self.handed) = (0, 0);
        &mut self.out
    }

    /// The buffer of the batch under way.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The octets of this batch that may have left.
    pub fn handed(&self) -> usize {
        self.handed
    }

    /// Takes the next complete reply out of the buffer and returns its code.
    pub fn buffered_reply(&mut self) -> Result<Option<u16>, WireError> {
        if self.start == self.end {
            return Ok(None);
        }
        let (taken, code) = self.parser.feed(&self.input[self.start..self.end])?;
        self.start += taken;
        Ok(code)
    }

    /// Reads once into the buffer.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut room = ReadBuf::new(&mut self.input[self.end..]);
        ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, &mut room),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, &mut room),
        })?;
        match room.filled().len() {
            0 => Poll::Ready(Err(WireError::Closed)),
            read => {
                self.end += read;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Is ready once `deadline` has passed. The timer is set anew only where it would fire too late or has fired.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Reads one reply until `deadline` and returns its code.
    pub async fn reply(&mut self, deadline: Instant) -> Result<u16, WireError> {
        loop {
            if let Some(code) = self.buffered_reply()? {
                return Ok(code);
            }
            poll_fn(|cx| match self.poll_fill(cx) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => self.poll_deadline(cx, deadline).map(|()| Err(WireError::Deadline)),
            })
            .await?;
        }
    }

    /// Writes the rest of the batch. Each block of it may take `block`, the whole until `deadline`.
    pub async fn flush(&mut self, block: Duration, deadline: Instant) -> Result<(), WireError> {
        let mut blocked_until = None;
        poll_fn(|cx| {
            loop {
                let step = if self.taken < self.out.len() { self.poll_write(cx) } else { self.poll_flush(cx) };
                match step {
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(false)) => blocked_until = None,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        let until = *blocked_until.get_or_insert_with(|| deadline.min(Instant::now() + block));
                        return self.poll_deadline(cx, until).map(|()| Err(WireError::Deadline));
                    }
                }
            }
        })
        .await
    }

    /// Closes an encrypted stream in form; the socket itself is closed when the wire is dropped.
    pub async fn shutdown(&mut self, deadline: Instant) {
        poll_fn(|cx| {
            let done = match &mut self.stream {
                Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
                Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            };
            match done {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => self.poll_deadline(cx, deadline),
            }
        })
        .await;
    }

    /// Offers the rest of the batch to the stream.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, WireError>> {
        let rest = &self.out[self.taken..];
        let taken = match &mut self.stream {
            // A failed system call took nothing.
            Stream::Plain(stream) => ready!(Pin::new(stream).poll_write(cx, rest))?,
            Stream::Tls(stream) => {
                // A TLS write that fails or waits may have sent whole records of what it was offered.
                self.handed = self.out.len();
                ready!(Pin::new(stream).poll_write(cx, rest))?
            }
        };
        if taken == 0 {
            return Poll::Ready(Err(WireError::Closed));
        }
        self.taken += taken;
        self.handed = self.handed.max(self.taken);
        Poll::Ready(Ok(false))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, WireError>> {
        if let Stream::Tls(stream) = &mut self.stream {
            ready!(Pin::new(stream).poll_flush(cx))?;
        }
        Poll::Ready(Ok(true))
    }
}
