//! Each example, dropped, named and used.

use super::support::{Place, c_example, instance, message, rust_example, sink, sink_offering};
use crate::registry::State;
use postwarm_plugin_api::{
    BoxFuture, Cause, FactKind, FactSink, Fault, Kind, Message, Outcome, Phase, Poll, PollError, Report, WatchList, Watched,
};
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn an_example_sends(place: &Place, id: &str) {
    assert_eq!(place.registry.ids(Kind::SmtpClient).iter().filter(|known| *known == id).count(), 1);
    let (port, journal) = sink().await;
    let factory = place.registry.resolve_smtp(id).expect("it loads");
    let client = factory.create(instance(json!({ "host": "127.0.0.1", "port": port }))).expect("the settings are right");
    assert_eq!(client.in_flight_max(), 2);
    client.verify(soon()).await.expect("the sink answers");

    let accepted = client.send(message("to@example.com"), soon()).await;
    assert!(matches!(&accepted, Outcome::Accepted(reply) if reply.to_string() == "250 2.0.0 taken"), "{accepted:?}");
    let lines = journal.lines();
    let start = lines.iter().position(|line| line == "DATA").expect("it came to that") + 1;
    assert_eq!(lines[start..], ["Subject: dots", "", "..first", "second", "...third", "last", "."]);
    assert_eq!(lines[start - 3..start - 1], ["MAIL FROM:<from@example.com>", "RCPT TO:<to@example.com>"]);

    let refused = client.send(message("full@example.com"), soon()).await;
    assert!(matches!(&refused, Outcome::Rejected { reply, fault: Fault::Recipient } if reply.code == 552), "{refused:?}");
    let unknown = client.send(message("hangup@example.com"), soon()).await;
    assert!(matches!(unknown, Outcome::Unknown { phase: Phase::EndOfData, .. }), "{unknown:?}");
    let again = client.send(message("to@example.com"), soon()).await;
    assert!(matches!(again, Outcome::Accepted(_)), "{again:?}");

    client.close(Duration::from_secs(5)).await;
    let stopped = client.send(message("to@example.com"), soon()).await;
    assert!(matches!(stopped, Outcome::NotAttempted { cause: Cause::Stopping, .. }), "{stopped:?}");
}

async fn an_example_sends_beyond_ascii_only_where_the_server_takes_it(place: &Place, id: &str) {
    let factory = place.registry.resolve_smtp(id).expect("it loads");
    let to = |port: u16| factory.create(instance(json!({ "host": "127.0.0.1", "port": port }))).expect("the settings are right");
    let utf8 = Message { smtputf8: true, eight_bit: true, ..message("ü@xn--bcher-kva.example") };

    let (port, journal) = sink_offering("SMTPUTF8 8BITMIME").await;
    let client = to(port);
    let taken = client.send(utf8.clone(), soon()).await;
    assert!(matches!(taken, Outcome::Accepted(_)), "{taken:?}");
    let lines = journal.lines();
    assert!(lines.contains(&"MAIL FROM:<from@example.com> BODY=8BITMIME SMTPUTF8".to_owned()), "{lines:?}");
    let unflagged = client.send(Message { smtputf8: false, ..utf8.clone() }, soon()).await;
    assert!(matches!(unflagged, Outcome::NotAttempted { cause: Cause::Unsupported, .. }), "{unflagged:?}");

    let (port, journal) = sink_offering("HELP").await;
    let client = to(port);
    for (message, lacks) in [(utf8, "SMTPUTF8"), (Message { eight_bit: true, ..message("to@example.com") }, "8BITMIME")] {
        let refused = client.send(message, soon()).await;
        let said = matches!(&refused, Outcome::NotAttempted { cause: Cause::Unsupported, detail } if detail.contains(lacks));
        assert!(said, "{refused:?}");
    }
    assert!(!journal.lines().iter().any(|line| line.starts_with("MAIL")), "no server is asked in vain");
    let next = client.send(message("to@example.com"), soon()).await;
    assert!(matches!(next, Outcome::Accepted(_)), "{next:?}");
}

async fn an_example_without_a_server_says_connect(place: &Place, id: &str) {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback");
    let factory = place.registry.resolve_smtp(id).expect("it loads");
    let client = factory.create(instance(json!({ "host": "127.0.0.1", "port": closed.port() }))).expect("the settings are right");
    let outcome = client.send(message("to@example.com"), soon()).await;
    assert!(matches!(outcome, Outcome::NotAttempted { cause: Cause::Connect, .. }), "{outcome:?}");
    assert!(client.verify(soon()).await.is_err());
}

fn an_example_names_every_wrong_setting(place: &Place, id: &str) {
    let factory = place.registry.resolve_smtp(id).expect("it loads");
    let problems = factory.create(instance(json!({ "hots": "x", "port": 70_000 }))).err().expect("three things are wrong");
    let mut pointers: Vec<&str> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/host", "/hots", "/port"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_example_sends_and_tells_the_truth() {
    let place = Place::new();
    place.drop_file(&rust_example("postwarm-plugin-example-smtp-rust"));
    place.settle();
    let descriptor = place.registry.describe(Kind::SmtpClient, "example-relay").expect("the note is enough");
    assert!(descriptor.settings_schema.contains("\"host\""));
    an_example_sends(&place, "example-relay").await;
    an_example_sends_beyond_ascii_only_where_the_server_takes_it(&place, "example-relay").await;
    an_example_without_a_server_says_connect(&place, "example-relay").await;
    an_example_names_every_wrong_setting(&place, "example-relay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_c_example_sends_and_tells_the_truth() {
    let place = Place::new();
    place.drop_file(&c_example(place.folder.path()));
    place.settle();
    let descriptor = place.registry.describe(Kind::SmtpClient, "example-c").expect("the note is enough");
    assert!(descriptor.settings_schema.contains("\"host\""));
    an_example_sends(&place, "example-c").await;
    an_example_sends_beyond_ascii_only_where_the_server_takes_it(&place, "example-c").await;
    an_example_without_a_server_says_connect(&place, "example-c").await;
    an_example_names_every_wrong_setting(&place, "example-c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_at_a_time_are_each_accepted_once() {
    let place = Place::new();
    place.drop_file(&c_example(place.folder.path()));
    place.settle();
    let (port, journal) = sink().await;
    let factory = place.registry.resolve_smtp("example-c").expect("it loads");
    let client = factory.create(instance(json!({ "host": "127.0.0.1", "port": port }))).expect("the settings are right");
    let sends = (0..200).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.send(message(&format!("u{number}@example.com")), soon()).await })
    });
    for send in sends.collect::<Vec<_>>() {
        let outcome = send.await.expect("no panic");
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
    let mut recipients: Vec<String> = journal.lines().into_iter().filter(|line| line.starts_with("RCPT")).collect();
    recipients.sort_unstable();
    recipients.dedup();
    assert_eq!(recipients.len(), 200);
}

struct NobodyWatches;

impl WatchList for NobodyWatches {
    fn page(&self, _after: u64, _max: usize) -> BoxFuture<'_, Vec<Watched>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

#[derive(Default)]
struct Collected(Vec<Report>);

impl FactSink for Collected {
    fn push(&mut self, report: Report) -> bool {
        self.0.push(report);
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_csv_example_reports_what_is_appended() {
    let place = Place::new();
    place.drop_file(&rust_example("postwarm-plugin-example-csv-loop"));
    place.settle();
    let csv = place.folder.path().join("facts.csv");
    let factory = place.registry.resolve_feedback("example-csv").expect("it loads");
    let feedback = factory.create(instance(json!({ "path": csv }))).expect("the settings are right");
    assert!(feedback.capabilities().read && !feedback.capabilities().aggregates);
    let poll = async |cursor: &str| {
        let mut sink = Collected::default();
        let polled = feedback.poll(Poll { cursor, watch: &NobodyWatches, deadline: soon() }, &mut sink).await;
        (polled, sink.0)
    };
    assert!(matches!(poll("").await.0, Err(PollError::Temporary(_))));
    let mut file = std::fs::File::create(&csv).expect("writable");
    file.write_all(b"message_id,kind,at\n<a@b>,delivered,7\n").expect("writable");
    let (cursor, reports) = poll("").await;
    let cursor = cursor.expect("the file is right");
    assert!(matches!(&reports[..], [Report::Message(fact)] if fact.kind == FactKind::Delivered && fact.at_ms == Some(7)), "{reports:?}");
    file.write_all(b"a@b,read,8\na@b,eaten,\n").expect("writable");
    let (cursor, reports) = poll(&cursor).await;
    assert!(matches!(&reports[..], [Report::Message(fact)] if fact.kind == FactKind::Read && fact.message_id == "a@b"), "{reports:?}");
    let (refused, reports) = poll(&cursor.expect("a good line stands first")).await;
    assert!(matches!(refused, Err(PollError::Refused(words)) if words.contains("`eaten`")) && reports.is_empty());
}

#[test]
fn all_three_examples_are_listed_before_and_after_they_are_loaded() {
    let place = Place::new();
    place.drop_file(&rust_example("postwarm-plugin-example-smtp-rust"));
    place.drop_file(&rust_example("postwarm-plugin-example-csv-loop"));
    place.drop_file(&c_example(place.folder.path()));
    place.settle();
    let listed = || {
        let external = place.registry.list().into_iter().filter(|status| status.file.is_some());
        let mut ids: Vec<_> = external.map(|status| (status.id.expect("all are plugins"), status.state)).collect();
        ids.sort_by(|one, other| one.0.cmp(&other.0));
        ids
    };
    let expect =
        |c| vec![("example-c".to_owned(), c), ("example-csv".into(), State::Available), ("example-relay".into(), State::Available)];
    assert_eq!(listed(), expect(State::Available));
    place.registry.resolve_smtp("example-c").expect("it loads");
    assert_eq!(listed(), expect(State::Loaded));
}
