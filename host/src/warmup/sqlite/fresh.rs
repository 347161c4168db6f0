//! `fresh`: live mail that nobody has tried to send, by lane, block by block. What has been tried, or is suppressed, has a
//! row in `deliveries`, or an entry in `sent`.
//!
//! Invariant: a bit of `fresh` stands as long as its delivery is untried, also while a client has it in hand.

use crate::db::DbError;
use crate::warmup::sqlite::blocks::{Block, Users};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Adds users of a block to a lane.
pub fn add(connection: &Connection, block: Block, provider: i64, users: Users) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "INSERT INTO fresh (org, provider, email, block, users) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET users = users | excluded.users",
        )?
        .execute(params![block.org, provider, block.email, block.number, users])?;
    Ok(())
}

/// The first `wanted` users of a lane that no client has in hand, in the order of their turn. Walks over those that one has.
pub fn due(
    connection: &Connection,
    (org, provider): (i64, i64),
    wanted: usize,
    mut in_hand: impl FnMut(Block) -> Result<Users, DbError>,
) -> Result<Vec<(Block, Users)>, DbError> {
    let mut statement =
        connection.prepare_cached("SELECT email, block, users FROM fresh WHERE org = ?1 AND provider = ?2 ORDER BY email, block")?;
    let mut rows = statement.query([org, provider])?;
    let (mut found, mut left) = (Vec::new(), wanted);
    while left > 0
        && let Some(row) = rows.next()?
    {
        let block = Block { org, email: row.get(0)?, number: row.get(1)? };
        let users = row.get::<_, Users>(2)?.without(in_hand(block)?).lowest(left);
        if !users.is_empty() {
            left -= users.len();
            found.push((block, users));
        }
    }
    Ok(found)
}

/// The users of a block that are untried, by the number of their provider. An email waits in each lane that has one.
pub fn of_block(connection: &Connection, block: Block) -> Result<Vec<(i64, Users)>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT f.provider, f.users FROM waiting w JOIN fresh f ON f.org = w.org AND f.provider = w.provider AND f.email = w.email
         WHERE w.org = ?1 AND w.email = ?2 AND f.block = ?3",
    )?;
    let found =
        statement.query_map([block.org, block.email, block.number], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(found)
}

/// Takes users of a block out of a lane.
pub fn remove(connection: &Connection, block: Block, provider: i64, users: Users) -> Result<(), DbError> {
    let mut leaving = Leaving::default();
    leaving.take(connection, block, provider, users)?;
    leaving.write(connection)
}

/// What leaves `fresh` in a turn, by block and lane, so that a row is read and written once.
#[derive(Default)]
pub struct Leaving(BTreeMap<(Block, i64), Untried>);

struct Untried {
    stood: Users,
    left: Users,
}

impl Leaving {
    /// Takes out users that are untried; answers those of `users` that were.
    pub fn take(&mut self, connection: &Connection, block: Block, provider: i64, users: Users) -> Result<Users, DbError> {
        let untried = match self.0.entry((block, provider)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let stood: Option<Users> = connection
                    .prepare_cached("SELECT users FROM fresh WHERE org = ?1 AND provider = ?2 AND email = ?3 AND block = ?4")?
                    .query_row([block.org, provider, block.email, block.number], |row| row.get(0))
                    .optional()?;
                let stood = stood.unwrap_or_default();
                new.insert(Untried { stood, left: stood })
            }
        };
        let taken = untried.left.common(users);
        untried.left = untried.left.without(users);
        Ok(taken)
    }

    /// How many users of a block stay untried in the lanes that [`Leaving::take`] was asked about.
    pub fn left(&self, block: Block) -> usize {
        self.0.range((block, i64::MIN)..=(block, i64::MAX)).map(|(_, untried)| untried.left.len()).sum()
    }

    pub fn write(self, connection: &Connection) -> Result<(), DbError> {
        for ((block, provider), Untried { stood, left }) in self.0 {
            let key = [block.org, provider, block.email, block.number];
            if left.is_empty() && !stood.is_empty() {
                connection
                    .prepare_cached("DELETE FROM fresh WHERE org = ?1 AND provider = ?2 AND email = ?3 AND block = ?4")?
                    .execute(key)?;
            } else if left != stood {
                connection
                    .prepare_cached("UPDATE fresh SET users = ?5 WHERE org = ?1 AND provider = ?2 AND email = ?3 AND block = ?4")?
                    .execute(params![key[0], key[1], key[2], key[3], left])?;
            }
        }
        Ok(())
    }
}
