//! Rows for 64 neighbours: users of an email, or places that an email or an organization has to do with.
//!
//! Events come nearly in the order of such numbers, so that a batch of them changes few rows.

use std::ops::RangeInclusive;

/// Neighbours of one row.
pub const NEIGHBOURS: i64 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 6;
/// The last slot of a row.
pub const SLOT_LAST: usize = (NEIGHBOURS - 1) as usize;
/// What a row's number has below its owner's.
pub const CHUNK_BITS: u32 = 26;
/// The highest number that has a row: 32 bits.
const NUMBER_MAX: i64 = (1 << (SLOT_BITS + CHUNK_BITS)) - 1;

/// The row and the slot in it of an owner's number; `None` for a number that nothing has.
pub fn row_of(owner: i64, number: i64) -> Option<(i64, usize)> {
    (1..=NUMBER_MAX).contains(&number).then_some(((owner << CHUNK_BITS) | (number >> SLOT_BITS), (number % NEIGHBOURS) as usize))
}

/// All rows of an owner.
pub fn rows_of(owner: i64) -> RangeInclusive<i64> {
    owner << CHUNK_BITS..=(owner << CHUNK_BITS) | ((1 << CHUNK_BITS) - 1)
}

/// Whose row it is.
pub fn owner_of(row: i64) -> i64 {
    row >> CHUNK_BITS
}

/// The number in a slot.
pub fn number_of(row: i64, slot: usize) -> i64 {
    ((row & ((1 << CHUNK_BITS) - 1)) << SLOT_BITS) | slot as i64
}

/// Where a slot stands in the order of all rows, from 1 on.
pub fn position_of(row: i64, slot: usize) -> i64 {
    (row << SLOT_BITS) | slot as i64
}

/// The row and the slot at a position.
pub fn at_position(position: i64) -> (i64, usize) {
    (position >> SLOT_BITS, (position % NEIGHBOURS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_tells_its_owner_and_number_and_positions_grow_with_both(owner in 1_i64..1 << 31, number in 1..=NUMBER_MAX) {
            let (row, slot) = row_of(owner, number).unwrap();
            prop_assert_eq!((owner_of(row), number_of(row, slot)), (owner, number));
            prop_assert!(rows_of(owner).contains(&row) && !rows_of(owner + 1).contains(&row) && !rows_of(owner - 1).contains(&row));
            let position = position_of(row, slot);
            prop_assert!(position > 0);
            prop_assert_eq!(at_position(position), (row, slot));
            if let Some((row, slot)) = row_of(owner, number + 1) {
                prop_assert!(position_of(row, slot) > position);
            }
            let (row, slot) = row_of(owner + 1, 1).unwrap();
            prop_assert!(position_of(row, slot) > position);
        }
    }

    #[test]
    fn a_number_that_nothing_has_has_no_row() {
        for number in [i64::MIN, -1, 0, NUMBER_MAX + 1, i64::MAX] {
            assert_eq!(row_of(1, number), None, "{number}");
        }
    }
}
