//! `sent`: live mail that was accepted at its first attempt, packed: an entry a delivery, one row a block. A row is made about as long
//! as the entries that are expected will make it: those that come later are written into it, and the pages around it stay as they are.
//!
//! Invariant: an entry comes back as it was packed. Whatever an entry cannot say has a row in `deliveries` instead. Behind the
//! entries there is room, which has one value. Numbers are little endian.

use crate::db::DbError;
use crate::model::delivery::Said;
use crate::warmup::sqlite::blocks::{Block, Slot};
use postwarm_plugin_api::{EnhancedCode, Reply};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

/// The server gave an enhanced status code.
const ENHANCED: u8 = 1;
/// There is a sentence of our own.
const DETAIL: u8 = 2;
/// An octet of the room for entries to come; no slot.
const ROOM: u8 = u8::MAX;
/// The most room that a row is made with, in octets.
const ROOM_MAX: usize = 8 * 1024;
/// A row that expects no more gives its room back where that is more than one part in this.
const ROOM_PART: usize = 4;

/// What is known of a delivery that was accepted at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub client: i64,
    pub at: i64,
    pub said: Said,
}

/// Entries to add to a row.
#[derive(Debug, Default)]
pub struct New {
    octets: Vec<u8>,
    count: usize,
}

impl New {
    /// Packs an entry behind others; `false` where it does not fit into one.
    pub fn pack(&mut self, slot: Slot, client: i64, at: i64, said: &Said) -> bool {
        let (Some(reply), None) = (&said.reply, said.fault) else { return false };
        let (Ok(client), Ok(at)) = (u32::try_from(client), u64::try_from(at)) else { return false };
        let detail = said.detail.as_deref();
        if reply.text.len() > usize::from(u16::MAX) || detail.is_some_and(|text| text.len() > usize::from(u16::MAX)) {
            return false;
        }
        let flags = if reply.enhanced.is_some() { ENHANCED } else { 0 } | if detail.is_some() { DETAIL } else { 0 };
        let entries = &mut self.octets;
        entries.extend([slot as u8, flags]);
        entries.extend(client.to_le_bytes());
        entries.extend(at.to_le_bytes());
        entries.extend(reply.code.to_le_bytes());
        if let Some(EnhancedCode(class, subject, detail)) = reply.enhanced {
            entries.push(class);
            entries.extend(subject.to_le_bytes());
            entries.extend(detail.to_le_bytes());
        }
        for text in [Some(reply.text.as_str()), detail].into_iter().flatten() {
            entries.extend((text.len() as u16).to_le_bytes());
            entries.extend(text.as_bytes());
        }
        self.count += 1;
        true
    }

    /// Room for so many entries more that are like these.
    fn room(&self, entries: usize) -> usize {
        (self.octets.len() / self.count * entries).min(ROOM_MAX)
    }
}

/// The entries of a row.
struct Entries<'a>(&'a [u8]);

/// An entry as it stands in its row.
struct Entry<'a> {
    slot: u8,
    client: u32,
    at: u64,
    code: u16,
    enhanced: Option<EnhancedCode>,
    text: &'a [u8],
    detail: Option<&'a [u8]>,
}

impl<'a> Entries<'a> {
    fn octets<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (octets, left) = self.0.split_first_chunk::<N>()?;
        self.0 = left;
        Some(*octets)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_le_bytes(self.octets()?));
        let (text, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(text)
    }

    /// Tells whether nothing but room is left; `None` where something stands behind the room.
    fn is_over(&self) -> Option<bool> {
        match self.0.first() {
            Some(&ROOM) => self.0.iter().all(|octet| *octet == ROOM).then_some(true),
            first => Some(first.is_none()),
        }
    }

    fn next(&mut self) -> Option<Entry<'a>> {
        let [slot, flags] = self.octets()?;
        let client = u32::from_le_bytes(self.octets()?);
        let at = u64::from_le_bytes(self.octets()?);
        let code = u16::from_le_bytes(self.octets()?);
        let enhanced = match flags & ENHANCED {
            0 => None,
            _ => {
                let [class] = self.octets()?;
                Some(EnhancedCode(class, u16::from_le_bytes(self.octets()?), u16::from_le_bytes(self.octets()?)))
            }
        };
        let text = self.text()?;
        let detail = if flags & DETAIL == 0 { None } else { Some(self.text()?) };
        Some(Entry { slot, client, at, code, enhanced, text, detail })
    }
}

impl Entry<'_> {
    fn accepted(&self) -> Option<Accepted> {
        let text = |octets| std::str::from_utf8(octets).ok().map(str::to_owned);
        let detail = match self.detail {
            Some(octets) => Some(text(octets)?),
            None => None,
        };
        let reply = Some(Reply { code: self.code, enhanced: self.enhanced, text: text(self.text)? });
        Some(Accepted { client: self.client.into(), at: i64::try_from(self.at).ok()?, said: Said { reply, fault: None, detail } })
    }
}

/// Reads what [`New::pack`] has packed; `None` where it is damaged.
fn unpack(octets: &[u8]) -> Option<BTreeMap<Slot, Accepted>> {
    let mut entries = Entries(octets);
    let mut found = BTreeMap::new();
    while !entries.is_over()? {
        let entry = entries.next()?;
        found.insert(Slot::from(entry.slot), entry.accepted()?);
    }
    Some(found)
}

/// Where the room of a row begins; `None` where it is damaged.
fn end(octets: &[u8]) -> Option<usize> {
    let mut entries = Entries(octets);
    while !entries.is_over()? {
        entries.next()?;
    }
    Some(octets.len() - entries.0.len())
}

/// Adds entries to those of a block, behind which so many are expected. What is damaged stays, for whoever reads it to tell.
pub fn add(connection: &Connection, block: Block, new: &New, expected: usize) -> Result<(), DbError> {
    if new.count == 0 {
        return Ok(());
    }
    let key = [block.org, block.email, block.number];
    let stood: Option<(i64, Vec<u8>)> = connection
        .prepare_cached("SELECT id, entries FROM sent WHERE org = ?1 AND email = ?2 AND block = ?3")?
        .query_row(key, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, mut octets)) = stood else {
        let octets = [&new.octets[..], &vec![ROOM; new.room(expected)]].concat();
        connection.prepare_cached("INSERT INTO sent (org, email, block, entries) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            block.org,
            block.email,
            block.number,
            octets
        ])?;
        return Ok(());
    };
    let from = end(&octets).unwrap_or(octets.len());
    let to = from + new.octets.len();
    if to > octets.len() || expected == 0 && octets.len() - to > octets.len() / ROOM_PART {
        octets.resize(to + new.room(expected), ROOM);
    }
    octets[from..to].copy_from_slice(&new.octets);
    connection.prepare_cached("UPDATE sent SET entries = ?2 WHERE id = ?1")?.execute(params![id, octets])?;
    Ok(())
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
    use crate::warmup::sqlite::testing::database;
    use postwarm_plugin_api::Fault;
    use proptest::prelude::*;

    fn plain() -> Said {
        Said { reply: Some(Reply { code: 250, enhanced: None, text: "2.0.0 Ok: queued".to_owned() }), ..Said::default() }
    }

    fn accepted() -> impl Strategy<Value = Accepted> {
        let enhanced = prop::option::of((0_u8..10, 0_u16..1000, 0_u16..1000).prop_map(|(a, b, c)| EnhancedCode(a, b, c)));
        let reply = (200_u16..600, enhanced, any::<String>()).prop_map(|(code, enhanced, text)| Reply { code, enhanced, text });
        (1_i64..=i64::from(u32::MAX), 0_i64..i64::MAX, reply, prop::option::of(any::<String>()))
            .prop_map(|(client, at, reply, detail)| Accepted { client, at, said: Said { reply: Some(reply), fault: None, detail } })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn entries_come_back_as_they_were_packed_however_many_at_a_time(
            wanted in prop::collection::btree_map(0_u32..64, accepted(), 1..64), at_a_time in 1_usize..20, expected in 0_usize..64,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (connection, _) = database(&folder, 1);
            let block = Block { org: 1, email: 1, number: 7 };
            for part in wanted.iter().collect::<Vec<_>>().chunks(at_a_time) {
                let mut new = New::default();
                for (slot, entry) in part {
                    prop_assert!(new.pack(**slot, entry.client, entry.at, &entry.said));
                }
                add(&connection, block, &new, expected).unwrap();
            }
            prop_assert_eq!(of_block(&connection, block).unwrap(), wanted);
            prop_assert_eq!(of_block(&connection, Block { number: 8, ..block }).unwrap(), BTreeMap::new());
        }
    }

    #[test]
    fn what_an_entry_cannot_say_is_not_packed_at_all() {
        let reply = |text: &str| Some(Reply { code: 250, enhanced: None, text: text.to_owned() });
        let long = "x".repeat(70_000);
        let none = Said { reply: None, ..Said::default() };
        let blamed = Said { reply: reply("ok"), fault: Some(Fault::Network), detail: None };
        let wordy = Said { reply: reply(&long), ..Said::default() };
        let explained = Said { reply: reply("ok"), fault: None, detail: Some(long.clone()) };
        let plain = Said { reply: reply("ok"), ..Said::default() };
        let cases = [(1, 0, &none), (1, 0, &blamed), (1, 0, &wordy), (1, 0, &explained), (1 << 32, 0, &plain), (1, -1, &plain)];
        for (client, at, said) in cases {
            let mut new = New::default();
            assert!(!new.pack(0, client, at, said), "{client} {at}");
            assert_eq!((new.octets.len(), new.count), (0, 0));
        }
    }

    #[test]
    fn a_row_is_as_long_from_the_start_as_the_entries_that_are_expected_will_make_it() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, _) = database(&folder, 1);
        let block = Block { org: 1, email: 1, number: 7 };
        let mut lengths = Vec::new();
        for slot in 0..64_u32 {
            let mut new = New::default();
            assert!(new.pack(slot, 1, 1, &plain()));
            add(&connection, block, &new, 63 - slot as usize).unwrap();
            let octets: Vec<u8> = connection.query_row("SELECT entries FROM sent", [], |row| row.get(0)).unwrap();
            assert_eq!(of_block(&connection, block).unwrap().len(), slot as usize + 1);
            lengths.push(octets.len());
        }
        lengths.dedup();
        assert_eq!(lengths, [64 * (2 + 4 + 8 + 2 + 2 + 16)]);
    }

    #[test]
    fn room_that_nobody_needs_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, _) = database(&folder, 1);
        let block = Block { org: 1, email: 1, number: 7 };
        let add_one = |slot, expected| {
            let mut new = New::default();
            assert!(new.pack(slot, 1, 1, &plain()));
            add(&connection, block, &new, expected).unwrap();
            let length: i64 = connection.query_row("SELECT length(entries) FROM sent", [], |row| row.get(0)).unwrap();
            length
        };
        let one = add_one(0, 0);
        assert_eq!([add_one(1, 40), add_one(2, 30), add_one(3, 0)], [42 * one, 42 * one, 4 * one]);
    }

    #[test]
    fn a_damaged_row_is_told_and_not_taken_for_fewer_entries() {
        let mut new = New::default();
        assert!(new.pack(0, 1, 1, &plain()));
        for length in 1..new.octets.len() {
            assert_eq!((unpack(&new.octets[..length]), end(&new.octets[..length])), (None, None), "{length}");
        }
        let with_room = [&new.octets[..], &[ROOM; 3]].concat();
        assert_eq!((unpack(&with_room).map(|found| found.len()), end(&with_room)), (Some(1), Some(new.octets.len())));
        let behind_room = [&with_room[..], &new.octets].concat();
        assert_eq!((unpack(&behind_room), end(&behind_room)), (None, None), "an entry whose slot was overwritten");
    }

    #[test]
    fn a_damaged_row_keeps_no_mail_from_being_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let (connection, _) = database(&folder, 1);
        let block = Block { org: 1, email: 1, number: 7 };
        connection.execute("INSERT INTO sent (org, email, block, entries) VALUES (1, 1, 7, x'ff00')", []).unwrap();
        let mut new = New::default();
        assert!(new.pack(0, 1, 1, &plain()));
        add(&connection, block, &new, 0).unwrap();
        let octets: Vec<u8> = connection.query_row("SELECT entries FROM sent", [], |row| row.get(0)).unwrap();
        assert_eq!(octets, [&[0xff, 0][..], &new.octets].concat());
        assert!(matches!(of_block(&connection, block), Err(DbError::Damaged(_))));
    }
}
