//! Claims: rows that are due go into `sending`, in the commit that hands them out.

use crate::db::DbError;
use crate::model::address::Address;
use crate::model::delivery::{Source, State};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use crate::warmup::sqlite::outcomes::{Deltas, pace};
use crate::warmup::sqlite::rows::{Context, address, state};
use crate::warmup::sqlite::{backfill, emails, fan_out};
use crate::warmup::store::{BackfillPace, Claim, Claimed, LaneKey, Lanes, Turn};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Retries before live mail before back-fill.
pub const QUEUES: [i64; 3] = [0, LIVE, 2];

/// The queue of live mail that no client has had yet.
const LIVE: i64 = 1;

/// The queues of a lane in the order of their turn; back-fill and its retries are one.
fn queues(source: Source) -> &'static [i64] {
    match source {
        Source::Live => &QUEUES[..2],
        Source::Backfill => &QUEUES[2..],
    }
}

pub fn claim(connection: &Connection, context: &mut Context, turn: &Turn) -> Result<Vec<Claimed>, DbError> {
    let mut claimed = Vec::new();
    for claim in &turn.claims {
        let mut wanted = claim.rows_max;
        for &queue in queues(claim.lane.source) {
            if wanted > 0 {
                let before = claimed.len();
                from_queue(connection, context, (turn, claim), (queue, wanted), &mut claimed)?;
                wanted -= claimed.len() - before;
            }
        }
    }
    let begun: BTreeSet<(OrgId, i64)> = claimed.iter().map(|c| (c.delivery.org, c.delivery.email.0)).collect();
    for (org, email) in begun {
        emails::start(connection, context, org, email, turn.now)?;
    }
    Ok(claimed)
}

/// Notes the client that has each row now.
pub fn hand_over(connection: &Connection, context: &mut Context, handed: &[Arc<Claimed>]) -> Result<(), DbError> {
    for claimed in handed {
        let client = context.name_id(connection, &claimed.client)?;
        let key = claimed.delivery;
        connection.prepare_cached("UPDATE sending SET client = ?4 WHERE org = ?1 AND email = ?2 AND user = ?3")?.execute([
            key.org.0,
            key.email.0,
            key.user.0,
            client,
        ])?;
    }
    Ok(())
}

/// A row as the index of due rows gives it.
struct Due {
    email: i64,
    user: i64,
    attempts: i64,
    was: State,
    queued_at: i64,
    source: Source,
    address: Address,
    name: String,
    suppressed: bool,
    next_at: i64,
}

const DUE: &str = "
    SELECT d.email, d.user, d.attempts, d.state, d.queued_at, d.source, u.address_key, u.address, u.name, u.suppressed_at IS NOT NULL,
           d.next_at
    FROM deliveries d INDEXED BY deliveries_due JOIN users u ON u.org = d.org AND u.number = d.user
    WHERE d.org = ?1 AND d.provider = ?2 AND d.queue = ?3 AND d.next_at <= ?4 AND (d.next_at, d.email, d.user) > (?6, ?7, ?8)
      AND NOT EXISTS (SELECT 1 FROM sending s WHERE s.org = d.org AND s.email = d.email AND s.user = d.user)
    ORDER BY d.next_at, d.email, d.user LIMIT ?5";

/// Where a queue stands in the index of due rows.
type Place = (i64, i64, i64);

const START: Place = (i64::MIN, i64::MIN, i64::MIN);

/// How far live mail was claimed, by organization and provider: what stands before that is in hand or has left the queue, so that a
/// claim need not walk over it. Fan-out goes by email and user, as the queue does, and nothing comes back to this queue.
///
/// Invariant: no more than a help. A claim that finds fewer rows than it wants makes the next one begin at the start.
#[derive(Default)]
pub struct Claims(HashMap<(OrgId, i64), Place>);

impl Claims {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn place(&self, org: OrgId, provider: i64, queue: i64) -> Place {
        if queue == LIVE { self.0.get(&(org, provider)).copied().unwrap_or(START) } else { START }
    }

    fn came_to(&mut self, org: OrgId, provider: i64, queue: i64, place: Option<Place>) {
        if queue != LIVE {
            return;
        }
        match place {
            Some(place) => self.0.insert((org, provider), place),
            None => self.0.remove(&(org, provider)),
        };
    }
}

fn from_queue(
    connection: &Connection,
    context: &mut Context,
    (turn, claim): (&Turn, &Claim),
    (queue, wanted): (i64, usize),
    claimed: &mut Vec<Claimed>,
) -> Result<(), DbError> {
    let now = turn.now;
    let provider = context.name_id(connection, &claim.lane.provider)?;
    let behind = context.claims.place(claim.lane.org, provider, queue);
    let due = due(connection, claim.lane.org, provider, (queue, wanted, now), behind)?;
    let last = due.last().filter(|_| due.len() == wanted).map(|row| (row.next_at, row.email, row.user));
    context.claims.came_to(claim.lane.org, provider, queue, last);
    if due.is_empty() {
        return Ok(());
    }
    let client = context.name_id(connection, &claim.client)?;
    let provider = context.name(connection, provider)?;
    let org_name = context.org_name(connection, claim.lane.org)?;
    let mut deltas = Deltas::default();
    let mut enter_sending =
        connection.prepare_cached("INSERT INTO sending (org, email, user, client, since) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for row in due {
        let delivery = DeliveryKey { org: claim.lane.org, email: EmailNumber(row.email), user: UserNumber(row.user) };
        if row.suppressed {
            suppress(connection, context, delivery, &row, now)?;
            deltas.moved((claim.lane.org, row.email), &provider, row.was, State::Suppressed);
            continue;
        }
        if row.source == Source::Backfill && backfill::holds_back(connection, delivery, pace(turn, claim.lane.org), now)? {
            continue;
        }
        enter_sending.execute([claim.lane.org.0, row.email, row.user, client, now])?;
        let from_domain = context.sender_domain(connection, claim.lane.org, row.email)?;
        claimed.push(Claimed {
            delivery,
            org_name: org_name.clone(),
            address: row.address,
            name: row.name,
            provider: provider.clone(),
            client: claim.client.clone(),
            source: row.source,
            was: row.was,
            attempt: row.attempts + 1,
            queued_at: row.queued_at,
            message_id: context.tokens.recipient_message_id(delivery, &from_domain).into(),
        });
    }
    deltas.write(connection, context, now)
}

fn due(
    connection: &Connection,
    org: OrgId,
    provider: i64,
    (queue, wanted, now): (i64, usize, i64),
    behind: Place,
) -> Result<Vec<Due>, DbError> {
    let mut statement = connection.prepare_cached(DUE)?;
    let mut rows = statement.query(params![org.0, provider, queue, now, wanted as i64, behind.0, behind.1, behind.2])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        due.push(Due {
            email: row.get(0)?,
            user: row.get(1)?,
            attempts: row.get(2)?,
            was: state(row.get(3)?)?,
            queued_at: row.get(4)?,
            source: if row.get::<_, i64>(5)? == 0 { Source::Live } else { Source::Backfill },
            address: address(row, "address_key", "address")?,
            name: row.get(8)?,
            suppressed: row.get(9)?,
            next_at: row.get(10)?,
        });
    }
    Ok(due)
}

/// The user unsubscribed after the row was made.
fn suppress(connection: &Connection, context: &mut Context, delivery: DeliveryKey, row: &Due, now: i64) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET state = 5, queue = NULL, next_at = NULL, finished_at = ?4 WHERE org = ?1 AND email = ?2 AND user = ?3",
        )?
        .execute([delivery.org.0, delivery.email.0, delivery.user.0, now])?;
    if row.source == Source::Backfill {
        backfill::finished(connection, delivery, BackfillPace::AT_ONCE, now)?;
    }
    fan_out::tell_suppressed(connection, context, delivery, row.source, now)
}

/// Walks the index of due rows from lane to lane, so that it costs a step a lane and not a step a row.
pub fn lanes(connection: &Connection, now: i64) -> Result<Lanes, DbError> {
    let mut lanes = Lanes::default();
    let mut at = (i64::MIN, i64::MIN);
    let mut next = connection.prepare_cached(
        "SELECT d.org, d.provider, n.name FROM deliveries d INDEXED BY deliveries_due JOIN names n ON n.id = d.provider
         WHERE d.queue IS NOT NULL AND (d.org, d.provider) > (?1, ?2) ORDER BY d.org, d.provider LIMIT 1",
    )?;
    loop {
        let found: Option<(i64, i64, String)> =
            next.query_row([at.0, at.1], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let Some((org, provider, name)) = found else { return Ok(lanes) };
        at = (org, provider);
        let name: Arc<str> = name.into();
        for source in [Source::Live, Source::Backfill] {
            match earliest(connection, org, provider, queues(source))? {
                Some(due) if due <= now => lanes.due.push(LaneKey { org: OrgId(org), provider: name.clone(), source }),
                later => lanes.next_at = [lanes.next_at, later].into_iter().flatten().min(),
            }
        }
    }
}

/// When the first row of a lane that no client has in hand is due.
fn earliest(connection: &Connection, org: i64, provider: i64, queues: &[i64]) -> Result<Option<i64>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT d.next_at FROM deliveries d INDEXED BY deliveries_due WHERE d.org = ?1 AND d.provider = ?2 AND d.queue = ?3
         AND NOT EXISTS (SELECT 1 FROM sending s WHERE s.org = d.org AND s.email = d.email AND s.user = d.user)
         ORDER BY d.next_at, d.email, d.user LIMIT 1",
    )?;
    let mut first = None;
    for queue in queues {
        let found: Option<i64> = statement.query_row([org, provider, *queue], |row| row.get(0)).optional()?;
        first = [first, found].into_iter().flatten().min();
    }
    Ok(first)
}
