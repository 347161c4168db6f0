//! Applies events to the ledger within one transaction.
//!
//! Invariant: counts change only by the difference of what a delivery counted as before and after.

use crate::bus::Position;
use crate::db::DbError;
use crate::health::sqlite::blocks::{self, Block, Packed};
use crate::health::sqlite::names::Names;
use crate::health::sqlite::topic_number;
use crate::health::tally::{Delivery, Flags, Tally, is_watched, kind_number};
use crate::model::event::{EmailProgressed, Event, FactsReported, RecipientChanged};
use crate::model::message_id::RecipientMessageId;
use crate::model::number_map::NumberMap;
use postwarm_plugin_api::{Fact, Report};
use rusqlite::{Connection, OptionalExtension};
use std::collections::hash_map::Entry;
use std::sync::Arc;

pub type Key = (i64, i64, i64);

/// One batch.
pub struct Batch<'a> {
    db: &'a Connection,
    names: &'a mut Names,
    /// By organization, email, domain, provider.
    counts: NumberMap<(i64, i64, i64, i64), Tally>,
    /// When a domain was last seen, its provider's name and number, by organization and domain.
    domains: NumberMap<(i64, i64), (i64, Arc<str>, i64)>,
    /// When the first message was sent, by organization and email.
    first_sent: NumberMap<(i64, i64), i64>,
    blocks: NumberMap<i64, Loaded>,
}

/// A block that the batch has read.
struct Loaded {
    org: i64,
    block: Block,
    /// What the row says of the oldest that is watched; `None` where there is no row yet.
    stored: Option<Option<i64>>,
    /// Facts came about deliveries of this block.
    has_facts: bool,
    changed: bool,
}

impl<'a> Batch<'a> {
    pub fn new(db: &'a Connection, names: &'a mut Names) -> Batch<'a> {
        let (counts, domains, first_sent, blocks) = Default::default();
        Batch { db, names, counts, domains, first_sent, blocks }
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
        for (id, loaded) in self.blocks.iter().filter(|(_, loaded)| loaded.changed) {
            store(self.db, *id, loaded)?;
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
                "INSERT INTO emails (org, email, from_domain, recipients) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET from_domain = excluded.from_domain, recipients = excluded.recipients",
            )?
            .execute((org, e.email.0, &e.from_domain, e.recipients))?;
        Ok(())
    }

    fn apply_recipient(&mut self, e: &RecipientChanged) -> rusqlite::Result<()> {
        let org = self.names.org(self.db, &e.org)?;
        let (domain, provider) = (self.names.domain(self.db, &e.domain)?, self.names.provider(self.db, &e.provider)?);
        let key = (org, e.email.0, e.user.0);
        let Some(place) = self.place(key, &e.message_id)? else { return Ok(()) };
        // Of changes in the same millisecond, the provider's name decides, so that their order does not.
        let latest = self.domains.entry((org, domain)).or_insert_with(|| (e.at, e.provider.clone(), provider));
        if (e.at, &e.provider) > (latest.0, &latest.1) {
            *latest = (e.at, e.provider.clone(), provider);
        }
        let before = self.delivery(place)?;
        let mut after = Delivery::from_change(e, domain, provider);
        if is_watched(after.state) {
            let first = self.first_sent.entry((org, e.email.0)).or_insert(after.sent_at);
            *first = after.sent_at.min(*first);
        }
        match &before {
            Some(before) if !after.supersedes(before) => return Ok(()),
            Some(before) => after = after.with_evidence_of(before),
            None if self.loaded(place.0)?.has_facts => after.flags = after.flags.with(self.early_evidence(key, after.token)?),
            None => {}
        }
        self.replace(key, place, before.as_ref(), &after)
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
        let email_id = self.names.email(self.db, (org, id.email))?;
        let place = email_id.and_then(|email_id| blocks::place_of(email_id, id.user));
        let before = match place {
            Some(place) => self.delivery(place)?,
            None => None,
        };
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
        let Some(place) = place else { return Ok(()) };
        self.loaded(place.0)?.has_facts = true;
        let Some(before) = before else { return Ok(()) };
        let after = Delivery { flags: before.flags.with(Flags::of(fact.kind)), ..before };
        if after == before { Ok(()) } else { self.replace(key, place, Some(&before), &after) }
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

    /// Ends the watch of up to `max` messages of a block that were sent before `sent_before`; answers of how many.
    pub fn expire(&mut self, block: i64, (org, email): (i64, i64), sent_before: i64, max: usize) -> rusqlite::Result<usize> {
        let watched = self.loaded(block)?.block.watched();
        let due: Vec<usize> = watched.filter(|(_, packed)| packed.sent_at < sent_before).map(|(slot, _)| slot).take(max).collect();
        for &slot in &due {
            let Some(before) = self.delivery((block, slot))? else { continue };
            let after = Delivery { flags: before.flags.with(Flags::EXPIRED), ..before };
            self.replace((org, email, blocks::user_of(block, slot)), (block, slot), Some(&before), &after)?;
        }
        Ok(due.len())
    }

    /// Where a delivery stands. An email whose own events are still to come is known by its first delivery.
    fn place(&mut self, (org, email, user): Key, message_id: &str) -> rusqlite::Result<Option<(i64, usize)>> {
        if let Some(id) = self.names.email(self.db, (org, email))? {
            return Ok(blocks::place_of(id, user));
        }
        let from_domain = message_id.rsplit_once('@').map_or("", |(_, domain)| domain);
        let add = "INSERT INTO emails (org, email, from_domain) VALUES (?1, ?2, ?3)";
        self.db.prepare_cached(add)?.execute((org, email, from_domain))?;
        Ok(blocks::place_of(self.db.last_insert_rowid(), user))
    }

    /// The block, read once a batch.
    fn loaded(&mut self, id: i64) -> rusqlite::Result<&mut Loaded> {
        match self.blocks.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => Ok(free.insert(load(self.db, id)?)),
        }
    }

    fn delivery(&mut self, (block, slot): (i64, usize)) -> rusqlite::Result<Option<Delivery>> {
        let Some(packed) = self.loaded(block)?.block.get(slot) else { return Ok(None) };
        Ok(Some(packed.delivery(self.names.placed(self.db, packed.place)?)))
    }

    /// The facts that came before their delivery. Those with another token were about nothing of ours.
    fn early_evidence(&self, key: Key, token: i64) -> rusqlite::Result<Flags> {
        let (org, email, user) = key;
        let mut facts = self.db.prepare_cached("SELECT token, kind FROM facts WHERE org = ?1 AND email = ?2 AND user = ?3")?;
        let found = facts.query_map(key, |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))?.collect::<Result<Vec<_>, _>>()?;
        if found.iter().any(|(t, _)| *t != token) {
            self.db
                .prepare_cached("DELETE FROM facts WHERE org = ?1 AND email = ?2 AND user = ?3 AND token <> ?4")?
                .execute((org, email, user, token))?;
        }
        Ok(found.iter().filter(|(t, _)| *t == token).fold(Flags::default(), |flags, (_, kind)| flags.with(Flags(1 << kind))))
    }

    fn replace(&mut self, key: Key, place: (i64, usize), before: Option<&Delivery>, after: &Delivery) -> rusqlite::Result<()> {
        let (org, email, _) = key;
        if let Some(before) = before {
            *self.counts.entry((org, email, before.domain, before.provider)).or_default() -= before.tally();
        }
        *self.counts.entry((org, email, after.domain, after.provider)).or_default() += after.tally();
        let packed = Packed::of(after, self.names.place(self.db, (after.domain, after.provider))?);
        let loaded = self.loaded(place.0)?;
        loaded.org = org;
        loaded.block.set(place.1, &packed);
        loaded.changed = true;
        Ok(())
    }
}

/// Reads a block; one that is not there yet is empty.
fn load(db: &Connection, id: i64) -> rusqlite::Result<Loaded> {
    let row = db
        .prepare_cached("SELECT org, oldest, packed FROM blocks WHERE id = ?1")?
        .query_row([id], |r| Ok((r.get(0)?, r.get(1)?, Block::stored(r.get(2)?))))
        .optional()?;
    let (org, stored, block) = row.map_or((0, None, Block::default()), |(org, oldest, block)| (org, Some(oldest), block));
    let has_facts = db
        .prepare_cached(
            "SELECT 1 FROM emails e JOIN facts f ON f.org = e.org AND f.email = e.email AND f.user BETWEEN ?2 AND ?3 WHERE e.id = ?1",
        )?
        .exists((blocks::email_of(id), blocks::user_of(id, 0), blocks::user_of(id, blocks::SLOT_LAST)))?;
    Ok(Loaded { org, block, stored, has_facts, changed: false })
}

/// Writes a block. The lists of what is watched change only with its oldest.
fn store(db: &Connection, id: i64, loaded: &Loaded) -> rusqlite::Result<()> {
    let (oldest, packed) = (loaded.block.oldest(), loaded.block.octets());
    match loaded.stored {
        Some(stored) if stored == oldest => {
            db.prepare_cached("UPDATE blocks SET packed = ?2 WHERE id = ?1")?.execute((id, packed))?;
        }
        Some(_) => {
            db.prepare_cached("UPDATE blocks SET oldest = ?2, packed = ?3 WHERE id = ?1")?.execute((id, oldest, packed))?;
        }
        None => {
            db.prepare_cached("INSERT INTO blocks (id, org, oldest, packed) VALUES (?1, ?2, ?3, ?4)")?
                .execute((id, loaded.org, oldest, packed))?;
        }
    }
    Ok(())
}
