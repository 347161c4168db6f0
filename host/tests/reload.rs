//! A running service takes up edits of its TOML files, and keeps what ran where an edit is wrong.

use crate::harness::{Postwarm, Site, until};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::Value;
use std::time::{Duration, Instant};

fn settings(sink: &Sink) -> String {
    format!("settings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\n", sink.addr.port())
}

const ORGANIZATION: &str = "from_domains = [\"acme.example\"]\ndevelopment = true\n";

fn append(site: &Site, file: &str, text: &str) {
    let path = site.config().join(file);
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, before + text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_smtp_provider_and_a_new_recipient_domain_need_toml_alone_and_no_restart() {
    let (old, new) = (Sink::start(Script::default()).await, Sink::start(Script::default()).await);
    let site = Site::with_organization(&format!("[[smtp]]\nname = \"old\"\nplugin = \"smtp\"\n{}", settings(&old)));
    let postwarm = site.serve();
    postwarm.register("probe@x.example").await;
    let email = postwarm.send("Before").await;
    postwarm.counts_when(email, |counts| counts["sent"] == 1).await;
    assert_eq!(old.journal().accepted().len(), 1);

    let provider = "[provider.mymail]\ndomains = [\"mymail.example\"]\nlimits = { windows = [{ messages = 5, per = \"10m\" }] }\n";
    append(&site, "providers.toml", &format!("\n[preset.my-relay]\nplugin = \"smtp\"\n{}{provider}", settings(&new)));
    site.organization("demo", &format!("{ORGANIZATION}[[smtp]]\npreset = \"my-relay\"\n"));
    let edited_at = Instant::now();
    until("the new provider to be used", async || {
        let email = postwarm.send("Probe").await;
        postwarm.counts_when(email, |counts| counts["sent"] == 1).await;
        ((!new.journal().accepted().is_empty()).then_some(()), Value::Null)
    })
    .await;
    assert!(edited_at.elapsed() < TAKEN_UP_MAX, "the edit was taken up after {:?}", edited_at.elapsed());

    postwarm.import(12, "mymail.example").await;
    postwarm.import(12, "other.example").await;
    let email = postwarm.send("After").await;
    postwarm.counts_when(email, |counts| counts["sent"] == 18 && counts["queued"] == 7).await;
    let accepted = new.journal().accepted();
    assert_eq!(accepted.iter().filter(|to| to.ends_with("@mymail.example")).count(), 5, "the limit of the new domain holds");
    assert_eq!(accepted.iter().filter(|to| to.ends_with("@other.example")).count(), 12);
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

/// Broken files, each with the place and the words of its error, after `FILE:`.
const BROKEN: [(&str, &str, &str); 10] = [
    ("organizations/demo.toml", "from_domains = [\"acme.example\"\n", "1:31: no valid TOML: unclosed array; expected `]`"),
    ("organizations/demo.toml", "from_domains = 7\ndevelopment = true\n", "1:16: `from_domains` is a number"),
    ("organizations/demo.toml", "developmnt = true\n", "1:1: `developmnt` is no key of the file; did you mean `development`?"),
    (
        "organizations/demo.toml",
        "from_domains = [\"acme.example\"]\ndevelopment = true\n[[smtp]]\nplugin = \"smpt\"\n",
        "4:10: there is no SMTP client plugin `smpt`; did you mean `smtp`?",
    ),
    (
        "organizations/demo.toml",
        "from_domains = [\"acme.example\"]\ndevelopment = true\n[[smtp]]\npreset = \"gmial\"\n",
        "4:10: there is no preset `gmial` in providers.toml; did you mean `gmail`?",
    ),
    (
        "organizations/demo.toml",
        "from_domains = [\"acme.example\"]\ndevelopment = true\n[[smtp]]\nplugin = \"smtp\"\nsettings = { host = \"h\", port = 99999 }\n",
        "5:33: `settings.port` ",
    ),
    (
        "organizations/demo.toml",
        "from_domains = [\"acme.example\"]\ndevelopment = true\nlimits = { per_second = 5, windows = [{ messages = 7, per = \"1s\" }] }\n",
        "3:39: a second limit for the same window of 1s; keep one of them",
    ),
    (
        "providers.toml",
        "[provider.two]\ndomains = [\"a.example\"]\n[provider.three]\ndomains = [\"A.example\"]\n",
        "4:12: `a.example` already belongs to [provider.two] at ",
    ),
    ("postwarm.toml", "[warmup]\nlisen = \"127.0.0.1:0\"\n", "2:1: `lisen` is no key of [warmup]; did you mean `listen`?"),
    ("organizations/demo.keys", "nonsense\n", "1:1: is no line of a keys file; remove it, and make a key with `postwarm key new`"),
];

/// What a probe says of the configuration.
async fn said(postwarm: &Postwarm, base: &str) -> (bool, String) {
    let answer = postwarm.client.get(format!("{base}/readyz?verbose")).send().await.unwrap();
    let ready = answer.status() == 200;
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let check = body["checks"].as_array().unwrap().iter().find(|check| check["name"] == "configuration").unwrap();
    (ready, check["detail"].as_str().unwrap_or_default().to_owned())
}

/// The promise is two seconds; the rest is for a machine that runs all other tests at the same time.
const TAKEN_UP_MAX: Duration = Duration::from_millis(2000 + 1000);

#[tokio::test(flavor = "multi_thread")]
async fn ten_broken_files_are_each_named_precisely_within_two_seconds_and_change_nothing() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::with_organization(&format!("[[smtp]]\nname = \"old\"\nplugin = \"smtp\"\n{}", settings(&sink)));
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    for (number, (file, text, error)) in BROKEN.into_iter().enumerate() {
        let path = site.config().join(file);
        let wanted = format!("{}:{error}", path.display());
        let before = std::fs::read_to_string(&path).ok();
        std::fs::write(&path, text).unwrap();
        let broken_at = Instant::now();
        for base in [&postwarm.warmup, &postwarm.health] {
            until(&wanted, async || {
                let (ready, detail) = said(&postwarm, base).await;
                assert!(ready, "a broken file makes nothing unready: {detail}");
                (detail.lines().any(|line| line.starts_with(&wanted)).then_some(()), Value::String(detail))
            })
            .await;
        }
        assert!(broken_at.elapsed() < TAKEN_UP_MAX, "{file}: named after {:?}", broken_at.elapsed());
        let checked = site.command(&["check"]).output().unwrap();
        let shown = String::from_utf8(checked.stdout).unwrap();
        assert_eq!(checked.status.code(), Some(78), "{file}: {shown}");
        assert!(shown.lines().any(|line| line.starts_with(&wanted)), "{wanted}: {shown}");
        let email = postwarm.send("As before").await;
        postwarm.counts_when(email, |counts| counts["sent"] == 1).await;
        assert_eq!(sink.journal().accepted(), vec!["somebody@x.example"; number + 1]);
        match before {
            Some(before) => std::fs::write(&path, before).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        until("the repair", async || {
            let (_, detail) = said(&postwarm, &postwarm.warmup).await;
            (detail.is_empty().then_some(()), Value::String(detail))
        })
        .await;
    }
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_corrected_in_its_file_alone_is_used_within_two_seconds() {
    let credentials = Some(("user".to_owned(), "right".to_owned()));
    let sink = Sink::start(Script { credentials, ..Script::default() }).await;
    let site = Site::with_organization(&format!(
        "[[smtp]]\nname = \"relay\"\nplugin = \"smtp\"\nsettings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\", \
         username = \"user\", password = {{ file = \"relay.password\" }}, allow_insecure_auth = true }}\n",
        sink.addr.port()
    ));
    site.write("organizations/relay.password", "wrong\n");
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    let email = postwarm.send("Hello").await;
    until("the refusal of the password", async || {
        let (_, body) = postwarm.get(&format!("/emails/{email}")).await;
        let waits_for = body["waits_for"].as_str().unwrap_or_default().to_owned();
        (waits_for.contains("relay").then_some(()), Value::String(waits_for))
    })
    .await;
    assert!(sink.journal().accepted().is_empty());
    site.write("organizations/relay.password", "right\n");
    let edited_at = Instant::now();
    postwarm.counts_when(email, |counts| counts["sent"] == 1).await;
    assert!(edited_at.elapsed() < TAKEN_UP_MAX, "the edit was taken up after {:?}", edited_at.elapsed());
    assert_eq!(sink.journal().accepted(), ["somebody@x.example"]);
    assert!(!site.log().contains("right"), "a secret in the log: {}", site.log());
}
