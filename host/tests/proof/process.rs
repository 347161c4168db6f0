//! What the system tells of a process, and signals to it.

use crate::harness::Postwarm;
use std::process::Command;

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub resident_kib: u64,
    pub threads: u64,
    pub files: u64,
}

/// Asks the system.
pub fn usage(postwarm: &Postwarm) -> Usage {
    let folder = format!("/proc/{}", postwarm.pid());
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let files = std::fs::read_dir(format!("{folder}/fd")).unwrap().count() as u64;
    Usage { resident_kib: figure("VmRSS:"), threads: figure("Threads:"), files }
}

/// Sends a signal, such as `-STOP`.
pub fn signal(postwarm: &Postwarm, name: &str) {
    let status = Command::new("kill").args([name, &postwarm.pid().to_string()]).status().unwrap();
    assert!(status.success(), "kill {name}");
}

/// Lets this process, and those that it starts, have so many files open.
pub fn allow_files(count: usize) -> Result<(), String> {
    // The hard limit stays: only some may raise it.
    let limit = format!("--nofile={count}:");
    let output = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), &limit]).output();
    let output = output.map_err(|error| format!("prlimit: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
