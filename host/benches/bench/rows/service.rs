//! Benches of the service itself: rows, events, memory, sizes, answers.

use crate::product::broadcast::{Broadcast, broadcast, broadcast_looked_at};
use crate::product::content::Content;
use crate::product::enqueue;
use crate::product::setup::Setup;
use crate::round::{Measured, Round, Sample};
use crate::rows::{sent, shown, tenths};
use crate::sinks::{Manner, Sink};
use crate::stats::{median, percentile};
use serde_json::json;

pub fn import(round: &Round) -> Sample {
    let Measured { found, noise } = round.broadcast();
    Sample { value: found.imported_per_second / 1e3, from: json!({}), noise: *noise }
}

pub fn enqueue(round: &Round) -> Sample {
    let Measured { found, noise } = round.run(|| enqueue::enqueue(Sink::own(Manner::default()).address, round.sizes.rows));
    Sample { value: found / 1e3, from: json!({}), noise }
}

pub fn health_events(round: &Round) -> Sample {
    let Measured { found, noise } = round.ingested();
    Sample { value: found.per_core_second / 1e3, from: json!({ "per_second": found.per_second.round() }), noise: *noise }
}

pub fn health_bytes(round: &Round) -> Sample {
    let Measured { found, noise } = round.ingested();
    let from = json!({ "disk": tenths(found.disk_octets), "resident": tenths(found.resident_octets) });
    Sample { value: found.disk_octets + found.resident_octets, from, noise: *noise }
}

pub fn memory(round: &Round) -> Sample {
    peak(round.broadcast())
}

pub fn memory_of_tenfold(round: &Round) -> Sample {
    peak(round.tenfold())
}

fn peak(run: &Measured<Broadcast>) -> Sample {
    Sample { value: run.found.peak_resident_mb, from: json!({}), noise: run.noise }
}

pub fn size_usual(round: &Round) -> Sample {
    against_tenth(round, round.broadcast())
}

pub fn size_tenfold(round: &Round) -> Sample {
    against_tenth(round, round.tenfold())
}

fn against_tenth(round: &Round, run: &Measured<Broadcast>) -> Sample {
    let tenth = round.tenth();
    let from = json!({ "large": sent(&run.found.sent), "small_per_second": tenth.found.round() });
    Sample { value: run.found.sent.per_second / tenth.found, from, noise: run.noise.or(tenth.noise) }
}

pub fn organizations_10(round: &Round) -> Sample {
    organizations(round, 10, round.sizes.rows)
}

pub fn organizations_1000(round: &Round) -> Sample {
    organizations(round, 1_000, round.sizes.tenfold())
}

fn organizations(round: &Round, organizations: usize, recipients: usize) -> Sample {
    // The same for each: what does not divide is left out.
    let recipients = (recipients / organizations).max(1) * organizations;
    let before = round.broadcast_again();
    let many = round.run(|| {
        let sink = Sink::postfix();
        broadcast(&Setup { organizations, ..Setup::to(sink.address) }, recipients, Content::Text)
    });
    let after = round.broadcast_again();
    let from = json!({ "many": shown(&many.found), "one_before": shown(&before.found), "one_after": shown(&after.found) });
    let one = (before.found.sent.per_second + after.found.sent.per_second) / 2.0;
    Sample { value: many.found.sent.per_second / one, from, noise: many.noise.or(before.noise).or(after.noise) }
}

pub fn p99_get(round: &Round) -> Sample {
    let Measured { found, noise } = round.run(|| {
        let sink = Sink::postfix();
        broadcast_looked_at(&Setup::to(sink.address), round.sizes.looked_at())
    });
    let of = |took_ms: &[f64]| (percentile(took_ms, 0.99).unwrap_or(f64::NAN), median(took_ms).unwrap_or(f64::NAN), took_ms.len());
    let (stats, emails) = (of(&found.looks.mail_stats), of(&found.looks.emails));
    let shown = |(p99, median, count): (f64, f64, usize)| json!({ "p99": tenths(p99), "median": tenths(median), "answers": count });
    let from = json!({ "mail_stats": shown(stats), "emails": shown(emails), "sent_per_second": found.sent.per_second.round() });
    Sample { value: stats.0.max(emails.0), from, noise }
}
