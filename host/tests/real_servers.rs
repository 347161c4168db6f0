//! Real servers: two processes with Kafka between them, mail to Mailpit, what Mailpit says of it, and Mailpit's chaos.

use crate::harness::kafka::{Event, Kafka};
use crate::harness::mailpit::{Mailpit, recipient};
use crate::harness::{Postwarm, Site, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

const USERS: usize = 2_000;
/// Recipients of a broadcast into chaos: of 500, a fifth is 100 with a standard deviation of 9.
const CHAOS_USERS: usize = 500;

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
    let at: Vec<SystemTime> = own.iter().map(|message| time(&message["Created"])).collect();
    for pair in at.windows(2) {
        let gap = pair[1].duration_since(pair[0]).unwrap();
        assert!(gap.as_millis() >= 999, "{gap:?} between two emails");
    }
    for (email, delivered) in emails.into_iter().zip([1, 1, USERS + 1]) {
        let stats = pair.health.stats_when(email, |stats| stats["delivered"] == json!(delivered)).await;
        assert_eq!(stats["recipients"], json!(delivered), "{stats}");
    }
}

fn time(text: &Value) -> SystemTime {
    humantime::parse_rfc3339(text.as_str().unwrap()).unwrap()
}

async fn deliveries(postwarm: &Postwarm, email: i64) -> Vec<Value> {
    let (status, rows) = postwarm.get(&format!("/emails/{email}/deliveries")).await;
    assert_eq!(status, 200, "{rows}");
    rows.as_array().unwrap().clone()
}

/// A broadcast to `CHAOS_USERS` users through a Mailpit that refuses a fifth of all RCPT with `code`.
async fn into_chaos(mailpit: &Mailpit, code: u16, retry: &str) -> (Site, Postwarm, i64) {
    let site = Site::new();
    site.organization("demo", &format!("{}{retry}", mailpit.organization()));
    let postwarm = site.serve();
    postwarm.import(CHAOS_USERS, "x.example").await;
    mailpit.refuse_recipients(code, 20).await;
    let email = postwarm.send("Hello").await;
    (site, postwarm, email)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_for_now_is_tried_again_by_the_schedule_until_the_mail_is_accepted() {
    let test = "who_is_refused_for_now_is_tried_again_by_the_schedule_until_the_mail_is_accepted";
    let Some(mailpit) = Mailpit::start(test).await else { return };
    let waits = [2, 3].map(Duration::from_secs);
    let (_site, postwarm, email) = into_chaos(&mailpit, 451, "[retry]\nschedule = [\"2s\", \"3s\"]\njitter = 0.0\n").await;
    let deferred = until("somebody who waits", async || {
        let (_, rows) = postwarm.get(&format!("/emails/{email}/deliveries?state=deferred")).await;
        (rows.get(0).cloned(), rows)
    })
    .await;
    assert!(deferred["reply"].as_str().unwrap().starts_with("451"), "{deferred}");
    assert!(time(&deferred["next_at"]) >= time(&deferred["queued_at"]) + waits[0], "{deferred}");

    postwarm.counts_when(email, |counts| counts["sent"].as_u64() == Some(CHAOS_USERS as u64)).await;
    let rows = deliveries(&postwarm, email).await;
    assert_eq!(rows.len(), CHAOS_USERS);
    for row in &rows {
        let retries = row["attempts"].as_u64().unwrap() as usize - 1;
        let least: Duration = (0..retries).map(|n| waits[n.min(waits.len() - 1)]).sum();
        let took = time(&row["finished_at"]).duration_since(time(&row["queued_at"])).unwrap();
        assert!(took >= least, "{retries} retries take {least:?} at least: {row}");
    }
    let again = rows.iter().filter(|row| row["attempts"].as_u64() > Some(1)).count();
    assert!((50..=150).contains(&again), "{again} of {CHAOS_USERS} were tried again");
    let users: Vec<String> = mailpit.messages().await.iter().map(recipient).collect();
    assert_eq!(users.len(), CHAOS_USERS, "nobody twice");
    assert_eq!(users.into_iter().collect::<BTreeSet<_>>().len(), CHAOS_USERS, "nobody is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_for_good_failed_with_the_reply_and_the_others_got_their_mail() {
    let test = "who_is_refused_for_good_failed_with_the_reply_and_the_others_got_their_mail";
    let Some(mailpit) = Mailpit::start(test).await else { return };
    let (_site, postwarm, email) = into_chaos(&mailpit, 550, "").await;
    let number = |counts: &Value, state: &str| counts[state].as_u64().unwrap();
    let is_over = |counts: &Value| number(counts, "sent") + number(counts, "failed") == CHAOS_USERS as u64;
    let counts = postwarm.counts_when(email, is_over).await;
    let (sent, failed) = (number(&counts, "sent"), number(&counts, "failed"));
    assert!((50..=150).contains(&failed), "{counts}");

    let in_state = |rows: &[Value], state: &str| -> BTreeSet<String> {
        rows.iter().filter(|row| row["state"] == state).map(|row| row["recipient"].as_str().unwrap().to_owned()).collect()
    };
    let rows = deliveries(&postwarm, email).await;
    assert_eq!((in_state(&rows, "sent").len() as u64, in_state(&rows, "failed").len() as u64), (sent, failed));
    for row in rows.iter().filter(|row| row["state"] == "failed") {
        assert!(row["reply"].as_str().unwrap().starts_with("550"), "{row}");
        assert_eq!((&row["attempts"], row["finished_at"].is_string()), (&json!(1), true), "{row}");
    }
    let messages = mailpit.messages().await;
    assert_eq!(messages.len() as u64, sent);
    assert_eq!(messages.iter().map(recipient).collect::<BTreeSet<_>>(), in_state(&rows, "sent"));
    let stats = postwarm.stats_when(email, |stats| stats["delivered"] == json!(sent)).await;
    assert_eq!((&stats["bounced"], &stats["recipients"], &stats["pending"]), (&json!(failed), &json!(CHAOS_USERS), &json!(0)), "{stats}");
}
