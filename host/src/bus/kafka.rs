//! The event log in Kafka, for services in processes of their own.
//!
//! Invariant: `publish` answers when the brokers that must have a record have every one of the batch. Where a consumer
//! goes on is its caller's to store: there is no consumer group and nothing is committed to Kafka.

mod consumer;
mod reach;
mod topics;

use crate::bus::batch::Batch;
use crate::bus::kafka::reach::{REPORT_EVERY_MS, Reach, Reports};
use crate::bus::sealed::Sealed;
use crate::bus::{Consumer, EventLog, LogError, Position, Record, Topic};
use crate::clock::Clock;
use crate::config::settings::Kafka;
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::{OnceCell, oneshot};

/// How long a record may take to be acknowledged.
const PUBLISH_MAX: Duration = Duration::from_secs(30);
/// How long to serve reports when the producer's queue is full before trying again.
const ROOM_WAIT: Duration = Duration::from_millis(5);

/// How topics are made where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicOptions {
    /// Of `email-events` and `emailId-events`; `health-facts` has one.
    pub partitions: i32,
    pub replication: i32,
}

impl Default for TopicOptions {
    fn default() -> TopicOptions {
        TopicOptions { partitions: 4, replication: 1 }
    }
}

/// The log in Kafka.
pub struct KafkaLog {
    kafka: Kafka,
    options: TopicOptions,
    /// Replaced once it has met an error that it cannot go on after.
    producer: Mutex<ThreadedProducer<Delivered>>,
    reach: Arc<Reach>,
    topics_exist: OnceCell<()>,
}

impl KafkaLog {
    /// Makes the client; the brokers are first asked when something is published or consumed.
    pub fn open(kafka: Kafka, options: TopicOptions, clock: Arc<dyn Clock>) -> Result<KafkaLog, LogError> {
        let reach = Arc::new(Reach::new(clock));
        let producer = Mutex::new(make_producer(&kafka, &reach)?);
        Ok(KafkaLog { kafka, options, producer, reach, topics_exist: OnceCell::new() })
    }

    /// The producer to publish with: another one where the last is of no more use. What the last one left unacknowledged is
    /// published again by whoever was told so, and a record that comes twice changes nothing.
    fn producer(&self) -> Result<ThreadedProducer<Delivered>, LogError> {
        let mut producer = self.producer.lock().expect("nobody panics while he holds this lock");
        if let Some((_, reason)) = producer.client().fatal_error() {
            self.reach.said(&format!("the Kafka producer cannot go on, and another one takes its place: {reason}"));
            let ended = std::mem::replace(&mut *producer, make_producer(&self.kafka, &self.reach)?);
            // It waits for its thread.
            tokio::task::spawn_blocking(move || drop(ended));
        }
        Ok(producer.clone())
    }

    async fn ensure_topics(&self) -> Result<(), LogError> {
        self.topics_exist.get_or_try_init(|| topics::ensure(&self.kafka, self.options, Reports(self.reach.clone()))).await.copied()
    }
}

#[async_trait::async_trait]
impl EventLog for KafkaLog {
    async fn publish(&self, batches: Vec<Sealed>) -> Result<(), LogError> {
        // All of them before any is sent: what is damaged would have the others sent again and again.
        let batches = batches.iter().map(Sealed::open).collect::<Result<Vec<_>, _>>()?;
        if batches.is_empty() {
            return Ok(());
        }
        self.ensure_topics().await?;
        let (done, reported) = oneshot::channel();
        // One more than there are records: the publish is not done while they are still being handed over.
        let left = AtomicUsize::new(count(&batches) + 1);
        let acknowledged = Arc::new(Acknowledged { left, failed: Mutex::default(), done: Mutex::new(Some(done)) });
        let (producer, kafka, handed) = (self.producer()?, self.kafka.clone(), acknowledged.clone());
        let hand_over = move || hand_over(&producer, &kafka, &batches, &handed);
        tokio::task::spawn_blocking(hand_over).await.map_err(|e| LogError::Unavailable(e.to_string()))?;
        let gone = |_| LogError::Unavailable("the producer has stopped".to_owned());
        reported.await.map_err(gone)?;
        match acknowledged.failed.lock().expect("nobody panics while he holds this lock").take() {
            Some(why) => Err(LogError::Unavailable(why)),
            None => Ok(()),
        }
    }

    async fn consume(&self, topics: &[Topic], positions: &[Position]) -> Result<Box<dyn Consumer>, LogError> {
        self.ensure_topics().await?;
        let (kafka, topics, positions) = (self.kafka.clone(), topics.to_vec(), positions.to_vec());
        let reports = Reports(self.reach.clone());
        let open = move || consumer::open(&kafka, &topics, &positions, reports);
        let opened = tokio::task::spawn_blocking(open).await.map_err(|e| LogError::Unavailable(e.to_string()))??;
        Ok(Box::new(opened))
    }

    fn trouble(&self) -> Option<String> {
        self.reach.trouble()
    }
}

/// The records of one publish, counted down by their delivery reports.
struct Acknowledged {
    left: AtomicUsize,
    /// Why the first that failed did.
    failed: Mutex<Option<String>>,
    done: Mutex<Option<oneshot::Sender<()>>>,
}

impl Acknowledged {
    fn settle(&self, count: usize, failure: Option<String>) {
        if let Some(why) = failure {
            self.failed.lock().expect("nobody panics while he holds this lock").get_or_insert(why);
        }
        if self.left.fetch_sub(count, Ordering::AcqRel) == count
            && let Some(done) = self.done.lock().expect("nobody panics while he holds this lock").take()
        {
            // Nobody may wait any more: the caller was cancelled.
            let _ = done.send(());
        }
    }
}

/// Takes the delivery reports, and passes on the others.
struct Delivered(Reports);

impl ClientContext for Delivered {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, words: &str) {
        self.0.log(level, fac, words);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.stats(statistics);
    }
}

impl ProducerContext for Delivered {
    type DeliveryOpaque = Arc<Acknowledged>;

    fn delivery(&self, result: &DeliveryResult<'_>, acknowledged: Arc<Acknowledged>) {
        acknowledged.settle(1, result.as_ref().err().map(|(error, _)| error.to_string()));
    }
}

/// Puts the records into the producer's queue, waiting for room. Those behind a failure are not sent.
fn hand_over(producer: &ThreadedProducer<Delivered>, kafka: &Kafka, batches: &[Batch], acknowledged: &Arc<Acknowledged>) {
    let deadline = Instant::now() + PUBLISH_MAX;
    let mut left = count(batches) + 1;
    for record in batches.iter().flat_map(Batch::records) {
        let mut message = BaseRecord::with_opaque_to(topic_name(kafka, record.topic), acknowledged.clone())
            .key(record.key)
            .payload(record.payload)
            .headers(headers(&record));
        while let Err((error, returned)) = producer.send(message) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) || Instant::now() >= deadline {
                acknowledged.settle(left, Some(error.to_string()));
                return;
            }
            // Serves delivery reports, which make room.
            producer.poll(ROOM_WAIT);
            message = returned;
        }
        left -= 1;
    }
    acknowledged.settle(left, None);
}

fn count(batches: &[Batch]) -> usize {
    batches.iter().map(Batch::len).sum()
}

/// The CloudEvents attributes in the binary mode of its Kafka binding.
fn headers(record: &Record<'_>) -> OwnedHeaders {
    let at = UNIX_EPOCH + Duration::from_millis(record.at.max(0).unsigned_abs());
    let time = humantime::format_rfc3339_millis(at).to_string();
    let source = [b"/organizations/", record.org].concat();
    let all: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", record.id),
        ("ce_source", &source),
        ("ce_type", record.kind),
        ("ce_time", time.as_bytes()),
        ("content-type", b"application/json"),
    ];
    all.into_iter().fold(OwnedHeaders::new_with_capacity(6), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}

fn make_producer(kafka: &Kafka, reach: &Arc<Reach>) -> Result<ThreadedProducer<Delivered>, LogError> {
    client_config(kafka)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("message.timeout.ms", PUBLISH_MAX.as_millis().to_string())
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.kbytes", "16384")
        .create_with_context(Delivered(Reports(reach.clone())))
        .map_err(unavailable)
}

fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("client.id", "postwarm")
        .set("socket.keepalive.enable", "true")
        .set("statistics.interval.ms", REPORT_EVERY_MS)
        .set("topic.metadata.refresh.interval.ms", "30000");
    config
}

fn topic_name(kafka: &Kafka, topic: Topic) -> &str {
    match topic {
        Topic::Emails => &kafka.emails,
        Topic::Recipients => &kafka.recipients,
        Topic::Facts => &kafka.facts,
    }
}

fn unavailable(e: KafkaError) -> LogError {
    LogError::Unavailable(e.to_string())
}

#[cfg(test)]
mod tests;
