//! Fan-out: an email's frozen audience joins the lanes, some users at a time, surviving a restart where it stood.
//!
//! Organizations take turns, several a step where they are small; within one, emails go in the order of their acceptance.

use crate::db::DbError;
use crate::model::delivery::{Said, Source, State};
use crate::model::event::{Event, RecipientChanged};
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use crate::warmup::sqlite::blocks::{Block, Users};
use crate::warmup::sqlite::rows::Context;
use crate::warmup::sqlite::{emails, outbox, waiting};
use crate::warmup::store::{Believed, FanOut};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

pub fn next(connection: &Connection, last: OrgId, rows: usize, believed: Believed) -> Result<Option<FanOut>, DbError> {
    let email = match oldest_behind(connection, last.0)? {
        None => oldest_behind(connection, i64::MIN)?,
        found => found,
    };
    let Some((org, number, from, audience)) = email else { return Ok(None) };
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT d.name FROM users u JOIN domains d ON d.id = u.domain
         WHERE u.org = ?1 AND u.number > ?2 AND u.number <= ?2 + ?3 AND (d.checked_at <= ?4 OR d.settings <> ?5)",
    )?;
    let unknown_domains = statement
        .query_map(params![org, from, rows as i64, believed.checked_after, believed.settings], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let rows = usize::try_from(audience - from).unwrap_or(0).min(rows);
    Ok(Some(FanOut { org: OrgId(org), email: EmailNumber(number), rows, unknown_domains }))
}

/// The oldest email that is not fanned out, of the first organization behind another, how far it is, and its audience.
fn oldest_behind(connection: &Connection, org: i64) -> Result<Option<(i64, i64, i64, i64)>, DbError> {
    let found = connection
        .prepare_cached(
            "SELECT org, number, fanned_out, audience FROM progress INDEXED BY progress_fan_out
             WHERE fanned_out < audience AND org > ?1 ORDER BY org, number LIMIT 1",
        )?
        .query_row([org], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    Ok(found)
}

/// Notes who receives for domains.
pub fn set_providers(
    connection: &Connection,
    context: &mut Context,
    found: &[(String, String)],
    settings: i64,
    checked_at: i64,
) -> Result<(), DbError> {
    for (domain, provider) in found {
        let provider = context.name_id(connection, provider)?;
        connection
            .prepare_cached("UPDATE domains SET provider = ?2, checked_at = ?3, settings = ?4 WHERE name = ?1")?
            .execute(params![domain, provider, checked_at, settings])?;
    }
    Ok(())
}

/// Notes that nobody could tell who receives for domains. Who is known to receive still does; a domain that was never found
/// is `other`, as it was made.
pub fn set_undecided(connection: &Connection, domains: &[String], settings: i64, checked_at: i64) -> Result<(), DbError> {
    for domain in domains {
        connection
            .prepare_cached("UPDATE domains SET checked_at = ?2, settings = ?3 WHERE name = ?1")?
            .execute(params![domain, checked_at, settings])?;
    }
    Ok(())
}

pub fn fan_out(
    connection: &Connection,
    context: &mut Context,
    org: OrgId,
    email: EmailNumber,
    rows: usize,
    now: i64,
) -> Result<(), DbError> {
    let (from, audience): (i64, i64) = connection
        .prepare_cached("SELECT fanned_out, audience FROM progress WHERE org = ?1 AND number = ?2")?
        .query_row([org.0, email.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let to = audience.min(from + rows as i64);
    let joining = joining(connection, org, email, (from, to))?;
    for ((block, provider), users) in joining.fresh {
        context.fresh.add(connection, block, provider, users)?;
    }
    for (provider, users) in joining.waiting {
        waiting::changed(connection, (org, email.0, provider), (users, 0))?;
    }
    for (user, provider) in &joining.suppressed {
        let delivery = DeliveryKey { org, email, user: *user };
        let queued_at = context.email(connection, org, email.0)?.created_at;
        connection
            .prepare_cached(
                "INSERT INTO deliveries (org, email, user, provider, state, source, queued_at, finished_at)
                 VALUES (?1, ?2, ?3, ?4, 5, 0, ?5, ?6)",
            )?
            .execute([org.0, email.0, user.0, *provider, queued_at, now])?;
        tell_suppressed(connection, context, delivery, Source::Live, now)?;
    }
    connection
        .prepare_cached("UPDATE progress SET fanned_out = ?3, suppressed = suppressed + ?4 WHERE org = ?1 AND number = ?2")?
        .execute([org.0, email.0, to, joining.suppressed.len() as i64])?;
    if to == audience {
        emails::complete(connection, context, org, email.0, now)?;
    }
    Ok(())
}

/// Users that an email is fanned out to.
#[derive(Default)]
struct Joining {
    /// By block and provider.
    fresh: BTreeMap<(Block, i64), Users>,
    /// How many, by provider.
    waiting: BTreeMap<i64, i64>,
    /// With the provider of each.
    suppressed: Vec<(UserNumber, i64)>,
}

/// The users numbered from behind `from` up to `to`.
fn joining(connection: &Connection, org: OrgId, email: EmailNumber, (from, to): (i64, i64)) -> Result<Joining, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT u.number, d.provider, u.suppressed_at IS NOT NULL FROM users u CROSS JOIN domains d ON d.id = u.domain
         WHERE u.org = ?1 AND u.number > ?2 AND u.number <= ?3 ORDER BY u.number",
    )?;
    let mut rows = statement.query([org.0, from, to])?;
    let mut joining = Joining::default();
    while let Some(row) = rows.next()? {
        let (user, provider) = (UserNumber(row.get(0)?), row.get(1)?);
        if row.get(2)? {
            joining.suppressed.push((user, provider));
            continue;
        }
        let (block, slot) = Block::of(DeliveryKey { org, email, user });
        let users = joining.fresh.entry((block, provider)).or_default();
        *users = users.with(Users::one(slot));
        *joining.waiting.entry(provider).or_default() += 1;
    }
    Ok(joining)
}

/// Writes the event that a user who wants no mail got none.
pub fn tell_suppressed(
    connection: &Connection,
    context: &mut Context,
    delivery: DeliveryKey,
    source: Source,
    now: i64,
) -> Result<(), DbError> {
    let (domain, provider, attempts): (String, String, i64) = connection
        .prepare_cached(
            "SELECT d.name, n.name, coalesce(v.attempts, 0) FROM users u JOIN domains d ON d.id = u.domain
             JOIN names n ON n.id = d.provider
             LEFT JOIN deliveries v ON v.org = u.org AND v.email = ?3 AND v.user = u.number WHERE u.org = ?1 AND u.number = ?2",
        )?
        .query_row([delivery.org.0, delivery.user.0, delivery.email.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let from_domain = context.email(connection, delivery.org, delivery.email.0)?.from_domain;
    let event = Event::Recipient(RecipientChanged {
        org: context.org_name(connection, delivery.org)?,
        email: delivery.email,
        user: delivery.user,
        state: State::Suppressed,
        attempt: attempts,
        source,
        domain: domain.into(),
        provider: provider.into(),
        message_id: context.tokens.recipient_message_id(delivery, &from_domain),
        client: None,
        said: Said::default(),
        dropped: false,
        at: now,
    });
    outbox::add(context, &event);
    Ok(())
}
