//! Which brokers can be reached, as the Kafka clients of this process find out.
//!
//! Invariant: a broker that is away costs the log a line when it goes, one a minute and one when it is back, however many
//! clients try it and however often.

use crate::bus::throttle::{Say, Throttle};
use crate::clock::Clock;
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// How often a client reports the states of its connections.
pub const REPORT_EVERY_MS: &str = "2000";
/// Lines of the client's own logger that repeat what it reports as errors.
const REPEATED: [&str; 3] = ["FAIL", "ERROR", "CONNFAIL"];

/// The brokers of one log.
pub struct Reach {
    clock: Arc<dyn Clock>,
    brokers: Mutex<BTreeMap<String, Broker>>,
    /// What the clients say besides.
    other: Mutex<Throttle>,
}

#[derive(Default)]
struct Broker {
    throttle: Throttle,
    /// Named in the configuration, and so perhaps not as it calls itself: it is back when any broker is.
    bootstrap: bool,
    reason: String,
}

impl Reach {
    pub fn new(clock: Arc<dyn Clock>) -> Reach {
        Reach { clock, brokers: Mutex::default(), other: Mutex::default() }
    }

    /// The brokers that cannot be reached, each with its reason.
    pub fn trouble(&self) -> Option<String> {
        let now = self.clock.now().boot_ms;
        let brokers = self.brokers();
        let line = |(name, broker): (&String, &Broker)| {
            let (since, _) = broker.throttle.failing()?;
            Some(format!("the Kafka broker {name} is unreachable for {} s ({})", (now - since) / 1000, broker.reason))
        };
        let lines: Vec<String> = brokers.iter().filter_map(line).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// `reason` is the client's: `host:port/id: what happened`.
    fn failed(&self, reason: &str) {
        let (name, what) = reason.split_once(": ").unwrap_or((reason, ""));
        let Some((address, id)) = name.rsplit_once('/').filter(|(address, _)| address.contains(':')) else {
            tracing::debug!(reason, "the Kafka client reports");
            return;
        };
        let mut brokers = self.brokers();
        let broker = brokers.entry(address.to_owned()).or_default();
        broker.bootstrap = id == "bootstrap";
        what.clone_into(&mut broker.reason);
        let now = self.clock.now().boot_ms;
        match broker.throttle.failed(now) {
            Say::Began => {
                tracing::warn!(kafka.broker = address, reason = what, "the Kafka broker is unreachable; it is tried until it is back")
            }
            Say::Still { since_ms, suppressed } => {
                let secs = (now - since_ms) / 1000;
                tracing::warn!(kafka.broker = address, reason = what, secs, suppressed, "the Kafka broker is still unreachable");
            }
            Say::Nothing | Say::Over { .. } => {}
        }
    }

    /// The connection to `address` stands since `up_since_ms`.
    fn up(&self, address: &str, up_since_ms: i64) {
        let now = self.clock.now().boot_ms;
        for (name, broker) in self.brokers().iter_mut().filter(|(name, broker)| *name == address || broker.bootstrap) {
            // A connection that is older than the failure may not have noticed yet.
            if broker.throttle.failing().is_none_or(|(_, last_ms)| up_since_ms < last_ms) {
                continue;
            }
            if let Say::Over { since_ms, suppressed } = broker.throttle.worked() {
                let secs = (now - since_ms) / 1000;
                tracing::warn!(kafka.broker = name, secs, suppressed, "the Kafka broker is reachable again");
            }
        }
    }

    pub fn said(&self, words: &str) {
        let mut other = self.other.lock().expect("nobody panics while he holds this lock");
        match other.failed(self.clock.now().boot_ms) {
            Say::Began => tracing::warn!(words, "the Kafka client says"),
            Say::Still { suppressed, .. } => tracing::warn!(words, suppressed, "the Kafka client says"),
            Say::Nothing | Say::Over { .. } => tracing::debug!(words, "the Kafka client says"),
        }
    }

    fn brokers(&self) -> MutexGuard<'_, BTreeMap<String, Broker>> {
        self.brokers.lock().expect("nobody panics while he holds this lock")
    }
}

/// What each client reports to.
#[derive(Clone)]
pub struct Reports(pub Arc<Reach>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, words: &str) {
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(fac, words, "librdkafka"),
            _ if REPEATED.contains(&fac) => tracing::debug!(fac, words, "librdkafka"),
            _ => self.0.said(words),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, BrokerTransportFailure, OperationTimedOut, Resolve, SSL};
        match error.rdkafka_error_code() {
            // Each of them is reported by itself.
            Some(AllBrokersDown) => {}
            Some(BrokerTransportFailure | Resolve | Authentication | SSL | OperationTimedOut) => self.0.failed(reason),
            _ => self.0.said(&format!("{error}: {reason}")),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let now = self.0.clock.now().boot_ms;
        for broker in statistics.brokers.values().filter(|broker| broker.state == "UP") {
            self.0.up(&broker.nodename, now - broker.stateage / 1000);
        }
    }
}

impl ConsumerContext for Reports {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use std::time::Duration;

    const REASON: &str = "10.0.0.1:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused";

    #[test]
    fn a_broker_is_in_trouble_from_its_first_failure_to_a_connection_that_is_younger() {
        let clock = Arc::new(ManualClock::at(0));
        let reach = Reach::new(clock.clone());
        assert_eq!(reach.trouble(), None);
        reach.failed("1/1 brokers are down");
        assert_eq!(reach.trouble(), None, "it names no broker");
        reach.failed(REASON);
        clock.advance(Duration::from_secs(5));
        reach.failed(&REASON.replace("bootstrap", "1"));
        let failed_at = clock.now().boot_ms;
        let trouble = reach.trouble().unwrap();
        assert!(trouble.starts_with("the Kafka broker 10.0.0.1:9092 is unreachable for 5 s (Connect to ipv4#"), "{trouble}");
        clock.advance(Duration::from_secs(5));
        reach.up("10.0.0.1:9092", failed_at - 1);
        assert!(reach.trouble().is_some(), "an older connection may be half dead");
        reach.up("10.0.0.2:9092", failed_at + 1);
        assert!(reach.trouble().is_some(), "another broker is another");
        reach.up("10.0.0.1:9092", failed_at + 1);
        assert_eq!(reach.trouble(), None);
    }

    #[test]
    fn a_broker_of_the_configuration_is_back_under_any_name() {
        let clock = Arc::new(ManualClock::at(0));
        let reach = Reach::new(clock.clone());
        reach.failed(REASON);
        reach.up("kafka.internal:9092", clock.now().boot_ms);
        assert_eq!(reach.trouble(), None);
    }
}
