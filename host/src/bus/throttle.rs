//! How often a failure that lasts is told: when it begins, once in a while as long as it lasts, and when it is over.
//!
//! Invariant: time is a parameter, and what was kept back is counted.

use std::time::Duration;

/// How often a failure that lasts is told.
const AGAIN: Duration = Duration::from_secs(60);

/// What to say of one thing that fails and works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Nothing: it works as before, or was told not long ago.
    Nothing,
    /// It has begun to fail.
    Began,
    /// It fails still. `suppressed` failures were kept back since the last line.
    Still { since_ms: i64, suppressed: u64 },
    /// It works again. `suppressed` failures were kept back since the last line.
    Over { since_ms: i64, suppressed: u64 },
}

/// Of one thing that fails and works.
#[derive(Debug, Default)]
pub struct Throttle {
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since_ms: i64,
    told_ms: i64,
    last_ms: i64,
    suppressed: u64,
}

impl Throttle {
    /// It failed. `now_ms` is of a clock that never goes back.
    pub fn failed(&mut self, now_ms: i64) -> Say {
        let Some(failing) = &mut self.failing else {
            self.failing = Some(Failing { since_ms: now_ms, told_ms: now_ms, last_ms: now_ms, suppressed: 0 });
            return Say::Began;
        };
        failing.last_ms = now_ms;
        if now_ms - failing.told_ms < AGAIN.as_millis() as i64 {
            failing.suppressed += 1;
            return Say::Nothing;
        }
        failing.told_ms = now_ms;
        Say::Still { since_ms: failing.since_ms, suppressed: std::mem::take(&mut failing.suppressed) }
    }

    /// It worked.
    pub fn worked(&mut self) -> Say {
        match self.failing.take() {
            Some(Failing { since_ms, suppressed, .. }) => Say::Over { since_ms, suppressed },
            None => Say::Nothing,
        }
    }

    /// Since when it fails, and when it did last.
    pub fn failing(&self) -> Option<(i64, i64)> {
        self.failing.as_ref().map(|failing| (failing.since_ms, failing.last_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn a_failure_is_told_when_it_begins_once_a_minute_and_when_it_is_over() {
        let clock = ManualClock::at(0);
        let now = || clock.now().boot_ms;
        let start = now();
        let mut throttle = Throttle::default();
        assert_eq!(throttle.worked(), Say::Nothing);
        assert_eq!(throttle.failed(now()), Say::Began);
        for _ in 0..59 {
            clock.advance(Duration::from_secs(1));
            assert_eq!(throttle.failed(now()), Say::Nothing);
        }
        clock.advance(Duration::from_secs(1));
        assert_eq!(throttle.failed(now()), Say::Still { since_ms: start, suppressed: 59 });
        clock.advance(Duration::from_secs(30));
        assert_eq!(throttle.failed(now()), Say::Nothing);
        assert_eq!(throttle.failing(), Some((start, start + 90_000)));
        assert_eq!(throttle.worked(), Say::Over { since_ms: start, suppressed: 1 });
        assert_eq!(throttle.worked(), Say::Nothing);
        assert_eq!(throttle.failed(now()), Say::Began, "the next failure is told at once");
    }
}
