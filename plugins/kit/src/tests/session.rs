//! Opening a session: TLS, authentication, and what is never sent in clear.

use super::*;
use expect_test::{Expect, expect};
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::{Action, Gate, Rule, Script, Step, Tls};

fn credentials() -> Option<(String, String)> {
    Some(("user".into(), "secret".into()))
}

const SECRETS: &[(&str, &str)] = &[("username", "user"), ("password", "secret")];

/// A folder with the sink's certificate as a file.
fn ca_file(sink: &Sink) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, sink.ca_pem()).unwrap();
    let name = path.to_str().unwrap().to_owned();
    (folder, name)
}

async fn outcome(sink: &Sink, more: Value, secrets: &[(&str, &str)]) -> Outcome {
    let client = Client::new(settings_with(sink, more, secrets), 1, &[]);
    let outcome = client.send(message("a@y.example"), far()).await;
    client.close(Duration::from_secs(5)).await;
    outcome
}

fn auths(sink: &Sink) -> Vec<(String, bool, bool)> {
    let entries = sink.journal().entries().into_iter();
    entries
        .filter_map(|entry| match entry.fact {
            Fact::Auth { mechanism, accepted, encrypted } => Some((mechanism, accepted, encrypted)),
            _ => None,
        })
        .collect()
}

fn check_detail(outcome: &Outcome, sink: &Sink, expected: Expect) {
    let Outcome::NotAttempted { cause, detail } = outcome else { panic!("{outcome:?}") };
    expected.assert_eq(&format!("{cause:?}: {}", detail.replace(&sink.addr.to_string(), "SINK")));
}

#[tokio::test]
async fn mail_for_a_server_that_does_not_greet_comes_back_within_a_second_and_the_next_waits_for_it() {
    let gate = Gate::closed();
    let sink = Sink::start(Script { rules: vec![Rule::new(Step::Greeting, Action::Hold(gate.clone()))], ..Script::default() }).await;
    let client = client(&sink, 2);
    let began = Instant::now();
    for waiting in [send(&client, "a@y.example"), send(&client, "b@y.example"), send(&client, "c@y.example")] {
        assert_eq!(words(&waiting.await.unwrap()), "NotAttempted Connect");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Slow, not away: who tries it now gets through on the connection that is being made.
    let next = send(&client, "d@y.example");
    while client.queued() == 0 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(words(&next.await.unwrap()), "Accepted");
    client.close(Duration::from_secs(5)).await;
    assert_eq!(sink.journal().accepted(), ["d@y.example"]);
}

#[tokio::test]
async fn starttls_and_implicit_tls_carry_mail_and_credentials() {
    for (tls, name) in [(Tls::StartTls, "starttls"), (Tls::Implicit, "implicit")] {
        let sink = Sink::start(Script { tls, credentials: credentials(), ..Script::default() }).await;
        let (_folder, ca) = ca_file(&sink);
        let outcome = outcome(&sink, json!({ "tls": name, "tls_ca_file": ca }), SECRETS).await;
        assert_eq!(words(&outcome), "Accepted", "{name}: {outcome:?}");
        assert_eq!(auths(&sink), [("PLAIN".to_owned(), true, true)]);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    for (tls, name) in [(Tls::StartTls, "starttls"), (Tls::Implicit, "implicit")] {
        let sink = Sink::start(Script { tls, credentials: credentials(), ..Script::default() }).await;
        let outcome = outcome(&sink, json!({ "tls": name }), SECRETS).await;
        assert_eq!(words(&outcome), "NotAttempted Tls");
        assert_eq!(auths(&sink), []);
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let names = vec!["other.example".to_owned()];
    let sink = Sink::start(Script { tls: Tls::StartTls, certificate_names: names, ..Script::default() }).await;
    let (_folder, ca) = ca_file(&sink);
    assert_eq!(words(&outcome(&sink, json!({ "tls": "starttls", "tls_ca_file": ca }), &[]).await), "NotAttempted Tls");
    let named = json!({ "tls": "starttls", "tls_ca_file": ca, "tls_server_name": "other.example" });
    assert_eq!(words(&outcome(&sink, named, &[]).await), "Accepted");
}

#[tokio::test]
async fn a_server_without_starttls_gets_neither_credentials_nor_mail() {
    let sink = Sink::start(Script { credentials: credentials(), ..Script::default() }).await;
    let outcome = outcome(&sink, json!({ "tls": "starttls" }), SECRETS).await;
    check_detail(&outcome, &sink, expect![[r#"Tls: SINK: the server does not offer STARTTLS; set tls to "implicit" for port 465"#]]);
    assert_eq!(sink.journal().count(|entry| matches!(entry.fact, Fact::Auth { .. } | Fact::Mail(_))), 0);
}

#[tokio::test]
async fn octets_behind_the_reply_to_starttls_are_an_injection() {
    let injected = b"220 go\r\n250-evil.example\r\n250 AUTH PLAIN\r\n".to_vec();
    let script = Script { tls: Tls::StartTls, credentials: credentials(), ..Script::default() };
    let sink = Sink::start(script.on(Step::StartTls, Action::Raw(injected))).await;
    let (_folder, ca) = ca_file(&sink);
    let outcome = outcome(&sink, json!({ "tls": "starttls", "tls_ca_file": ca }), SECRETS).await;
    let expected = expect!["Tls: SINK: the server sent octets behind its reply to STARTTLS, which may be an injection"];
    check_detail(&outcome, &sink, expected);
    assert_eq!(auths(&sink), []);
}

#[tokio::test]
async fn credentials_go_in_clear_only_over_loopback_and_when_allowed() {
    let sink = Sink::start(Script { credentials: credentials(), ..Script::default() }).await;
    let refused = outcome(&sink, json!({}), SECRETS).await;
    assert_eq!(words(&refused), "NotAttempted Authenticate");
    assert_eq!(auths(&sink), []);
    let allowed = outcome(&sink, json!({ "allow_insecure_auth": true }), SECRETS).await;
    assert_eq!(words(&allowed), "Accepted");
}

#[tokio::test]
async fn each_mechanism_authenticates_and_wrong_credentials_are_told() {
    for (auth, mechanism) in [("plain", "PLAIN"), ("login", "LOGIN"), ("xoauth2", "XOAUTH2")] {
        let sink = Sink::start(Script { credentials: credentials(), ..Script::default() }).await;
        let more = json!({ "allow_insecure_auth": true, "auth": auth });
        assert_eq!(words(&outcome(&sink, more.clone(), SECRETS).await), "Accepted", "{auth}");
        let wrong = outcome(&sink, more, &[("username", "user"), ("password", "guess")]).await;
        let expected = expect!["Authenticate: SINK: the credentials were refused: 535 5.7.8 these credentials are wrong"];
        check_detail(&wrong, &sink, expected);
        assert_eq!(auths(&sink), [(mechanism.to_owned(), true, false), (mechanism.to_owned(), false, false)]);
    }
}

#[tokio::test]
async fn a_mechanism_that_is_not_offered_is_not_tried() {
    let sink = Sink::start(Script { credentials: credentials(), auth: "CRAM-MD5".into(), ..Script::default() }).await;
    let outcome = outcome(&sink, json!({ "allow_insecure_auth": true }), SECRETS).await;
    assert_eq!(words(&outcome), "NotAttempted Authenticate");
    assert_eq!(auths(&sink), []);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_every_queued_message_at_once() {
    let sink = Sink::start(Script::default()).await;
    let client = client(&sink, 2);
    drop(sink);
    let sends: Vec<_> = (0..20).map(|nth| send(&client, &format!("u{nth}@y.example"))).collect();
    for one in sends {
        assert_eq!(words(&one.await.unwrap()), "NotAttempted Connect");
    }
}

#[tokio::test]
async fn a_server_with_fewer_connections_than_ours_gets_all_mail_over_those() {
    let script = Script::default();
    let busy = Action::ReplyThenClose("421 4.7.0 too many connections".into());
    let rule = postwarm_plugin_testkit::sink::script::Rule::new(Step::Greeting, busy).skip(1);
    let sink = Sink::start(script.rule(rule)).await;
    let client = client(&sink, 4);
    assert_eq!(words(&send(&client, "first@y.example").await.unwrap()), "Accepted");
    let sends: Vec<_> = (0..40).map(|nth| send(&client, &format!("u{nth}@y.example"))).collect();
    for one in sends {
        assert_eq!(words(&one.await.unwrap()), "Accepted");
    }
}

#[tokio::test]
async fn verify_says_what_is_wrong_and_sends_no_mail() {
    let sink = Sink::start(Script { credentials: credentials(), ..Script::default() }).await;
    let good = Client::new(settings_with(&sink, json!({ "allow_insecure_auth": true }), SECRETS), 1, &[]);
    assert_eq!(good.verify(far()).await, Ok(()));
    let bad = Client::new(settings_with(&sink, json!({}), SECRETS), 1, &[]);
    assert!(bad.verify(far()).await.unwrap_err().contains("without TLS"));
    assert_eq!(sink.journal().count(|entry| matches!(entry.fact, Fact::Mail(_))), 0);
}

#[tokio::test]
async fn a_runtime_that_shuts_down_while_mail_is_queued_ends_and_another_one_may_follow() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().on(Step::Mail, Action::Hold(gate.clone()))).await;
    let client = client(&sink, 1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for _ in 0..9 {
        let client = Arc::clone(&client);
        runtime.spawn(async move { client.send(message("a@y.example"), far()).await });
    }
    while client.queued() == 0 || sink.journal().connections() == 0 {
        tokio::task::yield_now().await;
    }
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(runtime);
        let _ = ended.send(());
    });
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("no worker waits for itself").unwrap();
    gate.open();
    assert_eq!(words(&client.send(message("b@y.example"), far()).await), "Accepted");
}
