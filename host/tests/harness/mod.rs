//! What the black-box tests share: the real binary as a child process with folders of its own, and HTTP to it.
//!
//! Every test has its own folders and ports; nothing waits for a fixed time: `until` asks again until a bound.

pub mod kafka;
pub mod mailpit;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The folders of one installation.
pub struct Site {
    pub folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Site {
    /// Ports are the system's choice; organizations are added by the test.
    pub fn new() -> Site {
        let site = Site { folder: tempfile::tempdir().unwrap(), env: Vec::new() };
        std::fs::create_dir_all(site.config().join("organizations")).unwrap();
        std::fs::create_dir_all(site.plugins()).unwrap();
        let text = format!(
            "[warmup]\nlisten = \"127.0.0.1:0\"\n[health]\nlisten = \"127.0.0.1:0\"\n[plugins]\ndirectory = {:?}\n[dns]\nenabled = false\n",
            site.plugins()
        );
        site.write("postwarm.toml", &text);
        let providers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/providers.toml");
        std::fs::copy(providers, site.config().join("providers.toml")).unwrap();
        site
    }

    /// With one organization that needs no key.
    pub fn with_organization(text: &str) -> Site {
        let site = Site::new();
        site.organization("demo", &format!("from_domains = [\"acme.example\"]\ndevelopment = true\n{text}"));
        site
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// Writes a file of the configuration.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.config().join(name), text).unwrap();
    }

    /// Adds to `postwarm.toml`.
    pub fn append(&self, text: &str) {
        let path = self.config().join("postwarm.toml");
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{before}{text}\n")).unwrap();
    }

    pub fn organization(&self, name: &str, text: &str) {
        self.write(&format!("organizations/{name}.toml"), text);
    }

    pub fn env(mut self, name: &str, value: &str) -> Site {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postwarm"));
        command.args(arguments).arg("--config").arg(self.config()).envs(self.env.iter().cloned()).env("RUST_LOG", "warn");
        command
    }

    /// Serves both services.
    pub fn serve(&self) -> Postwarm {
        self.serve_as(&["serve"])
    }

    pub fn serve_as(&self, arguments: &[&str]) -> Postwarm {
        let mut command = self.command(arguments);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut child = command.arg("--data").arg(self.data()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut addresses = [None, None];
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            for (place, service) in ["warmup", "health"].into_iter().enumerate() {
                if let Some(url) = line.trim().strip_prefix(service).map(str::trim).filter(|u| u.starts_with("http")) {
                    addresses[place] = Some(url.to_owned());
                }
            }
            if line.trim_start().starts_with("data ") {
                break;
            }
        }
        if addresses == [None, None] {
            panic!("postwarm did not start: {}", self.log());
        }
        let [warmup, health] = addresses.map(Option::unwrap_or_default);
        Postwarm { child, warmup, health, client: reqwest::Client::new() }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A running process.
pub struct Postwarm {
    child: Child,
    pub warmup: String,
    pub health: String,
    pub client: reqwest::Client,
}

impl Drop for Postwarm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Postwarm {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, without waiting.
    pub fn begin_termination(&self) {
        let status = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// SIGTERM; answers the exit code.
    pub fn terminate(self) -> Option<i32> {
        self.begin_termination();
        self.ended()
    }

    /// Waits for the process to end; answers the exit code.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let base =
            if ["/mail_stats", "/all_mail_stats", "/domains"].iter().any(|p| path.starts_with(p)) { &self.health } else { &self.warmup };
        answer(self.client.get(format!("{base}{path}"))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.client.post(format!("{}{path}", self.warmup)).json(&body)).await
    }

    pub async fn register(&self, address: &str) {
        let (status, body) = self.post("/register", serde_json::json!({"name": "Somebody", "email_id": address})).await;
        assert!(status == 201 || status == 200, "{status} {body}");
    }

    /// Imports `user0@domain` and so on, without back-fill.
    pub async fn import(&self, count: usize, domain: &str) {
        let rows: String = (0..count).map(|n| format!("{{\"name\":\"User {n}\",\"email_id\":\"user{n}@{domain}\"}}\n")).collect();
        let request = self.client.post(format!("{}/users/import", self.warmup)).header("content-type", "application/x-ndjson").body(rows);
        let (status, body) = answer(request).await;
        assert_eq!((status, body["created"].as_u64()), (200, Some(count as u64)), "{body}");
    }

    /// Broadcasts; answers the email's number.
    pub async fn send(&self, subject: &str) -> i64 {
        let body = serde_json::json!({"from": "news@acme.example", "subject": subject, "body": "Hello"});
        let (status, body) = self.post("/send", body).await;
        assert_eq!(status, 202, "{body}");
        body["email_id"].as_i64().unwrap()
    }

    /// The counts of an email, once they are as wanted.
    pub async fn counts_when(&self, email: i64, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("email {email} to come as far as wanted"), async || {
            let (_, body) = self.get(&format!("/emails/{email}")).await;
            let counts = &body["counts"];
            let sum: i64 = counts.as_object().unwrap().values().map(|v| v.as_i64().unwrap()).sum();
            assert_eq!(Some(sum), body["recipients"].as_i64(), "the counts add up: {body}");
            (wanted(counts).then(|| counts.clone()), body)
        })
        .await
    }

    /// The figures of an email, once they are as wanted.
    pub async fn stats_when(&self, email: i64, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the figures of email {email}"), async || {
            let (_, body) = self.get(&format!("/mail_stats?email_id={email}")).await;
            (wanted(&body).then(|| body.clone()), body)
        })
        .await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Asks again until there is an answer; panics with the last thing seen when patience ends.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> (Option<T>, Value)) -> T {
    let start = Instant::now();
    loop {
        let (found, seen) = ask().await;
        if let Some(found) = found {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}; last seen: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
