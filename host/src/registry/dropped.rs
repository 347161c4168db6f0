//! A file of the plugins directory over time: how it looks, what of it is in use, and what was loaded from it.
//!
//! Invariant: what was loaded from a file of a name is kept in mind for as long as there is one of that name.

use super::files::{Fingerprint, Verified};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a file must stay as it is before it is read.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// A file of the directory.
#[derive(Debug)]
pub(super) struct Dropped {
    seen: Fingerprint,
    since: Instant,
    /// The content that was taken or rejected.
    examined: Option<Fingerprint>,
    /// The content that is in use.
    pub current: Option<Arc<Verified>>,
    pub problem: Option<String>,
    /// The problem is another file's id: look again when a file goes.
    conflict: bool,
    /// The content that was loaded last.
    pub loaded: Option<Arc<Verified>>,
}

impl Dropped {
    pub(super) fn new(seen: Fingerprint, now: Instant) -> Dropped {
        Dropped { seen, since: now, examined: None, current: None, problem: None, conflict: false, loaded: None }
    }

    /// Sees how the file looks now, and tells whether its content is another than the one that was examined.
    pub(super) fn look(&mut self, seen: Fingerprint, now: Instant) -> bool {
        if self.seen != seen {
            (self.seen, self.since) = (seen, now);
        }
        self.examined != Some(seen)
    }

    /// Tells whether a file that looks as it does may be read.
    pub(super) fn settled(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= SETTLE
    }

    /// Another file is gone, perhaps the one that had its id.
    pub(super) fn other_gone(&mut self) {
        if self.conflict {
            self.examined = None;
        }
    }

    /// It changed while it was read.
    pub(super) fn changing(&mut self, now: Instant) {
        self.since = now;
    }

    /// Nothing of the directory may be used.
    pub(super) fn withdraw(&mut self, words: &str) {
        (self.current, self.problem, self.examined) = (None, Some(words.to_owned()), None);
    }

    pub(super) fn take(&mut self, verified: Verified, seen: Fingerprint) {
        (self.current, self.problem, self.conflict, self.examined) = (Some(Arc::new(verified)), None, false, Some(seen));
    }

    /// Its content cannot be used; `before` is used instead where it is there, else what was in use.
    pub(super) fn reject(&mut self, words: String, before: Option<Arc<Verified>>, seen: Fingerprint) {
        (self.problem, self.conflict, self.examined) = (Some(words), false, Some(seen));
        self.current = before.or(self.current.take());
    }

    /// Its id is that of another plugin.
    pub(super) fn refuse(&mut self, words: String, seen: Fingerprint) {
        (self.problem, self.conflict, self.examined) = (Some(words), true, Some(seen));
    }

    /// What was taken as `failed` does not load: `before` is used instead.
    pub(super) fn fall_back(&mut self, failed: &str, before: Arc<Verified>, words: &str) {
        if self.is_current(failed) {
            (self.current, self.problem) = (Some(before), Some(words.to_owned()));
        }
    }

    pub(super) fn is_current(&self, sha256: &str) -> bool {
        self.current.as_ref().is_some_and(|current| current.sha256 == sha256)
    }

    /// The content that was loaded last, if it is another than `sha256`.
    pub(super) fn loaded_but(&self, sha256: &str) -> Option<Arc<Verified>> {
        self.loaded.clone().filter(|loaded| loaded.sha256 != sha256)
    }
}
