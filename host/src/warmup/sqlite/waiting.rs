//! How many recipients of each email wait in each lane, counted as they come and go, so that asking costs a step a lane.

use crate::db::DbError;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::sqlite::rows::Context;
use crate::warmup::store::WaitingLane;
use rusqlite::{Connection, params};

/// The recipients of the users numbered from behind `from` up to `to` join their lanes.
pub fn fanned_out(connection: &Connection, org: OrgId, email: EmailNumber, (from, to): (i64, i64)) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "INSERT INTO waiting (org, email, provider, queued, deferred)
             SELECT u.org, ?2, d.provider, count(*), 0 FROM users u JOIN domains d ON d.id = u.domain
             WHERE u.org = ?1 AND u.number > ?3 AND u.number <= ?4 AND u.suppressed_at IS NULL GROUP BY d.provider
             ON CONFLICT DO UPDATE SET queued = queued + excluded.queued",
        )?
        .execute([org.0, email.0, from, to])?;
    Ok(())
}

/// `queued` and `deferred` recipients join a lane, or leave it where they are negative.
pub fn changed(connection: &Connection, (org, email, provider): (OrgId, i64, i64), (queued, deferred): (i64, i64)) -> Result<(), DbError> {
    if (queued, deferred) == (0, 0) {
        return Ok(());
    }
    let left: i64 = connection
        .prepare_cached(
            "INSERT INTO waiting (org, email, provider, queued, deferred) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET queued = queued + excluded.queued, deferred = deferred + excluded.deferred
             RETURNING queued + deferred",
        )?
        .query_row([org.0, email, provider, queued, deferred], |row| row.get(0))?;
    if left == 0 {
        connection
            .prepare_cached("DELETE FROM waiting WHERE org = ?1 AND email = ?2 AND provider = ?3")?
            .execute([org.0, email, provider])?;
    }
    Ok(())
}

/// The same for a lane that is known by name.
pub fn moved(
    connection: &Connection,
    context: &mut Context,
    (org, email, provider): (OrgId, i64, &str),
    change: (i64, i64),
) -> Result<(), DbError> {
    let provider = context.name_id(connection, provider)?;
    changed(connection, (org, email, provider), change)
}

/// The lanes in which the email waits, with what stands before it.
pub fn of(connection: &Connection, org: OrgId, email: EmailNumber) -> Result<Vec<WaitingLane>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT n.name, sum(iif(w.email = ?2, w.queued, 0)) AS own, sum(iif(w.email = ?2, w.deferred, 0)) AS deferred, sum(w.queued)
         FROM waiting w JOIN names n ON n.id = w.provider WHERE w.org = ?1 AND w.email <= ?2
         GROUP BY w.provider HAVING max(w.email) = ?2 ORDER BY n.name",
    )?;
    let lane =
        |row: &rusqlite::Row<'_>| Ok(WaitingLane { provider: row.get(0)?, queued: row.get(1)?, deferred: row.get(2)?, ahead: row.get(3)? });
    let mut lanes: Vec<WaitingLane> = statement.query_map([org.0, email.0], lane)?.collect::<Result<_, _>>()?;
    let mut sending = connection.prepare_cached(
        "SELECT n.name, s.email, d.state, count(*) FROM sending s
         JOIN deliveries d ON d.org = s.org AND d.email = s.email AND d.user = s.user JOIN names n ON n.id = d.provider
         WHERE s.org = ?1 AND s.email <= ?2 AND d.state < 2 GROUP BY n.name, s.email, d.state",
    )?;
    let mut rows = sending.query(params![org.0, email.0])?;
    while let Some(row) = rows.next()? {
        let (provider, of, was, count): (String, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Some(lane) = lanes.iter_mut().find(|lane| lane.provider == provider) else { continue };
        let own = of == email.0;
        match was {
            0 => {
                lane.ahead -= count;
                lane.queued -= if own { count } else { 0 };
            }
            _ => lane.deferred -= if own { count } else { 0 },
        }
    }
    lanes.retain(|lane| lane.queued > 0 || lane.deferred > 0);
    Ok(lanes)
}
