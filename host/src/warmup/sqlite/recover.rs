//! What a process that died left behind, and how a person settles what is unknown.

use crate::db::DbError;
use crate::model::address::Address;
use crate::model::delivery::{Said, Source, State};
use crate::model::event::{Event, RecipientChanged};
use crate::model::message_id::Tokens;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::warmup::sqlite::claims::{User, retries, users_of};
use crate::warmup::sqlite::outcomes::Deltas;
use crate::warmup::sqlite::rows::{Context, email_exists, state};
use crate::warmup::sqlite::sending::in_no_hand;
use crate::warmup::sqlite::{backfill, fresh, outbox, sending};
use crate::warmup::store::{Action, BackfillPace, Claimed};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why a row is failed after a person dropped it.
pub const DROPPED: &str = "dropped by a person";

/// A row in doubt, with what its event needs.
struct Doubt {
    delivery: DeliveryKey,
    attempts: i64,
    source: Source,
    domain: Arc<str>,
    provider: Arc<str>,
    client: Option<Arc<str>>,
}

impl Doubt {
    fn read(row: &Row<'_>) -> Result<Doubt, DbError> {
        let text = |name: &str| row.get::<_, Option<String>>(name).map(|t| t.map(Arc::<str>::from));
        Ok(Doubt {
            delivery: delivery(row)?,
            attempts: row.get("attempts")?,
            source: source(row)?,
            domain: text("domain")?.unwrap_or_default(),
            provider: text("provider")?.unwrap_or_default(),
            client: text("client")?,
        })
    }

    fn tell(&self, connection: &Connection, context: &mut Context, state: State, detail: &str, now: i64) -> Result<(), DbError> {
        let from_domain = context.email(connection, self.delivery.org, self.delivery.email.0)?.from_domain;
        let event = Event::Recipient(RecipientChanged {
            org: context.org_name(connection, self.delivery.org)?,
            email: self.delivery.email,
            user: self.delivery.user,
            state,
            attempt: self.attempts,
            source: self.source,
            domain: self.domain.clone(),
            provider: self.provider.clone(),
            message_id: context.tokens.recipient_message_id(self.delivery, &from_domain),
            client: self.client.clone(),
            said: Said { detail: Some(detail.to_owned()), ..Said::default() },
            dropped: state == State::Failed,
            at: now,
        });
        outbox::add(context, &event);
        Ok(())
    }
}

/// Every row in `sending`, with all that a turn needs to record what became of it.
pub fn in_hand(connection: &Connection, tokens: &Tokens) -> Result<Vec<Claimed>, DbError> {
    let mut found = Vec::new();
    for held in sending::all(connection)? {
        let lanes = fresh::of_block(connection, held.block)?;
        for (slot, user) in users_of(connection, held.block, held.users)? {
            let lane = lanes.iter().find(|(_, untried)| untried.has(slot)).map(|(provider, _)| *provider);
            found.push(claimed(connection, tokens, held.block.delivery(slot), (lane, held.client), user)?);
        }
    }
    Ok(found)
}

/// `lane`: the provider whose lane an untried delivery waits in. Every other one has a row.
const CLAIMED: &str = "
    SELECT o.name AS org_name, p.name AS provider, c.name AS client, coalesce(d.source, 0) AS source, coalesce(d.state, 0) AS state,
        coalesce(d.attempts, 0) + 1 AS attempt, coalesce(d.queued_at, e.created_at) AS queued_at, g.from_domain
    FROM organizations o JOIN progress g ON g.org = o.id AND g.number = ?2 JOIN emails e ON e.org = o.id AND e.number = ?2
    LEFT JOIN deliveries d ON d.org = o.id AND d.email = ?2 AND d.user = ?3
    JOIN names p ON p.id = coalesce(d.provider, ?4) JOIN names c ON c.id = ?5 WHERE o.id = ?1";

fn claimed(
    connection: &Connection,
    tokens: &Tokens,
    delivery: DeliveryKey,
    (lane, client): (Option<i64>, i64),
    user: User,
) -> Result<Claimed, DbError> {
    let mut statement = connection.prepare_cached(CLAIMED)?;
    let mut rows = statement.query(params![delivery.org.0, delivery.email.0, delivery.user.0, lane, client])?;
    let nothing = || DbError::Damaged(format!("delivery {delivery} is in hand and stands nowhere else"));
    let row = rows.next()?.ok_or_else(nothing)?;
    Ok(Claimed {
        delivery,
        org_name: OrgName::parse(&row.get::<_, String>("org_name")?).map_err(DbError::Unavailable)?,
        address: user.address,
        name: user.name,
        provider: row.get::<_, String>("provider")?.into(),
        client: row.get::<_, String>("client")?.into(),
        source: source(row)?,
        was: state(row.get("state")?)?,
        attempt: row.get("attempt")?,
        queued_at: row.get("queued_at")?,
        message_id: tokens.recipient_message_id(delivery, &row.get::<_, String>("from_domain")?).into(),
    })
}

/// Notes the turn in its own commit: what tells of `sending` beside the database knows by it whether it tells of this one.
pub fn note_turn(connection: &Connection, number: i64) -> Result<(), DbError> {
    connection
        .prepare_cached("INSERT INTO meta (key, value) VALUES ('turn', ?1) ON CONFLICT DO UPDATE SET value = excluded.value")?
        .execute([number])?;
    Ok(())
}

pub fn last_turn(connection: &Connection) -> Result<i64, DbError> {
    let noted: Option<i64> = connection.query_row("SELECT value FROM meta WHERE key = 'turn'", [], |row| row.get(0)).optional()?;
    Ok(noted.unwrap_or(0))
}

fn delivery(row: &Row<'_>) -> Result<DeliveryKey, DbError> {
    Ok(DeliveryKey { org: OrgId(row.get("org")?), email: EmailNumber(row.get("email")?), user: UserNumber(row.get("user")?) })
}

fn source(row: &Row<'_>) -> Result<Source, DbError> {
    Ok(if row.get::<_, i64>("source")? == 0 { Source::Live } else { Source::Backfill })
}

fn doubts(connection: &Connection, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<Doubt>, DbError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Doubt::read(row)?);
    }
    Ok(found)
}

/// An address names one user, and a user has one delivery of an email.
const UNKNOWN_BY_NAME: &str = concat!(
    "
    SELECT d.org, d.email, d.user, d.attempts, d.source, m.name AS domain, p.name AS provider, c.name AS client
    FROM users u CROSS JOIN deliveries d ON d.org = u.org AND d.email = ?2 AND d.user = u.number
    JOIN domains m ON m.id = u.domain JOIN names p ON p.id = d.provider LEFT JOIN names c ON c.id = d.client
    WHERE u.org = ?1 AND u.address_key = ?3 AND d.state = 6
      AND ",
    in_no_hand!()
);

/// The list repeats the condition of the index, without which SQLite does not take it.
const UNKNOWN: &str = concat!(
    "
    SELECT d.org, d.email, d.user, d.attempts, d.source, m.name AS domain, p.name AS provider, c.name AS client
    FROM deliveries d INDEXED BY deliveries_state CROSS JOIN users u ON u.org = d.org AND u.number = d.user
    JOIN domains m ON m.id = u.domain JOIN names p ON p.id = d.provider LEFT JOIN names c ON c.id = d.client
    WHERE d.org = ?1 AND d.email = ?2 AND d.state = 6 AND (d.state = 1 OR d.state > 3) AND d.user > ?3
      AND ",
    in_no_hand!(),
    "ORDER BY d.user LIMIT ?4"
);

/// A part of the unknown deliveries, small enough for one commit.
pub enum Part {
    /// At most this many, behind a user.
    Behind(UserNumber, usize),
    Named(Vec<Address>),
}

/// Settles a part; answers how many rows and the last user of it.
pub fn resolve(
    connection: &Connection,
    context: &mut Context,
    (org, email): (OrgId, EmailNumber),
    part: &Part,
    action: Action,
    now: i64,
) -> Result<(usize, UserNumber), DbError> {
    if !email_exists(connection, org, email.0)? {
        return Ok((0, UserNumber(0)));
    }
    let found = match part {
        Part::Behind(user, rows_max) => doubts(connection, UNKNOWN, params![org.0, email.0, user.0, *rows_max as i64])?,
        Part::Named(addresses) => {
            let keys: BTreeSet<String> = addresses.iter().map(Address::key).collect();
            let mut found = Vec::new();
            for key in keys {
                found.extend(doubts(connection, UNKNOWN_BY_NAME, params![org.0, email.0, key])?);
            }
            found
        }
    };
    let to = if action == Action::Resend { State::Queued } else { State::Failed };
    let mut deltas = Deltas::default();
    for doubt in &found {
        settle(connection, context, doubt, action, now)?;
        deltas.moved((org, email.0), &doubt.provider, State::Unknown, to);
    }
    deltas.write(connection, context, now)?;
    Ok((found.len(), found.last().map_or(UserNumber(0), |doubt| doubt.delivery.user)))
}

fn settle(connection: &Connection, context: &mut Context, doubt: &Doubt, action: Action, now: i64) -> Result<(), DbError> {
    let key = doubt.delivery;
    if action == Action::Resend {
        let queue = retries(doubt.source);
        connection
            .prepare_cached(
                "UPDATE deliveries SET state = 0, queue = ?4, next_at = ?5, finished_at = NULL WHERE org = ?1 AND email = ?2 AND user = ?3",
            )?
            .execute(params![key.org.0, key.email.0, key.user.0, queue, now])?;
        connection
            .prepare_cached("UPDATE progress SET completed_at = NULL WHERE org = ?1 AND number = ?2")?
            .execute([key.org.0, key.email.0])?;
        return Ok(());
    }
    connection
        .prepare_cached(
            "UPDATE deliveries SET state = 4, queue = NULL, next_at = NULL, finished_at = ?4, detail = ?5 WHERE org = ?1 AND email = ?2 AND user = ?3",
        )?
        .execute(params![key.org.0, key.email.0, key.user.0, now, DROPPED])?;
    if doubt.source == Source::Backfill {
        backfill::finished(connection, key, BackfillPace::AT_ONCE, now)?;
    }
    doubt.tell(connection, context, State::Failed, DROPPED, now)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
