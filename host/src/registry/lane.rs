//! The one thread that calls the functions of one loaded library, one at a time.
//!
//! Invariant: no function of a library is called by a worker of the runtime, so one that blocks stalls its own plugin.
//! Invariant: what waits here is bounded: [`ROOM`] calls hold a permit, and there are one making and one unmaking for
//! each configured instance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The sends, verifies, closes and polls that may wait for the thread of one library.
const ROOM: usize = 4096;

type Call = Box<dyn FnOnce() + Send>;

/// Where to put calls for a library. Cloning shares the thread.
#[derive(Clone)]
pub(super) struct Lane {
    calls: Sender<Call>,
    room: Arc<Semaphore>,
}

impl Lane {
    /// Starts the thread; `Err` in words where the system gives none.
    pub(super) fn start(name: &str) -> Result<Lane, String> {
        let (calls, waiting) = channel();
        // A thread's name has 15 octets.
        let name: String = format!("pw-{name}").chars().take(15).collect();
        std::thread::Builder::new().name(name).spawn(move || serve(&waiting)).map_err(|error| format!("no thread for it: {error}"))?;
        Ok(Lane { calls, room: Arc::new(Semaphore::new(ROOM)) })
    }

    /// Puts a call in line.
    pub(super) fn run(&self, call: impl FnOnce() + Send + 'static) {
        // The thread ends only when every lane is gone, so nobody is left to receive an error.
        let _ = self.calls.send(Box::new(call));
    }

    /// Waits for room, then puts a call in line. Dropping the future before that leaves nothing behind.
    pub(super) async fn run_in_turn(&self, call: impl FnOnce() + Send + 'static) {
        let permit = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.run(move || {
            drop(permit);
            call();
        });
    }

    /// Puts a call in line and waits for what it returns, for `patience` at most. Blocks the caller.
    pub(super) fn ask<T: Send + 'static>(&self, patience: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.run(move || drop(answer.send(call())));
        answered.recv_timeout(patience).ok()
    }
}

fn serve(waiting: &Receiver<Call>) {
    for call in waiting {
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!("a call of a plugin panicked on the host's side");
        }
    }
}
