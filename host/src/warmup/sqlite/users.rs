//! Users: registration, import, lists, unsubscribing.

use crate::db::DbError;
use crate::model::address::Address;
use crate::model::name::{DeliveryKey, OrgId, UserNumber};
use crate::model::user::{Backfill, BackfillState, NewUser, User};
use crate::warmup::sqlite::clock;
use crate::warmup::sqlite::rows::{Context, address};
use crate::warmup::store::{Imported, Registered};
use rusqlite::{Connection, OptionalExtension, Row, params};

pub fn register(connection: &Connection, context: &mut Context, org: OrgId, new: NewUser, now: i64) -> Result<Registered, DbError> {
    let number = next_number(connection, org)?;
    if insert(connection, context, org, number, &new, now)? {
        set_highest(connection, org, number)?;
        start_backfill(connection, org, number, number, now)?;
        return Ok(Registered::New(User { number: UserNumber(number), name: new.name, address: new.address, created_at: now }));
    }
    let found = connection
        .prepare_cached("SELECT number, address_key, address, name, created_at FROM users WHERE org = ?1 AND address_key = ?2")?
        .query_row(params![org.0, new.address.key()], user)?;
    Ok(Registered::Existing(found))
}

pub fn import(
    connection: &Connection,
    context: &mut Context,
    org: OrgId,
    new: &[NewUser],
    backfill: bool,
    now: i64,
) -> Result<Imported, DbError> {
    let first = next_number(connection, org)?;
    let mut number = first;
    for user in new {
        number += i64::from(insert(connection, context, org, number, user, now)?);
    }
    set_highest(connection, org, number - 1)?;
    if backfill {
        start_backfill(connection, org, first, number - 1, now)?;
    }
    let created = (number - first) as u64;
    Ok(Imported { created, existing: new.len() as u64 - created })
}

fn next_number(connection: &Connection, org: OrgId) -> Result<i64, DbError> {
    Ok(connection.prepare_cached("SELECT users + 1 FROM organizations WHERE id = ?1")?.query_row([org.0], |row| row.get(0))?)
}

fn set_highest(connection: &Connection, org: OrgId, number: i64) -> Result<(), DbError> {
    connection.prepare_cached("UPDATE organizations SET users = ?2 WHERE id = ?1")?.execute([org.0, number])?;
    Ok(())
}

/// Inserts a user; `false` where the address is registered already.
fn insert(connection: &Connection, context: &mut Context, org: OrgId, number: i64, new: &NewUser, now: i64) -> Result<bool, DbError> {
    let key = new.address.key();
    let domain = context.domain_id(connection, key.rsplit_once('@').map_or("", |(_, domain)| domain))?;
    let given = (new.address.given() != key).then_some(new.address.given());
    let inserted = connection
        .prepare_cached(
            "INSERT INTO users (org, number, address_key, address, name, domain, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (org, address_key) DO NOTHING",
        )?
        .execute(params![org.0, number, key, given, new.name, domain, now])?;
    Ok(inserted == 1)
}

/// Starts the back-fill of the users numbered `first` to `last`: every email accepted so far is an earlier one to them.
fn start_backfill(connection: &Connection, org: OrgId, first: i64, last: i64, now: i64) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "INSERT INTO backfills (org, user, emails, next_at)
             SELECT u.org, u.number, o.emails, ?4 FROM users u JOIN organizations o ON o.id = u.org
             WHERE u.org = ?1 AND u.number BETWEEN ?2 AND ?3 AND o.emails > 0",
        )?
        .execute([org.0, first, last, now])?;
    clock::see(connection, now)
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        number: UserNumber(row.get("number")?),
        name: row.get("name")?,
        address: address(row, "address_key", "address")?,
        created_at: row.get("created_at")?,
    })
}

pub fn list(connection: &Connection, org: OrgId, after: UserNumber, limit: usize) -> Result<Vec<User>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, address_key, address, name, created_at FROM users WHERE org = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
    )?;
    let found = statement.query_map(params![org.0, after.0, limit as i64], user)?.collect::<Result<_, _>>()?;
    Ok(found)
}

pub fn find(connection: &Connection, org: OrgId, wanted: &Address) -> Result<Option<(User, Backfill)>, DbError> {
    let found = connection
        .prepare_cached(
            "SELECT u.number, u.address_key, u.address, u.name, u.created_at, b.emails, b.done, b.next_at
             FROM users u LEFT JOIN backfills b ON b.org = u.org AND b.user = u.number WHERE u.org = ?1 AND u.address_key = ?2",
        )?
        .query_row(params![org.0, wanted.key()], |row| {
            let emails: Option<i64> = row.get("emails")?;
            let done = row.get::<_, Option<i64>>("done")?.unwrap_or(0);
            let state = match emails {
                None => BackfillState::None,
                Some(emails) if done >= emails => BackfillState::Done,
                Some(_) => BackfillState::Running,
            };
            Ok((user(row)?, Backfill { emails: emails.unwrap_or(0), done, state, next_at: row.get("next_at")? }))
        })
        .optional()?;
    Ok(found)
}

pub fn unsubscribe(connection: &Connection, delivery: DeliveryKey, now: i64) -> Result<bool, DbError> {
    let known = connection
        .prepare_cached(
            "SELECT 1 FROM progress WHERE org = ?1 AND number = ?2 AND fanned_out >= ?3
             UNION ALL SELECT 1 FROM deliveries WHERE org = ?1 AND email = ?2 AND user = ?3",
        )?
        .query_row([delivery.org.0, delivery.email.0, delivery.user.0], |_| Ok(()))
        .optional()?;
    if known.is_none() {
        return Ok(false);
    }
    connection.prepare_cached("UPDATE users SET suppressed_at = coalesce(suppressed_at, ?3) WHERE org = ?1 AND number = ?2")?.execute([
        delivery.org.0,
        delivery.user.0,
        now,
    ])?;
    Ok(true)
}
