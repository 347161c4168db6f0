//! The windows of one scope and the slots that are out.
//!
//! Invariant: for every window, what is out and what was recorded within it never exceed its maximum, but for slots that were
//! out before the maximum was lowered.

use super::allowance::Allowance;
use super::rolling::{Bucket, Rolling};
use crate::clock::Now;
use crate::config::settings::Window;
use crate::warmup::store::Usage;
use std::time::Duration;

/// The limit of one scope.
#[derive(Debug, Clone)]
pub struct Gate {
    windows: Vec<Rolling>,
    in_flight: u64,
    /// Something may have to be written.
    changed: bool,
    /// Rows of the store under names that no longer hold.
    forgotten: Vec<Usage>,
}

impl Gate {
    /// A gate that has counted nothing; windows of up to a second start spent. Without windows it is always open.
    pub fn new(windows: &[Window], now_boot_ms: i64) -> Gate {
        let mut gate = Gate { windows: Vec::new(), in_flight: 0, changed: false, forgotten: Vec::new() };
        gate.windows = strictest(windows).into_iter().map(|w| fresh(w, now_boot_ms)).collect();
        gate
    }

    /// Takes `n` slots. The caller has asked [`Gate::tightest`] at the same time.
    pub fn take(&mut self, n: u64) {
        self.in_flight = self.in_flight.saturating_add(n);
    }

    /// Records the outcomes of `n` slots: each comes free one window from now.
    pub fn settle(&mut self, now_boot_ms: i64, n: u64) {
        self.give_back(n);
        self.count(now_boot_ms, n);
    }

    /// Frees `n` slots at once: their messages were certainly not attempted.
    pub fn give_back(&mut self, n: u64) {
        self.in_flight = self.in_flight.saturating_sub(n);
    }

    /// Counts `n` messages that an earlier process left in doubt, as if their outcomes were recorded now.
    pub fn count(&mut self, now_boot_ms: i64, n: u64) {
        self.changed = true;
        for window in &mut self.windows {
            window.expire(now_boot_ms);
            window.record(now_boot_ms, n);
        }
    }

    /// When at least one slot comes free: now where one is, `None` where only an outcome can free one.
    pub fn next_at(&mut self, now_boot_ms: i64) -> Option<i64> {
        let in_flight = self.in_flight;
        let mut latest = now_boot_ms;
        for window in &mut self.windows {
            latest = latest.max(window.next_at(now_boot_ms, in_flight)?);
        }
        Some(latest)
    }

    /// The window without a free slot that frees one last, and when; `None` in place of the time where only an outcome can.
    pub fn waits(&mut self, now_boot_ms: i64) -> Option<(Window, Option<i64>)> {
        let in_flight = self.in_flight;
        let shut = self.windows.iter_mut().filter_map(|w| {
            let at = w.next_at(now_boot_ms, in_flight);
            at.is_none_or(|at| at > now_boot_ms).then_some((w.window, at))
        });
        shut.max_by_key(|(window, at)| (at.unwrap_or(i64::MAX), window.per))
    }

    /// What each window allows from now on.
    pub fn allowances(&mut self, now_boot_ms: i64) -> impl Iterator<Item = Allowance> {
        let in_flight = self.in_flight;
        self.windows.iter_mut().map(move |window| window.allowance(now_boot_ms, in_flight))
    }

    /// The window that allows least now, with what it allows.
    pub fn tightest(&mut self, now_boot_ms: i64) -> Option<(u64, Window)> {
        let in_flight = self.in_flight;
        self.windows.iter_mut().map(|w| (w.available(now_boot_ms, in_flight), w.window)).min_by_key(|(n, w)| (*n, std::cmp::Reverse(w.per)))
    }

    /// The windows as they are configured.
    pub fn windows(&self) -> Vec<Window> {
        self.windows.iter().map(|w| w.window).collect()
    }

    /// Lets any number through and goes on counting.
    pub fn lift(&mut self) {
        for window in &mut self.windows {
            window.window.messages = u64::MAX;
        }
    }

    /// Replaces the windows and keeps the counts. A window of a new length takes over what the next longer one has counted, else
    /// what the longest has.
    pub fn replace_windows(&mut self, windows: &[Window], now: Now, scope: &str, boot_id: &str) {
        let old = std::mem::take(&mut self.windows);
        for window in strictest(windows) {
            if let Some(same) = old.iter().find(|o| o.window.per == window.per) {
                self.windows.push(same.with_maximum(window.messages));
                continue;
            }
            let longer = old.iter().filter(|o| o.window.per > window.per).min_by_key(|o| o.window.per);
            let next = match longer.or_else(|| old.iter().max_by_key(|o| o.window.per)) {
                Some(known) => {
                    let mut next = Rolling::new(window);
                    next.derive(known, now.boot_ms);
                    next
                }
                None => fresh(window, now.boot_ms),
            };
            self.windows.push(next);
        }
        for gone in old.iter().filter(|o| self.windows.iter().all(|w| w.window.per != o.window.per)) {
            let stored = gone.buckets.iter().filter(|b| b.stored).map(|b| b.start_ms).chain(gone.expired.iter().copied());
            self.forgotten.extend(stored.map(|start_ms| usage(scope, gone.per_ms(), start_ms, 0, now, boot_id)));
        }
        self.changed = true;
    }

    /// Takes back what an earlier process stored: by the boot clock within one boot, else by the wall clock, where a bucket of
    /// the future counts as now. Then the windows are `configured`.
    pub fn restore(&mut self, stored: &[Usage], configured: &[Window], now: Now, boot_id: &str) {
        // A configured length that was not stored is derived below from one that was.
        self.windows.retain(|w| !w.is_stored() || !w.buckets.is_empty());
        for row in stored {
            let per = Duration::from_millis(u64::try_from(row.per_ms).unwrap_or(1).max(1));
            if self.windows.iter().all(|w| w.window.per != per) {
                self.windows.push(Rolling::new(Window { messages: u64::MAX, per }));
            }
            let window = self.windows.iter_mut().find(|w| w.window.per == per).expect("it was pushed above");
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
            window.add(Bucket { start_ms, count: u64::try_from(row.count).unwrap_or(0), dirty: !kept, stored: kept });
        }
        for window in &mut self.windows {
            window.expire(now.boot_ms);
        }
        let scope = stored.first().map_or("", |row| row.scope.as_str());
        self.replace_windows(configured, now, scope, boot_id);
        self.changed = true;
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
        rows
    }
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

/// A window that has counted nothing; a short one starts spent, as nobody knows what was sent just before.
fn fresh(window: Window, now_boot_ms: i64) -> Rolling {
    let mut rolling = Rolling::new(window);
    if !rolling.is_stored() {
        rolling.record(now_boot_ms, window.messages);
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
