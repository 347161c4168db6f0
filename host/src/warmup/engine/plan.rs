//! What one plan of claims knows of the lanes: what each has, how much of it is its turn, and who cannot go on.

use crate::model::name::OrgId;
use crate::warmup::engine::hands::{ClientNumber, Hands, Scopes};
use crate::warmup::store::{Claim, Claimed, LaneKey};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// First to those who have less than half of their rows; what is left goes to all, once, and once more what nobody could use of
/// that, as limits are shared.
pub const ROUNDS: [Round; 3] = [Round::Wanting, Round::All, Round::All];

/// Who has his turn in a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Lanes that have less than half of their rows.
    Wanting,
    All,
}

/// What a lane gets where others wait behind it: enough in hand to share a client's writes and the turn's commit, of so many lanes that
/// mail servers have always something to answer; and less where nobody knows yet how fast its client is.
pub const ROWS_TOGETHER: Portion = Portion { rows: 24, sharers: 20, turn: 10 };
pub const ROWS_AT_FIRST: Portion = Portion { rows: 8, sharers: 20, turn: 2 };

/// So many rows in hand, of a small pool no more than the part of one of so many; and so many times as many until others come.
pub struct Portion {
    rows: usize,
    sharers: usize,
    turn: usize,
}

impl Portion {
    /// Of a pool of so many rows.
    pub fn of(&self, rows_max: usize) -> Part {
        let together = self.rows.min(rows_max / self.sharers).max(1);
        Part { together, turn: self.turn * together }
    }
}

/// A lane's part of the pool.
#[derive(Clone, Copy)]
pub struct Part {
    /// How many rows it shall have in hand.
    pub together: usize,
    /// How many rows it gets before it lets others come.
    pub turn: usize,
}

/// What a plan has come to.
pub struct Plan {
    pub rows_max: usize,
    /// Rows that may still be claimed.
    pub room: usize,
    pub in_hand: BTreeMap<OrgId, usize>,
    /// Rows in hand of lanes that got some, by their place.
    pub has: BTreeMap<usize, usize>,
    /// Places of those that cannot go on now, so that they are looked at once.
    pub blocked: HashSet<usize>,
    /// Places of those whose turn is over.
    pub done: BTreeSet<usize>,
    pub claims: Vec<Planned>,
}

impl Plan {
    pub fn new(rows_max: usize, hands: &Hands) -> Plan {
        Plan {
            rows_max,
            room: rows_max.saturating_sub(hands.len()),
            in_hand: hands.by_organization().clone(),
            has: BTreeMap::new(),
            blocked: HashSet::new(),
            done: BTreeSet::new(),
            claims: Vec::new(),
        }
    }

    /// A lane that got a second part in the same turn makes one claim.
    pub fn add(&mut self, planned: Planned) {
        match self.claims.iter_mut().find(|before| before.client == planned.client && before.claim.lane == planned.claim.lane) {
            Some(before) => before.claim.rows_max += planned.claim.rows_max,
            None => self.claims.push(planned),
        }
    }
}

/// A claim to make, with the scopes whose slots it has taken.
pub struct Planned {
    pub claim: Claim,
    pub scopes: Scopes,
    pub client: ClientNumber,
    /// Rows that were there.
    pub got: usize,
    /// It is of one row, by which its client is probed.
    pub probe: bool,
}

impl Planned {
    /// Tells whether the row answers this claim.
    pub fn made(&self, row: &Claimed) -> bool {
        let lane = &self.claim.lane;
        row.delivery.org == lane.org && row.source == lane.source && *row.provider == *lane.provider && row.client == self.claim.client
    }
}

/// A lane that has work.
pub struct Due {
    pub lane: LaneKey,
    pub part: Part,
    /// Rows claimed since it came to the front.
    pub served: usize,
}

impl Due {
    pub fn new(lane: LaneKey) -> Due {
        Due { lane, part: ROWS_AT_FIRST.of(usize::MAX), served: 0 }
    }

    /// How many rows it may still get before it lets others come. It is served in one go, so that its connections do not wait for it.
    pub fn left(&self) -> usize {
        self.part.turn.saturating_sub(self.served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_known_to_be_fast_has_no_less_than_one_that_nobody_knows_and_everybody_has_something() {
        for rows_max in 1..=1_000 {
            let (first, fast) = (ROWS_AT_FIRST.of(rows_max), ROWS_TOGETHER.of(rows_max));
            assert!(1 <= first.together && first.together <= fast.together && fast.together <= rows_max, "{rows_max}");
            assert!(first.together <= first.turn && first.turn <= fast.turn, "{rows_max}");
        }
    }
}
