//! `postwarm.toml` to [`Process`].

use crate::config::document::{Document, Node};
use crate::config::limits;
use crate::config::problem::Report;
use crate::config::settings::{Dns, Events, Kafka, Listener, Process};
use crate::model::name::OrgName;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// Decodes a document that `form::check` has seen. `brokers` are those of the environment, which imply Kafka.
pub fn decode(document: &Document, brokers: Option<Vec<String>>, report: &mut Report) -> Process {
    let empty = Node::default();
    let root = &document.root;
    let section = |name: &str| root.get(name).unwrap_or(&empty);
    let (delivery, dns, health) = (section("delivery"), section("dns"), section("health"));
    let watch_for = health.duration("watch_for").unwrap_or(7 * DAY);
    Process {
        warmup: listener(section("warmup"), 8080),
        health: listener(health, 8081),
        default_organization: default_organization(document, section("organizations"), report),
        allow_development_beyond_loopback: root.flag("allow_development_beyond_loopback").unwrap_or(false),
        plugins_directory: PathBuf::from(section("plugins").text("directory").unwrap_or("plugins")),
        events: match brokers {
            Some(brokers) => Events::Kafka(Kafka { brokers, ..kafka_of(document, section("events").get("kafka"), report) }),
            None => events(document, section("events"), watch_for, report),
        },
        shares: root
            .get("shares")
            .into_iter()
            .flat_map(Node::entries)
            .map(|(name, share)| (name.to_owned(), limits::windows(document, share.node.get("limits"), report)))
            .collect(),
        sending_rows_max: delivery.count("sending_rows_max").map_or(512, |n| n as usize),
        drain_max: delivery.duration("drain_max").unwrap_or(Duration::from_secs(30)),
        watch_for,
        dns: Dns {
            nameserver: dns.text("nameserver").and_then(|text| text.parse().ok()),
            timeout: dns.duration("timeout").unwrap_or(Duration::from_secs(2)),
            enabled: dns.flag("enabled").unwrap_or(true),
        },
    }
}

fn listener(section: &Node, port: u16) -> Listener {
    let listen = section.text("listen").and_then(|text| text.parse().ok());
    Listener { listen: listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], port))) }
}

fn default_organization(document: &Document, section: &Node, report: &mut Report) -> Option<OrgName> {
    match OrgName::parse(section.text("default")?) {
        Ok(name) => Some(name),
        Err(message) => {
            document.error(report, section.at("default"), message, "");
            None
        }
    }
}

fn events(document: &Document, section: &Node, watch_for: Duration, report: &mut Report) -> Events {
    if section.text("kind") == Some("kafka") {
        let kafka = kafka_of(document, section.get("kafka"), report);
        if kafka.brokers.is_empty() {
            let remedy = "add kafka = { brokers = [\"localhost:9092\"] } to [events], or set KAFKA_BROKERS";
            document.error(report, section.at("kind"), "kind is kafka and no broker is named", remedy);
        }
        return Events::Kafka(kafka);
    }
    let retention = section.duration("retention").unwrap_or(90 * DAY);
    if retention < watch_for {
        let message = "the event log forgets a message while it is still watched";
        let remedy = format!("keep at least watch_for, {}", humantime::format_duration(watch_for));
        document.warning(report, section.at("retention"), message, remedy);
    }
    Events::Embedded { retention }
}

/// Reads `[events] kafka`, or its defaults.
fn kafka_of(document: &Document, kafka: Option<&Node>, report: &mut Report) -> Kafka {
    let topics = kafka.and_then(|kafka| kafka.get("topics"));
    let topic = |key: &str, default: &str| topics.and_then(|topics| topics.text(key)).unwrap_or(default).to_owned();
    let brokers = kafka.map_or(&[][..], |kafka| kafka.list("brokers"));
    let named = [("emails", "email-events"), ("recipients", "emailId-events"), ("facts", "health-facts")];
    for (place, (key, default)) in named.into_iter().enumerate() {
        let name = topic(key, default);
        if let Some((first, _)) = named[..place].iter().find(|(key, default)| topic(key, default) == name) {
            let at = topics.map_or(0..0, |topics| topics.at(key).clone());
            document.error(report, &at, format!("`{name}` is the topic of {first} already"), "give each its own topic");
        }
    }
    Kafka {
        brokers: brokers.iter().filter_map(Node::as_text).map(str::to_owned).collect(),
        emails: topic("emails", "email-events"),
        recipients: topic("recipients", "emailId-events"),
        facts: topic("facts", "health-facts"),
    }
}
