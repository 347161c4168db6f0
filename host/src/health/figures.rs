//! What the figures of an email mean: pure arithmetic over its counts and the capabilities of the loops in charge.
//!
//! Invariant: delivered, bounced, suppressed, pending and unknown add up to recipients. Opened, read and spam are parts
//! of delivered, and `None` where no loop in charge can tell or none has looked since the email was first sent: nobody
//! looked is not 0.

use crate::health::store::{EmailCounts, Part};
use crate::health::tally::Tally;
use postwarm_plugin_api::Capabilities;
use std::collections::BTreeMap;

/// The figures of an email, of one provider's part of it, or of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub recipients: i64,
    /// A loop saw them arrive, whatever the folder.
    pub delivered: i64,
    pub spam: Option<i64>,
    pub opened: Option<i64>,
    pub read: Option<i64>,
    /// Refused for good, in the SMTP dialogue or by a later report.
    pub bounced: i64,
    pub suppressed: i64,
    /// Not sent yet, or sent and the loop may still tell.
    pub pending: i64,
    /// In doubt, or sent and no loop can tell (any more).
    pub unknown: i64,
}

/// The loop in charge of a recipient domain, as one email sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InCharge {
    pub can: Capabilities,
    /// It answered since the email's first message was sent.
    pub looked: bool,
}

/// The figures of a whole email and of each provider's part. Recipients that the log has not told about yet are pending
/// in the whole and in no part, for their provider is not known.
pub fn figures(counts: &EmailCounts, in_charge: impl Fn(&str) -> Option<InCharge>) -> (Figures, BTreeMap<&str, Figures>) {
    let mut whole = Figures::default();
    let mut seen = Tally::default();
    let mut by_provider: BTreeMap<&str, Figures> = BTreeMap::new();
    for part in &counts.parts {
        let figures = part_figures(part, in_charge(&part.domain));
        add(&mut whole, &figures);
        add(by_provider.entry(&part.provider).or_default(), &figures);
        seen += part.tally;
    }
    by_provider.retain(|_, f| f.recipients > 0);
    let unseen = (counts.live.unwrap_or(0) - seen.live).max(0);
    whole.recipients += unseen;
    whole.pending += unseen;
    (whole, by_provider)
}

/// The figures of the deliveries of one domain with one provider.
pub fn part_figures(part: &Part, in_charge: Option<InCharge>) -> Figures {
    let t = part.tally;
    let InCharge { can, looked } = in_charge.unwrap_or_default();
    // Evidence is from a loop that looked, though perhaps before the service started anew.
    let looked = looked || t.delivered > 0;
    let recipients = t.live + t.backfill;
    // A loop that tells anything about a message may still tell that it arrived or came back.
    let may_tell = can.delivered || can.bounced || can.spam || can.opened || can.read || can.unsubscribed;
    let unsent = recipients - t.waiting - t.expired - t.doubt - t.suppressed - t.bounced - t.delivered;
    // Without recipients nobody was in charge of any: a domain that a recipient left counts for nothing.
    let known = |can_tell: bool, count: i64| (can_tell && looked && recipients > 0).then_some(count);
    Figures {
        recipients,
        delivered: t.delivered,
        spam: known(can.spam, t.spam),
        opened: known(can.opened, t.opened),
        read: known(can.read, t.read),
        bounced: t.bounced,
        suppressed: t.suppressed,
        pending: unsent + if may_tell { t.waiting } else { 0 },
        unknown: t.doubt + t.expired + if may_tell { 0 } else { t.waiting },
    }
}

fn add(sum: &mut Figures, part: &Figures) {
    let known = |a: Option<i64>, b: Option<i64>| a.map_or(b, |a| Some(a + b.unwrap_or(0)));
    *sum = Figures {
        recipients: sum.recipients + part.recipients,
        delivered: sum.delivered + part.delivered,
        spam: known(sum.spam, part.spam),
        opened: known(sum.opened, part.opened),
        read: known(sum.read, part.read),
        bounced: sum.bounced + part.bounced,
        suppressed: sum.suppressed + part.suppressed,
        pending: sum.pending + part.pending,
        unknown: sum.unknown + part.unknown,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Capabilities =
        Capabilities { delivered: false, spam: false, opened: false, read: false, bounced: false, unsubscribed: false, aggregates: true };

    fn part(domain: &str, provider: &str, tally: Tally) -> Part {
        Part { domain: domain.into(), provider: provider.into(), tally }
    }

    fn line(f: &Figures) -> String {
        assert_eq!(f.delivered + f.bounced + f.suppressed + f.pending + f.unknown, f.recipients, "{f:?}");
        let known = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
        format!(
            "{} = {} delivered ({} spam, {} opened, {} read) + {} bounced + {} suppressed + {} pending + {} unknown",
            f.recipients,
            f.delivered,
            known(f.spam),
            known(f.opened),
            known(f.read),
            f.bounced,
            f.suppressed,
            f.pending,
            f.unknown
        )
    }

    #[test]
    fn each_recipient_counts_once_by_what_its_loop_can_tell() {
        let tally = Tally {
            live: 30,
            backfill: 2,
            waiting: 4,
            expired: 3,
            doubt: 2,
            suppressed: 1,
            bounced: 5,
            delivered: 10,
            opened: 6,
            read: 2,
            spam: 1,
        };
        let full = Capabilities { delivered: true, spam: true, opened: true, read: true, ..NOTHING };
        let table = [
            (None, "32 = 10 delivered (- spam, - opened, - read) + 5 bounced + 1 suppressed + 7 pending + 9 unknown"),
            (Some(NOTHING), "32 = 10 delivered (- spam, - opened, - read) + 5 bounced + 1 suppressed + 7 pending + 9 unknown"),
            (Some(full), "32 = 10 delivered (1 spam, 6 opened, 2 read) + 5 bounced + 1 suppressed + 11 pending + 5 unknown"),
            (
                Some(Capabilities { bounced: true, ..NOTHING }),
                "32 = 10 delivered (- spam, - opened, - read) + 5 bounced + 1 suppressed + 11 pending + 5 unknown",
            ),
            (
                Some(Capabilities { read: true, ..NOTHING }),
                "32 = 10 delivered (- spam, - opened, 2 read) + 5 bounced + 1 suppressed + 11 pending + 5 unknown",
            ),
        ];
        for (can, expected) in table {
            let in_charge = can.map(|can| InCharge { can, looked: true });
            assert_eq!(line(&part_figures(&part("a.example", "other", tally), in_charge)), expected, "{can:?}");
        }
    }

    #[test]
    fn until_a_loop_has_looked_its_figures_are_null_and_its_recipients_pending() {
        let full = Capabilities { delivered: true, spam: true, opened: true, read: true, ..NOTHING };
        let sent = Tally { live: 2, waiting: 2, ..Tally::default() };
        let seen = Tally { live: 2, waiting: 1, delivered: 1, ..Tally::default() };
        let table = [
            (sent, false, "2 = 0 delivered (- spam, - opened, - read) + 0 bounced + 0 suppressed + 2 pending + 0 unknown"),
            (sent, true, "2 = 0 delivered (0 spam, 0 opened, 0 read) + 0 bounced + 0 suppressed + 2 pending + 0 unknown"),
            (seen, false, "2 = 1 delivered (0 spam, 0 opened, 0 read) + 0 bounced + 0 suppressed + 1 pending + 0 unknown"),
        ];
        for (tally, looked, expected) in table {
            let in_charge = Some(InCharge { can: full, looked });
            assert_eq!(line(&part_figures(&part("a.example", "other", tally), in_charge)), expected);
        }
    }

    #[test]
    fn recipients_that_the_log_has_not_told_about_are_pending_and_null_where_nobody_looked() {
        let counts = EmailCounts { email: 1, from_domain: "x".into(), live: Some(5), first_sent_at: None, parts: Vec::new() };
        let (whole, by_provider) = figures(&counts, |_| None);
        assert_eq!(line(&whole), "5 = 0 delivered (- spam, - opened, - read) + 0 bounced + 0 suppressed + 5 pending + 0 unknown");
        assert!(by_provider.is_empty());
    }

    #[test]
    fn a_figure_is_partial_where_only_some_loops_can_tell() {
        let tally = Tally { live: 2, delivered: 2, opened: 1, read: 1, ..Tally::default() };
        let left = Tally::default();
        let counts = EmailCounts {
            email: 1,
            from_domain: "x".into(),
            live: None,
            first_sent_at: Some(1),
            parts: vec![part("a.example", "a", tally), part("b.example", "b", tally), part("c.example", "c", left)],
        };
        let looked = |can| Some(InCharge { can, looked: true });
        let in_charge = |domain: &str| match domain {
            "a.example" => looked(Capabilities { delivered: true, opened: true, ..NOTHING }),
            "c.example" => looked(Capabilities { delivered: true, spam: true, ..NOTHING }),
            _ => None,
        };
        let (whole, by_provider) = figures(&counts, in_charge);
        assert_eq!(line(&whole), "4 = 4 delivered (- spam, 1 opened, - read) + 0 bounced + 0 suppressed + 0 pending + 0 unknown");
        assert_eq!(by_provider.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((by_provider["a"].opened, by_provider["b"].opened), (Some(1), None));
    }
}
