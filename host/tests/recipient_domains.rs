//! Edits of the recipient domains in providers.toml are taken up for domains that had mail before.

use crate::harness::{Postwarm, Site, until};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_seen_before_has_the_limits_of_the_provider_that_lists_it_now_and_loses_them_with_the_listing() {
    let sink = Sink::start(Script::default()).await;
    let settings = format!("settings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\n", sink.addr.port());
    let site = Site::with_organization(&format!("[[smtp]]\nplugin = \"smtp\"\n{settings}"));
    let providers = std::fs::read_to_string(site.config().join("providers.toml")).unwrap();
    let postwarm = site.serve();
    postwarm.import(12, "seen.example").await;
    let before = postwarm.send("Before the listing").await;
    postwarm.counts_when(before, |counts| counts["sent"] == 12).await;

    let provider = "[provider.seen]\ndomains = [\"seen.example\"]\nlimits = { windows = [{ messages = 5, per = \"1h\" }] }\n";
    site.write("providers.toml", &format!("{providers}\n{provider}"));
    let listed = broadcast_until(&postwarm, |body| body["waits_for"].as_str().is_some_and(|words| words.contains("seen"))).await;
    postwarm.counts_when(listed, |counts| counts["sent"] == 5 && counts["queued"] == 7).await;

    site.write("providers.toml", &providers);
    broadcast_until(&postwarm, |body| body["counts"]["sent"] == 12).await;
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

/// Broadcasts again, at most every three seconds, until an email comes to be as wanted; answers its number.
async fn broadcast_until(postwarm: &Postwarm, wanted: impl Fn(&Value) -> bool) -> i64 {
    until("a broadcast to be as wanted", async || {
        let (email, sent_at) = (postwarm.send("Again").await, Instant::now());
        let seen = until("an email to come to rest", async || {
            let (_, body) = postwarm.get(&format!("/emails/{email}")).await;
            let rests = wanted(&body) || body["counts"]["sent"] == 12 || sent_at.elapsed() > Duration::from_secs(3);
            (rests.then(|| body.clone()), body)
        })
        .await;
        (wanted(&seen).then_some(email), seen)
    })
    .await
}
