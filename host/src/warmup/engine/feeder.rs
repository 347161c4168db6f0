//! The feeder: turns audiences and back-fills into rows that are due.
//!
//! Invariant: a lookup that fails never stops it, and changes no provider that is known: a new domain is `other` until it is
//! looked up again.

use crate::clock::Clock;
use crate::model::name::OrgId;
use crate::warmup::store::{BackfillStep, Believed, FanOut, Queue, StoreError};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Rows of one organization in a step; and from how many of all no further organization joins it.
const ROWS: usize = 1_000;
/// Organizations of one step: each is a job of the writer, and the engine's turns wait behind them.
const ORGANIZATIONS: usize = 64;
/// Back-fills of one step.
const BACKFILLS: usize = 500;
/// Lookups that run at a time.
const LOOKUPS: usize = 64;
/// How long a domain's provider is believed, under the same settings.
const BELIEVED_MS: i64 = 24 * 3_600_000;
/// When a failed lookup is tried again.
const UNDECIDED_MS: i64 = 60_000;
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Finds the mailbox provider of a recipient domain.
#[async_trait::async_trait]
pub trait ProviderLookup: Send + Sync + 'static {
    /// Always answers within a bounded time.
    async fn provider(&self, domain: &str, boot_ms: i64) -> Looked;

    /// A fingerprint of the settings that answers come from: what other settings said is looked up again.
    fn settings(&self) -> i64 {
        0
    }
}

/// What a lookup found.
pub struct Looked {
    /// The provider's name, or `other`.
    pub provider: String,
    /// False where the lookup failed: what was known before counts, and it is looked up again soon.
    pub decided: bool,
}

/// What the feeder works with.
pub struct Feeder {
    pub queue: Arc<dyn Queue>,
    pub clock: Arc<dyn Clock>,
    pub lookup: Arc<dyn ProviderLookup>,
    /// Notified by the API when there is something to feed.
    pub wake: Arc<Notify>,
    /// Wakes the engine.
    pub engine: Arc<Notify>,
}

impl Feeder {
    pub async fn run(self, stop: CancellationToken) {
        let mut last = OrgId(0);
        while !stop.is_cancelled() {
            let sleep = match self.step(&mut last).await {
                Ok(Some(sleep)) => sleep,
                Ok(None) => {
                    self.engine.notify_one();
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "fan-out cannot go on; it is tried again");
                    SLEEP_MAX
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.clock.sleep(sleep) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One step of fan-out, of as many organizations as have few recipients to be committed together; and of back-fill when every
    /// organization has had its turn. `last`: the last organization of the step before. `None`: there is more.
    pub(super) async fn step(&self, last: &mut OrgId) -> Result<Option<Duration>, StoreError> {
        let now = self.clock.now().wall_ms;
        // Taken before the lookups: where the settings change meanwhile, what they found counts as found with the old ones.
        let believed = Believed { checked_after: now - BELIEVED_MS, settings: self.lookup.settings() };
        let (steps, all_had_a_turn) = self.next_steps(last, believed).await?;
        if !steps.is_empty() {
            let unknown: BTreeSet<String> = steps.iter().flat_map(|step| step.unknown_domains.iter().cloned()).collect();
            self.look_up(unknown.into_iter().collect(), believed.settings).await?;
            // At once, so that they share commits.
            try_join_all(steps.iter().map(|step| self.queue.fan_out(step.org, step.email, ROWS, now))).await?;
            if all_had_a_turn {
                self.back_fill(believed, now).await?;
            }
            return Ok(None);
        }
        let step = self.back_fill(believed, now).await?;
        if step.started > 0 {
            return Ok(None);
        }
        let wait = step.next_at.map_or(SLEEP_MAX, |at| Duration::from_millis((at - now).max(1) as u64));
        Ok(Some(wait.min(SLEEP_MAX)))
    }

    /// What is fanned out together, and whether every organization has had its turn then.
    async fn next_steps(&self, last: &mut OrgId, believed: Believed) -> Result<(Vec<FanOut>, bool), StoreError> {
        let (mut steps, mut rows, mut all_had_a_turn) = (Vec::<FanOut>::new(), 0, false);
        while rows < ROWS
            && steps.len() < ORGANIZATIONS
            && let Some(next) = self.queue.fan_out_next(*last, ROWS, believed).await?
        {
            let begins_again = next.org <= *last;
            all_had_a_turn |= begins_again;
            // It may be in this step already.
            if begins_again && !steps.is_empty() {
                break;
            }
            *last = next.org;
            rows += next.rows;
            steps.push(next);
        }
        Ok((steps, all_had_a_turn))
    }

    async fn back_fill(&self, believed: Believed, now: i64) -> Result<BackfillStep, StoreError> {
        let domains = self.queue.backfill_domains(BACKFILLS, believed, now).await?;
        self.look_up(domains, believed.settings).await?;
        self.queue.backfill_step(BACKFILLS, now).await
    }

    async fn look_up(&self, domains: Vec<String>, settings: i64) -> Result<(), StoreError> {
        if domains.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let one = |domain: String| async move {
            let looked = self.lookup.provider(&domain, now.boot_ms).await;
            (looked.decided, (domain, looked.provider))
        };
        let found: Vec<_> = futures_util::stream::iter(domains).map(one).buffer_unordered(LOOKUPS).collect().await;
        let (decided, undecided): (Vec<_>, Vec<_>) = found.into_iter().partition(|(decided, _)| *decided);
        let decided = decided.into_iter().map(|(_, pair)| pair).collect();
        self.queue.set_providers(decided, settings, now.wall_ms).await?;
        let undecided = undecided.into_iter().map(|(_, (domain, _))| domain).collect();
        self.queue.set_undecided(undecided, settings, now.wall_ms - BELIEVED_MS + UNDECIDED_MS).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::address::Address;
    use crate::model::email::{Mailbox, NewEmail};
    use crate::model::name::{EmailNumber, OrgName};
    use crate::model::user::NewUser;
    use crate::warmup::sqlite::SqliteStore;
    use crate::warmup::store::Store;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// DNS that knows one provider until it fails.
    #[derive(Default)]
    struct Dns {
        fails: AtomicBool,
    }

    #[async_trait::async_trait]
    impl ProviderLookup for Dns {
        async fn provider(&self, _: &str, _: i64) -> Looked {
            let decided = !self.fails.load(Ordering::Relaxed);
            Looked { provider: if decided { "big" } else { "other" }.to_owned(), decided }
        }
    }

    #[tokio::test]
    async fn who_is_known_to_receive_for_a_domain_still_does_while_dns_fails() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("warmup.db")).unwrap());
        let clock = Arc::new(ManualClock::at(1_764_000_000_000));
        let dns = Arc::new(Dns::default());
        let org = store.organization(&OrgName::parse("acme").unwrap()).await.unwrap();
        let user = NewUser { name: "N".into(), address: Address::parse("a@x.example").unwrap() };
        store.register(org, user, clock.now().wall_ms).await.unwrap();
        let (queue, lookup) = (store.clone(), dns.clone());
        let feeder = Feeder { queue, clock: clock.clone(), lookup, wake: Arc::default(), engine: Arc::default() };
        for (email, fails) in [(1, false), (2, true)] {
            dns.fails.store(fails, Ordering::Relaxed);
            let from = Mailbox { name: None, address: Address::parse("n@acme.example").unwrap() };
            let new = NewEmail { from, reply_to: None, subject: "S".into(), body: "B".into(), html: None, headers: Vec::new() };
            store.accept(org, new, None, clock.now().wall_ms).await.unwrap();
            assert_eq!(feeder.step(&mut OrgId(0)).await.unwrap(), None);
            let waiting = store.waiting(org, EmailNumber(email)).await.unwrap();
            assert_eq!(waiting.iter().map(|lane| lane.provider.as_str()).collect::<Vec<_>>(), ["big"], "DNS fails: {fails}");
            clock.advance(Duration::from_millis(BELIEVED_MS as u64 + 1));
        }
    }
}
