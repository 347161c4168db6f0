//! Hostile strings in every string field: refused with the field named, or taken; never a fault of ours.

use crate::http::testing::{Answer, call, post, send};
use crate::warmup::api::testing::api;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use postwarm_plugin_testkit::corpora::naughty_strings;
use serde_json::{Value, json};

/// What ends a header line or hides text, and the reference strings; where these are absent, that is said aloud.
fn strings(test: &str) -> Vec<String> {
    let ends = ["\r", "\n", "\0", "\r\n", "\u{7f}", "\u{85}", "\u{2028}", "\u{202e}", "\u{1b}[31m"];
    let mut all: Vec<String> = ends.iter().map(|end| format!("a{end}Bcc: x@y.example")).collect();
    all.extend(naughty_strings(test).unwrap_or_default());
    all
}

/// Either taken, or refused with a pointer into `field`.
fn check(answer: &Answer, field: &str, given: &str) {
    if answer.status.is_success() {
        return;
    }
    assert_eq!(answer.status, 422, "{field}: {given:?}: {}", answer.body);
    let problem = answer.json();
    let pointers: Vec<&str> = problem["errors"].as_array().into_iter().flatten().filter_map(|e| e["pointer"].as_str()).collect();
    assert!(!pointers.is_empty() && pointers.iter().all(|p| p.starts_with(field)), "{field}: {given:?}: {}", answer.body);
}

async fn each(router: &Router, strings: &[String], path: &str, field: &str, body: impl Fn(&str) -> Value) {
    for given in strings {
        let answer = post(router, "acme", path, &body(given)).await;
        check(&answer, field, given);
        let ends_a_line = given.contains(['\r', '\n', '\0']);
        assert!(!(answer.status.is_success() && ends_a_line && !["/body", "/html"].contains(&field)), "{field}: {given:?}");
    }
}

#[tokio::test]
async fn register_takes_or_refuses_each_string_by_its_field() {
    let (router, _, _) = api();
    let strings = strings("register_takes_or_refuses_each_string_by_its_field");
    each(&router, &strings, "/register", "/name", |text| json!({"name": text, "email_id": "a@b.example"})).await;
    each(&router, &strings, "/register", "/email_id", |text| json!({"name": "A", "email_id": text})).await;
    each(&router, &strings, "/register", "/email_id", |text| json!({"name": "A", "email_id": format!("{text}@b.example")})).await;
    each(&router, &strings, "/register", "/email_id", |text| json!({"name": "A", "email_id": format!("a@{text}")})).await;
}

#[tokio::test]
async fn send_takes_or_refuses_each_string_by_its_field() {
    let (router, store, _) = api();
    let strings = strings("send_takes_or_refuses_each_string_by_its_field");
    let with = |field: &str, text: &str| {
        let mut body = json!({"from": "a@acme.example", "subject": "S", "body": "B"});
        body[field] = json!(text);
        body
    };
    for field in ["from", "subject", "body", "html", "reply_to"] {
        each(&router, &strings, "/send", &format!("/{field}"), |text| with(field, text)).await;
    }
    each(&router, &strings, "/send", "/from", |text| with("from", &format!("{text} <a@acme.example>"))).await;
    each(&router, &strings, "/send", "/reply_to", |text| with("reply_to", &format!("\"{text}\" <a@acme.example>"))).await;
    let header = |name: &str, value: &str| json!({"from": "a@acme.example", "subject": "S", "body": "B", "headers": {name: value}});
    each(&router, &strings, "/send", "/headers", |text| header(text, "x")).await;
    each(&router, &strings, "/send", "/headers/X-A", |text| header("X-A", text)).await;
    for email in store.accepted(1) {
        let bound = [Some(&email.subject), email.from.name.as_ref()].into_iter().flatten().chain(email.headers.iter().map(|(_, v)| v));
        assert!(bound.into_iter().all(|text| !text.contains(['\r', '\n', '\0'])), "{email:?}");
    }
}

#[tokio::test]
async fn resolve_takes_or_refuses_each_string_by_its_field() {
    let (router, _, _) = api();
    let strings = strings("resolve_takes_or_refuses_each_string_by_its_field");
    post(&router, "acme", "/send", &json!({"from": "a@acme.example", "subject": "S", "body": "B"})).await;
    let path = "/emails/1/deliveries/resolve";
    each(&router, &strings, path, "/recipients", |text| json!({"recipients": [text], "action": "drop"})).await;
    each(&router, &strings, path, "/recipients", |text| json!({"recipients": text, "action": "drop"})).await;
    each(&router, &strings, path, "/action", |text| json!({"recipients": "all", "action": text})).await;
}

#[tokio::test]
async fn no_string_in_a_path_a_query_a_header_or_an_import_is_a_fault_of_ours() {
    let (router, _, _) = api();
    let strings = strings("no_string_in_a_path_a_query_a_header_or_an_import_is_a_fault_of_ours");
    for given in &strings {
        let escaped: String = given.bytes().map(|b| format!("%{b:02X}")).collect();
        for path in ["/users/", "/emails/", "/unsubscribe/", "/users?cursor=", "/users?limit=", "/emails?", "/emails/1/deliveries?state="] {
            let answer = call(&router, "acme", "GET", &format!("{path}{escaped}")).await;
            assert!(!answer.status.is_server_error(), "{path}: {given:?}: {}", answer.body);
        }
        for header in ["authorization", "idempotency-key", "content-type", "x-request-id"] {
            let request = Request::post("/send").header(header, given.as_bytes()).body(Body::empty());
            if let Ok(request) = request {
                let answer = send(&router, request).await;
                assert!(answer.status.is_client_error(), "{header}: {given:?}: {}", answer.body);
            }
        }
        for kind in ["text/csv", "application/x-ndjson"] {
            let row = format!("{given},a@b.example\n{}\n", json!({"name": given, "email_id": given}));
            let request = Request::post("/users/import").header("authorization", "Bearer key-acme").header("content-type", kind);
            assert_eq!(send(&router, request.body(Body::from(row)).expect("a request")).await.status, 200, "{given:?}");
        }
    }
}
