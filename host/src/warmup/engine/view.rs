//! What the engine shows of itself: how fast emails go, which client is in use, and which lanes it holds back.
//!
//! Invariant: written by the engine, read by anyone; holds nothing that decides.

use crate::clock::Now;
use crate::model::name::{EmailNumber, OrgId};
use crate::model::number_map::NumberMap;
use crate::warmup::store::{Claimed, Settled};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// The time over which a rate is measured, in milliseconds.
const RATE_OVER_MS: i64 = 60_000;
/// A rate is counted in parts of this length, in milliseconds.
const RATE_PART_MS: i64 = 1_000;
/// The most emails whose rate is kept.
const EMAILS_MAX: usize = 1_000;

/// Why the engine holds a lane back, limits aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub words: String,
    /// By the boot clock; `None`: until the client works again.
    pub until_boot_ms: Option<i64>,
}

/// The engine's view, shared.
#[derive(Default)]
pub struct View(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    rates: NumberMap<(OrgId, EmailNumber), Rate>,
    organizations: NumberMap<OrgId, Shown>,
}

#[derive(Default)]
struct Shown {
    client: Option<Arc<str>>,
    held: HashMap<String, Held>,
}

/// Counts of the last minute.
#[derive(Default)]
struct Rate {
    /// When the counting began, after the last pause of a whole minute.
    since: i64,
    /// The start of each part and its count, oldest first.
    parts: VecDeque<(i64, u64)>,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Messages of an email tried a second, over the last minute; `None` where none was.
    pub fn rate(&self, org: OrgId, email: EmailNumber, boot_ms: i64) -> Option<f64> {
        self.lock().rates.get(&(org, email))?.at(boot_ms)
    }

    /// The same of all emails of an organization.
    pub fn rate_of_organization(&self, org: OrgId, boot_ms: i64) -> Option<f64> {
        let inner = self.lock();
        let rates = inner.rates.iter().filter(|((of, _), _)| *of == org).filter_map(|(_, rate)| rate.at(boot_ms));
        Some(rates.sum()).filter(|sum: &f64| *sum > 0.0)
    }

    /// The client that the organization's mail goes through now.
    pub fn client(&self, org: OrgId) -> Option<Arc<str>> {
        self.lock().organizations.get(&org)?.client.clone()
    }

    /// Why a lane is held back at `boot_ms`.
    pub fn held(&self, org: OrgId, provider: &str, boot_ms: i64) -> Option<Held> {
        let inner = self.lock();
        let held = inner.organizations.get(&org)?.held.get(provider)?;
        held.until_boot_ms.is_none_or(|until| until > boot_ms).then(|| held.clone())
    }

    pub(super) fn settled(&self, claimed: &Claimed, settled: &Settled, at: Now) {
        if matches!(settled, Settled::Returned { .. }) {
            return;
        }
        let mut inner = self.lock();
        if inner.rates.len() > EMAILS_MAX {
            inner.rates.retain(|_, rate| rate.at(at.boot_ms).is_some());
        }
        inner.rates.entry((claimed.delivery.org, claimed.delivery.email)).or_default().add(at.boot_ms);
    }

    pub(super) fn hold(&self, org: OrgId, provider: &str, held: Held) {
        self.lock().organizations.entry(org).or_default().held.insert(provider.to_owned(), held);
    }

    /// A lane is not held back, and goes through this client.
    pub(super) fn goes(&self, org: OrgId, provider: &str, client: &Arc<str>) {
        let mut inner = self.lock();
        let shown = inner.organizations.entry(org).or_default();
        if !shown.held.is_empty() {
            shown.held.remove(provider);
        }
        if shown.client.as_ref().is_none_or(|before| !Arc::ptr_eq(before, client)) {
            shown.client = Some(client.clone());
        }
    }
}

impl Rate {
    fn add(&mut self, boot_ms: i64) {
        while self.parts.front().is_some_and(|(start, _)| boot_ms - start >= RATE_OVER_MS) {
            self.parts.pop_front();
        }
        match self.parts.back_mut() {
            Some((start, count)) if boot_ms - *start < RATE_PART_MS => *count += 1,
            None => (self.since, self.parts) = (boot_ms, VecDeque::from([(boot_ms, 1)])),
            Some(_) => self.parts.push_back((boot_ms, 1)),
        }
    }

    /// Over the last minute, or since it began where that is shorter; at least over one second.
    fn at(&self, boot_ms: i64) -> Option<f64> {
        let count: u64 = self.parts.iter().filter(|(start, _)| boot_ms - start < RATE_OVER_MS).map(|(_, count)| count).sum();
        let span = (boot_ms - self.since).clamp(RATE_PART_MS, RATE_OVER_MS);
        (count > 0).then(|| count as f64 * 1_000.0 / span as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_of(times: impl IntoIterator<Item = i64>) -> Rate {
        let mut rate = Rate::default();
        times.into_iter().for_each(|at| rate.add(at));
        rate
    }

    #[test]
    fn a_rate_is_that_of_the_last_minute_and_goes_a_minute_after_the_last_message() {
        let rate = rate_of((0..1_000).map(|n| 5_000 + n * 10));
        assert_eq!(rate.at(15_000), Some(100.0), "over the ten seconds that it has run");
        assert_eq!(rate.at(25_000), Some(50.0));
        assert_eq!(rate.at(64_999), Some(1_000.0 * 1_000.0 / 59_999.0), "over the whole minute");
        assert!(rate.at(70_000).is_some_and(|rate| rate < 10.0), "what is older does not count");
        assert_eq!(rate.at(76_000), None);
    }

    #[test]
    fn the_first_message_alone_is_one_a_second_and_a_pause_of_a_minute_begins_anew() {
        let mut rate = rate_of([0]);
        assert_eq!(rate.at(0), Some(1.0));
        rate.add(500_000);
        rate.add(501_000);
        assert_eq!(rate.at(502_000), Some(1.0));
    }
}
