//! `sending`: what a client has in hand, written before it gets it, block by block. At most `sending_rows_max` bits.
//!
//! Invariant: a user of a block is in the hand of one client; what [`Sending`] has in memory is what the table has at the end of a job.

use crate::db::DbError;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId};
use crate::model::number_map::NumberMap;
use crate::warmup::sqlite::blocks::{Block, Users};
use crate::warmup::sqlite::rows::only;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

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

/// By block, the clients that have some of its users, and whom.
type Hands = NumberMap<Block, Vec<(i64, Users)>>;

/// The table as its one writer keeps it in memory beside it, so that what enters or leaves costs no look at what stands there, and what
/// a turn of live mail changes of a row is written once.
#[derive(Default)]
pub struct Sending {
    /// `None`: the table is to be read.
    hands: Option<Hands>,
    /// What the table has of rows that may be other than it.
    unwritten: BTreeMap<(Block, i64), Users>,
}

impl Sending {
    /// Reads the table again when it is needed, because what was written to it may have been undone.
    pub fn forget(&mut self) {
        *self = Sending::default();
    }

    fn hands(&mut self, connection: &Connection) -> Result<&mut Hands, DbError> {
        if self.hands.is_none() {
            let mut hands = Hands::default();
            for InHand { block, users, client } in all(connection)? {
                hands.entry(block).or_default().push((client, users));
            }
            self.hands = Some(hands);
        }
        Ok(self.hands.get_or_insert_default())
    }

    /// Of a block, in whosever hand, as the writing thread knows it.
    pub fn of_block(&mut self, connection: &Connection, block: Block) -> Result<Users, DbError> {
        let hands = self.hands(connection)?.get(&block).map_or(&[][..], Vec::as_slice);
        Ok(hands.iter().fold(Users::default(), |all, (_, users)| all.with(*users)))
    }

    pub fn enter(&mut self, connection: &Connection, block: Block, users: Users, client: i64) -> Result<(), DbError> {
        let hands = self.hands(connection)?.entry(block).or_default();
        let held = match hands.iter().position(|(of, _)| *of == client) {
            Some(place) => &mut hands[place].1,
            None => &mut hands.push_mut((client, Users::default())).1,
        };
        let stood = *held;
        *held = stood.with(users);
        self.unwritten.entry((block, client)).or_insert(stood);
        Ok(())
    }

    /// Takes users out of whosever hand they are in.
    pub fn leave(&mut self, connection: &Connection, block: Block, users: Users) -> Result<(), DbError> {
        self.hands(connection)?;
        let Some(hands) = self.hands.as_mut().and_then(|all| all.get_mut(&block)) else { return Ok(()) };
        for (client, held) in hands.iter_mut().filter(|(_, held)| !held.common(users).is_empty()) {
            self.unwritten.entry((block, *client)).or_insert(*held);
            *held = held.without(users);
        }
        Ok(())
    }

    /// Writes what has changed: the end of a job does, and whoever reads the table in the job that changed it.
    pub fn write(&mut self, connection: &Connection) -> Result<(), DbError> {
        let Some(all) = &mut self.hands else { return Ok(()) };
        for ((block, client), stood) in std::mem::take(&mut self.unwritten) {
            let hands = all.get_mut(&block).map_or(&mut [][..], Vec::as_mut_slice);
            let users = hands.iter().find(|(of, _)| *of == client).map_or(Users::default(), |(_, users)| *users);
            let (org, email, number) = (block.org, block.email, block.number);
            let changed = match (stood.is_empty(), users.is_empty()) {
                _ if stood == users => 1,
                (true, _) => {
                    let insert = "INSERT OR IGNORE INTO sending (org, email, block, client, users) VALUES (?1, ?2, ?3, ?4, ?5)";
                    connection.prepare_cached(insert)?.execute(params![org, email, number, client, users])?
                }
                (_, true) => {
                    let delete = "DELETE FROM sending WHERE org = ?1 AND email = ?2 AND block = ?3 AND client = ?4 AND users = ?5";
                    connection.prepare_cached(delete)?.execute(params![org, email, number, client, stood])?
                }
                _ => {
                    let update =
                        "UPDATE sending SET users = ?6 WHERE org = ?1 AND email = ?2 AND block = ?3 AND client = ?4 AND users = ?5";
                    connection.prepare_cached(update)?.execute(params![org, email, number, client, stood, users])?
                }
            };
            only(changed, "what a client has in hand")?;
            if users.is_empty()
                && let Some(hands) = all.get_mut(&block)
            {
                hands.retain(|(_, held)| !held.is_empty());
                if hands.is_empty() {
                    all.remove(&block);
                }
            }
        }
        Ok(())
    }

    /// Puts a row that is in hand into that of another client.
    pub fn hand_over(&mut self, connection: &Connection, delivery: DeliveryKey, client: i64) -> Result<(), DbError> {
        let (block, slot) = Block::of(delivery);
        self.leave(connection, block, Users::one(slot))?;
        self.enter(connection, block, Users::one(slot), client)
    }
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

/// Of a block, in whosever hand, as it stands.
pub fn of_block(connection: &Connection, block: Block) -> Result<Users, DbError> {
    let sql = "SELECT coalesce(sum(users), 0) FROM sending WHERE org = ?1 AND email = ?2 AND block = ?3";
    Ok(connection.prepare_cached(sql)?.query_row([block.org, block.email, block.number], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::writer::Memory;
    use crate::warmup::sqlite::blocks::Slot;
    use crate::warmup::sqlite::testing::database;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Enter(i64, Vec<Slot>, i64),
        Leave(i64, Vec<Slot>),
        HandOver(i64, Slot, i64),
        /// A job that enters, leaves, and is undone.
        Undone(i64, Vec<Slot>, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (number, client) = (0_i64..3, 1_i64..4);
        let slots = || prop::collection::vec(0_u32..8, 0..8);
        prop_oneof![
            4 => (number.clone(), slots(), client.clone()).prop_map(|(number, slots, client)| Step::Enter(number, slots, client)),
            4 => (number.clone(), slots()).prop_map(|(number, slots)| Step::Leave(number, slots)),
            2 => (number.clone(), 0_u32..8, client.clone()).prop_map(|(number, slot, client)| Step::HandOver(number, slot, client)),
            2 => (number, slots(), client).prop_map(|(number, slots, client)| Step::Undone(number, slots, client)),
        ]
    }

    fn block(number: i64) -> Block {
        Block { org: 1, email: 1, number }
    }

    fn users(slots: impl IntoIterator<Item = Slot>) -> Users {
        slots.into_iter().fold(Users::default(), |all, slot| all.with(Users::one(slot)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_table_has_each_user_in_the_hand_that_he_went_to_last_also_after_a_job_was_undone(
            steps in prop::collection::vec((step(), any::<bool>()), 1..30),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (connection, mut context) = database(&folder, 1);
            let mut hands = BTreeMap::<(i64, Slot), i64>::new();
            for (step, writes) in steps {
                match step {
                    Step::Enter(number, slots, client) => {
                        let free: Vec<Slot> = slots.into_iter().filter(|slot| !hands.contains_key(&(number, *slot))).collect();
                        if !free.is_empty() {
                            context.sending.enter(&connection, block(number), users(free.iter().copied()), client).unwrap();
                        }
                        hands.extend(free.into_iter().map(|slot| ((number, slot), client)));
                    }
                    Step::Leave(number, slots) => {
                        context.sending.leave(&connection, block(number), users(slots.iter().copied())).unwrap();
                        hands.retain(|(of, slot), _| *of != number || !slots.contains(slot));
                    }
                    Step::HandOver(number, slot, client) => {
                        if let Some(hand) = hands.get_mut(&(number, slot)) {
                            *hand = client;
                            context.sending.hand_over(&connection, block(number).delivery(slot), client).unwrap();
                        }
                    }
                    Step::Undone(number, slots, client) => {
                        context.sending.write(&connection).unwrap();
                        connection.execute_batch("SAVEPOINT job").unwrap();
                        context.sending.enter(&connection, block(number), users(8..10), client).unwrap();
                        context.sending.leave(&connection, block(number), users(slots.iter().copied())).unwrap();
                        if writes {
                            context.sending.write(&connection).unwrap();
                        }
                        connection.execute_batch("ROLLBACK TO job; RELEASE job").unwrap();
                        context.rolled_back();
                    }
                }
                if !writes {
                    continue;
                }
                context.sending.write(&connection).unwrap();
                let stand = all(&connection).unwrap();
                let found = stand.iter().flat_map(|held| held.users.slots().map(|slot| ((held.block.number, slot), held.client)));
                prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), hands.clone());
                prop_assert!(stand.iter().all(|held| !held.users.is_empty()));
                for number in 0..3 {
                    let wanted = users(hands.keys().filter(|(of, _)| *of == number).map(|(_, slot)| *slot));
                    prop_assert_eq!(context.sending.of_block(&connection, block(number)).unwrap(), wanted);
                }
            }
        }
    }

    #[test]
    fn a_table_that_somebody_else_has_written_is_told_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        context.sending.enter(&connection, block(0), users(0..4), 1).unwrap();
        context.sending.write(&connection).unwrap();
        connection.execute("DELETE FROM sending", []).unwrap();
        for slots in [0..2, 0..4] {
            context.sending.leave(&connection, block(0), users(slots)).unwrap();
            let written = context.sending.write(&connection);
            assert!(matches!(written, Err(DbError::Damaged(_))), "{written:?}");
        }
        context.rolled_back();
        assert_eq!(context.sending.of_block(&connection, block(0)).unwrap(), Users::default());
        context.sending.leave(&connection, block(0), users(0..4)).unwrap();
        context.sending.write(&connection).unwrap();
    }

    #[test]
    fn what_leaves_and_enters_in_one_job_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let mut rows = |leave, enter| {
            context.sending.leave(&connection, block(0), users(leave)).unwrap();
            context.sending.enter(&connection, block(0), users(enter), 1).unwrap();
            let before = connection.total_changes();
            context.sending.write(&connection).unwrap();
            connection.total_changes() - before
        };
        assert_eq!([rows(0..0, 0..4), rows(0..2, 4..6), rows(2..6, 2..6)], [1, 1, 0]);
    }
}
