//! What became of claimed rows: state, event, counters and back-fill in one commit. And what the limits have counted.

use crate::db::DbError;
use crate::model::delivery::{Said, Source, State};
use crate::model::event::{Event, RecipientChanged};
use crate::model::name::OrgId;
use crate::warmup::sqlite::blocks::{Block, Users};
use crate::warmup::sqlite::claims::retries;
use crate::warmup::sqlite::rows::{Context, fault_number};
use crate::warmup::sqlite::sent::entries::New;
use crate::warmup::sqlite::{backfill, clock, emails, outbox, waiting};
use crate::warmup::store::{BackfillPace, Claimed, Recorded, Settled, Turn, Usage};
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The pace of an organization whose settings are gone.
const PACE: BackfillPace = BackfillPace { messages: 1, per: Duration::from_secs(10), hold_max: Duration::from_secs(3600) };

/// How the counters of one email change.
#[derive(Default)]
pub struct Deltas {
    emails: BTreeMap<(OrgId, i64), [i64; 7]>,
    /// By lane: queued and deferred.
    lanes: BTreeMap<(OrgId, i64, Arc<str>), (i64, i64)>,
}

impl Deltas {
    pub fn moved(&mut self, (org, email): (OrgId, i64), provider: &Arc<str>, from: State, to: State) {
        let counts = self.emails.entry((org, email)).or_default();
        let (queued, deferred) = self.lanes.entry((org, email, provider.clone())).or_default();
        for (state, by) in [(from, -1), (to, 1)] {
            counts[state as usize] += by;
            match state {
                State::Queued => *queued += by,
                State::Deferred => *deferred += by,
                _ => {}
            }
        }
    }

    /// Writes the changes and completes the emails that nobody waits for any more.
    pub fn write(self, connection: &Connection, context: &mut Context, now: i64) -> Result<(), DbError> {
        // Who waits in a lane is not among those that `progress` counts as settled, so that such an email cannot be complete.
        let mut waits = BTreeSet::new();
        for ((org, email, provider), change) in self.lanes {
            if waiting::moved(connection, context, (org, email, &provider), change)? {
                waits.insert((org, email));
            }
        }
        for ((org, email), counts) in self.emails {
            let of = |state: State| counts[state as usize];
            connection
                .prepare_cached(
                    "UPDATE progress SET deferred = deferred + ?3, sent = sent + ?4, failed = failed + ?5, suppressed = suppressed + ?6,
                     unknown = unknown + ?7 WHERE org = ?1 AND number = ?2",
                )?
                .execute(params![
                    org.0,
                    email,
                    of(State::Deferred),
                    of(State::Sent),
                    of(State::Failed),
                    of(State::Suppressed),
                    of(State::Unknown)
                ])?;
            if !waits.contains(&(org, email)) {
                emails::complete(connection, context, org, email, now)?;
            }
        }
        Ok(())
    }
}

pub fn record(connection: &Connection, context: &mut Context, turn: &Turn) -> Result<(), DbError> {
    if turn.outcomes.is_empty() {
        return Ok(());
    }
    let mut changes = Changes::default();
    for recorded in turn.outcomes.iter() {
        one(connection, context, turn, recorded, &mut changes)?;
    }
    clock::see(connection, turn.now)?;
    changes.write(connection, context, turn.now)
}

/// What the outcomes of a turn change beside the rows of single deliveries, gathered so that it is written once.
#[derive(Default)]
struct Changes<'a> {
    counts: Deltas,
    left_hands: BTreeMap<Block, Users>,
    sent: BTreeMap<Block, New<'a>>,
}

impl Changes<'_> {
    fn write(self, connection: &Connection, context: &mut Context, now: i64) -> Result<(), DbError> {
        for (block, users) in self.left_hands {
            context.sending.leave(connection, block, users)?;
        }
        for (block, new) in &self.sent {
            let expected = context.fresh.left(*block);
            context.sent.add(connection, *block, new, expected)?;
        }
        context.fresh.write(connection)?;
        self.counts.write(connection, context, now)
    }
}

pub fn pace(turn: &Turn, org: OrgId) -> BackfillPace {
    turn.paces.get(&org).copied().unwrap_or(PACE)
}

fn one<'a>(
    connection: &Connection,
    context: &mut Context,
    turn: &Turn,
    recorded: &'a Recorded,
    changes: &mut Changes<'a>,
) -> Result<(), DbError> {
    let claimed = &*recorded.claimed;
    let pace = pace(turn, claimed.delivery.org);
    // A clock that was set back since: it came no later than now, and waits no longer than it was told to.
    let at = recorded.at.min(turn.now);
    let when = |next_at: i64| next_at - (recorded.at - at);
    let key = claimed.delivery;
    let (block, slot) = Block::of(key);
    let users = changes.left_hands.entry(block).or_default();
    *users = users.with(Users::one(slot));
    let provider = context.name_id(connection, &claimed.provider)?;
    let first = (claimed.source, claimed.was, claimed.attempt) == (Source::Live, State::Queued, 1);
    let untried = first && !context.fresh.take(connection, block, provider, Users::one(slot))?.is_empty();
    let (state, said, next_at) = match &recorded.result {
        Settled::Sent(said) => (State::Sent, said, None),
        Settled::Failed(said) => (State::Failed, said, None),
        Settled::Deferred { said, next_at } => (State::Deferred, said, Some(when(*next_at))),
        Settled::Unknown { said, resend_at } => (State::Unknown, said, resend_at.map(when)),
        Settled::Returned { next_at } => return give_back(connection, claimed, provider, when(*next_at)),
    };
    let client = context.name_id(connection, &claimed.client)?;
    let packed = untried && state == State::Sent && changes.sent.entry(block).or_default().pack(slot, client, at, said);
    if !packed {
        settle(connection, claimed, (provider, client), (state, said, next_at), at)?;
    }
    changes.counts.moved((key.org, key.email.0), &claimed.provider, claimed.was, state);
    if claimed.source == Source::Backfill {
        match state {
            State::Unknown => backfill::in_doubt(connection, key, pace, at)?,
            state if state.is_final() => backfill::finished(connection, key, pace, at)?,
            _ => backfill::held(connection, key, pace, at)?,
        }
    }
    outbox::add(context, &Event::Recipient(changed(claimed, state, said, at)));
    Ok(())
}

/// It was first in its lane; among the retries it is again, and newer live mail, which waits for no time, does not pass it.
fn give_back(connection: &Connection, claimed: &Claimed, provider: i64, next_at: i64) -> Result<(), DbError> {
    let key = claimed.delivery;
    connection
        .prepare_cached(
            "INSERT INTO deliveries (org, email, user, provider, queue, next_at, state, source, queued_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8) ON CONFLICT (org, email, user) DO UPDATE SET next_at = excluded.next_at",
        )?
        .execute([
            key.org.0,
            key.email.0,
            key.user.0,
            provider,
            retries(claimed.source),
            next_at,
            claimed.source as i64,
            claimed.queued_at,
        ])?;
    Ok(())
}

/// Writes what became of a delivery into a row of its own, which it has from then on.
fn settle(
    connection: &Connection,
    claimed: &Claimed,
    (provider, client): (i64, i64),
    (state, said, next_at): (State, &Said, Option<i64>),
    at: i64,
) -> Result<(), DbError> {
    let key = claimed.delivery;
    let reply = said.reply.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO deliveries (org, email, user, provider, source, queued_at, state, queue, next_at, attempts, client, finished_at,
                 code, enhanced, reply, fault, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
             ON CONFLICT (org, email, user) DO UPDATE SET state = excluded.state, queue = excluded.queue, next_at = excluded.next_at,
                 attempts = excluded.attempts, client = excluded.client, finished_at = excluded.finished_at, code = excluded.code,
                 enhanced = excluded.enhanced, reply = excluded.reply, fault = excluded.fault, detail = excluded.detail",
        )?
        .execute(params![
            key.org.0,
            key.email.0,
            key.user.0,
            provider,
            claimed.source as i64,
            claimed.queued_at,
            state as i64,
            next_at.map(|_| retries(claimed.source)),
            next_at,
            claimed.attempt,
            client,
            (next_at.is_none()).then_some(at),
            reply.map(|r| r.code),
            reply.and_then(|r| r.enhanced).map(|e| e.to_string()),
            reply.map(|r| &r.text),
            fault_number(said.fault),
            said.detail
        ])?;
    Ok(())
}

pub fn changed(claimed: &Claimed, state: State, said: &Said, at: i64) -> RecipientChanged {
    RecipientChanged {
        org: claimed.org_name.clone(),
        email: claimed.delivery.email,
        user: claimed.delivery.user,
        state,
        attempt: claimed.attempt,
        source: claimed.source,
        domain: claimed.address.domain().into(),
        provider: claimed.provider.clone(),
        message_id: claimed.message_id.to_string(),
        client: Some(claimed.client.clone()),
        said: said.clone(),
        dropped: false,
        at,
    }
}

pub fn write_usage(connection: &Connection, usage: &[Usage]) -> Result<(), DbError> {
    for part in usage {
        let key = params![part.scope, part.per_ms, part.bucket_ms, part.boot_id];
        if part.count == 0 {
            connection
                .prepare_cached("DELETE FROM usage WHERE scope = ?1 AND per_ms = ?2 AND bucket_ms = ?3 AND boot_id = ?4")?
                .execute(key)?;
            continue;
        }
        connection
            .prepare_cached(
                "INSERT INTO usage (scope, per_ms, bucket_ms, boot_id, bucket_wall_ms, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET count = excluded.count",
            )?
            .execute(params![part.scope, part.per_ms, part.bucket_ms, part.boot_id, part.bucket_wall_ms, part.count])?;
    }
    Ok(())
}

pub fn read_usage(connection: &Connection) -> Result<Vec<Usage>, DbError> {
    let mut statement = connection.prepare_cached("SELECT scope, per_ms, bucket_ms, boot_id, bucket_wall_ms, count FROM usage")?;
    let found = statement
        .query_map([], |row| {
            Ok(Usage {
                scope: row.get(0)?,
                per_ms: row.get(1)?,
                bucket_ms: row.get(2)?,
                boot_id: row.get(3)?,
                bucket_wall_ms: row.get(4)?,
                count: row.get(5)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}
