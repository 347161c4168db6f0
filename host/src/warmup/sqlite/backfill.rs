//! Back-fill: a newcomer gets the earlier emails, in order, each once, one at a time at a pace.
//!
//! Invariant: the pace holds for whatever goes to the newcomer, retries of what was held up included: it decides when the
//! next email starts, and once more when a row is claimed ([`holds_back`]).

use crate::db::DbError;
use crate::model::delivery::Source;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use crate::warmup::sqlite::claims::retries;
use crate::warmup::sqlite::rows::Context;
use crate::warmup::sqlite::sending::Sending;
use crate::warmup::sqlite::{clock, emails, fan_out, waiting};
use crate::warmup::store::{BackfillPace, BackfillStep, Believed};
use rusqlite::{Connection, OptionalExtension, params};

/// Newcomers that are read at a time when the clock was set back.
const SET_BACK_ROWS: i64 = 1_000;

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
    let (queue, state) = if next.suppressed { (None, 5) } else { (Some(retries(Source::Backfill)), 0) };
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
    let mut recent = Recent::read(&recent, at);
    recent.note(at, pace);
    let earliest = recent.next_at(pace).max(at);
    let under_way = waits_for == Some(delivery.email.0);
    connection
        .prepare_cached(
            "UPDATE backfills SET done = done + 1, recent = ?3, waits_for = iif(?4, NULL, waits_for),
             next_at = CASE WHEN next_email > emails THEN NULL WHEN ?4 THEN ?5 WHEN next_at IS NULL THEN NULL ELSE max(next_at, ?5) END
             WHERE org = ?1 AND user = ?2",
        )?
        .execute(params![delivery.org.0, delivery.user.0, recent.text(), under_way, earliest])?;
    Ok(())
}

/// When the last messages of back-fill to a newcomer ended, the oldest first.
struct Recent(Vec<i64>);

impl Recent {
    /// What ended in the future ended before the clock was set back.
    fn read(text: &str, now: i64) -> Recent {
        let mut times: Vec<i64> = text.split(',').filter_map(|t| t.parse().ok()).map(|t: i64| t.min(now)).collect();
        times.sort_unstable();
        Recent(times)
    }

    /// A message ended; with no time between two there is nothing to note.
    fn note(&mut self, at: i64, pace: BackfillPace) {
        if pace.per.is_zero() {
            return;
        }
        self.0.push(at);
        self.0.sort_unstable();
        self.0.drain(..self.0.len().saturating_sub(pace.messages.max(1) as usize));
    }

    /// From when on the pace lets another one go.
    fn next_at(&self, pace: BackfillPace) -> i64 {
        let first = self.0.len().checked_sub(pace.messages.max(1) as usize);
        first.map_or(i64::MIN, |first| self.0[first] + pace.per.as_millis() as i64)
    }

    fn text(&self) -> String {
        self.0.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Whether the pace keeps a row of back-fill from being claimed now; it is then due when the pace lets it go. What a client
/// has in hand for the newcomer counts as if it ended now.
pub fn holds_back(
    connection: &Connection,
    sending: &mut Sending,
    delivery: DeliveryKey,
    pace: BackfillPace,
    now: i64,
) -> Result<bool, DbError> {
    let (org, user) = (delivery.org.0, delivery.user.0);
    let row: Option<(String, bool)> = connection
        .prepare_cached("SELECT recent, next_email - 1 - done > 1 FROM backfills WHERE org = ?1 AND user = ?2")?
        .query_row([org, user], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((text, others)) = row else { return Ok(false) };
    let noted = Recent::read(&text, now);
    if noted.text() != text {
        connection.prepare_cached("UPDATE backfills SET recent = ?3 WHERE org = ?1 AND user = ?2")?.execute(params![
            org,
            user,
            noted.text()
        ])?;
    }
    let mut recent = noted;
    if others {
        sending.write(connection)?;
        (0..in_hand(connection, delivery)?).for_each(|_| recent.note(now, pace));
    }
    let next_at = recent.next_at(pace);
    if next_at <= now {
        return Ok(false);
    }
    connection.prepare_cached("UPDATE deliveries SET next_at = ?4 WHERE org = ?1 AND email = ?2 AND user = ?3")?.execute([
        org,
        delivery.email.0,
        user,
        next_at,
    ])?;
    clock::see(connection, now)?;
    Ok(true)
}

/// The clock was set back by so much and shows `now`: moves what the pace counts.
pub fn set_back(connection: &Connection, by: i64, now: i64) -> Result<(), DbError> {
    let mut part = connection.prepare_cached(
        "SELECT org, user, recent FROM backfills WHERE (org, user) > (?1, ?2) AND recent <> '' AND done < emails
         ORDER BY org, user LIMIT ?3",
    )?;
    let mut moved = connection.prepare_cached("UPDATE backfills SET recent = ?3 WHERE org = ?1 AND user = ?2")?;
    let mut at = (i64::MIN, i64::MIN);
    loop {
        let rows = part.query_map(params![at.0, at.1, SET_BACK_ROWS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows: Vec<(i64, i64, String)> = rows.collect::<Result<_, _>>()?;
        let Some((org, user, _)) = rows.last() else { return Ok(()) };
        at = (*org, *user);
        for (org, user, text) in rows {
            let times = Recent::read(&text, i64::MAX).0.into_iter().map(|t| if t > now { t - by } else { t });
            moved.execute(params![org, user, Recent(times.collect()).text()])?;
        }
    }
}

/// How many other rows of back-fill to the same newcomer a client has in hand. Walks the organization's part of `sending`.
fn in_hand(connection: &Connection, delivery: DeliveryKey) -> Result<i64, DbError> {
    let found = connection
        .prepare_cached(
            "SELECT count(*) FROM sending s CROSS JOIN deliveries d ON d.org = s.org AND d.email = s.email AND d.user = ?2
             WHERE s.org = ?1 AND s.block = ?2 >> 6 AND s.users & (1 << (?2 & 63)) AND s.email <> ?3 AND d.source = 1",
        )?
        .query_row([delivery.org.0, delivery.user.0, delivery.email.0], |row| row.get(0))?;
    Ok(found)
}

/// A delivery of back-fill may have arrived: the pace counts it, and the next one waits as for one that is held up.
pub fn in_doubt(connection: &Connection, delivery: DeliveryKey, pace: BackfillPace, at: i64) -> Result<(), DbError> {
    let recent: Option<String> = connection
        .prepare_cached("SELECT recent FROM backfills WHERE org = ?1 AND user = ?2")?
        .query_row([delivery.org.0, delivery.user.0], |row| row.get(0))
        .optional()?;
    let mut recent = Recent::read(&recent.unwrap_or_default(), at);
    recent.note(at, pace);
    connection.prepare_cached("UPDATE backfills SET recent = ?3 WHERE org = ?1 AND user = ?2")?.execute(params![
        delivery.org.0,
        delivery.user.0,
        recent.text()
    ])?;
    held(connection, delivery, pace, at)
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
