//! Times as the APIs write them.
//!
//! Invariant: every time in an answer is RFC 3339 in UTC with milliseconds.

use std::time::{Duration, UNIX_EPOCH};

/// The last millisecond of the year 9999, the last that RFC 3339 can write.
const WALL_MS_MAX: i64 = 253_402_300_799_999;

/// Writes milliseconds since 1970 UTC as `2026-01-31T12:00:00.000Z`. Times outside 1970 to 9999 are clamped.
pub fn rfc3339(wall_ms: i64) -> String {
    let wall_ms = wall_ms.clamp(0, WALL_MS_MAX).unsigned_abs();
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(wall_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds_and_never_panic() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MIN), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
