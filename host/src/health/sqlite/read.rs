//! What is asked of the ledger.
//!
//! Invariant: every answer is read from one moment of the database, page by page where it could be large.

use crate::bus::{Position, Topic};
use crate::db::DbError;
use crate::health::sqlite::apply::Key;
use crate::health::sqlite::blocks::Block;
use crate::health::sqlite::names::{find_email, find_org};
use crate::health::sqlite::places::{self, Seen};
use crate::health::sqlite::{chunks, topic_number};
use crate::health::store::{EmailCounts, Evidence, FoundDelivery, LoopState, Part, WatchedDelivery};
use crate::health::tally::{Delivery, Tally, kind_number};
use crate::model::message_id::RecipientMessageId;
use crate::model::name::OrgName;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postwarm_plugin_api::{Fact, FactKind, Report};
use rusqlite::{Connection, OptionalExtension, Result};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

type Chosen = dyn Fn(&str) -> bool + Send + Sync;

const KINDS: [FactKind; 6] =
    [FactKind::Delivered, FactKind::Spam, FactKind::Opened, FactKind::Read, FactKind::Bounced, FactKind::Unsubscribed];

pub fn positions(db: &Connection) -> Result<Vec<Position>> {
    let mut all = Vec::new();
    for topic in [Topic::Emails, Topic::Recipients, Topic::Facts] {
        let mut select = db.prepare_cached("SELECT partition, next_offset FROM positions WHERE topic = ?1")?;
        let rows = select.query_map([topic_number(topic)], |r| Ok(Position { topic, partition: r.get(0)?, next_offset: r.get(1)? }))?;
        for row in rows {
            all.push(row?);
        }
    }
    Ok(all)
}

/// Up to `max` blocks with a watched message that was sent before `sent_before`, each with its organization.
pub fn blocks_before(db: &Connection, sent_before: i64, max: usize) -> Result<Vec<(i64, i64)>> {
    let mut select = db.prepare_cached("SELECT id, org FROM blocks WHERE oldest < ?1 ORDER BY oldest LIMIT ?2")?;
    select.query_map((sent_before, max as i64), |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
}

/// What is known of one delivery.
fn stored(db: &Connection, (org, email, user): Key) -> Result<Option<Delivery>> {
    let row = find_email(db, (org, email))?.and_then(|email_id| chunks::row_of(email_id, user));
    let Some((block, slot)) = row else { return Ok(None) };
    let select = "SELECT packed FROM blocks WHERE id = ?1";
    let found = db.prepare_cached(select)?.query_row([block], |r| r.get(0)).optional()?;
    Ok(found.and_then(|octets| Block::stored(octets).get(slot)))
}

/// The names of a recipient domain and its provider.
#[derive(Clone)]
struct Place {
    domain: String,
    provider: String,
}

fn place(db: &Connection, id: i64) -> Result<Place> {
    db.prepare_cached(
        "SELECT n.name, p.name FROM places l JOIN domains n ON n.id = l.domain JOIN providers p ON p.id = l.provider WHERE l.id = ?1",
    )?
    .query_row([id], |r| Ok(Place { domain: r.get(0)?, provider: r.get(1)? }))
}

/// Places by their numbers, each read once.
#[derive(Default)]
struct Places(HashMap<i64, Place>);

impl Places {
    fn get(&mut self, db: &Connection, id: i64) -> Result<Place> {
        match self.0.entry(id) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(free) => Ok(free.insert(place(db, id)?).clone()),
        }
    }
}

pub fn loop_state(db: &Connection, org: &OrgName, name: &str) -> Result<LoopState> {
    let Some(org) = find_org(db, org)? else { return Ok(LoopState::default()) };
    let found = db
        .prepare_cached("SELECT sequence, cursor, at FROM loops WHERE org = ?1 AND name = ?2")?
        .query_row((org, name), |r| Ok(LoopState { sequence: r.get(0)?, cursor: r.get(1)?, at: r.get(2)? }))
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub fn news(db: &Connection, (org, name): (&OrgName, &str), chosen: &Chosen, reports: Vec<Report>) -> Result<Vec<Report>> {
    let org = find_org(db, org)?;
    let mut kept = Vec::new();
    for report in reports {
        let is_news = match (&report, org) {
            (Report::Message(fact), org) => fact_is_news(db, org, chosen, fact)?,
            (_, None) => true,
            (Report::Aggregate(a), Some(org)) => aggregate_is_news(db, (org, name, &a.domain, &a.date, &a.metric), Some(a.value))?,
            (Report::NoData { domain, date }, Some(org)) => aggregate_is_news(db, (org, name, domain, date, ""), None)?,
        };
        if is_news {
            kept.push(report);
        }
    }
    Ok(kept)
}

/// A fact about a delivery that the ledger does not know yet is news too: its own event may still be on its way.
fn fact_is_news(db: &Connection, org: Option<i64>, chosen: &Chosen, fact: &Fact) -> Result<bool> {
    let Some(id) = RecipientMessageId::parse(&fact.message_id) else { return Ok(false) };
    let Some(org) = org else { return Ok(true) };
    if let Some(known) = stored(db, (org, id.email, id.user))?
        && (known.token != id.token || !chosen(&place(db, known.place)?.domain))
    {
        return Ok(false);
    }
    let mut seen = db.prepare_cached("SELECT 1 FROM facts WHERE org = ?1 AND email = ?2 AND user = ?3 AND token = ?4 AND kind = ?5")?;
    Ok(!seen.exists((org, id.email, id.user, id.token, kind_number(fact.kind)))?)
}

fn aggregate_is_news(db: &Connection, key: (i64, &str, &str, &str, &str), value: Option<f64>) -> Result<bool> {
    let (org, source, domain, date, metric) = key;
    let mut seen = db.prepare_cached(
        "SELECT 1 FROM aggregates WHERE org = ?1 AND source = ?2 AND domain = ?3 AND date = ?4 AND metric = ?5 AND value IS ?6",
    )?;
    Ok(!seen.exists((org, source, domain, date, metric, value))?)
}

pub fn watched(db: &Connection, org: &OrgName, chosen: &Chosen, after: u64, max: usize) -> Result<Vec<WatchedDelivery>> {
    let Some(org) = find_org(db, org)? else { return Ok(Vec::new()) };
    let (first, slot_after) = chunks::at_position(after.min(i64::MAX as u64) as i64);
    let mut select = db.prepare_cached(
        "SELECT b.id, b.packed, e.email, e.from_domain FROM blocks b INDEXED BY blocks_watched JOIN emails e ON e.id = b.id >> ?3
         WHERE b.org = ?1 AND b.oldest IS NOT NULL AND b.id >= ?2 ORDER BY b.id",
    )?;
    let mut rows = select.query((org, first, chunks::CHUNK_BITS))?;
    let mut page = Vec::new();
    let mut places: HashMap<i64, Option<String>> = HashMap::new();
    while page.len() < max {
        let Some(row) = rows.next()? else { break };
        let (id, block, email, from_domain): (i64, _, i64, String) = (row.get(0)?, Block::stored(row.get(1)?), row.get(2)?, row.get(3)?);
        for (slot, delivery) in block.watched().filter(|(slot, _)| id > first || *slot > slot_after) {
            if page.len() == max {
                break;
            }
            let domain = match places.entry(delivery.place) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => free.insert(Some(place(db, delivery.place)?.domain).filter(|domain| chosen(domain))),
            };
            if let Some(domain) = domain {
                let message_id = message_id(email, chunks::number_of(id, slot), delivery.token, &from_domain);
                let position = chunks::position_of(id, slot) as u64;
                page.push(WatchedDelivery { position, message_id, domain: domain.clone(), sent_at: delivery.sent_at });
            }
        }
    }
    Ok(page)
}

/// The Message-ID that a delivery was sent with.
fn message_id(email: i64, user: i64, token: i64, from_domain: &str) -> String {
    format!("{email}.{user}.{}@{from_domain}", URL_SAFE_NO_PAD.encode(&token.to_be_bytes()[2..]))
}

pub fn emails(db: &Connection, org: &OrgName, after: i64, limit: usize) -> std::result::Result<Vec<EmailCounts>, DbError> {
    let Some(org) = find_org(db, org)? else { return Ok(Vec::new()) };
    let mut select = db.prepare_cached(
        "SELECT e.id, email, from_domain, recipients, f.at FROM emails e LEFT JOIN first_sent f USING (org, email)
         WHERE org = ?1 AND email > ?2 ORDER BY email LIMIT ?3",
    )?;
    let mut rows = select.query((org, after, limit as i64))?;
    let (mut found, mut places) = (Vec::new(), Places::default());
    while let Some(row) = rows.next()? {
        let parts = parts(db, row.get(0)?, &mut places)?;
        let (email, from_domain, live, first_sent_at) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        found.push(EmailCounts { email, from_domain, live, first_sent_at, parts });
    }
    Ok(found)
}

/// The figures of an email, in the order of domains and providers.
fn parts(db: &Connection, email_id: i64, places: &mut Places) -> std::result::Result<Vec<Part>, DbError> {
    let mut parts = Vec::new();
    for (id, tally) in places::of::<Tally>(db, email_id)? {
        let Place { domain, provider } = places.get(db, id)?;
        parts.push(Part { domain, provider, tally });
    }
    parts.sort_by(|a, b| (&a.domain, &a.provider).cmp(&(&b.domain, &b.provider)));
    Ok(parts)
}

pub fn delivery(db: &Connection, org: &OrgName, (email, user): (i64, i64), token: i64) -> Result<Option<FoundDelivery>> {
    let Some(org) = find_org(db, org)? else { return Ok(None) };
    let Some(delivery) = stored(db, (org, email, user))?.filter(|delivery| delivery.token == token) else { return Ok(None) };
    let Place { domain, provider } = place(db, delivery.place)?;
    let from_domain =
        db.prepare_cached("SELECT from_domain FROM emails WHERE org = ?1 AND email = ?2")?.query_row((org, email), |r| r.get(0))?;
    let mut found = FoundDelivery { delivery, domain, provider, from_domain, facts: Vec::new() };
    let mut select = db.prepare_cached(
        "SELECT kind, at, seen_at, source FROM facts WHERE org = ?1 AND email = ?2 AND user = ?3 AND token = ?4 ORDER BY kind",
    )?;
    let rows = select.query_map((org, email, user, token), |r| {
        let number: i64 = r.get(0)?;
        let kind = KINDS.into_iter().find(|k| kind_number(*k) == number);
        let kind = kind.ok_or(rusqlite::Error::IntegralValueOutOfRange(0, number))?;
        Ok(Evidence { kind, at: r.get(1)?, seen_at: r.get(2)?, source: r.get(3)? })
    })?;
    found.facts = rows.collect::<Result<_>>()?;
    Ok(Some(found))
}

pub fn domains(db: &Connection, org: &OrgName, after: &str, limit: usize) -> std::result::Result<Vec<(String, String)>, DbError> {
    let Some(org) = find_org(db, org)? else { return Ok(Vec::new()) };
    let mut latest: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for (id, Seen { at }) in places::of::<Seen>(db, org)? {
        let Place { domain, provider } = place(db, id)?;
        if *domain > *after {
            let known = latest.entry(domain).or_default();
            // Of changes in the same millisecond, the provider's name decides, so that their order does not.
            *known = std::mem::take(known).max((at, provider));
        }
    }
    Ok(latest.into_iter().take(limit).map(|(domain, (_, provider))| (domain, provider)).collect())
}
