//! Back-fill: a newcomer gets the earlier emails, in order, each once, one at a time at a pace.

use crate::db::DbError;
use crate::model::delivery::Source;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use crate::warmup::sqlite::rows::Context;
use crate::warmup::sqlite::{clock, emails, fan_out, waiting};
use crate::warmup::store::{BackfillPace, BackfillStep, Believed};
use rusqlite::{Connection, OptionalExtension, params};

pub fn domains(connection: &Connection, rows: usize, believed: Believed, now: i64) -> Result<Vec<String>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT d.name FROM (SELECT org, user FROM backfills WHERE next_at <= ?1 ORDER BY next_at LIMIT ?2) b
         JOIN users u ON u.org = b.org AND u.number = b.user JOIN domains d ON d.id = u.domain WHERE d.checked_at <= ?3 OR d.settings <> ?4",
    )?;
    let key = params![now, rows as i64, believed.checked_after, believed.settings];
    let found = statement.query_map(key, |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(found)
}

struct Due {
    org: OrgId,
    user: i64,
    email: i64,
    suppressed: bool,
    provider: i64,
}

pub fn step(connection: &Connection, context: &mut Context, rows: usize, now: i64) -> Result<BackfillStep, DbError> {
    let due = due(connection, rows, now)?;
    if !due.is_empty() {
        clock::see(connection, now)?;
    }
    for next in &due {
        start(connection, context, next, now)?;
    }
    let next_at =
        connection.prepare_cached("SELECT min(next_at) FROM backfills WHERE next_at IS NOT NULL")?.query_row([], |row| row.get(0))?;
    Ok(BackfillStep { started: due.len(), next_at })
}

fn due(connection: &Connection, rows: usize, now: i64) -> Result<Vec<Due>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT b.org, b.user, b.next_email, u.suppressed_at IS NOT NULL, d.provider FROM backfills b
         JOIN users u ON u.org = b.org AND u.number = b.user JOIN domains d ON d.id = u.domain
         WHERE b.next_at <= ?1 ORDER BY b.next_at, b.org, b.user LIMIT ?2",
    )?;
    let found = statement
        .query_map(params![now, rows as i64], |row| {
            Ok(Due { org: OrgId(row.get(0)?), user: row.get(1)?, email: row.get(2)?, suppressed: row.get(3)?, provider: row.get(4)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

fn start(connection: &Connection, context: &mut Context, next: &Due, now: i64) -> Result<(), DbError> {
    let (queue, state) = if next.suppressed { (None, 5) } else { (Some(2), 0) };
    connection
        .prepare_cached(
            "INSERT INTO deliveries (org, email, user, provider, queue, next_at, state, source, queued_at, finished_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9)",
        )?
        .execute(params![
            next.org.0,
            next.email,
            next.user,
            next.provider,
            queue,
            queue.map(|_| now),
            state,
            now,
            next.suppressed.then_some(now)
        ])?;
    connection
        .prepare_cached("UPDATE progress SET backfilled = backfilled + 1, suppressed = suppressed + ?3 WHERE org = ?1 AND number = ?2")?
        .execute(params![next.org.0, next.email, i64::from(next.suppressed)])?;
    if next.suppressed {
        let delivery = DeliveryKey { org: next.org, email: EmailNumber(next.email), user: UserNumber(next.user) };
        fan_out::tell_suppressed(connection, context, delivery, Source::Backfill, now)?;
        // Nobody is written to, so no pace applies.
        connection
            .prepare_cached(
                "UPDATE backfills SET done = done + 1, next_email = next_email + 1, waits_for = NULL,
                 next_at = iif(next_email < emails, ?3, NULL) WHERE org = ?1 AND user = ?2",
            )?
            .execute([next.org.0, next.user, now])?;
        return emails::complete(connection, context, next.org, next.email, now);
    }
    waiting::changed(connection, (next.org, next.email, next.provider), (1, 0))?;
    connection
        .prepare_cached(
            "UPDATE backfills SET waits_for = next_email, next_email = next_email + 1, next_at = NULL WHERE org = ?1 AND user = ?2",
        )?
        .execute([next.org.0, next.user])?;
    Ok(())
}

/// A delivery of back-fill is final: the next one may start after the pace.
pub fn finished(connection: &Connection, delivery: DeliveryKey, pace: BackfillPace, at: i64) -> Result<(), DbError> {
    let row: Option<(Option<i64>, String)> = connection
        .prepare_cached("SELECT waits_for, recent FROM backfills WHERE org = ?1 AND user = ?2")?
        .query_row([delivery.org.0, delivery.user.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((waits_for, recent)) = row else { return Ok(()) };
    // What ended in the future ended before the clock was set back.
    let mut times: Vec<i64> = recent.split(',').filter_map(|t| t.parse().ok()).map(|t: i64| t.min(at)).collect();
    times.push(at);
    let kept = (pace.messages.max(1) as usize).min(times.len());
    times.drain(..times.len() - kept);
    let full = times.len() as u64 >= pace.messages.max(1);
    let earliest = if full { times[0] + pace.per.as_millis() as i64 } else { at };
    let text = times.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let under_way = waits_for == Some(delivery.email.0);
    connection
        .prepare_cached(
            "UPDATE backfills SET done = done + 1, recent = ?3, waits_for = iif(?4, NULL, waits_for),
             next_at = CASE WHEN next_email > emails THEN NULL WHEN ?4 THEN ?5 WHEN next_at IS NULL THEN NULL ELSE max(next_at, ?5) END
             WHERE org = ?1 AND user = ?2",
        )?
        .execute(params![delivery.org.0, delivery.user.0, text, under_way, earliest])?;
    Ok(())
}

/// A delivery of back-fill is held up: the next one starts without it after `hold_max`.
pub fn held(connection: &Connection, delivery: DeliveryKey, pace: BackfillPace, at: i64) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "UPDATE backfills SET next_at = ?4 WHERE org = ?1 AND user = ?2 AND waits_for = ?3 AND next_at IS NULL AND next_email <= emails",
        )?
        .execute([delivery.org.0, delivery.user.0, delivery.email.0, at + pace.hold_max.as_millis() as i64])?;
    Ok(())
}
