//! A whole body in memory, of which no more is held than what came, and of all clients no more than there is room for.
//!
//! Invariant: no part is kept. A part that the HTTP library hands out keeps the 8 KiB alive that it was read into, so a
//! client that sends octet by octet would have each of them cost 8 KiB.

use crate::http::error::{ApiError, Code};
use crate::http::waiting::Caller;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::request::Parts;
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Octets of a body; streamed imports are exempt.
pub const BODY_OCTETS_MAX: usize = 1024 * 1024;
/// Octets of the bodies that are under way at the same time; streamed imports are exempt.
pub const BODIES_OCTETS_MAX: usize = 8 * BODY_OCTETS_MAX;
/// Seconds after which there may be room again.
const ROOM_RETRY_SECS: u64 = 5;

/// UTF-8's byte order mark, which may stand at the head of a text.
pub const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Octets that are allocated together of a body that is larger.
const BLOCK_OCTETS: usize = 64 * 1024;

/// Room for the bodies of one listener; an extension of each request. Clones are the same.
#[derive(Debug, Clone)]
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Bodies {
        Bodies(Arc::new(Semaphore::new(BODIES_OCTETS_MAX)))
    }
}

impl Bodies {
    fn take(&self, octets: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let taken = u32::try_from(octets).ok().and_then(|octets| self.0.clone().try_acquire_many_owned(octets).ok());
        taken.ok_or_else(|| {
            let detail =
                format!("the bodies that are under way have {BODIES_OCTETS_MAX} octets together, as many as there may be; try again");
            ApiError::new(Code::BodiesFull, detail).retry_after(ROOM_RETRY_SECS)
        })
    }
}

/// Octets, with the room that they take for as long as somebody has them.
struct Held {
    octets: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// A body that comes. It lies in blocks of one size: one that grew as a whole would leave all its former sizes to the allocator.
#[derive(Default)]
struct Blocks {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Blocks {
    fn len(&self) -> usize {
        self.full.len() * BLOCK_OCTETS + self.last.len()
    }

    fn push(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(BLOCK_OCTETS - self.last.len()));
            self.last.extend_from_slice(now);
            if self.last.len() == BLOCK_OCTETS {
                self.full.push(std::mem::take(&mut self.last));
            }
            part = later;
        }
    }

    fn join(mut self) -> Vec<u8> {
        if self.full.is_empty() {
            return self.last;
        }
        self.full.push(self.last);
        self.full.concat()
    }
}

/// Reads a body of at most [`BODY_OCTETS_MAX`]; one that is announced to be longer is refused before it comes.
pub async fn whole(head: &Parts, body: Body) -> Result<Bytes, ApiError> {
    if announced(&head.headers).is_some_and(|octets| octets > BODY_OCTETS_MAX as u64) {
        return Err(too_large());
    }
    let bodies = head.extensions.get::<Bodies>().cloned().unwrap_or_default();
    let (mut blocks, mut room) = (Blocks::default(), bodies.take(0)?);
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| broken_off())?;
        if blocks.len() + part.len() > BODY_OCTETS_MAX {
            return Err(too_large());
        }
        room.merge(bodies.take(part.len())?);
        blocks.push(&part);
    }
    if let Some(caller) = head.extensions.get::<Arc<Caller>>() {
        caller.asked();
    }
    Ok(Bytes::from_owner(Held { octets: blocks.join(), _room: room }))
}

/// The length that the client announces, so that nobody has to wait for a body that is refused anyway.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses what only says that it is compressed, so that nobody reads it as text.
pub fn refuse_compressed(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        true => Err(ApiError::new(Code::UnsupportedMediaType, "compressed bodies are not taken; send the text as it is")),
        false => Ok(()),
    }
}

/// Tells by its byte order mark whether a text is UTF-16.
pub fn is_utf16(start: &[u8]) -> bool {
    start.starts_with(b"\xFF\xFE") || start.starts_with(b"\xFE\xFF")
}

pub fn utf16() -> ApiError {
    ApiError::new(Code::UnsupportedMediaType, "the text is UTF-16; send UTF-8")
}

fn too_large() -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("the body may have at most {BODY_OCTETS_MAX} octets"))
}

pub fn broken_off() -> ApiError {
    ApiError::new(Code::BodyIncomplete, "the connection ended before the body did")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use futures_util::stream;
    use std::convert::Infallible;
    use std::sync::Arc;

    fn head() -> Parts {
        Request::new(()).into_parts().0
    }

    /// An octet that tells by its count how many such are held.
    struct Octet(#[expect(dead_code, reason = "it is counted")] Arc<()>);

    impl AsRef<[u8]> for Octet {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    #[tokio::test]
    async fn what_a_part_was_read_into_is_let_go() {
        let count = Arc::new(());
        let parts = stream::iter(0..1_000).map(move |_| {
            assert!(Arc::strong_count(&count) <= 2, "{} parts are held", Arc::strong_count(&count) - 1);
            Ok::<_, Infallible>(Bytes::from_owner(Octet(Arc::clone(&count))))
        });
        let body = whole(&head(), Body::from_stream(parts)).await.expect("it came whole");
        assert_eq!(body, vec![b'x'; 1_000]);
    }

    #[tokio::test]
    async fn a_body_is_what_its_parts_were_whatever_their_sizes() {
        let sizes = [1, BLOCK_OCTETS - 1, BLOCK_OCTETS, 0, 3 * BLOCK_OCTETS + 7, 5];
        let parts: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(nth, size)| vec![nth as u8; *size]).collect();
        let body = Body::from_stream(stream::iter(parts.clone()).map(Ok::<_, Infallible>));
        assert!(whole(&head(), body).await.expect("it came whole") == parts.concat());
    }

    #[tokio::test]
    async fn a_body_of_the_limit_is_read_and_an_octet_more_refused() {
        for (more, expected) in [(0, Ok(BODY_OCTETS_MAX)), (1, Err(Code::BodyTooLarge))] {
            let parts = stream::iter([vec![b'x'; BODY_OCTETS_MAX], vec![b'x'; more]]).map(Ok::<_, Infallible>);
            let read = whole(&head(), Body::from_stream(parts)).await;
            assert_eq!(read.map(|body| body.len()).map_err(|error| error.code), expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_announced_too_long_is_refused_unread() {
        let (head, ()) = Request::builder().header(CONTENT_LENGTH, BODY_OCTETS_MAX + 1).body(()).unwrap().into_parts();
        let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(whole(&head, never).await.expect_err("it is too long").code, Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_incomplete() {
        let parts = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
        let error = whole(&head(), Body::from_stream(parts)).await.expect_err("it broke off");
        assert_eq!(error.code, Code::BodyIncomplete);
    }

    #[tokio::test]
    async fn bodies_share_the_room_and_give_it_back() {
        let bodies = Bodies(Arc::new(Semaphore::new(10)));
        let mut head = head();
        head.extensions.insert(bodies.clone());
        let read = async |octets: usize| whole(&head, Body::from(vec![b'x'; octets])).await;
        let first = read(6).await.expect("there is room");
        assert_eq!(read(5).await.expect_err("there is not").code, Code::BodiesFull);
        assert_eq!(read(4).await.expect("there is room").len(), 4);
        let part = first.slice(..1);
        drop(first);
        assert_eq!(read(5).await.expect_err("a part holds it all").code, Code::BodiesFull);
        drop(part);
        assert_eq!(read(10).await.expect("there is room").len(), 10);
    }
}
