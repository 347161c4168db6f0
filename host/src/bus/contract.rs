//! What every event log must do, as cases that each adapter's tests run over a fresh log.

use crate::bus::batch::Batch;
use crate::bus::sealed::Sealed;
use crate::bus::{Consumed, Consumer, EventLog, Outgoing, Position, Record, Topic};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

type Log = Arc<dyn EventLog>;
type Case = fn(Log) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Each case gets a log of its own.
pub const CASES: &[Case] = &[
    |log| Box::pin(records_of_a_key_come_back_in_order(log)),
    |log| Box::pin(a_consumer_goes_on_where_its_positions_say(log)),
    |log| Box::pin(a_waiting_consumer_wakes_when_a_record_is_published(log)),
    |log| Box::pin(topics_stay_apart(log)),
    |log| Box::pin(an_empty_log_answers_nothing_after_the_wait(log)),
    |log| Box::pin(an_empty_publish_is_no_error(log)),
];

/// Long enough for a broker to make topics.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn record(topic: Topic, key: &str, number: i64) -> Batch {
    let (id, payload) = (format!("{key}/{number}"), format!("{key} {number}"));
    let mut batch = Batch::default();
    batch.push(&Record {
        topic,
        at: number,
        key: key.as_bytes(),
        id: id.as_bytes(),
        kind: b"postwarm.test.v1",
        org: b"acme",
        payload: payload.as_bytes(),
    });
    batch
}

/// Many records as one publish takes them.
pub fn sealed(records: impl IntoIterator<Item = Batch>) -> Vec<Sealed> {
    records.into_iter().collect::<Batch>().seal()
}

/// The records of an outbox.
pub fn opened(pending: &[Outgoing]) -> Batch {
    pending.iter().flat_map(|row| &row.batches).map(|batch| batch.open().unwrap()).collect()
}

async fn read(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Consumed> {
    let mut all = Vec::new();
    while all.len() < count {
        let some = consumer.poll(count - all.len(), PATIENCE).await.unwrap();
        assert!(!some.is_empty(), "{} of {count} records came within {PATIENCE:?}", all.len());
        all.extend(some);
    }
    all
}

fn texts(consumed: &[Consumed]) -> Vec<String> {
    consumed.iter().map(|c| String::from_utf8(c.payload.to_vec()).unwrap()).collect()
}

async fn records_of_a_key_come_back_in_order(log: Log) {
    let keys = ["a", "b", "c", "d", "e", "f"];
    for from in [0, 500] {
        // Several batches of a topic, as several commits tell them.
        let commits = [(from, from + 1), (from + 1, from + 400), (from + 400, from + 500)];
        let batch = |(from, to)| sealed((from..to).flat_map(|n| keys.map(|k| record(Topic::Recipients, k, n))));
        log.publish(commits.into_iter().flat_map(batch).collect()).await.unwrap();
    }
    let mut consumer = log.consume(&[Topic::Recipients], &[]).await.unwrap();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for text in texts(&read(&mut consumer, 6000).await) {
        let (key, number) = text.split_once(' ').unwrap();
        let number: i64 = number.parse().unwrap();
        assert_eq!(number, last.insert(key.to_owned(), number).map_or(0, |n| n + 1), "key {key}");
    }
    assert!(last.values().all(|n| *n == 999));
}

async fn a_consumer_goes_on_where_its_positions_say(log: Log) {
    log.publish(sealed((0..100).map(|n| record(Topic::Recipients, &format!("k{n}"), n)))).await.unwrap();
    let mut first = log.consume(&[Topic::Recipients], &[]).await.unwrap();
    let before = read(&mut first, 40).await;
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for record in &before {
        next.insert(record.partition, record.offset + 1);
    }
    let positions: Vec<Position> =
        next.into_iter().map(|(partition, next_offset)| Position { topic: Topic::Recipients, partition, next_offset }).collect();
    let mut second = log.consume(&[Topic::Recipients], &positions).await.unwrap();
    let mut all = texts(&before);
    all.extend(texts(&read(&mut second, 60).await));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 100, "none twice, none lost");
}

async fn a_waiting_consumer_wakes_when_a_record_is_published(log: Log) {
    let mut consumer = log.consume(&[Topic::Facts], &[]).await.unwrap();
    let waiting = tokio::spawn(async move { read(&mut consumer, 1).await });
    log.publish(record(Topic::Facts, "a", 1).seal()).await.unwrap();
    assert_eq!(texts(&waiting.await.unwrap()), ["a 1"]);
}

async fn topics_stay_apart(log: Log) {
    let records = [Topic::Emails, Topic::Recipients, Topic::Facts].map(|t| record(t, &format!("{t:?}"), 1));
    log.publish(sealed(records)).await.unwrap();
    let mut two = log.consume(&[Topic::Emails, Topic::Facts], &[]).await.unwrap();
    let mut found = read(&mut two, 2).await;
    found.sort_by_key(|r| r.topic);
    assert_eq!(texts(&found), ["Emails 1", "Facts 1"]);
    assert_eq!([found[0].topic, found[1].topic], [Topic::Emails, Topic::Facts]);
}

async fn an_empty_log_answers_nothing_after_the_wait(log: Log) {
    let mut consumer = log.consume(&[Topic::Emails, Topic::Recipients, Topic::Facts], &[]).await.unwrap();
    assert_eq!(consumer.poll(10, Duration::from_millis(50)).await.unwrap(), []);
}

async fn an_empty_publish_is_no_error(log: Log) {
    log.publish(Vec::new()).await.unwrap();
}
