//! The health database holds nothing that the event log does not: deleted and replayed, it answers the same.

use crate::harness::{Postwarm, Site, until};
use crate::tidy::root;
use serde_json::{Map, Value, json};

/// Times of checking are of the process, not of the log.
const CHECKED: [&str; 3] = ["checked_at", "last_check_at", "next_check_at"];
/// Mailbox provider, its domain, recipients there, and what the demo's loop of that domain can tell.
const PROVIDERS: [(&str, &str, usize, &[&str]); 5] = [
    ("gmail", "gmail.com", 50, &[]),
    ("yahoo", "yahoo.com", 60, &["spam", "bounced"]),
    ("outlook", "outlook.com", 50, &["spam", "bounced"]),
    ("apple", "icloud.com", 20, &["bounced"]),
    ("other", "y.example", 70, &["delivered", "spam", "opened", "read", "bounced"]),
];
const EMAILS: [&str; 3] = ["One", "Two", "Three"];

/// The demo as it is shipped, but for its sender, a faster poll, and mailboxes that complain and bounce more often.
fn demo() -> Site {
    let mut text = std::fs::read_to_string(root().join("config/organizations/demo.toml")).unwrap();
    for (from, to) in [
        ("yourdomain.com", "acme.example"),
        ("interval = \"1s\"", "interval = \"200ms\""),
        ("seed = 1", "seed = 1, spam_percent = 20, bounce_percent = 10"),
    ] {
        assert!(text.contains(from), "{from} is in the demo");
        text = text.replace(from, to);
    }
    let site = Site::new();
    site.organization("demo", &text);
    site
}

/// What the mailboxes did with an email, as far as their loops can tell.
fn expected(site: &Site, email: i64) -> Value {
    let text = std::fs::read_to_string(site.data().join("sandbox/mailboxes.ndjson")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let id = format!("{email}.");
    let figures = PROVIDERS.map(|(provider, domain, recipients, tells)| {
        let here: Vec<&Value> = rows.iter().filter(|row| row["recipient_domain"] == domain).collect();
        // A mailbox that refuses does so before it sees a Message-ID, and refuses each email.
        let refused = here.iter().filter(|row| row["rejected"] == true).count() / EMAILS.len();
        let did = |what: &str| {
            here.iter().filter(|row| row["message_id"].as_str().is_some_and(|m| m.starts_with(&id)) && row[what] == true).count()
        };
        let told = |what: &str| tells.contains(&what).then(|| did(what));
        // Who complains has the message.
        let delivered = told("delivered").or(told("spam")).unwrap_or(0);
        let bounced = refused + told("bounced").unwrap_or(0);
        let rest = recipients - delivered - bounced;
        let (pending, unknown) = if tells.is_empty() { (0, rest) } else { (rest, 0) };
        let figures = json!({
            "recipients": recipients, "delivered": delivered, "spam": told("spam"), "opened": told("opened"), "read": told("read"),
            "bounced": bounced, "suppressed": 0, "pending": pending, "unknown": unknown
        });
        (provider.to_owned(), figures)
    });
    Value::Object(Map::from_iter(figures))
}

/// Waits until the figures of every email are what the mailboxes did, and every loop has looked since the start: what none has looked for
/// is not 0.
async fn settled(postwarm: &Postwarm, site: &Site, emails: &[i64]) {
    for &email in emails {
        let expected = expected(site, email);
        until(&format!("email {email} to equal what the mailboxes did"), async || {
            let (_, stats) = postwarm.get(&format!("/mail_stats?email_id={email}")).await;
            let equal = stats["by_provider"] == expected && stats["recipients"] == 250;
            (equal.then_some(()), json!({"figures": stats, "mailboxes": expected}))
        })
        .await;
    }
    until("every loop to be asked", async || {
        let (_, domains) = postwarm.get("/domains").await;
        let asked = domains.as_array().unwrap().iter().all(|domain| domain["can_tell"] == json!([]) || domain["checked_at"].is_string());
        (asked.then_some(()), domains)
    })
    .await;
}

fn without_times(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.iter_mut().filter(|(key, _)| CHECKED.contains(&key.as_str())).for_each(|(_, time)| *time = Value::Null);
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(without_times),
        Value::Array(items) => items.iter_mut().for_each(without_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The paths of all figures: of each email, of all, of the domains, and of every delivery of the first email.
async fn paths(postwarm: &Postwarm, emails: &[i64]) -> Vec<String> {
    let mut paths: Vec<String> = emails.iter().map(|email| format!("/mail_stats?email_id={email}")).collect();
    paths.extend(["/all_mail_stats".to_owned(), "/domains".to_owned()]);
    let (_, rows) = postwarm.get(&format!("/emails/{}/deliveries", emails[0])).await;
    let ids = rows.as_array().unwrap().iter().map(|row| row["message_id"].as_str().unwrap().to_owned());
    paths.extend(ids.map(|id| format!("/mail_stats?mail_id={}", id.trim_matches(['<', '>']))));
    paths
}

/// Every answer as text: octet for octet but for the times of checking.
async fn answers(postwarm: &Postwarm, paths: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        let (status, mut body) = postwarm.get(path).await;
        without_times(&mut body);
        found.push(format!("{path} {status} {body}"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_health_database_is_replayed_from_the_log_with_the_same_answers() {
    let site = demo();
    let postwarm = site.serve();
    for (_, domain, recipients, _) in PROVIDERS {
        postwarm.import(recipients, domain).await;
    }
    let mut emails = Vec::new();
    for subject in EMAILS {
        emails.push(postwarm.send(subject).await);
    }
    for &email in &emails {
        postwarm.counts_when(email, |c| c["sent"].as_i64().unwrap() + c["failed"].as_i64().unwrap() == 250).await;
    }
    settled(&postwarm, &site, &emails).await;
    assert_eq!(postwarm.terminate(), Some(0));

    let postwarm = site.serve();
    settled(&postwarm, &site, &emails).await;
    let paths = paths(&postwarm, &emails).await;
    let before = answers(&postwarm, &paths).await;
    assert!(before.iter().all(|answer| answer.contains(" 200 ")), "{before:#?}");
    for kind in ["delivered", "spam", "opened", "read", "bounced"] {
        assert!(before.iter().any(|answer| answer.contains(&format!("\"kind\":\"{kind}\""))), "no delivery shows {kind}: {before:#?}");
    }
    assert_eq!(postwarm.terminate(), Some(0));

    let files = std::fs::read_dir(site.data()).unwrap().map(|entry| entry.unwrap().path());
    let deleted: Vec<_> = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("health.db")).collect();
    assert!(!deleted.is_empty());
    deleted.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let postwarm = site.serve();
    let after = until("the log to be replayed", async || {
        let after = answers(&postwarm, &paths).await;
        ((after == before).then(|| after.clone()), json!({"before": before, "after": after}))
    })
    .await;
    assert_eq!(after, before);
    settled(&postwarm, &site, &emails).await;
}
