//! Deliveries packed: what is known of 64 neighbouring users' deliveries of an email is one row. A delivery takes some twenty octets
//! instead of a row in each of three trees, and three blocks fill a page of the database.
//!
//! Invariant: an entry comes back as it was packed; where no delivery is, all its octets are 0. Numbers are little endian.

use crate::health::tally::{Delivery, Flags};
use crate::model::delivery::{Source, State};

/// Flags and state 2, attempt 2, place 4, token 6, instant 6.
const OCTETS: usize = 20;
const BACKFILL: u16 = 1 << 8;
const STATE_SHIFT: u32 = 9;
const PRESENT: u16 = 1 << 12;
/// 48 bits, as of tokens and instants. A token of all ones stands for none.
const MASK: i64 = (1 << 48) - 1;

fn pack(delivery: &Delivery) -> [u8; OCTETS] {
    let backfill = if delivery.source == Source::Backfill { BACKFILL } else { 0 };
    let head = PRESENT | ((delivery.state as u16) << STATE_SHIFT) | backfill | (delivery.flags.0 as u16 & 0xff);
    // Beyond what fits nothing is told apart: no retry schedule comes near it.
    let attempt = u16::try_from(delivery.attempt).unwrap_or(u16::MAX);
    let mut octets = [0; OCTETS];
    octets[0..2].copy_from_slice(&head.to_le_bytes());
    octets[2..4].copy_from_slice(&attempt.to_le_bytes());
    octets[4..8].copy_from_slice(&(delivery.place as u32).to_le_bytes());
    octets[8..14].copy_from_slice(&(delivery.token & MASK).to_le_bytes()[..6]);
    octets[14..20].copy_from_slice(&delivery.sent_at.clamp(0, MASK).to_le_bytes()[..6]);
    octets
}

fn unpack(octets: &[u8]) -> Option<Delivery> {
    let number = |from: usize, to: usize| octets[from..to].iter().rev().fold(0_i64, |sum, octet| (sum << 8) | i64::from(*octet));
    let head = number(0, 2) as u16;
    if head & PRESENT == 0 {
        return None;
    }
    let token = number(8, 14);
    Some(Delivery {
        state: State::from_number(i64::from((head >> STATE_SHIFT) & 0b111))?,
        attempt: number(2, 4),
        source: if head & BACKFILL == 0 { Source::Live } else { Source::Backfill },
        place: number(4, 8),
        token: if token == MASK { -1 } else { token },
        sent_at: number(14, 20),
        flags: Flags(i64::from(head & 0xff)),
    })
}

/// The deliveries of one row.
#[derive(Debug, Clone, Default)]
pub struct Block(Vec<u8>);

impl Block {
    /// What a row holds.
    pub fn stored(octets: Vec<u8>) -> Block {
        Block(octets)
    }

    /// What a row is to hold.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    pub fn get(&self, slot: usize) -> Option<Delivery> {
        self.0.get(slot * OCTETS..(slot + 1) * OCTETS).and_then(unpack)
    }

    pub fn set(&mut self, slot: usize, delivery: &Delivery) {
        let end = (slot + 1) * OCTETS;
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[end - OCTETS..end].copy_from_slice(&pack(delivery));
    }

    /// The deliveries that a loop may still tell about, each with its slot.
    pub fn watched(&self) -> impl Iterator<Item = (usize, Delivery)> + '_ {
        let entries = self.0.chunks_exact(OCTETS).map(unpack).enumerate();
        entries.filter_map(|(slot, delivery)| delivery.filter(Delivery::is_watched).map(|delivery| (slot, delivery)))
    }

    /// When the first of them came to be sent or unknown.
    pub fn oldest(&self) -> Option<i64> {
        self.watched().map(|(_, delivery)| delivery.sent_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delivery() -> impl Strategy<Value = Delivery> {
        let state = prop::sample::select(State::ALL.to_vec());
        let source = prop::sample::select(vec![Source::Live, Source::Backfill]);
        let numbers = (0..=i64::from(u32::MAX), 0..=i64::from(u16::MAX), -1..MASK, 0..=MASK, 0..=0xff_i64);
        (state, source, numbers).prop_map(|(state, source, (place, attempt, token, sent_at, flags))| Delivery {
            state,
            attempt,
            source,
            place,
            token,
            sent_at,
            flags: Flags(flags),
        })
    }

    proptest! {
        #[test]
        fn deliveries_come_back_as_they_were_packed(entries in prop::collection::btree_map(0_usize..64, delivery(), 0..64)) {
            let mut block = Block::default();
            for (slot, delivery) in &entries {
                block.set(*slot, delivery);
            }
            let block = Block::stored(block.octets().to_vec());
            for slot in 0..64 {
                prop_assert_eq!(block.get(slot), entries.get(&slot).copied());
            }
            let watched = entries.iter().filter(|(_, delivery)| delivery.is_watched());
            prop_assert_eq!(block.oldest(), watched.map(|(_, delivery)| delivery.sent_at).min());
        }
    }
}
