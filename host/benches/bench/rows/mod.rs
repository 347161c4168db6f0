//! What each bench holds against what.

pub mod sending;
pub mod service;

use crate::peers::Sent;
use crate::product::broadcast::Broadcast;
use crate::round::{Measured, Sample};
use serde_json::{Value, json};

/// How many times as fast a broadcast was as a peer.
fn times_as_fast(ours: &Measured<Broadcast>, peer: &Measured<Sent>) -> Sample {
    Sample {
        value: ours.found.sent.per_second / peer.found.per_second,
        from: json!({ "postwarm": shown(&ours.found), "peer": sent(&peer.found) }),
        noise: ours.noise.or(peer.noise),
    }
}

fn sent(sent: &Sent) -> Value {
    json!({ "per_second": sent.per_second.round(), "cpu_us": tenths(sent.cpu_us), "sink_cpu_us": tenths(sent.sink_cpu_us) })
}

fn shown(broadcast: &Broadcast) -> Value {
    let mut shown = sent(&broadcast.sent);
    shown["health_behind_seconds"] = tenths(broadcast.health_behind_seconds).into();
    shown["peak_resident_mb"] = tenths(broadcast.peak_resident_mb).into();
    shown
}

fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}
