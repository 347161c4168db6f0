//! A mark that a test watches.

use postwarm_plugin_api::{KeepMarks, Mark};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What one mark says.
#[derive(Debug, Default)]
pub struct Watched {
    is_set: AtomicBool,
    times_set: AtomicUsize,
}

impl Watched {
    /// A mark that is not set, and what watches it.
    pub fn new() -> (Arc<Watched>, Mark) {
        let watched = Arc::<Watched>::default();
        (watched.clone(), Mark::new(watched, 0, 0))
    }

    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// How often it was set, whether or not it was taken back.
    pub fn times_set(&self) -> usize {
        self.times_set.load(Ordering::SeqCst)
    }
}

impl KeepMarks for Watched {
    fn set(&self, _: usize, _: u64) {
        self.is_set.store(true, Ordering::SeqCst);
        self.times_set.fetch_add(1, Ordering::SeqCst);
    }

    fn clear(&self, _: usize, _: u64) {
        self.is_set.store(false, Ordering::SeqCst);
    }
}
