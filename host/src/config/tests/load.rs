//! What good files become.

use super::{DEMO, Folder, PROVIDERS, org};
use crate::config::settings::{Events, SecretRef, Window};
use expect_test::expect;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

pub const ACME: &str = r#"
from_domains = ["Acme.example", "acme.example"]
public_url = "https://mail.acme.example/"
limits = { per_day = 1_000_000, provider.BIG = { per_day = 20_000 } }
[[smtp]]
name = "main"
preset = "BIG"
settings = { port = 465 }
limits = { per_second = 2, windows = [{ messages = 400, per = "1day" }] }
share = "relay-1"
[[smtp]]
plugin = "relay"
settings = { host = "127.0.0.1" }
limits = { per_second = 200, per_hour = 50_000, per_day = 100_000, connections = 20 }
[[feedback]]
plugin = "mailbox"
domains = ["*"]
interval = "1s"
[[feedback]]
plugin = "mailbox"
domains = ["*.Acme.example"]
[backfill]
per_recipient = { messages = 2, per = "30s" }
[retry]
schedule = ["1s", "2s"]
jitter = 0
"#;

pub const SHARES: &str = "[shares.relay-1]\nlimits = { per_day = 50_000 }\n[organizations]\ndefault = \"acme\"\n";

#[test]
fn an_empty_folder_has_every_default() {
    let folder = Folder::new(&[]);
    let loaded = folder.load();
    expect![[r#"
        organizations: there is no organization; add organizations/NAME.toml
    "#]]
    .assert_eq(&folder.shown(&loaded.warnings));
    let settings = loaded.settings.unwrap();
    expect![[r#"
        Process {
            warmup: Listener {
                listen: 127.0.0.1:8080,
            },
            health: Listener {
                listen: 127.0.0.1:8081,
            },
            default_organization: None,
            allow_development_beyond_loopback: false,
            plugins_directory: "plugins",
            events: Embedded {
                retention: 7776000s,
            },
            shares: {},
            sending_rows_max: 512,
            drain_max: 30s,
            watch_for: 604800s,
            dns: Dns {
                nameserver: None,
                timeout: 2s,
                enabled: true,
            },
        }
    "#]]
    .assert_debug_eq(&settings.process);
}

#[test]
fn an_organization_gets_its_presets_limits_and_names() {
    let folder = Folder::new(&[("postwarm.toml", SHARES), ("providers.toml", PROVIDERS), ("organizations/acme.toml", ACME)]);
    let loaded = folder.load();
    expect![[""]].assert_eq(&folder.shown(&loaded.problems));
    expect![[r#"
        organizations/acme.toml:1:1: there is no API key, so that nobody can use it; make one with `postwarm key new acme`
        organizations/acme.toml:7:10: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, so that it is used without credentials; set what is missing, or write it into settings
    "#]]
    .assert_eq(&folder.shown(&loaded.warnings));
    let settings = loaded.settings.unwrap();
    assert_eq!(settings.without_key().unwrap().name, org("acme"));
    expect![[r#"
        Organization {
            name: OrgName(acme),
            from_domains: [
                "acme.example",
            ],
            development: false,
            public_url: Some(
                "https://mail.acme.example",
            ),
            on_unknown: Hold,
            limits: [
                Window {
                    messages: 1000000,
                    per: 86400s,
                },
            ],
            provider_limits: {
                "bigmail": [
                    Window {
                        messages: 20000,
                        per: 86400s,
                    },
                ],
            },
            dkim: [],
            smtp: [
                SmtpEntry {
                    name: "main",
                    plugin: "relay",
                    settings: {
                        "host": String("smtp.bigmail.example"),
                        "port": Number(465),
                    },
                    secrets: {},
                    limits: [
                        Window {
                            messages: 2,
                            per: 1s,
                        },
                        Window {
                            messages: 400,
                            per: 86400s,
                        },
                    ],
                    connections: 3,
                    share: Some(
                        "relay-1",
                    ),
                },
                SmtpEntry {
                    name: "relay",
                    plugin: "relay",
                    settings: {
                        "host": String("127.0.0.1"),
                    },
                    secrets: {},
                    limits: [
                        Window {
                            messages: 200,
                            per: 1s,
                        },
                        Window {
                            messages: 50000,
                            per: 3600s,
                        },
                        Window {
                            messages: 100000,
                            per: 86400s,
                        },
                    ],
                    connections: 20,
                    share: None,
                },
            ],
            feedback: [
                FeedbackEntry {
                    name: "mailbox",
                    plugin: "mailbox",
                    domains: [
                        "*",
                    ],
                    interval: 1s,
                    settings: {},
                    secrets: {},
                },
                FeedbackEntry {
                    name: "mailbox-2",
                    plugin: "mailbox",
                    domains: [
                        "*.acme.example",
                    ],
                    interval: 30s,
                    settings: {},
                    secrets: {},
                },
            ],
            backfill: BackfillSettings {
                per_recipient: Window {
                    messages: 2,
                    per: 30s,
                },
                hold_max: 3600s,
            },
            retry: Retry {
                schedule: [
                    1s,
                    2s,
                ],
                give_up_after: 259200s,
                jitter: 0.0,
            },
        }
    "#]]
    .assert_debug_eq(&settings.organizations[&org("acme")]);
}

#[test]
fn defaults_of_an_organization_are_those_of_the_documentation() {
    let settings = Folder::demo(&[]).load().settings.unwrap();
    expect![[r#"
        Organization {
            name: OrgName(demo),
            from_domains: [
                "demo.example",
            ],
            development: true,
            public_url: Some(
                "http://127.0.0.1:8080",
            ),
            on_unknown: Hold,
            limits: [],
            provider_limits: {},
            dkim: [],
            smtp: [
                SmtpEntry {
                    name: "sandbox",
                    plugin: "sandbox",
                    settings: {},
                    secrets: {},
                    limits: [],
                    connections: 10,
                    share: None,
                },
            ],
            feedback: [],
            backfill: BackfillSettings {
                per_recipient: Window {
                    messages: 1,
                    per: 10s,
                },
                hold_max: 3600s,
            },
            retry: Retry {
                schedule: [
                    60s,
                    300s,
                    900s,
                    3600s,
                    14400s,
                ],
                give_up_after: 259200s,
                jitter: 0.1,
            },
        }
    "#]]
    .assert_debug_eq(&settings.organizations[&org("demo")]);
}

#[test]
fn kafka_has_default_topics() {
    let text = "[events]\nkind = \"kafka\"\nkafka = { brokers = [\"a:1\"], topics = { facts = \"f\" } }\n";
    let settings = Folder::demo(&[("postwarm.toml", text)]).load().settings.unwrap();
    let Events::Kafka(kafka) = &settings.process.events else { panic!("kafka was asked for") };
    assert_eq!((kafka.emails.as_str(), kafka.recipients.as_str(), kafka.facts.as_str()), ("email-events", "emailId-events", "f"));
}

#[test]
fn credentials_of_a_preset_come_from_the_environment_where_it_has_them() {
    let text = "from_domains = [\"a.example\"]\ndevelopment = true\n[[smtp]]\npreset = \"bigmail\"\n";
    let folder = Folder::demo(&[("organizations/demo.toml", text)]).set("BIG_USER", "me").set("BIG_PASSWORD", "geheim");
    let settings = folder.load().settings.unwrap();
    let entry = &settings.organizations[&org("demo")].smtp[0];
    assert_eq!(entry.settings["user"], "me");
    assert_eq!(entry.secrets["password"], SecretRef::Env("BIG_PASSWORD".into()));
    assert_eq!(entry.limits, [Window { messages: 500, per: Duration::from_secs(86_400) }]);
    assert_eq!((entry.connections, entry.name.as_str()), (3, "bigmail"));
}

#[test]
fn a_literal_secret_is_let_through_where_nobody_else_reads_it() {
    let text = format!("{DEMO}[[smtp]]\nplugin = \"relay\"\nsettings = {{ host = \"h\", user = \"u\", password = \"geheim\" }}\n");
    let folder = Folder::demo(&[("organizations/demo.toml", &text)]);
    let set = |mode| std::fs::set_permissions(folder.path("organizations/demo.toml"), std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    assert!(folder.load().settings.is_none());
    set(0o600);
    let loaded = folder.load();
    expect![[r#"
        organizations/demo.toml:8:49: the secret `password` stands in the file itself; write password = { env = "VARIABLE" } or { file = "PATH" }
    "#]].assert_eq(&folder.shown(&loaded.warnings));
    let shown = format!("{:?}", loaded.settings.unwrap());
    assert!(!shown.contains("geheim"), "a secret is never shown");
}

#[test]
fn a_limit_that_never_matters_and_a_loop_without_effect_are_warned_of() {
    let text = format!(
        "limits = {{ per_second = 200, per_hour = 100 }}\n{DEMO}[[feedback]]\nplugin = \"mailbox\"\ndomains = [\"*\"]\n[[feedback]]\nplugin = \"mailbox\"\ndomains = [\"*\"]\n"
    );
    let folder = Folder::demo(&[("organizations/demo.toml", &text)]);
    let loaded = folder.load();
    expect![[r#"
        organizations/demo.toml:1:25: 200 messages in 1s never matter, because only 100 are allowed in 1h; remove one of the two limits
        organizations/demo.toml:12:12: `*` is answered for by `mailbox` already, so this has no effect; name it in one [[feedback]]
    "#]]
    .assert_eq(&folder.shown(&loaded.warnings));
    assert!(loaded.settings.is_some());
}
