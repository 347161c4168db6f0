//! Each phase of a session, met with each fault: one line says what became of the message.

use super::*;
use expect_test::expect;
use postwarm_plugin_testkit::sink::script::{Action, Script, Step, Tls};

/// Half a reply, then the end.
fn half() -> Action {
    Action::RawThenClose(b"25".to_vec())
}

fn faults() -> [(&'static str, Action); 9] {
    [
        ("4yz", Action::reply("451 4.3.0 later")),
        ("5yz", Action::reply("550 5.1.1 never")),
        ("421", Action::ReplyThenClose("421 4.3.2 closing".into())),
        ("close", Action::Close),
        ("half", half()),
        ("stall", Action::Stall),
        ("garbage", Action::Raw(b"HTTP/1.1 400 Bad Request\r\n".to_vec())),
        ("999", Action::reply("999 what")),
        ("endless", Action::Endless),
    ]
}

async fn row(step: Step, pipelining: bool) -> String {
    let mut cells = Vec::new();
    for (name, action) in faults() {
        let tls = if step == Step::StartTls { Tls::StartTls } else { Tls::None };
        let script = Script { tls, credentials: Some(("user".into(), "secret".into())), ..Script::default() };
        let sink = Sink::start(script.on(step, action)).await;
        // Only a stall is ended by a deadline; the others must not meet one on a busy machine.
        let limit = if name == "stall" { "150ms" } else { "30s" };
        let deadlines = json!({ "greeting": limit, "mail": limit, "rcpt": limit, "data": limit, "end_of_data": limit });
        let tls = if step == Step::StartTls { "starttls" } else { "none" };
        let more = json!({ "deadlines": deadlines, "pipelining": pipelining, "tls": tls, "allow_insecure_auth": true });
        let settings = settings_with(&sink, more, &[("username", "user"), ("password", "secret")]);
        let client = Client::new(settings, 1, &[]);
        let outcome = client.send(message("a@y.example"), far()).await;
        cells.push(format!("  {name}: {}\n", words(&outcome)));
    }
    format!("{step:?}\n{}", cells.concat())
}

const STEPS: [Step; 8] = [Step::Greeting, Step::Ehlo, Step::StartTls, Step::Auth, Step::Mail, Step::Rcpt, Step::Data, Step::EndOfData];

async fn matrix(pipelining: bool) -> String {
    let rows: Vec<_> = STEPS.into_iter().map(|step| tokio::spawn(row(step, pipelining))).collect();
    let mut table = String::new();
    for row in rows {
        table.push_str(&row.await.unwrap());
    }
    table
}

#[tokio::test]
async fn every_fault_in_every_phase_has_its_outcome() {
    expect![[r#"
        Greeting
          4yz: NotAttempted Session
          5yz: NotAttempted Session
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        Ehlo
          4yz: NotAttempted Session
          5yz: NotAttempted Session
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        StartTls
          4yz: NotAttempted Tls
          5yz: NotAttempted Tls
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        Auth
          4yz: NotAttempted Authenticate
          5yz: NotAttempted Authenticate
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        Mail
          4yz: Deferred Network
          5yz: Rejected Recipient
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        Rcpt
          4yz: Deferred Network
          5yz: Rejected Recipient
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        Data
          4yz: Deferred Network
          5yz: Rejected Recipient
          421: NotAttempted Session
          close: NotAttempted Session
          half: NotAttempted Session
          stall: NotAttempted Session
          garbage: NotAttempted Session
          999: NotAttempted Session
          endless: NotAttempted Session
        EndOfData
          4yz: Deferred Network
          5yz: Rejected Recipient
          421: Deferred Network
          close: Unknown EndOfData
          half: Unknown EndOfData
          stall: Unknown EndOfData
          garbage: Unknown EndOfData
          999: Unknown EndOfData
          endless: Unknown EndOfData
    "#]]
    .assert_eq(&matrix(true).await);
}

#[tokio::test]
async fn without_pipelining_the_outcomes_are_the_same() {
    assert_eq!(matrix(false).await, matrix(true).await);
}
