//! How the kernel schedules the process.
#![expect(unsafe_code, reason = "std has no scheduling policies")]

/// Asks the kernel for `SCHED_BATCH` (sched(7)): the process gets its share of the processors as before, but what wakes it, mostly one
/// server's reply, does not interrupt whoever runs. With a mail server on the same machine a reply would take the processor from the
/// server for each message; so the replies of all connections come in together.
///
/// Any policy but the default stays, and where the kernel does not let it be changed nothing is lost but speed. Threads
/// get the policy of the one that starts them, so it is asked for before any other is.
pub fn as_batch() {
    // SAFETY: both calls take plain numbers and a pointer to `any`, which lives longer than the call.
    let refused = unsafe {
        let any = libc::sched_param { sched_priority: 0 };
        libc::sched_getscheduler(0) == libc::SCHED_OTHER && libc::sched_setscheduler(0, libc::SCHED_BATCH, &any) != 0
    };
    if refused {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the kernel does not schedule the process as batch work");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of this thread, as of field 41 of proc_pid_stat(5).
    fn policy() -> libc::c_int {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_name) = stat.rsplit_once(") ").unwrap();
        behind_name.split(' ').nth(38).unwrap().parse().unwrap()
    }

    #[test]
    fn the_thread_and_those_that_it_starts_are_batch_work() {
        std::thread::spawn(|| {
            assert_eq!(policy(), libc::SCHED_OTHER);
            as_batch();
            assert_eq!((policy(), std::thread::spawn(policy).join().unwrap()), (libc::SCHED_BATCH, libc::SCHED_BATCH));
            as_batch();
            assert_eq!(policy(), libc::SCHED_BATCH);
        })
        .join()
        .unwrap();
    }
}
