//! Lists of an email's recipients, in the order of their numbers, each in the state that is shown.
//!
//! Whoever is in `sending` is sending; else a row of `deliveries` tells the state; else an entry of `sent` says that it was
//! sent; else whoever belongs to the audience is queued, fanned out or not.

use crate::db::DbError;
use crate::model::delivery::State;
use crate::model::name::{EmailNumber, OrgId, UserNumber};
use crate::warmup::sqlite::blocks::{Block, Slot, Users, number_of, slot_of};
use crate::warmup::sqlite::rows::{address, said, state};
use crate::warmup::sqlite::sending::{self, in_no_hand};
use crate::warmup::sqlite::sent;
use crate::warmup::sqlite::sent::entries::Accepted;
use crate::warmup::store::{Deliveries, DeliveryPage, DeliveryRow};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

/// The most recipients that one page looks at; where few of many are in the wanted state, a page ends early.
pub const LOOKED_AT_MAX: usize = 20_000;

const WITH_A_ROW: &str = "SELECT user, state FROM deliveries WHERE org = ?1 AND email = ?2 AND user BETWEEN ?3 AND ?4 ORDER BY user";

const FIRST_WITH_A_ROW: &str = "SELECT user FROM deliveries WHERE org = ?1 AND email = ?2 AND user >= ?3 ORDER BY user LIMIT 1";

/// The list repeats the condition of the index, without which SQLite does not take it.
const IN_STATE: &str = concat!(
    "SELECT d.user FROM deliveries d INDEXED BY deliveries_state
     WHERE d.org = ?1 AND d.email = ?2 AND d.user > ?3 AND d.state = ?4 AND (d.state = 1 OR d.state > 3) AND ",
    in_no_hand!(),
    "ORDER BY d.user"
);

const RECIPIENT: &str = "
    SELECT u.number, u.address_key, u.address, d.attempts, d.queued_at, d.next_at, d.finished_at, d.code, d.enhanced, d.reply, d.fault,
           d.detail, coalesce(sc.name, c.name) AS client, e.created_at AS accepted_at
    FROM users u JOIN emails e ON e.org = u.org AND e.number = ?2
    LEFT JOIN deliveries d ON d.org = u.org AND d.email = ?2 AND d.user = u.number
    LEFT JOIN sending s ON s.org = u.org AND s.email = ?2 AND s.block = u.number >> 6 AND s.users & (1 << (u.number & 63))
    LEFT JOIN names c ON c.id = coalesce(d.client, ?4)
    LEFT JOIN names sc ON sc.id = s.client
    WHERE u.org = ?1 AND u.number = ?3";

/// A page of an email's recipients.
pub fn deliveries(connection: &Connection, org: OrgId, email: EmailNumber, page: &DeliveryPage) -> Result<Deliveries, DbError> {
    let list = List { connection, org: org.0, email: email.0 };
    match page.state {
        None | Some(State::Queued | State::Sent) => list.walk(page),
        Some(State::Sending) => list.in_hand(page),
        Some(wanted @ (State::Deferred | State::Failed | State::Suppressed | State::Unknown)) => list.in_state(page, wanted),
    }
}

/// The recipients of one email.
struct List<'a> {
    connection: &'a Connection,
    org: i64,
    email: i64,
}

impl List<'_> {
    fn block(&self, number: i64) -> Block {
        Block { org: self.org, email: self.email, number }
    }

    /// Looks at block after block.
    fn walk(&self, page: &DeliveryPage) -> Result<Deliveries, DbError> {
        let mut found = Deliveries::default();
        let Some(audience) = self.audience()? else { return Ok(found) };
        let mut looked_at = 0;
        let mut from = page.after.0 + 1;
        while let Some(number) = self.next_block(from, audience)? {
            let block = self.block(number);
            let sent = sent::of_block(self.connection, block)?;
            for (slot, stands) in self.states(block, audience, &sent)?.into_iter().filter(|(slot, _)| block.delivery(*slot).user.0 >= from)
            {
                if found.rows.len() == page.limit {
                    return Ok(found);
                }
                looked_at += 1;
                let user = block.delivery(slot).user;
                if page.state.is_none_or(|wanted| wanted == stands) {
                    found.rows.push(self.recipient(user, stands, sent.get(&slot))?);
                } else if looked_at >= LOOKED_AT_MAX {
                    found.searched_to = Some(user);
                    return Ok(found);
                }
            }
            from = block.users().end() + 1;
        }
        Ok(found)
    }

    /// The highest user number of live mail; `None` where there is no such email.
    fn audience(&self) -> Result<Option<i64>, DbError> {
        let sql = "SELECT audience FROM progress WHERE org = ?1 AND number = ?2";
        Ok(self.connection.prepare_cached(sql)?.query_row([self.org, self.email], |row| row.get(0)).optional()?)
    }

    /// The first block that has a recipient from a user on: behind the audience only back-fill has.
    fn next_block(&self, from: i64, audience: i64) -> Result<Option<i64>, DbError> {
        if from <= audience {
            return Ok(Some(number_of(from)));
        }
        let first =
            self.connection.prepare_cached(FIRST_WITH_A_ROW)?.query_row([self.org, self.email, from], |row| row.get(0)).optional()?;
        Ok(first.map(number_of))
    }

    fn states(&self, block: Block, audience: i64, sent: &BTreeMap<Slot, Accepted>) -> Result<BTreeMap<Slot, State>, DbError> {
        let live = block.users().filter(|user| (1..=audience).contains(user));
        let mut states: BTreeMap<Slot, State> = live.map(|user| (slot_of(user), State::Queued)).collect();
        states.extend(sent.keys().map(|slot| (*slot, State::Sent)));
        let (first, last) = (*block.users().start(), *block.users().end());
        let mut statement = self.connection.prepare_cached(WITH_A_ROW)?;
        let mut rows = statement.query([self.org, self.email, first, last])?;
        while let Some(row) = rows.next()? {
            states.insert(slot_of(row.get(0)?), state(row.get(1)?)?);
        }
        states.extend(sending::of_block(self.connection, block)?.slots().map(|slot| (slot, State::Sending)));
        Ok(states)
    }

    fn in_hand(&self, page: &DeliveryPage) -> Result<Deliveries, DbError> {
        let mut blocks: BTreeMap<Block, Users> = BTreeMap::new();
        for held in sending::of_email(self.connection, self.block(number_of(page.after.0)))? {
            let users = blocks.entry(held.block).or_default();
            *users = users.with(held.users);
        }
        let users = blocks.into_iter().flat_map(|(block, users)| users.slots().map(move |slot| block.delivery(slot).user));
        let users: Vec<UserNumber> = users.filter(|user| *user > page.after).take(page.limit).collect();
        self.all(&users, State::Sending)
    }

    fn in_state(&self, page: &DeliveryPage, wanted: State) -> Result<Deliveries, DbError> {
        let mut statement = self.connection.prepare_cached(IN_STATE)?;
        let rows = statement.query_map([self.org, self.email, page.after.0, wanted as i64], |row| row.get(0).map(UserNumber))?;
        let users: Vec<UserNumber> = rows.take(page.limit).collect::<Result<_, _>>()?;
        self.all(&users, wanted)
    }

    fn all(&self, users: &[UserNumber], state: State) -> Result<Deliveries, DbError> {
        let rows = users.iter().map(|user| self.recipient(*user, state, None)).collect::<Result<_, _>>()?;
        Ok(Deliveries { rows, searched_to: None })
    }

    fn recipient(&self, user: UserNumber, state: State, sent: Option<&Accepted>) -> Result<DeliveryRow, DbError> {
        let waits = matches!(state, State::Deferred | State::Queued);
        let client = sent.map(|sent| sent.client);
        let mut found = self.connection.prepare_cached(RECIPIENT)?.query_row(params![self.org, self.email, user.0, client], |row| {
            Ok(DeliveryRow {
                user,
                recipient: address(row, "address_key", "address")?,
                state,
                attempts: row.get::<_, Option<i64>>("attempts")?.unwrap_or(0),
                client: row.get("client")?,
                said: said(row)?,
                queued_at: row.get::<_, Option<i64>>("queued_at")?.unwrap_or(row.get("accepted_at")?),
                next_at: row.get::<_, Option<i64>>("next_at")?.filter(|at| waits && *at > 0),
                finished_at: row.get("finished_at")?,
            })
        })?;
        if let Some(Accepted { at, said, .. }) = sent {
            found = DeliveryRow { attempts: 1, said: said.clone(), finished_at: Some(*at), ..found };
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
