//! Real servers: two processes with Kafka between them, mail to Mailpit, what Mailpit says of it, and Mailpit's chaos.

use crate::harness::kafka::{Event, Kafka};
use crate::harness::mailpit::{Mailpit, recipient};
use crate::harness::{Postwarm, Site, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const USERS: usize = 2_000;

/// A warmup and a health process with data folders of their own.
struct Pair {
    warmup: Postwarm,
    health: Postwarm,
    sites: [Site; 2],
}

fn pair(kafka: &Kafka, organization: &str) -> Pair {
    let site = || {
        let site = kafka.serve_to(Site::new());
        site.organization("demo", organization);
        site
    };
    let sites = [site(), site()];
    Pair { warmup: sites[0].serve_as(&["serve", "warmup"]), health: sites[1].serve_as(&["serve", "health"]), sites }
}

impl Pair {
    /// Both end in order and had nothing to complain about.
    fn end(self) {
        assert_eq!((self.warmup.terminate(), self.health.terminate()), (Some(0), Some(0)));
        for site in &self.sites {
            assert!(!site.log().contains("ERROR"), "{}", site.log());
        }
    }
}

/// The recipients topic, once it holds `count` records with `state`.
async fn recipient_events(kafka: &Kafka, state: &str, count: usize) -> Vec<Event> {
    until("the recipients' events", async || {
        let events = kafka.read(&kafka.recipients).await;
        let found = events.iter().filter(|e| e.payload["state"] == state).count();
        ((found >= count).then_some(events), json!(found))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_real_kafka_and_mailpit_deliver_and_tell_what_became_of_it() {
    let test = "two_processes_with_real_kafka_and_mailpit_deliver_and_tell_what_became_of_it";
    let Some(kafka) = Kafka::find(test) else { return };
    let Some(mailpit) = Mailpit::start(test).await else { return };
    let pace = "[backfill]\nper_recipient = { messages = 1, per = \"1s\" }\n";
    let pair = pair(&kafka, &format!("{}{pace}", mailpit.organization()));
    let earlier = [pair.warmup.send("one").await, pair.warmup.send("two").await];
    pair.warmup.import(USERS, "x.example").await;
    let email = pair.warmup.send("three").await;
    pair.warmup.counts_when(email, |c| c["sent"].as_u64() == Some(USERS as u64)).await;

    let messages = mailpit.messages().await;
    let users: BTreeSet<String> = messages.iter().map(recipient).collect();
    assert_eq!((messages.len(), users.len()), (USERS, USERS), "one message a user");

    let delivered = |stats: &Value| stats["delivered"].as_u64() == Some(USERS as u64);
    let stats = pair.health.stats_when(email, delivered).await;
    assert_eq!((&stats["recipients"], &stats["read"], &stats["pending"]), (&json!(USERS), &json!(0), &json!(0)), "{stats}");
    mailpit.mark_read(&messages[..300]).await;
    let stats = pair.health.stats_when(email, |stats| stats["read"] == 300).await;
    assert!(delivered(&stats), "{stats}");

    let events = recipient_events(&kafka, "sent", USERS).await;
    let ids: BTreeSet<&str> = events.iter().map(|e| e.id.as_str()).collect();
    let keys: BTreeSet<&str> = events.iter().map(|e| e.key.as_str()).collect();
    assert_eq!((events.len(), ids.len(), keys.len()), (USERS, USERS, USERS), "one record a recipient");
    assert!(!events.iter().any(|e| e.payload.to_string().contains("@x.example")), "no address in an event");
    let mut progress: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for event in kafka.read(&kafka.emails).await {
        let number = event.payload["email_id"].as_i64().unwrap();
        progress.entry(number).or_default().push(event.payload["progress"].as_str().unwrap().to_owned());
    }
    assert_eq!(progress[&email], ["accepted", "started", "completed"]);
    assert_eq!(progress.len(), 3, "{progress:?}");

    newcomer(&pair, &mailpit, [earlier[0], earlier[1], email]).await;
    pair.end();
}

/// Registers one more, who gets the earlier emails in order, none sooner than a second after the one before.
async fn newcomer(pair: &Pair, mailpit: &Mailpit, emails: [i64; 3]) {
    pair.warmup.register("late@y.example").await;
    until("the back-fill", async || {
        let (_, user) = pair.warmup.get("/users/late@y.example").await;
        ((user["backfill"]["state"] == "done").then_some(()), user)
    })
    .await;
    let messages = mailpit.messages().await;
    let own: Vec<&Value> = messages.iter().filter(|message| recipient(message) == "late@y.example").collect();
    let subjects: Vec<&str> = own.iter().map(|message| message["Subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["one", "two", "three"]);
    let at: Vec<std::time::SystemTime> =
        own.iter().map(|message| humantime::parse_rfc3339(message["Created"].as_str().unwrap()).unwrap()).collect();
    for pair in at.windows(2) {
        let gap = pair[1].duration_since(pair[0]).unwrap();
        assert!(gap.as_millis() >= 999, "{gap:?} between two emails");
    }
    for (email, delivered) in emails.into_iter().zip([1, 1, USERS + 1]) {
        let stats = pair.health.stats_when(email, |stats| stats["delivered"] == json!(delivered)).await;
        assert_eq!(stats["recipients"], json!(delivered), "{stats}");
    }
}
