//! The client, the server, the file and the loop together, over real SMTP.

use crate::client::SandboxSmtp;
use crate::feedback::SandboxFeedback;
use crate::server::file_path;
use crate::session::Record;
use bytes::Bytes;
use postwarm_plugin_api::{Cause, Fault, Instance, Message, Outcome, SmtpClient, SmtpFactory};
use postwarm_plugin_testkit::conformance::feedback::{Source, feedback_loop};
use postwarm_plugin_testkit::conformance::smtp::smtp_client_with_own_server;
use postwarm_plugin_testkit::instance::instance;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn client(dir: &Path, settings: Value) -> Arc<dyn SmtpClient> {
    SandboxSmtp.create(at(dir, settings)).expect("right settings")
}

fn at(dir: &Path, settings: Value) -> Instance {
    Instance { connections_max: 4, data_dir: dir.to_owned(), ..instance(settings, &[]) }
}

fn message(n: usize, to: &str) -> Message {
    Message {
        delivery: n.to_string().into(),
        envelope_from: "news@sender.example".into(),
        envelope_to: to.into(),
        header: Bytes::from(format!("From: news@sender.example\r\nMessage-ID: <m{n}@sender.example>\r\nSubject: {n}\r\n\r\n")),
        body: Bytes::from_static(b"Hello\r\n.\r\n..\r\nthe end\r\n"),
        eight_bit: false,
        smtputf8: false,
        mark: None,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn records(dir: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(file_path(dir)).expect("the file is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Sends messages to these addresses with as many calls in flight as the client wants.
async fn send_all(client: &Arc<dyn SmtpClient>, addresses: Vec<String>) -> Vec<(String, Outcome)> {
    let (mut running, mut outcomes) = (tokio::task::JoinSet::new(), Vec::new());
    for (n, to) in addresses.into_iter().enumerate() {
        if running.len() == client.in_flight_max() {
            outcomes.push(running.join_next().await.expect("one runs").expect("no panic"));
        }
        let client = Arc::clone(client);
        running.spawn(async move {
            let outcome = client.send(message(n, &to), soon()).await;
            (to, outcome)
        });
    }
    while let Some(outcome) = running.join_next().await {
        outcomes.push(outcome.expect("no panic"));
    }
    outcomes
}

#[tokio::test]
async fn each_outcome_is_in_the_file_and_refusals_blame_the_recipient() {
    let dir = tempfile::tempdir().expect("a folder");
    let client = client(dir.path(), json!({ "reject_percent": 20 }));
    let domains = ["example.com", "gmail.com", "yahoo.com", "outlook.com", "icloud.com"];
    let outcomes = send_all(&client, (0..2_000).map(|n| format!("u{n}@{}", domains[n % 5])).collect()).await;
    let mut accepted = 0;
    for (to, outcome) in &outcomes {
        match outcome {
            Outcome::Accepted(_) => accepted += 1,
            Outcome::Rejected { fault: Fault::Recipient, .. } => {}
            other => panic!("{to}: {other:?}"),
        }
    }
    let records = records(dir.path());
    assert_eq!(records.len(), 2_000);
    assert_eq!(records.iter().filter(|record| !record.verdict.rejected && record.message_id.is_some()).count(), accepted);
    let rejected = 2_000 - accepted;
    assert!((300..500).contains(&rejected), "{rejected} of 2,000 were rejected");
}

#[tokio::test]
async fn the_line_is_in_the_file_before_the_answer_and_a_repeated_message_is_there_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let client = client(dir.path(), json!({ "reject_percent": 0 }));
    for lines in 1..=20 {
        assert!(matches!(client.send(message(7, "alice@example.com"), soon()).await, Outcome::Accepted(_)));
        assert_eq!(records(dir.path()).len(), lines);
    }
}

#[tokio::test]
async fn making_a_client_touches_nothing_and_a_closed_one_takes_no_message() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("sandbox");
    let client = client(&folder, json!({}));
    assert!(!folder.exists());
    assert_eq!(client.verify(soon()).await, Ok(()));
    client.close(Duration::from_secs(1)).await;
    client.close(Duration::from_secs(1)).await;
    let outcome = client.send(message(1, "a@example.com"), soon()).await;
    assert!(matches!(outcome, Outcome::NotAttempted { cause: Cause::Stopping, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let outcome = client(file.path(), json!({})).send(message(1, "a@example.com"), soon()).await;
    let Outcome::NotAttempted { cause: Cause::Connect, detail } = outcome else { panic!("{outcome:?}") };
    assert!(detail.contains(&file.path().display().to_string()), "{detail}");
}

#[test]
fn a_client_outlives_the_runtime_in_which_its_server_began() {
    let dir = tempfile::tempdir().expect("a folder");
    let client = client(dir.path(), json!({ "reject_percent": 0 }));
    for n in 0..2 {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let outcome = runtime.block_on(client.send(message(n, "alice@example.com"), soon()));
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
    assert_eq!(records(dir.path()).len(), 2);
}

#[tokio::test]
async fn clients_of_one_folder_write_whole_lines_side_by_side() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (client(dir.path(), json!({})), client(dir.path(), json!({ "seed": 2 })));
    let addresses = |from: usize| (from..from + 500).map(|n| format!("u{n}@example.com")).collect();
    tokio::join!(send_all(&one, addresses(0)), send_all(&two, addresses(500)));
    assert_eq!(records(dir.path()).len(), 1_000);
}

#[tokio::test]
async fn the_client_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipient = |n: usize| format!("u{n}@example.com");
    smtp_client_with_own_server(&SandboxSmtp, at(dir.path(), json!({ "reject_percent": 0 })), &recipient).await.assert_passed();
}

#[tokio::test]
async fn the_loop_keeps_the_contract() {
    let (dir, empty) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let client = client(dir.path(), json!({ "bounce_percent": 10, "spam_percent": 20 }));
    send_all(&client, (0..300).map(|n| format!("u{n}@example.com")).collect()).await;
    let failing = (at(empty.path(), json!({})), "10".to_owned());
    let source = Source { factory: &SandboxFeedback, instance: at(dir.path(), json!({})), watch: Vec::new(), failing };
    feedback_loop(&source).await.assert_passed();
}
