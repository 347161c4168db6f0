//! Watches the tasks that a service cannot do without: one that ends before it was told to stops the process.
//!
//! Invariant: what runs beside the task that ended drains as after a signal; a process that has lost a part never goes on
//! as if it had not.

use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Starts tasks, and knows which was the first to end untimely. Cloning shares it.
#[derive(Clone)]
pub struct Supervisor {
    stop: CancellationToken,
    failure: std::sync::Arc<OnceLock<String>>,
}

impl Supervisor {
    /// Cancels `stop` where a task ends before.
    pub fn new(stop: CancellationToken) -> Supervisor {
        Supervisor { stop, failure: std::sync::Arc::default() }
    }

    /// Starts a task that is to run until `stop`. `name` stands in the sentence that says that it ended.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.spawn_on(&Handle::current(), name, task)
    }

    /// As [`Supervisor::spawn`], in another runtime.
    pub fn spawn_on(&self, runtime: &Handle, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let this = self.clone();
        runtime.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) if this.stop.is_cancelled() => {}
                Ok(()) => this.ended(format!("{name} ended by itself")),
                Err(panic) => this.ended(format!("{name} panicked: {}", words(&*panic))),
            }
        })
    }

    /// As [`Supervisor::spawn`], for a task that may be dropped wherever it stands: at `stop` it is.
    pub fn spawn_endless<T>(&self, name: &'static str, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<()> {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            stop.run_until_cancelled(task).await;
        })
    }

    /// What ended untimely, in words.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn ended(&self, what: String) {
        tracing::error!("{what}; the process stops");
        // The first is the cause; what ends because of it is no news.
        let _ = self.failure.set(what);
        self.stop.cancel();
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_stops_the_others_and_the_first_is_named() {
        let cases: [(&str, BoxedTask); 2] =
            [("the engine panicked: no 7", Box::pin(async { panic!("no {}", 7) })), ("the engine ended by itself", Box::pin(async {}))];
        for (said, task) in cases {
            let stop = CancellationToken::new();
            let supervisor = Supervisor::new(stop.clone());
            let other = supervisor.spawn("the relay", stop.clone().cancelled_owned());
            supervisor.spawn("the engine", task).await.unwrap();
            other.await.unwrap();
            assert_eq!((stop.is_cancelled(), supervisor.failure()), (true, Some(said)));
        }
    }

    type BoxedTask = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    #[tokio::test]
    async fn a_task_that_ends_because_it_was_told_to_is_no_failure_but_a_panic_while_it_drains_is() {
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(stop.clone());
        let told = supervisor.spawn("the relay", stop.clone().cancelled_owned());
        let (until, draining) = (stop.clone(), supervisor.clone());
        let bad = supervisor.spawn("the engine", async move {
            until.cancelled().await;
            assert!(draining.failure().is_some(), "the drain went wrong");
        });
        stop.cancel();
        told.await.unwrap();
        bad.await.unwrap();
        assert_eq!(supervisor.failure(), Some("the engine panicked: the drain went wrong"));
    }
}
