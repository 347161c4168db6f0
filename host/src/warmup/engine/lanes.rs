//! Lanes: which organization's mail to which mailbox provider is due, and how much of it is claimed now.
//!
//! Invariant: a slot of every limit is taken before a row is claimed, and given back where no row was there.

use crate::clock::Now;
use crate::model::name::OrgId;
use crate::warmup::engine::hands::{ClientNumber, Scopes};
use crate::warmup::engine::organizations::Organizations;
use crate::warmup::engine::view::View;
use crate::warmup::limits::Limits;
use crate::warmup::route::Choice;
use crate::warmup::store::{Claim, Claimed, Lanes, Settled};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

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
        row.delivery.org == self.claim.org && *row.provider == *self.claim.provider && row.client == self.claim.client
    }
}

/// The lanes that have work, in the order in which they are served.
#[derive(Default)]
pub struct LaneBook {
    due: VecDeque<(OrgId, Arc<str>)>,
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
        let mut fresh: HashSet<(OrgId, Arc<str>)> = found.due.into_iter().map(|(org, provider)| (org, provider.into())).collect();
        self.due.retain(|lane| fresh.remove(lane));
        let mut fresh: Vec<_> = fresh.into_iter().collect();
        fresh.sort();
        self.due.extend(fresh);
    }

    fn wake_at(&mut self, boot_ms: i64) {
        self.next_at = Some(self.next_at.map_or(boot_ms, |at| at.min(boot_ms)));
    }

    /// Shares `free` rows among the lanes that are due, fairly: each gets an equal part first, what is left goes round.
    pub fn plan(&mut self, free: usize, organizations: &mut Organizations, limits: &mut Limits, view: &View, now: Now) -> Vec<Lane> {
        let mut planned = Vec::new();
        let mut left = free;
        for round in 0..2 {
            let lanes = self.due.len();
            for place in 0..lanes {
                if left == 0 {
                    break;
                }
                let part = if round == 0 { left.div_ceil(lanes - place) } else { left };
                let (org, provider) = self.due[place].clone();
                if let Some(lane) = self.one(org, &provider, part, organizations, limits, view, now) {
                    left -= lane.claim.rows_max;
                    add(&mut planned, lane);
                }
            }
        }
        if let Some(first) = self.due.pop_front() {
            self.due.push_back(first);
        }
        planned
    }

    #[expect(clippy::too_many_arguments, reason = "a decision over everything that bounds a claim")]
    fn one(
        &mut self,
        org: OrgId,
        provider: &Arc<str>,
        part: usize,
        organizations: &mut Organizations,
        limits: &mut Limits,
        view: &View,
        now: Now,
    ) -> Option<Lane> {
        let organization = organizations.get_mut(org)?;
        let (index, probe) = match organization.choose(now.boot_ms) {
            Choice::Use(index) => (index, false),
            Choice::Probe(index) => (index, true),
            Choice::Wait(at) => {
                view.blocked(org, provider, organization.why_failing());
                self.wake_at(at.unwrap_or(now.boot_ms + 1_000));
                return None;
            }
        };
        if let Some(until) = organization.paused_until(index, provider, now.boot_ms) {
            view.blocked(org, provider, organization.why_paused(index, now, until));
            self.wake_at(until);
            return None;
        }
        let room = if probe { 1 } else { organization.room(index) };
        let want = part.min(room);
        if want == 0 {
            return None;
        }
        let scopes = organization.scopes_of(index, provider);
        let claimable = limits.claimable(&scopes, want as u64, now.boot_ms);
        view.limited(org, provider, claimable.blocked_by.as_ref(), now);
        if let Some(at) = claimable.blocked_by.and_then(|b| b.next_at_boot_ms) {
            self.wake_at(at.max(now.boot_ms + 1));
        }
        if claimable.n == 0 {
            return None;
        }
        limits.take(&scopes, claimable.n, now.boot_ms);
        if probe {
            organization.begin_probe(index, now.boot_ms);
        }
        organization.reserve(index, claimable.n as usize);
        let (name, client) = organization.client(index);
        let claim = Claim { org, provider: provider.clone(), client: name, rows_max: claimable.n as usize };
        Some(Lane { claim, scopes, client, got: 0, probe })
    }

    /// Gives back what was taken for rows that were not there, and forgets lanes that are empty.
    pub fn claimed(&mut self, planned: &[Lane], organizations: &mut Organizations, limits: &mut Limits, now: Now) {
        for lane in planned {
            let claim = &lane.claim;
            let missing = claim.rows_max - lane.got;
            if missing == 0 {
                continue;
            }
            limits.give_back(&lane.scopes, missing as u64, now.boot_ms);
            if let Some(organization) = organizations.get_mut(claim.org) {
                organization.unreserve(lane.client, missing);
                if lane.probe && lane.got == 0 {
                    organization.release_probe(lane.client);
                }
            }
            self.due.retain(|(org, provider)| !(*org == claim.org && *provider == claim.provider));
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
    let new = &lane.claim;
    let same = |l: &&mut Lane| l.claim.org == new.org && l.claim.provider == new.provider && l.claim.client == new.client;
    match planned.iter_mut().find(same) {
        Some(before) => before.claim.rows_max += lane.claim.rows_max,
        None => planned.push(lane),
    }
}
