//! Errors as clients see them: RFC 9457 problems with a stable code, and the answers' status codes.
//!
//! Invariant: the only file that names a status code. Causes stay in the log; a client gets a code, a sentence and the
//! request id.

use axum::Json;
use axum::http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of problems (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The most field errors that one problem lists.
pub const FIELD_ERRORS_MAX: usize = 100;
/// The longest text of a problem in characters: a client's own text in it must not make an answer large.
pub const TEXT_CHARS_MAX: usize = 500;

tokio::task_local! {
    /// The id of the request that this task answers; set by `layers`.
    pub static REQUEST_ID: String;
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// What went wrong, as a word that never changes. `docs/API.md` lists all of them; a test compares.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The word in `code`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)+ }
            }

            fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)+ }
            }

            fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status,)+ }
            }
        }
    };
}

codes! {
    /// The request's head is not what HTTP demands.
    MalformedHead = "malformed_head", BAD_REQUEST, "The head of the request is not valid";
    /// The body is not JSON, or nests too deeply.
    MalformedJson = "malformed_json", BAD_REQUEST, "The body is not JSON";
    /// The body is JSON, but fields are wrong; `errors` names them.
    InvalidFields = "invalid_fields", UNPROCESSABLE_ENTITY, "Some fields are not valid";
    /// A query parameter, header or path part is wrong.
    InvalidParameters = "invalid_parameters", BAD_REQUEST, "A parameter is not valid";
    /// The `Content-Type` is none that the route takes.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The content type is not supported";
    /// The body is larger than the route takes.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The bodies under way take all the room that there is for them.
    BodiesFull = "bodies_full", SERVICE_UNAVAILABLE, "Too many bodies are under way";
    /// The body broke off.
    BodyIncomplete = "body_incomplete", BAD_REQUEST, "The body broke off";
    /// The request took too long, or its body stalled.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long";
    /// No API key came, and the organization meant needs one.
    KeyMissing = "key_missing", UNAUTHORIZED, "An API key is needed";
    /// The API key is not known, or is revoked.
    KeyUnknown = "key_unknown", UNAUTHORIZED, "The API key is not known";
    /// Too many unknown keys came from this address.
    KeyTriesExceeded = "key_tries_exceeded", TOO_MANY_REQUESTS, "Too many unknown API keys";
    /// The key is right, and the organization's configuration is broken since the start.
    OrganizationUnavailable = "organization_unavailable", SERVICE_UNAVAILABLE, "The organization cannot be served";
    /// There is no such route.
    RouteUnknown = "route_unknown", NOT_FOUND, "There is no such route";
    /// The route does not take this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not take this method";
    /// The organization has no such user.
    UserUnknown = "user_unknown", NOT_FOUND, "There is no such user";
    /// The organization has no such email.
    EmailUnknown = "email_unknown", NOT_FOUND, "There is no such email";
    /// The unsubscribe token names nobody.
    TokenUnknown = "token_unknown", NOT_FOUND, "The link is not valid";
    /// Too many unsubscribe tokens that name nobody came from this address.
    TokenTriesExceeded = "token_tries_exceeded", TOO_MANY_REQUESTS, "Too many links that are not valid";
    /// The domain of `from` is none of the organization's.
    FromDomainNotAllowed = "from_domain_not_allowed", UNPROCESSABLE_ENTITY, "The sender's domain is not the organization's";
    /// The idempotency key came before with another body.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The idempotency key was used for another body";
    /// A request with this idempotency key is still running.
    IdempotencyKeyRunning = "idempotency_key_running", CONFLICT, "A request with this idempotency key is still running";
    /// As many imports run as may at a time.
    ImportsRunning = "imports_running", SERVICE_UNAVAILABLE, "Too many imports are running";
    /// The database's disk is full; nothing was changed.
    StoreFull = "store_full", INSUFFICIENT_STORAGE, "There is no room left";
    /// The database cannot be used at the moment; nothing was changed.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The database is not available";
    /// The service is about to end; only its probes answer.
    Draining = "draining", SERVICE_UNAVAILABLE, "The service is about to end";
    /// A fault of ours; the log has the cause under the request id.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something went wrong on our side";
}

/// One wrong field of a body, or one wrong parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where in the body: a JSON pointer (RFC 6901), such as `/headers/X-A`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Which query parameter, path part or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    /// A wrong field. The pointer is built from unescaped names.
    pub fn field(path: &[&str], detail: impl Into<String>) -> FieldError {
        FieldError { pointer: Some(pointer(path)), parameter: None, detail: detail.into() }
    }

    pub fn parameter(name: &str, detail: impl Into<String>) -> FieldError {
        FieldError { pointer: None, parameter: Some(name.to_owned()), detail: detail.into() }
    }
}

/// Builds a JSON pointer (RFC 6901) from unescaped names.
pub fn pointer(path: &[&str]) -> String {
    path.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct ApiError {
    pub code: Code,
    /// A sentence for people, lower case and without a full stop.
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// `Retry-After`, in seconds.
    pub retry_after_secs: Option<u64>,
    /// `Allow`, as the router gave it.
    pub allow: Option<HeaderValue>,
}

/// A problem (RFC 9457) as it is sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` is what tells problems apart.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub title: &'static str,
    pub status: u16,
    pub detail: String,
    /// A word that never changes; API.md lists them.
    pub code: &'static str,
    /// At most 100 wrong fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Names the request in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl ApiError {
    pub fn new(code: Code, detail: impl Into<String>) -> ApiError {
        ApiError { code, detail: detail.into(), errors: Vec::new(), retry_after_secs: None, allow: None }
    }

    /// Fields of the body are wrong.
    pub fn fields(errors: Vec<FieldError>) -> ApiError {
        let detail = match errors.as_slice() {
            [FieldError { pointer: Some(at), detail, .. }] if at.is_empty() => format!("the body {detail}"),
            [FieldError { pointer: Some(at), detail, .. }] => format!("`{at}` {detail}"),
            all if all.len() > FIELD_ERRORS_MAX => format!("more than {FIELD_ERRORS_MAX} fields are not valid"),
            all => format!("{} fields are not valid", all.len()),
        };
        ApiError { errors, ..ApiError::new(Code::InvalidFields, detail) }
    }

    /// One parameter is wrong.
    pub fn parameter(name: &str, detail: impl Into<String>) -> ApiError {
        let error = FieldError::parameter(name, detail);
        ApiError { detail: format!("`{name}` {}", error.detail), errors: vec![error], ..ApiError::new(Code::InvalidParameters, "") }
    }

    pub fn retry_after(self, secs: u64) -> ApiError {
        ApiError { retry_after_secs: Some(secs), ..self }
    }

    /// The problem that a bare answer of the router means, with the `Allow` that it gave.
    pub fn of_bare(response: &Response) -> Option<ApiError> {
        if response.headers().contains_key(CONTENT_TYPE) {
            return None;
        }
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => {
                let allow = response.headers().get(ALLOW).cloned();
                let error =
                    ApiError::new(Code::MethodNotAllowed, "the route exists, but not with this method; `Allow` names those it takes");
                Some(ApiError { allow, ..error })
            }
            StatusCode::NOT_FOUND => Some(ApiError::new(Code::RouteUnknown, "no route has this path; /openapi.json lists all")),
            _ => None,
        }
    }

    /// The problem as it is sent, for pages that are no JSON.
    pub fn title(&self) -> &'static str {
        self.code.title()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let mut errors = self.errors;
        errors.truncate(FIELD_ERRORS_MAX);
        for error in &mut errors {
            shorten(&mut error.detail);
            error.pointer.iter_mut().chain(&mut error.parameter).for_each(shorten);
        }
        let mut detail = self.detail;
        shorten(&mut detail);
        let problem = Problem {
            kind: "about:blank",
            title: self.code.title(),
            status: status.as_u16(),
            detail,
            code: self.code.as_str(),
            errors,
            request_id: REQUEST_ID.try_with(Clone::clone).ok(),
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"postwarm\""));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

/// `201 Created` with where it is.
pub fn created(location: &str, body: impl Serialize) -> Response {
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// `202 Accepted`.
pub fn accepted(body: impl Serialize) -> Response {
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

/// A page of HTML with the status of `error`, or `200 OK`.
pub fn page(error: Option<&ApiError>, headers: [(HeaderName, &'static str); 4], html: String) -> Response {
    let status = error.map_or(StatusCode::OK, |e| e.code.status());
    (status, headers, html).into_response()
}

/// `200 OK`, or `503 Service Unavailable` for a service that is not ready.
pub fn readiness(ready: bool, body: impl Serialize) -> Response {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_escapes_slash_and_tilde() {
        assert_eq!(pointer(&["headers", "a/b~c"]), "/headers/a~1b~0c");
    }

    #[tokio::test]
    async fn a_clients_own_text_does_not_make_a_problem_large() {
        let field = FieldError::field(&[&"ü".repeat(100_000)], "x".repeat(100_000));
        let body = ApiError::fields(vec![field; 200]).into_response().into_body();
        let octets = axum::body::to_bytes(body, usize::MAX).await.expect("the body of a test");
        assert!(octets.len() < FIELD_ERRORS_MAX * 4 * TEXT_CHARS_MAX, "{}", octets.len());
    }

    #[test]
    fn every_code_is_a_word_of_its_own() {
        let mut words: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
