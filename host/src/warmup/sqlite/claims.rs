//! Claims: rows that are due go into `sending`, in the commit that hands them out.

use crate::db::DbError;
use crate::model::address::Address;
use crate::model::delivery::{Source, State};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::warmup::sqlite::blocks::{Block, Slot, Users, slot_of};
use crate::warmup::sqlite::outcomes::{Deltas, pace};
use crate::warmup::sqlite::rows::{Context, address, state};
use crate::warmup::sqlite::sending::in_no_hand;
use crate::warmup::sqlite::{backfill, emails, fan_out, fresh, sending};
use crate::warmup::store::{BackfillPace, Claim, Claimed, LaneKey, Lanes, Turn};
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The queues of `deliveries`: retries of live mail, and the archive with its retries. Live mail that is untried stands in `fresh`,
/// and its turn comes between the two.
pub const QUEUES: [i64; 2] = [retries(Source::Live), retries(Source::Backfill)];

/// The queue in which what was tried waits.
pub const fn retries(source: Source) -> i64 {
    match source {
        Source::Live => 0,
        Source::Backfill => 2,
    }
}

pub fn claim(connection: &Connection, context: &mut Context, turn: &Turn) -> Result<Vec<Claimed>, DbError> {
    let mut claimed = Vec::new();
    for claim in &turn.claims {
        from_lane(connection, context, turn, claim, &mut claimed)?;
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
        context.sending.hand_over(connection, claimed.delivery, client)?;
    }
    Ok(())
}

fn from_lane(
    connection: &Connection,
    context: &mut Context,
    turn: &Turn,
    claim: &Claim,
    claimed: &mut Vec<Claimed>,
) -> Result<(), DbError> {
    let LaneKey { org, source, .. } = claim.lane;
    let provider = context.name_id(connection, &claim.lane.provider)?;
    let mut in_hand = |block| context.sending.of_block(connection, block);
    let retried = retried(connection, (org, provider, retries(source)), turn.now, claim.rows_max, &mut in_hand)?;
    let wanted = claim.rows_max - retried.len();
    let blocks = match source == Source::Live && wanted > 0 {
        true => fresh::due(connection, (org.0, provider), wanted, in_hand)?,
        false => Vec::new(),
    };
    if retried.is_empty() && blocks.is_empty() {
        return Ok(());
    }
    let mut lane = Lane {
        connection,
        now: turn.now,
        pace: pace(turn, org),
        claim,
        provider,
        org_name: context.org_name(connection, org)?,
        provider_name: context.name(connection, provider)?,
        client: context.name_id(connection, &claim.client)?,
        counts: Deltas::default(),
        claimed,
    };
    for row in retried {
        lane.take_retried(context, row)?;
    }
    for (block, users) in blocks {
        lane.take_fresh(context, block, users)?;
    }
    lane.counts.write(connection, context, turn.now)
}

/// A claim's lane, and what of it is claimed.
struct Lane<'a> {
    connection: &'a Connection,
    now: i64,
    pace: BackfillPace,
    claim: &'a Claim,
    org_name: OrgName,
    provider: i64,
    provider_name: Arc<str>,
    client: i64,
    counts: Deltas,
    claimed: &'a mut Vec<Claimed>,
}

impl Lane<'_> {
    /// Claims a row of `deliveries`, unless the user has left or the pace of the archive keeps it.
    fn take_retried(&mut self, context: &mut Context, row: Due) -> Result<(), DbError> {
        let (block, slot) = Block::of(row.delivery);
        if row.user.suppressed {
            return self.suppress(context, &row);
        }
        if row.source == Source::Backfill && backfill::holds_back(self.connection, &mut context.sending, row.delivery, self.pace, self.now)?
        {
            return Ok(());
        }
        context.sending.enter(self.connection, block, Users::one(slot), self.client)?;
        self.push(context, row)
    }

    /// Claims users of a block that nobody has tried to write to, those excepted that have left.
    fn take_fresh(&mut self, context: &mut Context, block: Block, users: Users) -> Result<(), DbError> {
        let queued_at = context.email(self.connection, OrgId(block.org), block.email)?.created_at;
        let mut gone = Users::default();
        for (slot, user) in users_of(self.connection, block, users)? {
            let untried = Due { delivery: block.delivery(slot), attempts: 0, was: State::Queued, queued_at, source: Source::Live, user };
            if untried.user.suppressed {
                gone = gone.with(Users::one(slot));
                self.suppress(context, &untried)?;
            } else {
                self.push(context, untried)?;
            }
        }
        if !gone.is_empty() {
            // The next claim of the lane reads the table.
            context.fresh.take(self.connection, block, self.provider, gone)?;
            context.fresh.write(self.connection)?;
        }
        let taken = users.without(gone);
        if taken.is_empty() { Ok(()) } else { context.sending.enter(self.connection, block, taken, self.client) }
    }

    /// The user unsubscribed after the delivery was queued.
    fn suppress(&mut self, context: &mut Context, row: &Due) -> Result<(), DbError> {
        let (key, now) = (row.delivery, self.now);
        self.connection
            .prepare_cached(
                "INSERT INTO deliveries (org, email, user, provider, source, queued_at, state, finished_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 5, ?7)
                 ON CONFLICT (org, email, user) DO UPDATE SET state = 5, queue = NULL, next_at = NULL, finished_at = excluded.finished_at",
            )?
            .execute([key.org.0, key.email.0, key.user.0, self.provider, row.source as i64, row.queued_at, now])?;
        if row.source == Source::Backfill {
            backfill::finished(self.connection, key, BackfillPace::AT_ONCE, now)?;
        }
        self.counts.moved((key.org, key.email.0), &self.provider_name, row.was, State::Suppressed);
        fan_out::tell_suppressed(self.connection, context, key, row.source, now)
    }

    fn push(&mut self, context: &mut Context, row: Due) -> Result<(), DbError> {
        let key = row.delivery;
        let from_domain = context.email(self.connection, key.org, key.email.0)?.from_domain;
        self.claimed.push(Claimed {
            delivery: key,
            org_name: self.org_name.clone(),
            address: row.user.address,
            name: row.user.name,
            provider: self.provider_name.clone(),
            client: self.claim.client.clone(),
            source: row.source,
            was: row.was,
            attempt: row.attempts + 1,
            queued_at: row.queued_at,
            message_id: context.tokens.recipient_message_id(key, &from_domain).into(),
        });
        Ok(())
    }
}

/// To whom a row goes.
pub struct User {
    pub address: Address,
    pub name: String,
    suppressed: bool,
}

impl User {
    /// From the first four columns.
    fn read(row: &Row<'_>) -> rusqlite::Result<User> {
        Ok(User { address: address(row, 0, 1)?, name: row.get(2)?, suppressed: row.get(3)? })
    }
}

/// A delivery that is due.
struct Due {
    delivery: DeliveryKey,
    attempts: i64,
    was: State,
    queued_at: i64,
    source: Source,
    user: User,
}

const RETRIED: &str =
    "SELECT u.address_key, u.address, u.name, u.suppressed_at IS NOT NULL, d.email, d.user, d.attempts, d.state, d.queued_at, d.source
     FROM deliveries d INDEXED BY deliveries_due JOIN users u ON u.org = d.org AND u.number = d.user
     WHERE d.org = ?1 AND d.provider = ?2 AND d.queue = ?3 AND d.next_at <= ?4 ORDER BY d.next_at, d.email, d.user";

/// The first `wanted` rows of a queue that no client has in hand. Walks over those that one has.
fn retried(
    connection: &Connection,
    (org, provider, queue): (OrgId, i64, i64),
    now: i64,
    wanted: usize,
    in_hand: &mut impl FnMut(Block) -> Result<Users, DbError>,
) -> Result<Vec<Due>, DbError> {
    let mut statement = connection.prepare_cached(RETRIED)?;
    let mut rows = statement.query([org.0, provider, queue, now])?;
    let mut found = Vec::new();
    while found.len() < wanted
        && let Some(row) = rows.next()?
    {
        let delivery = DeliveryKey { org, email: EmailNumber(row.get(4)?), user: UserNumber(row.get(5)?) };
        let (block, slot) = Block::of(delivery);
        if in_hand(block)?.has(slot) {
            continue;
        }
        found.push(Due {
            delivery,
            attempts: row.get(6)?,
            was: state(row.get(7)?)?,
            queued_at: row.get(8)?,
            source: if row.get::<_, i64>(9)? == 0 { Source::Live } else { Source::Backfill },
            user: User::read(row)?,
        });
    }
    Ok(found)
}

/// Users of a block, each with his bit. A search for each row of neighbours.
pub fn users_of(connection: &Connection, block: Block, users: Users) -> Result<Vec<(Slot, User)>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT address_key, address, name, suppressed_at IS NOT NULL, number FROM users
         WHERE org = ?1 AND number BETWEEN ?2 AND ?3 ORDER BY number",
    )?;
    let mut found = Vec::with_capacity(users.len());
    for (first, last) in users.runs() {
        let (first, last) = (block.delivery(first).user.0, block.delivery(last).user.0);
        let mut rows = statement.query([block.org, first, last])?;
        while let Some(row) = rows.next()? {
            found.push((slot_of(row.get(4)?), User::read(row)?));
        }
    }
    Ok(found)
}

/// Walks from lane to lane, so that it costs a step a lane and not a step a row.
pub fn lanes(connection: &Connection, now: i64) -> Result<Lanes, DbError> {
    let mut lanes = Lanes::default();
    let mut at = (i64::MIN, i64::MIN);
    let mut name = connection.prepare_cached("SELECT name FROM names WHERE id = ?1")?;
    while let Some((org, provider)) = next_lane(connection, at)? {
        at = (org, provider);
        let provider_name: Arc<str> = name.query_row([provider], |row| row.get::<_, String>(0))?.into();
        for source in [Source::Live, Source::Backfill] {
            match earliest(connection, org, provider, source)? {
                Some(due) if due <= now => lanes.due.push(LaneKey { org: OrgId(org), provider: provider_name.clone(), source }),
                later => lanes.next_at = [lanes.next_at, later].into_iter().flatten().min(),
            }
        }
    }
    Ok(lanes)
}

/// The lane behind another one, of those in which something waits or is in hand.
fn next_lane(connection: &Connection, behind: (i64, i64)) -> Result<Option<(i64, i64)>, DbError> {
    let mut next = None;
    for sql in [
        "SELECT org, provider FROM deliveries INDEXED BY deliveries_due WHERE queue IS NOT NULL AND (org, provider) > (?1, ?2)
         ORDER BY org, provider LIMIT 1",
        "SELECT org, provider FROM fresh WHERE (org, provider) > (?1, ?2) ORDER BY org, provider LIMIT 1",
    ] {
        let found = connection.prepare_cached(sql)?.query_row([behind.0, behind.1], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        next = [next, found].into_iter().flatten().min();
    }
    Ok(next)
}

/// When the first row of a lane that no client has in hand is due.
fn earliest(connection: &Connection, org: i64, provider: i64, source: Source) -> Result<Option<i64>, DbError> {
    let in_hand = |block| sending::of_block(connection, block);
    if source == Source::Live && !fresh::due(connection, (org, provider), 1, in_hand)?.is_empty() {
        return Ok(Some(0));
    }
    let first = connection
        .prepare_cached(concat!(
            "SELECT d.next_at FROM deliveries d INDEXED BY deliveries_due WHERE d.org = ?1 AND d.provider = ?2 AND d.queue = ?3 AND ",
            in_no_hand!(),
            "ORDER BY d.next_at, d.email, d.user LIMIT 1"
        ))?
        .query_row([org, provider, retries(source)], |row| row.get(0))
        .optional()?;
    Ok(first)
}
