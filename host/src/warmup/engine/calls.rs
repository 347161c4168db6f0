//! The calls of one client: as many at a time as it wants, and rows that wait, claimed, for one of them to end.
//!
//! A call that ends takes the next row itself, so that the client stays busy while the engine commits.
//!
//! Invariant: at most `in_flight_max` calls run, and rows wait only while that many do; each row comes back once.

use crate::warmup::engine::dispatch::{self, Job};
use crate::warmup::engine::returns::Back;
use postwarm_plugin_api::SmtpClient;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;

/// The calls of a client. Cloning shares them.
#[derive(Clone)]
pub struct Calls(Arc<Shared>);

struct Shared {
    client: Arc<dyn SmtpClient>,
    back: Back,
    /// Runs the calls.
    mail: Handle,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    running: usize,
    waiting: VecDeque<Job>,
}

impl Calls {
    pub fn new(client: Arc<dyn SmtpClient>, back: Back, mail: Handle) -> Calls {
        Calls(Arc::new(Shared { client, back, mail, rows: Mutex::default() }))
    }

    pub fn client(&self) -> &Arc<dyn SmtpClient> {
        &self.0.client
    }

    /// Sends a message now, or once a call has ended.
    pub fn push(&self, job: Job) {
        let mut rows = self.0.lock();
        if rows.running >= self.0.client.in_flight_max() {
            rows.waiting.push_back(job);
            return;
        }
        rows.running += 1;
        drop(rows);
        let seat = Seat { shared: self.0.clone(), left: false };
        self.0.mail.spawn(seat.run(job));
    }

    /// Lets the client end its messages and close, where its calls run.
    pub fn close(self, grace: Duration) {
        let mail = self.0.mail.clone();
        mail.spawn(async move { self.client().close(grace).await });
    }

    /// Gives back what waits.
    pub fn withdraw(&self, words: &str) {
        let waiting = std::mem::take(&mut self.0.lock().waiting);
        waiting.into_iter().for_each(|job| self.0.back.unsent(job.claimed, words));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().expect("nobody panics while he holds this lock")
    }
}

/// One of the calls that may run, given up however its task ends.
struct Seat {
    shared: Arc<Shared>,
    left: bool,
}

impl Seat {
    async fn run(mut self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            dispatch::send(job, &self.shared.client, &self.shared.back).await;
            next = self.next();
        }
    }

    fn next(&mut self) -> Option<Job> {
        let mut rows = self.shared.lock();
        let next = rows.waiting.pop_front();
        if next.is_none() {
            rows.running -= 1;
            self.left = true;
        }
        next
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // The call panicked. Nobody may be left who would take what waits.
        self.shared.lock().running -= 1;
        Calls(self.shared.clone()).withdraw("the task before it ended without an answer");
    }
}
