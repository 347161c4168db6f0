//! Which mailbox provider receives for a domain: by the domains of `providers.toml`, else by mail exchanger, else `other`.
//!
//! Invariant: nothing here knows a provider by name, and DNS that fails never stops sending: a domain that could not be looked
//! up is `other` for now, and after repeated failures nobody asks for a while.

pub mod dns;
#[cfg(test)]
mod tests;

pub use dns::DnsLookup;

use crate::config::settings::{Dns, Providers};
use crate::model::domain::rank;
use crate::model::name::OTHER;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// An answer is kept for its TTL, within these bounds.
pub const TTL_MIN: Duration = Duration::from_secs(300);
pub const TTL_MAX: Duration = Duration::from_secs(86_400);
/// After this many failures in a row nobody asks for [`REST_MS_MIN`], doubling up to [`REST_MS_MAX`].
pub const FAILURES_MAX: u32 = 3;
pub const REST_MS_MIN: i64 = 5_000;
pub const REST_MS_MAX: i64 = 300_000;
/// Domains that are remembered.
const REMEMBERED_MAX: usize = 100_000;

/// The port to DNS.
#[async_trait::async_trait]
pub trait MxLookup: Send + Sync + 'static {
    /// The mail exchangers of a domain. A domain that does not exist, has none, or accepts no mail has no hosts.
    async fn exchangers(&self, domain: &str) -> Result<Exchangers, MxError>;
}

/// What DNS says about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchangers {
    /// Preference and name; lower case, without a final dot.
    pub hosts: Vec<(u16, String)>,
    pub ttl: Duration,
}

/// Nobody knows: no answer, or one that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mail exchangers cannot be looked up: {0}")]
pub struct MxError(pub String);

/// Who receives for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Known, `other` included.
    Provider(Arc<str>),
    /// DNS failed: `other` for now, not to be remembered.
    Undecided,
}

impl Found {
    /// The provider that limits count for now.
    pub fn name(&self) -> &str {
        match self {
            Found::Provider(name) => name,
            Found::Undecided => OTHER,
        }
    }
}

/// Finds the provider of a domain.
pub struct Directory {
    providers: Arc<Providers>,
    /// `None`: by domain alone.
    lookup: Option<Arc<dyn MxLookup>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<String, (Arc<str>, i64)>,
    failures: u32,
    rest_until: i64,
}

impl Directory {
    /// Without `lookup`, providers are found by domain alone.
    pub fn new(providers: Arc<Providers>, lookup: Option<Arc<dyn MxLookup>>) -> Directory {
        Directory { providers, lookup, state: Mutex::default() }
    }

    /// The provider of a domain. `now` is the boot clock.
    pub async fn find(&self, domain: &str, now: i64) -> Found {
        let domain = domain.trim_end_matches('.').to_lowercase();
        if let Some(name) = by_domain(&self.providers, &domain) {
            return Found::Provider(name.into());
        }
        let Some(lookup) = &self.lookup else { return Found::Provider(OTHER.into()) };
        if let Some(found) = self.state().recall(&domain, now) {
            return found;
        }
        let answer = lookup.exchangers(&domain).await;
        let mut state = self.state();
        match answer {
            Ok(exchangers) => {
                let name: Arc<str> = by_exchangers(&self.providers, &exchangers.hosts).unwrap_or(OTHER).into();
                state.remember(domain, name.clone(), exchangers.ttl, now);
                Found::Provider(name)
            }
            Err(_) => {
                state.failed(now);
                Found::Undecided
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }
}

impl State {
    /// What is known; `Undecided` while nobody asks; `None` where DNS must be asked.
    fn recall(&self, domain: &str, now: i64) -> Option<Found> {
        match self.known.get(domain) {
            Some((name, until)) if *until > now => Some(Found::Provider(name.clone())),
            _ => (self.rest_until > now).then_some(Found::Undecided),
        }
    }

    fn remember(&mut self, domain: String, name: Arc<str>, ttl: Duration, now: i64) {
        self.failures = 0;
        self.rest_until = now;
        if self.known.len() >= REMEMBERED_MAX {
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(domain, (name, now + ttl.clamp(TTL_MIN, TTL_MAX).as_millis() as i64));
    }

    fn failed(&mut self, now: i64) {
        self.failures = self.failures.saturating_add(1);
        if let Some(rests) = self.failures.checked_sub(FAILURES_MAX)
            && self.rest_until <= now
        {
            self.rest_until = now + REST_MS_MIN.saturating_mul(1 << rests.min(16)).min(REST_MS_MAX);
        }
    }
}

/// Tells settings apart by all that an answer depends on. Where another build makes another number of the same
/// settings, domains are looked up once more than needed.
pub fn fingerprint(providers: &Providers, dns: &Dns) -> i64 {
    let mut hasher = DefaultHasher::new();
    for (name, provider) in &providers.mailbox {
        (name, &provider.domains, &provider.mx_suffixes).hash(&mut hasher);
    }
    (dns.enabled, dns.nameserver).hash(&mut hasher);
    hasher.finish() as i64
}

/// The provider that lists the domain: exactly, or by `*.example.com`, the longest first.
fn by_domain<'a>(providers: &'a Providers, domain: &str) -> Option<&'a str> {
    let best = |patterns: &[String]| patterns.iter().filter_map(|pattern| rank(pattern, domain)).max();
    longest(providers.mailbox.iter().filter_map(|(name, p)| Some((best(&p.domains)?, name.as_str()))))
}

/// The provider of the exchangers that get the mail first: those of the lowest preference.
fn by_exchangers<'a>(providers: &'a Providers, hosts: &[(u16, String)]) -> Option<&'a str> {
    let first = hosts.iter().map(|(preference, _)| *preference).min()?;
    let best: Vec<&str> = hosts.iter().filter(|(preference, _)| *preference == first).map(|(_, host)| host.as_str()).collect();
    let rank = |suffix: &String| best.iter().any(|host| is_within(host, suffix)).then_some(suffix.len());
    longest(providers.mailbox.iter().filter_map(|(name, p)| Some((p.mx_suffixes.iter().filter_map(rank).max()?, name.as_str()))))
}

/// The first of those with the longest match.
fn longest<'a>(matches: impl Iterator<Item = (usize, &'a str)>) -> Option<&'a str> {
    matches.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, name)| name)
}

/// Tells whether a name is this suffix or ends in it behind a dot.
fn is_within(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|left| left.is_empty() || left.ends_with('.'))
}
