//! The typed settings that the rest of the program reads.

use crate::config::secrets::Fingerprint;
use crate::model::name::OrgName;
use postwarm_plugin_api::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything that the configuration folder says, with the environment's overrides applied.
#[derive(Debug, Clone)]
pub struct Settings {
    pub process: Arc<Process>,
    pub providers: Arc<Providers>,
    pub organizations: BTreeMap<OrgName, Arc<Organization>>,
    /// Organizations that have a file and have not run since the start, because it was broken then and still is.
    pub unusable: BTreeSet<OrgName>,
}

/// `postwarm.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub warmup: Listener,
    pub health: Listener,
    /// `[organizations] default`: who is meant without a key, besides the only one.
    pub default_organization: Option<OrgName>,
    /// `allow_development_beyond_loopback` (default false).
    pub allow_development_beyond_loopback: bool,
    /// `[plugins] directory` (default `plugins`).
    pub plugins_directory: PathBuf,
    pub events: Events,
    /// `[shares.NAME] limits`.
    pub shares: BTreeMap<String, Vec<Window>>,
    /// `[delivery] sending_rows_max` (rows, default 512): bounds what a power loss leaves unknown.
    pub sending_rows_max: usize,
    /// `[delivery] drain_max` (default 30s): how long SIGTERM waits for replies.
    pub drain_max: Duration,
    /// `[health] watch_for` (default 7d): how long a sent message is watched.
    pub watch_for: Duration,
    /// `[dns]`.
    pub dns: Dns,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Defaults: warmup `127.0.0.1:8080`, health `127.0.0.1:8081`.
    pub listen: SocketAddr,
}

/// `[events]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// A log in the data folder; for both services in one process.
    Embedded {
        retention: Duration,
    },
    Kafka(Kafka),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// Topic names; defaults `email-events`, `emailId-events`, `health-facts`.
    pub emails: String,
    pub recipients: String,
    pub facts: String,
}

/// `[dns]`: how mail exchangers are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// `nameserver = "127.0.0.1:53"`; the system's where absent.
    pub nameserver: Option<SocketAddr>,
    /// `timeout` of one lookup (default 2s).
    pub timeout: Duration,
    /// `enabled` (default true); false finds providers by domain alone.
    pub enabled: bool,
}

/// `providers.toml`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Providers {
    /// Mailbox providers by name.
    pub mailbox: BTreeMap<String, MailboxProvider>,
    /// SMTP presets by name.
    pub presets: BTreeMap<String, Preset>,
}

/// `[provider.NAME]`: who receives mail.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MailboxProvider {
    /// Recipient domains, lower case.
    pub domains: Vec<String>,
    /// Suffixes of mail exchanger names, lower case, without a leading dot: `google.com` covers `x.google.com`.
    pub mx_suffixes: Vec<String>,
    /// What any organization may send to it, unless the organization says otherwise.
    pub limits: Vec<Window>,
}

/// `[preset.NAME]`: an SMTP provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Preset {
    /// What `CHOOSEN_SMTP_CLIENT_TYPE` may call it, besides its name.
    pub aliases: Vec<String>,
    pub plugin: String,
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Settings key to the environment variable that holds the secret.
    pub credentials: BTreeMap<String, String>,
    pub limits: Vec<Window>,
    pub connections: Option<u32>,
}

/// `organizations/NAME.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Organization {
    pub name: OrgName,
    /// Lower case; a From address must be in one of them.
    pub from_domains: Vec<String>,
    pub development: bool,
    /// Without a trailing slash. In development the listener; `None`: no List-Unsubscribe.
    pub public_url: Option<String>,
    pub on_unknown: OnUnknown,
    /// The organization's own limits.
    pub limits: Vec<Window>,
    /// The organization's limits by mailbox provider.
    pub provider_limits: BTreeMap<String, Vec<Window>>,
    pub dkim: Vec<Dkim>,
    /// In order of preference.
    pub smtp: Vec<SmtpEntry>,
    pub feedback: Vec<FeedbackEntry>,
    pub backfill: BackfillSettings,
    pub retry: Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnknown {
    /// A person decides (default).
    Hold,
    Resend,
}

/// At most `messages` in any window of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    pub messages: u64,
    pub per: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Dkim {
    /// The `d=` domain, lower case; signs mail from it and its subdomains.
    pub domain: String,
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub key: SecretRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DkimAlgorithm {
    RsaSha256,
    Ed25519Sha256,
}

/// Where a secret is: `{ env = "X" }` or `{ file = "..." }` (relative to the TOML file).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    Env(String),
    File {
        /// Ready to open: joined to the folder of the TOML file.
        path: PathBuf,
        /// Of what the file held when the TOML was read, so that an edit of the file alone makes settings that differ.
        /// `None`: it could not be read.
        fingerprint: Option<Fingerprint>,
    },
    /// It stands in the TOML file itself, which others cannot read; `check` warns.
    Literal(Secret),
}

/// `[[smtp]]`, with its preset applied.
#[derive(Debug, Clone, PartialEq)]
pub struct SmtpEntry {
    pub name: String,
    /// The plugin's id.
    pub plugin: String,
    /// Without the secrets.
    pub settings: serde_json::Map<String, serde_json::Value>,
    pub secrets: BTreeMap<String, SecretRef>,
    pub limits: Vec<Window>,
    /// `limits.connections` (default 10).
    pub connections: u32,
    pub share: Option<String>,
}

/// `[[feedback]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackEntry {
    /// Default: the plugin's id, numbered where it stands twice.
    pub name: String,
    pub plugin: String,
    /// Recipient domains: exact, `*.example.com`, or `*`. The most specific entry alone answers for a domain.
    pub domains: Vec<String>,
    /// Default 30s; at least 100ms.
    pub interval: Duration,
    pub settings: serde_json::Map<String, serde_json::Value>,
    pub secrets: BTreeMap<String, SecretRef>,
}

/// `[backfill]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackfillSettings {
    /// `per_recipient` (default 1 message per 10s).
    pub per_recipient: Window,
    /// `hold_max` (default 1h): how long a deferred email holds the next one up.
    pub hold_max: Duration,
}

/// `[retry]`: when deferred mail is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The waits between attempts; the last repeats. Default 1m, 5m, 15m, 1h, 4h.
    pub schedule: Vec<Duration>,
    /// After this long since it was queued, the next refusal is final. Default 72h.
    pub give_up_after: Duration,
    /// Each wait varies by this part, up and down. Default 0.1.
    pub jitter: f64,
}

impl Settings {
    /// The organization that a request without a key means. One that cannot be used makes no other the only one.
    pub fn without_key(&self) -> Option<&Arc<Organization>> {
        match (&self.process.default_organization, self.organizations.len() + self.unusable.len()) {
            (Some(name), _) => self.organizations.get(name),
            (None, 1) => self.organizations.values().next(),
            (None, _) => None,
        }
    }
}

/// Where requests come from decides whether development without a key is allowed.
pub fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}
