//! The public format of the three kinds of file, as data. `docs/schema/` is generated from it.
//!
//! Invariant: every key of the configuration stands here once.

use crate::config::form::{Key, Table, Value};
use crate::config::texts;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// As `humantime` counts it.
const YEAR: Duration = Duration::from_secs(31_557_600);
const MESSAGES: Value = Value::Count { min: 1, max: 1_000_000_000_000 };

const fn key(name: &'static str, value: Value, about: &'static str) -> Key {
    Key { name, about, value, required: false }
}

const fn required(name: &'static str, value: Value, about: &'static str) -> Key {
    Key { name, about, value, required: true }
}

/// `config/postwarm.toml`.
pub static PROCESS: Table = Table {
    name: "the file",
    keys: &[
        key("warmup", Value::Table(&WARMUP), "The service that sends."),
        key("health", Value::Table(&HEALTH), "The service that measures."),
        key("organizations", Value::Table(&ORGANIZATIONS), "All organizations."),
        key(
            "allow_development_beyond_loopback",
            Value::Flag,
            "Whether a development organization may be reached beyond loopback, because something else keeps strangers out. Default false.",
        ),
        key("plugins", Value::Table(&PLUGINS), "External plugins."),
        key("events", Value::Table(&EVENTS), "The event log between the services."),
        key(
            "shares",
            Value::Named { names: &texts::NAME, of: &Value::Table(&SHARE) },
            "Accounts of a provider that several clients or organizations use, by name.",
        ),
        key("delivery", Value::Table(&DELIVERY), "How mail leaves."),
        key("dns", Value::Table(&DNS), "How mail exchangers are looked up."),
    ],
};

static WARMUP: Table =
    Table { name: "[warmup]", keys: &[key("listen", Value::Text(&texts::LISTEN), "Where it listens. Default 127.0.0.1:8080.")] };
static HEALTH: Table = Table {
    name: "[health]",
    keys: &[
        key("listen", Value::Text(&texts::LISTEN), "Where it listens. Default 127.0.0.1:8081."),
        key("watch_for", Value::Duration { min: SECOND, max: YEAR }, "How long a sent message is watched. Default 7d."),
    ],
};
static ORGANIZATIONS: Table = Table {
    name: "[organizations]",
    keys: &[key("default", Value::Text(&texts::NAME), "Who is meant by a request without a key. Default: the only one.")],
};
static PLUGINS: Table = Table {
    name: "[plugins]",
    keys: &[key("directory", Value::Text(&texts::PATH), "The folder of external plugins, from the working directory. Default plugins.")],
};
static EVENTS: Table = Table {
    name: "[events]",
    keys: &[
        key(
            "kind",
            Value::Word(&["embedded", "kafka"]),
            "Embedded: in the data folder, for both services in one process. Default embedded.",
        ),
        key(
            "retention",
            Value::Duration { min: HOUR, max: Duration::from_secs(3_155_760_000) },
            "How long the embedded log keeps a record. Default 90d.",
        ),
        key("kafka", Value::Table(&KAFKA), "For kind = \"kafka\"."),
    ],
};
static KAFKA: Table = Table {
    name: "kafka",
    keys: &[
        key("brokers", Value::List { of: &Value::Text(&texts::BROKER), min: 1 }, "host:port each; KAFKA_BROKERS stands above it."),
        key("topics", Value::Table(&TOPICS), "Topic names."),
    ],
};
static TOPICS: Table = Table {
    name: "topics",
    keys: &[
        key("emails", Value::Text(&texts::TOPIC), "One record per step of an email. Default email-events."),
        key("recipients", Value::Text(&texts::TOPIC), "One record per change of a delivery. Default emailId-events."),
        key("facts", Value::Text(&texts::TOPIC), "What feedback loops report. Default health-facts."),
    ],
};
static SHARE: Table =
    Table { name: "[shares.NAME]", keys: &[required("limits", Value::Table(&LIMITS), "What all its users may send together.")] };
static DELIVERY: Table = Table {
    name: "[delivery]",
    keys: &[
        key(
            "sending_rows_max",
            Value::Count { min: 1, max: 100_000 },
            "Deliveries recorded as sending ahead of the wire; bounds what a power loss leaves unknown. Default 512.",
        ),
        key("drain_max", Value::Duration { min: Duration::ZERO, max: HOUR }, "How long SIGTERM waits for replies. Default 30s."),
    ],
};
static DNS: Table = Table {
    name: "[dns]",
    keys: &[
        key("nameserver", Value::Text(&texts::NAMESERVER), "Whom to ask. Default: the system's."),
        key("timeout", Value::Duration { min: Duration::from_millis(10), max: Duration::from_secs(60) }, "Of one lookup. Default 2s."),
        key("enabled", Value::Flag, "False finds providers by domain alone. Default true."),
    ],
};

/// `config/providers.toml`.
pub static PROVIDERS: Table = Table {
    name: "the file",
    keys: &[
        key(
            "provider",
            Value::Named { names: &texts::NAME, of: &Value::Table(&PROVIDER) },
            "Mailbox providers: who receives mail, by name.",
        ),
        key("preset", Value::Named { names: &texts::NAME, of: &Value::Table(&PRESET) }, "SMTP providers: who takes mail on, by name."),
    ],
};
static PROVIDER: Table = Table {
    name: "[provider.NAME]",
    keys: &[
        key("aliases", Value::List { of: &Value::Text(&texts::ALIAS), min: 0 }, "Other names for it."),
        key("domains", Value::List { of: &Value::Text(&texts::DOMAIN), min: 0 }, "Recipient domains."),
        key(
            "mx_suffixes",
            Value::List { of: &Value::Text(&texts::DOMAIN), min: 0 },
            "Ends of the names of its mail exchangers: google.com covers x.google.com.",
        ),
        key("limits", Value::Table(&LIMITS), "What an organization may send to it, unless the organization says otherwise."),
    ],
};
static PRESET: Table = Table {
    name: "[preset.NAME]",
    keys: &[
        key("aliases", Value::List { of: &Value::Text(&texts::ALIAS), min: 0 }, "What CHOOSEN_SMTP_CLIENT_TYPE may call it."),
        required("plugin", Value::Text(&texts::NAME), "The plugin that speaks to it."),
        key("settings", Value::Settings, "The plugin's settings."),
        key(
            "credentials",
            Value::Named { names: &texts::NAME, of: &Value::Text(&texts::VARIABLE) },
            "Settings key to the environment variable that holds it. An absent variable means no credential.",
        ),
        key("limits", Value::Table(&CLIENT_LIMITS), "What an account of it may send."),
    ],
};

/// `config/organizations/NAME.toml`.
pub static ORGANIZATION: Table = Table {
    name: "the file",
    keys: &[
        required("from_domains", Value::List { of: &Value::Text(&texts::DOMAIN), min: 1 }, "A From address must be in one of them."),
        key("development", Value::Flag, "No API key is needed, on loopback only. Default false."),
        key(
            "public_url",
            Value::Text(&texts::URL),
            "Where unsubscribe links point. Default: in development the listener, otherwise no List-Unsubscribe.",
        ),
        key(
            "on_unknown",
            Value::Word(&["hold", "resend"]),
            "What becomes of a delivery in doubt: a person decides, or it is sent again. Default hold.",
        ),
        key("limits", Value::Table(&ORGANIZATION_LIMITS), "What the organization may send."),
        key("dkim", Value::List { of: &Value::Table(&DKIM), min: 0 }, "Keys that sign mail."),
        key("smtp", Value::List { of: &Value::Table(&SMTP), min: 0 }, "SMTP clients, in order of preference."),
        key(
            "feedback",
            Value::List { of: &Value::Table(&FEEDBACK), min: 0 },
            "Feedback loops; the most specific alone answers for a domain.",
        ),
        key("backfill", Value::Table(&BACKFILL), "How newcomers get the earlier emails."),
        key("retry", Value::Table(&RETRY), "When deferred mail is tried again."),
    ],
};
static DKIM: Table = Table {
    name: "[[dkim]]",
    keys: &[
        required("domain", Value::Text(&texts::DOMAIN), "The d= domain; signs mail from it and its subdomains."),
        required("selector", Value::Text(&texts::SELECTOR), "The s= selector."),
        key("algorithm", Value::Word(&["rsa-sha256", "ed25519-sha256"]), "Default rsa-sha256."),
        required("key", Value::Secret, "The private key in PEM."),
    ],
};
static SMTP: Table = Table {
    name: "[[smtp]]",
    keys: &[
        key("name", Value::Text(&texts::NAME), "Unique within the organization. Default: the preset's or the plugin's name."),
        key("plugin", Value::Text(&texts::NAME), "The plugin that sends; or name a preset."),
        key("preset", Value::Text(&texts::ALIAS), "A preset of providers.toml; or name a plugin."),
        key("settings", Value::Settings, "The plugin's settings; with a preset, they replace the preset's key by key."),
        key("limits", Value::Table(&CLIENT_LIMITS), "What it may send; with a preset, they replace the preset's window by window."),
        key("share", Value::Text(&texts::NAME), "A share of postwarm.toml whose limits hold as well."),
    ],
};
static FEEDBACK: Table = Table {
    name: "[[feedback]]",
    keys: &[
        key(
            "name",
            Value::Text(&texts::NAME),
            "Unique within the organization. Default: the plugin's name, numbered where it stands twice.",
        ),
        required("plugin", Value::Text(&texts::NAME), "The plugin that looks."),
        required(
            "domains",
            Value::List { of: &Value::Text(&texts::RECIPIENT_DOMAIN), min: 1 },
            "Recipient domains it answers for: exact, *.acme.example, or *.",
        ),
        key(
            "interval",
            Value::Duration { min: Duration::from_millis(100), max: Duration::from_secs(86_400) },
            "Between two looks. Default 30s.",
        ),
        key("settings", Value::Settings, "The plugin's settings."),
    ],
};
static BACKFILL: Table = Table {
    name: "[backfill]",
    keys: &[
        key("per_recipient", Value::Table(&WINDOW), "The pace for one newcomer. Default 1 message per 10s."),
        key("hold_max", Value::Duration { min: Duration::ZERO, max: YEAR }, "How long a deferred email holds the next one up. Default 1h."),
    ],
};
static RETRY: Table = Table {
    name: "[retry]",
    keys: &[
        key(
            "schedule",
            Value::List { of: &Value::Duration { min: MILLISECOND, max: YEAR }, min: 1 },
            "The waits between attempts; the last repeats. Default 1m, 5m, 15m, 1h, 4h.",
        ),
        key("give_up_after", Value::Duration { min: SECOND, max: YEAR }, "Since it was queued; the next refusal is final. Default 72h."),
        key("jitter", Value::Real { min: 0.0, max: 1.0 }, "Each wait varies by this part, up and down. Default 0.1."),
    ],
};

const PER_SECOND: Key = key("per_second", MESSAGES, "Messages in any second.");
const PER_MINUTE: Key = key("per_minute", MESSAGES, "Messages in any minute.");
const PER_HOUR: Key = key("per_hour", MESSAGES, "Messages in any hour.");
const PER_DAY: Key = key("per_day", MESSAGES, "Messages in any 24 hours.");
static ANY_WINDOW: Value = Value::Table(&WINDOW);
const WINDOWS: Key = key("windows", Value::List { of: &ANY_WINDOW, min: 0 }, "Any other window.");

/// The short forms and their windows.
pub const SHORT_WINDOWS: [(&str, Duration); 4] =
    [("per_second", SECOND), ("per_minute", Duration::from_secs(60)), ("per_hour", HOUR), ("per_day", Duration::from_secs(86_400))];

static LIMITS: Table = Table { name: "limits", keys: &[PER_SECOND, PER_MINUTE, PER_HOUR, PER_DAY, WINDOWS] };
static CLIENT_LIMITS: Table = Table {
    name: "limits",
    keys: &[
        PER_SECOND,
        PER_MINUTE,
        PER_HOUR,
        PER_DAY,
        WINDOWS,
        key("connections", Value::Count { min: 1, max: 10_000 }, "Connections at a time. Default 10."),
    ],
};
static ORGANIZATION_LIMITS: Table = Table {
    name: "limits",
    keys: &[
        PER_SECOND,
        PER_MINUTE,
        PER_HOUR,
        PER_DAY,
        WINDOWS,
        key(
            "provider",
            Value::Named { names: &texts::ALIAS, of: &Value::Table(&LIMITS) },
            "What of it may go to a mailbox provider of providers.toml, by name; `other` is everyone else.",
        ),
    ],
};
static WINDOW: Table = Table {
    name: "a window",
    keys: &[
        required("messages", MESSAGES, "At most so many messages,"),
        required("per", Value::Duration { min: MILLISECOND, max: YEAR }, "in any stretch of time of this length."),
    ],
};
