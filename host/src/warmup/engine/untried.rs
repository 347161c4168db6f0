//! Messages that came back unsent after their server had begun with them: how often, and when that is an attempt after all.
//!
//! A session that breaks is seldom its message's doing, so the message is soon offered again. One that breaks every session, or
//! a server that breaks each one, would be offered for ever: after some times in a row it counts as refused for now.
//!
//! Invariant: bounded; a restart begins to count anew.

use crate::model::name::DeliveryKey;
use postwarm_plugin_api::{Cause, Outcome};
use std::collections::HashMap;

/// So many times in a row are an attempt.
pub const TIMES_MAX: u8 = 5;
/// Messages that are counted; beyond them the counting begins anew.
const ROWS_MAX: usize = 10_000;

/// How often each message came back in a row.
#[derive(Debug, Default)]
pub struct Untried {
    times: HashMap<DeliveryKey, u8>,
}

impl Untried {
    /// Takes note of an outcome. Tells whether it is to count as an attempt.
    pub fn came_back<E>(&mut self, delivery: DeliveryKey, outcome: &Result<Outcome, E>) -> bool {
        match outcome {
            Ok(Outcome::NotAttempted { cause: Cause::Session | Cause::Disconnected, .. }) => {
                if self.times.len() >= ROWS_MAX && !self.times.contains_key(&delivery) {
                    self.times.clear();
                }
                let times = self.times.entry(delivery).or_default();
                *times += 1;
                let counts = *times >= TIMES_MAX;
                if counts {
                    self.times.remove(&delivery);
                }
                counts
            }
            Ok(Outcome::NotAttempted { .. }) | Err(_) => false,
            Ok(_) => {
                // Nearly always there is nothing to forget.
                if !self.times.is_empty() {
                    self.times.remove(&delivery);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{EmailNumber, OrgId, UserNumber};
    use postwarm_plugin_api::Reply;

    fn came_back(untried: &mut Untried, user: i64, cause: Cause) -> bool {
        untried.came_back::<()>(key(user), &Ok(Outcome::NotAttempted { cause, detail: String::new() }))
    }

    fn key(user: i64) -> DeliveryKey {
        DeliveryKey { org: OrgId(1), email: EmailNumber(1), user: UserNumber(user) }
    }

    #[test]
    fn the_fifth_broken_session_in_a_row_is_an_attempt_and_then_it_begins_anew() {
        let mut untried = Untried::default();
        for _ in 0..2 {
            for cause in [Cause::Session, Cause::Disconnected, Cause::Session, Cause::Disconnected] {
                assert!(!came_back(&mut untried, 1, cause));
            }
            assert!(!came_back(&mut untried, 2, Cause::Connect), "no server has begun with it");
            assert!(came_back(&mut untried, 1, Cause::Session));
        }
    }

    #[test]
    fn a_reply_between_begins_anew_and_memory_is_bounded() {
        let mut untried = Untried::default();
        (1..TIMES_MAX).for_each(|_| assert!(!came_back(&mut untried, 1, Cause::Session)));
        let reply = Reply { code: 250, enhanced: None, text: String::new() };
        assert!(!untried.came_back::<()>(key(1), &Ok(Outcome::Accepted(reply))));
        assert!(!came_back(&mut untried, 1, Cause::Session));
        (0..2 * ROWS_MAX as i64).for_each(|user| assert!(!came_back(&mut untried, user, Cause::Session)));
        assert!(untried.times.len() <= ROWS_MAX);
    }
}
