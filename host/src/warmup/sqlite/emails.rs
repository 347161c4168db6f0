//! Emails: acceptance, lists, content.

use crate::db::DbError;
use crate::model::address::Address;
use crate::model::delivery::{Counts, State};
use crate::model::email::{Email, EmailSummary, Mailbox, NewEmail};
use crate::model::event::{EmailProgressed, Event, Progress};
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::sqlite::rows::Context;
use crate::warmup::sqlite::{outbox, sending, waiting};
use crate::warmup::store::{Accepted, Idempotency};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// How long an idempotency key is remembered.
const IDEMPOTENCY_KEPT_MS: i64 = 24 * 3600 * 1000;

pub fn accept(
    connection: &Connection,
    context: &mut Context,
    org: OrgId,
    email: &NewEmail,
    idempotency: Option<&Idempotency>,
    now: i64,
) -> Result<Accepted, DbError> {
    connection.prepare_cached("DELETE FROM idempotency WHERE created_at < ?1")?.execute([now - IDEMPOTENCY_KEPT_MS])?;
    if let Some(known) = idempotency.map(|i| repeated(connection, org, i)).transpose()?.flatten() {
        return Ok(known);
    }
    let (number, users): (i64, i64) = connection
        .prepare_cached("UPDATE organizations SET emails = emails + 1 WHERE id = ?1 RETURNING emails, users")?
        .query_row([org.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    insert(connection, org, number, email, users, now)?;
    if let Some(idempotency) = idempotency {
        connection
            .prepare_cached("INSERT INTO idempotency (org, key, body_hash, email, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![org.0, idempotency.key, &idempotency.body_hash[..], number, now])?;
    }
    tell(connection, context, org, number, Progress::Accepted, now)?;
    if users == 0 {
        complete(connection, context, org, number, now)?;
    }
    Ok(Accepted::New { email: EmailNumber(number), recipients: users })
}

fn repeated(connection: &Connection, org: OrgId, wanted: &Idempotency) -> Result<Option<Accepted>, DbError> {
    let known: Option<(Vec<u8>, i64, i64)> = connection
        .prepare_cached(
            "SELECT i.body_hash, i.email, p.recipients FROM idempotency i JOIN progress p ON p.org = i.org AND p.number = i.email
             WHERE i.org = ?1 AND i.key = ?2",
        )?
        .query_row(params![org.0, wanted.key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(known.map(|(hash, email, recipients)| match hash == wanted.body_hash {
        true => Accepted::Again { email: EmailNumber(email), recipients },
        false => Accepted::OtherBody,
    }))
}

fn insert(connection: &Connection, org: OrgId, number: i64, email: &NewEmail, users: i64, now: i64) -> Result<(), DbError> {
    let headers: String = email.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let reply = email.reply_to.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO emails (org, number, created_at, from_name, from_address, reply_name, reply_address, subject, body, html, headers)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            org.0,
            number,
            now,
            email.from.name,
            email.from.address.given(),
            reply.and_then(|m| m.name.as_deref()),
            reply.map(|m| m.address.given()),
            email.subject,
            email.body,
            email.html,
            headers
        ])?;
    connection
        .prepare_cached("INSERT INTO progress (org, number, from_domain, audience, recipients) VALUES (?1, ?2, ?3, ?4, ?4)")?
        .execute(params![org.0, number, email.from.address.domain(), users])?;
    Ok(())
}

/// Writes the event of an email's progress.
pub fn tell(connection: &Connection, context: &mut Context, org: OrgId, number: i64, progress: Progress, now: i64) -> Result<(), DbError> {
    let recipients = connection
        .prepare_cached("SELECT recipients FROM progress WHERE org = ?1 AND number = ?2")?
        .query_row([org.0, number], |row| row.get(0))?;
    let event = Event::Email(EmailProgressed {
        org: context.org_name(connection, org)?,
        email: EmailNumber(number),
        progress,
        from_domain: context.email(connection, org, number)?.from_domain.to_string(),
        recipients,
        at: now,
    });
    outbox::add(context, &event);
    Ok(())
}

/// Marks an email started at its first claim, once.
pub fn start(connection: &Connection, context: &mut Context, org: OrgId, number: i64, now: i64) -> Result<(), DbError> {
    if context.email(connection, org, number)?.is_started {
        return Ok(());
    }
    context.started(org, number);
    let changed = connection
        .prepare_cached("UPDATE progress SET started_at = ?3 WHERE org = ?1 AND number = ?2 AND started_at IS NULL")?
        .execute([org.0, number, now])?;
    if changed == 1 {
        tell(connection, context, org, number, Progress::Started, now)?;
    }
    Ok(())
}

/// Marks an email completed once nobody waits any more; unknown ones wait for a person, not for us.
pub fn complete(connection: &Connection, context: &mut Context, org: OrgId, number: i64, now: i64) -> Result<(), DbError> {
    let changed = connection
        .prepare_cached(
            "UPDATE progress SET completed_at = ?3 WHERE org = ?1 AND number = ?2 AND completed_at IS NULL AND fanned_out >= audience
             AND sent + failed + suppressed + unknown = recipients + backfilled",
        )?
        .execute([org.0, number, now])?;
    if changed == 1 {
        tell(connection, context, org, number, Progress::Completed, now)?;
    }
    Ok(())
}

const LIST: &str = "
    SELECT e.number, e.from_name, e.from_address, e.subject, e.created_at, p.recipients + p.backfilled AS recipients,
           p.deferred, p.sent, p.failed, p.suppressed, p.unknown, p.started_at, p.completed_at
    FROM emails e JOIN progress p ON p.org = e.org AND p.number = e.number
    WHERE e.org = ?1 AND e.number > ?2 ORDER BY e.number LIMIT ?3";

pub fn list(connection: &Connection, org: OrgId, after: EmailNumber, limit: usize) -> Result<Vec<EmailSummary>, DbError> {
    let mut statement = connection.prepare_cached(LIST)?;
    let mut found: Vec<EmailSummary> = statement.query_map(params![org.0, after.0, limit as i64], summary)?.collect::<Result<_, _>>()?;
    for held in found.last().map_or(Ok(Vec::new()), |last| sending::of_emails(connection, org, last.number))? {
        let Some(email) = found.iter_mut().find(|e| e.number.0 == held.block.email) else { continue };
        for (_, was, count) in waiting::in_hand(connection, &held)? {
            email.counts.sending += count;
            match was {
                State::Deferred => email.counts.deferred -= count,
                State::Unknown => email.counts.unknown -= count,
                _ => email.counts.queued -= count,
            }
        }
    }
    Ok(found)
}

fn mailbox(row: &Row<'_>, name: &str, address: &str) -> rusqlite::Result<Option<Mailbox>> {
    let text: Option<String> = row.get(address)?;
    let name = row.get(name)?;
    Ok(text.map(|text| Mailbox { name, address: Address::stored(text) }))
}

fn sender(row: &Row<'_>) -> rusqlite::Result<Mailbox> {
    Ok(Mailbox { name: row.get("from_name")?, address: Address::stored(row.get("from_address")?) })
}

fn summary(row: &Row<'_>) -> rusqlite::Result<EmailSummary> {
    let mut counts = Counts {
        queued: 0,
        sending: 0,
        sent: row.get("sent")?,
        deferred: row.get("deferred")?,
        failed: row.get("failed")?,
        suppressed: row.get("suppressed")?,
        unknown: row.get("unknown")?,
    };
    let recipients: i64 = row.get("recipients")?;
    counts.queued = recipients - counts.sent - counts.deferred - counts.failed - counts.suppressed - counts.unknown;
    Ok(EmailSummary {
        number: EmailNumber(row.get("number")?),
        from: sender(row)?,
        subject: row.get("subject")?,
        created_at: row.get("created_at")?,
        recipients,
        counts,
        started_at: row.get("started_at")?,
        completed_at: row.get("completed_at")?,
    })
}

pub fn content(connection: &Connection, org: OrgId, email: EmailNumber) -> Result<Option<Email>, DbError> {
    let found = connection
        .prepare_cached("SELECT * FROM emails WHERE org = ?1 AND number = ?2")?
        .query_row([org.0, email.0], |row| {
            let headers: String = row.get("headers")?;
            let headers = headers.lines().filter_map(|line| line.split_once(':'));
            Ok(Email {
                number: email,
                created_at: row.get("created_at")?,
                content: NewEmail {
                    from: sender(row)?,
                    reply_to: mailbox(row, "reply_name", "reply_address")?,
                    subject: row.get("subject")?,
                    body: row.get("body")?,
                    html: row.get("html")?,
                    headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                },
            })
        })
        .optional()?;
    Ok(found)
}
