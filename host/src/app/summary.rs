//! The start-up summary: one screen that says what runs and what to try.

use crate::app::Shared;
use crate::config::live::Snapshot;
use crate::config::settings::Events;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;

/// Prints the summary to standard output. Who closed it has read enough: that stops no service.
pub fn print(shared: &Shared, snapshot: &Snapshot, addresses: [Option<SocketAddr>; 2]) {
    let mut text = String::new();
    // A string takes everything.
    let _ = compose(&mut text, shared, snapshot, addresses);
    let mut out = io::stdout().lock();
    // Nowhere else to say it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn compose(out: &mut String, shared: &Shared, snapshot: &Snapshot, [warmup, health]: [Option<SocketAddr>; 2]) -> std::fmt::Result {
    let settings = &snapshot.settings;
    writeln!(out, "postwarm {}", env!("CARGO_PKG_VERSION"))?;
    for (service, address) in [("warmup", warmup), ("health", health)] {
        if let Some(address) = address {
            writeln!(out, "  {service:<8} http://{address}")?;
        }
    }
    let events = match &settings.process.events {
        Events::Embedded { .. } => "embedded log".to_owned(),
        Events::Kafka(kafka) => format!("kafka at {}", kafka.brokers.join(", ")),
    };
    writeln!(out, "  events   {events}")?;
    writeln!(out, "  data     {}", shared.options.data.display())?;
    for organization in settings.organizations.values() {
        let clients: Vec<&str> = organization.smtp.iter().map(|entry| entry.name.as_str()).collect();
        let mode = if organization.development { ", development: no API key needed" } else { "" };
        writeln!(out, "  organization {}: sends through {}{mode}", organization.name, clients.join(", "))?;
    }
    for problem in &snapshot.status.problems {
        writeln!(out, "  not taken up: {problem}")?;
    }
    for warning in &snapshot.status.warnings {
        writeln!(out, "  {warning}")?;
    }
    let Some(development) = settings.without_key().filter(|o| o.development) else { return Ok(()) };
    let from = development.from_domains.first().map_or("example.com", String::as_str);
    let (Some(warmup), Some(health)) = (warmup, health) else { return Ok(()) };
    writeln!(out, "try:")?;
    writeln!(
        out,
        "  curl -s http://{warmup}/register -H 'content-type: application/json' -d '{{\"name\": \"Alice\", \"email_id\": \"alice@example.com\"}}'"
    )?;
    writeln!(
        out,
        "  curl -s http://{warmup}/send -H 'content-type: application/json' -d '{{\"from\": \"noreply@{from}\", \"subject\": \"Welcome!\", \"body\": \"Hello, welcome to our warmup system.\"}}'"
    )?;
    writeln!(out, "  curl -s http://{warmup}/emails/1")?;
    writeln!(out, "  curl -s 'http://{health}/mail_stats?email_id=1'")?;
    Ok(())
}
