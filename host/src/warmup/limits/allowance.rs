//! What one window allows from now on, as a reader asks: when may the nth message go at the earliest?
//!
//! Invariant: pure, and never later than the gate itself would allow.

/// One window, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// In milliseconds.
    pub per_ms: i64,
    /// All slots of the window: when each comes free, by the boot clock, and how many do; in the order of time.
    pub slots: Vec<(i64, u64)>,
}

impl Allowance {
    /// When the `nth` message from now may go at the earliest (from 1), by the boot clock. `None`: the window allows none at all.
    pub fn at(&self, nth: u64) -> Option<i64> {
        let all: u64 = self.slots.iter().map(|(_, n)| n).sum();
        let before = nth.max(1) - 1;
        let rounds = before.checked_div(all)?;
        let mut left = before % all;
        for (at, n) in &self.slots {
            if left < *n {
                let later = self.per_ms.saturating_mul(i64::try_from(rounds).unwrap_or(i64::MAX));
                return Some(at.saturating_add(later));
            }
            left -= n;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_serves_again_one_window_after_it_came_free() {
        let window = Allowance { per_ms: 100, slots: vec![(1_000, 2), (1_040, 1), (1_100, 2)] };
        let at = |nth| window.at(nth).expect("it allows some");
        assert_eq!([1, 2, 3, 4, 5].map(at), [1_000, 1_000, 1_040, 1_100, 1_100]);
        assert_eq!([6, 8, 10, 11].map(at), [1_100, 1_140, 1_200, 1_200]);
    }

    #[test]
    fn a_window_without_a_slot_never_allows_one_and_no_number_overflows() {
        assert_eq!(Allowance { per_ms: 100, slots: Vec::new() }.at(1), None);
        assert_eq!(Allowance { per_ms: i64::MAX, slots: vec![(5, 1)] }.at(u64::MAX), Some(i64::MAX));
    }
}
