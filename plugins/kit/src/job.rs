//! One message on its way through the pool, and the answer that is owed for it.
//!
//! Invariant: every job is answered exactly once, by whoever holds it last; dropping it is an answer too.

use postwarm_plugin_api::{Cause, Message, Outcome, Phase};
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A message, its deadline, and where the answer goes.
pub struct Job {
    pub id: u64,
    pub message: Message,
    pub deadline: Instant,
    /// The end of data may have left.
    dot_sent: bool,
    answer: Option<oneshot::Sender<Outcome>>,
}

impl Job {
    pub fn new(message: Message, deadline: Instant) -> (Job, oneshot::Receiver<Outcome>) {
        let (answer, receiver) = oneshot::channel();
        (Job { id: 0, message, deadline, dot_sent: false, answer: Some(answer) }, receiver)
    }

    /// Notes that the end of data may leave from now on, also in what outlives the process.
    pub fn dot_leaves(&mut self) {
        self.dot_sent = true;
        if let Some(mark) = &self.message.mark {
            mark.set();
        }
    }

    /// Notes that the end of data has certainly not left.
    pub fn dot_stayed(&mut self) {
        self.dot_sent = false;
        if let Some(mark) = &self.message.mark {
            mark.clear();
        }
    }

    /// Answers the job. Nobody listens any more where it was cancelled.
    pub fn resolve(mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(outcome);
        }
    }

    /// Answers a job that did not get through: unknown where the end of data may have left, else not attempted.
    pub fn resolve_broken(self, cause: Cause, detail: String) {
        let outcome = broken_outcome(self.dot_sent, cause, detail);
        self.resolve(outcome);
    }

    /// Tells whether the caller dropped its future.
    pub fn is_cancelled(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Is ready once the caller has dropped its future.
    pub fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            Some(answer) => answer.poll_closed(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            // The task that held it was stopped, or it panicked.
            let cause = if std::thread::panicking() { Cause::Internal } else { Cause::Stopping };
            let _ = answer.send(broken_outcome(self.dot_sent, cause, "the connection's task ended".to_owned()));
        }
    }
}

fn broken_outcome(dot_sent: bool, cause: Cause, detail: String) -> Outcome {
    match dot_sent {
        true => Outcome::Unknown { phase: Phase::EndOfData, detail },
        false => Outcome::NotAttempted { cause, detail },
    }
}
