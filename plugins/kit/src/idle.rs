//! The idle connections of all clients: beyond some, the one that has waited longest says QUIT, so that many clients that each
//! had a little to send do not hold a thousand sockets here and sessions at their servers.
//!
//! Invariant: a connection that has waited less than [`SPARED`] is not sent away: clients that are busy rest between two messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Idle connections that are kept, whosever they are.
pub const KEPT_MAX: usize = 32;
/// How long a connection has waited at least that is sent away.
pub const SPARED: Duration = Duration::from_millis(300);

/// Those that the connections of this process wait in; each library has its own.
pub static IDLERS: Idlers = Idlers::new();

/// Connections that wait for a message.
pub struct Idlers(Mutex<Waiting>);

struct Waiting {
    id_last: u64,
    /// By the order in which they came.
    since: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

impl Idlers {
    pub const fn new() -> Idlers {
        Idlers(Mutex::new(Waiting { id_last: 0, since: BTreeMap::new() }))
    }

    /// The connections that wait.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.waiting().since.len()
    }

    /// A connection begins to wait. Sends others away where there are too many.
    pub fn enter(&self, now: Instant) -> Idler<'_> {
        let mut waiting = self.waiting();
        waiting.id_last += 1;
        let (id, sent_away) = (waiting.id_last, Arc::new(Notify::new()));
        waiting.since.insert(id, (now, sent_away.clone()));
        while waiting.since.len() > KEPT_MAX
            && let Some(first) = waiting.since.first_entry()
            && now.duration_since(first.get().0) >= SPARED
        {
            first.remove().1.notify_one();
        }
        Idler { idlers: self, id, sent_away }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("nobody panics while he holds this lock")
    }
}

/// One connection while it waits.
pub struct Idler<'a> {
    idlers: &'a Idlers,
    id: u64,
    sent_away: Arc<Notify>,
}

impl Idler<'_> {
    /// Resolves when it shall wait no longer.
    pub async fn is_sent_away(&self) {
        self.sent_away.notified().await;
    }
}

impl Drop for Idler<'_> {
    fn drop(&mut self) {
        self.idlers.waiting().since.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn is_sent_away(idler: &Idler<'_>) -> bool {
        pin!(idler.is_sent_away()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn of_too_many_the_one_that_has_waited_longest_goes_unless_all_came_just_now() {
        let (idlers, began) = (Idlers::new(), Instant::now());
        let mut all: Vec<_> = (0..KEPT_MAX).map(|_| idlers.enter(began)).collect();
        all.push(idlers.enter(began + SPARED - Duration::from_millis(1)));
        assert!(!all.iter().any(is_sent_away), "none has waited long");
        // One that got a message does not count.
        drop(all.swap_remove(1));
        all.push(idlers.enter(began + SPARED));
        let gone: Vec<usize> = (0..all.len()).filter(|at| is_sent_away(&all[*at])).collect();
        assert_eq!(gone, [0]);
    }
}
