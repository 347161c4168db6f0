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
use postwarm_plugin_api::{Cause, Fault, Outcome, SmtpClient};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a client that is no longer named has for what it has in hand.
const RETIRE_MAX: Duration = Duration::from_secs(600);

/// How often it is told of one client that it fails, in milliseconds; metrics tell each time.
const TELL_AGAIN_MS: i64 = 60_000;

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
    told: Told,
}

/// What the log was told of a client that may fail and work by turns.
#[derive(Default)]
struct Told {
    /// When it was last told that it fails, by the boot clock.
    at: Option<i64>,
    /// It was told that it fails, and not yet that it works again.
    failing: bool,
    /// Failures kept back since.
    suppressed: u64,
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
            told: Told::default(),
        }
    }

    /// How many rows it may have in hand ahead of its calls.
    pub fn ahead(&self, boot_ms: i64) -> usize {
        self.pace.ahead(boot_ms, self.in_hand > 0)
    }

    /// How many more rows it may have in hand: in its calls, and ahead of them.
    pub fn room(&self, boot_ms: i64) -> usize {
        (self.calls.client().in_flight_max() + self.ahead(boot_ms)).saturating_sub(self.in_hand)
    }

    pub fn reserve(&mut self, rows: usize, boot_ms: i64) {
        if self.in_hand == 0 {
            self.heard_at = boot_ms;
            self.pace.begins_again(boot_ms);
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
            self.fails(org, "its server is silent".to_owned(), boot_ms);
            // What none of its connections has begun need not wait for their deadlines, and frees its rows for others.
            self.calls.client().withdraw();
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
            (false, true, Outcome::NotAttempted { cause, detail }) if cause.blames_client() => {
                // Servers repeat recipients in what they say, and this goes to the log and to `waits_for`.
                self.fails(org, without_addresses(detail).into_owned(), boot_ms);
            }
            (false, true, Outcome::NotAttempted { detail, .. }) => {
                let words = format!("several connections in a row broke; the last: {}", without_addresses(detail));
                self.fails(org, words, boot_ms);
            }
            (false, true, Outcome::Unknown { detail, .. }) => {
                let words = format!("several messages in a row had no reply; the last: {}", without_addresses(detail));
                self.fails(org, words, boot_ms);
            }
            (true, false, _) => self.works_again(org),
            _ => {}
        }
    }

    fn fails(&mut self, org: &OrgName, why: String, boot_ms: i64) {
        client_failing(org, &self.name, true);
        self.calls.withdraw("its client fails");
        if self.told.at.is_none_or(|at| boot_ms - at >= TELL_AGAIN_MS) {
            let suppressed = self.told.suppressed;
            tracing::warn!(organization.name = %org, client.name = %self.name, why, suppressed, "a client fails; the next one takes over");
            self.told = Told { at: Some(boot_ms), failing: true, suppressed: 0 };
        } else {
            self.told.suppressed += 1;
        }
        self.last_failure = why;
    }

    fn works_again(&mut self, org: &OrgName) {
        client_failing(org, &self.name, false);
        if std::mem::take(&mut self.told.failing) {
            tracing::info!(organization.name = %org, client.name = %self.name, "a client works again");
        }
    }

    /// Lets a client that is no longer named end its messages and close. It is there until it has.
    pub fn retire(self, org: &OrgName) -> Weak<dyn SmtpClient> {
        client_failing(org, &self.name, false);
        self.calls.withdraw("the client is gone");
        let retired = Arc::downgrade(self.calls.client());
        self.calls.close(RETIRE_MAX);
        retired
    }
}
