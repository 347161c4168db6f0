//! What the service measures of its deliveries, for `/metrics`.
//!
//! Invariant: a change counts once it is committed; what counts costs an addition where mail is sent, and one look-up for
//! all changes of a commit that are alike.

use crate::model::delivery::State;
use crate::model::name::OrgName;
use metrics::Counter;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The states that are counted when a delivery comes to them.
const COUNTED: [State; 5] = [State::Sent, State::Deferred, State::Failed, State::Suppressed, State::Unknown];

/// The changes of one commit that are alike together. They are of few organizations, so a list serves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<(String, State, u64)>);

impl Changes {
    /// A delivery of the organization has come to a state.
    pub fn add(&mut self, org: &str, state: State) {
        if !COUNTED.contains(&state) {
            return;
        }
        match self.0.iter_mut().find(|(o, s, _)| o == org && *s == state) {
            Some((_, _, count)) => *count += 1,
            None => self.0.push((org.to_owned(), state, 1)),
        }
    }
}

/// Counts changes by organization and state.
#[derive(Default)]
pub struct Meter(Mutex<HashMap<(String, State), Counter>>);

impl Meter {
    /// Counts what was committed.
    pub fn count(&self, changes: Changes) {
        if changes.0.is_empty() {
            return;
        }
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (org, state, count) in changes.0 {
            counters.entry((org, state)).or_insert_with_key(|(org, state)| counter(org, *state)).increment(count);
        }
    }
}

fn counter(org: &str, state: State) -> Counter {
    metrics::counter!("postwarm_deliveries_total", "organization" => org.to_owned(), "state" => state.as_str())
}

/// Whether a client of an organization fails: 1, or 0 where it works or is gone.
pub fn client_failing(org: &OrgName, client: &str, failing: bool) {
    let labels = [("organization", org.to_string()), ("client", client.to_owned())];
    metrics::gauge!("postwarm_client_failing", &labels).set(f64::from(u8::from(failing)));
}

/// What the database holds that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Deliveries that wait for their first attempt or for the next one.
    pub queued: i64,
    /// Deliveries in the hands of clients.
    pub sending: i64,
    /// Events that are not in the log yet.
    pub outbox: i64,
}

impl Depth {
    pub fn show(self) {
        metrics::gauge!("postwarm_queued_rows").set(self.queued as f64);
        metrics::gauge!("postwarm_sending_rows").set(self.sending as f64);
        metrics::gauge!("postwarm_outbox_rows").set(self.outbox as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_are_alike_are_added_up_and_the_way_to_a_state_is_not_counted() {
        let mut changes = Changes::default();
        for (org, state) in
            [("a", State::Sent), ("b", State::Sent), ("a", State::Sent), ("a", State::Failed), ("a", State::Queued), ("a", State::Sending)]
        {
            changes.add(org, state);
        }
        let wanted = [("a", State::Sent, 2), ("b", State::Sent, 1), ("a", State::Failed, 1)];
        assert_eq!(changes, Changes(wanted.map(|(org, state, count)| (org.to_owned(), state, count)).into()));
    }
}
