//! Applies events to the ledger within one transaction.
//!
//! Invariant: counts change only by the difference of what a delivery counted as before and after.

use crate::bus::Position;
use crate::db::DbError;
use crate::health::sqlite::names::Names;
use crate::health::sqlite::{delivery_row, topic_number};
use crate::health::tally::{Delivery, Flags, Tally, is_watched, kind_number};
use crate::model::delivery::Source;
use crate::model::event::{EmailProgressed, Event, FactsReported, RecipientChanged};
use crate::model::message_id::RecipientMessageId;
use postwarm_plugin_api::{Fact, Report};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub type Key = (i64, i64, i64);

/// One batch.
pub struct Batch<'a> {
    db: &'a Connection,
    names: &'a mut Names,
    /// By organization, email, domain, provider.
    counts: HashMap<(i64, i64, i64, i64), Tally>,
    /// When a domain was last seen, its provider's name and number, by organization and domain.
    domains: HashMap<(i64, i64), (i64, Arc<str>, i64)>,
    emails_known: HashSet<(i64, i64)>,
    /// When the first message was sent, by organization and email.
    first_sent: HashMap<(i64, i64), i64>,
    watch_next: Option<i64>,
}

impl<'a> Batch<'a> {
    pub fn new(db: &'a Connection, names: &'a mut Names) -> Batch<'a> {
        Batch {
            db,
            names,
            counts: HashMap::new(),
            domains: HashMap::new(),
            emails_known: HashSet::new(),
            first_sent: HashMap::new(),
            watch_next: None,
        }
    }

    pub fn apply(&mut self, event: &Event) -> Result<(), DbError> {
        let applied = match event {
            Event::Email(e) => self.apply_email(e),
            Event::Recipient(e) => self.apply_recipient(e),
            Event::Facts(e) => self.apply_facts(e),
        };
        applied.map_err(DbError::from)
    }

    /// Writes what was summed up over the batch.
    pub fn finish(self, positions: &[Position]) -> Result<(), DbError> {
        let mut add = self.db.prepare_cached(
            "INSERT INTO counts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT DO UPDATE SET live = live + excluded.live, backfill = backfill + excluded.backfill,
             waiting = waiting + excluded.waiting, expired = expired + excluded.expired, doubt = doubt + excluded.doubt,
             suppressed = suppressed + excluded.suppressed, bounced = bounced + excluded.bounced,
             delivered = delivered + excluded.delivered, opened = opened + excluded.opened, read = read + excluded.read,
             spam = spam + excluded.spam",
        )?;
        for ((org, email, domain, provider), tally) in self.counts.iter().filter(|(_, t)| **t != Tally::default()) {
            let keys = [*org, *email, *domain, *provider];
            add.execute(rusqlite::params_from_iter(keys.into_iter().chain(tally.columns())))?;
        }
        let mut see = self.db.prepare_cached(
            "INSERT INTO recipient_domains VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET provider = excluded.provider, at = excluded.at WHERE excluded.at > at
             OR (excluded.at = at AND (SELECT name FROM providers WHERE id = excluded.provider) > (SELECT name FROM providers WHERE id = provider))",
        )?;
        for ((org, domain), (at, _, provider)) in &self.domains {
            see.execute((org, domain, provider, at))?;
        }
        let mut first =
            self.db.prepare_cached("INSERT INTO first_sent VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET at = min(at, excluded.at)")?;
        for ((org, email), at) in &self.first_sent {
            first.execute((org, email, at))?;
        }
        if let Some(next) = self.watch_next {
            self.db.prepare_cached("UPDATE watch_next SET position = ?1")?.execute([next])?;
        }
        let mut stand = self.db.prepare_cached("INSERT OR REPLACE INTO positions VALUES (?1, ?2, ?3)")?;
        for p in positions {
            stand.execute((topic_number(p.topic), p.partition, p.next_offset))?;
        }
        Ok(())
    }

    fn apply_email(&mut self, e: &EmailProgressed) -> rusqlite::Result<()> {
        let org = self.names.org(self.db, &e.org)?;
        self.db
            .prepare_cached(
                "INSERT INTO emails VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET from_domain = excluded.from_domain, recipients = excluded.recipients",
            )?
            .execute((org, e.email.0, &e.from_domain, e.recipients))?;
        Ok(())
    }

    fn apply_recipient(&mut self, e: &RecipientChanged) -> rusqlite::Result<()> {
        let org = self.names.org(self.db, &e.org)?;
        let (domain, provider) = (self.names.domain(self.db, &e.domain)?, self.names.provider(self.db, &e.provider)?);
        let key = (org, e.email.0, e.user.0);
        self.note_email(key, &e.message_id)?;
        // Of changes in the same millisecond, the provider's name decides, so that their order does not.
        let latest = self.domains.entry((org, domain)).or_insert_with(|| (e.at, e.provider.clone(), provider));
        if (e.at, &e.provider) > (latest.0, &latest.1) {
            *latest = (e.at, e.provider.clone(), provider);
        }
        let before = self.delivery(key)?;
        let mut after = Delivery::from_change(e, domain, provider);
        if is_watched(after.state) {
            let first = self.first_sent.entry((org, e.email.0)).or_insert(after.sent_at);
            *first = after.sent_at.min(*first);
        }
        match &before {
            Some(before) if !after.supersedes(before) => return Ok(()),
            Some(before) => after = after.with_evidence_of(before),
            None => after.flags = after.flags.with(self.early_evidence(key, after.token)?),
        }
        if is_watched(after.state) {
            self.watch(key, after.sent_at)?;
        }
        self.replace(key, before.as_ref(), &after)
    }

    fn apply_facts(&mut self, e: &FactsReported) -> rusqlite::Result<()> {
        let org = self.names.org(self.db, &e.org)?;
        // Reports are taken whatever the sequence, for they only add; the cursor is that of the highest sequence.
        for report in &e.reports {
            match report {
                Report::Message(fact) => self.apply_fact(org, e, fact)?,
                Report::Aggregate(a) => self.apply_aggregate(org, e, (&a.domain, &a.date, &a.metric), Some(a.value))?,
                Report::NoData { domain, date } => self.apply_aggregate(org, e, (domain, date, ""), None)?,
            }
        }
        self.db
            .prepare_cached(
                "INSERT INTO loops VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE
                 SET sequence = excluded.sequence, cursor = excluded.cursor, at = excluded.at WHERE excluded.sequence > sequence",
            )?
            .execute((org, &*e.feedback, e.sequence, &e.cursor, e.at))?;
        Ok(())
    }

    fn apply_fact(&mut self, org: i64, e: &FactsReported, fact: &Fact) -> rusqlite::Result<()> {
        let Some(id) = RecipientMessageId::parse(&fact.message_id) else { return Ok(()) };
        let key = (org, id.email, id.user);
        let before = self.delivery(key)?;
        if before.is_some_and(|d| d.token != id.token) {
            return Ok(());
        }
        self.db
            .prepare_cached(
                "INSERT INTO facts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE
                 SET at = excluded.at, seen_at = excluded.seen_at, source = excluded.source
                 WHERE (excluded.seen_at, excluded.source) < (seen_at, source)",
            )?
            .execute((org, id.email, id.user, id.token, kind_number(fact.kind), fact.at_ms, e.at, &*e.feedback))?;
        let Some(before) = before else { return Ok(()) };
        let after = Delivery { flags: before.flags.with(Flags::of(fact.kind)), ..before };
        if after == before { Ok(()) } else { self.replace(key, Some(&before), &after) }
    }

    fn apply_aggregate(&self, org: i64, e: &FactsReported, key: (&str, &str, &str), value: Option<f64>) -> rusqlite::Result<()> {
        let (domain, date, metric) = key;
        self.db
            .prepare_cached(
                "INSERT INTO aggregates VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE
                 SET value = excluded.value, sequence = excluded.sequence, seen_at = excluded.seen_at WHERE excluded.sequence > sequence",
            )?
            .execute((org, &*e.feedback, domain, date, metric, value, e.sequence, e.at))?;
        Ok(())
    }

    /// Ends the watch of one message that was sent at `sent_at`.
    pub fn expire(&mut self, key: Key, sent_at: i64) -> rusqlite::Result<()> {
        // A later attempt has a later entry in the watch list.
        let Some(before) = self.delivery(key)?.filter(|d| d.sent_at == sent_at) else { return Ok(()) };
        let after = Delivery { flags: before.flags.with(Flags::EXPIRED), ..before };
        self.replace(key, Some(&before), &after)
    }

    /// An email whose own events are still to come is known by its first delivery.
    fn note_email(&mut self, (org, email, _): Key, message_id: &str) -> rusqlite::Result<()> {
        if self.emails_known.insert((org, email)) {
            let from_domain = message_id.rsplit_once('@').map_or("", |(_, domain)| domain);
            self.db.prepare_cached("INSERT INTO emails VALUES (?1, ?2, ?3, NULL) ON CONFLICT DO NOTHING")?.execute((
                org,
                email,
                from_domain,
            ))?;
        }
        Ok(())
    }

    fn delivery(&self, key: Key) -> rusqlite::Result<Option<Delivery>> {
        self.db
            .prepare_cached(
                "SELECT state, attempt, source, domain, provider, token, sent_at, flags
                 FROM deliveries WHERE org = ?1 AND email = ?2 AND user = ?3",
            )?
            .query_row(key, delivery_row)
            .optional()
    }

    /// The facts that came before their delivery. Those with another token were about nothing of ours.
    fn early_evidence(&self, key: Key, token: i64) -> rusqlite::Result<Flags> {
        let (org, email, user) = key;
        let mut select = self.db.prepare_cached("SELECT token, kind FROM facts WHERE org = ?1 AND email = ?2 AND user = ?3")?;
        let found = select.query_map(key, |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))?.collect::<Result<Vec<_>, _>>()?;
        if found.iter().any(|(t, _)| *t != token) {
            self.db
                .prepare_cached("DELETE FROM facts WHERE org = ?1 AND email = ?2 AND user = ?3 AND token <> ?4")?
                .execute((org, email, user, token))?;
        }
        Ok(found.iter().filter(|(t, _)| *t == token).fold(Flags::default(), |flags, (_, kind)| flags.with(Flags(1 << kind))))
    }

    fn watch(&mut self, (org, email, user): Key, sent_at: i64) -> rusqlite::Result<()> {
        let position = match self.watch_next {
            Some(position) => position,
            None => self.db.prepare_cached("SELECT position FROM watch_next")?.query_row([], |r| r.get(0))?,
        };
        self.watch_next = Some(position + 1);
        self.db.prepare_cached("INSERT INTO watch VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((org, position, email, user, sent_at))?;
        Ok(())
    }

    fn replace(&mut self, key: Key, before: Option<&Delivery>, after: &Delivery) -> rusqlite::Result<()> {
        let (org, email, user) = key;
        if let Some(before) = before {
            *self.counts.entry((org, email, before.domain, before.provider)).or_default() -= before.tally();
        }
        *self.counts.entry((org, email, after.domain, after.provider)).or_default() += after.tally();
        self.db.prepare_cached("INSERT OR REPLACE INTO deliveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?.execute((
            org,
            email,
            user,
            after.state as i64,
            after.attempt,
            i64::from(after.source == Source::Backfill),
            after.domain,
            after.provider,
            after.token,
            after.sent_at,
            after.flags.0,
        ))?;
        Ok(())
    }
}
