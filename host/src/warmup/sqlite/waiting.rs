//! How many recipients of each email wait in each lane, counted as they come and go, so that asking costs a step a lane.

use crate::db::DbError;
use crate::model::delivery::State;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::sqlite::rows::{Context, state};
use crate::warmup::sqlite::sending::InHand;
use crate::warmup::sqlite::{fresh, sending};
use crate::warmup::store::WaitingLane;
use rusqlite::{Connection, params};

/// `queued` and `deferred` recipients join a lane, or leave it where they are negative. Tells whether somebody is known to wait there:
/// not where nothing changes.
pub fn changed(
    connection: &Connection,
    (org, email, provider): (OrgId, i64, i64),
    (queued, deferred): (i64, i64),
) -> Result<bool, DbError> {
    if (queued, deferred) == (0, 0) {
        return Ok(false);
    }
    let lane = [org.0, email, provider];
    // An upsert that answers what it wrote costs SQLite a table of its own each time.
    let stays = connection
        .prepare_cached(
            "UPDATE waiting SET queued = queued + ?4, deferred = deferred + ?5
             WHERE org = ?1 AND email = ?2 AND provider = ?3 AND queued + deferred + ?4 + ?5 <> 0",
        )?
        .execute([org.0, email, provider, queued, deferred])?;
    if stays == 1 {
        return Ok(true);
    }
    let all_left = connection.prepare_cached("DELETE FROM waiting WHERE org = ?1 AND email = ?2 AND provider = ?3")?.execute(lane)? == 1;
    if all_left || queued + deferred == 0 {
        return Ok(false);
    }
    let insert = "INSERT INTO waiting (org, email, provider, queued, deferred) VALUES (?1, ?2, ?3, ?4, ?5)";
    connection.prepare_cached(insert)?.execute([org.0, email, provider, queued, deferred])?;
    Ok(true)
}

/// The same for a lane that is known by name.
pub fn moved(
    connection: &Connection,
    context: &mut Context,
    (org, email, provider): (OrgId, i64, &str),
    change: (i64, i64),
) -> Result<bool, DbError> {
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
    let mut name = connection.prepare_cached("SELECT name FROM names WHERE id = ?1")?;
    let lane =
        |row: &rusqlite::Row<'_>| Ok(WaitingLane { provider: row.get(0)?, queued: row.get(1)?, deferred: row.get(2)?, ahead: row.get(3)? });
    let mut lanes: Vec<WaitingLane> = statement.query_map([org.0, email.0], lane)?.collect::<Result<_, _>>()?;
    for held in sending::of_emails(connection, org, email)? {
        let own = held.block.email == email.0;
        for (provider, was, count) in in_hand(connection, &held)? {
            let provider = name.query_row([provider], |row| row.get::<_, String>(0))?;
            let Some(lane) = lanes.iter_mut().find(|lane| lane.provider == provider) else { continue };
            let own = if own { count } else { 0 };
            match was {
                State::Deferred => lane.deferred -= own,
                State::Queued => {
                    lane.ahead -= count;
                    lane.queued -= own;
                }
                _ => {}
            }
        }
    }
    lanes.retain(|lane| lane.queued > 0 || lane.deferred > 0);
    Ok(lanes)
}

/// How many of what a client has in hand came from which lane and state.
pub fn in_hand(connection: &Connection, held: &InHand) -> Result<Vec<(i64, State, i64)>, DbError> {
    let mut found = Vec::new();
    for (provider, users) in fresh::of_block(connection, held.block)? {
        found.push((provider, State::Queued, users.common(held.users).len() as i64));
    }
    let mut statement = connection.prepare_cached(
        "SELECT provider, state, count(*) FROM deliveries
         WHERE org = ?1 AND email = ?2 AND user BETWEEN ?3 AND ?4 AND ?5 & (1 << (user & 63)) GROUP BY provider, state",
    )?;
    let users = held.block.users();
    let mut rows = statement.query(params![held.block.org, held.block.email, users.start(), users.end(), held.users])?;
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, state(row.get(1)?)?, row.get(2)?));
    }
    Ok(found)
}
