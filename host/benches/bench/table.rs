//! The benches: what each measures, against what, and where its floor and its aim are.

use crate::needs::Need;
use crate::round::{Round, Sample, Sizes};
use crate::rows::{sending, service};
use crate::stats::grouped;

/// On which side of its floor a figure is good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    AtLeast,
    AtMost,
}

/// One row of the table.
pub struct Bench {
    pub name: &'static str,
    /// `{rows}`, `{tenth}`, `{tenfold}`, `{tracked}` and `{looked_at}` stand for the sizes.
    what: &'static str,
    kind: Kind,
    pub floor: f64,
    pub aim: f64,
    pub run: fn(&Round) -> Sample,
    pub needs: &'static [Need],
    /// CI runs it.
    pub is_small: bool,
    /// It takes so long that every second round alone has it.
    pub is_long: bool,
}

const POSTFIX: &[Need] = &[Need::Postfix];
const POSTFIX_AND_KAFKA: &[Need] = &[Need::Postfix, Need::Kafka];
const KAFKA: &[Need] = &[Need::Kafka];

/// In the order in which they run: what is held against the same run stands together.
pub const BENCHES: &[Bench] = &[
    at_least("broadcast", "to {rows}, state FULL, embedded events, to smtp-sink: times as fast as smtp-source -d", 1.15, 1.4)
        .by(sending::broadcast, POSTFIX)
        .small(),
    at_most("cpu", "the whole service's CPU of a message there: part of smtp-source's", 0.8, 0.6).by(sending::cpu, POSTFIX).small(),
    at_least("broadcast-kafka", "the same with events through Kafka: times as fast as smtp-source -d", 1.15, 1.4)
        .by(sending::broadcast_kafka, POSTFIX_AND_KAFKA)
        .small(),
    at_least("nodemailer", "the same broadcast: times as fast as nodemailer's pool", 8.0, 12.0)
        .by(sending::nodemailer, &[Need::Postfix, Need::Nodemailer])
        .small(),
    at_least("aiosmtplib", "the same broadcast: times as fast as aiosmtplib", 25.0, 35.0)
        .by(sending::aiosmtplib, &[Need::Postfix, Need::Aiosmtplib])
        .small(),
    at_least("fast-sink", "to a fast sink that pipelines: times as fast as smtp-source -d to it", 1.6, 2.0)
        .by(sending::fast_sink, POSTFIX)
        .small(),
    at_least("starttls", "to that sink with STARTTLS: times as fast as smtp-source -d to it in clear", 0.7, 1.0)
        .by(sending::starttls, POSTFIX),
    at_least("dkim-ed25519", "signed with Ed25519, to smtp-sink: times as fast as smtp-source -d", 1.0, 1.4)
        .by(sending::dkim_ed25519, POSTFIX),
    at_least("dkim-rsa", "signed with RSA-2048, to smtp-sink: part of what openssl speed signs", 0.5, 0.7)
        .by(sending::dkim_rsa, &[Need::Postfix, Need::Openssl])
        .small(),
    at_least("templates", "each recipient in every line of text and HTML, to smtp-sink: part of the rate without", 0.9, 0.97)
        .by(sending::templates, POSTFIX),
    at_least("rtt", "20 ms round trip, 10 connections: times as fast as an unpipelined client", 2.5, 3.5).by(sending::rtt, &[]),
    at_least("enqueue", "POST /send to {rows} until all are rows: thousand rows a second", 100.0, 250.0).by(service::enqueue, &[]),
    at_least("import", "import of {rows} users: thousand rows a second", 100.0, 250.0).by(service::import, POSTFIX),
    at_most("memory", "most resident memory of a broadcast to {rows}: MB", 96.0, 64.0).by(service::memory, POSTFIX),
    at_least("organizations-10", "10 organizations with {rows} recipients together: part of the rate of one", 0.9, 1.0)
        .by(service::organizations_10, POSTFIX),
    at_least("organizations-1000", "1,000 organizations with {tenfold} recipients together: part of the rate of one with {rows}", 0.9, 1.0)
        .by(service::organizations_1000, POSTFIX)
        .long(),
    at_least("size-100k", "broadcast to {rows}: part of the rate of one to {tenth}", 0.9, 1.0).by(service::size_usual, POSTFIX),
    at_least("size-million", "broadcast to {tenfold}: part of the rate of one to {tenth}", 0.9, 1.0)
        .by(service::size_tenfold, POSTFIX)
        .long(),
    at_most("memory-million", "most resident memory of a broadcast to {tenfold}: MB", 128.0, 80.0)
        .by(service::memory_of_tenfold, POSTFIX)
        .long(),
    at_most("p99-get", "p99 of GET /mail_stats and /emails, the slower, while {looked_at} are sent: ms", 50.0, 10.0)
        .by(service::p99_get, POSTFIX),
    at_least("health-events", "health, Kafka JSON to counters, {tracked} deliveries: thousand events a second of CPU", 200.0, 500.0)
        .by(service::health_events, KAFKA)
        .long(),
    at_most("health-bytes", "of each of these: octets of the ledger on disk and of growth in memory, together", 64.0, 16.0)
        .by(service::health_bytes, KAFKA)
        .long(),
];

const fn at_least(name: &'static str, what: &'static str, floor: f64, aim: f64) -> Bench {
    Bench { name, what, kind: Kind::AtLeast, floor, aim, run: sending::broadcast, needs: &[], is_small: false, is_long: false }
}

const fn at_most(name: &'static str, what: &'static str, floor: f64, aim: f64) -> Bench {
    Bench { kind: Kind::AtMost, ..at_least(name, what, floor, aim) }
}

impl Bench {
    const fn by(self, run: fn(&Round) -> Sample, needs: &'static [Need]) -> Bench {
        Bench { run, needs, ..self }
    }

    const fn small(self) -> Bench {
        Bench { is_small: true, ..self }
    }

    const fn long(self) -> Bench {
        Bench { is_long: true, ..self }
    }

    /// Whether a figure is as good as a mark.
    pub fn reaches(&self, value: f64, mark: f64) -> bool {
        match self.kind {
            Kind::AtLeast => value >= mark,
            Kind::AtMost => value <= mark,
        }
    }

    /// A mark that is easier to reach by a part of it.
    pub fn eased(&self, mark: f64, by: f64) -> f64 {
        match self.kind {
            Kind::AtLeast => mark * (1.0 - by),
            Kind::AtMost => mark * (1.0 + by),
        }
    }

    /// What it measures, at these sizes.
    pub fn what(&self, sizes: Sizes) -> String {
        let numbers = [
            ("{rows}", sizes.rows),
            ("{tenth}", sizes.tenth()),
            ("{tenfold}", sizes.tenfold()),
            ("{tracked}", sizes.tracked()),
            ("{looked_at}", sizes.looked_at()),
        ];
        numbers.into_iter().fold(self.what.to_owned(), |what, (name, number)| what.replace(name, &grouped(number)))
    }
}
