//! A whole body in memory, of which no more is held than what came.
//!
//! Invariant: no part is kept. A part that the HTTP library hands out keeps the 8 KiB alive that it was read into, so a
//! client that sends octet by octet would have each of them cost 8 KiB.

use crate::http::error::{ApiError, Code};
use crate::http::serve::BODY_OCTETS_MAX;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt;

/// Reads a body of at most [`BODY_OCTETS_MAX`]; one that is announced to be longer is refused before it comes.
pub async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    if announced(headers).is_some_and(|octets| octets > BODY_OCTETS_MAX as u64) {
        return Err(too_large());
    }
    let (mut parts, mut octets) = (body.into_data_stream(), Vec::new());
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| broken_off())?;
        if octets.len() + part.len() > BODY_OCTETS_MAX {
            return Err(too_large());
        }
        octets.extend_from_slice(&part);
    }
    Ok(octets.into())
}

/// The length that the client announces, so that nobody has to wait for a body that is refused anyway.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
    use futures_util::stream;
    use std::convert::Infallible;
    use std::sync::Arc;

    /// An octet that tells by its count how many such are held.
    struct Held(#[expect(dead_code, reason = "it is counted")] Arc<()>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    #[tokio::test]
    async fn what_a_part_was_read_into_is_let_go() {
        let count = Arc::new(());
        let parts = stream::iter(0..1_000).map(move |_| {
            assert!(Arc::strong_count(&count) <= 2, "{} parts are held", Arc::strong_count(&count) - 1);
            Ok::<_, Infallible>(Bytes::from_owner(Held(Arc::clone(&count))))
        });
        let body = whole(&HeaderMap::new(), Body::from_stream(parts)).await.expect("it came whole");
        assert_eq!(body, vec![b'x'; 1_000]);
    }

    #[tokio::test]
    async fn a_body_of_the_limit_is_read_and_an_octet_more_refused() {
        for (more, expected) in [(0, Ok(BODY_OCTETS_MAX)), (1, Err(Code::BodyTooLarge))] {
            let parts = stream::iter([vec![b'x'; BODY_OCTETS_MAX], vec![b'x'; more]]).map(Ok::<_, Infallible>);
            let read = whole(&HeaderMap::new(), Body::from_stream(parts)).await;
            assert_eq!(read.map(|body| body.len()).map_err(|error| error.code), expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_announced_too_long_is_refused_unread() {
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, (BODY_OCTETS_MAX + 1).into())]);
        let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(whole(&headers, never).await.expect_err("it is too long").code, Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_incomplete() {
        let parts = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
        let error = whole(&HeaderMap::new(), Body::from_stream(parts)).await.expect_err("it broke off");
        assert_eq!(error.code, Code::BodyIncomplete);
    }
}
