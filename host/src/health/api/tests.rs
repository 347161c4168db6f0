use super::*;
use crate::clock::ManualClock;
use crate::config::settings::FeedbackEntry;
use crate::health::charge::{LoopHandle, Origin, RunningLoop};
use crate::health::sqlite::SqliteLedger;
use crate::health::testing::{accepted, changed, fact, facts, message_id, org};
use crate::http::probes::{Check, Readiness};
use crate::http::testing::{FakeKeys, call, settings};
use crate::model::delivery::State as DeliveryState;
use axum::http::StatusCode;
use expect_test::{Expect, expect};
use postwarm_plugin_api::{BoxFuture, Capabilities, FactKind, FactSink, FeedbackLoop, Poll, PollError};
use tokio_util::sync::CancellationToken;

struct Mailboxes;

impl FeedbackLoop for Mailboxes {
    fn capabilities(&self) -> Capabilities {
        Capabilities { delivered: true, read: true, ..Capabilities::default() }
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, _: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async move { Ok(poll.cursor.to_owned()) })
    }
}

struct Ready;

impl Readiness for Ready {
    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}

/// A loop in charge of d1 and d2 that was asked at 40 s, and a story: email 1 to 1..=6 and back-fill to 7 and 8.
async fn health(folder: &std::path::Path) -> (Router, OpenApi) {
    let ledger = Arc::new(SqliteLedger::open(&folder.join("health.db")).unwrap());
    let mut events = vec![accepted(1, 7), accepted(2, 3)];
    events.extend((1..=3).map(|user| changed(1, user, 1, DeliveryState::Sent)));
    events.extend([changed(1, 4, 1, DeliveryState::Failed), changed(1, 5, 1, DeliveryState::Failed)]);
    events.extend([changed(1, 7, 1, DeliveryState::Unknown), changed(1, 8, 0, DeliveryState::Suppressed)]);
    events.push(facts(1, "c", vec![fact(message_id(1, 1), FactKind::Read), fact(message_id(1, 7), FactKind::Delivered)]));
    ledger.apply(events, Vec::new()).await.unwrap();

    let entry = FeedbackEntry {
        name: "boxes".into(),
        plugin: "boxes".into(),
        domains: vec!["d1.example".into(), "d2.example".into()],
        interval: std::time::Duration::from_secs(30),
        settings: serde_json::Map::new(),
        secrets: Default::default(),
    };
    let running =
        RunningLoop::new(LoopHandle { org: org(), name: "boxes".into(), entry, origin: Origin::default(), feedback: Arc::new(Mailboxes) });
    running.update(|s| (s.checked_at, s.next_check_at, s.last_error) = (Some(40_000), Some(70_000), Some("away".into())));
    let state = ApiState {
        ledger,
        charge: watch::channel(Charge::new(vec![Arc::new(running)])).1,
        settings: watch::channel(settings(&[("acme", false), ("demo", false)], None)).1,
        keys: Arc::new(FakeKeys),
        clock: Arc::new(ManualClock::at(0)),
    };
    let probes = Probes {
        service: "health",
        readiness: Arc::new(Ready),
        draining: CancellationToken::new(),
        metrics: None,
        document: Arc::default(),
    };
    let (_, document) = parts(state.clone(), probes.clone());
    (router(state, probes), document)
}

async fn check(path: &str, expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    let (router, _) = health(folder.path()).await;
    expected.assert_eq(&call(&router, "acme", "GET", path).await.body);
}

#[tokio::test]
async fn an_emails_figures_add_up_and_name_what_nobody_can_tell() {
    check("/mail_stats?email_id=1", expect![[r#"{"email_id":1,"message_id":"<email-1@acme.example>","recipients":9,"delivered":2,"spam":null,"opened":null,"read":1,"bounced":1,"suppressed":1,"pending":3,"unknown":2,"checked_at":"1970-01-01T00:00:40.000Z","by_provider":{"p0":{"recipients":3,"delivered":0,"spam":null,"opened":null,"read":0,"bounced":1,"suppressed":1,"pending":1,"unknown":0},"p1":{"recipients":4,"delivered":2,"spam":null,"opened":null,"read":1,"bounced":0,"suppressed":0,"pending":0,"unknown":2}}}"#]]).await;
}

#[tokio::test]
async fn a_recipients_message_id_answers_for_that_delivery_alone() {
    check(&format!("/mail_stats?mail_id=%3C{}%3E", message_id(1, 7)), expect![[r#"{"email_id":1,"message_id":"<1.7.cnh6z06b@acme.example>","recipients":1,"delivered":1,"spam":null,"opened":null,"read":0,"bounced":0,"suppressed":0,"pending":0,"unknown":0,"checked_at":"1970-01-01T00:00:40.000Z","by_provider":{"p1":{"recipients":1,"delivered":1,"spam":null,"opened":null,"read":0,"bounced":0,"suppressed":0,"pending":0,"unknown":0}},"facts":[{"kind":"delivered","at":"1970-01-01T00:00:20.000Z","seen_at":"1970-01-01T00:00:30.001Z","source":"loop"}]}"#]]).await;
}

#[tokio::test]
async fn all_emails_are_a_map_by_number() {
    check("/all_mail_stats?limit=1", expect![[r#"{"1":{"email_id":1,"message_id":"<email-1@acme.example>","recipients":9,"delivered":2,"spam":null,"opened":null,"read":1,"bounced":1,"suppressed":1,"pending":3,"unknown":2,"checked_at":"1970-01-01T00:00:40.000Z","by_provider":{"p0":{"recipients":3,"delivered":0,"spam":null,"opened":null,"read":0,"bounced":1,"suppressed":1,"pending":1,"unknown":0},"p1":{"recipients":4,"delivered":2,"spam":null,"opened":null,"read":1,"bounced":0,"suppressed":0,"pending":0,"unknown":2}}}}"#]]).await;
}

#[tokio::test]
async fn domains_show_their_provider_and_their_loop() {
    check("/domains", expect![[r#"[{"domain":"d0.example","provider":"p1","loop":null,"can_tell":[],"checked_at":null,"next_check_at":null,"last_error":null,"refused":0},{"domain":"d1.example","provider":"p1","loop":"boxes","can_tell":["delivered","read"],"checked_at":"1970-01-01T00:00:40.000Z","next_check_at":"1970-01-01T00:01:10.000Z","last_error":"away","refused":0},{"domain":"d2.example","provider":"p1","loop":"boxes","can_tell":["delivered","read"],"checked_at":"1970-01-01T00:00:40.000Z","next_check_at":"1970-01-01T00:01:10.000Z","last_error":"away","refused":0}]"#]]).await;
}

#[tokio::test]
async fn every_form_of_an_id_finds_the_email_and_a_strange_one_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (router, _) = health(folder.path()).await;
    let forged = "/mail_stats?mail_id=1.1.AAAAAAAA@acme.example".to_owned();
    let foreign = format!("/mail_stats?mail_id={}", message_id(1, 1).replace("acme", "demo"));
    let table = [
        ("/mail_stats?mail_id=1", "200"),
        ("/mail_stats?email_id=email-1@acme.example", "200"),
        ("/mail_stats?email_id=%3Cemail-1@ACME.example%3E", "200"),
        ("/mail_stats?email_id=%22%3Cemail-1@acme.example%3E%22", "200"),
        ("/mail_stats?email_id=%3Cemail-1@other.example%3E", "404 email_unknown "),
        ("/mail_stats?email_id=3", "404 email_unknown "),
        ("/mail_stats?email_id=0", "404 email_unknown "),
        ("/mail_stats?email_id=%00", "404 email_unknown "),
        (&forged, "404 email_unknown "),
        (&foreign, "404 email_unknown "),
        ("/mail_stats", "400 invalid_parameters email_id"),
        ("/mail_stats?mail_id=1&email_id=1", "400 invalid_parameters mail_id"),
    ];
    for (path, expected) in table {
        let answer = call(&router, "acme", "GET", path).await;
        let said = if answer.status == StatusCode::OK { "200".to_owned() } else { answer.problem() };
        assert_eq!(said, expected, "{path}");
    }
}

#[tokio::test]
async fn pages_of_all_emails_link_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (router, _) = health(folder.path()).await;
    let first = call(&router, "acme", "GET", "/all_mail_stats?limit=1").await;
    let link = first.headers["link"].to_str().unwrap().to_owned();
    let next = link.split(['<', '>']).nth(1).unwrap();
    let second = call(&router, "acme", "GET", next).await;
    assert_eq!(second.json()["2"]["pending"], 3);
    assert!(!second.headers.contains_key("link"));
}

#[tokio::test]
async fn another_organization_sees_nothing_and_a_stranger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (router, _) = health(folder.path()).await;
    let own = format!("/mail_stats?mail_id={}", message_id(1, 1));
    for path in ["/mail_stats?email_id=1", own.as_str()] {
        assert_eq!(call(&router, "demo", "GET", path).await.problem(), "404 email_unknown ");
    }
    assert_eq!(call(&router, "demo", "GET", "/all_mail_stats").await.body, "{}");
    assert_eq!(call(&router, "demo", "GET", "/domains").await.body, "[]");
    for path in ["/mail_stats?email_id=1", "/all_mail_stats", "/domains"] {
        assert_eq!(call(&router, "Nobody", "GET", path).await.problem(), "401 key_unknown ");
    }
}

#[tokio::test]
async fn the_document_is_the_one_that_is_checked_in_and_every_route_is_in_api_md() {
    let folder = tempfile::tempdir().unwrap();
    let (_, document) = health(folder.path()).await;
    let document = openapi::write(&document);
    openapi::check("openapi-health.json", &document);
    let text = include_str!("../../../../docs/API.md");
    for route in openapi::routes(&document) {
        assert!(text.contains(&format!("`{route}")), "docs/API.md lacks `{route}`");
    }
}
