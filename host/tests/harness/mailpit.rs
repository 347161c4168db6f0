//! A real Mailpit of one test alone: what it holds, its read flags and its chaos.

use postwarm_plugin_testkit::skip::skip;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(30);
const PAGE: usize = 1_000;

pub struct Mailpit {
    smtp: SocketAddr,
    http: SocketAddr,
    process: Child,
    _folder: tempfile::TempDir,
    client: reqwest::Client,
}

impl Drop for Mailpit {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

impl Mailpit {
    /// Starts the binary that POSTWARM_TEST_MAILPIT names; without it the test is skipped.
    pub async fn start(test: &str) -> Option<Mailpit> {
        let Ok(binary) = std::env::var("POSTWARM_TEST_MAILPIT") else {
            skip(test, "POSTWARM_TEST_MAILPIT does not name Mailpit's binary");
            return None;
        };
        for _ in 0..5 {
            let (smtp, http) = (free_address(), free_address());
            let folder = tempfile::tempdir().unwrap();
            let mut command = Command::new(&binary);
            command.args(["--smtp", &smtp.to_string(), "--listen", &http.to_string(), "--max", "0", "--smtp-disable-rdns"]);
            command.args(["--disable-version-check", "--enable-chaos", "--quiet", "--database"]).arg(folder.path().join("mailpit.db"));
            let process = command.spawn().expect("POSTWARM_TEST_MAILPIT starts");
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut mailpit = Mailpit { smtp, http, process, _folder: folder, client };
            if mailpit.answers().await {
                return Some(mailpit);
            }
        }
        panic!("mailpit ended five times at its start")
    }

    /// False where it ended: somebody else took one of the ports meanwhile.
    async fn answers(&mut self) -> bool {
        let start = Instant::now();
        while TcpStream::connect(self.http).is_err() || TcpStream::connect(self.smtp).is_err() {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < START_MAX, "mailpit does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// The TOML of an organization that sends to it and asks it once a second.
    pub fn organization(&self) -> String {
        format!(
            "from_domains = [\"acme.example\"]\ndevelopment = true\n\
             [[smtp]]\nname = \"mailpit\"\nplugin = \"mailpit\"\nlimits = {{ connections = 4 }}\n\
             settings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\n\
             [[feedback]]\nplugin = \"mailpit\"\ndomains = [\"*\"]\ninterval = \"1s\"\nsettings = {{ url = \"http://{}\" }}\n",
            self.smtp.port(),
            self.http
        )
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("http://{}/api/v1/{path}", self.http)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn put(&self, path: &str, body: Value) {
        let answer = self.client.put(format!("http://{}/api/v1/{path}", self.http)).json(&body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }

    /// The summaries of all messages that came in, the oldest first. Call it while nothing comes in.
    pub async fn messages(&self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let page = self.get(&format!("messages?limit={PAGE}&start={}", all.len())).await;
            let messages = page["messages"].as_array().unwrap();
            all.extend(messages.iter().cloned());
            if messages.is_empty() {
                assert_eq!(Some(all.len() as u64), page["total"].as_u64());
                all.reverse();
                return all;
            }
        }
    }

    /// As a person does who opens the messages.
    pub async fn mark_read(&self, messages: &[Value]) {
        let ids: Vec<&Value> = messages.iter().map(|message| &message["ID"]).collect();
        self.put("messages", json!({"IDs": ids, "Read": true})).await;
    }

    /// Answers RCPT with `code` in `percent` of all cases.
    pub async fn refuse_recipients(&self, code: u16, percent: u32) {
        self.put("chaos", json!({"Recipient": {"ErrorCode": code, "Probability": percent}})).await;
    }
}

/// The one recipient of a summary.
pub fn recipient(message: &Value) -> String {
    let to = message["To"].as_array().unwrap();
    assert_eq!(to.len(), 1, "{message}");
    to[0]["Address"].as_str().unwrap().to_owned()
}
