//! The start-up summary: one screen that says what runs and what to try.

use crate::app::Shared;
use crate::config::live::Snapshot;
use crate::config::settings::Events;
use std::net::SocketAddr;

/// Prints the summary to standard output.
pub fn print(shared: &Shared, snapshot: &Snapshot, [warmup, health]: [Option<SocketAddr>; 2]) {
    let settings = &snapshot.settings;
    println!("postwarm {}", env!("CARGO_PKG_VERSION"));
    for (service, address) in [("warmup", warmup), ("health", health)] {
        if let Some(address) = address {
            println!("  {service:<8} http://{address}");
        }
    }
    let events = match &settings.process.events {
        Events::Embedded { .. } => "embedded log".to_owned(),
        Events::Kafka(kafka) => format!("kafka at {}", kafka.brokers.join(", ")),
    };
    println!("  events   {events}");
    println!("  data     {}", shared.options.data.display());
    for organization in settings.organizations.values() {
        let clients: Vec<&str> = organization.smtp.iter().map(|entry| entry.name.as_str()).collect();
        let mode = if organization.development { ", development: no API key needed" } else { "" };
        println!("  organization {}: sends through {}{mode}", organization.name, clients.join(", "));
    }
    for warning in &snapshot.status.warnings {
        println!("  {warning}");
    }
    let Some(development) = settings.without_key().filter(|o| o.development) else { return };
    let from = development.from_domains.first().map_or("example.com", String::as_str);
    let (Some(warmup), Some(health)) = (warmup, health) else { return };
    println!("try:");
    println!(
        "  curl http://{warmup}/register -H 'content-type: application/json' -d '{{\"name\": \"Alice\", \"email_id\": \"alice@example.com\"}}'"
    );
    println!(
        "  curl http://{warmup}/send -H 'content-type: application/json' -d '{{\"from\": \"noreply@{from}\", \"subject\": \"Welcome!\", \"body\": \"Hello, welcome to our warmup system.\"}}'"
    );
    println!("  curl 'http://{health}/mail_stats?email_id=1'");
}
