//! Time as a parameter: the wall clock for people, the boot clock for elapsed time.
//!
//! Invariant: this is the only file that reads a clock for a decision. `boot_ms` never goes back and never jumps with
//! the wall clock (CLOCK_BOOTTIME counts suspension too); it compares within one `boot_id` only.

use std::sync::Mutex;
use std::time::Duration;

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970 UTC.
    pub wall_ms: i64,
    /// Milliseconds since boot.
    pub boot_ms: i64,
}

/// A wall clock that is stepped by less is taken for one that was not.
const STEP_MS: i64 = 1_000;

/// Since when the wall clock has gone as the boot clock does, as far as was looked: within that time it tells an age.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    since: Now,
}

impl Steady {
    pub fn since(now: Now) -> Steady {
        Steady { since: now }
    }

    /// Begins anew where the wall clock has jumped.
    pub fn look(&mut self, now: Now) {
        if self.has_jumped(now) {
            self.since = now;
        }
    }

    /// For how many milliseconds, at this instant.
    pub fn lasts(&self, at: Now) -> i64 {
        if self.has_jumped(at) { 0 } else { at.boot_ms.saturating_sub(self.since.boot_ms).max(0) }
    }

    fn has_jumped(&self, now: Now) -> bool {
        let (wall, boot) = (now.wall_ms.saturating_sub(self.since.wall_ms), now.boot_ms.saturating_sub(self.since.boot_ms));
        wall.saturating_sub(boot).saturating_abs() > STEP_MS
    }
}

/// Tells the time and waits.
#[async_trait::async_trait]
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
    /// Names the boot that `boot_ms` counts from.
    fn boot_id(&self) -> String;
    async fn sleep(&self, duration: Duration);
}

/// The machine's clocks.
pub struct SystemClock;

#[async_trait::async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Now {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Now { wall_ms: wall.as_millis() as i64, boot_ms: boot_ms() }
    }

    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[expect(unsafe_code, reason = "std has no CLOCK_BOOTTIME")]
fn boot_ms() -> i64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a valid, writable timespec for the length of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut spec) };
    assert_eq!(status, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    spec.tv_sec * 1000 + spec.tv_nsec / 1_000_000
}

/// A clock that a test moves.
pub struct ManualClock {
    now: Mutex<Now>,
    boot_id: String,
    moved: tokio::sync::Notify,
}

impl ManualClock {
    pub fn at(wall_ms: i64) -> ManualClock {
        ManualClock { now: Mutex::new(Now { wall_ms, boot_ms: 1_000_000 }), boot_id: "test-boot".into(), moved: tokio::sync::Notify::new() }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().expect("no thread panics while it holds this lock");
        now.wall_ms += by.as_millis() as i64;
        now.boot_ms += by.as_millis() as i64;
        drop(now);
        self.moved.notify_waiters();
    }

    /// Lets the wall clock jump, as an operator or NTP would.
    pub fn jump_wall(&self, by_ms: i64) {
        self.now.lock().expect("no thread panics while it holds this lock").wall_ms += by_ms;
    }
}

#[async_trait::async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.now.lock().expect("no thread panics while it holds this lock")
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now().boot_ms + duration.as_millis() as i64;
        loop {
            let moved = self.moved.notified();
            if self.now().boot_ms >= until {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_steady_from_its_last_jump_on() {
        let at = |wall_ms, boot_ms| Now { wall_ms, boot_ms };
        let mut steady = Steady::since(at(1_000_000, 0));
        assert_eq!(steady.lasts(at(1_005_100, 5_000)), 5_000, "a tenth of a second is no jump");
        assert_eq!(steady.lasts(at(9_000_000, 6_000)), 0, "one that was not looked at");
        steady.look(at(9_000_000, 6_000));
        assert_eq!(steady.lasts(at(9_000_700, 6_700)), 700);
        assert_eq!(steady.lasts(at(1_005_500, 5_500)), 0, "before it");
        steady.look(at(1_007_000, 7_000));
        assert_eq!(steady.lasts(at(1_007_300, 7_300)), 300, "nor is one back forgotten");
    }
}
