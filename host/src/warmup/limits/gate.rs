//! The windows of one scope and the slots that are out.
//!
//! A window that is not configured, or not yet, is lifted: it lets any number through and counts on, for when it is configured,
//! until nothing lies within it. What is out is stored with what was recorded, so that a kill counts it even where nobody knows
//! any more what it belonged to.
//!
//! Invariant: for every window, what is out and what was recorded within it never exceed its maximum, but for slots that were
//! out before the maximum was lowered; a longer window knows all that a shorter one does.

use super::allowance::Allowance;
use super::rolling::{Bucket, Rolling};
use crate::clock::Now;
use crate::config::settings::Window;
use crate::warmup::store::{STILL_OUT, Usage};
use std::time::Duration;

/// More than any maximum: a window that is spent is so under another maximum too.
const SPENT: u64 = 1 << 60;

/// The limit of one scope. Without windows it is always open.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    windows: Vec<Rolling>,
    in_flight: u64,
    /// Something may have to be written.
    changed: bool,
    /// Rows of the store under names that no longer hold.
    forgotten: Vec<Usage>,
    /// What the store says is out: how much, and in the row of which length.
    out_stored: Option<(i64, u64)>,
}

impl Gate {
    /// Tells whether something may have to be written.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Takes `n` slots. The caller has asked [`Gate::tightest`] at the same time.
    pub fn take(&mut self, n: u64) {
        self.changed = true;
        self.in_flight = self.in_flight.saturating_add(n);
    }

    /// Records the outcomes of `n` slots: each comes free one window from now.
    pub fn settle(&mut self, now_boot_ms: i64, n: u64) {
        self.give_back(n);
        for window in &mut self.windows {
            window.expire(now_boot_ms);
            window.record(now_boot_ms, n);
        }
    }

    /// Frees `n` slots at once: their messages were certainly not attempted.
    pub fn give_back(&mut self, n: u64) {
        self.changed = true;
        self.in_flight = self.in_flight.saturating_sub(n);
    }

    /// When at least one slot comes free: now where one is, `None` where only an outcome can free one.
    pub fn next_at(&mut self, now_boot_ms: i64) -> Option<i64> {
        let in_flight = self.in_flight;
        let mut latest = now_boot_ms;
        for window in self.limiting() {
            latest = latest.max(window.next_at(now_boot_ms, in_flight)?);
        }
        Some(latest)
    }

    /// The window without a free slot that frees one last, and when; `None` in place of the time where only an outcome can.
    pub fn waits(&mut self, now_boot_ms: i64) -> Option<(Window, Option<i64>)> {
        let in_flight = self.in_flight;
        let shut = self.limiting().filter_map(|w| {
            let at = w.next_at(now_boot_ms, in_flight);
            at.is_none_or(|at| at > now_boot_ms).then_some((w.window, at))
        });
        shut.max_by_key(|(window, at)| (at.unwrap_or(i64::MAX), window.per))
    }

    /// What each window allows from now on.
    pub fn allowances(&mut self, now_boot_ms: i64) -> impl Iterator<Item = Allowance> {
        let in_flight = self.in_flight;
        self.limiting().map(move |window| window.allowance(now_boot_ms, in_flight))
    }

    /// The window that allows least now, with what it allows.
    pub fn tightest(&mut self, now_boot_ms: i64) -> Option<(u64, Window)> {
        let in_flight = self.in_flight;
        self.limiting().map(|w| (w.available(now_boot_ms, in_flight), w.window)).min_by_key(|(n, w)| (*n, std::cmp::Reverse(w.per)))
    }

    fn limiting(&mut self) -> impl Iterator<Item = &mut Rolling> {
        self.windows.iter_mut().filter(|window| !window.is_lifted())
    }

    /// Replaces the windows and keeps the counts: those that go are lifted, and one of a new length takes over what the next
    /// longer one has counted, else what the longest has. New windows of up to a second start spent.
    pub fn configure(&mut self, windows: &[Window], now: Now, scope: &str, boot_id: &str) {
        self.changed = true;
        let before = std::mem::take(&mut self.windows);
        for window in strictest(windows) {
            let next = match before.iter().find(|b| b.window.per == window.per) {
                Some(same) => same.with_maximum(window.messages),
                None => fresh(window, &before, now.boot_ms),
            };
            self.windows.push(next);
        }
        for gone in before {
            if self.windows.iter().all(|w| w.window.per != gone.window.per) {
                self.windows.push(gone.lifted());
            }
        }
        self.drop_aged_out(now, scope, boot_id);
    }

    /// Adds what an earlier process stored: by the boot clock within one boot, else by the wall clock, where a bucket of the
    /// future counts as now. What it had out, at most `in_doubt_max`, counts as recorded now.
    pub fn restore(&mut self, stored: &[Usage], in_doubt_max: u64, now: Now, boot_id: &str) {
        self.changed = true;
        let (mut earlier, mut out) = (Vec::<Rolling>::new(), 0_u64);
        for row in stored {
            let per = Duration::from_millis(u64::try_from(row.per_ms).unwrap_or(1).max(1));
            if earlier.iter().all(|w| w.window.per != per) {
                earlier.push(Rolling::unlimited(per));
            }
            let window = earlier.iter_mut().find(|w| w.window.per == per).expect("it was pushed above");
            let count = u64::try_from(row.count).unwrap_or(0);
            let same_boot = row.boot_id == boot_id;
            let start_ms = match same_boot {
                true => row.bucket_ms.min(now.boot_ms),
                false => now.boot_ms.saturating_sub(now.wall_ms.saturating_sub(row.bucket_wall_ms).max(0)),
            };
            // A bucket that was moved to this boot gets a row of this boot; the old row goes in the same commit.
            let kept = start_ms == row.bucket_ms && same_boot;
            if !kept {
                self.forgotten.push(Usage { count: 0, ..row.clone() });
            }
            match row.bucket_ms {
                STILL_OUT => out = out.saturating_add(count),
                _ => window.add(Bucket { start_ms, count, dirty: !kept, stored: kept }),
            }
        }
        self.windows = united(&self.windows, earlier, now.boot_ms);
        for window in &mut self.windows {
            window.expire(now.boot_ms);
            window.record(now.boot_ms, out.min(in_doubt_max));
        }
        self.drop_aged_out(now, stored.first().map_or("", |row| row.scope.as_str()), boot_id);
    }

    /// Forgets lifted windows that nothing lies within or may come to.
    fn drop_aged_out(&mut self, now: Now, scope: &str, boot_id: &str) {
        if self.in_flight > 0 {
            return;
        }
        self.windows.iter_mut().for_each(|window| window.expire(now.boot_ms));
        for gone in self.windows.extract_if(.., |window| window.is_lifted() && window.buckets.is_empty()) {
            let rows = gone.expired.iter().map(|start_ms| usage(scope, gone.per_ms(), *start_ms, 0, now, boot_id));
            self.forgotten.extend(rows);
        }
    }

    /// The rows that changed since the last call: those to delete first (count 0), then those to write.
    pub fn dirty(&mut self, scope: &str, now: Now, boot_id: &str) -> Vec<Usage> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let mut rows = std::mem::take(&mut self.forgotten);
        for window in &mut self.windows {
            window.expire(now.boot_ms);
            let per_ms = window.per_ms();
            rows.extend(window.expired.drain(..).map(|start_ms| usage(scope, per_ms, start_ms, 0, now, boot_id)));
        }
        for window in self.windows.iter_mut().filter(|w| w.is_stored()) {
            let per_ms = window.per_ms();
            for bucket in window.buckets.iter_mut().filter(|b| b.dirty) {
                bucket.dirty = false;
                bucket.stored = true;
                rows.push(usage(scope, per_ms, bucket.start_ms, bucket.count, now, boot_id));
            }
        }
        self.note_out(&mut rows, scope, boot_id);
        rows
    }

    /// Adds the row that says what is out, where that changed; the longest window has it, as every other can derive from it.
    fn note_out(&mut self, rows: &mut Vec<Usage>, scope: &str, boot_id: &str) {
        let longest = self.windows.iter().filter(|w| w.is_stored()).map(Rolling::per_ms).max();
        let out = longest.filter(|_| self.in_flight > 0).map(|per_ms| (per_ms, self.in_flight));
        let before = std::mem::replace(&mut self.out_stored, out);
        if before == out {
            return;
        }
        let gone = before.filter(|(per_ms, _)| out.is_none_or(|(now, _)| now != *per_ms)).map(|(per_ms, _)| (per_ms, 0));
        rows.extend(gone.into_iter().chain(out).map(|(per_ms, count)| Usage {
            scope: scope.to_owned(),
            per_ms,
            bucket_ms: STILL_OUT,
            bucket_wall_ms: STILL_OUT,
            boot_id: boot_id.to_owned(),
            count: i64::try_from(count).unwrap_or(i64::MAX),
        }));
    }
}

/// What two sets of windows have counted between them, of every length that one of them has; the maxima are those of `own`.
fn united(own: &[Rolling], others: Vec<Rolling>, now_boot_ms: i64) -> Vec<Rolling> {
    let mut united = Vec::with_capacity(own.len() + others.len());
    for window in own {
        let mut window = window.clone();
        match others.iter().find(|o| o.window.per == window.window.per) {
            Some(same) => same.buckets.iter().for_each(|bucket| window.add(*bucket)),
            None => window.derive_from(&others, now_boot_ms),
        }
        united.push(window);
    }
    for mut window in others {
        if own.iter().all(|o| o.window.per != window.window.per) {
            window.derive_from(own, now_boot_ms);
            united.push(window);
        }
    }
    united
}

fn usage(scope: &str, per_ms: i64, bucket_ms: i64, count: u64, now: Now, boot_id: &str) -> Usage {
    Usage {
        scope: scope.to_owned(),
        per_ms,
        bucket_ms,
        bucket_wall_ms: now.wall_ms.saturating_sub(now.boot_ms.saturating_sub(bucket_ms)),
        boot_id: boot_id.to_owned(),
        count: i64::try_from(count).unwrap_or(i64::MAX),
    }
}

/// A window of a new length. A short one starts spent, as nobody knows what was sent just before a start.
fn fresh(window: Window, others: &[Rolling], now_boot_ms: i64) -> Rolling {
    let mut rolling = Rolling::new(window);
    match rolling.is_stored() {
        true => rolling.derive_from(others, now_boot_ms),
        false => rolling.record(now_boot_ms, SPENT),
    }
    rolling
}

/// One window for each length: the least that any of that length allows.
fn strictest(windows: &[Window]) -> Vec<Window> {
    let mut kept: Vec<Window> = Vec::with_capacity(windows.len());
    for window in windows {
        match kept.iter_mut().find(|k| k.per == window.per) {
            Some(same) => same.messages = same.messages.min(window.messages),
            None => kept.push(*window),
        }
    }
    kept
}
