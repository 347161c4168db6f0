//! Deliveries packed: what is known of 64 neighbouring users' deliveries of an email is one row.
//!
//! Events come nearly in the order of the users, so that a batch of them changes few rows, and a delivery takes some twenty
//! octets instead of a row in each of three trees.
//!
//! Invariant: an entry comes back as it was packed; where no delivery is, all its octets are 0. Numbers are little endian.

use crate::health::tally::{Delivery, Flags, is_watched};
use crate::model::delivery::{Source, State};

/// Deliveries of one block. With their octets three blocks fill a page of the database.
const DELIVERIES: i64 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 6;
/// The last slot of a block.
pub const SLOT_LAST: usize = (DELIVERIES - 1) as usize;
/// What a block's number has below its email's.
pub const CHUNK_BITS: u32 = 26;
/// The highest number of a user that has a place: 32 bits.
const USER_MAX: i64 = (1 << (SLOT_BITS + CHUNK_BITS)) - 1;

/// Flags and state 2, attempt 2, place 4, token 6, instant 6.
const OCTETS: usize = 20;
const BACKFILL: u16 = 1 << 8;
const STATE_SHIFT: u32 = 9;
const PRESENT: u16 = 1 << 12;
/// 48 bits, as of tokens and instants. A token of all ones stands for none.
const MASK: i64 = (1 << 48) - 1;

/// The block and the slot in it of a user's delivery; `None` for a number that no user has.
pub fn place_of(email_id: i64, user: i64) -> Option<(i64, usize)> {
    (1..=USER_MAX).contains(&user).then_some(((email_id << CHUNK_BITS) | (user >> SLOT_BITS), (user % DELIVERIES) as usize))
}

/// The email of a block, by its number in the ledger.
pub fn email_of(block: i64) -> i64 {
    block >> CHUNK_BITS
}

/// The user in a slot.
pub fn user_of(block: i64, slot: usize) -> i64 {
    ((block & ((1 << CHUNK_BITS) - 1)) << SLOT_BITS) | slot as i64
}

/// Where a delivery stands in the order of all blocks, from 1 on.
pub fn position_of(block: i64, slot: usize) -> i64 {
    (block << SLOT_BITS) | slot as i64
}

/// The block and the slot at a position.
pub fn at_position(position: i64) -> (i64, usize) {
    (position >> SLOT_BITS, (position % DELIVERIES) as usize)
}

/// A delivery whose domain and provider are still one number of the table `places`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub place: i64,
    pub state: State,
    pub attempt: i64,
    pub source: Source,
    pub token: i64,
    pub sent_at: i64,
    pub flags: Flags,
}

impl Packed {
    pub fn of(delivery: &Delivery, place: i64) -> Packed {
        let Delivery { state, attempt, source, token, sent_at, flags, .. } = *delivery;
        Packed { place, state, attempt, source, token, sent_at, flags }
    }

    pub fn delivery(&self, (domain, provider): (i64, i64)) -> Delivery {
        let Packed { state, attempt, source, token, sent_at, flags, .. } = *self;
        Delivery { state, attempt, source, domain, provider, token, sent_at, flags }
    }

    /// Tells whether a loop may still have news of it.
    pub fn is_watched(&self) -> bool {
        is_watched(self.state) && !self.flags.has_any(Flags::EXPIRED)
    }

    fn pack(&self) -> [u8; OCTETS] {
        let backfill = if self.source == Source::Backfill { BACKFILL } else { 0 };
        let head = PRESENT | ((self.state as u16) << STATE_SHIFT) | backfill | (self.flags.0 as u16 & 0xff);
        // Beyond what fits nothing is told apart: no retry schedule comes near it.
        let attempt = u16::try_from(self.attempt).unwrap_or(u16::MAX);
        let mut octets = [0; OCTETS];
        octets[0..2].copy_from_slice(&head.to_le_bytes());
        octets[2..4].copy_from_slice(&attempt.to_le_bytes());
        octets[4..8].copy_from_slice(&(self.place as u32).to_le_bytes());
        octets[8..14].copy_from_slice(&(self.token & MASK).to_le_bytes()[..6]);
        octets[14..20].copy_from_slice(&self.sent_at.clamp(0, MASK).to_le_bytes()[..6]);
        octets
    }

    fn unpack(octets: &[u8]) -> Option<Packed> {
        let number = |from: usize, to: usize| octets[from..to].iter().rev().fold(0_i64, |sum, octet| (sum << 8) | i64::from(*octet));
        let head = number(0, 2) as u16;
        if head & PRESENT == 0 {
            return None;
        }
        let token = number(8, 14);
        Some(Packed {
            place: number(4, 8),
            state: State::from_number(i64::from((head >> STATE_SHIFT) & 0b111))?,
            attempt: number(2, 4),
            source: if head & BACKFILL == 0 { Source::Live } else { Source::Backfill },
            token: if token == MASK { -1 } else { token },
            sent_at: number(14, 20),
            flags: Flags(i64::from(head & 0xff)),
        })
    }
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

    pub fn get(&self, slot: usize) -> Option<Packed> {
        self.0.get(slot * OCTETS..(slot + 1) * OCTETS).and_then(Packed::unpack)
    }

    pub fn set(&mut self, slot: usize, packed: &Packed) {
        let end = (slot + 1) * OCTETS;
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[end - OCTETS..end].copy_from_slice(&packed.pack());
    }

    /// The deliveries that a loop may still tell about, each with its slot.
    pub fn watched(&self) -> impl Iterator<Item = (usize, Packed)> + '_ {
        let entries = self.0.chunks_exact(OCTETS).map(Packed::unpack).enumerate();
        entries.filter_map(|(slot, packed)| packed.filter(Packed::is_watched).map(|packed| (slot, packed)))
    }

    /// When the first of them came to be sent or unknown.
    pub fn oldest(&self) -> Option<i64> {
        self.watched().map(|(_, packed)| packed.sent_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed() -> impl Strategy<Value = Packed> {
        let state = prop::sample::select(State::ALL.to_vec());
        let source = prop::sample::select(vec![Source::Live, Source::Backfill]);
        let numbers = (0..=i64::from(u32::MAX), 0..=i64::from(u16::MAX), -1..MASK, 0..=MASK, 0..=0xff_i64);
        (state, source, numbers).prop_map(|(state, source, (place, attempt, token, sent_at, flags))| Packed {
            place,
            state,
            attempt,
            source,
            token,
            sent_at,
            flags: Flags(flags),
        })
    }

    proptest! {
        #[test]
        fn deliveries_come_back_as_they_were_packed(entries in prop::collection::btree_map(0_usize..64, packed(), 0..64)) {
            let mut block = Block::default();
            for (slot, packed) in &entries {
                block.set(*slot, packed);
            }
            let block = Block::stored(block.octets().to_vec());
            for slot in 0..64 {
                prop_assert_eq!(block.get(slot), entries.get(&slot).copied());
            }
            let watched = entries.iter().filter(|(_, packed)| packed.is_watched());
            prop_assert_eq!(block.oldest(), watched.map(|(_, packed)| packed.sent_at).min());
        }

        #[test]
        fn a_place_tells_its_email_and_user_and_positions_grow_with_both(email in 1_i64..1 << 31, user in 1..=USER_MAX) {
            let (block, slot) = place_of(email, user).unwrap();
            prop_assert_eq!((email_of(block), user_of(block, slot)), (email, user));
            let position = position_of(block, slot);
            prop_assert!(position > 0);
            prop_assert_eq!(at_position(position), (block, slot));
            if let Some((block, slot)) = place_of(email, user + 1) {
                prop_assert!(position_of(block, slot) > position);
            }
            let (block, slot) = place_of(email + 1, 1).unwrap();
            prop_assert!(position_of(block, slot) > position);
        }
    }

    #[test]
    fn a_number_that_no_user_has_has_no_place() {
        for user in [i64::MIN, -1, 0, USER_MAX + 1, i64::MAX] {
            assert_eq!(place_of(1, user), None, "{user}");
        }
    }
}
