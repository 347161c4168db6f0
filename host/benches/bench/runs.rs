//! What each bench runs. Runs that several benches of a round look at are made once.

use crate::peers::{self, Sent};
use crate::product::{self, Broadcast};
use serde_json::{Value, json};
use std::cell::OnceCell;

const SMALL_ROWS: usize = 10_000;
const MILLION: usize = 1_000_000;
/// Broadcasts to `SMALL_ROWS` that one to a million is held against: each takes under a second.
const SMALL_RUNS: usize = 5;

/// The runs of one round.
pub struct Round {
    rows: usize,
    source: OnceCell<Sent>,
    broadcast: OnceCell<Broadcast>,
    million: OnceCell<Broadcast>,
}

/// What a bench found: the figure that counts, and what it came from.
pub struct Sample {
    pub value: f64,
    pub from: Value,
}

impl Round {
    pub fn new(rows: usize) -> Round {
        Round { rows, source: OnceCell::new(), broadcast: OnceCell::new(), million: OnceCell::new() }
    }

    fn source(&self) -> Sent {
        *self.source.get_or_init(|| peers::smtp_source(self.rows))
    }

    fn broadcast(&self) -> &Broadcast {
        self.broadcast.get_or_init(|| to_smtp_sink(self.rows))
    }

    fn million(&self) -> &Broadcast {
        self.million.get_or_init(|| to_smtp_sink(MILLION))
    }
}

fn to_smtp_sink(rows: usize) -> Broadcast {
    let (_sink, port) = peers::sink();
    product::broadcast(port, rows)
}

pub fn broadcast(round: &Round) -> Sample {
    let (ours, source) = (round.broadcast().sent.per_second, round.source().per_second);
    Sample { value: ours / source, from: json!({ "postwarm_per_second": ours, "smtp_source_per_second": source }) }
}

pub fn cpu(round: &Round) -> Sample {
    let (ours, source) = (round.broadcast().sent.cpu_us, round.source().cpu_us);
    Sample { value: ours / source, from: json!({ "postwarm_us": ours, "smtp_source_us": source }) }
}

pub fn import(round: &Round) -> Sample {
    Sample { value: round.broadcast().imported_per_second / 1e3, from: json!({}) }
}

pub fn memory(round: &Round) -> Sample {
    Sample { value: round.broadcast().peak_resident_mb, from: json!({}) }
}

pub fn memory_of_a_million(round: &Round) -> Sample {
    Sample { value: round.million().peak_resident_mb, from: json!({}) }
}

pub fn rate_of_a_million(round: &Round) -> Sample {
    let mut small: Vec<f64> = (0..SMALL_RUNS).map(|_| to_smtp_sink(SMALL_ROWS).sent.per_second).collect();
    small.sort_by(f64::total_cmp);
    let (small, million) = (small[SMALL_RUNS / 2], round.million().sent.per_second);
    Sample { value: million / small, from: json!({ "million_per_second": million, "ten_thousand_per_second": small }) }
}
