//! The one-click unsubscribe endpoint (RFC 8058).
//!
//! Invariant: GET and HEAD change nothing; POST needs no key, no cookie and no redirect, and doing it twice is harmless.
//! A token has 128 bits of a keyed hash, compared in constant time. One that is not ours and one that names nobody look the same.

use crate::http::error::{ApiError, Code, page};
use crate::http::serve::Remote;
use crate::warmup::api::state::Api;
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};

const PAGE_HEADERS: [(HeaderName, &str); 4] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
];

/// Shows a page with a button; changes nothing.
#[utoipa::path(get, path = "/unsubscribe/{token}", tag = "unsubscribe", params(("token" = String, Path)),
    responses((status = 200, description = "A page with a button.", content_type = "text/html", body = String)))]
pub async fn show_unsubscribe(
    State(api): State<Api>,
    remote: Option<Extension<Remote>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let known = path.ok().and_then(|Path(token)| api.store.tokens().read_unsubscribe(&token));
    if known.is_none() {
        return refuse(&api, remote, &headers);
    }
    // Without an action the form posts to the page's own address, whatever a proxy made of it.
    let form = "<p>You will get no more mail from this sender.</p>\n<form method=\"post\">\
                <input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\"><button>Unsubscribe</button></form>";
    page(None, PAGE_HEADERS, html("Unsubscribe?", form))
}

/// Takes the recipient off all further mail.
///
/// Mail programs send `List-Unsubscribe=One-Click` as a form; what the body says does not matter.
#[utoipa::path(post, path = "/unsubscribe/{token}", tag = "unsubscribe", params(("token" = String, Path)),
    request_body(content = String, content_type = "application/x-www-form-urlencoded", description = "`List-Unsubscribe=One-Click`."),
    responses((status = 200, description = "Unsubscribed, now or before.", content_type = "text/html", body = String)))]
pub async fn unsubscribe(
    State(api): State<Api>,
    remote: Option<Extension<Remote>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Some(delivery) = path.ok().and_then(|Path(token)| api.store.tokens().read_unsubscribe(&token)) else {
        return Ok(refuse(&api, remote, &headers));
    };
    if !api.store.unsubscribe(delivery, api.now()).await? {
        return Ok(refuse(&api, remote, &headers));
    }
    Ok(page(None, PAGE_HEADERS, html("Unsubscribed", "<p>You will get no more mail from this sender.</p>")))
}

/// A link that names nobody. Who tries many has to wait; a whole link is never held up.
fn refuse(api: &Api, remote: Option<Extension<Remote>>, headers: &HeaderMap) -> Response {
    let error = match api.bad_tokens.failed(remote.map(|Extension(remote)| remote.0.ip())) {
        None => ApiError::new(Code::TokenUnknown, "this unsubscribe link names nobody; it may have been cut off"),
        Some(secs) => {
            let text = format!("too many links that name nobody came from this address; try again in {secs} s");
            return ApiError::new(Code::TokenTriesExceeded, text).retry_after(secs).into_response();
        }
    };
    let wants_html = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"));
    if !wants_html {
        return error.into_response();
    }
    let text = "<p>Nothing was changed. The link may have been cut off; copy it whole from the mail.</p>";
    page(Some(&error), PAGE_HEADERS, html("This link is not valid", text))
}

/// A page of constants; nothing that a client sent is in it.
fn html(title: &str, content: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>body{{font:1.1rem system-ui;max-width:32rem;margin:4rem auto;padding:0 1rem}}\
         button{{font:inherit;padding:.5rem 1.5rem}}</style></head>\n<body><h1>{title}</h1>\n{content}\n</body></html>\n"
    )
}
