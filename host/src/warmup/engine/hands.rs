//! What is in `sending`: each row with what was decided when it was claimed.
//!
//! Invariant: a row is here from the commit that claimed it until its outcome is taken in; its limits are settled under
//! the scopes that it was claimed under, whatever the settings say by then.

use crate::model::name::{DeliveryKey, OrgId};
use crate::warmup::store::Claimed;
use std::collections::HashMap;
use std::sync::Arc;

/// The limits that a row belongs to, shared by the rows of a lane.
pub type Scopes = Arc<[String]>;

/// One instance of a client: a client that was changed has another number under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNumber(pub u64);

/// A row in hand.
pub struct Hand {
    pub claimed: Arc<Claimed>,
    pub scopes: Scopes,
    pub client: ClientNumber,
}

/// All rows in hand, and how many each lane has.
#[derive(Default)]
pub struct Hands {
    rows: HashMap<DeliveryKey, Hand>,
    lanes: HashMap<(OrgId, Arc<str>), usize>,
}

impl Hands {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn add(&mut self, hand: Hand) {
        let claimed = &hand.claimed;
        *self.lanes.entry((claimed.delivery.org, claimed.provider.clone())).or_default() += 1;
        self.rows.insert(claimed.delivery, hand);
    }

    /// Takes a row out; `None` where it was taken out already.
    pub fn remove(&mut self, delivery: DeliveryKey) -> Option<Hand> {
        let hand = self.rows.remove(&delivery)?;
        let lane = (delivery.org, hand.claimed.provider.clone());
        if let Some(count) = self.lanes.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                self.lanes.remove(&lane);
            }
        }
        Some(hand)
    }

    /// Takes all rows out.
    pub fn take_all(&mut self) -> Vec<Hand> {
        self.lanes.clear();
        self.rows.drain().map(|(_, hand)| hand).collect()
    }
}
