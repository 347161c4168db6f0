//! The start-up summary: one screen that says what runs and what to try.

use crate::app::Shared;
use crate::config::live::Snapshot;
use crate::config::settings::Events;
use std::io::Write;
use std::net::SocketAddr;

/// Prints the summary to standard output. Where nobody reads that, the services go on all the same.
pub fn print(shared: &Shared, snapshot: &Snapshot, addresses: [Option<SocketAddr>; 2]) {
    let text = lines(shared, snapshot, addresses).join("\n") + "\n";
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn lines(shared: &Shared, snapshot: &Snapshot, [warmup, health]: [Option<SocketAddr>; 2]) -> Vec<String> {
    let mut lines = Vec::new();
    let settings = &snapshot.settings;
    lines.push(format!("postwarm {}", env!("CARGO_PKG_VERSION")));
    for (service, address) in [("warmup", warmup), ("health", health)] {
        if let Some(address) = address {
            lines.push(format!("  {service:<8} http://{address}"));
        }
    }
    let events = match &settings.process.events {
        Events::Embedded { .. } => "embedded log".to_owned(),
        Events::Kafka(kafka) => format!("kafka at {}", kafka.brokers.join(", ")),
    };
    lines.push(format!("  events   {events}"));
    lines.push(format!("  data     {}", shared.options.data.display()));
    for organization in settings.organizations.values() {
        let clients: Vec<&str> = organization.smtp.iter().map(|entry| entry.name.as_str()).collect();
        let mode = if organization.development { ", development: no API key needed" } else { "" };
        lines.push(format!("  organization {}: sends through {}{mode}", organization.name, clients.join(", ")));
    }
    for warning in &snapshot.status.warnings {
        lines.push(format!("  {warning}"));
    }
    let Some(development) = settings.without_key().filter(|o| o.development) else { return lines };
    let from = development.from_domains.first().map_or("example.com", String::as_str);
    let (Some(warmup), Some(health)) = (warmup, health) else { return lines };
    lines.push(format!("try:"));
    lines.push(format!(
        "  curl http://{warmup}/register -H 'content-type: application/json' -d '{{\"name\": \"Alice\", \"email_id\": \"alice@example.com\"}}'"
    ));
    lines.push(format!(
        "  curl http://{warmup}/send -H 'content-type: application/json' -d '{{\"from\": \"noreply@{from}\", \"subject\": \"Welcome!\", \"body\": \"Hello, welcome to our warmup system.\"}}'"
    ));
    lines.push(format!("  curl 'http://{health}/mail_stats?email_id=1'"));
    lines
}
