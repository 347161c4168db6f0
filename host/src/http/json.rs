//! JSON bodies, with every refusal pointing at its field.
//!
//! Invariant: a body is at most `BODY_OCTETS_MAX` octets, nests at most 128 deep, and has no unknown and no double
//! field (types that are read say `deny_unknown_fields`).

use crate::http::body;
use crate::http::error::{ApiError, Code, FieldError, pointer};
use crate::http::params::unknown_name;
use crate::http::shape::all_errors;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

/// A JSON body as a type, with the octets it came in.
#[derive(Debug)]
pub struct JsonBody<T> {
    pub value: T,
    pub raw: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<JsonBody<T>, ApiError> {
        if !may_be_json(request.headers()) {
            return Err(ApiError::new(Code::UnsupportedMediaType, "send JSON with the header `Content-Type: application/json`"));
        }
        body::refuse_compressed(request.headers())?;
        let (head, body) = request.into_parts();
        let raw = body::whole(&head, body).await?;
        if is_utf16(&raw) {
            return Err(body::utf16());
        }
        Ok(JsonBody { value: read(raw.strip_prefix(body::BOM).unwrap_or(&raw))?, raw })
    }
}

/// Tells whether a body is UTF-16, which it shows by its byte order mark, or, as it begins with an ASCII character, by an octet of zero.
fn is_utf16(raw: &[u8]) -> bool {
    body::is_utf16(raw) || matches!(raw, [0, first, ..] | [first, 0, ..] if *first != 0)
}

/// The media type without its parameters, in lower case; empty where there is none.
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Tells whether a body is said to be JSON. What `curl -d` says, and saying nothing, is taken too, but never from a
/// browser: a page on another site must not write to a service on loopback, and JSON is what no form can send.
fn may_be_json(headers: &HeaderMap) -> bool {
    let browser = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    match media_type(headers).as_str() {
        "application/json" => true,
        "" | "application/x-www-form-urlencoded" => !browser,
        other => other.starts_with("application/") && other.ends_with("+json"),
    }
}

/// Reads JSON. Errors of syntax are `malformed_json`, errors of shape are `invalid_fields` with a pointer each.
pub fn read<T: DeserializeOwned>(raw: &[u8]) -> Result<T, ApiError> {
    // serde would read a struct from an array too.
    if raw.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|first| *first != b'{') {
        serde_json::from_slice::<serde::de::IgnoredAny>(raw).map_err(|e| malformed(&e))?;
        return Err(ApiError::fields(vec![FieldError::field(&[], "must be an object, `{...}`")]));
    }
    let mut reader = serde_json::Deserializer::from_slice(raw);
    match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => {
            reader.end().map_err(|e| malformed(&e))?;
            Ok(value)
        }
        Err(error) if error.inner().is_data() => {
            let errors = all_errors::<T>(raw).map_err(|e| malformed(&e))?;
            Err(ApiError::fields(if errors.is_empty() { vec![field_error(&error)] } else { errors }))
        }
        Err(error) => Err(malformed(error.inner())),
    }
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(Code::MalformedJson, format!("the body is not JSON: {error}"))
}

/// The field that an error of shape is about, and what is wrong with it.
pub fn field_error(error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let cause = error.inner();
    let mut path: Vec<String> = error.path().iter().filter_map(name_of).collect();
    let mut text = cause.to_string();
    // serde_json ends its text with the place, which the pointer tells better.
    if let Some(at) = text.rfind(" at line ") {
        text.truncate(at);
    }
    let (kind, name, rest) = quoted(&text);
    let detail = match kind {
        "unknown field" => {
            if path.last().map(String::as_str) != Some(name) {
                path.push(name.to_owned());
            }
            unknown_name("field", name, &names_in(rest))
        }
        "missing field" => {
            path.push(name.to_owned());
            "is missing".to_owned()
        }
        "duplicate field" => {
            path.push(name.to_owned());
            "stands twice; give it once".to_owned()
        }
        "unknown variant" => format!("must be {}", rest.strip_prefix("one of ").unwrap_or(rest)),
        _ if text.starts_with("must ") => text,
        _ => format!("has the wrong type: {}", text.strip_prefix("invalid type: ").unwrap_or(&text)),
    };
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    FieldError { pointer: Some(pointer(&path)), parameter: None, detail }
}

/// The names in serde's "one of `x`, `y`".
pub fn names_in(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn name_of(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    }
}

/// Splits serde's "unknown field `x`, expected `y`" into its kind, the name and what follows. The name is the client's
/// and may hold anything.
pub fn quoted(text: &str) -> (&str, &str, &str) {
    let (kind, rest) = text.split_once(" `").unwrap_or((text, ""));
    let (name, rest) = rest.rsplit_once("`, expected ").unwrap_or((rest, ""));
    (kind, name.strip_suffix('`').filter(|_| rest.is_empty()).unwrap_or(name), rest)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde::Deserialize;
    use std::collections::BTreeMap;

    /// What the tests of bodies read.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it reads matters")]
    pub struct Body {
        name: String,
        headers: Option<BTreeMap<String, String>>,
        count: Option<u32>,
    }

    fn check(body: &str, expected: Expect) {
        let error = read::<Body>(body.as_bytes()).expect_err("must be refused");
        let pointers: Vec<_> = error.errors.iter().filter_map(|e| e.pointer.clone()).collect();
        expected.assert_eq(&format!("{} {pointers:?} {}", error.code.as_str(), error.detail));
    }

    #[tokio::test]
    async fn what_is_compressed_or_utf_16_is_told_and_a_byte_order_mark_is_passed_over() {
        let wide = |order: fn(u16) -> [u8; 2], mark: &str| format!("{mark}{{}}").encode_utf16().flat_map(order).collect::<Vec<u8>>();
        let cases = [
            ("gzip", b"\x1f\x8b\x08".to_vec(), Err("compressed bodies are not taken; send the text as it is")),
            ("identity", wide(u16::to_le_bytes, "\u{feff}"), Err("the text is UTF-16; send UTF-8")),
            ("identity", wide(u16::to_be_bytes, "\u{feff}"), Err("the text is UTF-16; send UTF-8")),
            ("identity", wide(u16::to_le_bytes, ""), Err("the text is UTF-16; send UTF-8")),
            ("identity", wide(u16::to_be_bytes, ""), Err("the text is UTF-16; send UTF-8")),
            ("identity", b"\xEF\xBB\xBF{\"name\":\"a\"}".to_vec(), Ok(())),
        ];
        for (encoding, octets, wanted) in cases {
            let request = axum::http::Request::post("/").header("content-encoding", encoding);
            let request = request.header("content-type", "application/json").body(octets.clone().into()).expect("a request");
            let taken = JsonBody::<Body>::from_request(request, &()).await.map(drop).map_err(|error| (error.code, error.detail));
            let wanted = wanted.map_err(|detail| (Code::UnsupportedMediaType, detail.to_owned()));
            assert_eq!(taken, wanted, "{octets:?}");
        }
    }

    #[test]
    fn refusals_point_at_the_field() {
        check("{\"name\":\"a\",\"nme\":1}", expect![[r#"invalid_fields ["/nme"] `/nme` is no known field; did you mean `name`?"#]]);
        check(
            "{\"name\":\"a\",\"`, x `\":1}",
            expect![[r#"invalid_fields ["/`, x `"] `/`, x `` is no known field; known are `name`, `headers`, `count`"#]],
        );
        check("{}", expect![[r#"invalid_fields ["/name"] `/name` is missing"#]]);
        check("{\"name\":1}", expect![[r#"invalid_fields ["/name"] `/name` has the wrong type: integer `1`, expected a string"#]]);
        check("{\"name\":\"a\",\"name\":\"b\"}", expect![[r#"invalid_fields ["/name"] `/name` stands twice; give it once"#]]);
        check(
            "{\"name\":\"a\",\"headers\":{\"X/A\":[]}}",
            expect![[r#"invalid_fields ["/headers/X~1A"] `/headers/X~1A` has the wrong type: sequence, expected a string"#]],
        );
        check(
            "{\"nme\":1,\"headers\":[],\"x\":1,\"x\":2}",
            expect![[r#"invalid_fields ["/nme", "/headers", "/x", "/x", "/name"] 5 fields are not valid"#]],
        );
        check("{\"headers\":null,\"headers\":null}", expect![[r#"invalid_fields ["/headers", "/name"] 2 fields are not valid"#]]);
        check("{\"x\":1,\"name\":", expect!["malformed_json [] the body is not JSON: EOF while parsing a value at line 1 column 14"]);
        check("[]", expect![[r#"invalid_fields [""] the body must be an object, `{...}`"#]]);
        check("{\"name\":", expect!["malformed_json [] the body is not JSON: EOF while parsing a value at line 1 column 8"]);
        check("{\"name\":\"a\"} x", expect!["malformed_json [] the body is not JSON: trailing characters at line 1 column 14"]);
        check("", expect!["malformed_json [] the body is not JSON: EOF while parsing a value at line 1 column 0"]);
    }

    #[test]
    fn two_hundred_thousand_brackets_are_an_error_and_no_overflow() {
        let deep = format!("{{\"name\":{}", "[".repeat(200_000));
        assert!(read::<Body>(deep.as_bytes()).is_err());
        assert_eq!(read::<Body>("[".repeat(200_000).as_bytes()).expect_err("must be refused").code, Code::MalformedJson);
    }
}
