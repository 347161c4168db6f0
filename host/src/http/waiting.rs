//! Connections that wait for their client: where there is no place left, the one that waits longest makes room.
//!
//! A connection waits until a request has come whole, and again once it is answered. Clients that open connections and say
//! nothing, or little, would else keep all others out.
//!
//! Invariant: a connection whose request has come is not closed for another one before its answer is out, and each has some
//! time for it to come.

use hyper::body::{Body, Frame, SizeHint};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The connections of one listener that wait, in the order in which they began to.
#[derive(Clone)]
pub struct Waiting {
    /// How long each may wait at first before it may have to make room.
    silent: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// One connection, forgotten when dropped; an extension of each of its requests.
pub struct Caller {
    all: Waiting,
    /// Its number among those that wait; 0 while it is answered. It changes only while the state is locked.
    number: AtomicU64,
    chosen: Arc<Notify>,
}

impl Waiting {
    pub fn new(silent: Duration) -> Waiting {
        Waiting { silent, state: Arc::default() }
    }

    pub fn enter(&self) -> Caller {
        let caller = Caller { all: self.clone(), number: AtomicU64::new(0), chosen: Arc::default() };
        caller.answered();
        caller
    }

    /// Has the one that waits longest make room, if there is any.
    pub fn close_oldest(&self) {
        if let Some((_, chosen)) = self.state().waiting.pop_first() {
            chosen.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }
}

impl Caller {
    /// A request has come whole. Where this connection should have made room, the next oldest does.
    pub fn asked(&self) {
        let mut state = self.all.state();
        let number = self.number.swap(0, Ordering::Relaxed);
        let was_chosen = number != 0 && state.waiting.remove(&number).is_none();
        drop(state);
        if was_chosen {
            self.all.close_oldest();
        }
    }

    /// Its answer is out: it waits for the next request.
    pub fn answered(&self) {
        let mut state = self.all.state();
        state.last += 1;
        let number = state.last;
        state.waiting.remove(&self.number.swap(number, Ordering::Relaxed));
        state.waiting.insert(number, Arc::clone(&self.chosen));
    }

    /// Ends when the connection must close for another one. Whoever waits reads from it first: a request that has come by then
    /// counts.
    pub async fn makes_room(&self) {
        // Only what is looked at can ask: its time begins now, however long ago it came.
        let not_before = Instant::now() + self.all.silent;
        loop {
            self.chosen.notified().await;
            sleep_until(not_before).await;
            let number = self.number.load(Ordering::Relaxed);
            if number != 0 && !self.all.state().waiting.contains_key(&number) {
                return;
            }
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.all.state().waiting.remove(&self.number.load(Ordering::Relaxed));
    }
}

/// The body of an answer; once it is out, its connection waits again.
pub struct Answer<B> {
    pub body: B,
    pub caller: Arc<Caller>,
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.caller.answered();
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use tokio::time::timeout;

    const HOUR: Duration = Duration::from_secs(3_600);

    /// Which of them close. A timer that is over fires before the one of a timeout that is not.
    async fn closed<const N: usize>(connections: [&Caller; N]) -> [bool; N] {
        let closed = connections.map(|connection| timeout(Duration::from_millis(2), connection.makes_room()));
        join_all(closed).await.iter().map(Result::is_ok).collect::<Vec<_>>().try_into().expect("as many")
    }

    #[tokio::test]
    async fn the_oldest_makes_room_but_for_those_that_asked_or_left() {
        let waiting = Waiting::new(Duration::ZERO);
        let [asks, leaves, oldest, newest] = [(); 4].map(|()| waiting.enter());
        asks.asked();
        drop(leaves);
        waiting.close_oldest();
        assert_eq!(closed([&asks, &oldest, &newest]).await, [false, true, false]);
    }

    #[tokio::test]
    async fn each_has_some_time_to_ask() {
        for (silent, is_closed) in [(HOUR, false), (Duration::ZERO, true)] {
            let waiting = Waiting::new(silent);
            let caller = waiting.enter();
            waiting.close_oldest();
            assert_eq!(closed([&caller]).await, [is_closed], "{silent:?}");
        }
    }

    #[tokio::test]
    async fn one_that_asks_in_this_time_stays_and_the_next_makes_room() {
        let waiting = Waiting::new(Duration::ZERO);
        let [asks, next, newest] = [(); 3].map(|()| waiting.enter());
        waiting.close_oldest();
        asks.asked();
        asks.asked();
        assert_eq!(closed([&asks, &next, &newest]).await, [false, true, false]);
    }

    #[tokio::test]
    async fn one_that_was_answered_waits_behind_the_others() {
        let waiting = Waiting::new(Duration::ZERO);
        let [first, second] = [(); 2].map(|()| waiting.enter());
        first.asked();
        drop(Answer { body: axum::body::Body::empty(), caller: Arc::new(waiting.enter()) });
        first.answered();
        waiting.close_oldest();
        assert_eq!(closed([&first, &second]).await, [false, true]);
        waiting.close_oldest();
        assert_eq!(closed([&first]).await, [true]);
    }
}
