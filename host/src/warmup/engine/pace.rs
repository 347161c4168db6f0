//! How fast a client answers, and so how many rows may be claimed for it ahead of its calls.
//!
//! A commit of few rows costs nearly what one of many does. Rows that wait, claimed, for a call to end let a fast client go on
//! while the next commit gathers; a slow client has none, so that a power loss leaves no more unknown than it must.
//!
//! Invariant: pure.

/// How many milliseconds of its answers a client has ahead: some commits, each with the wait for its rows.
const AHEAD_MS: usize = 12;
/// Over how many milliseconds answers are counted.
const SPAN_MS: i64 = 20;
/// After how many silent milliseconds nothing is known any more.
const SILENCE_MS: i64 = 100;

/// Answers of a client.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the span began, by the boot clock.
    since: i64,
    /// Answers in the span.
    count: usize,
    /// What the span before tells.
    ahead: usize,
}

impl Pace {
    /// The client has answered for its server.
    pub fn answered(&mut self, boot_ms: i64) {
        let passed = boot_ms - self.since;
        if passed >= SPAN_MS {
            self.ahead = self.count * AHEAD_MS / usize::try_from(passed).unwrap_or(usize::MAX);
            (self.since, self.count) = (boot_ms, 0);
        }
        self.count += 1;
    }

    /// How many rows may be claimed beyond what the client can have in its calls.
    pub fn ahead(&self, boot_ms: i64) -> usize {
        if boot_ms - self.since > SILENCE_MS { 0 } else { self.ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_client_has_twelve_milliseconds_ahead_and_a_slow_or_silent_one_nothing() {
        let mut pace = Pace::default();
        assert_eq!(pace.ahead(1_000), 0, "nothing is known yet");
        for at in (1_000..1_060).flat_map(|ms| [ms; 5]) {
            pace.answered(at);
        }
        assert_eq!(pace.ahead(1_060), 60);
        assert_eq!(pace.ahead(1_060 + SILENCE_MS), 0);
        for at in (2_000..3_000).step_by(10) {
            pace.answered(at);
        }
        assert_eq!(pace.ahead(3_000), 1);
        for at in (4_000..9_000).step_by(50) {
            pace.answered(at);
        }
        assert_eq!(pace.ahead(9_000), 0);
    }
}
