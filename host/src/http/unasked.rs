//! Connections that have asked nothing yet: where there is no place left, the oldest of them makes room.
//!
//! A client that opens connections and says nothing would else keep all others waiting.
//!
//! Invariant: a connection whose request has come is not closed for another one, and each has some time for it to come.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The connections of one listener that have asked nothing yet, in the order in which they came.
#[derive(Clone)]
pub struct Unasked {
    /// How long each may be silent before it may have to make room.
    silent: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One connection, forgotten when dropped.
pub struct Newcomer {
    unasked: Unasked,
    number: u64,
    asked: AtomicBool,
    closes: CancellationToken,
}

impl Unasked {
    pub fn new(silent: Duration) -> Unasked {
        Unasked { silent, state: Arc::default() }
    }

    pub fn enter(&self) -> Newcomer {
        let mut state = self.state();
        let (number, closes) = (state.next, CancellationToken::new());
        state.next += 1;
        state.waiting.insert(number, closes.clone());
        Newcomer { unasked: self.clone(), number, asked: AtomicBool::new(false), closes }
    }

    /// Has the oldest one make room, if there is any.
    pub fn close_oldest(&self) {
        if let Some((_, closes)) = self.state().waiting.pop_first() {
            closes.cancel();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }
}

impl Newcomer {
    /// A request has come: it is nobody's to close any more. Where it should have made room, the next oldest does.
    pub fn asks(&self) {
        let is_first = !self.asked.swap(true, Ordering::Relaxed);
        if is_first && self.unasked.state().waiting.remove(&self.number).is_none() {
            self.unasked.close_oldest();
        }
    }

    /// Ends when it must close for another one. Whoever waits reads from the connection first: a request that has come by
    /// then counts.
    pub async fn makes_room(&self) {
        // Only what is looked at can ask: its time begins now, however long ago it came.
        let not_before = Instant::now() + self.unasked.silent;
        self.closes.cancelled().await;
        sleep_until(not_before).await;
        if self.asked.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.unasked.state().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use tokio::time::timeout;

    const HOUR: Duration = Duration::from_secs(3_600);

    /// Which of them close. A timer that is over fires before the one of a timeout that is not.
    async fn closed<const N: usize>(connections: [&Newcomer; N]) -> [bool; N] {
        let closed = connections.map(|connection| timeout(Duration::from_millis(2), connection.makes_room()));
        join_all(closed).await.iter().map(Result::is_ok).collect::<Vec<_>>().try_into().expect("as many")
    }

    #[tokio::test]
    async fn the_oldest_makes_room_but_for_those_that_asked_or_left() {
        let unasked = Unasked::new(Duration::ZERO);
        let [asks, leaves, oldest, newest] = [(); 4].map(|()| unasked.enter());
        asks.asks();
        drop(leaves);
        unasked.close_oldest();
        assert_eq!(closed([&asks, &oldest, &newest]).await, [false, true, false]);
    }

    #[tokio::test]
    async fn each_has_some_time_to_ask() {
        for (silent, is_closed) in [(HOUR, false), (Duration::ZERO, true)] {
            let unasked = Unasked::new(silent);
            let newcomer = unasked.enter();
            unasked.close_oldest();
            assert_eq!(closed([&newcomer]).await, [is_closed], "{silent:?}");
        }
    }

    #[tokio::test]
    async fn one_that_asks_in_this_time_stays_and_the_next_makes_room() {
        let unasked = Unasked::new(Duration::ZERO);
        let [asks, next, newest] = [(); 3].map(|()| unasked.enter());
        unasked.close_oldest();
        asks.asks();
        asks.asks();
        assert_eq!(closed([&asks, &next, &newest]).await, [false, true, false]);
    }
}
