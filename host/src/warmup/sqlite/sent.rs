//! `sent`: live mail that was accepted at its first attempt, packed: an entry a delivery, one row a block. A row is made about as long
//! as the entries that are expected will make it: those that come later are written into it, and the pages around it stay as they are.
//!
//! Invariant: whatever an entry cannot say has a row in `deliveries` instead.

pub mod entries;

use crate::db::DbError;
use crate::model::number_map::NumberMap;
use crate::warmup::sqlite::blocks::{Block, Slot};
use crate::warmup::sqlite::rows::only;
use entries::{Accepted, New, ROOM, end, unpack};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

/// The most room that a row is made with, in octets.
const ROOM_MAX: usize = 8 * 1024;
/// A row gives back the room that it does not expect to need, where that is more than one part in this.
const ROOM_PART: usize = 4;
/// The most rows that are remembered.
const REMEMBERED_MAX: usize = 250;

/// What the writing thread remembers of rows that expect more entries, so that these cost no look at what stands there.
#[derive(Default)]
pub struct Sent(NumberMap<Block, Row>);

struct Row {
    id: i64,
    octets: Vec<u8>,
    /// Where its room begins. What is damaged has none: it stays, for whoever reads it to tell.
    end: usize,
}

impl Sent {
    /// Reads the rows again when they are needed, because what was written to them may have been undone.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Adds entries to those of a block, behind which so many are expected.
    pub fn add(&mut self, connection: &Connection, block: Block, new: &New<'_>, expected: usize) -> Result<(), DbError> {
        if new.count == 0 {
            return Ok(());
        }
        let known = self.0.remove(&block).map_or_else(|| Row::read(connection, block), |row| Ok(Some(row)))?;
        let row = match known {
            Some(row) => row.with(connection, new, expected)?,
            None => Row::made(connection, block, new, expected)?,
        };
        if expected > 0 && row.octets.len() <= ROOM_MAX {
            if self.0.len() >= REMEMBERED_MAX {
                let any = self.0.keys().next().copied();
                any.map(|any| self.0.remove(&any));
            }
            self.0.insert(block, row);
        }
        Ok(())
    }
}

/// Room for so many entries more that come as many at a time as these, and are like them.
fn room(new: &New<'_>, entries: usize) -> usize {
    (entries.div_ceil(new.count) * new.octets.len()).min(ROOM_MAX)
}

impl Row {
    fn read(connection: &Connection, block: Block) -> Result<Option<Row>, DbError> {
        let read = |row: &rusqlite::Row<'_>| {
            let octets: Vec<u8> = row.get(1)?;
            Ok(Row { id: row.get(0)?, end: end(&octets).unwrap_or(octets.len()), octets })
        };
        let found = connection
            .prepare_cached("SELECT id, entries FROM sent WHERE org = ?1 AND email = ?2 AND block = ?3")?
            .query_row([block.org, block.email, block.number], read)
            .optional()?;
        Ok(found)
    }

    fn made(connection: &Connection, block: Block, new: &New<'_>, expected: usize) -> Result<Row, DbError> {
        let mut octets = new.octets.clone();
        let end = octets.len();
        octets.resize(end + room(new, expected), ROOM);
        connection.prepare_cached("INSERT INTO sent (org, email, block, entries) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            block.org,
            block.email,
            block.number,
            octets
        ])?;
        Ok(Row { id: connection.last_insert_rowid(), octets, end })
    }

    fn with(mut self, connection: &Connection, new: &New<'_>, expected: usize) -> Result<Row, DbError> {
        let (stood, end) = (self.octets.len(), self.end + new.octets.len());
        let wanted = end + room(new, expected);
        if end > stood || stood.saturating_sub(wanted) > stood / ROOM_PART {
            self.octets.resize(wanted, ROOM);
        }
        self.octets[self.end..end].copy_from_slice(&new.octets);
        let update = "UPDATE sent SET entries = ?2 WHERE id = ?1 AND length(entries) = ?3";
        let changed = connection.prepare_cached(update)?.execute(params![self.id, self.octets, stood as i64])?;
        only(changed, "sent mail")?;
        Ok(Row { end, ..self })
    }
}

/// Those of a block's users that were accepted at once.
pub fn of_block(connection: &Connection, block: Block) -> Result<BTreeMap<Slot, Accepted>, DbError> {
    let entries: Option<Vec<u8>> = connection
        .prepare_cached("SELECT entries FROM sent WHERE org = ?1 AND email = ?2 AND block = ?3")?
        .query_row([block.org, block.email, block.number], |row| row.get(0))
        .optional()?;
    let damaged =
        || DbError::Damaged(format!("what stands of sent mail in block {} of email {} makes no sense", block.number, block.email));
    entries.map_or(Ok(BTreeMap::new()), |octets| unpack(&octets).ok_or_else(damaged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::writer::Memory;
    use crate::model::delivery::Said;
    use crate::warmup::sqlite::testing::database;
    use postwarm_plugin_api::{EnhancedCode, Reply};
    use proptest::prelude::*;

    fn ok(text: &str) -> Said {
        Said { reply: Some(Reply { code: 250, enhanced: None, text: text.to_owned() }), ..Said::default() }
    }

    fn accepted() -> impl Strategy<Value = Accepted> {
        let enhanced = prop::option::of((0_u8..10, 0_u16..1000, 0_u16..1000).prop_map(|(a, b, c)| EnhancedCode(a, b, c)));
        let reply = (200_u16..600, enhanced, any::<String>()).prop_map(|(code, enhanced, text)| Reply { code, enhanced, text });
        let detail = prop::option::of(any::<String>());
        let any = (1_i64..=i64::from(u32::MAX), 0_i64..i64::MAX, reply, detail).prop_map(|(client, at, reply, detail)| Accepted {
            client,
            at,
            said: Said { reply: Some(reply), fault: None, detail },
        });
        // As a server answers: with a number of its own for each, in whatever letters, now and then with a long text.
        let codes = prop::option::weighted(0.7, Just(EnhancedCode(2, 0, 0)));
        let alike = (1_i64..3, 0_i64..200_000, "Ok: queued as [aäö]{0,2}(x{250,600})?", prop::bool::weighted(0.1), codes).prop_map(
            |(client, at, text, told, enhanced)| {
                let reply = Some(Reply { code: 250, enhanced, text: text.clone() });
                Accepted { client, at, said: Said { reply, fault: None, detail: told.then_some(text) } }
            },
        );
        prop_oneof![1 => any, 6 => alike]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn entries_come_back_as_they_were_packed_however_many_at_a_time_also_after_a_job_was_undone(
            wanted in prop::collection::btree_map(0_u32..64, accepted(), 1..64), at_a_time in 1_usize..20, expected in 0_usize..64,
            undone in prop::collection::vec(any::<bool>(), 64),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (connection, mut context) = database(&folder, 1);
            let block = Block { org: 1, email: 1, number: 7 };
            for (part, undone) in wanted.iter().collect::<Vec<_>>().chunks(at_a_time).zip(undone) {
                let mut new = New::default();
                for (slot, entry) in part {
                    prop_assert!(new.pack(**slot, entry.client, entry.at, &entry.said));
                }
                if undone {
                    connection.execute_batch("SAVEPOINT job").unwrap();
                    context.sent.add(&connection, block, &new, expected).unwrap();
                    connection.execute_batch("ROLLBACK TO job; RELEASE job").unwrap();
                    context.rolled_back();
                }
                context.sent.add(&connection, block, &new, expected).unwrap();
            }
            prop_assert_eq!(of_block(&connection, block).unwrap(), wanted);
            prop_assert_eq!(of_block(&connection, Block { number: 8, ..block }).unwrap(), BTreeMap::new());
        }
    }

    #[test]
    fn a_row_is_as_long_from_the_start_as_the_entries_that_are_expected_will_make_it() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let (block, plain) = (Block { org: 1, email: 1, number: 7 }, ok("2.0.0 Ok: queued"));
        let mut lengths = Vec::new();
        for slot in 0..64_u32 {
            let mut new = New::default();
            assert!(new.pack(slot, 1, 1, &plain));
            context.sent.add(&connection, block, &new, 63 - slot as usize).unwrap();
            let octets: Vec<u8> = connection.query_row("SELECT entries FROM sent", [], |row| row.get(0)).unwrap();
            assert_eq!(of_block(&connection, block).unwrap().len(), slot as usize + 1);
            lengths.push(octets.len());
        }
        lengths.dedup();
        assert_eq!(lengths, [64 * (2 + 4 + 8 + 2 + 2 + 16)]);
    }

    #[test]
    fn a_row_that_grows_by_turns_is_not_rearranged_until_its_last() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let (block, plain) = (Block { org: 1, email: 1, number: 7 }, ok("2.0.0 Ok: queued"));
        let mut lengths = Vec::new();
        // The first of a block are few where a turn ends in the block before it.
        for turn in [0..1, 1..13, 13..25, 25..37, 37..49, 49..61, 61..64] {
            let mut new = New::default();
            turn.clone().for_each(|slot| assert!(new.pack(slot, 1, 1, &plain)));
            context.sent.add(&connection, block, &new, 64 - turn.end as usize).unwrap();
            lengths.push(connection.query_row("SELECT length(entries) FROM sent", [], |row| row.get::<_, i64>(0)).unwrap());
        }
        let (first, rest) = (lengths.remove(0), lengths);
        assert!(first > rest[0] && rest[..5].iter().all(|length| *length == rest[0]) && rest[5] <= rest[0], "{first} {rest:?}");
        assert_eq!(of_block(&connection, block).unwrap().len(), 64);
    }

    #[test]
    fn a_row_that_somebody_else_has_written_is_told_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let (block, plain) = (Block { org: 1, email: 1, number: 7 }, ok("2.0.0 Ok: queued"));
        let mut add_one = |connection: &Connection, slot| {
            let mut new = New::default();
            assert!(new.pack(slot, 1, 1, &plain));
            let added = context.sent.add(connection, block, &new, 60);
            if added.is_err() {
                context.rolled_back();
            }
            added
        };
        add_one(&connection, 0).unwrap();
        for change in ["UPDATE sent SET entries = x'ff'", "DELETE FROM sent"] {
            connection.execute(change, []).unwrap();
            let added = add_one(&connection, 1);
            assert!(matches!(added, Err(DbError::Damaged(_))), "{change}: {added:?}");
            add_one(&connection, 1).unwrap();
        }
    }

    #[test]
    fn more_rows_than_are_remembered_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let plain = ok("2.0.0 Ok: queued");
        for slot in 0..3 {
            for number in 0..2 * REMEMBERED_MAX as i64 {
                let mut new = New::default();
                assert!(new.pack(slot, 1, 1, &plain));
                context.sent.add(&connection, Block { org: 1, email: 1, number }, &new, 60).unwrap();
            }
        }
        for number in 0..2 * REMEMBERED_MAX as i64 {
            assert_eq!(of_block(&connection, Block { org: 1, email: 1, number }).unwrap().len(), 3, "{number}");
        }
    }

    #[test]
    fn room_that_nobody_needs_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let (block, plain) = (Block { org: 1, email: 1, number: 7 }, ok("2.0.0 Ok: queued"));
        let mut add_one = |slot, expected| {
            let mut new = New::default();
            assert!(new.pack(slot, 1, 1, &plain));
            context.sent.add(&connection, block, &new, expected).unwrap();
            let length: i64 = connection.query_row("SELECT length(entries) FROM sent", [], |row| row.get(0)).unwrap();
            length
        };
        let one = add_one(0, 0);
        assert_eq!([add_one(1, 40), add_one(2, 30), add_one(3, 0)], [42 * one, 42 * one, 4 * one]);
    }

    #[test]
    fn a_damaged_row_keeps_no_mail_from_being_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, mut context) = database(&folder, 1);
        let block = Block { org: 1, email: 1, number: 7 };
        connection.execute("INSERT INTO sent (org, email, block, entries) VALUES (1, 1, 7, x'ff00')", []).unwrap();
        let plain = ok("2.0.0 Ok: queued");
        let mut new = New::default();
        assert!(new.pack(0, 1, 1, &plain));
        context.sent.add(&connection, block, &new, 0).unwrap();
        let octets: Vec<u8> = connection.query_row("SELECT entries FROM sent", [], |row| row.get(0)).unwrap();
        assert_eq!(octets, [&[0xff, 0][..], &new.octets].concat());
        assert!(matches!(of_block(&connection, block), Err(DbError::Damaged(_))));
    }
}
