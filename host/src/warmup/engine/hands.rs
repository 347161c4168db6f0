//! What is in `sending`: each row with what was decided when its client was chosen.
//!
//! Invariant: a row is here from the commit that claimed it until what became of it is known, whatever number of clients
//! it was offered to; its limits are settled under the scopes of the client that has it, whatever the settings say by then.

use crate::model::name::{DeliveryKey, OrgId};
use crate::model::number_map::NumberMap;
use crate::warmup::limits::ScopeNumber;
use crate::warmup::marks::Place;
use crate::warmup::store::{Claimed, LaneKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The limits that a row belongs to, shared by the rows of a lane.
pub type Scopes = Arc<[ScopeNumber]>;

/// One instance of a client: a client that was changed has another number under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNumber(pub u64);

/// A row in hand.
pub struct Hand {
    pub claimed: Arc<Claimed>,
    pub scopes: Scopes,
    pub client: ClientNumber,
    /// Where it is marked when it leaves.
    pub place: Option<Place>,
    /// Who had it before in this attempt.
    pub declined: Vec<Declined>,
}

/// A client that cannot carry a message, and why.
pub struct Declined {
    pub number: ClientNumber,
    pub client: Arc<str>,
    pub why: String,
}

/// A row in hand that its client may get: this is committed.
pub struct Ready {
    pub claimed: Arc<Claimed>,
    pub client: ClientNumber,
    pub place: Option<Place>,
}

impl Hand {
    pub fn ready(&self) -> Ready {
        Ready { claimed: self.claimed.clone(), client: self.client, place: self.place }
    }
}

/// All rows in hand, and how many each lane has.
#[derive(Default)]
pub struct Hands {
    rows: NumberMap<DeliveryKey, Hand>,
    lanes: HashMap<LaneKey, usize>,
    organizations: BTreeMap<OrgId, usize>,
}

impl Hands {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows of the lane are in hand.
    pub fn of(&self, lane: &LaneKey) -> usize {
        self.lanes.get(lane).copied().unwrap_or(0)
    }

    /// How many rows each organization has in hand.
    pub fn by_organization(&self) -> &BTreeMap<OrgId, usize> {
        &self.organizations
    }

    pub fn add(&mut self, hand: Hand) {
        let claimed = &hand.claimed;
        *self.lanes.entry(lane(claimed)).or_default() += 1;
        *self.organizations.entry(claimed.delivery.org).or_default() += 1;
        self.rows.insert(claimed.delivery, hand);
    }

    /// Takes a row out; `None` where it was taken out already.
    pub fn remove(&mut self, delivery: DeliveryKey) -> Option<Hand> {
        let hand = self.rows.remove(&delivery)?;
        let lane = lane(&hand.claimed);
        if let Some(count) = self.lanes.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                self.lanes.remove(&lane);
            }
        }
        if let Some(count) = self.organizations.get_mut(&delivery.org) {
            *count -= 1;
            if *count == 0 {
                self.organizations.remove(&delivery.org);
            }
        }
        Some(hand)
    }

    /// Takes all rows out.
    pub fn take_all(&mut self) -> Vec<Hand> {
        self.lanes.clear();
        self.organizations.clear();
        self.rows.drain().map(|(_, hand)| hand).collect()
    }
}

fn lane(claimed: &Claimed) -> LaneKey {
    LaneKey { org: claimed.delivery.org, provider: claimed.provider.clone(), source: claimed.source }
}
