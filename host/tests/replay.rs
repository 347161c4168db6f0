//! The health database holds nothing that the event log does not: deleted and replayed, it answers the same.

use crate::harness::{Postwarm, Site, until};
use serde_json::Value;

const SANDBOX: &str = "[[smtp]]\nname = \"sandbox\"\nplugin = \"sandbox\"\nlimits = { connections = 10 }\n\
    [[feedback]]\nplugin = \"sandbox\"\ndomains = [\"*\"]\ninterval = \"200ms\"\n";
/// Times of checking are of the process, not of the log.
const CHECKED: [&str; 3] = ["checked_at", "last_check_at", "next_check_at"];

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

/// Every answer of figures, as text: octet for octet but for the times of checking.
async fn answers(postwarm: &Postwarm, emails: &[i64]) -> Vec<String> {
    let paths = emails.iter().map(|email| format!("/mail_stats?email_id={email}")).chain(["/all_mail_stats".to_owned()]);
    let mut found = Vec::new();
    for path in paths {
        let mut body = postwarm.get(&path).await.1;
        without_times(&mut body);
        found.push(format!("{path} {body}"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_health_database_is_replayed_from_the_log_with_the_same_answers() {
    let site = Site::with_organization(SANDBOX);
    let postwarm = site.serve();
    postwarm.import(120, "y.example").await;
    postwarm.import(80, "x.example").await;
    let mut emails = Vec::new();
    for subject in ["One", "Two", "Three"] {
        let email = postwarm.send(subject).await;
        postwarm.counts_when(email, |c| c["sent"].as_i64().unwrap() + c["failed"].as_i64().unwrap() == 200).await;
        postwarm.stats_when(email, |stats| stats["recipients"] == 200 && stats["pending"] == 0).await;
        emails.push(email);
    }
    assert_eq!(postwarm.terminate(), Some(0));
    // What was on its way to the figures when it stopped is in them now.
    let postwarm = site.serve();
    postwarm.stats_when(emails[2], |stats| stats["pending"] == 0).await;
    let before = answers(&postwarm, &emails).await;
    assert!(before[0].contains("by_provider") && before[0].contains("\"recipients\":200"), "{}", before[0]);
    assert_eq!(postwarm.terminate(), Some(0));
    let files = std::fs::read_dir(site.data()).unwrap().map(|entry| entry.unwrap().path());
    let deleted: Vec<_> = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("health.db")).collect();
    assert!(!deleted.is_empty());
    deleted.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let postwarm = site.serve();
    let after = until("the log to be replayed", async || {
        let after = answers(&postwarm, &emails).await;
        ((after == before).then(|| after.clone()), serde_json::json!({"before": before, "after": after}))
    })
    .await;
    assert_eq!(after, before);
}
