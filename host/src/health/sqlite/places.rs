//! What is known by place, that is by recipient domain and provider: how an email's deliveries stand, and when an organization last
//! had to do with each. Neighbouring places share a row, as an email's recipients are at many domains.
//!
//! Invariant: an entry comes back as it was packed. Numbers are LEB128: seven bits an octet, the lowest first.

use crate::db::DbError;
use crate::health::sqlite::chunks::{self, NEIGHBOURS};
use crate::health::tally::Tally;
use rusqlite::{Connection, OptionalExtension};
use std::collections::BTreeMap;

/// What is known of one place.
pub trait Known: Sized {
    const READ: &str;
    const READ_ALL: &str;
    const WRITE: &str;

    fn merge(&mut self, more: Self);
    /// Nothing is known, so that nothing is stored.
    fn is_nothing(&self) -> bool;
    fn pack(&self, octets: &mut Vec<u8>);
    fn unpack(octets: &mut &[u8]) -> Option<Self>;
}

/// How the deliveries of an email stand: which figures are not 0, and these.
impl Known for Tally {
    const READ: &str = "SELECT packed FROM figures WHERE id = ?1";
    const READ_ALL: &str = "SELECT id, packed FROM figures WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
    const WRITE: &str = "INSERT OR REPLACE INTO figures (id, packed) VALUES (?1, ?2)";

    fn merge(&mut self, more: Tally) {
        *self += more;
    }

    fn is_nothing(&self) -> bool {
        *self == Tally::default()
    }

    fn pack(&self, octets: &mut Vec<u8>) {
        let columns = self.columns();
        let stored = columns.iter().enumerate().filter(|(_, figure)| **figure != 0);
        push_number(octets, stored.clone().fold(0, |which, (at, _)| which | 1 << at));
        stored.for_each(|(_, figure)| push_number(octets, *figure as u64));
    }

    fn unpack(octets: &mut &[u8]) -> Option<Tally> {
        let which = take_number(octets)?;
        let mut columns = Tally::default().columns();
        for (at, figure) in columns.iter_mut().enumerate() {
            if which >> at & 1 == 1 {
                *figure = take_number(octets)? as i64;
            }
        }
        Some(Tally::from_columns(columns))
    }
}

/// When an organization last had to do with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    pub at: i64,
}

impl Known for Seen {
    const READ: &str = "SELECT packed FROM seen WHERE id = ?1";
    const READ_ALL: &str = "SELECT id, packed FROM seen WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
    const WRITE: &str = "INSERT OR REPLACE INTO seen (id, packed) VALUES (?1, ?2)";

    fn merge(&mut self, more: Seen) {
        self.at = self.at.max(more.at);
    }

    fn is_nothing(&self) -> bool {
        false
    }

    fn pack(&self, octets: &mut Vec<u8>) {
        push_number(octets, self.at as u64);
    }

    fn unpack(octets: &mut &[u8]) -> Option<Seen> {
        Some(Seen { at: take_number(octets)? as i64 })
    }
}

/// The entries of a row, by slot.
#[derive(Debug, PartialEq, Eq)]
struct Row<E>(BTreeMap<u8, E>);

impl<E: Known> Row<E> {
    fn packed(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        for (slot, entry) in self.0.iter().filter(|(_, entry)| !entry.is_nothing()) {
            octets.push(*slot);
            entry.pack(&mut octets);
        }
        octets
    }

    /// Reads the row of a number.
    fn stored(id: i64, octets: &[u8]) -> Result<Row<E>, DbError> {
        Row::unpacked(octets).ok_or_else(|| DbError::Damaged(format!("what stands by recipient domain in row {id} makes no sense")))
    }

    fn unpacked(mut octets: &[u8]) -> Option<Row<E>> {
        let mut row = BTreeMap::new();
        while let Some(slot) = octets.split_off_first() {
            if i64::from(*slot) >= NEIGHBOURS {
                return None;
            }
            row.insert(*slot, E::unpack(&mut octets)?);
        }
        Some(Row(row))
    }
}

/// Adds to what is known by owner and place. A row is read and written once.
pub fn merge<E: Known>(db: &Connection, changes: impl Iterator<Item = ((i64, i64), E)>) -> Result<(), DbError> {
    let mut rows: BTreeMap<i64, Vec<(u8, E)>> = BTreeMap::new();
    for ((owner, place), change) in changes {
        // The database numbers places from 1 on, and there are not as many as could be numbered.
        let Some((row, slot)) = chunks::row_of(owner, place) else { continue };
        rows.entry(row).or_default().push((slot as u8, change));
    }
    for (id, changes) in rows {
        let stood: Option<Vec<u8>> = db.prepare_cached(E::READ)?.query_row([id], |r| r.get(0)).optional()?;
        let mut row: Row<E> = Row::stored(id, &stood.unwrap_or_default())?;
        for (slot, change) in changes {
            match row.0.get_mut(&slot) {
                Some(known) => known.merge(change),
                None => drop(row.0.insert(slot, change)),
            }
        }
        db.prepare_cached(E::WRITE)?.execute((id, row.packed()))?;
    }
    Ok(())
}

/// What is known of an owner's places, each with its number.
pub fn of<E: Known>(db: &Connection, owner: i64) -> Result<Vec<(i64, E)>, DbError> {
    let mut select = db.prepare_cached(E::READ_ALL)?;
    let rows = chunks::rows_of(owner);
    let mut rows = select.query([rows.start(), rows.end()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, octets): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let Row(entries) = Row::stored(id, &octets)?;
        found.extend(entries.into_iter().map(|(slot, entry)| (chunks::number_of(id, usize::from(slot)), entry)));
    }
    Ok(found)
}

fn push_number(octets: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        octets.push(number as u8 | 0x80);
        number >>= 7;
    }
    octets.push(number as u8);
}

fn take_number(octets: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let octet = *octets.split_off_first()?;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally() -> impl Strategy<Value = Tally> {
        prop::array::uniform11(prop_oneof![3 => Just(0), 2 => 0..300_i64, 1 => any::<i64>()]).prop_map(Tally::from_columns)
    }

    proptest! {
        #[test]
        fn entries_come_back_as_they_were_packed(
            tallies in prop::collection::btree_map(0..64_u8, tally(), 0..64),
            seen in prop::collection::btree_map(0..64_u8, any::<i64>().prop_map(|at| Seen { at }), 0..64),
        ) {
            let (tallies, seen) = (Row(tallies), Row(seen));
            let known = Row(tallies.0.iter().filter(|(_, tally)| !tally.is_nothing()).map(|(slot, tally)| (*slot, *tally)).collect());
            prop_assert_eq!(Row::unpacked(&tallies.packed()), Some(known));
            prop_assert_eq!(Row::unpacked(&seen.packed()), Some(seen));
        }

        #[test]
        fn what_is_damaged_is_told(octets in prop::collection::vec(any::<u8>(), 0..40)) {
            // Whatever it is, it is read or refused; nothing panics.
            if let Some(row) = Row::<Tally>::unpacked(&octets) {
                prop_assert!(row.0.keys().all(|slot| *slot < 64));
            }
            prop_assert_eq!(Row::<Seen>::unpacked(&[octets, vec![64, 1]].concat()), None);
        }
    }
}
