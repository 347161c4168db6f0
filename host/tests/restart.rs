//! A stop and a kill in the middle of a broadcast: nothing is lost, nothing falsely accepted, every doubt is listed.

use crate::harness::{Postwarm, Site, until};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::{Action, Gate, Script, Step};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The size of the issue is 20,000; a debug build and a busy machine get a tenth of it unless asked.
fn recipients() -> usize {
    std::env::var("POSTWARM_TEST_RECIPIENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

async fn site(sink: &Sink) -> Site {
    site_with(sink, 10)
}

fn site_with(sink: &Sink, connections: usize) -> Site {
    Site::with_organization(&format!(
        "[[smtp]]\nname = \"sink\"\nplugin = \"smtp\"\nsettings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\nlimits = {{ connections = {connections} }}\n",
        sink.addr.port()
    ))
}

/// How often the sink accepted mail for each recipient.
fn accepted(sink: &Sink) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    for recipient in sink.journal().accepted() {
        *found.entry(recipient).or_insert(0) += 1;
    }
    found
}

async fn half_way(postwarm: &Postwarm, email: i64, count: usize) {
    until("the first messages", async || {
        let (_, body) = postwarm.get(&format!("/emails/{email}")).await;
        ((body["counts"]["sent"].as_u64().unwrap() as usize > count / 10).then_some(()), body)
    })
    .await;
}

async fn listed(postwarm: &Postwarm, email: i64, state: &str) -> Vec<String> {
    let (status, rows) = postwarm.get(&format!("/emails/{email}/deliveries?state={state}")).await;
    assert_eq!(status, 200);
    rows.as_array().unwrap().iter().map(|row| row["recipient"].as_str().unwrap().to_owned()).collect()
}

fn is_over(counts: &Value) -> bool {
    ["queued", "sending", "deferred"].iter().all(|state| counts[state] == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_the_broadcast_goes_on_and_nobody_is_written_to_twice() {
    let sink = Sink::start(Script::default()).await;
    let site = site(&sink).await;
    let count = recipients();
    let postwarm = site.serve();
    postwarm.import(count, "x.example").await;
    let email = postwarm.send("Hello").await;
    half_way(&postwarm, email, count).await;
    assert_eq!(postwarm.terminate(), Some(0));
    let postwarm = site.serve();
    let counts = postwarm.counts_when(email, is_over).await;
    assert_eq!((counts["sent"].as_u64(), counts["unknown"].as_u64()), (Some(count as u64), Some(0)), "{counts}");
    let accepted = accepted(&sink);
    assert_eq!(accepted.len(), count, "nobody is lost");
    assert!(accepted.values().all(|times| *times == 1), "nobody twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_sends_nothing_and_leaves_no_row_in_doubt() {
    let sink = Sink::start(Script::default()).await;
    let site = site(&sink).await;
    let held = "limits = { windows = [{ messages = 1, per = \"1h\" }] }\n";
    let organization = std::fs::read_to_string(site.config().join("organizations/demo.toml")).unwrap();
    site.organization("demo", &format!("{held}{organization}"));
    let postwarm = site.serve();
    postwarm.import(200, "x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["sent"] == 1).await;
    assert_eq!(postwarm.terminate(), Some(0));

    // 199 are due at once in what follows.
    site.organization("demo", &organization);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let process = std::fs::read_to_string(site.config().join("postwarm.toml")).unwrap();
    site.write("postwarm.toml", &process.replace("[health]\nlisten = \"127.0.0.1:0\"", &format!("[health]\nlisten = \"{address}\"")));
    for _ in 0..3 {
        let output = site.command(&["serve"]).arg("--data").arg(site.data()).output().unwrap();
        assert_eq!(output.status.code(), Some(69));
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains(&address.to_string()), "{words}");
    }
    assert_eq!(sink.journal().accepted().len(), 1, "nothing was sent");
    drop(taken);
    let postwarm = site.serve();
    let counts = postwarm.counts_when(email, is_over).await;
    assert_eq!((counts["sent"].as_u64(), counts["unknown"].as_u64()), (Some(200), Some(0)), "{counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_nothing_is_lost_nothing_falsely_accepted_and_every_doubt_is_listed() {
    let sink = Sink::start(Script::default()).await;
    let site = site(&sink).await;
    let count = recipients();
    let postwarm = site.serve();
    postwarm.import(count, "x.example").await;
    let email = postwarm.send("Hello").await;
    half_way(&postwarm, email, count).await;
    postwarm.kill();
    let postwarm = site.serve();
    let counts = postwarm.counts_when(email, is_over).await;
    let accepted = accepted(&sink);
    let unknown = listed(&postwarm, email, "unknown").await;
    assert_eq!(unknown.len() as u64, counts["unknown"].as_u64().unwrap());
    for recipient in listed(&postwarm, email, "sent").await {
        assert_eq!(accepted.get(&recipient), Some(&1), "{recipient} is shown as sent");
    }
    assert_eq!(counts["sent"].as_u64().unwrap() + counts["unknown"].as_u64().unwrap(), count as u64, "{counts}");
    let missing = (0..count).map(|n| format!("user{n}@x.example")).filter(|r| !accepted.contains_key(r));
    for recipient in missing {
        assert!(unknown.contains(&recipient), "{recipient} was not accepted and is not listed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_doubts_only_the_messages_whose_final_dot_had_no_reply() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().on(Step::EndOfData, Action::Hold(gate.clone()).accept_then())).await;
    let (connections, count) = (4, 40);
    let site = site_with(&sink, connections);
    site.append("[delivery]\ndrain_max = \"500ms\"");
    let postwarm = site.serve();
    postwarm.import(count, "x.example").await;
    let email = postwarm.send("Hello").await;
    gate.holds(connections).await;
    // Behind each of them an envelope is on the wire, and a message waits.
    postwarm.counts_when(email, |counts| counts["sending"].as_u64().unwrap() as usize >= 3 * connections).await;
    assert_eq!(postwarm.terminate(), Some(0));
    gate.open();
    let postwarm = site.serve();
    let counts = postwarm.counts_when(email, is_over).await;
    let doubts = connections as u64;
    assert_eq!((counts["sent"].as_u64(), counts["unknown"].as_u64()), (Some(count as u64 - doubts), Some(doubts)), "{counts}");
    assert!(accepted(&sink).values().all(|times| *times == 1), "nobody twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_message_waits_for_its_reply_the_probes_tell_of_draining_and_nothing_else_is_answered() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().on(Step::EndOfData, Action::Hold(gate.clone()))).await;
    let site = site(&sink).await;
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["sending"] == 1).await;
    postwarm.begin_termination();
    for base in [&postwarm.warmup, &postwarm.health] {
        let ask = async |path: &str| {
            let answer = postwarm.client.get(format!("{base}{path}")).send().await.unwrap();
            let retry_after = answer.headers().get("retry-after").is_some();
            (answer.status().as_u16(), retry_after, answer.text().await.unwrap())
        };
        // The connections of before are closed as the signal is taken up.
        until("the service to drain", async || {
            let ready = postwarm.client.get(format!("{base}/readyz")).send().await;
            let status = ready.map_or(0, |answer| answer.status().as_u16());
            ((status == 503).then_some(()), json!(status))
        })
        .await;
        let (status, _, ready) = ask("/readyz").await;
        assert!(status == 503 && ready.contains("\"draining\":true"), "{ready}");
        assert_eq!(ask("/livez").await.0, 200);
        let (status, retry_after, problem) = ask(if base == &postwarm.warmup { "/users" } else { "/all_mail_stats" }).await;
        assert!(status == 503 && retry_after && problem.contains("\"code\":\"draining\""), "{problem}");
    }
    gate.open();
    let warmup = postwarm.warmup.clone();
    assert_eq!(postwarm.ended(), Some(0));
    assert!(reqwest::get(format!("{warmup}/livez")).await.is_err(), "the port is closed");
    assert_eq!(accepted(&sink).values().sum::<usize>(), 1);
}
