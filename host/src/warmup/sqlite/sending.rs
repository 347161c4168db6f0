//! `sending`: what a client has in hand, written before it gets it, block by block. At most `sending_rows_max` bits.
//!
//! Invariant: a user of a block is in the hand of one client.

use crate::db::DbError;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId};
use crate::warmup::sqlite::blocks::{Block, Users};
use rusqlite::{Connection, params};

/// The condition that nobody has the delivery `d` in hand.
macro_rules! in_no_hand {
    () => {
        "NOT EXISTS (SELECT 1 FROM sending s WHERE s.org = d.org AND s.email = d.email AND s.block = d.user >> 6
                     AND s.users & (1 << (d.user & 63)))"
    };
}
pub(super) use in_no_hand;

/// What a client has in hand of a block.
pub struct InHand {
    pub block: Block,
    pub users: Users,
    pub client: i64,
}

pub fn enter(connection: &Connection, block: Block, users: Users, client: i64) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "INSERT INTO sending (org, email, block, client, users) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET users = users | excluded.users",
        )?
        .execute(params![block.org, block.email, block.number, client, users])?;
    Ok(())
}

/// Takes users out of whosever hand they are in.
pub fn leave(connection: &Connection, block: Block, users: Users) -> Result<(), DbError> {
    let sql = "SELECT org, email, block, client, users FROM sending WHERE org = ?1 AND email = ?2 AND block = ?3";
    for held in read(connection, sql, &[block.org, block.email, block.number])? {
        let left = held.users.without(users);
        let key = [block.org, block.email, block.number, held.client];
        if left.is_empty() {
            connection.prepare_cached("DELETE FROM sending WHERE org = ?1 AND email = ?2 AND block = ?3 AND client = ?4")?.execute(key)?;
        } else if left != held.users {
            connection
                .prepare_cached("UPDATE sending SET users = ?5 WHERE org = ?1 AND email = ?2 AND block = ?3 AND client = ?4")?
                .execute(params![key[0], key[1], key[2], key[3], left])?;
        }
    }
    Ok(())
}

/// Puts a row that is in hand into that of another client.
pub fn hand_over(connection: &Connection, delivery: DeliveryKey, client: i64) -> Result<(), DbError> {
    let (block, slot) = Block::of(delivery);
    leave(connection, block, Users::one(slot))?;
    enter(connection, block, Users::one(slot), client)
}

fn read(connection: &Connection, sql: &str, key: &[i64]) -> Result<Vec<InHand>, DbError> {
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement
        .query_map(rusqlite::params_from_iter(key), |row| {
            let block = Block { org: row.get(0)?, email: row.get(1)?, number: row.get(2)? };
            Ok(InHand { block, client: row.get(3)?, users: row.get(4)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

/// Everything, block by block.
pub fn all(connection: &Connection) -> Result<Vec<InHand>, DbError> {
    read(connection, "SELECT org, email, block, client, users FROM sending ORDER BY org, email, block, client", &[])
}

/// Of an organization's emails up to one.
pub fn of_emails(connection: &Connection, org: OrgId, up_to: EmailNumber) -> Result<Vec<InHand>, DbError> {
    read(connection, "SELECT org, email, block, client, users FROM sending WHERE org = ?1 AND email <= ?2", &[org.0, up_to.0])
}

/// Of an email, from a block on.
pub fn of_email(connection: &Connection, from: Block) -> Result<Vec<InHand>, DbError> {
    let sql = "SELECT org, email, block, client, users FROM sending WHERE org = ?1 AND email = ?2 AND block >= ?3 ORDER BY block, client";
    read(connection, sql, &[from.org, from.email, from.number])
}

/// Of a block, in whosever hand.
pub fn of_block(connection: &Connection, block: Block) -> Result<Users, DbError> {
    let sql = "SELECT coalesce(sum(users), 0) FROM sending WHERE org = ?1 AND email = ?2 AND block = ?3";
    Ok(connection.prepare_cached(sql)?.query_row([block.org, block.email, block.number], |row| row.get(0))?)
}
