//! One rolling window: what was recorded in it, in buckets that expire one whole window after their end.
//!
//! Invariant: `sum` is the sum of the buckets; buckets are in the order of their start; a slot recorded at `t` never comes free
//! before `t` plus the window, so nobody who received the message earlier can count more than the window allows.

use super::allowance::Allowance;
use crate::config::settings::Window;
use std::collections::VecDeque;
use std::time::Duration;

/// A window is counted in about this many buckets: it is under-used by less than one part in this.
const BUCKETS: i64 = 128;

/// Windows up to this long are not stored: after a restart they start spent.
const SPENT_PER_MS_MAX: i64 = 1_000;

/// The maximum of a window that lets any number through; nobody can configure it.
const LIFTED: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    pub start_ms: i64,
    pub count: u64,
    /// Changed since it was last written.
    pub dirty: bool,
    /// The store has a row for it.
    pub stored: bool,
}

/// The count of one window, by the boot clock.
#[derive(Debug, Clone)]
pub(super) struct Rolling {
    pub window: Window,
    pub buckets: VecDeque<Bucket>,
    sum: u64,
    /// Starts of stored buckets that have expired: the store deletes them.
    pub expired: Vec<i64>,
}

impl Rolling {
    pub fn new(window: Window) -> Rolling {
        Rolling { window, buckets: VecDeque::new(), sum: 0, expired: Vec::new() }
    }

    /// A window that only counts.
    pub fn unlimited(per: Duration) -> Rolling {
        Rolling::new(Window { messages: LIFTED, per })
    }

    /// Lets any number through from now on, and counts on.
    pub fn lifted(self) -> Rolling {
        Rolling { window: Window { messages: LIFTED, ..self.window }, ..self }
    }

    pub fn is_lifted(&self) -> bool {
        self.window.messages == LIFTED
    }

    /// The same counts under another maximum.
    pub fn with_maximum(&self, messages: u64) -> Rolling {
        Rolling { window: Window { messages, ..self.window }, ..self.clone() }
    }

    pub fn per_ms(&self) -> i64 {
        i64::try_from(self.window.per.as_millis()).unwrap_or(i64::MAX / 4).clamp(1, i64::MAX / 4)
    }

    pub fn is_stored(&self) -> bool {
        self.per_ms() > SPENT_PER_MS_MAX
    }

    /// The length of a bucket: at least the clock's resolution.
    pub fn width_ms(&self) -> i64 {
        (self.per_ms() / BUCKETS).max(1)
    }

    /// Counts `count` slots that were recorded at `now`.
    pub fn record(&mut self, now: i64, count: u64) {
        let start = now.div_euclid(self.width_ms()) * self.width_ms();
        // A bucket that was restored off the grid may start later than that and still cover `now`.
        let start = self.buckets.back().map_or(start, |last| last.start_ms.max(start));
        self.add(Bucket { start_ms: start, count, dirty: true, stored: false });
    }

    /// Adds a bucket in its place, or to the one that starts with it.
    pub fn add(&mut self, bucket: Bucket) {
        if bucket.count == 0 {
            return;
        }
        self.sum = self.sum.saturating_add(bucket.count);
        let at = self.buckets.iter().rposition(|b| b.start_ms <= bucket.start_ms);
        match at.map(|at| (at, &mut self.buckets[at])) {
            Some((_, there)) if there.start_ms == bucket.start_ms => {
                there.count = there.count.saturating_add(bucket.count);
                there.dirty = true;
                there.stored |= bucket.stored;
            }
            Some((at, _)) => self.buckets.insert(at + 1, bucket),
            None => self.buckets.push_front(bucket),
        }
    }

    /// When the slots of a bucket come free.
    pub fn free_at(&self, start_ms: i64) -> i64 {
        start_ms.saturating_add(self.width_ms()).saturating_add(self.per_ms())
    }

    /// Drops what has come free by `now`.
    pub fn expire(&mut self, now: i64) {
        while let Some(first) = self.buckets.front().copied() {
            if self.free_at(first.start_ms) > now {
                break;
            }
            self.buckets.pop_front();
            self.sum -= first.count.min(self.sum);
            if first.stored {
                self.expired.push(first.start_ms);
            }
        }
    }

    /// The slots that are free now, `in_flight` being out.
    pub fn available(&mut self, now: i64, in_flight: u64) -> u64 {
        self.expire(now);
        self.window.messages.saturating_sub(self.sum).saturating_sub(in_flight)
    }

    /// When a slot comes free: `now` where one is, `None` where only an outcome can free one.
    pub fn next_at(&mut self, now: i64, in_flight: u64) -> Option<i64> {
        if self.available(now, in_flight) > 0 {
            return Some(now);
        }
        let mut excess = self.sum.saturating_add(in_flight).saturating_sub(self.window.messages).saturating_add(1);
        for bucket in &self.buckets {
            excess = excess.saturating_sub(bucket.count);
            if excess == 0 {
                return (self.window.messages > 0).then(|| self.free_at(bucket.start_ms));
            }
        }
        None
    }

    /// What it allows from now on, `in_flight` being out: these come free a whole window from now at the earliest.
    pub fn allowance(&mut self, now: i64, in_flight: u64) -> Allowance {
        let mut slots = vec![(now, self.available(now, in_flight))];
        // A maximum that was lowered: so many must come free before one counts.
        let mut excess = self.sum.saturating_add(in_flight).saturating_sub(self.window.messages);
        for bucket in &self.buckets {
            let gone = excess.min(bucket.count);
            excess -= gone;
            slots.push((self.free_at(bucket.start_ms), bucket.count - gone));
        }
        slots.push((now.saturating_add(self.per_ms()), in_flight.saturating_sub(excess)));
        slots.retain(|(_, n)| *n > 0);
        slots.sort_unstable();
        Allowance { per_ms: self.per_ms(), slots }
    }

    /// Takes over what the next longer of these stored windows has counted within this one's length, else what the longest has. Never
    /// earlier than it was recorded.
    pub fn derive_from(&mut self, others: &[Rolling], now: i64) {
        let stored = || others.iter().filter(|other| other.is_stored());
        let longer = stored().filter(|other| other.window.per > self.window.per).min_by_key(|other| other.window.per);
        let Some(known) = longer.or_else(|| stored().max_by_key(|other| other.window.per)) else { return };
        for bucket in &known.buckets {
            let last = bucket.start_ms.saturating_add(known.width_ms() - 1).min(now);
            self.record(last, bucket.count);
        }
        self.expire(now);
    }
}
