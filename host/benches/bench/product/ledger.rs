//! The health service alone: a log full of events in Kafka becomes figures.

use crate::kafka::Broker;
use crate::machine;
use crate::product::service::Service;
use crate::product::setup::Setup;
use crate::product::wait_for;
use crate::sinks::Address;
use std::path::Path;
use std::time::Instant;

/// What it took to take in the events.
pub struct Ingested {
    pub per_second: f64,
    /// Events a second of CPU, the whole process counted.
    pub per_core_second: f64,
    /// Octets of the ledger's files, once the service has ended, for each delivery.
    pub disk_octets: f64,
    /// By how much the process grew, for each delivery.
    pub resident_octets: f64,
}

/// Publishes that one email was sent to so many recipients, and has health follow.
pub fn ingest(broker: &Broker, deliveries: usize) -> Ingested {
    let topics = broker.topics();
    topics.publish_sent(deliveries);
    let setup = Setup { kafka: Some(topics), ..Setup::to(Address::NOBODY) };
    let begun = Instant::now();
    let service = Service::start(&setup, &["health"]);
    let resident_before = machine::resident_mb(service.pid());
    // One more: that the email was accepted.
    let ended = wait_for(service.until_applied(deliveries + 1));
    let cpu = machine::cpu_of(service.pid());
    let grown = machine::resident_mb(service.pid()) - resident_before;
    let folder = service.end();
    Ingested {
        per_second: deliveries as f64 / (ended - begun).as_secs_f64(),
        per_core_second: deliveries as f64 / cpu,
        disk_octets: octets(&folder.path().join("data")) as f64 / deliveries as f64,
        resident_octets: grown.max(0.0) * 1024.0 * 1024.0 / deliveries as f64,
    }
}

/// Octets of health's database, whatever its files are called.
fn octets(data: &Path) -> u64 {
    let files = std::fs::read_dir(data).expect("the data folder is there").flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with("health")).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}
