//! What the engine shows of itself: how fast an email goes and what it waits for.
//!
//! Invariant: written by the engine, read by anyone; holds nothing that decides.

use crate::clock::Now;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::limits::Blocked;
use crate::warmup::store::{Claimed, Settled};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The time over which a rate is measured, in milliseconds.
const RATE_OVER_MS: i64 = 10_000;
/// The most emails whose rate is kept.
const EMAILS_MAX: usize = 1_000;

/// How an email goes now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EmailNow {
    pub rate_per_second: Option<f64>,
    pub waits_for: Option<String>,
}

/// The engine's view, shared.
#[derive(Default)]
pub struct View(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    rates: HashMap<(OrgId, EmailNumber), Rate>,
    blocked: HashMap<OrgId, HashMap<String, String>>,
}

/// Counts over the current and the last span.
#[derive(Default, Clone, Copy)]
struct Rate {
    since: i64,
    count: u64,
    before: f64,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is known of an email at `boot_ms`.
    pub fn of(&self, org: OrgId, email: EmailNumber, boot_ms: i64) -> EmailNow {
        let inner = self.lock();
        let rate = inner.rates.get(&(org, email)).map(|rate| rate.at(boot_ms)).filter(|r| *r > 0.0);
        let mut reasons: Vec<&String> = inner.blocked.get(&org).map(|b| b.values().collect()).unwrap_or_default();
        reasons.sort();
        EmailNow { rate_per_second: rate, waits_for: reasons.first().map(|r| (*r).clone()) }
    }

    pub(super) fn settled(&self, claimed: &Claimed, settled: &Settled, at: Now) {
        if matches!(settled, Settled::Returned { .. }) {
            return;
        }
        let mut inner = self.lock();
        if inner.rates.len() > EMAILS_MAX {
            inner.rates.retain(|_, rate| at.boot_ms - rate.since < 2 * RATE_OVER_MS);
        }
        inner
            .rates
            .entry((claimed.delivery.org, claimed.delivery.email))
            .or_insert(Rate { since: at.boot_ms, ..Rate::default() })
            .add(at.boot_ms);
    }

    pub(super) fn blocked(&self, org: OrgId, provider: &str, why: String) {
        self.lock().blocked.entry(org).or_default().insert(provider.to_owned(), why);
    }

    pub(super) fn limited(&self, org: OrgId, provider: &str, by: Option<&Blocked>, now: Now) {
        match by {
            Some(by) => self.blocked(org, provider, words(by, now)),
            None => {
                if let Some(lanes) = self.lock().blocked.get_mut(&org) {
                    lanes.remove(provider);
                }
            }
        }
    }
}

impl Rate {
    fn add(&mut self, boot_ms: i64) {
        if boot_ms - self.since >= RATE_OVER_MS {
            self.before = self.count as f64 * 1000.0 / (boot_ms - self.since) as f64;
            (self.since, self.count) = (boot_ms, 0);
        }
        self.count += 1;
    }

    fn at(&self, boot_ms: i64) -> f64 {
        let span = (boot_ms - self.since).max(1);
        match span {
            0..1_000 if self.before > 0.0 => self.before,
            _ if span > 3 * RATE_OVER_MS => 0.0,
            _ => self.count as f64 * 1000.0 / span as f64,
        }
    }
}

/// `client `gmail`, daily cap 500 reached, next at 2026-11-25T12:00:00Z`.
fn words(by: &Blocked, now: Now) -> String {
    let mut parts = by.scope.split('/');
    let (kind, name) = (parts.next().unwrap_or_default(), parts.next_back().unwrap_or_default());
    let per = match by.window.per.as_secs() {
        1 => "per-second".to_owned(),
        60 => "per-minute".to_owned(),
        3_600 => "hourly".to_owned(),
        86_400 => "daily".to_owned(),
        _ => format!("per-{}", humantime::format_duration(by.window.per)).replace(' ', ""),
    };
    let kind = if kind == "org" { "organization" } else { kind };
    let reached = format!("{kind} `{name}`, {per} cap {} reached", by.window.messages);
    match by.next_at_boot_ms {
        Some(at) => {
            let at = std::time::UNIX_EPOCH + Duration::from_millis((now.wall_ms + at - now.boot_ms).max(0) as u64);
            format!("{reached}, next at {}", humantime::format_rfc3339_seconds(at))
        }
        None => format!("{reached}, next when a reply has come"),
    }
}
