//! What `/readyz` and the log say of an organization that is broken at the start, of an event log that is away and of a
//! database that cannot be written.

use crate::harness::{Postwarm, Site, until};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::{Action, Gate, Script, Step};
use serde_json::Value;

const DEMO: &str = "[[smtp]]\nname = \"sandbox\"\nplugin = \"sandbox\"\n";

/// The status of `/readyz`, and one check with its condition and detail.
async fn ready(postwarm: &Postwarm, base: &str, name: &str) -> (u16, String, String) {
    let answer = postwarm.client.get(format!("{base}/readyz?verbose")).send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let check = body["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {body}"));
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (status, text("condition"), text("detail"))
}

/// Waits for a check to be in this condition; answers its detail.
async fn when(postwarm: &Postwarm, base: &str, name: &str, wanted: (u16, &str)) -> String {
    until(&format!("{name} to be {wanted:?}"), async || {
        let (status, condition, detail) = ready(postwarm, base, name).await;
        let seen = Value::String(format!("{status} {condition} {detail}"));
        ((status == wanted.0 && condition == wanted.1).then_some(detail), seen)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_that_is_away_is_named_with_the_remedy_costs_no_mail_and_one_line_of_the_log() {
    // Nobody listens where somebody listened a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::with_organization(DEMO).env("KAFKA_BROKERS", &nobody.to_string());
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["queued"] == 0 && counts["sending"] == 0).await;

    let words = until("the relay to have failed", async || {
        let words = when(&postwarm, &postwarm.warmup, "event_log", (200, "degraded")).await;
        (words.contains("is not available").then(|| words.clone()), Value::String(words))
    })
    .await;
    for wanted in [format!("the Kafka broker {nobody} is unreachable"), "the oldest event waits for ".into(), "nothing is lost".into()] {
        assert!(words.contains(&wanted), "`{wanted}`: {words}");
    }
    let words = when(&postwarm, &postwarm.health, "event_log", (200, "degraded")).await;
    assert!(words.contains(&nobody.to_string()) && words.contains("bring the event log back"), "{words}");
    let words = when(&postwarm, &postwarm.health, "projector", (200, "degraded")).await;
    assert!(words.contains("the figures stand still"), "{words}");
    assert_eq!(ready(&postwarm, &postwarm.warmup, "database").await.1, "ok");

    let log = site.log();
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(count("the Kafka broker is unreachable"), 1, "{log}");
    assert_eq!(count("events wait in the outbox"), 1, "{log}");
    assert_eq!(count("the health figures stand still"), 1, "{log}");
    assert!(log.lines().count() < 10, "the log is flooded: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_is_broken_at_the_start_stops_no_other_and_comes_up_when_it_is_mended() {
    const ACME: &str = "from_domains = [\"acme.example\"]\n";
    let site = Site::with_organization(DEMO);
    site.append("[organizations]\ndefault = \"demo\"");
    site.organization("acme", &format!("{ACME}{DEMO}"));
    let made = site.command(&["key", "new", "acme"]).output().unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    site.organization("acme", &format!("{ACME}[[smtp]]\nplugin = \"sandbx\"\n"));
    let postwarm = site.serve();
    let wanted = format!("{}:3:10: there is no SMTP client plugin `sandbx`", site.config().join("organizations/acme.toml").display());
    for base in [&postwarm.warmup, &postwarm.health] {
        let (status, condition, detail) = ready(&postwarm, base, "configuration").await;
        assert_eq!((status, condition.as_str()), (200, "degraded"));
        assert!(detail.starts_with(&wanted) && detail.contains("did you mean `sandbox`?"), "{detail}");
        let metrics = postwarm.client.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("postwarm_config_problems 1"), "{metrics}");
    }
    let log = site.log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(&wanted)), "{log}");
    assert_eq!(site.command(&["check"]).output().unwrap().status.code(), Some(78));
    let acme = async || postwarm.client.get(format!("{}/users", postwarm.warmup)).bearer_auth(&key).send().await.unwrap().status().as_u16();
    assert_eq!(acme().await, 503);
    postwarm.register("somebody@x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["queued"] == 0 && counts["sending"] == 0).await;

    site.organization("acme", &format!("{ACME}{DEMO}"));
    for base in [&postwarm.warmup, &postwarm.health] {
        when(&postwarm, base, "configuration", (200, "ok")).await;
    }
    assert_eq!(acme().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_of_an_organization_that_is_broken_at_the_start_waits_and_goes_out_once_it_is_mended() {
    let sink = Sink::start(Script::default()).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let acme = |port: u16| {
        let smtp = format!("[[smtp]]\nplugin = \"smtp\"\nsettings = {{ host = \"127.0.0.1\", port = {port}, tls = \"none\" }}\n");
        format!("from_domains = [\"acme.example\"]\ndevelopment = true\n{smtp}")
    };
    let site = Site::with_organization(DEMO);
    site.append("[organizations]\ndefault = \"acme\"");
    site.organization("acme", &acme(nobody.port()));
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["queued"] == 1).await;
    assert_eq!(postwarm.terminate(), Some(0));

    site.organization("acme", &acme(sink.addr.port()).replace("from_domains", "from_domain"));
    let postwarm = site.serve();
    let (status, _, detail) = ready(&postwarm, &postwarm.warmup, "configuration").await;
    assert!(status == 200 && detail.contains("acme.toml:1:1: "), "{detail}");
    assert_eq!(postwarm.get("/users").await.0, 401, "nobody is meant without a key, not even demo");
    assert!(sink.journal().accepted().is_empty());
    site.organization("acme", &acme(sink.addr.port()));
    when(&postwarm, &postwarm.warmup, "configuration", (200, "ok")).await;
    postwarm.counts_when(email, |counts| counts["sent"] == 1).await;
    assert_eq!(sink.journal().accepted(), ["somebody@x.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_an_organization_that_is_broken_at_the_start_after_a_kill_have_counted_what_it_sent() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().on(Step::EndOfData, Action::Hold(gate.clone()))).await;
    let smtp = format!("plugin = \"smtp\"\nsettings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\n", sink.addr.port());
    let acme = format!(
        "from_domains = [\"acme.example\"]\ndevelopment = true\nlimits = {{ per_day = 4 }}\n[[smtp]]\nname = \"relay\"\nshare = \"account\"\n{smtp}"
    );
    let site = Site::with_organization(DEMO);
    site.append("[shares.account]\nlimits = { per_day = 5 }\n[organizations]\ndefault = \"acme\"");
    site.organization("acme", &acme);
    let postwarm = site.serve();
    postwarm.import(9, "x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["sending"] == 4).await;
    (0..3).for_each(|_| gate.release_one());
    postwarm.counts_when(email, |counts| counts["sent"] == 3 && counts["sending"] == 1).await;
    postwarm.kill();

    site.organization("acme", &acme.replace("from_domains", "from_domain"));
    let postwarm = site.serve();
    assert_eq!(ready(&postwarm, &postwarm.warmup, "configuration").await.1, "degraded");
    let waits = async |cap: &str| {
        when(&postwarm, &postwarm.warmup, "configuration", (200, "ok")).await;
        until(cap, async || {
            let (_, body) = postwarm.get(&format!("/emails/{email}")).await;
            let words = body["waits_for"].as_str().unwrap_or_default();
            (words.contains(cap).then(|| body["counts"].clone()), body.clone())
        })
        .await
    };
    site.organization("acme", &acme);
    let counts = waits("daily cap 4 reached").await;
    assert_eq!((&counts["sent"], &counts["unknown"], &counts["sending"]), (&3.into(), &1.into(), &0.into()), "{counts}");
    // Without its own limit it has one more of the account's five.
    site.organization("acme", &acme.replace("limits = { per_day = 4 }\n", ""));
    postwarm.counts_when(email, |counts| counts["sending"] == 1 && counts["queued"] == 4).await;
    site.organization("acme", &acme.replace("per_day = 4", "per_day = 7"));
    let counts = waits("daily cap 5 reached").await;
    assert_eq!((&counts["queued"], &counts["sending"]), (&4.into(), &1.into()), "{counts}");
    gate.open();
    postwarm.counts_when(email, |counts| counts["sent"] == 4 && counts["queued"] == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_for_a_restart_is_shown_until_it_is_taken_back() {
    let site = Site::with_organization(DEMO);
    let before = std::fs::read_to_string(site.config().join("postwarm.toml")).unwrap();
    let postwarm = site.serve();
    for (section, other) in [("warmup", "127.0.0.1:8080"), ("health", "127.0.0.1:8081")] {
        let (from, to) = (format!("[{section}]\nlisten = \"127.0.0.1:0\""), format!("[{section}]\nlisten = \"{other}\""));
        site.write("postwarm.toml", &before.replace(&from, &to));
        for base in [&postwarm.warmup, &postwarm.health] {
            let words = when(&postwarm, base, "restart", (200, "degraded")).await;
            assert!(words.starts_with("restart needed: ") && words.contains(&format!("[{section}] listen")), "{words}");
        }
        site.write("postwarm.toml", &before);
        when(&postwarm, &postwarm.warmup, "restart", (200, "ok")).await;
        when(&postwarm, &postwarm.health, "restart", (200, "ok")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_makes_warmup_unready_until_it_can() {
    let site = Site::with_organization(DEMO);
    let postwarm = site.serve();
    assert_eq!(ready(&postwarm, &postwarm.warmup, "database").await, (200, "ok".into(), String::new()));
    // Another program that holds the file is the one fault that root cannot write through.
    let holder = rusqlite::Connection::open(site.data().join("warmup.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let body = serde_json::json!({"name": "Somebody", "email_id": "somebody@x.example"});
    let (status, _) = postwarm.post("/register", body).await;
    assert_eq!(status, 503);
    let words = when(&postwarm, &postwarm.warmup, "database", (503, "failing")).await;
    assert!(words.contains("the last write to warmup.db failed: database is locked"), "{words}");
    assert_eq!(ready(&postwarm, &postwarm.health, "database").await, (200, "ok".into(), String::new()), "health has its own");

    holder.execute_batch("ROLLBACK").unwrap();
    when(&postwarm, &postwarm.warmup, "database", (200, "ok")).await;
    postwarm.register("somebody@x.example").await;
}
