//! One broadcast from its 202 to its end, and all that can be asked about it.

use crate::check::{Change, Evidence, Health, Row, Taken, figures};
use crate::harness::{PATIENCE, Postwarm, Site, until};
use crate::topics::Told;
use postwarm_plugin_testkit::sink::Sink;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long health may take to catch up once all is quiet.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// A site whose organization sends to the sink over ten connections; `more` is added to its file.
pub fn site(sink: &Sink, more: &str) -> Site {
    Site::with_organization(&format!(
        "{more}\n[[smtp]]\nname = \"sink\"\nplugin = \"smtp\"\nlimits = {{ connections = 10 }}\n\
         settings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\n",
        sink.addr.port()
    ))
}

/// One broadcast under way.
pub struct Broadcast {
    pub email: i64,
    promised: Vec<String>,
    /// What REST showed of its deliveries so far.
    seen: BTreeSet<Change>,
}

impl Broadcast {
    /// Registers so many users and broadcasts to them.
    pub async fn begin(postwarm: &Postwarm, recipients: usize) -> Broadcast {
        postwarm.import(recipients, "x.example").await;
        Broadcast::send(postwarm, recipients).await
    }

    /// Broadcasts to the users whom [`Broadcast::begin`] registered.
    pub async fn send(postwarm: &Postwarm, recipients: usize) -> Broadcast {
        Broadcast::send_body(postwarm, recipients, "Hello").await
    }

    /// The same, with this body.
    pub async fn send_body(postwarm: &Postwarm, recipients: usize, body: &str) -> Broadcast {
        Broadcast::send_to(postwarm, (0..recipients).map(|n| format!("user{n}@x.example")).collect(), body).await
    }

    /// Broadcasts this body to the users that are registered, who are `promised`.
    pub async fn send_to(postwarm: &Postwarm, promised: Vec<String>, body: &str) -> Broadcast {
        let email = serde_json::json!({"from": "news@acme.example", "subject": "Hello", "body": body});
        let (status, answer) = postwarm.post("/send", email).await;
        assert_eq!(status, 202, "{answer}");
        Broadcast::accepted(&answer, promised)
    }

    /// What this 202 promised to whom.
    pub fn accepted(answer: &Value, promised: Vec<String>) -> Broadcast {
        Broadcast { email: answer["email_id"].as_i64().unwrap(), promised, seen: BTreeSet::new() }
    }

    /// The rows in this state, or all; what they show is remembered.
    pub async fn look(&mut self, postwarm: &Postwarm, state: Option<&str>) -> Vec<Row> {
        let filter = state.map(|state| format!("&state={state}")).unwrap_or_default();
        let mut path = format!("/emails/{}/deliveries?limit=10000{filter}", self.email);
        let mut rows = Vec::new();
        loop {
            let answer = postwarm.client.get(format!("{}{path}", postwarm.warmup)).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 200, "{path}");
            let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
            let page: Vec<Value> = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            rows.extend(page.iter().map(row));
            let Some(link) = link else { break };
            path = link.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned()).unwrap();
        }
        self.seen.extend(rows.iter().map(Row::change));
        rows
    }

    /// The deliveries that have come to be in doubt since this was asked before.
    pub async fn new_doubts(&mut self, postwarm: &Postwarm) -> Vec<Row> {
        let before = self.seen.clone();
        let mut rows = self.look(postwarm, Some("unknown")).await;
        rows.retain(|row| !before.contains(&row.change()));
        rows
    }

    /// Waits until nothing is left to be sent.
    pub async fn over(&self, postwarm: &Postwarm) {
        let is_over = |counts: &Value| ["queued", "sending", "deferred"].iter().all(|state| counts[state] == 0);
        postwarm.counts_when(self.email, is_over).await;
    }

    /// Waits for its end and for health to catch up.
    pub async fn settle(&mut self, warmup: &Postwarm, health: &Postwarm) -> (Vec<Row>, Option<Health>) {
        self.over(warmup).await;
        let rows = self.look(warmup, None).await;
        let figures = self.health(health, figures(&rows)).await;
        (rows, figures)
    }

    /// Waits for its end and for health to catch up, ends the process, and gathers all that is known. A stop that is not clean is a
    /// panic.
    pub async fn evidence(mut self, postwarm: Postwarm, site: &Site, sinks: &[&Sink]) -> Evidence {
        let (rows, health) = self.settle(&postwarm, &postwarm).await;
        assert_eq!(postwarm.terminate(), Some(0), "the exit code of a stop");
        self.conclude((rows, health), &Told::embedded(site), sinks)
    }

    /// Puts together what was gathered.
    pub fn conclude(self, (rows, health): (Vec<Row>, Option<Health>), told: &Told, sinks: &[&Sink]) -> Evidence {
        let taken = sinks.iter().flat_map(|sink| sink.journal().accepted_messages());
        let taken = taken.map(|(recipient, message_id)| Taken { recipient, message_id });
        Evidence {
            promised: self.promised,
            rows,
            // What has no number of an email belongs to none, and so to each.
            taken: taken.filter(|taken| [self.email, 0].contains(&taken.email())).collect(),
            seen: self.seen,
            events: told.changes.iter().filter(|change| change.email == self.email).cloned().collect(),
            progress: told.progress.iter().filter(|(email, _)| *email == self.email).map(|(_, progress)| progress.clone()).collect(),
            health,
            may_end: Vec::new(),
        }
    }

    /// The figures once they are as wanted, or as they are when patience ends.
    pub async fn health(&self, postwarm: &Postwarm, wanted: Health) -> Option<Health> {
        let began = Instant::now();
        loop {
            let (status, stats) = postwarm.get(&format!("/mail_stats?email_id={}", self.email)).await;
            let figure = |name: &str| stats[name].as_i64().unwrap_or(-1);
            let health = Health {
                recipients: figure("recipients"),
                bounced: figure("bounced"),
                suppressed: figure("suppressed"),
                pending: figure("pending"),
                unknown: figure("unknown"),
            };
            if (status == 200 && health == wanted) || began.elapsed() > CATCH_UP_MAX {
                return Some(health);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn row(row: &Value) -> Row {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    Row {
        recipient: text("recipient"),
        state: text("state"),
        attempts: row["attempts"].as_u64().unwrap(),
        message_id: text("message_id").trim_matches(['<', '>']).to_owned(),
        reply: row["reply"].as_str().map(str::to_owned),
    }
}

/// Waits for something that the sink or the process does; panics when patience ends.
pub async fn within<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, happens).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until the sink has seen the end of every connection.
pub async fn all_closed(sink: &Sink) {
    use postwarm_plugin_testkit::sink::journal::Fact;
    until("every connection to end", async || {
        let entries = sink.journal().entries();
        let count = |fact: &Fact| entries.iter().filter(|entry| entry.fact == *fact).count();
        let (opened, closed) = (count(&Fact::Connected), count(&Fact::Closed));
        ((opened == closed).then_some(()), serde_json::json!({"opened": opened, "closed": closed}))
    })
    .await;
}
