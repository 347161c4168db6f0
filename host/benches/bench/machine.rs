//! What the machine spent: CPU of processes, and of everything else meanwhile.

use std::time::{Duration, Instant};

/// Clock ticks a second of `/proc`; the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// Seconds of CPU, user and system, of a process that runs.
pub fn cpu_of(pid: u32) -> f64 {
    fields(&format!("/proc/{pid}/stat"), &[11, 12])
}

/// Seconds of CPU of the children that this process has waited for.
pub fn cpu_of_ended_children() -> f64 {
    fields("/proc/self/stat", &[13, 14])
}

fn fields(path: &str, wanted: &[usize]) -> f64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    wanted.iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// The most memory that a process has had, in MB of 1,048,576 octets.
pub fn peak_resident_mb(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kb = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// What the whole machine has spent.
#[derive(Clone, Copy)]
pub struct Machine {
    at: Instant,
    busy: f64,
    stolen: f64,
}

impl Machine {
    pub fn now() -> Machine {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let all: Vec<f64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        let sum = |fields: &[usize]| fields.iter().filter_map(|at| all.get(*at)).sum::<f64>() / TICKS;
        // user, nice, system, irq, softirq; idle and iowait are not work.
        Machine { at: Instant::now(), busy: sum(&[0, 1, 2, 5, 6]), stolen: sum(&[7]) }
    }

    /// The part of the machine that others took since `self`, besides `own` seconds of ours, and what was stolen of it.
    pub fn noise_since(&self, own: f64) -> (f64, f64) {
        let now = Machine::now();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let whole = (now.at - self.at).max(Duration::from_millis(1)).as_secs_f64() * cores;
        (((now.busy - self.busy - own) / whole).max(0.0), (now.stolen - self.stolen) / whole)
    }
}
