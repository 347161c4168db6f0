//! One broadcast: how fast it was, what it cost, and how requests fared meanwhile.

use crate::machine;
use crate::peers::Sent;
use crate::product::content::Content;
use crate::product::looks::{Looks, looks};
use crate::product::service::Service;
use crate::product::setup::Setup;
use crate::product::wait_for;
use std::time::Instant;

/// What one broadcast showed.
pub struct Broadcast {
    /// Users imported a second.
    pub imported_per_second: f64,
    /// From the first 202 to the last reply that is recorded. The CPU is that of the whole process from before `POST /send`
    /// until health has applied the last event.
    pub sent: Sent,
    /// How long health was behind the last reply.
    pub health_behind_seconds: f64,
    /// The most memory, of import, broadcast and health.
    pub peak_resident_mb: f64,
    /// What was asked meanwhile.
    pub looks: Looks,
}

/// Imports users and broadcasts to them.
pub fn broadcast(setup: &Setup, recipients: usize, content: Content) -> Broadcast {
    run(setup, recipients, content, async |service| (service.until_sent(recipients).await, Looks::default()))
}

/// The same, while figures and lists are asked for all the time.
pub fn broadcast_looked_at(setup: &Setup, recipients: usize) -> Broadcast {
    run(setup, recipients, Content::Text, async |service| looks(service, service.until_sent(recipients)).await)
}

fn run(setup: &Setup, recipients: usize, content: Content, until_sent: impl AsyncFnOnce(&Service) -> (Instant, Looks)) -> Broadcast {
    let service = Service::start(setup, &[]);
    wait_for(async {
        let begun = Instant::now();
        service.import(recipients).await;
        let imported_per_second = recipients as f64 / begun.elapsed().as_secs_f64();
        let before = machine::cpu_of(service.pid());
        let accepted = service.send(&content.request()).await;
        let (ended, looks) = until_sent(&service).await;
        let sink_cpu_us = setup.sink.cpu_us(recipients);
        let applied = service.until_applied(recipients).await;
        let cpu_us = (machine::cpu_of(service.pid()) - before) * 1e6 / recipients as f64;
        let per_second = recipients as f64 / (ended - accepted).as_secs_f64();
        Broadcast {
            imported_per_second,
            sent: Sent { per_second, cpu_us, sink_cpu_us },
            health_behind_seconds: (applied - ended).as_secs_f64(),
            peak_resident_mb: machine::peak_resident_mb(service.pid()),
            looks,
        }
    })
}
