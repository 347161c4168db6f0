//! Topics of one test in a real Kafka, read by a client that is not ours.

use crate::harness::Site;
use postwarm_plugin_testkit::skip::skip;
use serde_json::Value;
use std::process::Command;

pub struct Kafka {
    brokers: String,
    pub emails: String,
    pub recipients: String,
    facts: String,
}

/// One record as the other client shows it.
#[derive(Debug)]
pub struct Event {
    /// The attribute `ce_id`.
    pub id: String,
    pub key: String,
    pub payload: Value,
}

impl Kafka {
    /// The broker that POSTWARM_TEST_KAFKA names, with topics of its own; without it, or without kcat, the test is skipped.
    pub fn find(test: &str) -> Option<Kafka> {
        let Ok(brokers) = std::env::var("POSTWARM_TEST_KAFKA") else {
            skip(test, "POSTWARM_TEST_KAFKA=host:port is not set");
            return None;
        };
        if Command::new("kcat").arg("-V").output().is_err() {
            skip(test, "kcat is not installed");
            return None;
        }
        Some(Kafka::at(&brokers))
    }

    /// A broker, with topics of its own.
    pub fn at(brokers: &str) -> Kafka {
        // The system makes the names of temporary folders unique.
        let folder = tempfile::Builder::new().prefix(&format!("{}-", std::process::id())).tempdir().unwrap();
        let unique = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let name = |topic: &str| format!("postwarm-{unique}-{topic}");
        let brokers = brokers.to_owned();
        Kafka { brokers, emails: name("emails"), recipients: name("recipients"), facts: name("facts") }
    }

    /// The site with its events here, as its users name it.
    pub fn serve_to(&self, site: Site) -> Site {
        site.append(&format!("[events]\nkafka = {{ topics = {{ facts = {:?} }} }}", self.facts));
        site.env("KAFKA_BROKERS", &self.brokers).env("KAFKA_TOPIC", &format!("{},{}", self.emails, self.recipients))
    }

    /// All records of a topic.
    pub async fn read(&self, topic: &str) -> Vec<Event> {
        let mut command = Command::new("kcat");
        command.args(["-b", &self.brokers, "-C", "-t", topic, "-e", "-q", "-o", "beginning", "-f", "%h\t%k\t%s\n"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(event).collect()
    }
}

fn event(line: &str) -> Event {
    let mut parts = line.splitn(3, '\t');
    let mut part = || parts.next().unwrap_or_else(|| panic!("three parts: {line}"));
    let (headers, key, payload) = (part(), part(), part());
    let id = headers.split(',').find_map(|header| header.strip_prefix("ce_id=")).unwrap_or_else(|| panic!("an id: {headers}"));
    Event { id: id.to_owned(), key: key.to_owned(), payload: serde_json::from_str(payload).unwrap() }
}
