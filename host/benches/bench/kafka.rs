//! Topics in a real Kafka: one run's own, gone with their handle.

use crate::machine;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The broker.
#[derive(Clone)]
pub struct Broker(String);

impl Broker {
    /// The one that POSTWARM_TEST_KAFKA names (host:port), as `.ci/kafka start` prints it.
    pub fn find() -> Result<Broker, String> {
        std::env::var("POSTWARM_TEST_KAFKA")
            .map(Broker)
            .map_err(|_| "POSTWARM_TEST_KAFKA=host:port is not set (`.ci/kafka start CACHE WORK` starts a broker and prints it)".to_owned())
    }

    /// Its process, where it runs here.
    pub fn process(&self) -> Option<u32> {
        machine::process_on(self.0.rsplit(':').next()?.parse().ok()?)
    }

    /// Names for the topics of one run; who publishes first makes them.
    pub fn topics(&self) -> Topics {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("postwarm-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let [emails, recipients, facts] = ["emails", "recipients", "facts"].map(|topic| format!("{prefix}-{topic}"));
        Topics { broker: self.clone(), emails, recipients, facts }
    }
}

/// The topics of one run.
pub struct Topics {
    broker: Broker,
    pub emails: String,
    pub recipients: String,
    pub facts: String,
}

impl Topics {
    pub fn brokers(&self) -> &str {
        &self.broker.0
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.broker.0);
        config
    }

    /// Publishes an email to so many recipients and that it was sent to each, as docs/events describes them.
    pub fn publish_sent(&self, recipients: usize) {
        let producer: BaseProducer = self
            .client()
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("partitioner", "murmur2_random")
            .create()
            .expect("a producer can be made");
        let accepted = format!(
            "{{\"version\":1,\"organization\":\"acme\",\"email_id\":1,\"progress\":\"accepted\",\"from_domain\":\"acme.example\",\
             \"recipients\":{recipients},\"at_ms\":{AT_MS}}}"
        );
        let kind = "postwarm.email.accepted.v1";
        Event { topic: &self.emails, key: "acme/1", id: "acme/1/accepted", kind, payload: &accepted }.publish(&producer);
        for user in 1..=recipients {
            let (key, id) = (format!("acme/1.{user}"), format!("acme/1/{user}/1/sent"));
            let kind = "postwarm.recipient.sent.v1";
            Event { topic: &self.recipients, key: &key, id: &id, kind, payload: &sent(user) }.publish(&producer);
        }
        producer.flush(PATIENCE).expect("the broker takes all of it");
    }
}

/// Now, as far as the ledger cares: what is old is watched no more.
const AT_MS: i64 = 4_000_000_000_000;

fn sent(user: usize) -> String {
    // The token is as long as one of ours and differs like one.
    format!(
        "{{\"version\":1,\"organization\":\"acme\",\"email_id\":1,\"user_id\":{user},\"state\":\"sent\",\"attempt\":1,\"source\":\"live\",\
         \"domain\":\"x{}.example\",\"provider\":\"other\",\"message_id\":\"1.{user}.{:08X}@acme.example\",\"client\":\"sink\",\
         \"reply\":{{\"code\":250,\"enhanced\":\"2.0.0\",\"text\":\"Ok\"}},\"at_ms\":{AT_MS}}}",
        user % 50,
        (user as u32).wrapping_mul(2_654_435_761)
    )
}

/// A record in Kafka's form of an event.
struct Event<'a> {
    topic: &'a str,
    key: &'a str,
    id: &'a str,
    kind: &'a str,
    payload: &'a str,
}

impl Event<'_> {
    fn publish(&self, producer: &BaseProducer) {
        let attributes = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_source", "/organizations/acme"),
            ("ce_type", self.kind),
            ("ce_time", "2096-10-02T07:06:40.000Z"),
            ("content-type", "application/json"),
        ];
        let headers = OwnedHeaders::new_with_capacity(attributes.len());
        let headers = attributes.into_iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut message = BaseRecord::to(self.topic).key(self.key).payload(self.payload).headers(headers);
        while let Err((error, returned)) = producer.send(message) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(5));
            message = returned;
        }
    }
}

impl Drop for Topics {
    fn drop(&mut self) {
        let Ok(admin) = self.client().create::<AdminClient<DefaultClientContext>>() else { return };
        let topics = [self.emails.as_str(), &self.recipients, &self.facts];
        let deleted = admin.delete_topics(&topics, &AdminOptions::new().request_timeout(Some(PATIENCE)));
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        // Whoever stops the broker takes away what is left.
        let _ = runtime.block_on(deleted);
    }
}
