//! What a user sees first: the demo organization, its sandbox, and figures that equal what the mailboxes did.

use crate::harness::{Site, until};
use serde_json::{Value, json};

const SANDBOX: &str = r#"
[[smtp]]
name = "sandbox"
plugin = "sandbox"
[[feedback]]
plugin = "sandbox"
domains = ["*"]
interval = "200ms"
"#;

fn mailboxes(site: &Site) -> Vec<Value> {
    let text = std::fs::read_to_string(site.data().join("sandbox/mailboxes.ndjson")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(rows: &[Value], key: &str) -> i64 {
    rows.iter().filter(|row| row[key] == true).count() as i64
}

#[tokio::test]
async fn the_first_mail_is_delivered_within_a_second_and_the_figures_equal_what_the_mailboxes_did() {
    let site = Site::with_organization(SANDBOX);
    let postwarm = site.serve();
    let (status, alice) = postwarm.post("/register", json!({"name": "Alice", "email_id": "alice@example.com"})).await;
    assert_eq!((status, alice["email_id"].as_str()), (201, Some("alice@example.com")));
    assert_eq!(postwarm.post("/register", json!({"name": "Alice", "email_id": "Alice@Example.com"})).await.0, 200);
    for number in 0..40 {
        postwarm.register(&format!("user{number}@example.org")).await;
    }
    let sent_at = std::time::Instant::now();
    let email = postwarm.send("Welcome!").await;
    until("the first mail", async || ((!mailboxes(&site).is_empty()).then_some(()), Value::Null)).await;
    assert!(sent_at.elapsed().as_secs_f64() < 1.0, "the first mail took {:?}", sent_at.elapsed());
    let counts = postwarm.counts_when(email, |c| c["sent"].as_i64().unwrap() + c["failed"].as_i64().unwrap() == 41).await;
    let rows = mailboxes(&site);
    assert_eq!(counts["failed"].as_i64(), Some(count(&rows, "rejected")), "{counts}");
    let bounced = count(&rows, "rejected") + count(&rows, "bounced");
    let settled = |s: &Value| s["delivered"].as_i64() == Some(count(&rows, "delivered") - count(&rows, "bounced")) && s["pending"] == 0;
    let stats = postwarm.stats_when(email, |s| settled(s) || s["pending"] == 0).await;
    assert_eq!(stats["bounced"].as_i64(), Some(bounced), "{stats}");
    for key in ["spam", "opened", "read"] {
        assert_eq!(stats[key].as_i64(), Some(count(&rows, key)), "{key} of {stats}");
    }
    let parts = ["delivered", "bounced", "suppressed", "pending", "unknown"];
    let sum: i64 = parts.iter().map(|key| stats[key].as_i64().unwrap()).sum();
    assert_eq!(Some(sum), stats["recipients"].as_i64(), "{stats}");
    assert_eq!(postwarm.get("/emailIds").await.1.as_array().unwrap().len(), 41);
    assert_eq!(postwarm.get("/users").await.1[0]["name"], "Alice");
    assert_eq!(postwarm.get("/all_mail_stats").await.1["1"]["email_id"], 1);
    assert_eq!(postwarm.get("/mail_stats?email_id=99").await.0, 404);
    assert_eq!(postwarm.terminate(), Some(0));
}

#[tokio::test]
async fn a_newcomer_gets_the_earlier_emails_in_order() {
    let site = Site::with_organization(&format!("{SANDBOX}[backfill]\nper_recipient = {{ messages = 1, per = \"300ms\" }}\n"));
    let postwarm = site.serve();
    for subject in ["one", "two", "three"] {
        postwarm.send(subject).await;
    }
    postwarm.register("late@example.com").await;
    until("the back-fill", async || {
        let (_, user) = postwarm.get("/users/late@example.com").await;
        ((user["backfill"]["state"] == "done").then_some(()), user)
    })
    .await;
    let ids: Vec<String> = mailboxes(&site)
        .iter()
        .filter_map(|row| Some(row["message_id"].as_str()?.split('.').next()?.trim_start_matches('<').to_owned()))
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);
    for email in 1..=3 {
        assert_eq!(postwarm.get(&format!("/emails/{email}")).await.1["recipients"], 1, "email {email}");
    }
}
