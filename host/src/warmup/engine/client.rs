//! One client as it runs: what it has in hand, how it fares, and whether it works.
//!
//! Invariant: what waits for a client that begins to fail comes back at once.

use crate::config::settings::SmtpEntry;
use crate::model::address::without_addresses;
use crate::model::name::OrgName;
use crate::warmup::engine::calls::Calls;
use crate::warmup::engine::hands::ClientNumber;
use crate::warmup::engine::pace::Pace;
use crate::warmup::metrics::client_failing;
use crate::warmup::route::{ClientHealth, Pause};
use postwarm_plugin_api::{Cause, Fault, Outcome};
use std::sync::Arc;
use std::time::Duration;

/// How long a client that is no longer named has for what it has in hand.
const RETIRE_MAX: Duration = Duration::from_secs(600);

/// A client that an organization names, with what is known of it.
pub struct Client {
    pub number: ClientNumber,
    pub name: Arc<str>,
    pub entry: SmtpEntry,
    pub calls: Calls,
    pub health: ClientHealth,
    /// A refusal that blames the account holds at every provider.
    pub pause: Pause,
    pub last_failure: String,
    pace: Pace,
    /// Rows claimed for it, those that wait for a call of it included.
    in_hand: usize,
    /// When it last answered for its server, or got its first row, by the boot clock.
    heard_at: i64,
}

impl Client {
    pub fn new(number: ClientNumber, entry: &SmtpEntry, calls: Calls) -> Client {
        Client {
            number,
            name: entry.name.as_str().into(),
            entry: entry.clone(),
            calls,
            health: ClientHealth::default(),
            pause: Pause::default(),
            last_failure: String::new(),
            pace: Pace::default(),
            in_hand: 0,
            heard_at: 0,
        }
    }

    /// How many more rows it may have in hand: in its calls, and ahead of them.
    pub fn room(&self, boot_ms: i64) -> usize {
        (self.calls.client().in_flight_max() + self.pace.ahead(boot_ms)).saturating_sub(self.in_hand)
    }

    pub fn reserve(&mut self, rows: usize, boot_ms: i64) {
        if self.in_hand == 0 {
            self.heard_at = boot_ms;
        }
        self.in_hand += rows;
    }

    pub fn unreserve(&mut self, rows: usize) {
        self.in_hand = self.in_hand.saturating_sub(rows);
    }

    /// A client with rows in hand that has not answered for too long fails.
    pub fn look_whether_silent(&mut self, org: &OrgName, boot_ms: i64) {
        if self.in_hand > 0 && !self.health.is_failing() && self.health.is_stalled(self.heard_at, boot_ms) {
            self.health.stall(boot_ms);
            tracing::warn!(organization.name = %org, client.name = %self.name, rows = self.in_hand, "a client's server is silent; the next one takes over");
            self.fails(org, "its server is silent".to_owned());
        }
    }

    /// Learns from what became of a message.
    pub fn observe(&mut self, org: &OrgName, outcome: &Outcome, boot_ms: i64) {
        // What a client cannot carry, or has not begun, says nothing of its server.
        if !matches!(outcome, Outcome::NotAttempted { cause: Cause::Unsupported | Cause::Stopping, .. }) {
            self.heard_at = boot_ms;
        }
        if matches!(outcome, Outcome::Deferred { .. } | Outcome::Rejected { .. } | Outcome::Accepted(_)) {
            self.pace.answered(boot_ms);
            self.pause.observe(Fault::Account, outcome, boot_ms);
        }
        let before = self.health.is_failing();
        self.health.observe(outcome, boot_ms);
        match (before, self.health.is_failing(), outcome) {
            (false, true, Outcome::Unknown { detail, .. }) => {
                let detail = without_addresses(detail).into_owned();
                tracing::warn!(organization.name = %org, client.name = %self.name, detail, "a client's messages get no reply; the next one takes over");
                self.fails(org, "several messages in a row had no reply".to_owned());
            }
            (false, true, Outcome::NotAttempted { cause, detail }) => {
                // Servers repeat recipients in what they say, and this goes to the log and to `waits_for`.
                let detail = without_addresses(detail).into_owned();
                tracing::warn!(organization.name = %org, client.name = %self.name, ?cause, detail, "a client fails; the next one takes over");
                self.fails(org, detail);
            }
            (true, false, _) => {
                client_failing(org, &self.name, false);
                tracing::info!(organization.name = %org, client.name = %self.name, "a client works again");
            }
            _ => {}
        }
    }

    fn fails(&mut self, org: &OrgName, words: String) {
        self.last_failure = words;
        client_failing(org, &self.name, true);
        self.calls.withdraw("its client fails");
    }

    /// Lets a client that is no longer named end its messages and close.
    pub fn retire(self, org: &OrgName) {
        client_failing(org, &self.name, false);
        self.calls.withdraw("the client is gone");
        tokio::spawn(async move { self.calls.client().close(RETIRE_MAX).await });
    }
}
