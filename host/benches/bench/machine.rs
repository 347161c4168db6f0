//! What the machine spent: on processes, and on everything else meanwhile.

use crate::readings;
use std::path::Path;
use std::time::{Duration, Instant};

/// More of the machine than this for others, or stolen, and a run says little.
const NOISE_MAX: f64 = 0.05;

/// Seconds of CPU, user and system, of a process that runs.
pub fn cpu_of(pid: u32) -> f64 {
    readings::seconds_of_stat(&read(&format!("/proc/{pid}/stat")), &[11, 12])
}

/// Seconds of CPU of the children that this process has waited for.
pub fn cpu_of_ended_children() -> f64 {
    readings::seconds_of_stat(&read("/proc/self/stat"), &[13, 14])
}

/// The memory that a process has.
pub fn resident_mb(pid: u32) -> f64 {
    readings::mb_of_status(&read(&format!("/proc/{pid}/status")), "VmRSS")
}

/// The most memory that a process has had.
pub fn peak_resident_mb(pid: u32) -> f64 {
    readings::mb_of_status(&read(&format!("/proc/{pid}/status")), "VmHWM")
}

/// The inodes of all sockets that listen on a port.
pub fn listeners(port: u16) -> Vec<u64> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|path| readings::listeners(&read(path), port)).collect()
}

/// The process that listens on a port.
pub fn process_on(port: u16) -> Option<u32> {
    let wanted: Vec<String> = listeners(port).into_iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |process: &Path| {
        let mut files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|to| wanted.iter().any(|socket| to.as_os_str() == socket.as_str())))
    };
    let mut processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.find_map(|process| process.file_name().to_str()?.parse().ok().filter(|_: &u32| holds(&process.path())))
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The machine in a line.
pub fn name() -> String {
    let cpus = read("/proc/cpuinfo");
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown CPU", |(_, name)| name);
    format!("{} cores, {cpu}, Linux {}", cores(), read("/proc/sys/kernel/osrelease").trim())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What of the machine a run did not have.
#[derive(Clone, Copy, Default)]
pub struct Noise {
    /// The part that other processes took.
    pub others: f64,
    /// The part that the machine's host took.
    pub stolen: f64,
}

impl Noise {
    pub fn is_too_much(self) -> bool {
        self.others > NOISE_MAX || self.stolen > NOISE_MAX
    }

    /// The most of both.
    pub fn or(self, other: Noise) -> Noise {
        Noise { others: self.others.max(other.others), stolen: self.stolen.max(other.stolen) }
    }
}

/// Looks at the whole machine while something runs.
pub struct Observer {
    at: Instant,
    busy: f64,
    stolen: f64,
    own: f64,
    /// Processes that belong to the run and are no children of the bench.
    beside: Vec<u32>,
}

impl Observer {
    pub fn start(beside: &[u32]) -> Observer {
        let (busy, stolen) = readings::seconds_of_all_cores(&read("/proc/stat"));
        Observer { at: Instant::now(), busy, stolen, own: own(beside), beside: beside.to_vec() }
    }

    /// What others took since the start. What the run has started must have ended.
    pub fn noise(&self) -> Noise {
        let (busy, stolen) = readings::seconds_of_all_cores(&read("/proc/stat"));
        let whole = self.at.elapsed().max(Duration::from_millis(1)).as_secs_f64() * cores() as f64;
        let others = (busy - self.busy - (own(&self.beside) - self.own)) / whole;
        Noise { others: others.max(0.0), stolen: (stolen - self.stolen) / whole }
    }
}

fn own(beside: &[u32]) -> f64 {
    cpu_of_ended_children() + cpu_of(std::process::id()) + beside.iter().map(|pid| cpu_of(*pid)).sum::<f64>()
}
