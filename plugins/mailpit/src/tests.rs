//! The loop against a real Mailpit, and against a server that fails in ways that Mailpit does not.

use crate::client::MAILPIT;
use crate::feedback::MailpitFeedback;
use axum::Router;
use axum::routing::get;
use postwarm_plugin_api::{
    BoxFuture, Fact, FactKind, FactSink, FeedbackFactory, Instance, Message, Outcome, Poll, PollError, Report, SmtpFactory, WatchList,
    Watched,
};
use postwarm_plugin_testkit::conformance::feedback::{Source, feedback_loop};
use postwarm_plugin_testkit::conformance::smtp::{Pointed, smtp_client};
use postwarm_plugin_testkit::instance::instance;
use postwarm_plugin_testkit::skip::skip;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A real Mailpit of this test alone.
struct Mailpit {
    smtp: SocketAddr,
    http: SocketAddr,
    _process: Child,
    _dir: tempfile::TempDir,
}

impl Mailpit {
    /// Starts the binary that POSTWARM_TEST_MAILPIT names; without it the test is skipped, and says so.
    async fn start(test: &str, extra: &[&str]) -> Option<Mailpit> {
        let Ok(binary) = std::env::var("POSTWARM_TEST_MAILPIT") else {
            skip(test, "POSTWARM_TEST_MAILPIT does not name Mailpit's binary");
            return None;
        };
        for _ in 0..5 {
            let (smtp, http) = (free_address(), free_address());
            let dir = tempfile::tempdir().expect("a folder");
            let mut command = Command::new(&binary);
            command.args(["--smtp", &smtp.to_string(), "--listen", &http.to_string(), "--max", "0", "--smtp-disable-rdns"]);
            command.args(["--disable-version-check", "--enable-chaos", "--quiet", "--database"]).arg(dir.path().join("mailpit.db"));
            let mut process = command.args(extra).kill_on_drop(true).spawn().expect("POSTWARM_TEST_MAILPIT starts");
            let ready = async { while TcpStream::connect(http).await.is_err() || TcpStream::connect(smtp).await.is_err() {} };
            tokio::select! {
                () = ready => return Some(Mailpit { smtp, http, _process: process, _dir: dir }),
                // Somebody else took one of the ports meanwhile.
                _ = process.wait() => {}
                () = tokio::time::sleep(Duration::from_secs(30)) => panic!("mailpit does not start"),
            }
        }
        panic!("mailpit ended five times at its start")
    }

    /// Delivers messages with the ids `m{n}@x` through the client of this plugin.
    async fn deliver(&self, from: usize, to: usize) {
        let settings = json!({ "host": self.smtp.ip().to_string(), "port": self.smtp.port() });
        let client = MAILPIT.create(instance(settings, &[])).expect("right settings");
        for n in from..to {
            let message = Message {
                delivery: n.to_string().into(),
                envelope_from: "a@x".into(),
                envelope_to: "b@y".into(),
                header: format!("From: a@x\r\nTo: b@y\r\nMessage-ID: <m{n}@x>\r\nSubject: {n}\r\n\r\n").into(),
                body: "Hello\r\n".into(),
                eight_bit: false,
                smtputf8: false,
                mark: None,
            };
            let outcome = client.send(message, Instant::now() + LONG).await;
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        }
        client.close(LONG).await;
    }

    async fn put(&self, path: &str, body: Value) {
        let url = format!("http://{}{path}", self.http);
        let answer = reqwest::Client::new().put(url).json(&body).send().await.expect("mailpit answers");
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }

    /// Mailpit's own id of a message.
    async fn id_of(&self, message_id: &str) -> String {
        let url = format!("http://{}/api/v1/search", self.http);
        let query = [("query", format!("message-id:\"{message_id}\""))];
        let answer: Value = reqwest::Client::new().get(url).query(&query).send().await.expect("an answer").json().await.expect("JSON");
        answer["messages"][0]["ID"].as_str().expect("the message is there").to_owned()
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

struct Watching(usize);

impl WatchList for Watching {
    fn page(&self, _: u64, max: usize) -> BoxFuture<'_, Vec<Watched>> {
        let watched = |n| Watched { position: n as u64 + 1, message_id: format!("m{n}@x"), domain: "y".into(), sent_at_ms: 0 };
        let page = (0..self.0.min(max)).map(watched).collect();
        Box::pin(async { page })
    }
}

struct Sink {
    room: usize,
    facts: Vec<Fact>,
}

impl FactSink for Sink {
    fn push(&mut self, report: Report) -> bool {
        let Report::Message(fact) = report else { panic!("no aggregates are declared") };
        self.facts.push(fact);
        self.room -= 1;
        self.room > 0
    }
}

/// A loop that reads there; with a password, as the user `u`.
fn at(http: SocketAddr, password: Option<&str>) -> Instance {
    let url = format!("http://{http}");
    match password {
        Some(password) => instance(json!({ "url": url, "username": "u" }), &[("password", password)]),
        None => instance(json!({ "url": url }), &[]),
    }
}

async fn poll(instance: Instance, cursor: &str, room: usize, limit: Duration) -> (Result<String, PollError>, Vec<Fact>) {
    let feedback = MailpitFeedback.create(instance).expect("right settings");
    let mut sink = Sink { room, facts: Vec::new() };
    let poll = Poll { cursor, watch: &Watching(1), deadline: Instant::now() + limit };
    let cursor = feedback.poll(poll, &mut sink).await;
    (cursor, sink.facts)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn mailpit_tells_what_is_there_what_is_read_and_what_is_spam_over_several_pages() {
    let Some(mailpit) = Mailpit::start("mailpit_tells_what_is_there_what_is_read_and_what_is_spam_over_several_pages", &[]).await else {
        return;
    };
    mailpit.deliver(0, 2_203).await;
    mailpit.put("/api/v1/messages", json!({ "IDs": [mailpit.id_of("m3@x").await, mailpit.id_of("m2200@x").await], "Read": true })).await;
    mailpit.put("/api/v1/tags", json!({ "IDs": [mailpit.id_of("m7@x").await], "Tags": ["Spam", "other"] })).await;

    let (cursor, facts) = poll(at(mailpit.http, None), "", usize::MAX, LONG).await;
    assert_eq!(cursor, Ok("0".into()), "the next poll reads everything again");
    let of = |kind| facts.iter().filter(|fact| fact.kind == kind).map(|fact| fact.message_id.clone()).collect::<Vec<_>>();
    assert_eq!(of(FactKind::Delivered), (0..2_203).map(|n| format!("m{n}@x")).collect::<Vec<_>>());
    assert_eq!(of(FactKind::Read), ["m3@x", "m2200@x"]);
    assert_eq!(of(FactKind::Spam), ["m7@x"]);
    assert!(facts.iter().all(|fact| fact.at_ms.is_some() == (fact.kind == FactKind::Delivered)));

    let (_, again) = poll(at(mailpit.http, None), "0", usize::MAX, LONG).await;
    assert_eq!(again, facts, "reading leaves no trace");

    let (mut cursor, mut helpings) = (String::new(), Vec::new());
    while cursor != "0" {
        let (next, mut some) = poll(at(mailpit.http, None), &cursor, 401, LONG).await;
        cursor = next.expect("a poll");
        helpings.append(&mut some);
    }
    assert_eq!(helpings, facts, "helpings of 401 facts");
}

#[tokio::test]
async fn mail_that_comes_in_during_a_poll_hides_no_older_message() {
    let Some(mailpit) = Mailpit::start("mail_that_comes_in_during_a_poll_hides_no_older_message", &[]).await else { return };
    mailpit.deliver(0, 2_100).await;
    let ((), (cursor, facts)) = tokio::join!(mailpit.deliver(2_100, 2_400), poll(at(mailpit.http, None), "", usize::MAX, LONG));
    assert_eq!(cursor, Ok("0".into()));
    for n in 0..2_100 {
        let id = format!("m{n}@x");
        assert!(facts.iter().any(|fact| fact.message_id == id), "{id} was passed over");
    }
}

#[tokio::test]
async fn credentials_open_a_mailpit_that_asks_for_them_and_wrong_ones_are_refused_without_being_shown() {
    let auth = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(auth.path(), "u:canary-5\n").expect("written");
    let Some(mailpit) = Mailpit::start(
        "credentials_open_a_mailpit_that_asks_for_them_and_wrong_ones_are_refused_without_being_shown",
        &["--ui-auth-file", auth.path().to_str().expect("UTF-8")],
    )
    .await
    else {
        return;
    };
    mailpit.deliver(0, 1).await;
    assert_eq!(poll(at(mailpit.http, Some("canary-5")), "", 9, LONG).await.1.len(), 1);
    let (answer, _) = poll(at(mailpit.http, Some("canary-6")), "", 9, LONG).await;
    let Err(PollError::Refused(words)) = answer else { panic!("{answer:?}") };
    assert!(words.contains("401") && !words.contains("canary"), "{words}");
}

/// A server that answers the list with this.
async fn fake(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn a_source_that_fails_is_an_error_and_never_no_news() {
    const LIST: &str = "/api/v1/messages";
    let status = fake(Router::new().route(LIST, get(|| async { axum::http::StatusCode::INTERNAL_SERVER_ERROR }))).await;
    let garbage = fake(Router::new().route(LIST, get(|| async { "<html>" }))).await;
    let short = fake(Router::new().route(LIST, get(|| async { r#"{"total":7,"messages":[]}"# }))).await;
    let huge = fake(Router::new().route(LIST, get(|| async { vec![b' '; 17 << 20] }))).await;
    let elsewhere = fake(Router::new().route(LIST, get(|| async { axum::response::Redirect::temporary("http://127.0.0.1:1/") }))).await;
    let rows = [
        (status, "mailpit answered 500"),
        (garbage, "no list of messages"),
        (short, "does not hold"),
        (huge, "longer than"),
        (elsewhere, "answered 307"),
        (free_address(), "cannot read from mailpit"),
    ];
    for (address, part) in rows {
        let (answer, facts) = poll(at(address, None), "", 9, LONG).await;
        let Err(PollError::Temporary(words)) = answer else { panic!("{answer:?} for {part}") };
        assert!(words.contains(part) && facts.is_empty(), "{words}");
    }
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let started = Instant::now();
    let (answer, _) = poll(at(address, None), "", 9, Duration::from_millis(200)).await;
    assert!(matches!(&answer, Err(PollError::Temporary(words)) if words.contains("too long")), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn nothing_is_asked_where_nothing_is_watched() {
    let feedback = MailpitFeedback.create(at(free_address(), None)).expect("right settings");
    let mut sink = Sink { room: 1, facts: Vec::new() };
    let poll = Poll { cursor: "12", watch: &Watching(0), deadline: Instant::now() + LONG };
    assert_eq!(feedback.poll(poll, &mut sink).await, Ok("12".into()));
}

#[tokio::test]
async fn the_client_keeps_the_contract() {
    let settings = |address: SocketAddr| json!({ "host": address.ip().to_string(), "port": address.port() });
    let at = |address| Instance { connections_max: 3, ..instance(settings(address), &[]) };
    let with_secret = |address: SocketAddr, secret| {
        let mut instance = at(address);
        instance.settings.insert("username".into(), "user".into());
        instance.settings.insert("allow_insecure_auth".into(), true.into());
        instance.secrets.insert("password".into(), secret);
        instance
    };
    smtp_client(Pointed { factory: &MAILPIT, at: &at, with_secret: Some(&with_secret) }).await.assert_passed();
}

#[tokio::test]
async fn the_loop_keeps_the_contract() {
    let Some(mailpit) = Mailpit::start("the_loop_keeps_the_contract", &[]).await else { return };
    mailpit.deliver(0, 30).await;
    mailpit.put("/api/v1/messages", json!({ "IDs": [mailpit.id_of("m3@x").await], "Read": true })).await;
    mailpit.put("/api/v1/tags", json!({ "IDs": [mailpit.id_of("m3@x").await], "Tags": ["spam"] })).await;
    let watch = Watching(30).page(0, 30).await;
    let failing = (at(free_address(), Some("any")), String::new());
    let source = Source { factory: &MailpitFeedback, instance: at(mailpit.http, None), watch, failing };
    feedback_loop(&source).await.assert_passed();
}
