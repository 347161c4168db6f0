//! Lanes: which organization's mail to which mailbox provider is due, and how much of it is claimed now.
//!
//! Invariant: a slot of every limit is taken before a row is claimed, and given back where no row was there.

use crate::clock::Now;
use crate::model::delivery::Source;
use crate::model::name::OrgId;
use crate::warmup::engine::fair::{self, Ask, Pool};
use crate::warmup::engine::hands::{ClientNumber, Hands, Scopes};
use crate::warmup::engine::organizations::Organizations;
use crate::warmup::engine::view::{Held, View};
use crate::warmup::limits::{Blocked, Limits};
use crate::warmup::route::Choice;
use crate::warmup::store::{Claim, Claimed, LaneKey, Lanes, Settled};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

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

/// How many rows a lane shall get at a time where others wait behind it: enough to share a client's writes and the turn's commit;
/// of a small pool no more than its part in [`SHARERS`].
const ROWS_TOGETHER: usize = 8;
const SHARERS: usize = 16;

/// What a plan has come to.
struct Plan {
    rows_max: usize,
    /// Rows that may still be claimed.
    room: usize,
    in_hand: BTreeMap<OrgId, usize>,
    /// Rows in hand of each lane that is due, those that it gets now included.
    has: Vec<usize>,
    lanes: Vec<Lane>,
}

impl Plan {
    fn together(&self) -> usize {
        ROWS_TOGETHER.min(self.rows_max / SHARERS).max(1)
    }
}

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
        // The first lane of each organization, then the second of each: one with many lanes does not come before all others.
        let mut lanes_of: HashMap<OrgId, usize> = HashMap::new();
        let mut new: Vec<(usize, LaneKey)> = Vec::new();
        for lane in found.due.into_iter().filter(|lane| fresh.contains(lane)) {
            let before = lanes_of.entry(lane.org).or_default();
            *before += 1;
            new.push((*before, lane));
        }
        new.sort_by_key(|(nth, _)| *nth);
        self.due.extend(new.into_iter().map(|(_, lane)| lane));
    }

    fn wake_at(&mut self, boot_ms: i64) {
        self.next_at = Some(self.next_at.map_or(boot_ms, |at| at.min(boot_ms)));
    }

    /// Decides what is claimed now, at most up to `rows_max` in hand: live mail of all lanes before any back-fill, as they
    /// may spend the same limits. Of many lanes those at the front share what there is, and the others come first the next time: a
    /// turn costs what it claims, and not what waits.
    pub fn plan(&mut self, rows_max: usize, hands: &Hands, mut around: Around<'_>) -> Vec<Lane> {
        let room = rows_max.saturating_sub(hands.len());
        let has = self.due.iter().map(|lane| hands.of(lane)).collect();
        let mut plan = Plan { rows_max, room, in_hand: hands.by_organization().clone(), has, lanes: Vec::new() };
        for source in [Source::Live, Source::Backfill] {
            for _ in 0..ROUNDS {
                let (before, mut from) = (plan.room, 0);
                // Whoever has his part already leaves room for those behind him.
                while plan.room > 0 && from < self.due.len() {
                    let looks;
                    (looks, from) = self.look(source, from, &plan, &mut around);
                    self.share(looks, &mut plan, &mut around);
                }
                if plan.room == before {
                    break;
                }
            }
        }
        if room > 0 {
            self.rotate(&plan);
        }
        plan.lanes
    }

    /// Whoever has half of his rows goes behind those who have fewer; of these the first behind the others.
    fn rotate(&mut self, plan: &Plan) {
        let (mut first, mut behind) = (VecDeque::new(), VecDeque::new());
        for (lane, has) in self.due.drain(..).zip(&plan.has) {
            if 2 * has < plan.together() { first.push_back(lane) } else { behind.push_back(lane) }
        }
        behind.rotate_left(usize::from(!behind.is_empty()));
        first.append(&mut behind);
        self.due = first;
    }

    /// What the lanes of a source could claim if they were alone, from a place on, of as many as can use the room there is; and the
    /// place behind them.
    fn look(&mut self, source: Source, from: usize, plan: &Plan, around: &mut Around<'_>) -> (Vec<Look>, usize) {
        let (mut looks, mut used) = (Vec::new(), 0);
        for place in from..self.due.len() {
            if used >= plan.room {
                return (looks, place);
            }
            if self.due[place].source == source
                && let Some(look) = self.look_at(place, plan.rows_max, around)
            {
                used += look.wants.min(plan.together());
                looks.push(look);
            }
        }
        (looks, self.due.len())
    }

    /// Shares out what may be claimed among lanes.
    fn share(&mut self, looks: Vec<Look>, plan: &mut Plan, around: &mut Around<'_>) {
        let asks: Vec<Ask> = looks.iter().map(|l| Ask { org: self.due[l.place].org, has: plan.has[l.place], wants: l.wants }).collect();
        let parts = fair::parts(Pool { rows_max: plan.rows_max, in_hand: &plan.in_hand }, &asks);
        for (look, part) in looks.into_iter().zip(parts).filter(|(_, part)| *part > 0) {
            let place = look.place;
            let Some(lane) = self.take(look, part, around) else { continue };
            let rows = lane.claim.rows_max;
            plan.room -= rows.min(plan.room);
            plan.has[place] += rows;
            *plan.in_hand.entry(lane.claim.lane.org).or_default() += rows;
            add(&mut plan.lanes, lane);
        }
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
