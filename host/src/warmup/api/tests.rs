//! The HTTP behaviour of every route, black box through the router.

use crate::http::error::Code;
use crate::http::openapi;
use crate::http::testing::{Answer, call, post, send};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use crate::warmup::api::rows::RowCode;
use crate::warmup::api::testing::{FakeStore, api};
use crate::warmup::store::{Store, StoreError};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;

async fn register(router: &Router, org: &str, name: &str, address: &str) -> Answer {
    post(router, org, "/register", &json!({"name": name, "email_id": address})).await
}

fn email(org: &str) -> Value {
    json!({"from": format!("Acme <noreply@{org}.example>"), "subject": "Welcome!", "body": "Hello {{ name }}"})
}

async fn send_with_key(router: &Router, key: &str, body: &Value) -> Answer {
    let request = Request::post("/send").header("authorization", "Bearer key-acme").header("content-type", "application/json");
    send(router, request.header("idempotency-key", key).body(Body::from(body.to_string())).expect("a request")).await
}

async fn upload(router: &Router, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post(path).header("authorization", "Bearer key-acme").header("content-type", kind);
    send(router, request.body(body.into()).expect("a request")).await
}

fn check(answer: &Answer, expected: Expect) {
    expected.assert_eq(&format!("{} {}", answer.status.as_u16(), answer.body));
}

#[tokio::test]
async fn the_same_address_again_in_another_case_is_the_same_user() {
    let (router, _, _) = api();
    let first = register(&router, "acme", "Alice", "alice@example.com").await;
    check(&first, expect![[r#"201 {"name":"Alice","email_id":"alice@example.com","created_at":"2023-11-14T22:13:20.000Z"}"#]]);
    assert_eq!(first.headers["location"], "/users/alice%40example.com");
    let again = register(&router, "acme", "Bob", "Alice@Example.com").await;
    check(&again, expect![[r#"200 {"name":"Alice","email_id":"alice@example.com","created_at":"2023-11-14T22:13:20.000Z"}"#]]);
}

#[tokio::test]
async fn a_bad_registration_names_every_wrong_field() {
    let (router, _, _) = api();
    let answer = register(&router, "acme", "A\r\nBcc: x", "alice").await;
    assert_eq!(answer.problem(), "422 invalid_fields /name /email_id");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let typo = post(&router, "acme", "/register", &json!({"name": "A", "emial_id": "a@b.example"})).await;
    assert_eq!(typo.problem(), "422 invalid_fields /emial_id /email_id");
    assert!(typo.body.contains("did you mean `email_id`?"), "{}", typo.body);
}

#[tokio::test]
async fn what_curl_sends_is_taken_and_what_a_page_elsewhere_could_send_is_not() {
    let (router, _, _) = api();
    let user = r#"{"name": "Alice", "email_id": "alice@example.com"}"#;
    for (kind, taken) in [("application/x-www-form-urlencoded", true), ("", true), ("text/plain", false), ("multipart/form-data", false)] {
        assert_eq!(upload(&router, "/register", kind, user).await.status.is_success(), taken, "{kind}");
        for header in ["origin", "sec-fetch-site"] {
            let request = Request::post("/register").header("authorization", "Bearer key-acme").header("content-type", kind);
            let answer = send(&router, request.header(header, "https://evil.example").body(Body::from(user)).expect("a request")).await;
            assert_eq!(answer.problem(), "415 unsupported_media_type ", "{kind}");
        }
    }
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_refused() {
    let (router, _, _) = api();
    let answer = upload(&router, "/send", "application/json", "x".repeat(1024 * 1024 + 1)).await;
    assert_eq!(answer.problem(), "413 body_too_large ");
}

#[tokio::test]
async fn users_are_listed_plain_and_in_pages() {
    let (router, _, _) = api();
    for n in 1..=3 {
        register(&router, "acme", "U", &format!("u{n}@example.com")).await;
    }
    check(&call(&router, "acme", "GET", "/emailIds").await, expect![[r#"200 ["u1@example.com","u2@example.com","u3@example.com"]"#]]);
    let (mut path, mut seen) = ("/emailIds?limit=2".to_owned(), Vec::new());
    loop {
        let answer = call(&router, "acme", "GET", &path).await;
        seen.push(answer.body);
        let Some(link) = answer.headers.get("link").and_then(|l| l.to_str().ok()) else { break };
        path = link.trim_start_matches('<').split('>').next().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, [r#"["u1@example.com","u2@example.com"]"#, r#"["u3@example.com"]"#]);
    assert_eq!(call(&router, "acme", "GET", "/users?limit=0").await.problem(), "400 invalid_parameters limit");
    assert_eq!(call(&router, "acme", "GET", "/users?page=2").await.problem(), "400 invalid_parameters page");
}

#[tokio::test]
async fn one_user_is_shown_with_his_back_fill() {
    let (router, _, _) = api();
    register(&router, "acme", "Alice", "alice@example.com").await;
    check(
        &call(&router, "acme", "GET", "/users/ALICE%40example.com").await,
        expect![[
            r#"200 {"name":"Alice","email_id":"alice@example.com","created_at":"2023-11-14T22:13:20.000Z","backfill":{"emails":2,"done":1,"state":"running","next_at":"2023-11-14T22:13:20.000Z"}}"#
        ]],
    );
    for absent in ["bob@example.com", "nobody", "%FF", "%00"] {
        assert_eq!(call(&router, "acme", "GET", &format!("/users/{absent}")).await.problem(), "404 user_unknown ");
    }
}

#[tokio::test]
async fn a_broadcast_is_accepted_and_shown() {
    let (router, _, wake) = api();
    register(&router, "acme", "Alice", "alice@example.com").await;
    wake.notified().await;
    let answer = post(&router, "acme", "/send", &email("acme")).await;
    check(&answer, expect![[r#"202 {"message_id":"<email-1@acme.example>","email_id":1,"recipients":1}"#]]);
    wake.notified().await;
    check(
        &call(&router, "acme", "GET", "/emails").await,
        expect![[
            r#"200 [{"email_id":1,"message_id":"<email-1@acme.example>","from":"Acme <noreply@acme.example>","subject":"Welcome!","created_at":"2023-11-14T22:13:20.000Z","recipients":1,"counts":{"queued":1,"sending":0,"sent":0,"deferred":0,"failed":0,"suppressed":0,"unknown":0}}]"#
        ]],
    );
    for id in ["1", "email-1@acme.example", "%3Cemail-1%40acme.example%3E", "%22%3Cemail-1%40acme.example%3E%22"] {
        let one = call(&router, "acme", "GET", &format!("/emails/{id}")).await.json();
        assert_eq!((&one["email_id"], &one["rate_per_second"]), (&json!(1), &json!(2.5)), "{id}");
        assert_eq!((&one["eta"], one["waits_for"].is_string()), (&json!("2023-11-14T22:13:20.000Z"), true), "{id}");
    }
    for id in ["2", "0", "x", "email-1@other.example", "%FF"] {
        assert_eq!(call(&router, "acme", "GET", &format!("/emails/{id}")).await.problem(), "404 email_unknown ", "{id}");
    }
}

#[tokio::test]
async fn a_foreign_sender_is_refused_with_the_domains_that_are_allowed() {
    let (router, store, _) = api();
    for from in ["a@demo.example", "a@sub.acme.example", "Acme <a@acme.example.evil.example>"] {
        let mut body = email("acme");
        body["from"] = json!(from);
        let answer = post(&router, "acme", "/send", &body).await;
        assert_eq!(answer.problem(), "422 from_domain_not_allowed /from");
        assert!(answer.body.contains("`acme.example`"), "{}", answer.body);
    }
    assert!(store.accepted(1).is_empty());
}

#[tokio::test]
async fn headers_keep_their_order_and_our_own_are_refused() {
    let (router, store, _) = api();
    let text = r#"{"from":"a@acme.example","subject":"S","body":"B","headers":{"X-B":"2","X-A":"1"}}"#;
    assert_eq!(upload(&router, "/send", "application/json", text).await.status, 202);
    assert_eq!(store.accepted(1)[0].headers, [("X-B".to_owned(), "2".to_owned()), ("X-A".to_owned(), "1".to_owned())]);
    for name in ["From", "bcc", "Message-Id", "CONTENT-TYPE", "List-Unsubscribe-Post", "DKIM-Signature", "X A", "X:A", "X\r\nBcc", "", "Ü"]
    {
        let mut body = email("acme");
        body["headers"] = json!({name: "x"});
        let answer = post(&router, "acme", "/send", &body).await;
        assert_eq!(answer.problem(), format!("422 invalid_fields /headers/{name}"));
    }
    let twice = r#"{"from":"a@acme.example","subject":"S","body":"B","headers":{"X-A":"2","x-a":"1"}}"#;
    assert_eq!(upload(&router, "/send", "application/json", twice).await.problem(), "422 invalid_fields /headers/x-a");
}

#[tokio::test]
async fn a_template_that_does_not_render_is_refused_before_anything_is_stored() {
    let (router, store, _) = api();
    let mut body = email("acme");
    body["body"] = json!("{{ 1 + ");
    assert_eq!(post(&router, "acme", "/send", &body).await.problem(), "422 invalid_fields /body");
    assert!(store.accepted(1).is_empty());
}

#[tokio::test]
async fn an_idempotency_key_sends_once_and_refuses_another_body() {
    let (router, store, _) = api();
    let first = send_with_key(&router, "k1", &email("acme")).await;
    let again = send_with_key(&router, "k1", &email("acme")).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    let mut other = email("acme");
    other["subject"] = json!("Other");
    assert_eq!(send_with_key(&router, "k1", &other).await.problem(), "422 idempotency_key_reused ");
    assert_eq!(send_with_key(&router, "", &other).await.problem(), "400 invalid_parameters Idempotency-Key");
    assert_eq!(send_with_key(&router, &"k".repeat(256), &other).await.problem(), "400 invalid_parameters Idempotency-Key");
    assert_eq!(store.accepted(1).len(), 1);
}

#[tokio::test]
async fn a_key_whose_request_still_runs_is_a_conflict() {
    let (router, store, _) = api();
    let hold = Arc::new(Notify::new());
    *store.hold.lock().expect("not poisoned") = Some(hold.clone());
    let running = tokio::spawn({
        let router = router.clone();
        async move { send_with_key(&router, "k1", &email("acme")).await.status }
    });
    store.entered.notified().await;
    let second = send_with_key(&router, "k1", &email("acme")).await;
    assert_eq!(
        (second.problem().as_str(), &second.headers["retry-after"]),
        ("409 idempotency_key_running ", &"1".parse().expect("a value"))
    );
    *store.hold.lock().expect("not poisoned") = None;
    hold.notify_one();
    assert_eq!(running.await.expect("no panic"), 202);
    assert_eq!(send_with_key(&router, "k1", &email("acme")).await.status, 202);
}

async fn acme_with_a_doubtful_delivery() -> (Router, Arc<FakeStore>) {
    let (router, store, _) = api();
    register(&router, "acme", "A", "a@example.com").await;
    register(&router, "acme", "B", "b@example.com").await;
    post(&router, "acme", "/send", &email("acme")).await;
    store.doubt(1, 1, "b@example.com");
    (router, store)
}

#[tokio::test]
async fn deliveries_are_listed_and_filtered_by_state() {
    let (router, store) = acme_with_a_doubtful_delivery().await;
    let all = call(&router, "acme", "GET", "/emails/1/deliveries").await.json();
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let unknown = call(&router, "acme", "GET", "/emails/1/deliveries?state=unknown").await.json();
    let delivery = DeliveryKey { org: OrgId(1), email: EmailNumber(1), user: UserNumber(2) };
    let message_id = format!("<{}>", store.tokens().recipient_message_id(delivery, "acme.example"));
    let expected = json!([{"recipient": "b@example.com", "state": "unknown", "attempts": 0, "client": null, "reply": null, "message_id": message_id,
        "queued_at": "2023-11-14T22:13:20.000Z", "next_at": null, "finished_at": null}]);
    assert_eq!(unknown, expected);
    *store.searched_to.lock().unwrap() = Some(UserNumber(20_000));
    let early = call(&router, "acme", "GET", "/emails/1/deliveries?state=failed").await;
    assert_eq!(
        early.headers.get("link").and_then(|v| v.to_str().ok()),
        Some("</emails/1/deliveries?state=failed&cursor=MjAwMDA>; rel=\"next\""),
        "the search goes on"
    );
    assert_eq!(call(&router, "acme", "GET", "/emails/1/deliveries?state=lost").await.problem(), "400 invalid_parameters state");
    assert_eq!(call(&router, "acme", "GET", "/emails/2/deliveries").await.problem(), "404 email_unknown ");
}

#[tokio::test]
async fn a_person_settles_what_is_in_doubt() {
    let (router, _) = acme_with_a_doubtful_delivery().await;
    let path = "/emails/1/deliveries/resolve";
    let none = post(&router, "acme", path, &json!({"recipients": ["a@example.com"], "action": "drop"})).await;
    check(&none, expect![[r#"200 {"settled":0}"#]]);
    let one = post(&router, "acme", path, &json!({"recipients": "all", "action": "resend"})).await;
    check(&one, expect![[r#"200 {"settled":1}"#]]);
    for (body, place) in [
        (json!({"recipients": ["a@b.example", "x"], "action": "drop"}), "/recipients/1"),
        (json!({"recipients": [], "action": "drop"}), "/recipients"),
        (json!({"recipients": "some", "action": "drop"}), "/recipients"),
        (json!({"recipients": "all", "action": "ignore"}), "/action"),
        (json!({"recipients": "all"}), "/action"),
    ] {
        assert_eq!(post(&router, "acme", path, &body).await.problem(), format!("422 invalid_fields {place}"), "{body}");
    }
}

#[tokio::test]
async fn only_a_post_with_a_whole_token_unsubscribes() {
    let (router, store) = acme_with_a_doubtful_delivery().await;
    let token = store.tokens().unsubscribe(DeliveryKey { org: OrgId(1), email: EmailNumber(1), user: UserNumber(1) });
    let path = format!("/unsubscribe/{token}");
    for method in ["GET", "HEAD"] {
        let page = send(&router, Request::builder().method(method).uri(&path).body(Body::empty()).expect("a request")).await;
        assert_eq!(page.status, 200);
        assert!(page.headers["content-security-policy"].to_str().expect("ASCII").starts_with("default-src 'none'"));
        assert!(!page.body.contains("<script"));
    }
    assert!(store.suppressed(1).is_empty());
    for bad in [&token[1..], "x", "%00", "%FF"] {
        let answer = send(&router, Request::post(format!("/unsubscribe/{bad}")).body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.problem(), "404 token_unknown ", "{bad}");
    }
    for body in ["List-Unsubscribe=One-Click", ""] {
        let answer = send(&router, Request::post(&path).body(Body::from(body)).expect("a request")).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(store.suppressed(1), [1]);
}

#[tokio::test]
async fn an_import_counts_what_it_created_found_and_refused() {
    let (router, store, _) = api();
    register(&router, "acme", "A", "a@example.com").await;
    let csv = "name,email_id\nA,A@example.com\nB,b@example.com\nB,b@example.com\n,c@example.com\nD,nobody\n";
    check(
        &upload(&router, "/users/import?backfill=true", "text/csv; charset=utf-8", csv).await,
        expect![[
            r#"200 {"created":1,"existing":2,"invalid":2,"errors":[{"line":5,"code":"name_invalid","detail":"`name` is empty"},{"line":6,"code":"email_id_invalid","detail":"`email_id` has no `@`"}]}"#
        ]],
    );
    let many: String = (0..30_000).map(|n| format!("{{\"name\":\"N\",\"email_id\":\"n{n}@example.com\"}}\n")).collect();
    let answer = upload(&router, "/users/import", "application/x-ndjson", many).await.json();
    assert_eq!(answer, json!({"created": 30_000, "existing": 0, "invalid": 0, "errors": []}));
    let users = store.users(OrgId(1), UserNumber(0), 100_000).await.expect("no failure is set");
    assert_eq!(users.len(), 30_002);
}

#[tokio::test]
async fn an_import_lists_a_thousand_errors_and_counts_the_rest() {
    let (router, _, _) = api();
    let answer = upload(&router, "/users/import", "text/csv", "A,x\n".repeat(1_500)).await.json();
    assert_eq!((answer["invalid"].as_u64(), answer["errors"].as_array().map(Vec::len)), (Some(1_500), Some(1_000)));
}

#[tokio::test]
async fn an_upload_that_breaks_off_keeps_what_was_committed_and_says_so() {
    let (router, store, _) = api();
    let rows: String = (0..5_000).map(|n| format!("N,n{n}@example.com\n")).collect();
    let parts: Vec<Result<String, std::io::Error>> =
        vec![Ok(rows), Ok("N,last@example.com\n".into()), Err(std::io::ErrorKind::BrokenPipe.into())];
    let answer = upload(&router, "/users/import", "text/csv", Body::from_stream(futures_util::stream::iter(parts))).await;
    assert_eq!(answer.problem(), "400 body_incomplete ");
    assert!(answer.body.contains("5000 users were created"), "{}", answer.body);
    assert_eq!(store.users(OrgId(1), UserNumber(0), 100_000).await.expect("no failure is set").len(), 5_000);
}

#[tokio::test]
async fn an_import_of_another_kind_is_refused() {
    let (router, _, _) = api();
    for (path, kind, body, expected) in [
        ("/users/import", "application/zip", "PK", "415 unsupported_media_type "),
        ("/users/import", "text/csv", "\u{0}", "200  "),
        ("/users/import?backfill=maybe", "text/csv", "", "400 invalid_parameters backfill"),
    ] {
        assert_eq!(upload(&router, path, kind, body).await.problem(), expected);
    }
}

#[tokio::test]
async fn a_full_disk_and_a_store_that_is_away_are_told_apart() {
    let (router, store, _) = api();
    *store.fails.lock().expect("not poisoned") = Some(|| StoreError::Full);
    assert_eq!(register(&router, "acme", "A", "a@b.example").await.problem(), "507 store_full ");
    assert_eq!(upload(&router, "/users/import", "text/csv", "A,a@b.example").await.problem(), "507 store_full ");
    *store.fails.lock().expect("not poisoned") = Some(|| StoreError::Unavailable("the cause".into()));
    let away = call(&router, "acme", "GET", "/users").await;
    assert_eq!((away.problem().as_str(), away.headers.contains_key("retry-after")), ("503 store_unavailable ", true));
    assert!(!away.body.contains("the cause"));
}

#[tokio::test]
async fn every_route_needs_a_key_and_shows_nothing_of_another_organization() {
    let (router, store) = acme_with_a_doubtful_delivery().await;
    let document = call(&router, "acme", "GET", "/openapi.json").await;
    for route in openapi::routes(&document.body) {
        let (method, template) = route.split_once(' ').expect("METHOD /path");
        let open = ["/livez", "/readyz", "/version", "/metrics", "/openapi.json", "/unsubscribe/{token}"].contains(&template);
        if open {
            continue;
        }
        let path = template.replace("{id}", "1").replace("{email_id}", "a@example.com");
        for (org, code) in [(None, "key_missing"), (Some("nobody"), "key_unknown")] {
            let mut request = Request::builder().method(method).uri(&path);
            if let Some(org) = org {
                request = request.header("authorization", format!("Bearer key-{org}"));
            }
            let answer = send(&router, request.body(Body::empty()).expect("a request")).await;
            assert_eq!(answer.problem(), format!("401 {code} "), "{route}");
            assert!(answer.headers.contains_key("www-authenticate"));
        }
        let body = match template.ends_with("resolve") {
            true => json!({"recipients": "all", "action": "drop"}),
            false => json!({}),
        };
        let foreign = if method == "GET" { call(&router, "demo", method, &path).await } else { post(&router, "demo", &path, &body).await };
        assert!(!foreign.body.contains("@example.com") && !foreign.body.contains("acme"), "{route}: {}", foreign.body);
        if template.contains('{') {
            assert_eq!(foreign.status, 404, "{route}");
        }
    }
    assert_eq!(call(&router, "acme", "GET", "/emails/1/deliveries?state=unknown").await.json().as_array().map(Vec::len), Some(1));
    assert!(store.accepted(2).is_empty());
}

#[tokio::test]
async fn the_document_is_checked_in_and_every_route_and_code_is_in_api_md() {
    let (router, _, _) = api();
    let document = call(&router, "acme", "GET", "/openapi.json").await.body;
    openapi::check("openapi-warmup.json", &document);
    let text = include_str!("../../../../docs/API.md");
    for route in openapi::routes(&document) {
        assert!(text.contains(&format!("`{route}")), "docs/API.md lacks `{route}`");
    }
    for code in Code::ALL.iter().map(|c| c.as_str()).chain(RowCode::ALL) {
        assert!(text.contains(&format!("| `{code}` |")), "docs/API.md lacks the code `{code}`");
    }
}
