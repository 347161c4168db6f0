//! Lists: plain arrays, paged by `?limit=&cursor=` and a `Link` header (RFC 8288).
//!
//! Invariant: a cursor is opaque to clients and names the last item seen, so a page neither repeats nor skips items
//! that were there before. An answer holds its octets and at most `ROWS_MAX` items, whatever its size.

use crate::http::error::ApiError;
use crate::http::params::Params;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use serde::Serialize;
use std::convert::Infallible;
use std::fmt::Display;
use tokio::sync::Semaphore;

/// The most items in one answer, and as many as there are without `limit`.
pub const PAGE_ITEMS_MAX: usize = 10_000;

/// Answers that are made at a time; others wait. More would not be sooner, for a database has few readers.
const MAKING_MAX: usize = 2;
/// The most items that are read at a time.
const ROWS_MAX: usize = 250;
/// Octets of an answer that are kept together. Small parts of one size are memory that later answers can use again, where
/// one growing buffer leaves a hole of each size that it had.
const PART_OCTETS: usize = 32 * 1024;
/// Room that is left for one more item when a part ends; a larger item makes its part larger.
const PART_ROOM: usize = 2 * 1024;
/// The longest cursor in octets.
const CURSOR_OCTETS_MAX: usize = 1_024;

/// Held while an answer is made, not while it is read.
static MAKING: Semaphore = Semaphore::const_new(MAKING_MAX);

/// What was found of a list.
#[derive(Debug)]
pub struct Found<T, K> {
    pub items: Vec<T>,
    /// The search ended at this key before it had as many as asked: it goes on behind it. `None` where it did not end early.
    pub searched_to: Option<K>,
}

impl<T, K> From<Vec<T>> for Found<T, K> {
    fn from(items: Vec<T>) -> Found<T, K> {
        Found { items, searched_to: None }
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// 1 to 10,000 items.
    pub limit: usize,
    /// The last item of the page before; `None` for the first page.
    pub after: Option<String>,
    limit_given: bool,
}

impl Page {
    pub fn read(params: &Params) -> Result<Page, ApiError> {
        let limit = match params.get("limit") {
            None => None,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=PAGE_ITEMS_MAX).contains(&limit) => Some(limit),
                _ => return Err(ApiError::parameter("limit", "must be a number from 1 to 10000")),
            },
        };
        let after = match params.get("cursor") {
            None => None,
            Some(text) => Some(read_cursor(text).ok_or_else(bad_cursor)?),
        };
        Ok(Page { limit: limit.unwrap_or(PAGE_ITEMS_MAX), after, limit_given: limit.is_some() })
    }

    /// The number behind which the page starts, for lists in the order of a number; 0 for the first page.
    pub fn after_number(&self) -> Result<i64, ApiError> {
        self.after.as_deref().map_or(Ok(0), |text| text.parse().ok().filter(|n| *n >= 0).ok_or_else(bad_cursor))
    }

    /// Answers with an array of the items behind `start`, and a link to the next page where there is one. `fetch` gets the
    /// items behind a key, at most as many as asked; fewer mean that there are no more, or that it says how far it searched.
    /// `key` names an item for the cursor; `shape` is how it is shown.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn answer<K, T, V, E, F, R>(
        &self,
        uri: &Uri,
        (start, key): (K, impl Fn(&T) -> K),
        fetch: impl FnMut(K, usize) -> F,
        shape: impl Fn(T) -> V,
    ) -> Result<Response, E>
    where
        K: Clone + Display,
        V: Serialize,
        F: Future<Output = Result<R, E>>,
        R: Into<Found<T, K>>,
    {
        self.collect(uri, (b'[', b']'), (start, key), fetch, |octets, _, item| write(octets, &shape(item))).await
    }

    /// As `answer`, for a list that is an object: the keys are the items' keys.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn answer_by_key<K, T, E, F>(
        &self,
        uri: &Uri,
        (start, key): (K, impl Fn(&T) -> K),
        fetch: impl FnMut(K, usize) -> F,
    ) -> Result<Response, E>
    where
        K: Clone + Display,
        T: Serialize,
        F: Future<Output = Result<Vec<T>, E>>,
    {
        let entry = |octets: &mut Vec<u8>, key: &K, item: T| {
            write(octets, &key.to_string());
            octets.push(b':');
            write(octets, &item);
        };
        self.collect(uri, (b'{', b'}'), (start, key), fetch, entry).await
    }

    /// Writes the items as they come, so that of a page at most `ROWS_MAX` are in memory as more than their octets.
    async fn collect<K, T, E, F, R>(
        &self,
        uri: &Uri,
        (open, close): (u8, u8),
        (start, key): (K, impl Fn(&T) -> K),
        mut fetch: impl FnMut(K, usize) -> F,
        entry: impl Fn(&mut Vec<u8>, &K, T),
    ) -> Result<Response, E>
    where
        K: Clone + Display,
        F: Future<Output = Result<R, E>>,
        R: Into<Found<T, K>>,
    {
        let making = MAKING.acquire().await.expect("nobody closes it");
        let (mut parts, mut octets) = (Vec::new(), Vec::with_capacity(PART_OCTETS));
        octets.push(open);
        let (mut left, mut after, mut last) = (self.limit, start, None);
        let next = 'rows: loop {
            // One more than the page, so that it is known whether there is a next one.
            let asked = ROWS_MAX.min(left + 1);
            let found = fetch(after, asked).await?.into();
            let is_end = found.items.len() < asked;
            for item in found.items {
                if left == 0 {
                    break 'rows last;
                }
                if last.is_some() {
                    octets.push(b',');
                }
                let own = key(&item);
                entry(&mut octets, &own, item);
                last = Some(own);
                left -= 1;
                if octets.len() > PART_OCTETS - PART_ROOM {
                    parts.push(Bytes::from(std::mem::replace(&mut octets, Vec::with_capacity(PART_OCTETS))));
                }
            }
            match &last {
                Some(last) if !is_end => after = last.clone(),
                _ => break found.searched_to,
            }
        };
        octets.push(close);
        parts.push(Bytes::from(octets));
        drop(making);
        let length: usize = parts.iter().map(Bytes::len).sum();
        let body = Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)));
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CONTENT_LENGTH, HeaderValue::from(length))];
        let mut response = (headers, body).into_response();
        let link = next.and_then(|key| HeaderValue::from_str(&self.next_link(uri, &key.to_string())).ok());
        if let Some(link) = link {
            response.headers_mut().insert(LINK, link);
        }
        Ok(response)
    }

    fn next_link(&self, uri: &Uri, key: &str) -> String {
        let own = |pair: &&str| !pair.is_empty() && !pair.starts_with("cursor=") && !pair.starts_with("limit=");
        let mut pairs: Vec<String> = uri.query().unwrap_or_default().split('&').filter(own).map(str::to_owned).collect();
        if self.limit_given {
            pairs.push(format!("limit={}", self.limit));
        }
        pairs.push(format!("cursor={}", URL_SAFE_NO_PAD.encode(key)));
        // A relative reference (RFC 8288 3.1): no proxy in front can make it wrong.
        format!("<{}?{}>; rel=\"next\"", uri.path(), pairs.join("&"))
    }
}

fn write(octets: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(octets, value).expect("answers are plain data, and memory takes every octet");
}

fn read_cursor(text: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|b| !b.is_empty() && b.len() <= CURSOR_OCTETS_MAX)?;
    String::from_utf8(bytes).ok()
}

fn bad_cursor() -> ApiError {
    ApiError::parameter("cursor", "is none of ours; take it from the `Link` header as it stands")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<(Page, Uri), ApiError> {
        let uri: Uri = format!("/users?{query}").parse().expect("a URI");
        let params = Params::read(&uri, &["limit", "cursor", "state"])?;
        Ok((Page::read(&params)?, uri))
    }

    /// Answers of the numbers 1 to `count`.
    async fn answer(query: &str, count: i64) -> (Option<String>, String) {
        let (page, uri) = page(query).expect("valid");
        let fetch = async |after: i64, max: usize| {
            assert!(max <= ROWS_MAX);
            Ok::<_, ApiError>((after + 1..=count).take(max).collect::<Vec<i64>>())
        };
        let start = page.after_number().expect("a number");
        let response = page.answer(&uri, (start, |n: &i64| *n), fetch, |n| n).await.expect("an answer");
        let link = response.headers().get(LINK).map(|v| v.to_str().expect("ASCII").to_owned());
        let length = response.headers()[CONTENT_LENGTH].to_str().expect("ASCII").to_owned();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("the body of a test");
        assert_eq!(body.len().to_string(), length);
        (link, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    async fn link(query: &str, count: i64) -> Option<String> {
        answer(query, count).await.0
    }

    #[tokio::test]
    async fn a_list_is_whole_whatever_its_size() {
        let rows = ROWS_MAX as i64;
        for count in [0, 1, rows - 1, rows, rows + 1, 2 * rows, 10_000, 10_001] {
            let (link, body) = answer("", count).await;
            let numbers: Vec<i64> = serde_json::from_str(&body).expect("JSON");
            assert_eq!(numbers, (1..=count.min(10_000)).collect::<Vec<_>>(), "{count}");
            assert_eq!(link.is_some(), count > 10_000, "{count}");
        }
        let start = URL_SAFE_NO_PAD.encode("5");
        assert_eq!(answer(&format!("limit=2&cursor={start}"), 7).await, (None, "[6,7]".to_owned()));
    }

    #[tokio::test]
    async fn a_search_that_ends_early_links_on_from_where_it_ended() {
        for (searched_to, linked) in [(Some(77), true), (None, false)] {
            let (page, uri) = page("state=sent&limit=5").expect("valid");
            let fetch = async |_: i64, _: usize| Ok::<_, ApiError>(Found { items: vec![3_i64], searched_to });
            let response = page.answer(&uri, (0, |n: &i64| *n), fetch, |n| n).await.expect("an answer");
            let link = response.headers().get(LINK).map(|v| v.to_str().expect("ASCII").to_owned());
            assert_eq!(link.is_some_and(|l| l.contains(&URL_SAFE_NO_PAD.encode("77"))), linked);
        }
    }

    #[tokio::test]
    async fn a_list_by_key_is_one_object() {
        let (page, uri) = page("limit=2").expect("valid");
        let fetch = async |after: i64, max: usize| Ok::<_, ApiError>((after + 1..=9).take(max).collect::<Vec<i64>>());
        let response = page.answer_by_key(&uri, (0, |n: &i64| *n), fetch).await.expect("an answer");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("the body of a test");
        assert_eq!(body, r#"{"1":1,"2":2}"#);
    }

    #[tokio::test]
    async fn a_link_keeps_the_other_parameters_and_its_cursor_reads_back() {
        let link = link("state=sent&limit=2", 3).await.expect("there is more");
        let query = link.strip_prefix("</users?").and_then(|l| l.strip_suffix(">; rel=\"next\"")).expect("a next link");
        assert!(query.starts_with("state=sent&limit=2&cursor="), "{query}");
        assert_eq!(page(query).expect("valid").0.after_number(), Ok(2));
    }

    #[tokio::test]
    async fn the_last_page_has_no_link() {
        assert_eq!(link("limit=2", 2).await, None);
        assert_eq!(link("", 0).await, None);
    }

    #[test]
    fn limits_outside_one_to_ten_thousand_and_foreign_cursors_are_refused() {
        for bad in ["limit=0", "limit=10001", "limit=-1", "limit=", "limit=x", "cursor=", "cursor=%00", "cursor=!!", "cursor=_w"] {
            assert!(page(bad).is_err(), "{bad}");
        }
        let (page, _) = page(&format!("cursor={}", URL_SAFE_NO_PAD.encode("abc"))).expect("text cursors exist");
        assert!(page.after_number().is_err());
    }
}
