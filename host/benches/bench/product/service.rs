//! A process of Postwarm, and what is asked of it over HTTP.

use crate::process::Running;
use crate::product::setup::Setup;
use crate::readings;
use futures_util::StreamExt;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at how far it is.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Requests at a time, where there are many organizations.
const SENDS_MAX: usize = 16;
/// Imports at a time: as many as the service takes.
const IMPORTS_MAX: usize = 4;

/// A running process.
pub struct Service {
    child: Running,
    pub warmup: String,
    pub health: String,
    pub client: Client,
    /// One for each organization; the only organization needs none.
    keys: Vec<Option<String>>,
    folder: tempfile::TempDir,
}

impl Service {
    /// Starts both services, or the one that `which` names.
    pub fn start(setup: &Setup, which: &[&str]) -> Service {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let config = folder.path().join("config");
        setup.write(&config);
        let names = setup.names();
        let keys = names.iter().map(|name| (names.len() > 1).then(|| key(&config, name))).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_postwarm"));
        command.arg("serve").args(which).arg("--config").arg(&config).arg("--data").arg(folder.path().join("data"));
        command.env("RUST_LOG", "warn");
        let mut child = Running(command.stdout(Stdio::piped()).spawn().expect("postwarm starts"));
        let out = BufReader::new(child.0.stdout.take().expect("it is piped"));
        let lines: Vec<String> = out.lines().map_while(Result::ok).take_while(|line| !line.trim_start().starts_with("data ")).collect();
        let url = |service: &str| {
            let found = lines.iter().find_map(|line| line.trim().strip_prefix(service)).map(|url| url.trim().to_owned());
            found.unwrap_or_default()
        };
        let (warmup, health) = (url("warmup"), url("health"));
        assert!(!warmup.is_empty() || !health.is_empty(), "postwarm did not start");
        Service { child, warmup, health, client: Client::new(), keys, folder }
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Imports users, shared out among the organizations.
    pub async fn import(&self, users: usize) {
        let each = users / self.keys.len();
        let imports = self.keys.iter().map(|key| async move {
            let request = self.client.post(format!("{}/users/import", self.warmup)).header("content-type", "application/x-ndjson");
            let rows: String =
                (0..each).map(|n| format!("{{\"name\":\"User {n}\",\"email_id\":\"user{n}@x{}.example\"}}\n", n % 50)).collect();
            expect(200, with_key(request, key.as_deref()).body(rows)).await;
        });
        futures_util::stream::iter(imports).buffer_unordered(IMPORTS_MAX).collect::<()>().await;
    }

    /// Broadcasts, of every organization; answers when the first was accepted.
    pub async fn send(&self, body: &Value) -> Instant {
        let sends = self.keys.iter().map(|key| async move {
            let request = self.client.post(format!("{}/send", self.warmup)).json(body);
            expect(202, with_key(request, key.as_deref())).await;
            Instant::now()
        });
        let accepted: Vec<Instant> = futures_util::stream::iter(sends).buffer_unordered(SENDS_MAX).collect().await;
        accepted.into_iter().min().expect("there is an organization")
    }

    /// Waits until so many deliveries are sent; answers when that was.
    pub async fn until_sent(&self, wanted: usize) -> Instant {
        self.until(&self.warmup, ("postwarm_deliveries_total", "state=\"sent\""), wanted).await
    }

    /// Waits until health has applied so many records; answers when that was.
    pub async fn until_applied(&self, wanted: usize) -> Instant {
        self.until(&self.health, ("postwarm_projector_records_total", ""), wanted).await
    }

    /// Looks seldom while much is left, so that looking costs nothing that counts, and closely at the end. At first nobody
    /// knows how much that is, so no wait is long against the time that has passed.
    async fn until(&self, service: &str, (name, label): (&str, &str), wanted: usize) -> Instant {
        let begun = Instant::now();
        loop {
            let text = self.client.get(format!("{service}/metrics")).send().await.expect("it answers").text().await.expect("a body");
            let (seen, now) = (readings::metric(&text, name, label), Instant::now());
            if seen >= wanted as f64 {
                return now;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} is {seen} and was to be {wanted}");
            let passed = begun.elapsed();
            let left = passed.mul_f64((wanted as f64 - seen) / seen.max(1.0));
            tokio::time::sleep((left / 2).min(passed / 8).clamp(LOOK_MIN, LOOK_MAX)).await;
        }
    }

    /// SIGTERM; answers the data folder that it leaves once it has ended.
    pub fn end(mut self) -> tempfile::TempDir {
        let status = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "SIGTERM can be sent");
        let _ = self.child.0.wait();
        self.folder
    }
}

/// Gives an organization a key, as `postwarm key new` does, which takes too long for a thousand of them.
fn key(config: &Path, organization: &str) -> String {
    let key = format!("pw_{organization}");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let hex: String = hash.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    let line = format!("{hex} 2026-01-01T00:00:00Z bench\n");
    std::fs::write(config.join(format!("organizations/{organization}.keys")), line).expect("the folder can be written");
    key
}

fn with_key(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

async fn expect(wanted: u16, request: RequestBuilder) {
    let answer = request.send().await.expect("it answers");
    let status = answer.status().as_u16();
    assert_eq!(status, wanted, "{}", answer.text().await.unwrap_or_default());
}
