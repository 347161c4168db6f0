//! Limits as the receiver counts them: what may be claimed now, for every scope that a message belongs to.
//!
//! A slot is taken at claim and comes free one window after its outcome is recorded, so a message counts from before it can have
//! arrived until a whole window after it can have arrived last. Only a message that was certainly not attempted gives its slot
//! back at once. The price is a rate of W/(W + latency). Elapsed time is the boot clock; across a reboot the wall clock is
//! believed. What is out when the process ends counts from the next start. Scopes are `org/acme`, `provider/acme/gmail`,
//! `client/acme/relay`, `share/relay-1`.
//!
//! Invariant: pure; no clock, no I/O. No restart, stall or jump of the wall clock within one boot lets any rolling window hold
//! more than its maximum, whatever is restored, used and configured in which order, and taken out and put back.

mod allowance;
mod gate;
mod rolling;
#[cfg(test)]
mod tests;

use crate::clock::Now;
use crate::config::settings::{Organization, Window};
use crate::model::name::OrgName;
use crate::warmup::store::Usage;
use gate::Gate;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use allowance::Allowance;

/// The gates of all scopes. A scope that is not configured is open, and what it has out is counted all the same.
#[derive(Debug)]
pub struct Limits {
    boot_id: String,
    numbers: HashMap<String, ScopeNumber>,
    /// By number.
    scopes: Vec<Scope>,
    /// Those whose gate is changed, so that a turn does not ask the gates of all organizations what is to be written.
    changed: Vec<ScopeNumber>,
    /// Rows that were given for a commit that is not known to have succeeded.
    unwritten: Arc<Vec<Usage>>,
}

#[derive(Debug)]
struct Scope {
    name: String,
    gate: Gate,
}

/// A scope's number in one [`Limits`], and in no other: whoever counts each message under it looks for no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeNumber(usize);

/// What tells a scope: its number, or its name.
pub trait ScopeKey {
    /// The number of the scope, which from now on there is.
    fn number(&self, limits: &mut Limits) -> ScopeNumber;
}

impl ScopeKey for ScopeNumber {
    fn number(&self, _: &mut Limits) -> ScopeNumber {
        *self
    }
}

impl<T: AsRef<str> + ?Sized> ScopeKey for T {
    fn number(&self, limits: &mut Limits) -> ScopeNumber {
        limits.number(self.as_ref())
    }
}

/// How many rows may be claimed, and what keeps it from being more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimable {
    pub n: u64,
    /// `None`: all that was wanted.
    pub blocked_by: Option<Blocked>,
}

/// The limit that allows least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    pub scope: String,
    pub window: Window,
    /// When every scope asked for has a slot again, by the boot clock; `None` where only an outcome can free one.
    pub next_at_boot_ms: Option<i64>,
}

/// The limits as the engine counts them and a reader asks them; nobody waits while he holds them.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Limits>>);

impl Shared {
    pub fn new(limits: Limits) -> Shared {
        Shared(Arc::new(Mutex::new(limits)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Limits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The scopes of one organization's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    pub org: String,
    pub provider: String,
    pub client: String,
    pub share: Option<String>,
}

impl Scopes {
    /// Those of a message through this client to this mailbox provider.
    pub fn of(organization: &Organization, client: &str, provider: &str) -> Scopes {
        let entry = organization.smtp.iter().find(|entry| entry.name == client);
        let share = entry.and_then(|entry| entry.share.as_deref()).map(share_scope);
        let org = &organization.name;
        Scopes { org: org_scope(org), provider: provider_scope(org, provider), client: client_scope(org, client), share }
    }

    /// All of them.
    pub fn names(&self) -> Vec<&str> {
        [&self.org, &self.provider, &self.client].into_iter().chain(&self.share).map(String::as_str).collect()
    }

    /// Their numbers.
    pub fn numbers(&self, limits: &mut Limits) -> Arc<[ScopeNumber]> {
        self.names().into_iter().map(|name| limits.number(name)).collect()
    }
}

/// The scope of all that an organization sends.
pub fn org_scope(org: &OrgName) -> String {
    format!("org/{org}")
}

/// The scope of what an organization sends to a mailbox provider; with an empty name, what all of these start with.
pub fn provider_scope(org: &OrgName, provider: &str) -> String {
    format!("provider/{org}/{provider}")
}

/// The scope of what an organization sends through a client.
pub fn client_scope(org: &OrgName, client: &str) -> String {
    format!("client/{org}/{client}")
}

/// The scope of what goes through an account, whoever sends it.
pub fn share_scope(share: &str) -> String {
    format!("share/{share}")
}

impl Limits {
    /// No gates. `boot_id` names the boot that every later `boot_ms` counts from.
    pub fn new(boot_id: impl Into<String>) -> Limits {
        let (numbers, scopes, changed) = (HashMap::new(), Vec::new(), Vec::new());
        Limits { boot_id: boot_id.into(), numbers, scopes, changed, unwritten: Arc::default() }
    }

    /// Sets the windows of a scope: what it has counted stays, of windows that go as well. Gates are never removed, so that an
    /// organization's file that goes away and comes back finds its counts again.
    pub fn configure(&mut self, scope: &str, windows: &[Window], now: Now) {
        let boot_id = self.boot_id.clone();
        self.changing(scope).configure(windows, now, scope, &boot_id);
    }

    /// The scopes that start with this and have been used, configured or asked about.
    pub fn scopes(&self, prefix: &str) -> Vec<String> {
        self.numbers.keys().filter(|scope| scope.starts_with(prefix)).cloned().collect()
    }

    /// Takes back what an earlier process stored, which had at most `in_doubt_max` messages in hand when it ended: these count as
    /// recorded now, under every scope that they were taken from. Call it once.
    pub fn restore(&mut self, stored: Vec<Usage>, in_doubt_max: u64, now: Now) {
        let mut by_scope: HashMap<String, Vec<Usage>> = HashMap::new();
        for row in stored {
            by_scope.entry(row.scope.clone()).or_default().push(row);
        }
        let boot_id = self.boot_id.clone();
        for (scope, rows) in by_scope {
            self.changing(&scope).restore(&rows, in_doubt_max, now, &boot_id);
        }
    }

    /// How many of `want` messages that belong to all of `scopes` may be claimed now.
    pub fn claimable(&mut self, scopes: &[impl ScopeKey], want: u64, now_boot_ms: i64) -> Claimable {
        let mut least: Option<(u64, ScopeNumber, Window)> = None;
        for scope in scopes {
            let scope = scope.number(self);
            if let Some((n, window)) = self.gate(scope).tightest(now_boot_ms)
                && n < want
                && least.is_none_or(|(before, ..)| n < before)
            {
                least = Some((n, scope, window));
            }
        }
        let Some((n, scope, window)) = least else {
            return Claimable { n: want, blocked_by: None };
        };
        let next_at_boot_ms = self.next_at(scopes, now_boot_ms);
        let blocked = Blocked { scope: self.scopes[scope.0].name.clone(), window, next_at_boot_ms };
        Claimable { n, blocked_by: Some(blocked) }
    }

    /// When all of `scopes` have at least one slot: now where they do, `None` where only an outcome can free one.
    pub fn next_at(&mut self, scopes: &[impl ScopeKey], now_boot_ms: i64) -> Option<i64> {
        let mut latest = now_boot_ms;
        for scope in scopes {
            let scope = scope.number(self);
            latest = latest.max(self.gate(scope).next_at(now_boot_ms)?);
        }
        Some(latest)
    }

    /// What keeps even one message that belongs to all of `scopes` from going now: the limit that frees a slot last.
    pub fn waits(&mut self, scopes: &[&str], now_boot_ms: i64) -> Option<Blocked> {
        let shut = scopes.iter().filter_map(|scope| {
            let (window, next_at_boot_ms) = self.known(scope)?.waits(now_boot_ms)?;
            Some(Blocked { scope: (*scope).to_owned(), window, next_at_boot_ms })
        });
        shut.max_by_key(|blocked| blocked.next_at_boot_ms.unwrap_or(i64::MAX))
    }

    /// What the windows of a scope allow from now on.
    pub fn allowances(&mut self, scope: &str, now_boot_ms: i64) -> Vec<Allowance> {
        self.known(scope).map(|gate| gate.allowances(now_boot_ms).collect()).unwrap_or_default()
    }

    /// Takes `n` slots of every scope, at claim.
    pub fn take(&mut self, scopes: &[impl ScopeKey], n: u64) {
        scopes.iter().for_each(|scope| self.changing(scope).take(n));
    }

    /// Records the outcomes of `n` taken slots. A refusal is an outcome too.
    pub fn settle(&mut self, scopes: &[impl ScopeKey], n: u64, now_boot_ms: i64) {
        scopes.iter().for_each(|scope| self.changing(scope).settle(now_boot_ms, n));
    }

    /// Gives back `n` taken slots whose messages were certainly not attempted.
    pub fn give_back(&mut self, scopes: &[impl ScopeKey], n: u64) {
        scopes.iter().for_each(|scope| self.changing(scope).give_back(n));
    }

    /// The rows that changed since [`Limits::written`], for the commit that records the outcomes: those to delete (count 0)
    /// come first. Windows of up to a second are not stored.
    pub fn dirty(&mut self, now: Now) -> Arc<Vec<Usage>> {
        let mut rows = Vec::new();
        for ScopeNumber(number) in std::mem::take(&mut self.changed) {
            let Scope { name, gate } = &mut self.scopes[number];
            rows.extend(gate.dirty(name, now, &self.boot_id));
        }
        if !self.unwritten.is_empty() {
            let is_newer = |old: &&Usage| rows.iter().any(|row| is_same_bucket(row, old));
            let kept: Vec<Usage> = self.unwritten.iter().filter(|old| !is_newer(old)).cloned().collect();
            rows.extend(kept);
        }
        rows.sort_by_key(|row| row.count != 0);
        self.unwritten = Arc::new(rows);
        self.unwritten.clone()
    }

    /// Says that what [`Limits::dirty`] gave last is committed. Until then it is given again.
    pub fn written(&mut self) {
        self.unwritten = Arc::default();
    }

    /// The number of a scope, which from now on there is.
    fn number(&mut self, name: &str) -> ScopeNumber {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = ScopeNumber(self.scopes.len());
        self.scopes.push(Scope { name: name.to_owned(), gate: Gate::default() });
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn gate(&mut self, scope: ScopeNumber) -> &mut Gate {
        &mut self.scopes[scope.0].gate
    }

    /// The gate of a scope that has been used, configured or asked about.
    fn known(&mut self, name: &str) -> Option<&mut Gate> {
        let number = *self.numbers.get(name)?;
        Some(self.gate(number))
    }

    /// The gate of a scope, which is about to change.
    fn changing(&mut self, scope: &(impl ScopeKey + ?Sized)) -> &mut Gate {
        let number = scope.number(self);
        let gate = &mut self.scopes[number.0].gate;
        if !gate.is_changed() {
            self.changed.push(number);
        }
        gate
    }
}

fn is_same_bucket(one: &Usage, other: &Usage) -> bool {
    (one.bucket_ms, one.per_ms) == (other.bucket_ms, other.per_ms) && one.scope == other.scope && one.boot_id == other.boot_id
}
