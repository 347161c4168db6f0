//! How fast a client answers, and so how many rows may be claimed for it ahead of its calls.
//!
//! A commit of few rows costs nearly what one of many does. Rows that wait, claimed, for a call to end let a fast client go on
//! while the next commit gathers; a slow client has none, so that a power loss leaves no more unknown than it must.
//!
//! Invariant: pure. Time in which a client has nothing in hand says nothing of it.

/// How many milliseconds of its answers a client has ahead: the wait for enough rows, and some commits.
const AHEAD_MS: usize = 24;
/// A client among many has at least this many rows ahead, where it answers them within a tenth of a second.
const AHEAD_MIN: usize = 62;
const AHEAD_MIN_MS: usize = 100;
/// Over how many milliseconds answers are counted.
const SPAN_MS: i64 = 20;
/// After how many silent milliseconds nothing is known any more of a client that has rows in hand.
const SILENCE_MS: i64 = 100;

/// Answers of a client.
#[derive(Debug, Default)]
pub struct Pace {
    /// Since when the client has had rows in hand, by the boot clock, and how often it has answered since.
    began: i64,
    answers: usize,
    /// The newest answer.
    last: i64,
    /// When the span began.
    since: i64,
    /// Answers in the span.
    count: usize,
    /// What the span before tells.
    ahead: usize,
}

impl Pace {
    /// The client has rows in hand again.
    pub fn begins_again(&mut self, boot_ms: i64) {
        let passed = self.last - self.began;
        // A few rows, answered soon, tell the pace as a whole: the first answer is late by a commit, and perhaps a connection.
        if self.answers > 0 && passed <= SILENCE_MS {
            self.ahead = ahead(self.answers, passed);
        }
        (self.began, self.answers, self.since, self.count) = (boot_ms, 0, boot_ms, 0);
    }

    /// The client has answered for its server.
    pub fn answered(&mut self, boot_ms: i64) {
        let passed = boot_ms - self.since;
        if passed >= SPAN_MS && self.count > 0 {
            self.ahead = ahead(self.count, passed);
            (self.since, self.count) = (boot_ms, 0);
        }
        self.count += 1;
        self.answers += 1;
        self.last = boot_ms;
    }

    /// How many rows may be claimed beyond what the client can have in its calls.
    pub fn ahead(&self, boot_ms: i64, is_busy: bool) -> usize {
        if is_busy && boot_ms - self.since > SILENCE_MS { 0 } else { self.ahead }
    }
}

fn ahead(count: usize, passed: i64) -> usize {
    let passed = usize::try_from(passed).unwrap_or(usize::MAX).max(1);
    let within = |ms: usize| count.saturating_mul(ms) / passed;
    within(AHEAD_MS).max(within(AHEAD_MIN_MS).min(AHEAD_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `each` answers a millisecond.
    fn steadily(pace: &mut Pace, from: i64, to: i64, each: usize) {
        (from..to).flat_map(|ms| std::iter::repeat_n(ms, each)).for_each(|ms| pace.answered(ms));
    }

    #[test]
    fn a_fast_client_has_twenty_four_milliseconds_ahead_and_a_slow_or_silent_one_nothing() {
        let mut pace = Pace::default();
        pace.begins_again(1_000);
        assert_eq!(pace.ahead(1_000, true), 0, "nothing is known yet");
        steadily(&mut pace, 1_000, 1_060, 5);
        assert_eq!(pace.ahead(1_060, true), 120);
        assert_eq!(pace.ahead(1_060 + SILENCE_MS, true), 0);
        (4_000..9_000).step_by(150).for_each(|ms| pace.answered(ms));
        assert_eq!(pace.ahead(9_000, true), 0);
    }

    #[test]
    fn one_of_many_clients_has_a_tenth_of_a_second_ahead_up_to_a_number() {
        let mut pace = Pace::default();
        pace.begins_again(0);
        (0..400).step_by(4).for_each(|ms| pace.answered(ms));
        assert_eq!(pace.ahead(400, true), 25, "four milliseconds each");
        steadily(&mut pace, 400, 440, 1);
        assert_eq!(pace.ahead(440, true), AHEAD_MIN);
    }

    #[test]
    fn a_few_rows_at_a_time_show_the_pace_too_and_the_time_between_them_does_not_count() {
        let mut pace = Pace::default();
        for began in [0, 10_000, 20_000] {
            pace.begins_again(began);
            [began + 3, began + 4].into_iter().for_each(|ms| pace.answered(ms));
        }
        assert_eq!(pace.ahead(60_000, false), 50, "two in four milliseconds");
        // The first answer comes late, the others at once; so does a part that is larger then.
        for (began, rows, ahead) in [(65_000, 2, 6), (66_000, 8, 25), (67_000, 27, AHEAD_MIN)] {
            pace.begins_again(began);
            std::iter::repeat_n(began + 31, rows).for_each(|ms| pace.answered(ms));
            pace.begins_again(began + 31);
            assert_eq!(pace.ahead(began + 31, true), ahead);
        }
        // Fourteen at once, but after a second.
        pace.begins_again(70_000);
        std::iter::repeat_n(71_000, 14).for_each(|ms| pace.answered(ms));
        pace.begins_again(71_000);
        assert_eq!(pace.ahead(71_000, true), 0);
    }
}
