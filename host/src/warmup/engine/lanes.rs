//! Lanes: which organization's mail to which mailbox provider is due, and how much of it is claimed now.
//!
//! Invariant: a slot of every limit is taken before a row is claimed, and given back where no row was there.

use crate::clock::Now;
use crate::model::delivery::Source;
use crate::warmup::engine::fair::{self, Ask, Pool};
use crate::warmup::engine::hands::{ClientNumber, Hands, Scopes};
use crate::warmup::engine::organizations::Organizations;
use crate::warmup::engine::view::{Held, View};
use crate::warmup::limits::{Blocked, Limits};
use crate::warmup::route::Choice;
use crate::warmup::store::{Claim, Claimed, LaneKey, Lanes, Settled};
use std::collections::{HashSet, VecDeque};

/// A claim to make, with the scopes whose slots it has taken.
pub struct Lane {
    pub claim: Claim,
    pub scopes: Scopes,
    pub client: ClientNumber,
    /// Rows that were there.
    pub got: usize,
    probe: bool,
}

impl Lane {
    /// Tells whether the row answers this lane's claim.
    pub fn made(&self, row: &Claimed) -> bool {
        let lane = &self.claim.lane;
        row.delivery.org == lane.org && row.source == lane.source && *row.provider == *lane.provider && row.client == self.claim.client
    }
}

/// What bounds a claim.
pub struct Around<'a> {
    pub organizations: &'a mut Organizations,
    pub limits: &'a mut Limits,
    pub view: &'a View,
    pub now: Now,
}

/// What a lane could claim.
struct Look {
    place: usize,
    index: usize,
    probe: bool,
    scopes: Scopes,
    wants: usize,
}

/// Parts that nobody could use, as limits are shared, are given out again once.
const ROUNDS: usize = 2;

/// Among how many lanes the pool of rows in hand is shared at a time where more wait. Fewer would be unfair, and of more none
/// would have enough rows to share a client's writes and a turn's commit.
const SHARERS: usize = 32;

/// The lanes that have work, in the order in which they are served.
#[derive(Default)]
pub struct LaneBook {
    due: VecDeque<LaneKey>,
    /// When the engine should look again though nothing happens, by the boot clock.
    next_at: Option<i64>,
    stale: bool,
}

impl LaneBook {
    pub fn look_again(&mut self) {
        self.stale = true;
    }

    pub fn is_stale(&self, boot_ms: i64) -> bool {
        self.stale || self.next_at.is_some_and(|at| at <= boot_ms)
    }

    pub fn next_at(&self) -> Option<i64> {
        self.next_at
    }

    /// Takes what the store found. Lanes that are known keep their turn.
    pub fn replace(&mut self, found: Lanes, now: Now) {
        self.stale = false;
        self.next_at = found.next_at.map(|wall| now.boot_ms + (wall - now.wall_ms).max(1));
        let mut fresh: HashSet<LaneKey> = found.due.iter().cloned().collect();
        self.due.retain(|lane| fresh.remove(lane));
        self.due.extend(found.due.into_iter().filter(|lane| fresh.contains(lane)));
    }

    fn wake_at(&mut self, boot_ms: i64) {
        self.next_at = Some(self.next_at.map_or(boot_ms, |at| at.min(boot_ms)));
    }

    /// Decides what is claimed now, at most up to `rows_max` in hand: live mail of all lanes before any back-fill, as they
    /// may spend the same limits. Of many lanes [`SHARERS`] at the front share what there is, and the others come first
    /// the next time: a turn costs what it claims, and not what waits.
    pub fn plan(&mut self, rows_max: usize, hands: &Hands, mut around: Around<'_>) -> Vec<Lane> {
        let mut planned = Vec::new();
        let room = rows_max.saturating_sub(hands.len());
        if room == 0 {
            return planned;
        }
        let mut in_hand = hands.by_organization().clone();
        let mut has: Vec<usize> = self.due.iter().map(|lane| hands.of(lane)).collect();
        let mut passed = 0;
        for source in [Source::Live, Source::Backfill] {
            // Live mail further back goes before back-fill.
            if passed > 0 {
                break;
            }
            for _ in 0..ROUNDS {
                let looks;
                (looks, passed) = self.look(source, (rows_max, room), &mut around);
                let asks: Vec<Ask> = looks.iter().map(|l| Ask { org: self.due[l.place].org, has: has[l.place], wants: l.wants }).collect();
                let parts = fair::parts(Pool { rows_max, in_hand: &in_hand }, &asks);
                let mut taken = 0;
                for (look, part) in looks.into_iter().zip(parts).filter(|(_, part)| *part > 0) {
                    let place = look.place;
                    let Some(lane) = self.take(look, part, &mut around) else { continue };
                    taken += lane.claim.rows_max;
                    has[place] += lane.claim.rows_max;
                    *in_hand.entry(lane.claim.lane.org).or_default() += lane.claim.rows_max;
                    add(&mut planned, lane);
                }
                if taken == 0 {
                    break;
                }
            }
        }
        self.rotate(passed, &has);
        planned
    }

    /// Of the lanes that were passed those that have something in hand now go behind all others. Where all were looked at, the first
    /// does.
    fn rotate(&mut self, passed: usize, has: &[usize]) {
        if passed == 0 {
            self.due.rotate_left(usize::from(!self.due.is_empty()));
            return;
        }
        let behind = self.due.split_off(passed);
        let (mut first, mut last) = (VecDeque::new(), VecDeque::new());
        for (lane, has) in self.due.drain(..).zip(has) {
            if *has > 0 { last.push_back(lane) } else { first.push_back(lane) }
        }
        self.due = first.into_iter().chain(behind).chain(last).collect();
    }

    /// What the lanes of a source could claim if they were alone, of as many as can use the room there is; and how many lanes it has
    /// passed where others are left, else 0.
    fn look(&mut self, source: Source, (rows_max, room): (usize, usize), around: &mut Around<'_>) -> (Vec<Look>, usize) {
        let (mut looks, mut used) = (Vec::new(), 0);
        for place in 0..self.due.len() {
            if used >= room {
                return (looks, place);
            }
            if self.due[place].source == source
                && let Some(look) = self.look_at(place, rows_max, around)
            {
                used += look.wants.min((rows_max / SHARERS).max(1));
                looks.push(look);
            }
        }
        (looks, 0)
    }

    fn look_at(&mut self, place: usize, rows_max: usize, around: &mut Around<'_>) -> Option<Look> {
        let LaneKey { org, provider, .. } = &self.due[place];
        let (org, provider) = (*org, provider.clone());
        let Around { organizations, limits, view, now } = around;
        let organization = organizations.get_mut(org)?;
        let (index, probe) = match organization.choose(now.boot_ms) {
            Choice::Use(index) => (index, false),
            Choice::Probe(index) => (index, true),
            Choice::Wait(at) => {
                view.hold(org, &provider, Held { words: organization.why_failing(), until_boot_ms: None });
                self.wake_at(at.unwrap_or(now.boot_ms + 1_000));
                return None;
            }
        };
        if let Some((until, words)) = organization.paused(index, &provider, *now) {
            view.hold(org, &provider, Held { words, until_boot_ms: Some(until) });
            self.wake_at(until);
            return None;
        }
        view.goes(org, &provider, organization.client_name(index));
        let room = if probe { 1 } else { organization.room(index, now.boot_ms).min(rows_max) };
        if room == 0 {
            return None;
        }
        let scopes = organization.scopes_of(index, &provider);
        let claimable = limits.claimable(&scopes, room as u64, now.boot_ms);
        if claimable.n == 0 {
            self.wake_after(claimable.blocked_by, *now);
            return None;
        }
        Some(Look { place, index, probe, scopes, wants: claimable.n as usize })
    }

    /// Takes the slots of a lane's part. Lanes before it may have taken what it saw.
    fn take(&mut self, look: Look, part: usize, around: &mut Around<'_>) -> Option<Lane> {
        let lane = self.due[look.place].clone();
        let Around { organizations, limits, now, .. } = around;
        let organization = organizations.get_mut(lane.org)?;
        let still_probing = look.probe && matches!(organization.choose(now.boot_ms), Choice::Probe(index) if index == look.index);
        let room = if look.probe { usize::from(still_probing) } else { organization.room(look.index, now.boot_ms) };
        let claimable = limits.claimable(&look.scopes, part.min(room) as u64, now.boot_ms);
        let rows_max = claimable.n as usize;
        self.wake_after(claimable.blocked_by, *now);
        if rows_max == 0 {
            return None;
        }
        limits.take(&look.scopes, rows_max as u64);
        if look.probe {
            organization.begin_probe(look.index, now.boot_ms);
        }
        organization.reserve(look.index, rows_max, now.boot_ms);
        let (name, client) = organization.client(look.index);
        Some(Lane { claim: Claim { lane, client: name, rows_max }, scopes: look.scopes, client, got: 0, probe: look.probe })
    }

    fn wake_after(&mut self, blocked_by: Option<Blocked>, now: Now) {
        if let Some(at) = blocked_by.and_then(|b| b.next_at_boot_ms) {
            self.wake_at(at.max(now.boot_ms + 1));
        }
    }

    /// Gives back what was taken for rows that were not there, and forgets lanes that are empty.
    pub fn claimed(&mut self, planned: &[Lane], organizations: &mut Organizations, limits: &mut Limits) {
        for lane in planned {
            let claim = &lane.claim;
            let missing = claim.rows_max.saturating_sub(lane.got);
            if missing == 0 {
                continue;
            }
            limits.give_back(&lane.scopes, missing as u64);
            if let Some(organization) = organizations.get_mut(claim.lane.org) {
                organization.unreserve(lane.client, missing);
                if lane.probe && lane.got == 0 {
                    organization.release_probe(lane.client);
                }
            }
            self.due.retain(|lane| *lane != claim.lane);
            self.stale = true;
        }
    }

    /// Notes when a delivery is due again.
    pub fn settled(&mut self, settled: &Settled, at: Now) {
        let due = match settled {
            Settled::Deferred { next_at, .. } | Settled::Returned { next_at } => Some(*next_at),
            Settled::Unknown { resend_at, .. } => *resend_at,
            Settled::Sent(_) | Settled::Failed(_) => None,
        };
        if let Some(due) = due {
            self.wake_at(at.boot_ms + (due - at.wall_ms).max(1));
        }
    }
}

/// A lane that got a second part in the same turn makes one claim.
fn add(planned: &mut Vec<Lane>, lane: Lane) {
    match planned.iter_mut().find(|before| before.client == lane.client && before.claim.lane == lane.claim.lane) {
        Some(before) => before.claim.rows_max += lane.claim.rows_max,
        None => planned.push(lane),
    }
}
