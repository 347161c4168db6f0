//! Figures in the texts of others: the kernel, the product's `/metrics`, and the programs that are measured beside it.

/// Clock ticks a second of `/proc`; the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// Seconds in some fields of `/proc/PID/stat`, counted from the state, which is 0.
pub fn seconds_of_stat(text: &str, wanted: &[usize]) -> f64 {
    // The name of the process may hold anything but ends with the last parenthesis.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    wanted.iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Seconds of all cores in the first line of `/proc/stat`: at work, and stolen by the machine's host.
pub fn seconds_of_all_cores(text: &str) -> (f64, f64) {
    let all: Vec<f64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let sum = |fields: &[usize]| fields.iter().filter_map(|at| all.get(*at)).sum::<f64>() / TICKS;
    // user, nice, system, irq, softirq; idle and iowait are not work.
    (sum(&[0, 1, 2, 5, 6]), sum(&[7]))
}

/// A size in `/proc/PID/status`, in MB of 1,048,576 octets.
pub fn mb_of_status(text: &str, name: &str) -> f64 {
    let kb = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// The inodes of the sockets that listen on a port, in `/proc/net/tcp` or `/proc/net/tcp6`.
pub fn listeners(text: &str, port: u16) -> Vec<u64> {
    let port = format!(":{port:04X}");
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&port) && row[3] == "0A").filter_map(|row| row[9].parse().ok()).collect()
}

/// The sum of a metric's series in Prometheus' text that have a label.
pub fn metric(text: &str, name: &str, label: &str) -> f64 {
    let series =
        text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with([' ', '{']) && rest.contains(label));
    series.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Signatures a second in what `openssl speed rsa2048` prints.
pub fn rsa_signatures_per_second(text: &str) -> Option<f64> {
    let row = text.lines().find_map(|line| line.trim().strip_prefix("rsa 2048 bits"))?;
    row.split_whitespace().nth(2)?.parse().ok()
}

/// The figure of a line `NAME FIGURE`, as the programs of the bench print them.
pub fn said(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
