//! Threads of one name that run tasks.
//!
//! Invariant: tasks of one never wait for those of another; however busy a task is, `end` returns.

use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// Events that are taken from the system at once: more than there can be sockets of the REST ports. All that came is handed out
/// before a timer fires, so that a connection does not time out while its request lies there.
const IO_EVENTS_MAX: usize = 8 * 1024;

/// How long the one thread may take to drop its tasks, after what blocks has had its time.
const DROP_MAX: Duration = Duration::from_secs(1);

/// Threads that take tasks.
pub enum Threads {
    /// They share their tasks.
    Several(Runtime),
    /// With nobody to share with, what goes from task to task needs no lock and wakes no thread.
    One { handle: Handle, end: oneshot::Sender<Duration>, ended: mpsc::Receiver<()> },
}

impl Threads {
    pub fn start(name: &str, count: usize) -> std::io::Result<Threads> {
        if count > 1 {
            return several(name, count).map(Threads::Several);
        }
        let runtime = Builder::new_current_thread().max_io_events_per_tick(IO_EVENTS_MAX).thread_name(name).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, until) = oneshot::channel();
        let (ending, ended) = mpsc::sync_channel(1);
        let run = move || {
            // An error: nobody has them any more.
            let within = runtime.block_on(until).unwrap_or_default();
            // Drops the tasks when it has waited for what blocks.
            runtime.shutdown_timeout(within);
            let _ = ending.send(());
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Threads::One { handle, end, ended })
    }

    pub fn handle(&self) -> Handle {
        match self {
            Threads::Several(runtime) => runtime.handle().clone(),
            Threads::One { handle, .. } => handle.clone(),
        }
    }

    /// Drops all tasks. What blocks may take so long to end, and is left to itself then.
    pub fn end(self, within: Duration) {
        match self {
            Threads::Several(runtime) => runtime.shutdown_timeout(within),
            Threads::One { end, ended, .. } => {
                // An error: the thread has ended, or it does not in time.
                let _ = end.send(within);
                let _ = ended.recv_timeout(within + DROP_MAX);
            }
        }
    }
}

/// A runtime of threads that share their tasks.
pub fn several(name: &str, count: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().max_io_events_per_tick(IO_EVENTS_MAX).worker_threads(count).thread_name(name).enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough that nobody reaches it who does not wait in vain.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Says that it was dropped.
    struct Dropped(mpsc::Sender<()>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }

    #[test]
    fn tasks_run_on_threads_of_that_name_and_are_dropped_at_the_end() {
        for count in [1, 2] {
            let threads = Threads::start("mail-test", count).unwrap();
            let (dropped, is_dropped) = mpsc::channel();
            let (named, names) = mpsc::channel();
            threads.handle().spawn(async move {
                let _dropped = Dropped(dropped);
                named.send(std::thread::current().name().map(str::to_owned)).unwrap();
                std::future::pending::<()>().await;
            });
            assert_eq!(names.recv_timeout(PATIENCE).unwrap().as_deref(), Some("mail-test"), "{count}");
            threads.end(PATIENCE);
            assert_eq!(is_dropped.try_recv(), Ok(()), "{count}");
        }
    }

    /// Ends them with hardly any time for what blocks; fails where that does not return.
    fn end_soon(threads: Threads) {
        let (returned, has_returned) = mpsc::channel();
        std::thread::spawn(move || {
            threads.end(Duration::from_millis(1));
            returned.send(()).unwrap();
        });
        has_returned.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_task_that_does_not_return_is_left_to_itself() {
        for count in [1, 2] {
            let threads = Threads::start("mail-test", count).unwrap();
            let (begun, has_begun) = mpsc::channel();
            let (_release, held) = mpsc::channel::<()>();
            threads.handle().spawn(async move {
                begun.send(()).unwrap();
                let _ = held.recv();
            });
            has_begun.recv_timeout(PATIENCE).unwrap();
            end_soon(threads);
        }
    }

    #[test]
    fn what_blocks_beside_tasks_keeps_no_task_from_being_dropped() {
        for count in [1, 2] {
            let threads = Threads::start("mail-test", count).unwrap();
            let (begun, has_begun) = mpsc::channel();
            let (dropped, is_dropped) = mpsc::channel();
            let (_release, held) = mpsc::channel::<()>();
            threads.handle().spawn(async move {
                let _dropped = Dropped(dropped);
                tokio::task::spawn_blocking(move || {
                    begun.send(()).unwrap();
                    let _ = held.recv();
                })
                .await
                .unwrap();
            });
            has_begun.recv_timeout(PATIENCE).unwrap();
            end_soon(threads);
            assert_eq!(is_dropped.try_recv(), Ok(()), "{count}");
        }
    }
}
