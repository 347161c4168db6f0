use super::*;
use crate::bus::batch::Batch;
use crate::bus::embedded::EmbeddedLog;
use crate::bus::{Record, contract};
use crate::clock::ManualClock;
use crate::health::sqlite::SqliteLedger;
use crate::health::testing::{accepted, answers, changed, fact, facts, message_id, org};
use crate::model::delivery::State;
use postwarm_plugin_api::FactKind;
use std::path::Path;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

struct Health {
    clock: Arc<ManualClock>,
    log: Arc<EmbeddedLog>,
    ledger: Arc<SqliteLedger>,
    projector: Arc<Projector>,
    stop: CancellationToken,
}

impl Health {
    fn start(folder: &Path) -> Health {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let log = Arc::new(EmbeddedLog::open(folder, WEEK * 100, clock.clone()).unwrap());
        Health::start_with(folder, log, clock)
    }

    fn start_with(folder: &Path, log: Arc<EmbeddedLog>, clock: Arc<ManualClock>) -> Health {
        let ledger = Arc::new(SqliteLedger::open(&folder.join("health.db")).unwrap());
        let projector = Arc::new(Projector::new(log.clone(), ledger.clone(), clock.clone(), WEEK));
        let stop = CancellationToken::new();
        let (running, until) = (projector.clone(), stop.clone());
        tokio::spawn(async move { running.run(until).await });
        Health { clock, log, ledger, projector, stop }
    }

    async fn publish(&self, events: Vec<Event>) {
        self.log.publish(contract::sealed(events.iter().map(wire::encode))).await.unwrap();
        self.settled().await;
    }

    /// Waits until the ledger stands at the end of the log.
    async fn settled(&self) {
        let mut applied = self.projector.applied();
        loop {
            let positions = self.ledger.positions().await.unwrap();
            let mut rest = self.log.consume(&[Topic::Emails, Topic::Recipients, Topic::Facts], &positions).await.unwrap();
            if rest.poll(1, Duration::ZERO).await.unwrap().is_empty() {
                return;
            }
            applied.changed().await.unwrap();
        }
    }
}

fn story() -> Vec<Event> {
    let mut events = vec![accepted(1, 8), accepted(2, 3)];
    events.extend((1..=8).map(|user| changed(1, user, 1, State::Sent)));
    events.extend([changed(2, 1, 1, State::Failed), changed(2, 2, 1, State::Unknown), changed(2, 3, 0, State::Suppressed)]);
    events.push(facts(1, "one", (1..=4).map(|u| fact(message_id(1, u), FactKind::Delivered)).collect()));
    events.push(facts(2, "two", vec![fact(message_id(1, 1), FactKind::Read), fact(message_id(2, 2), FactKind::Spam)]));
    events
}

#[tokio::test]
async fn a_deleted_health_database_is_replayed_to_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::start(folder.path());
    for event in story() {
        health.publish(vec![event]).await;
    }
    let before = answers(&*health.ledger).await;
    health.stop.cancel();
    let Health { clock, log, .. } = health;
    let other = tempfile::tempdir().unwrap();
    let replayed = Health::start_with(other.path(), log, clock);
    replayed.settled().await;
    assert_eq!(answers(&*replayed.ledger).await, before);
    assert_eq!(replayed.ledger.loop_state(&org(), "loop").await.unwrap().cursor, "two");
    replayed.stop.cancel();
}

#[tokio::test]
async fn a_message_is_watched_until_watch_for_has_passed() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::start(folder.path());
    health.publish(story()).await;
    let all: crate::health::store::DomainFilter = Arc::new(|_| true);
    let watched = health.ledger.watched(&org(), all.clone(), 0, 100).await.unwrap();
    assert_eq!(watched.len(), 9, "eight sent and one unknown");
    assert_eq!(watched[0].message_id, message_id(1, 1));
    let rest = health.ledger.watched(&org(), all.clone(), watched[4].position, 2).await.unwrap();
    assert_eq!(rest, watched[5..7]);
    let some = health.ledger.watched(&org(), Arc::new(|d| d == "d1.example"), 0, 100).await.unwrap();
    assert!(!some.is_empty() && some.iter().all(|w| w.domain == "d1.example"));

    health.clock.advance(WEEK);
    let mut applied = health.projector.applied();
    applied.mark_unchanged();
    applied.changed().await.unwrap();
    assert_eq!(health.ledger.watched(&org(), all, 0, 100).await.unwrap(), []);
    let counts = health.ledger.email(&org(), 1).await.unwrap().unwrap();
    let (waiting, expired) = counts.parts.iter().fold((0, 0), |(w, e), p| (w + p.tally.waiting, e + p.tally.expired));
    assert_eq!((waiting, expired), (0, 4), "four of eight had evidence");
    health.stop.cancel();
}

#[tokio::test]
async fn a_shorter_watch_for_is_taken_up_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::start(folder.path());
    health.publish(story()).await;
    health.clock.advance(WEEK / 7);
    let all: crate::health::store::DomainFilter = Arc::new(|_| true);
    assert_eq!(health.ledger.watched(&org(), all.clone(), 0, 100).await.unwrap().len(), 9);
    let mut applied = health.projector.applied();
    applied.mark_unchanged();
    health.projector.set_watch_for(Duration::from_secs(3600));
    applied.changed().await.unwrap();
    assert_eq!(health.ledger.watched(&org(), all, 0, 100).await.unwrap(), []);
    health.stop.cancel();
}

/// An event whose payload is another.
fn with_payload(event: &Event, change: impl Fn(&str) -> String) -> Batch {
    let batch = wire::encode(event);
    let record = batch.records().next().unwrap();
    let payload = change(std::str::from_utf8(record.payload).unwrap());
    let mut changed = Batch::default();
    changed.push(&Record { payload: payload.as_bytes(), ..record });
    changed
}

#[tokio::test]
async fn a_record_that_is_no_event_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::start(folder.path());
    health.log.publish(with_payload(&accepted(1, 1), |_| "not json".to_owned()).seal()).await.unwrap();
    health.publish(vec![accepted(2, 5)]).await;
    assert_eq!(health.ledger.emails(&org(), 0, 10).await.unwrap().len(), 1);
    health.stop.cancel();
}

#[tokio::test]
async fn an_event_of_a_later_schema_stops_the_projector_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::start(folder.path());
    let newer = with_payload(&accepted(1, 1), |payload| payload.replace("\"version\":1", "\"version\":9"));
    health.log.publish(newer.seal()).await.unwrap();
    let said = loop {
        match health.projector.last_error() {
            Some(said) => break said,
            None => tokio::task::yield_now().await,
        }
    };
    assert!(said.contains("schema version 9") && said.contains("newer program"), "{said}");
    health.stop.cancel();
}
