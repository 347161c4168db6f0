//! Blocks: 64 neighbouring users of an email. What is the same for many of them stands in one row a block, in `fresh`,
//! `sending` and `sent`, with a bit for each user.
//!
//! Mail goes out nearly in the order of the users, so that a turn of a hundred messages writes a few rows.

use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};
use std::ops::RangeInclusive;

/// Of a user's number: below is the bit in his block, above is the block's number.
const SLOT_BITS: u32 = 6;

/// The bit of a user in his block.
pub type Slot = u32;

/// A block of an email's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    pub org: i64,
    pub email: i64,
    pub number: i64,
}

impl Block {
    pub fn of(delivery: DeliveryKey) -> (Block, Slot) {
        let user = delivery.user.0;
        (Block { org: delivery.org.0, email: delivery.email.0, number: number_of(user) }, slot_of(user))
    }

    pub fn delivery(self, slot: Slot) -> DeliveryKey {
        DeliveryKey { org: OrgId(self.org), email: EmailNumber(self.email), user: UserNumber(self.first() + i64::from(slot)) }
    }

    /// The numbers of its users.
    pub fn users(self) -> RangeInclusive<i64> {
        self.first()..=self.first() + i64::from(u64::BITS - 1)
    }

    fn first(self) -> i64 {
        self.number << SLOT_BITS
    }
}

/// The number of a user's block.
pub fn number_of(user: i64) -> i64 {
    user >> SLOT_BITS
}

pub fn slot_of(user: i64) -> Slot {
    (user & ((1 << SLOT_BITS) - 1)) as Slot
}

/// Some users of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Users(u64);

impl Users {
    pub fn one(slot: Slot) -> Users {
        Users(1 << slot)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn has(self, slot: Slot) -> bool {
        self.0 >> slot & 1 == 1
    }

    pub fn with(self, other: Users) -> Users {
        Users(self.0 | other.0)
    }

    pub fn common(self, other: Users) -> Users {
        Users(self.0 & other.0)
    }

    pub fn without(self, other: Users) -> Users {
        Users(self.0 & !other.0)
    }

    /// The `most` with the lowest numbers.
    pub fn lowest(self, most: usize) -> Users {
        self.slots().take(most).fold(Users::default(), |taken, slot| taken.with(Users::one(slot)))
    }

    pub fn slots(self) -> impl Iterator<Item = Slot> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let slot = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (slot < u64::BITS).then_some(slot)
        })
    }

    /// The first and the last of each row of neighbours.
    pub fn runs(self) -> impl Iterator<Item = (Slot, Slot)> {
        let mut slots = self.slots().peekable();
        std::iter::from_fn(move || {
            let first = slots.next()?;
            let mut last = first;
            while slots.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            Some((first, last))
        })
    }
}

/// A column holds the bits as SQLite's signed number.
impl ToSql for Users {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok((self.0 as i64).into())
    }
}

impl FromSql for Users {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Users> {
        value.as_i64().map(|bits| Users(bits as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn users_come_back_in_order_and_by_runs(bits: u64, most in 0_usize..70) {
            let users = Users(bits);
            let slots: Vec<Slot> = users.slots().collect();
            prop_assert!(slots.is_sorted() && slots.iter().all(|slot| users.has(*slot)));
            prop_assert_eq!(slots.len(), users.len());
            let by_runs: Vec<Slot> = users.runs().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(&by_runs, &slots);
            let lowest: Vec<Slot> = users.lowest(most).slots().collect();
            prop_assert_eq!(&lowest[..], &slots[..most.min(slots.len())]);
        }

        #[test]
        fn a_delivery_has_one_place(user in 1_i64..1 << 50) {
            let key = DeliveryKey { org: OrgId(3), email: EmailNumber(4), user: UserNumber(user) };
            let (block, slot) = Block::of(key);
            prop_assert_eq!(block.delivery(slot), key);
            prop_assert!(block.users().contains(&user));
            prop_assert!(!block.users().contains(&(user + 64)) && !block.users().contains(&(user - 64)));
        }
    }
}
