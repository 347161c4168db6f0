//! Postwarm itself: both services in one process, state with FULL sync, embedded events, as `make run` starts them.

use crate::machine;
use crate::peers::{BODY_OCTETS, Running, SESSIONS, Sent};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one broadcast showed.
pub struct Broadcast {
    /// Users imported a second.
    pub imported_per_second: f64,
    /// From the answer of /send to the last reply.
    pub sent: Sent,
    /// Over import and broadcast.
    pub peak_resident_mb: f64,
}

/// Imports `rows` users and broadcasts to them over the server on `port`.
pub fn broadcast(port: u16, rows: usize) -> Broadcast {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(measure(port, rows))
}

async fn measure(port: u16, rows: usize) -> Broadcast {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (child, url) = start(folder.path(), port);
    let client = reqwest::Client::new();
    let users: String = (0..rows).map(|n| format!("{{\"name\":\"User {n}\",\"email_id\":\"user{n}@x{}.example\"}}\n", n % 50)).collect();
    let begun = Instant::now();
    let request = client.post(format!("{url}/users/import")).header("content-type", "application/x-ndjson").body(users);
    assert!(request.send().await.expect("the import answers").status().is_success());
    let imported_per_second = rows as f64 / begun.elapsed().as_secs_f64();
    let before = machine::cpu_of(child.0.id());
    let line = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\n";
    let body = json!({"from": "a@acme.example", "subject": "Hello", "body": line.repeat(BODY_OCTETS / line.len())});
    let answer = client.post(format!("{url}/send")).json(&body).send().await.expect("the send answers");
    assert_eq!(answer.status().as_u16(), 202);
    let begun = Instant::now();
    wait_until_sent(&client, &url, rows as u64).await;
    let per_second = rows as f64 / begun.elapsed().as_secs_f64();
    let cpu_us = (machine::cpu_of(child.0.id()) - before) * 1e6 / rows as f64;
    Broadcast { imported_per_second, sent: Sent { per_second, cpu_us }, peak_resident_mb: machine::peak_resident_mb(child.0.id()) }
}

/// Looks seldom while much is left, so that looking costs nothing that counts, and closely at the end.
async fn wait_until_sent(client: &reqwest::Client, url: &str, rows: u64) {
    let begun = Instant::now();
    loop {
        let sent = sent(client, url).await;
        if sent == rows {
            return;
        }
        let left = begun.elapsed().mul_f64((rows - sent) as f64 / sent.max(1) as f64);
        tokio::time::sleep((left / 2).clamp(Duration::from_millis(5), Duration::from_millis(500))).await;
    }
}

async fn sent(client: &reqwest::Client, url: &str) -> u64 {
    let text = client.get(format!("{url}/emails/1")).send().await.expect("it answers").text().await.expect("a body");
    let email: Value = serde_json::from_str(&text).expect("JSON");
    email["counts"]["sent"].as_u64().expect("a number")
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
