//! When a refused message is tried again.
//!
//! Invariant: pure; the clock and the randomness are parameters. No wait is shorter than the server asked for, unless it asked for
//! more than the whole time that the organization gives a message. A wall clock that jumps makes a message older by
//! one wait of its schedule at most.

use crate::config::settings::Retry;
use std::time::Duration;

/// The wait where the schedule is empty.
const WAIT_WITHOUT_SCHEDULE: Duration = Duration::from_secs(60);

/// One refusal for now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refusal {
    /// Attempts so far, the refused one included; counts from 1.
    pub attempt: i64,
    /// What the reply asked for.
    pub retry_after: Option<Duration>,
    /// Milliseconds since 1970 UTC.
    pub queued_at: i64,
    /// For how many milliseconds this process has seen no jump of the wall clock.
    pub steady_ms: i64,
}

/// When the message is tried again, in milliseconds since 1970 UTC. `None`: it is given up.
///
/// `jitter_unit` is random, from 0 up to 1: one half gives the schedule's own wait.
pub fn next_at(retry: &Retry, refusal: Refusal, now: i64, jitter_unit: f64) -> Option<i64> {
    if waited_ms(retry, refusal, now) >= millis(retry.give_up_after) {
        return None;
    }
    let waits_before = waits_before(refusal);
    let scheduled = retry.schedule.get(waits_before).copied().unwrap_or(last_wait(retry));
    let varied = scheduled.as_secs_f64() * (1.0 + retry.jitter.clamp(0.0, 1.0) * (2.0 * jitter_unit.clamp(0.0, 1.0) - 1.0));
    let asked = refusal.retry_after.unwrap_or_default().min(retry.give_up_after);
    let wait = ((varied * 1000.0) as i64).max(millis(asked)).max(1);
    Some(now.saturating_add(wait))
}

/// How long a message has waited for certain: as long as the wall clock says, where that much is accounted for. Two things account
/// for it: the waits of the schedule before this attempt, whatever was restarted meanwhile; and this process, which saw the time
/// pass, where attempts come more seldom than the schedule has them. A forward jump cuts one wait short, which counts in full.
fn waited_ms(retry: &Retry, refusal: Refusal, now: i64) -> i64 {
    let by_clock = now.saturating_sub(refusal.queued_at);
    let waits = waits_before(refusal);
    let listed: Duration = retry.schedule.iter().take(waits).sum();
    let repeated = waits.saturating_sub(retry.schedule.len());
    let by_schedule = millis(listed).saturating_add(millis(last_wait(retry)).saturating_mul(repeated as i64));
    if by_clock < 0 {
        // It was queued while the clock was fast.
        return by_schedule;
    }
    by_clock.min(by_schedule.max(refusal.steady_ms))
}

fn waits_before(refusal: Refusal) -> usize {
    usize::try_from(refusal.attempt.saturating_sub(1)).unwrap_or(0)
}

fn last_wait(retry: &Retry) -> Duration {
    retry.schedule.last().copied().unwrap_or(WAIT_WITHOUT_SCHEDULE)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn retry() -> Retry {
        let schedule = [60, 300, 900].map(Duration::from_secs).to_vec();
        Retry { schedule, give_up_after: Duration::from_secs(3600), jitter: 0.1 }
    }

    fn refusal(attempt: i64) -> Refusal {
        Refusal { attempt, retry_after: None, queued_at: 0, steady_ms: 0 }
    }

    #[test]
    fn the_schedule_is_followed_and_its_last_wait_repeats() {
        let waits = [1, 2, 3, 4, 40].map(|attempt| next_at(&retry(), refusal(attempt), 1_000, 0.5).map(|at| (at - 1_000) / MINUTE));
        assert_eq!(waits, [Some(1), Some(5), Some(15), Some(15), Some(15)]);
    }

    #[test]
    fn a_wait_varies_by_its_part_up_and_down() {
        let at = |unit| next_at(&retry(), refusal(1), 0, unit).expect("not given up");
        assert_eq!((at(0.0), at(1.0)), (54_000, 66_000));
    }

    #[test]
    fn the_replys_own_wait_is_the_least() {
        let asked = |secs| Refusal { retry_after: Some(Duration::from_secs(secs)), ..refusal(1) };
        assert_eq!(next_at(&retry(), asked(600), 0, 0.0), Some(600_000));
        assert_eq!(next_at(&retry(), asked(5), 0, 0.5), Some(MINUTE));
        assert_eq!(next_at(&retry(), asked(u64::MAX), 0, 0.5), Some(60 * MINUTE), "no server can park a message for ever");
    }

    #[test]
    fn a_refusal_after_the_given_time_is_final() {
        assert_eq!(next_at(&retry(), refusal(9), 60 * MINUTE, 0.5), None);
        assert!(next_at(&retry(), refusal(9), 60 * MINUTE - 1, 0.5).is_some());
    }

    #[test]
    fn a_clock_that_was_set_forward_gives_nothing_up() {
        let jumped = 1_000 * 60 * MINUTE;
        assert!(next_at(&retry(), refusal(1), jumped, 0.5).is_some());
        // One, five and three times fifteen minutes were waited, and one more.
        assert!(next_at(&retry(), refusal(6), jumped, 0.5).is_some());
        assert_eq!(next_at(&retry(), refusal(7), jumped, 0.5), None);
    }

    #[test]
    fn a_message_that_is_seldom_tried_is_given_up_once_this_process_has_seen_it_wait() {
        let seen = |minutes| Refusal { steady_ms: minutes * MINUTE, ..refusal(2) };
        assert!(next_at(&retry(), seen(59), 90 * MINUTE, 0.5).is_some());
        assert_eq!(next_at(&retry(), seen(60), 90 * MINUTE, 0.5), None);
        assert!(next_at(&retry(), seen(10_000), 59 * MINUTE, 0.5).is_some(), "it came later than the process began");
    }

    #[test]
    fn a_message_that_was_queued_while_the_clock_was_fast_goes_by_the_schedule() {
        let ahead = |attempt| Refusal { queued_at: 1_000 * 60 * MINUTE, steady_ms: 10_000 * MINUTE, ..refusal(attempt) };
        assert!(next_at(&retry(), ahead(6), 0, 0.5).is_some());
        assert_eq!(next_at(&retry(), ahead(7), 0, 0.5), None);
    }

    #[test]
    fn an_empty_schedule_still_waits() {
        let empty = Retry { schedule: Vec::new(), jitter: 0.0, ..retry() };
        assert_eq!(next_at(&empty, refusal(1), 0, 0.9), Some(MINUTE));
    }
}
