//! Mailpit's HTTP API, as far as the loop needs it: the list of messages, page by page.
//!
//! Invariant: it only ever asks for lists. `GET /api/v1/message/{ID}` marks the message as read, so a loop that used it
//! would make its facts up. No error text holds the server's address or credentials.

use postwarm_plugin_api::{PollError, Secret};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// The largest answer that is read: 16 KiB a message.
const ANSWER_OCTETS_MAX: usize = 16 * 1024 * 1024;
/// The messages of one page.
pub const PAGE_MESSAGES: u64 = 1_000;
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// One page of the list, newest first.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// The messages that Mailpit holds.
    pub total: u64,
    pub messages: Vec<Summary>,
}

/// What the list says of a message.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary {
    #[serde(rename = "ID")]
    pub id: String,
    /// Without angle brackets.
    #[serde(rename = "MessageID")]
    pub message_id: String,
    pub read: bool,
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// When it came in, RFC 3339.
    #[serde(default)]
    pub created: String,
}

/// A Mailpit and how to get in.
pub struct Api {
    http: reqwest::Client,
    url: String,
    credentials: Option<(String, Secret)>,
}

impl Api {
    /// Prepares to talk to the server at `url`, which has no slash at its end.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(url: String, credentials: Option<(String, Secret)>) -> Result<Api, PollError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            // The credentials are for this server alone.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| PollError::Refused(format!("cannot set up HTTP: {}", words(&error))))?;
        Ok(Api { http, url, credentials })
    }

    /// Reads up to `limit` messages behind the `start` newest ones.
    ///
    /// # Errors
    /// `Refused` for 401 and 403; `Temporary` for everything else that is no list of messages.
    pub async fn messages(&self, start: u64, limit: u64, deadline: Instant) -> Result<Page, PollError> {
        let time = deadline.saturating_duration_since(Instant::now()).min(REQUEST_MAX);
        let request = self.http.get(format!("{}/api/v1/messages", self.url)).query(&[("start", start), ("limit", limit)]).timeout(time);
        let request = match &self.credentials {
            Some((username, password)) => request.basic_auth(username, Some(password.expose())),
            None => request,
        };
        let failed = |error: reqwest::Error| PollError::Temporary(format!("cannot read from mailpit: {}", words(&error)));
        let mut response = request.send().await.map_err(failed)?;
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403) => {
                return Err(PollError::Refused(format!(
                    "mailpit answered {status}; set `username` and `password` as its ui-auth-file has them"
                )));
            }
            status => return Err(PollError::Temporary(format!("mailpit answered {status}"))),
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > ANSWER_OCTETS_MAX {
                return Err(PollError::Temporary(format!("mailpit's answer is longer than {ANSWER_OCTETS_MAX} octets")));
            }
            answer.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&answer).map_err(|error| PollError::Temporary(format!("mailpit's answer is no list of messages: {error}")))
    }
}

/// The error and its causes without the address, which may hold what is nobody's business.
fn words(error: &reqwest::Error) -> String {
    let mut words = if error.is_timeout() { "it took too long".to_owned() } else { String::new() };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if !words.is_empty() {
            words.push_str(": ");
        }
        words.push_str(&error.to_string());
        cause = error.source();
    }
    if words.is_empty() { "the request failed".to_owned() } else { words }
}
