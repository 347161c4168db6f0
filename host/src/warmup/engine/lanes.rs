//! Lanes: which organization's mail to which mailbox provider is due, and how much of it is claimed now.
//!
//! Invariant: a slot of every limit is taken before a row is claimed, and given back where no row was there.

use crate::clock::Now;
use crate::model::delivery::Source;
use crate::model::name::OrgId;
use crate::warmup::engine::fair::{self, Ask, Pool};
use crate::warmup::engine::hands::{Hands, Scopes};
use crate::warmup::engine::organizations::Organizations;
use crate::warmup::engine::plan::{Due, Plan, Planned, ROUNDS, ROWS_AT_FIRST, ROWS_TOGETHER, Round};
use crate::warmup::engine::view::{Held, View};
use crate::warmup::limits::{Blocked, Limits};
use crate::warmup::route::Choice;
use crate::warmup::store::{Claim, LaneKey, Lanes, Settled};
use std::collections::{HashMap, HashSet, VecDeque};

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
    /// Rows of the lane in hand.
    has: usize,
    index: usize,
    probe: bool,
    scopes: Scopes,
    wants: usize,
    is_brisk: bool,
}

/// Looking which lanes have work takes at most one part in this of the time, where that is not more than so many milliseconds
/// without a look: with many lanes it takes long, and whoever is due goes on meanwhile.
const LOOK_PART: i64 = 50;
const LOOK_REST_MAX_MS: i64 = 500;

/// The lanes that have work, in the order in which they are served.
#[derive(Default)]
pub struct LaneBook {
    due: VecDeque<Due>,
    /// When more is due in the store, by the boot clock.
    next_at: Option<i64>,
    /// When a lane of the last plan that waits for a slot, for the end of a pause or for a client may go on.
    resumes_at: Option<i64>,
    stale: bool,
    /// Not before is the store looked through again, as that took long.
    rests_until: i64,
}

impl LaneBook {
    pub fn look_again(&mut self) {
        self.stale = true;
    }

    pub fn is_stale(&self, boot_ms: i64) -> bool {
        boot_ms >= self.rests_until && (self.stale || self.next_at.is_some_and(|at| at <= boot_ms))
    }

    /// When the engine should look again though nothing happens, by the boot clock.
    pub fn next_at(&self) -> Option<i64> {
        let looks_at = if self.stale { Some(self.rests_until) } else { self.next_at.map(|at| at.max(self.rests_until)) };
        looks_at.into_iter().chain(self.resumes_at).min()
    }

    /// Takes what the store found, who was asked at `asked`. Lanes that are known keep their turn.
    pub fn replace(&mut self, found: Lanes, asked: Now, now: Now) {
        self.stale = false;
        self.rests_until = now.boot_ms + ((now.boot_ms - asked.boot_ms) * LOOK_PART).min(LOOK_REST_MAX_MS);
        self.next_at = found.next_at.map(|wall| now.boot_ms + (wall - now.wall_ms).max(1));
        let mut fresh: HashSet<LaneKey> = found.due.iter().cloned().collect();
        self.due.retain(|due| fresh.remove(&due.lane));
        // The first lane of each organization, then the second of each: one with many lanes does not come before all others.
        let mut lanes_of: HashMap<OrgId, usize> = HashMap::new();
        let mut new: Vec<(usize, LaneKey)> = Vec::new();
        for lane in found.due.into_iter().filter(|lane| fresh.contains(lane)) {
            let before = lanes_of.entry(lane.org).or_default();
            *before += 1;
            new.push((*before, lane));
        }
        new.sort_by_key(|(nth, _)| *nth);
        self.due.extend(new.into_iter().map(|(_, lane)| Due::new(lane)));
    }

    fn resume_at(&mut self, boot_ms: i64) {
        self.resumes_at = Some(self.resumes_at.map_or(boot_ms, |at| at.min(boot_ms)));
    }

    /// Decides what is claimed now, at most up to `rows_max` in hand: live mail of all lanes before any back-fill, as they
    /// may spend the same limits. Of many lanes those at the front share what there is until they have had their turn: a plan costs
    /// what it claims, and not what waits for its turn.
    pub fn plan(&mut self, rows_max: usize, hands: &Hands, mut around: Around<'_>) -> Vec<Planned> {
        self.resumes_at = None;
        let mut plan = Plan::new(rows_max, hands);
        for source in [Source::Live, Source::Backfill] {
            for round in ROUNDS {
                let (before, mut from) = (plan.room, 0);
                // Whoever has his part already leaves room for those behind him.
                while plan.room > 0 && from < self.due.len() {
                    let looks;
                    (looks, from) = self.look((source, round), from, &mut plan, hands, &mut around);
                    self.share(looks, &mut plan, &mut around);
                }
                if round == Round::All && plan.room == before {
                    break;
                }
            }
        }
        self.rotate(&plan);
        plan.claims
    }

    /// Whoever has had his turn goes behind all others.
    fn rotate(&mut self, plan: &Plan) {
        for (before, place) in plan.done.iter().enumerate() {
            let Some(due) = self.due.remove(place - before) else { continue };
            self.due.push_back(Due { served: 0, ..due });
        }
    }

    /// What the lanes of a source could claim if they were alone, from a place on, of as many as can use the room there is; and the
    /// place behind them.
    fn look(
        &mut self,
        (source, round): (Source, Round),
        from: usize,
        plan: &mut Plan,
        hands: &Hands,
        around: &mut Around<'_>,
    ) -> (Vec<Look>, usize) {
        let (mut looks, mut used) = (Vec::new(), 0);
        for place in from..self.due.len() {
            if used >= plan.room {
                return (looks, place);
            }
            let due = &self.due[place];
            if due.lane.source != source || plan.blocked.contains(&place) {
                continue;
            }
            let has = plan.has.get(&place).copied().unwrap_or_else(|| hands.of(&due.lane));
            if round == Round::Wanting && 2 * has >= due.part.together {
                continue;
            }
            let Some(mut look) = self.look_at(place, has, plan.rows_max, around) else {
                plan.blocked.insert(place);
                continue;
            };
            let due = &self.due[place];
            // Its client may have become slow in the middle of its turn.
            if due.left() == 0 {
                plan.done.insert(place);
            }
            if round == Round::Wanting {
                look.wants = look.wants.min(due.left());
            }
            if look.wants > 0 {
                used += look.wants.min(due.part.together);
                looks.push(look);
            }
        }
        (looks, self.due.len())
    }

    /// Shares out what may be claimed among lanes.
    fn share(&mut self, looks: Vec<Look>, plan: &mut Plan, around: &mut Around<'_>) {
        let asks: Vec<Ask> =
            looks.iter().map(|l| Ask { org: self.due[l.place].lane.org, has: l.has, wants: l.wants, is_brisk: l.is_brisk }).collect();
        let parts = fair::parts(Pool { rows_max: plan.rows_max, in_hand: &plan.in_hand }, &asks);
        for (look, part) in looks.into_iter().zip(parts).filter(|(_, part)| *part > 0) {
            let (place, has) = (look.place, look.has);
            let Some(lane) = self.take(look, part, around) else { continue };
            let rows = lane.claim.rows_max;
            plan.room -= rows.min(plan.room);
            plan.has.insert(place, has + rows);
            self.due[place].served += rows;
            if self.due[place].left() == 0 {
                plan.done.insert(place);
            }
            *plan.in_hand.entry(lane.claim.lane.org).or_default() += rows;
            plan.add(lane);
        }
    }

    fn look_at(&mut self, place: usize, has: usize, rows_max: usize, around: &mut Around<'_>) -> Option<Look> {
        let LaneKey { org, provider, .. } = &self.due[place].lane;
        let (org, provider) = (*org, provider.clone());
        let Around { organizations, limits, view, now } = around;
        let organization = organizations.get_mut(org)?;
        let (index, probe) = match organization.choose(now.boot_ms) {
            Choice::Use(index) => (index, false),
            Choice::Probe(index) => (index, true),
            Choice::Wait(at) => {
                view.hold(org, &provider, Held { words: organization.why_failing(), until_boot_ms: None });
                self.resume_at(at.unwrap_or(now.boot_ms + 1_000));
                return None;
            }
        };
        if let Some((until, words)) = organization.paused(index, &provider, *now) {
            view.hold(org, &provider, Held { words, until_boot_ms: Some(until) });
            self.resume_at(until);
            return None;
        }
        view.goes(org, &provider, organization.client_name(index));
        let room = if probe { 1 } else { organization.room(index, now.boot_ms).min(rows_max) };
        if room == 0 {
            return None;
        }
        let scopes = organization.scopes_of(index, &provider, limits);
        let claimable = limits.claimable(&scopes, room as u64, now.boot_ms);
        if claimable.n == 0 {
            self.resume_after(claimable.blocked_by, *now);
            return None;
        }
        let is_brisk = organization.is_brisk(index, now.boot_ms);
        self.due[place].part = if is_brisk { ROWS_TOGETHER } else { ROWS_AT_FIRST }.of(rows_max);
        Some(Look { place, has, index, probe, scopes, wants: claimable.n as usize, is_brisk })
    }

    /// Takes the slots of a lane's part. Lanes before it may have taken what it saw.
    fn take(&mut self, look: Look, part: usize, around: &mut Around<'_>) -> Option<Planned> {
        let lane = self.due[look.place].lane.clone();
        let Around { organizations, limits, now, .. } = around;
        let organization = organizations.get_mut(lane.org)?;
        let still_probing = look.probe && matches!(organization.choose(now.boot_ms), Choice::Probe(index) if index == look.index);
        let room = if look.probe { usize::from(still_probing) } else { organization.room(look.index, now.boot_ms) };
        let claimable = limits.claimable(&look.scopes, part.min(room) as u64, now.boot_ms);
        let rows_max = claimable.n as usize;
        self.resume_after(claimable.blocked_by, *now);
        if rows_max == 0 {
            return None;
        }
        limits.take(&look.scopes, rows_max as u64);
        if look.probe {
            organization.begin_probe(look.index, now.boot_ms);
        }
        organization.reserve(look.index, rows_max, now.boot_ms);
        let (name, client) = organization.client(look.index);
        Some(Planned { claim: Claim { lane, client: name, rows_max }, scopes: look.scopes, client, got: 0, probe: look.probe })
    }

    fn resume_after(&mut self, blocked_by: Option<Blocked>, now: Now) {
        if let Some(at) = blocked_by.and_then(|b| b.next_at_boot_ms) {
            self.resume_at(at.max(now.boot_ms + 1));
        }
    }

    /// Gives back what was taken for rows that were not there, and forgets lanes that are empty.
    pub fn claimed(&mut self, planned: &[Planned], organizations: &mut Organizations, limits: &mut Limits) {
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
            self.due.retain(|due| due.lane != claim.lane);
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
            let due = at.boot_ms + (due - at.wall_ms).max(1);
            self.next_at = Some(self.next_at.map_or(due, |at| at.min(due)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: i64) -> Now {
        Now { wall_ms: boot_ms + 5_000_000, boot_ms }
    }

    #[test]
    fn a_look_that_took_long_is_not_repeated_for_fifty_times_as_long_though_something_asks_for_it() {
        let mut book = LaneBook::default();
        book.look_again();
        let due_soon = Lanes { next_at: Some(at(1_020).wall_ms), ..Lanes::default() };
        book.replace(due_soon, at(1_000), at(1_004));
        assert_eq!(book.next_at(), Some(1_204), "what is due sooner waits for it");
        book.look_again();
        assert_eq!((book.is_stale(1_203), book.is_stale(1_204)), (false, true));
        assert_eq!(book.next_at(), Some(1_204), "the engine wakes up for it");
        book.replace(Lanes::default(), at(1_210), at(2_210));
        book.look_again();
        assert_eq!(book.next_at(), Some(2_210 + LOOK_REST_MAX_MS), "however long it took");
    }

    #[test]
    fn a_look_that_took_no_time_may_be_repeated_at_once() {
        let mut book = LaneBook::default();
        book.replace(Lanes { next_at: Some(at(1_020).wall_ms), ..Lanes::default() }, at(1_000), at(1_000));
        assert_eq!((book.is_stale(1_000), book.is_stale(1_020), book.next_at()), (false, true, Some(1_020)));
        book.look_again();
        assert!(book.is_stale(1_000));
    }
}
