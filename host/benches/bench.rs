//! `make bench`: what a user would measure, through the public interfaces of the real binary.
//!
//! Ratios are taken within one round, against `smtp-source -d` to the same kind of sink, and the median over the rounds
//! counts; absolute figures are for orientation. Each run has a sink, a port and folders of its own. The result is
//! printed and written to `target/bench/bench.json`. `POSTWARM_BENCH_ROWS` and `POSTWARM_BENCH_ROUNDS` change the size.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SESSIONS: &str = "20";
const BODY_OCTETS: usize = 5_000;

fn main() {
    // `cargo test --benches` passes --test: nothing to measure then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(run());
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

async fn run() {
    let (rows, rounds) = (number("POSTWARM_BENCH_ROWS", 100_000), number("POSTWARM_BENCH_ROUNDS", 3));
    let Some(sink) = program("smtp-sink") else {
        println!("skipped: bench because smtp-sink is not installed (Debian: apt-get install postfix)");
        return;
    };
    let mut results = Vec::new();
    for round in 1..=rounds {
        let reference = source(&sink, rows);
        let small = broadcast(&sink, rows / 10).await;
        let large = broadcast(&sink, rows).await;
        let row = json!({
            "round": round,
            "import_rows_per_second": large.import,
            "smtp_source_per_second": reference,
            "broadcast_per_second": large.sent,
            "broadcast_of_a_tenth_per_second": small.sent,
            "against_smtp_source": reference.map(|r| large.sent / r),
            "against_a_tenth": large.sent / small.sent,
            "cpu_us_per_message": large.cpu_us,
            "peak_resident_mb": large.peak_mb,
        });
        println!("{row}");
        results.push(row);
    }
    let median = |key: &str| {
        let mut all: Vec<f64> = results.iter().filter_map(|r| r[key].as_f64()).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    println!("\n{:<34} {:>12}", format!("median of {rounds} rounds, {rows} rows"), "");
    let keys = results[0].as_object().expect("a row is an object").keys().filter(|k| *k != "round").cloned().collect::<Vec<_>>();
    let mut medians = serde_json::Map::new();
    for key in keys {
        let value = median(&key);
        println!("{key:<34} {:>12}", value.map_or("-".to_owned(), |v| format!("{v:.2}")));
        medians.insert(key, json!(value));
    }
    write(&json!({ "rows": rows, "rounds": results, "medians": medians }));
}

fn write(result: &Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("bench.json"), format!("{result:#}\n")));
    match written {
        Ok(()) => println!("written to target/bench/bench.json"),
        Err(error) => println!("target/bench/bench.json cannot be written: {error}"),
    }
}

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.exists())
}

/// A process that ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a sink on a port of its own, so that no forgotten one shares the load.
fn start_sink(program: &Path) -> (Running, u16) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free").port();
    let child = Command::new(program)
        .args(["-u", "nobody", "-c", &format!("127.0.0.1:{port}"), "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let running = Running(child.expect("smtp-sink starts"));
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "smtp-sink does not listen");
        std::thread::yield_now();
    }
    (running, port)
}

/// Messages a second of `smtp-source -d`.
fn source(sink: &Path, rows: usize) -> Option<f64> {
    let source = program("smtp-source")?;
    let (_sink, port) = start_sink(sink);
    let start = Instant::now();
    let octets = BODY_OCTETS.to_string();
    let arguments = ["-d", "-s", SESSIONS, "-m", &rows.to_string(), "-l", &octets, "-f", "a@x.test", "-t", "b@y.test"].map(str::to_owned);
    let status = Command::new(source).args(arguments).arg(format!("127.0.0.1:{port}")).status().ok()?;
    status.success().then(|| rows as f64 / start.elapsed().as_secs_f64())
}

struct Measured {
    import: f64,
    sent: f64,
    cpu_us: f64,
    peak_mb: f64,
}

/// Imports `rows` users and broadcasts to them; the clock runs from the 202 to the last reply, events on.
async fn broadcast(sink: &Path, rows: usize) -> Measured {
    let (_sink, port) = start_sink(sink);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (child, url) = start(folder.path(), port);
    let client = reqwest::Client::new();
    let users: String = (0..rows).map(|n| format!("{{\"name\":\"User {n}\",\"email_id\":\"user{n}@x{}.example\"}}\n", n % 50)).collect();
    let begun = Instant::now();
    let request = client.post(format!("{url}/users/import")).header("content-type", "application/x-ndjson").body(users);
    assert!(request.send().await.expect("the import answers").status().is_success());
    let import = rows as f64 / begun.elapsed().as_secs_f64();
    let before = cpu(child.0.id());
    let line = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\n";
    let body = json!({"from": "a@acme.example", "subject": "Hello", "body": line.repeat(BODY_OCTETS / line.len())});
    let answer = client.post(format!("{url}/send")).json(&body).send().await.expect("the send answers");
    assert_eq!(answer.status().as_u16(), 202);
    let begun = Instant::now();
    loop {
        let text = client.get(format!("{url}/emails/1")).send().await.expect("it answers").text().await.expect("a body");
        let email: Value = serde_json::from_str(&text).expect("JSON");
        if email["counts"]["sent"].as_u64() == Some(rows as u64) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let sent = rows as f64 / begun.elapsed().as_secs_f64();
    let cpu_us = (cpu(child.0.id()) - before) * 1e6 / rows as f64;
    Measured { import, sent, cpu_us, peak_mb: peak(child.0.id()) }
}

fn start(folder: &Path, port: u16) -> (Running, String) {
    let config = folder.join("config");
    let write = |name: &str, text: String| std::fs::write(config.join(name), text).expect("the folder can be written");
    std::fs::create_dir_all(config.join("organizations")).expect("the folder can be made");
    write("postwarm.toml", "[warmup]\nlisten = \"127.0.0.1:0\"\n[health]\nlisten = \"127.0.0.1:0\"\n[dns]\nenabled = false\n".to_owned());
    write("providers.toml", String::new());
    let organization = format!(
        "from_domains = [\"acme.example\"]\ndevelopment = true\n[[smtp]]\nname = \"sink\"\nplugin = \"smtp\"\nlimits = {{ connections = {SESSIONS} }}\n\
         settings = {{ host = \"127.0.0.1\", port = {port}, tls = \"none\" }}\n"
    );
    write("organizations/acme.toml", organization);
    let mut command = Command::new(env!("CARGO_BIN_EXE_postwarm"));
    command.arg("serve").arg("--config").arg(&config).arg("--data").arg(folder.join("data")).env("RUST_LOG", "warn");
    let mut child = Running(command.stdout(Stdio::piped()).spawn().expect("postwarm starts"));
    let out = BufReader::new(child.0.stdout.take().expect("it is piped"));
    let url = out.lines().map_while(Result::ok).find_map(|line| line.trim().strip_prefix("warmup").map(|u| u.trim().to_owned()));
    (child, url.expect("postwarm prints its address"))
}

/// Seconds of CPU, user and system, of a process.
fn cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn peak(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kb = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}
