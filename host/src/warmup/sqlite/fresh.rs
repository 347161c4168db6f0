//! `fresh`: live mail that nobody has tried to send, by lane, block by block. What has been tried, or is suppressed, has a
//! row in `deliveries`, or an entry in `sent`.
//!
//! Invariant: a bit of `fresh` stands as long as its delivery is untried, also while a client has it in hand.

use crate::db::DbError;
use crate::warmup::sqlite::blocks::{Block, Users};
use crate::warmup::sqlite::rows::only;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The most rows that are remembered from one job to the next.
const REMEMBERED_MAX: usize = 1_000;

/// What the writing thread remembers of the table, so that a delivery that leaves costs no look at its row, and what the outcomes of
/// a turn change of it is written once.
#[derive(Default)]
pub struct Fresh {
    /// By block and the number of the provider.
    rows: BTreeMap<(Block, i64), Untried>,
    changed: Vec<(Block, i64)>,
}

struct Untried {
    stood: Users,
    left: Users,
}

impl Fresh {
    /// Reads the rows again when they are needed, because what was written to them may have been undone.
    pub fn forget(&mut self) {
        *self = Fresh::default();
    }

    /// Adds users of a block to a lane.
    pub fn add(&mut self, connection: &Connection, block: Block, provider: i64, users: Users) -> Result<(), DbError> {
        self.write(connection)?;
        self.rows.remove(&(block, provider));
        connection
            .prepare_cached(
                "INSERT INTO fresh (org, provider, email, block, users) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET users = users | excluded.users",
            )?
            .execute(params![block.org, provider, block.email, block.number, users])?;
        Ok(())
    }

    /// Takes out users that are untried; answers those of `users` that were.
    pub fn take(&mut self, connection: &Connection, block: Block, provider: i64, users: Users) -> Result<Users, DbError> {
        let untried = match self.rows.entry((block, provider)) {
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
        if !taken.is_empty() {
            untried.left = untried.left.without(taken);
            self.changed.push((block, provider));
        }
        Ok(taken)
    }

    /// How many users of a block are untried in the lanes that are remembered.
    pub fn left(&self, block: Block) -> usize {
        self.rows.range((block, i64::MIN)..=(block, i64::MAX)).map(|(_, untried)| untried.left.len()).sum()
    }

    /// Writes what has changed.
    pub fn write(&mut self, connection: &Connection) -> Result<(), DbError> {
        for (block, provider) in std::mem::take(&mut self.changed) {
            let Some(untried) = self.rows.get_mut(&(block, provider)).filter(|untried| untried.left != untried.stood) else { continue };
            let Untried { stood, left } = *untried;
            untried.stood = left;
            let changed = if left.is_empty() {
                self.rows.remove(&(block, provider));
                let delete = "DELETE FROM fresh WHERE org = ?1 AND provider = ?2 AND email = ?3 AND block = ?4 AND users = ?5";
                connection.prepare_cached(delete)?.execute(params![block.org, provider, block.email, block.number, stood])?
            } else {
                let update = "UPDATE fresh SET users = ?6 WHERE org = ?1 AND provider = ?2 AND email = ?3 AND block = ?4 AND users = ?5";
                connection.prepare_cached(update)?.execute(params![block.org, provider, block.email, block.number, stood, left])?
            };
            only(changed, "mail that nobody has tried to send")?;
        }
        while self.rows.len() > REMEMBERED_MAX {
            self.rows.pop_first();
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::writer::Memory;
    use crate::warmup::sqlite::testing::database;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64),
        Take(u64),
        Write,
        /// A job that takes users, writes that, and is undone.
        Undone(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => any::<u64>().prop_map(Step::Add),
            4 => any::<u64>().prop_map(Step::Take),
            2 => Just(Step::Write),
            1 => any::<u64>().prop_map(Step::Undone),
        ]
    }

    fn users(bits: u64) -> Users {
        (0..u64::BITS).filter(|slot| bits >> slot & 1 == 1).fold(Users::default(), |all, slot| all.with(Users::one(slot)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_table_has_who_was_added_and_not_taken_also_after_a_job_was_undone(
            steps in prop::collection::vec((0_i64..3, 1_i64..3, step()), 1..40),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (connection, mut context) = database(&folder, 1);
            let mut untried = BTreeMap::<(i64, i64), Users>::new();
            for (number, provider, step) in steps {
                let block = Block { org: 1, email: 1, number };
                let left = untried.entry((provider, number)).or_default();
                match step {
                    Step::Add(bits) => {
                        *left = left.with(users(bits));
                        context.fresh.add(&connection, block, provider, users(bits)).unwrap();
                    }
                    Step::Take(bits) => {
                        let taken = context.fresh.take(&connection, block, provider, users(bits)).unwrap();
                        prop_assert_eq!(taken, left.common(users(bits)));
                        *left = left.without(users(bits));
                    }
                    Step::Write => context.fresh.write(&connection).unwrap(),
                    Step::Undone(bits) => {
                        context.fresh.write(&connection).unwrap();
                        connection.execute_batch("SAVEPOINT job").unwrap();
                        context.fresh.take(&connection, block, provider, users(bits)).unwrap();
                        context.fresh.write(&connection).unwrap();
                        connection.execute_batch("ROLLBACK TO job; RELEASE job").unwrap();
                        context.rolled_back();
                    }
                }
            }
            context.fresh.write(&connection).unwrap();
            untried.retain(|_, users| !users.is_empty());
            for provider in 1..3 {
                let due = due(&connection, (1, provider), 1_000, |_| Ok(Users::default())).unwrap();
                let found: Vec<_> = due.into_iter().map(|(block, users)| (block.number, users)).collect();
                let wanted: Vec<_> = untried.iter().filter(|((of, _), _)| *of == provider).map(|((_, number), users)| (*number, *users)).collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn a_row_that_somebody_else_has_written_is_told_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let block = Block { org: 1, email: 1, number: 0 };
        context.fresh.add(&connection, block, 1, users(7)).unwrap();
        assert_eq!(context.fresh.take(&connection, block, 1, users(1)).unwrap(), users(1));
        connection.execute("DELETE FROM fresh", []).unwrap();
        let written = context.fresh.write(&connection);
        assert!(matches!(written, Err(DbError::Damaged(_))), "{written:?}");
        context.rolled_back();
        assert_eq!(context.fresh.take(&connection, block, 1, users(7)).unwrap(), Users::default());
        context.fresh.add(&connection, block, 1, users(7)).unwrap();
        assert_eq!(context.fresh.take(&connection, block, 1, users(1)).unwrap(), users(1));
        connection.execute("UPDATE fresh SET users = 15", []).unwrap();
        let written = context.fresh.write(&connection);
        assert!(matches!(written, Err(DbError::Damaged(_))), "{written:?}");
    }
}
