//! Connections that have asked nothing yet: where there is no place left, the oldest of them makes room.
//!
//! A client that opens connections and says nothing would else keep all others waiting.
//!
//! Invariant: a connection whose request has come is not closed for another one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// The connections of one listener that have asked nothing yet, in the order in which they came.
#[derive(Clone, Default)]
pub struct Unasked(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One connection, forgotten when dropped.
pub struct Newcomer {
    unasked: Unasked,
    number: u64,
    closes: CancellationToken,
}

impl Unasked {
    pub fn enter(&self) -> Newcomer {
        let mut state = self.state();
        let (number, closes) = (state.next, CancellationToken::new());
        state.next += 1;
        state.waiting.insert(number, closes.clone());
        Newcomer { unasked: self.clone(), number, closes }
    }

    /// Has the oldest one closed, if there is any.
    pub fn close_oldest(&self) {
        if let Some((_, closes)) = self.state().waiting.pop_first() {
            closes.cancel();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics while it holds this lock")
    }
}

impl Newcomer {
    /// Its request has come: it is nobody's to close any more.
    pub fn asks(&self) {
        self.unasked.state().waiting.remove(&self.number);
    }

    /// Cancelled when it shall make room.
    pub fn closes(&self) -> CancellationToken {
        self.closes.clone()
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.asks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_but_for_those_that_asked_or_left() {
        let unasked = Unasked::default();
        let [asks, leaves, oldest, newest] = [(); 4].map(|()| unasked.enter());
        asks.asks();
        drop(leaves);
        unasked.close_oldest();
        let closed = [&asks, &oldest, &newest].map(|connection| connection.closes().is_cancelled());
        assert_eq!(closed, [false, true, false]);
    }
}
