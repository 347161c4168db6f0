//! Applies events to the ledger within one transaction.
//!
//! Invariant: counts change only by the difference of what a delivery counted as before and after.

use crate::bus::Position;
use crate::db::DbError;
use crate::health::sqlite::blocks::Block;
use crate::health::sqlite::names::Names;
use crate::health::sqlite::places::{self, Known, Seen};
use crate::health::sqlite::{chunks, topic_number};
use crate::health::tally::{Delivery, Flags, Tally, is_watched, kind_number};
use crate::model::event::{EmailProgressed, Event, FactsReported, RecipientChanged};
use crate::model::message_id::RecipientMessageId;
use crate::model::number_map::NumberMap;
use postwarm_plugin_api::{Fact, Report};
use rusqlite::{Connection, OptionalExtension};
use std::collections::hash_map::Entry;

pub type Key = (i64, i64, i64);

/// One batch.
pub struct Batch<'a> {
    db: &'a Connection,
    names: &'a mut Names,
    /// By the email's number in the ledger and place.
    figures: NumberMap<(i64, i64), Tally>,
    /// By organization and place.
    seen: NumberMap<(i64, i64), Seen>,
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
        let (figures, seen, first_sent, blocks) = Default::default();
        Batch { db, names, figures, seen, first_sent, blocks }
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
        places::merge(self.db, self.figures.into_iter().filter(|(_, tally)| !tally.is_nothing()))?;
        places::merge(self.db, self.seen.into_iter())?;
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
        let place = self.names.place(self.db, &e.domain, &e.provider)?;
        let key = (org, e.email.0, e.user.0);
        let Some(spot) = self.spot(key, &e.message_id)? else { return Ok(()) };
        self.seen.entry((org, place)).or_default().merge(Seen { at: e.at });
        let before = self.delivery(spot)?;
        let mut after = Delivery::from_change(e, place);
        if is_watched(after.state) {
            let first = self.first_sent.entry((org, e.email.0)).or_insert(after.sent_at);
            *first = after.sent_at.min(*first);
        }
        match &before {
            Some(before) if !after.supersedes(before) => return Ok(()),
            Some(before) => after = after.with_evidence_of(before),
            None if self.loaded(spot.0)?.has_facts => after.flags = after.flags.with(self.early_evidence(key, after.token)?),
            None => {}
        }
        self.replace(org, spot, before.as_ref(), &after)
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
        let email_id = self.names.email(self.db, (org, id.email))?;
        let spot = email_id.and_then(|email_id| chunks::row_of(email_id, id.user));
        let before = match spot {
            Some(spot) => self.delivery(spot)?,
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
        let Some(spot) = spot else { return Ok(()) };
        self.loaded(spot.0)?.has_facts = true;
        let Some(before) = before else { return Ok(()) };
        let after = Delivery { flags: before.flags.with(Flags::of(fact.kind)), ..before };
        if after == before { Ok(()) } else { self.replace(org, spot, Some(&before), &after) }
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
    pub fn expire(&mut self, block: i64, org: i64, sent_before: i64, max: usize) -> rusqlite::Result<usize> {
        let watched = self.loaded(block)?.block.watched();
        let due: Vec<usize> = watched.filter(|(_, delivery)| delivery.sent_at < sent_before).map(|(slot, _)| slot).take(max).collect();
        for &slot in &due {
            let Some(before) = self.delivery((block, slot))? else { continue };
            let after = Delivery { flags: before.flags.with(Flags::EXPIRED), ..before };
            self.replace(org, (block, slot), Some(&before), &after)?;
        }
        Ok(due.len())
    }

    /// The block of a delivery, and the slot in it. An email whose own events are still to come is known by its first delivery.
    fn spot(&mut self, (org, email, user): Key, message_id: &str) -> rusqlite::Result<Option<(i64, usize)>> {
        if let Some(id) = self.names.email(self.db, (org, email))? {
            return Ok(chunks::row_of(id, user));
        }
        let from_domain = message_id.rsplit_once('@').map_or("", |(_, domain)| domain);
        let add = "INSERT INTO emails (org, email, from_domain) VALUES (?1, ?2, ?3)";
        self.db.prepare_cached(add)?.execute((org, email, from_domain))?;
        Ok(chunks::row_of(self.db.last_insert_rowid(), user))
    }

    /// The block, read once a batch.
    fn loaded(&mut self, id: i64) -> rusqlite::Result<&mut Loaded> {
        match self.blocks.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => Ok(free.insert(load(self.db, id)?)),
        }
    }

    fn delivery(&mut self, (block, slot): (i64, usize)) -> rusqlite::Result<Option<Delivery>> {
        Ok(self.loaded(block)?.block.get(slot))
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

    fn replace(&mut self, org: i64, (block, slot): (i64, usize), before: Option<&Delivery>, after: &Delivery) -> rusqlite::Result<()> {
        let email_id = chunks::owner_of(block);
        if let Some(before) = before {
            *self.figures.entry((email_id, before.place)).or_default() -= before.tally();
        }
        *self.figures.entry((email_id, after.place)).or_default() += after.tally();
        let loaded = self.loaded(block)?;
        loaded.org = org;
        loaded.block.set(slot, after);
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
        .exists((chunks::owner_of(id), chunks::number_of(id, 0), chunks::number_of(id, chunks::SLOT_LAST)))?;
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
