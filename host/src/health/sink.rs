//! Takes the reports of one answer, within what the loop declared and what a record may hold.
//!
//! Invariant: a report outside of the declared capabilities is refused and counted, never kept.

use postwarm_plugin_api::{Capabilities, FactSink, Report};

/// What the reports of one record may take up, in octets: a Kafka record has 1 MB at most.
pub const REPORTS_OCTETS_MAX: usize = 512 * 1024;
/// The longest text of a fact that is kept, in octets.
const DETAIL_OCTETS_MAX: usize = 512;
/// The longest Message-ID, domain, date or metric; RFC 5322 allows no longer line.
const NAME_OCTETS_MAX: usize = 998;
/// What a report takes up besides its texts.
const REPORT_OCTETS: usize = 96;

/// What reports take up of [`REPORTS_OCTETS_MAX`].
pub fn octets_of(reports: &[Report]) -> usize {
    reports.iter().filter_map(octets).map(|octets| REPORT_OCTETS + octets).sum()
}

/// The reports of one answer.
pub struct Sink {
    capabilities: Capabilities,
    pub reports: Vec<Report>,
    /// What may come yet.
    room: usize,
    /// Reports outside of the declared capabilities.
    pub refused: u64,
    /// The loop has more to say: it was told to stop.
    pub full: bool,
}

impl Sink {
    /// Takes reports of `room` octets.
    pub fn new(capabilities: Capabilities, room: usize) -> Sink {
        Sink { capabilities, reports: Vec::new(), room, refused: 0, full: false }
    }
}

impl FactSink for Sink {
    fn push(&mut self, mut report: Report) -> bool {
        let allowed = match &report {
            Report::Message(fact) => self.capabilities.allows(fact.kind),
            Report::Aggregate(_) | Report::NoData { .. } => self.capabilities.aggregates,
        };
        if let Report::Message(fact) = &mut report
            && let Some(detail) = &mut fact.detail
        {
            detail.truncate(detail.floor_char_boundary(DETAIL_OCTETS_MAX));
        }
        match allowed.then(|| octets(&report)).flatten() {
            Some(octets) => {
                self.room = self.room.saturating_sub(REPORT_OCTETS + octets);
                self.reports.push(report);
            }
            None => self.refused += 1,
        }
        self.full |= self.room == 0;
        !self.full
    }
}

/// What the texts of a report take up; `None` where a name is too long or a value is no number.
fn octets(report: &Report) -> Option<usize> {
    let (names, rest): (&[&String], usize) = match report {
        Report::Message(fact) => (&[&fact.message_id], fact.detail.as_ref().map_or(0, String::len)),
        Report::Aggregate(a) if a.value.is_finite() => (&[&a.domain, &a.date, &a.metric], 0),
        Report::Aggregate(_) => return None,
        Report::NoData { domain, date } => (&[domain, date], 0),
    };
    let fits = names.iter().all(|n| n.len() <= NAME_OCTETS_MAX);
    fits.then(|| rest + names.iter().map(|n| n.len()).sum::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::{Aggregate, Fact, FactKind};

    fn fact(kind: FactKind, detail: &str) -> Report {
        Report::Message(Fact { message_id: "1.2.AAAAAAAA@a.example".into(), kind, at_ms: None, detail: Some(detail.to_owned()) })
    }

    #[test]
    fn a_report_outside_of_what_was_declared_is_refused_and_counted() {
        let mut sink = Sink::new(Capabilities { delivered: true, ..Capabilities::default() }, REPORTS_OCTETS_MAX);
        let value = |value| Report::Aggregate(Aggregate { domain: "a".into(), date: "2026-11-25".into(), metric: "m".into(), value });
        for report in [fact(FactKind::Delivered, ""), fact(FactKind::Spam, ""), value(1.0)] {
            assert!(sink.push(report));
        }
        assert_eq!((sink.reports.len(), sink.refused), (1, 2));
        sink.capabilities.aggregates = true;
        sink.push(value(f64::NAN));
        assert_eq!((sink.reports.len(), sink.refused), (1, 3));
    }

    #[test]
    fn a_full_sink_says_so_and_long_texts_are_cut_between_characters() {
        let mut sink = Sink::new(Capabilities { delivered: true, ..Capabilities::default() }, REPORTS_OCTETS_MAX);
        let text = "ä".repeat(400);
        let pushed = (1..).find(|_| !sink.push(fact(FactKind::Delivered, &text))).expect("it fills");
        assert_eq!((pushed, sink.full), (sink.reports.len(), true));
        assert!((800..900).contains(&pushed), "{pushed}");
        let Report::Message(first) = &sink.reports[0] else { panic!("a fact") };
        assert_eq!(first.detail.as_deref(), Some("ä".repeat(256).as_str()));
    }
}
