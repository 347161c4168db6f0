//! Lanes: which organization's mail to which mailbox provider is due, and how much of it is claimed now.
//!
//! Invariant: a slot of every limit is taken before a row is claimed, and given back where no row was there.

use crate::clock::Now;
use crate::model::name::OrgId;
use crate::warmup::engine::organizations::Organizations;
use crate::warmup::engine::view::{Held, View};
use crate::warmup::limits::Limits;
use crate::warmup::route::Choice;
use crate::warmup::store::{Claim, Claimed, Lanes, Settled};
use std::collections::VecDeque;

/// A claim to make, with the scopes whose slots it has taken.
pub struct Lane {
    pub claim: Claim,
    scopes: Vec<String>,
    probe: bool,
}

/// The lanes that have work, in the order in which they are served.
#[derive(Default)]
pub struct LaneBook {
    due: VecDeque<(OrgId, String)>,
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
        self.due.retain(|lane| found.due.contains(lane));
        for lane in found.due {
            if !self.due.contains(&lane) {
                self.due.push_back(lane);
            }
        }
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
        provider: &str,
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
                view.hold(org, provider, Held { words: organization.why_failing(), until_boot_ms: None });
                self.wake_at(at.unwrap_or(now.boot_ms + 1_000));
                return None;
            }
        };
        if let Some(until) = organization.paused_until(index, provider, now.boot_ms) {
            view.hold(org, provider, Held { words: organization.why_paused(index, now, until), until_boot_ms: Some(until) });
            self.wake_at(until);
            return None;
        }
        view.goes(org, provider, organization.client_name(index));
        let room = if probe { 1 } else { organization.room(index) };
        let want = part.min(room);
        if want == 0 {
            return None;
        }
        let scopes = organization.scopes_of(index, provider);
        let names: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let claimable = limits.claimable(&names, want as u64, now.boot_ms);
        if let Some(at) = claimable.blocked_by.and_then(|b| b.next_at_boot_ms) {
            self.wake_at(at.max(now.boot_ms + 1));
        }
        if claimable.n == 0 {
            return None;
        }
        limits.take(&names, claimable.n, now.boot_ms);
        if probe {
            organization.begin_probe(index, now.boot_ms);
        }
        organization.reserve(index, claimable.n as usize);
        let client = organization.client_name(index).clone();
        Some(Lane { claim: Claim { org, provider: provider.to_owned(), client, rows_max: claimable.n as usize }, scopes, probe })
    }

    /// Gives back what was taken for rows that were not there, and forgets lanes that are empty.
    pub fn claimed(&mut self, planned: &[Lane], claimed: &[Claimed], organizations: &mut Organizations, limits: &mut Limits, now: Now) {
        for lane in planned {
            let claim = &lane.claim;
            let of_lane = |c: &&Claimed| c.delivery.org == claim.org && *c.provider == *claim.provider && c.client == claim.client;
            let got = claimed.iter().filter(of_lane).count();
            let missing = claim.rows_max - got;
            if missing == 0 {
                continue;
            }
            let names: Vec<&str> = lane.scopes.iter().map(String::as_str).collect();
            limits.give_back(&names, missing as u64, now.boot_ms);
            if let Some(organization) = organizations.get_mut(claim.org) {
                organization.unreserve(&claim.client, missing);
                if lane.probe && got == 0 {
                    organization.release_probe(&claim.client);
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
