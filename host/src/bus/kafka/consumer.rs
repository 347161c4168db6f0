//! Reads all partitions of some topics from given offsets, in a thread of its own.
//!
//! Invariant: offsets that are gone end the consumer with an error; it never jumps over records.

use crate::bus::kafka::reach::Reports;
use crate::bus::kafka::{client_config, topic_name, unavailable};
use crate::bus::{Consumed, Consumer, LogError, POLL_OCTETS_MAX, Position, Topic};
use crate::config::settings::Kafka;
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const ASK_MAX: Duration = Duration::from_secs(10);
/// How long to wait before a partition without a leader is asked for again.
const LEADER_WAIT: Duration = Duration::from_millis(50);
/// How long the thread waits for a record before it looks whether it is still wanted.
const THREAD_WAIT: Duration = Duration::from_millis(100);
/// The brokers answer when they have so many octets, or after so many milliseconds.
const FETCH_MIN_OCTETS: &str = "262144";
const FETCH_WAIT_MS: &str = "200";
/// How often new partitions are looked for.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// Records that go from the thread to `poll` together, and the octets from which on no more are added: a record may have 1 MB.
const TOGETHER_MAX: usize = 500;
const TOGETHER_OCTETS: usize = 1024 * 1024;
/// Such parts between the thread and `poll`.
const WAITING_MAX: usize = 2;
/// How long a poll waits for more when it has some.
const LINGER: Duration = Duration::from_millis(5);

/// The next offset by topic and partition.
type Next = BTreeMap<(Topic, i32), i64>;

pub struct KafkaConsumer {
    parts: mpsc::Receiver<Result<Vec<Consumed>, LogError>>,
    /// What came with others that were handed out.
    left: VecDeque<Consumed>,
    /// What ended the stream behind records that were still to be handed out.
    failed: Option<LogError>,
}

#[async_trait::async_trait]
impl Consumer for KafkaConsumer {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Consumed>, LogError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let (mut found, mut octets, mut patience) = (Vec::new(), 0, wait);
        loop {
            while found.len() < max
                && octets < POLL_OCTETS_MAX
                && let Some(record) = self.left.pop_front()
            {
                octets += record.payload.len();
                found.push(record);
            }
            if found.len() >= max || octets >= POLL_OCTETS_MAX {
                break;
            }
            if !found.is_empty() {
                patience = LINGER;
            }
            match tokio::time::timeout(patience, self.parts.recv()).await {
                Ok(Some(Ok(part))) => self.left.extend(part),
                Ok(Some(Err(error))) if found.is_empty() => return Err(error),
                Ok(Some(Err(error))) => {
                    self.failed = Some(error);
                    break;
                }
                Ok(None) if found.is_empty() => return Err(LogError::Unavailable("the consumer has stopped".to_owned())),
                Ok(None) | Err(_) => break,
            }
        }
        Ok(found)
    }
}

/// Opens a consumer; blocks while the brokers are asked.
pub fn open(kafka: &Kafka, topics: &[Topic], positions: &[Position], reports: Reports) -> Result<KafkaConsumer, LogError> {
    let consumer: BaseConsumer<Reports> = client_config(kafka)
        // Needed for assigning by hand; nobody joins it and nothing is committed to it.
        .set("group.id", "postwarm-unused")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        .set("fetch.min.bytes", FETCH_MIN_OCTETS)
        .set("fetch.wait.max.ms", FETCH_WAIT_MS)
        .set("queued.min.messages", "2000")
        .set("queued.max.messages.kbytes", "4096")
        .create_with_context(reports)
        .map_err(unavailable)?;
    let names: Vec<(String, Topic)> = topics.iter().map(|t| (topic_name(kafka, *t).to_owned(), *t)).collect();
    let mut reader = Reader { consumer, names, next: Next::new() };
    let wanted = positions.iter().map(|p| ((p.topic, p.partition), p.next_offset)).collect();
    reader.next = reader.all_partitions(&wanted)?;
    reader.assign()?;
    let (sender, parts) = mpsc::channel(WAITING_MAX);
    let spawned = std::thread::Builder::new().name("kafka-consumer".to_owned()).spawn(move || reader.read(&sender));
    spawned.map_err(|e| LogError::Unavailable(e.to_string()))?;
    Ok(KafkaConsumer { parts, left: VecDeque::new(), failed: None })
}

struct Reader {
    consumer: BaseConsumer<Reports>,
    names: Vec<(String, Topic)>,
    next: Next,
}

impl Reader {
    fn read(mut self, sender: &mpsc::Sender<Result<Vec<Consumed>, LogError>>) {
        let mut refreshed = Instant::now();
        while !sender.is_closed() {
            if refreshed.elapsed() >= REFRESH_EVERY {
                refreshed = Instant::now();
                if let Err(error) = self.refresh() {
                    tracing::warn!(%error, "new partitions could not be looked for");
                }
            }
            let (part, failure) = self.part();
            let ends = failure.is_some();
            let parts = (!part.is_empty()).then_some(Ok(part)).into_iter().chain(failure.map(Err));
            // A receiver that was dropped ends the thread.
            if parts.map(|part| sender.blocking_send(part)).any(|sent| sent.is_err()) || ends {
                return;
            }
        }
    }

    /// Waits for a record and takes what has come with it; and what ended the stream behind them.
    fn part(&mut self) -> (Vec<Consumed>, Option<LogError>) {
        let (mut part, mut octets, mut wait) = (Vec::new(), 0, THREAD_WAIT);
        while part.len() < TOGETHER_MAX && octets < TOGETHER_OCTETS {
            let read = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => consumed(&self.names, &message),
                Some(Err(error)) => match self.failure(&error) {
                    None => break,
                    Some(failure) => Err(failure),
                },
            };
            match read {
                Ok(record) => {
                    self.next.insert((record.topic, record.partition), record.offset + 1);
                    octets += record.payload.len();
                    part.push(record);
                }
                Err(failure) => return (part, Some(failure)),
            }
            wait = Duration::ZERO;
        }
        (part, None)
    }

    /// What ends the consumer; `None` for what the client mends by itself.
    fn failure(&self, error: &KafkaError) -> Option<LogError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let check = self.all_partitions(&self.next);
                Some(check.err().unwrap_or_else(|| unavailable(error.clone())))
            }
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Some(unavailable(error.clone()))
            }
            _ => {
                tracing::debug!(%error, "the Kafka client goes on by itself");
                None
            }
        }
    }

    /// All partitions that exist, at the wanted offset or at their beginning.
    fn all_partitions(&self, wanted: &Next) -> Result<Next, LogError> {
        let mut next = Next::new();
        for (name, topic) in &self.names {
            for id in with_leaders(|| self.partitions(name))? {
                let (oldest, end) = with_leaders(|| self.consumer.fetch_watermarks(name, id, ASK_MAX))?;
                let offset = wanted.get(&(*topic, id)).copied().unwrap_or(oldest);
                if !(oldest..=end).contains(&offset) {
                    return Err(LogError::Gone { topic: name.clone(), partition: id, wanted: offset, oldest });
                }
                next.insert((*topic, id), offset);
            }
        }
        let lost = wanted.keys().find(|key| !next.contains_key(key) && self.names.iter().any(|(_, t)| *t == key.0));
        match lost {
            Some((topic, partition)) => Err(LogError::Unavailable(format!("{topic:?} partition {partition} does not exist any more"))),
            None => Ok(next),
        }
    }

    fn partitions(&self, name: &str) -> Result<Vec<i32>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(name), ASK_MAX)?;
        let ids: Vec<i32> = metadata.topics().iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
        match ids.is_empty() {
            true => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
            false => Ok(ids),
        }
    }

    fn refresh(&mut self) -> Result<(), LogError> {
        let found = self.all_partitions(&self.next)?;
        if found.len() > self.next.len() {
            self.next = found;
            self.assign()?;
        }
        Ok(())
    }

    fn assign(&self) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in &self.next {
            let name = self.names.iter().find(|(_, t)| t == topic).map_or("", |(name, _)| name);
            list.add_partition_offset(name, *partition, Offset::Offset(*offset)).map_err(unavailable)?;
        }
        self.consumer.assign(&list).map_err(unavailable)
    }
}

/// Asks again while brokers do not know a topic or its leaders yet, as just after it was made, or while a leader moves.
#[expect(clippy::disallowed_methods, reason = "the client tells nobody when a leader is known; this blocks a thread of its own")]
fn with_leaders<T>(ask: impl Fn() -> Result<T, KafkaError>) -> Result<T, LogError> {
    let start = Instant::now();
    loop {
        match ask() {
            Err(error) if lacks_leader(&error) && start.elapsed() < ASK_MAX => std::thread::sleep(LEADER_WAIT),
            answer => return answer.map_err(unavailable),
        }
    }
}

fn lacks_leader(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    let code = error.rdkafka_error_code();
    matches!(code, Some(LeaderNotAvailable | NotLeaderForPartition | UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
}

fn consumed(names: &[(String, Topic)], message: &BorrowedMessage<'_>) -> Result<Consumed, LogError> {
    let topic = names.iter().find(|(name, _)| name == message.topic()).map(|(_, topic)| *topic);
    let topic = topic.ok_or_else(|| LogError::Unavailable(format!("a record of `{}` came, which nobody asked for", message.topic())))?;
    let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    Ok(Consumed { topic, partition: message.partition(), offset: message.offset(), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn part(offsets: std::ops::Range<i64>) -> Vec<Consumed> {
        offsets.map(|offset| Consumed { topic: Topic::Facts, partition: 0, offset, payload: Bytes::from_static(b"so") }).collect()
    }

    async fn offsets(consumer: &mut KafkaConsumer, max: usize) -> Vec<i64> {
        consumer.poll(max, WAIT).await.unwrap().iter().map(|record| record.offset).collect()
    }

    #[tokio::test]
    async fn a_part_goes_over_as_many_polls_as_it_takes_and_what_ends_the_stream_comes_behind_it() {
        let (sender, parts) = mpsc::channel(2);
        let mut consumer = KafkaConsumer { parts, left: VecDeque::new(), failed: None };
        sender.send(Ok(part(0..5))).await.unwrap();
        assert_eq!(offsets(&mut consumer, 2).await, [0, 1]);
        sender.send(Ok(part(5..7))).await.unwrap();
        sender.send(Err(LogError::Unavailable("away".into()))).await.unwrap();
        drop(sender);
        assert_eq!(offsets(&mut consumer, 2).await, [2, 3]);
        assert_eq!(offsets(&mut consumer, 2).await, [4, 5], "of two parts");
        assert_eq!(offsets(&mut consumer, 2).await, [6]);
        for words in ["away", "the consumer has stopped"] {
            let ended = consumer.poll(2, WAIT).await;
            assert!(matches!(&ended, Err(LogError::Unavailable(why)) if why == words), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn a_poll_takes_no_further_record_once_it_has_enough_octets() {
        let (sender, parts) = mpsc::channel(2);
        let mut consumer = KafkaConsumer { parts, left: VecDeque::new(), failed: None };
        let mut large = part(0..3);
        large[1].payload = vec![0; POLL_OCTETS_MAX].into();
        sender.send(Ok(large)).await.unwrap();
        drop(sender);
        assert_eq!(offsets(&mut consumer, 9).await, [0, 1]);
        assert_eq!(offsets(&mut consumer, 9).await, [2]);
    }
}
