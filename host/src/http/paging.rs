//! Lists: plain arrays, paged by `?limit=&cursor=` and a `Link` header (RFC 8288).
//!
//! Invariant: a cursor is opaque to clients and names the last item seen, so a page neither repeats nor skips items
//! that were there before.

use crate::http::error::ApiError;
use crate::http::params::Params;
use axum::Json;
use axum::http::header::LINK;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

/// The most items in one answer, and as many as there are without `limit`.
pub const PAGE_ITEMS_MAX: usize = 10_000;

/// The longest cursor in octets.
const CURSOR_OCTETS_MAX: usize = 1_024;

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

    /// How many items to fetch: one more than the page, so that it is known whether there is a next one.
    pub fn fetch(&self) -> usize {
        self.limit + 1
    }

    /// Answers with the items, which were fetched with `fetch`, and a link to the next page where there is one. `key`
    /// names an item for the cursor; `shape` is how it is shown.
    pub fn answer<T, V: Serialize>(&self, uri: &Uri, items: Vec<T>, key: impl Fn(&T) -> String, shape: impl Fn(T) -> V) -> Response {
        self.answer_with(uri, items, key, |items| items.into_iter().map(shape).collect::<Vec<V>>())
    }

    /// As `answer`, for a search that may end early: `searched_to` is the key of the last item it looked at then.
    pub fn answer_searched<T, V: Serialize>(
        &self,
        uri: &Uri,
        items: Vec<T>,
        searched_to: Option<String>,
        key: impl Fn(&T) -> String,
        shape: impl Fn(T) -> V,
    ) -> Response {
        let goes_on = searched_to.filter(|_| items.len() <= self.limit).map(|key| self.next_link(uri, &key));
        let mut response = self.answer(uri, items, key, shape);
        if let Some(link) = goes_on.and_then(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }

    /// As `answer`, for lists that are no arrays: `whole` makes the body of the page's items.
    pub fn answer_with<T, V: Serialize>(
        &self,
        uri: &Uri,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
        whole: impl FnOnce(Vec<T>) -> V,
    ) -> Response {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| more).map(|last| self.next_link(uri, &key(last)));
        let mut response = Json(whole(items)).into_response();
        if let Some(link) = next.and_then(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
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

    fn link(query: &str, items: Vec<i64>) -> Option<String> {
        let (page, uri) = page(query).expect("valid");
        let response = page.answer(&uri, items, i64::to_string, |n| n);
        response.headers().get(LINK).map(|v| v.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn a_link_keeps_the_other_parameters_and_its_cursor_reads_back() {
        let link = link("state=sent&limit=2", vec![7, 8, 9]).expect("there is more");
        let query = link.strip_prefix("</users?").and_then(|l| l.strip_suffix(">; rel=\"next\"")).expect("a next link");
        assert!(query.starts_with("state=sent&limit=2&cursor="), "{query}");
        assert_eq!(page(query).expect("valid").0.after_number(), Ok(8));
    }

    #[test]
    fn the_last_page_has_no_link() {
        assert_eq!(link("limit=2", vec![7, 8]), None);
        assert_eq!(link("", vec![]), None);
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
