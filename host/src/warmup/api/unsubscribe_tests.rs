//! Links that lead nowhere: in an email that is accepted, and in a request.

use crate::http::serve::Remote;
use crate::http::testing::{post, send};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use crate::warmup::api::state::BAD_TOKENS_MAX;
use crate::warmup::api::testing::api;
use crate::warmup::store::Store;
use axum::body::Body;
use axum::http::Request;
use serde_json::json;

#[tokio::test]
async fn an_unsubscribe_link_that_leads_nowhere_is_refused_with_the_remedy() {
    let (router, store, _) = api();
    let html = "<a href=\"{{ unsubscribe_url }}\">Bye</a>";
    let body = json!({"from": "noreply@acme.example", "subject": "S", "body": "Bye: {{ unsubscribe_url }}", "html": html});
    let answer = post(&router, "acme", "/send", &body).await;
    assert_eq!(answer.problem(), "422 invalid_fields /body /html");
    assert!(answer.body.contains("set public_url in config/organizations/acme.toml"), "{}", answer.body);
    assert!(store.accepted(1).is_empty());
}

#[tokio::test]
async fn who_tries_many_unsubscribe_tokens_has_to_wait_and_a_whole_one_is_never_held_up() {
    let (router, store, _) = api();
    post(&router, "acme", "/register", &json!({"name": "Alice", "email_id": "alice@example.com"})).await;
    let token = store.tokens().unsubscribe(DeliveryKey { org: OrgId(1), email: EmailNumber(1), user: UserNumber(1) });
    let from = |address: &'static str, method: &'static str, token: String| {
        let request = Request::builder().method(method).uri(format!("/unsubscribe/{token}"));
        let request = request.extension(Remote((address.parse::<std::net::IpAddr>().expect("an address"), 9).into()));
        let router = router.clone();
        async move { send(&router, request.body(Body::empty()).expect("a request")).await }
    };
    for n in 0..BAD_TOKENS_MAX {
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        assert_eq!(from("192.0.2.1", method, format!("x{n}")).await.problem(), "404 token_unknown ");
    }
    let answer = from("192.0.2.1", "POST", "x".into()).await;
    assert_eq!(answer.problem(), "429 token_tries_exceeded ");
    assert_eq!(answer.headers["retry-after"], "60");
    assert_eq!(from("192.0.2.2", "POST", "x".into()).await.problem(), "404 token_unknown ");
    assert_eq!(from("192.0.2.1", "POST", token).await.status, 200);
    assert_eq!(store.suppressed(1), [1]);
}
