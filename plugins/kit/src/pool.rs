//! The queue of one client and the connection tasks that serve it.
//!
//! Invariant: holds at most `connections_max` tasks, started only as the queue is deep. A few jobs wait for a connection that is
//! in use rather than wake or open another one, because the envelope of the next goes in one write with the content before.
//! Where that takes long, others are called.
//! Invariant: jobs of a server that does not greet come back once; the connecting goes on, and the next job waits for it
//! as long as RFC 5321 allows, so that a server that is only slow gets its mail.
//! Invariant: no task is spawned, and none ends, while the lock is held: a runtime that shuts down drops a task within `spawn`.
//! Invariant: a queued job always has somebody who will answer it: a task, a task to be, or its caller's deadline.

mod seat;
mod state;

use crate::classify::Rules;
use crate::idle::Idlers;
use crate::job::Job;
use crate::settings::ServerSettings;
use crate::tls::TlsCell;
use postwarm_plugin_api::{Cause, Outcome};
use seat::{Seat, Stage};
use state::State;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// How long no further connection is tried after one failed while others work; the server may have a limit of its own.
const HOLD: Duration = Duration::from_secs(10);

/// How long jobs wait for the greeting of a server that has not proven slow: a caller that has another server goes there
/// within a second.
const HAND_OVER: Duration = Duration::from_millis(700);

/// How long a job waits for a connection that is in use before others are woken or started for it.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long a connection that ends may wait for the server's goodbye while jobs wait for its place.
const GOODBYE: Duration = Duration::from_secs(1);

/// What all connections of a client share.
pub struct Pool {
    pub settings: ServerSettings,
    pub tls: TlsCell,
    pub rules: Rules,
    pub connections_max: usize,
    /// Those among which its idle connections count.
    pub idlers: &'static Idlers,
    state: Mutex<State>,
    /// A job was queued, or the pool is closing; idle tasks alone wait for it.
    work: Notify,
    /// The pool is closing; connecting tasks wait for it.
    closed: Notify,
    /// A task ended.
    ended: Notify,
    /// Jobs have waited for a while and nobody could be called; those who only say goodbye wait for it.
    wanted: Notify,
}

/// Who looks at the queue besides those who do already.
enum Help {
    Nobody,
    Idle,
    Task(Seat, Handle),
}

/// What an idle connection waits for.
pub enum Wake {
    Job(Job),
    Closing,
}

impl Pool {
    pub fn new(settings: ServerSettings, connections_max: usize, rules: Rules, idlers: &'static Idlers) -> Arc<Pool> {
        Arc::new(Pool {
            settings,
            tls: TlsCell::default(),
            rules,
            connections_max: connections_max.max(1),
            idlers,
            state: Mutex::default(),
            work: Notify::new(),
            closed: Notify::new(),
            ended: Notify::new(),
            wanted: Notify::new(),
        })
    }

    /// Queues a job and wakes or starts a connection where the queue is deep. Returns the job's id; where the pool is
    /// closing the job is answered at once.
    pub fn push(self: &Arc<Pool>, mut job: Job) -> u64 {
        let mut state = self.state();
        if state.closing {
            drop(state);
            job.resolve(stopping("the client is being closed"));
            return 0;
        }
        state.id_last += 1;
        let id = state.id_last;
        job.id = id;
        state.queue.push_back(job);
        let help = if state.is_deep() { self.help(&mut state) } else { Help::Nobody };
        // Whoever is called takes a job at once; one that is left to those in use may wait long.
        let unwatched = matches!(help, Help::Nobody) && !state.patrolled;
        let runtime = unwatched.then(Handle::try_current).and_then(Result::ok);
        state.patrolled |= runtime.is_some();
        drop(state);
        self.call(help);
        if let Some(runtime) = runtime {
            runtime.spawn(patrol(Arc::downgrade(self), id));
        }
        id
    }

    /// Wakes or starts a connection where the oldest job was there when `seen` was the last id. Returns the last id now; `None`
    /// where nothing waits.
    fn hurry(self: &Arc<Pool>, seen: u64) -> Option<u64> {
        let mut state = self.state();
        let Some(oldest) = state.queue.front().map(|job| job.id) else {
            state.patrolled = false;
            return None;
        };
        let last = state.id_last;
        if oldest <= seen {
            state.woken = 0;
            let help = self.help(&mut state);
            drop(state);
            if matches!(help, Help::Nobody) {
                self.wanted.notify_waiters();
            }
            self.call(help);
        }
        Some(last)
    }

    /// Takes a job out of the queue; false where a connection has it already. The second value tells whether any
    /// session was open.
    pub fn withdraw(&self, id: u64) -> (bool, bool) {
        let mut state = self.state();
        let found = state.queue.iter().position(|job| job.id == id).and_then(|at| state.queue.remove(at));
        (found.is_some(), state.open > 0)
    }

    /// Answers all jobs that no connection has taken yet.
    pub fn withdraw_all(&self) {
        answer_queued(self.state(), |job| job.resolve(stopping("the server is silent, and no connection had begun with it")));
    }

    /// The jobs that no connection has taken yet.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.state().queue.len()
    }

    /// The tasks that run, connect or are about to.
    #[cfg(test)]
    pub fn tasks(&self) -> usize {
        self.state().tasks.len()
    }

    /// Takes the oldest job whose caller still waits.
    pub fn try_pop(&self) -> Option<Job> {
        self.state().pop()
    }

    /// Waits for a job as an idle connection.
    pub async fn wait(&self) -> Wake {
        let _idle = IdleMark::new(self);
        loop {
            let mut notified = pin!(self.work.notified());
            notified.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(job) = state.pop() {
                    return Wake::Job(job);
                }
                if state.closing {
                    return Wake::Closing;
                }
            }
            notified.await;
            let mut state = self.state();
            state.woken = state.woken.saturating_sub(1);
        }
    }

    /// Gives queued jobs back unsent, lets the tasks end what is on the wire until `deadline`, then stops them.
    pub async fn close(&self, deadline: Instant) {
        self.refuse_new().into_iter().for_each(|job| job.resolve(stopping("the client is being closed")));
        if timeout_at(deadline, self.all_ended()).await.is_err() {
            self.state().tasks.values().flatten().for_each(AbortHandle::abort);
            // A stopped task answers for its jobs as it is dropped.
            let _ = timeout_at(Instant::now() + Duration::from_secs(1), self.all_ended()).await;
        }
    }

    /// Takes no new job; idle connections say QUIT. Returns what was queued.
    pub fn refuse_new(&self) -> VecDeque<Job> {
        let mut state = self.state();
        state.closing = true;
        let queued = std::mem::take(&mut state.queue);
        drop(state);
        self.work.notify_waiters();
        self.closed.notify_waiters();
        queued
    }

    async fn all_ended(&self) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.state().tasks.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Lets a connection end politely. Where its place is wanted meanwhile, it has [`GOODBYE`] for that.
    pub async fn part(&self, goodbye: impl Future<Output = ()>) {
        let wanted = async {
            sleep(GOODBYE).await;
            self.wanted.notified().await;
        };
        tokio::select! {
            () = goodbye => {}
            () = wanted => {}
        }
    }

    async fn closing(&self) {
        loop {
            let mut notified = pin!(self.closed.notified());
            notified.as_mut().enable();
            if self.state().closing {
                return;
            }
            notified.await;
        }
    }

    /// Whom to call for what is queued; his place is taken, and [`Pool::call`] calls him.
    fn help(self: &Arc<Pool>, state: &mut State) -> Help {
        if state.idle > state.woken {
            state.woken += 1;
            return Help::Idle;
        }
        self.next_task(state).map_or(Help::Nobody, |(seat, runtime)| Help::Task(seat, runtime))
    }

    fn next_task(self: &Arc<Pool>, state: &mut State) -> Option<(Seat, Handle)> {
        let held = state.open > 0 && state.hold_until.is_some_and(|until| Instant::now() < until);
        if state.closing || held || state.queue.len() <= state.waiting || state.tasks.len() >= self.connections_max {
            return None;
        }
        // Without a runtime nobody could serve; the jobs keep their callers' deadlines.
        let runtime = Handle::try_current().ok()?;
        state.id_last += 1;
        state.waiting += 1;
        let seat = Seat { pool: Arc::clone(self), id: state.id_last, stage: Stage::Spawned };
        state.tasks.insert(seat.id, None);
        Some((seat, runtime))
    }

    fn call(&self, help: Help) {
        let (seat, runtime) = match help {
            Help::Nobody => return,
            Help::Idle => return self.work.notify_one(),
            Help::Task(seat, runtime) => (seat, runtime),
        };
        let id = seat.id;
        let handle = runtime.spawn(seat.run()).abort_handle();
        // It may have ended by now.
        if let Some(place) = self.state().tasks.get_mut(&id) {
            *place = Some(handle);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the pool's state")
    }
}

/// Hurries the pool as long as jobs wait; `seen` is the last of them.
async fn patrol(pool: Weak<Pool>, mut seen: u64) {
    loop {
        sleep(PATIENCE).await;
        let Some(last) = pool.upgrade().and_then(|pool| pool.hurry(seen)) else { return };
        seen = last;
    }
}

fn stopping(why: &str) -> Outcome {
    Outcome::NotAttempted { cause: Cause::Stopping, detail: why.to_owned() }
}

/// Answers what is queued, once the state is free.
fn answer_queued(mut state: MutexGuard<'_, State>, answer: impl Fn(Job)) {
    let queued = std::mem::take(&mut state.queue);
    drop(state);
    queued.into_iter().for_each(answer);
}

/// Counts a connection as idle while it lives.
struct IdleMark<'a>(&'a Pool);

impl IdleMark<'_> {
    fn new(pool: &Pool) -> IdleMark<'_> {
        let mut state = pool.state();
        state.waiting += 1;
        state.idle += 1;
        IdleMark(pool)
    }
}

impl Drop for IdleMark<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting -= 1;
        state.idle -= 1;
    }
}
