//! Broken files, each with its precise error.

use super::{DEMO, Folder, PROVIDERS};
use expect_test::{Expect, expect};

fn check(path: &str, text: &str, expected: Expect) {
    let folder = Folder::demo(&[(path, text)]);
    let loaded = folder.load();
    assert!(loaded.settings.is_none(), "a broken file must not be taken up");
    expected.assert_eq(&folder.shown(&loaded.problems));
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    check(
        "postwarm.toml",
        "[warmup]\nlisten = \"127.0.0.1:8080\n[health]\nlisten = 127.0.0.1:8081\n",
        expect![[r#"
            postwarm.toml:2:25: no valid TOML: invalid basic string; expected `"`
            postwarm.toml:4:15: no valid TOML: invalid float; write a text in quotes
        "#]],
    );
    check(
        "organizations/demo.toml",
        "from_domains = [\"a.example\"\ndevelopment = true\n",
        expect![[r#"
        organizations/demo.toml:2:1: no valid TOML: missing comma between array elements; expected `,`
    "#]],
    );
    check(
        "postwarm.toml",
        "[warmup]\n[warmup]\n",
        expect![[r#"
            postwarm.toml:2:2: no valid TOML: `warmup` is here a second time; put all of it under one [warmup], or write [[warmup]] if it is a list of them
        "#]],
    );
}

#[test]
fn an_unknown_key_names_the_nearest() {
    check(
        "postwarm.toml",
        "[warmup]\nlisen = \"127.0.0.1:8080\"\n[helth]\n[dns]\nzzz = 1\n",
        expect![[r#"
        postwarm.toml:2:1: `lisen` is no key of [warmup]; did you mean `listen`?
        postwarm.toml:3:2: `helth` is no key of the file; did you mean `health`?
        postwarm.toml:5:1: `zzz` is no key of [dns]; use `nameserver`, `timeout` or `enabled`
    "#]],
    );
}

#[test]
fn values_of_the_wrong_kind_say_what_would_be_right() {
    check(
        "postwarm.toml",
        r#"allow_development_beyond_loopback = "yes"
[warmup]
listen = "localhost:8080"
[health]
watch_for = "a week"
[events]
kind = "kafak"
retention = 30
[delivery]
sending_rows_max = 0
drain_max = "2h"
[dns]
nameserver = "dns.example"
[shares.Relay]
limits = { per_day = "many" }
"#,
        expect![[r#"
            postwarm.toml:1:37: `allow_development_beyond_loopback` is a text; write it as true or false
            postwarm.toml:3:10: `localhost:8080` is no address to listen on; write an IP address and a port, such as "127.0.0.1:8080"
            postwarm.toml:5:13: `a week` is no duration; write it as "30s", "1h" or "7d"
            postwarm.toml:7:8: `kind` cannot be `kafak`; did you mean `kafka`?
            postwarm.toml:8:13: `retention` is a number; write it as "30s", "1h" or "7d"
            postwarm.toml:10:20: `sending_rows_max` is out of range; use 1 to 100000
            postwarm.toml:11:13: `drain_max` is out of range; use 0s to 1h
            postwarm.toml:13:14: `dns.example` is no address of a nameserver; write an IP address and a port, such as "127.0.0.1:53"
            postwarm.toml:14:9: `Relay` is no name; use 1 to 63 lower case letters, digits, hyphens and underscores, such as "relay-1"
            postwarm.toml:15:22: `per_day` is a text; write it as a whole number from 1
        "#]],
    );
}

#[test]
fn an_organization_that_names_what_is_not_there_is_told_what_is() {
    check(
        "organizations/demo.toml",
        r#"from_domains = ["demo.example"]
development = true
limits = { provider.bigmial = { per_day = 1 } }
[[smtp]]
plugin = "rely"
[[smtp]]
preset = "bigmal"
[[smtp]]
name = "r"
plugin = "relay"
settings = { host = "h" }
share = "relay-1"
[[smtp]]
[[feedback]]
plugin = "relay"
domains = ["*"]
"#,
        expect![[r#"
            organizations/demo.toml:3:21: there is no provider `bigmial` in providers.toml; did you mean `bigmail`?
            organizations/demo.toml:5:10: there is no SMTP client plugin `rely`; did you mean `relay`?
            organizations/demo.toml:7:10: there is no preset `bigmal` in providers.toml; did you mean `bigmail`?
            organizations/demo.toml:12:9: there is no share `relay-1` in postwarm.toml; add [shares.NAME] to postwarm.toml
            organizations/demo.toml:13:1: [[smtp]] has no plugin and no preset; name one: plugin = "..." or preset = "..."
            organizations/demo.toml:15:10: there is no feedback loop plugin `relay`; use `mailbox`
        "#]],
    );
}

#[test]
fn a_plugin_that_refuses_its_settings_is_shown_at_the_setting() {
    check(
        "organizations/demo.toml",
        r#"from_domains = ["demo.example"]
development = true
[[smtp]]
plugin = "relay"
settings = { port = 99999 }
[[smtp]]
name = "second"
preset = "bigmail"
settings = { port = "x" }
[[smtp]]
name = "third"
plugin = "relay"
"#,
        expect![[r#"
            organizations/demo.toml:5:12: `settings.host` is missing; write host = "mail.example.com"
            organizations/demo.toml:5:21: `settings.port` is no port; use 1 to 65535
            organizations/demo.toml:9:21: `settings.port` is no port; use 1 to 65535
            organizations/demo.toml:12:10: `settings.host` is missing; write host = "mail.example.com"
        "#]],
    );
}

#[test]
fn a_name_or_a_window_that_stands_twice_is_refused() {
    check(
        "organizations/demo.toml",
        r#"from_domains = ["demo.example"]
development = true
limits = { per_second = 5, windows = [{ messages = 7, per = "1s" }, { messages = 0, per = "0s" }] }
[[smtp]]
name = "a"
plugin = "sandbox"
[[smtp]]
name = "a"
plugin = "sandbox"
"#,
        expect![[r#"
            organizations/demo.toml:3:39: a second limit for the same window of 1s; keep one of them
            organizations/demo.toml:3:82: `messages` is out of range; use 1 to 1000000000000
            organizations/demo.toml:3:91: `per` is out of range; use 1ms to 1year
            organizations/demo.toml:8:8: a second SMTP client is named `a`; give each its own name = "..."
        "#]],
    );
}

#[test]
fn an_organization_without_what_it_needs_is_told_so() {
    check(
        "organizations/demo.toml",
        "development = true\n[[dkim]]\ndomain = \"demo.example\"\n",
        expect![[r#"
        organizations/demo.toml:1:1: the file has no `from_domains`; add from_domains = ["acme.example"]
        organizations/demo.toml:2:1: [[dkim]] has no `selector`; add selector = "s1"
        organizations/demo.toml:2:1: [[dkim]] has no `key`; add key = { env = "VARIABLE" }
    "#]],
    );
    check(
        "organizations/demo.toml",
        "from_domains = []\n",
        expect![[r#"
        organizations/demo.toml:1:16: `from_domains` is empty; write it as ["acme.example"]
    "#]],
    );
    check(
        "organizations/demo.toml",
        "from_domains = [\"demo@example\", \"-a.example\"]\nsmtp = { plugin = \"sandbox\" }\n",
        expect![[r#"
            organizations/demo.toml:1:17: `demo@example` is no domain; write it as "acme.example"
            organizations/demo.toml:1:33: `-a.example` is no domain; write it as "acme.example"
            organizations/demo.toml:2:8: `smtp` is a table; write it as a [[smtp]] for each
        "#]],
    );
}

#[test]
fn a_dkim_key_that_cannot_sign_is_a_problem_and_is_not_shown() {
    let dkim = |selector: &str, algorithm: &str, variable: &str| {
        format!(
            "[[dkim]]\ndomain = \"demo.example\"\nselector = \"{selector}\"\nalgorithm = \"{algorithm}\"\nkey = {{ env = \"{variable}\" }}\n"
        )
    };
    let keys = [dkim("s1", "rsa-sha256", "NO_PEM"), dkim("s2", "ed25519-sha256", "SHORT"), dkim("s3", "ed25519-sha256", "SEED")];
    let text = format!("{DEMO}{}", keys.concat());
    let folder = Folder::demo(&[("organizations/demo.toml", &text)])
        .set("NO_PEM", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
        .set("SHORT", "c2hvcnQ=")
        .set("SEED", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    expect![[r#"
        organizations/demo.toml:10:7: `key` is no RSA key in PEM (PKCS#1 or PKCS#8); name the private key of the selector s1 of demo.example, and its algorithm
        organizations/demo.toml:15:7: `key` is no Ed25519 key (PEM with PKCS#8, or 32 octets in base64); name the private key of the selector s2 of demo.example, and its algorithm
    "#]].assert_eq(&folder.shown(&folder.load().problems));
}

#[test]
fn a_secret_that_is_not_there_is_a_problem() {
    check(
        "organizations/demo.toml",
        r#"from_domains = ["demo.example"]
development = true
[[dkim]]
domain = "demo.example"
selector = "s1"
key = { file = "absent.pem" }
[[smtp]]
plugin = "relay"
settings = { host = "h", user = "u", password = { env = "NOT_SET" } }
[[feedback]]
plugin = "mailbox"
domains = ["*"]
settings = { token = { envv = "X" } }
[[feedback]]
plugin = "mailbox"
domains = ["demo.example"]
settings = { token = "literal" }
"#,
        expect![[r#"
            organizations/demo.toml:6:7: `key`: cannot read `organizations/absent.pem` (No such file or directory (os error 2)); put a readable file there, or name another
            organizations/demo.toml:9:49: `password`: environment variable `NOT_SET` is not set; set it, or name another
            organizations/demo.toml:13:22: `token` is no reference to a secret; write it as { env = "VARIABLE" } or { file = "PATH" }
            organizations/demo.toml:17:22: the secret `token` stands in a file that others can read; write token = { env = "VARIABLE" } or { file = "PATH" }
        "#]],
    );
}

#[test]
fn development_beyond_loopback_needs_a_word() {
    check(
        "postwarm.toml",
        "[warmup]\nlisten = \"0.0.0.0:8080\"\n[organizations]\ndefault = \"acme\"\n",
        expect![[r#"
        postwarm.toml:4:11: there is no organization `acme`; add organizations/acme.toml, or name another
    "#]],
    );
    check(
        "postwarm.toml",
        "[warmup]\nlisten = \"0.0.0.0:8080\"\n",
        expect![[r#"
        organizations/demo.toml:3:15: development = true lets in everybody who reaches the service, and warmup listens on 0.0.0.0:8080; listen on 127.0.0.1, or set allow_development_beyond_loopback = true in postwarm.toml if something else keeps strangers out
    "#]],
    );
    let folder = Folder::demo(&[("postwarm.toml", "allow_development_beyond_loopback = true\n[warmup]\nlisten = \"0.0.0.0:8080\"\n")]);
    assert!(folder.load().settings.is_some());
}

#[test]
fn providers_that_contradict_each_other_are_refused() {
    let text = format!(
        "{PROVIDERS}\n[provider.other]\ndomains = [\"BigMail.example\"]\naliases = [\"big\"]\n[preset.two]\naliases = [\"bigmail\"]\nplugin = \"nothing\"\n[preset.three]\nplugin = \"relay\"\nsettings = {{ password = \"x\", port = inf }}\n"
    );
    check(
        "providers.toml",
        &text,
        expect![[r#"
        providers.toml:15:12: `bigmail.example` already belongs to [provider.bigmail] at providers.toml:4:12; name it once
        providers.toml:16:12: `big` already names [provider.bigmail] at providers.toml:3:12; use another alias
        providers.toml:18:12: `bigmail` already names [preset.bigmail] at providers.toml:7:9; use another alias
        providers.toml:19:10: there is no SMTP client plugin `nothing`; use `relay` or `sandbox`
        providers.toml:22:14: `password` is a secret, which a preset cannot hold; name its variable under credentials: { password = "VARIABLE" }
        providers.toml:22:37: settings have no infinite number; write a finite one
    "#]],
    );
}

#[test]
fn of_two_definitions_the_later_in_the_file_is_refused_and_the_earlier_named() {
    check(
        "providers.toml",
        r#"[provider.zebra]
aliases = ["Z"]
domains = ["a.example", "a.example"]
mx_suffixes = ["mx.example"]
[provider.ant]
aliases = ["z"]
domains = ["b.example", "A.example"]
mx_suffixes = ["mx.example"]
[preset.bigmail]
plugin = "relay"
settings = { host = "h" }
"#,
        expect![[r#"
            providers.toml:3:25: `a.example` already belongs to [provider.zebra] at providers.toml:3:12; name it once
            providers.toml:6:12: `z` already names [provider.zebra] at providers.toml:2:12; use another alias
            providers.toml:7:25: `a.example` already belongs to [provider.zebra] at providers.toml:3:12; name it once
            providers.toml:8:16: `mx.example` already belongs to [provider.zebra] at providers.toml:4:16; name it once
        "#]],
    );
}

#[test]
fn files_that_do_not_belong_are_named() {
    check(
        "organizations/Acme Corp.toml",
        DEMO,
        expect![[r#"
            organizations/Acme Corp.toml:1:1: `Acme Corp` is no organization name; rename the file: use 1 to 63 lower case letters, digits and hyphens
        "#]],
    );
    let folder = Folder::demo(&[("organizations/demo.keys", "abc\n")]);
    std::fs::write(folder.path("postwarm.toml"), b"[warmup]\n# caf\xe9\n").unwrap();
    expect![[r#"
        organizations/demo.keys:1:1: is no line of a keys file; remove it, and make a key with `postwarm key new`
        postwarm.toml:2:6: is not UTF-8 here; save the file as UTF-8
    "#]]
    .assert_eq(&folder.shown(&folder.load().problems));
}

#[test]
fn what_stands_twice_is_named_once() {
    let check = |text: &str, expected: Expect| check("organizations/demo.toml", text, expected);
    check(
        "[backfill]\nhold_max = \"1s\"\n[retry]\njitter = 1\n[backfill]\nhold_max = \"2s\"\n[retry]\n",
        expect![[r#"
            organizations/demo.toml:5:2: no valid TOML: `backfill` is here a second time; put all of it under one [backfill], or write [[backfill]] if it is a list of them
            organizations/demo.toml:7:2: no valid TOML: `retry` is here a second time; put all of it under one [retry], or write [[retry]] if it is a list of them
        "#]],
    );
    check(
        "limits = { per_day = 1, per_day = 2 }\non_unknown = \"hold\"\non_unknown = \"hold\"\n",
        expect![[r#"
            organizations/demo.toml:1:25: no valid TOML: `per_day` is here a second time; keep one of them
            organizations/demo.toml:3:1: no valid TOML: `on_unknown` is here a second time; keep one of them
        "#]],
    );
}

#[test]
fn kafka_without_a_broker_and_health_alone_without_kafka_are_refused() {
    check(
        "postwarm.toml",
        "[events]\nkind = \"kafka\"\n",
        expect![[r#"
        postwarm.toml:2:8: kind is kafka and no broker is named; add kafka = { brokers = ["localhost:9092"] } to [events], or set KAFKA_BROKERS
    "#]],
    );
    check(
        "postwarm.toml",
        "[events]\nkind = \"kafka\"\nkafka = { brokers = [\"a:1\"], topics = { emails = \"x\", recipients = \"x\" } }\n",
        expect![[r#"
        postwarm.toml:3:68: `x` is the topic of emails already; give each its own topic
    "#]],
    );
    check(
        "postwarm.toml",
        "[warmup]\nlisten = \"127.0.0.1:8081\"\n",
        expect![[r#"
        postwarm.toml:1:1: health listens on 127.0.0.1:8081, and so does warmup; give it another port
    "#]],
    );
    let mut folder = Folder::demo(&[]);
    folder.serving = crate::config::serving::Serving::Health;
    expect![[r#"
        postwarm.toml:1:1: the embedded event log serves one process, and health alone would see no event; serve both in one process, or set kind = "kafka" in [events] or KAFKA_BROKERS
    "#]].assert_eq(&folder.shown(&folder.load().problems));
}

#[test]
fn whatever_part_of_a_file_is_there_it_is_taken_or_refused_with_a_place() {
    let organization = super::load::ACME;
    for (path, text) in [("organizations/acme.toml", organization), ("providers.toml", PROVIDERS), ("postwarm.toml", super::load::SHARES)] {
        let files = [("postwarm.toml", super::load::SHARES), ("providers.toml", PROVIDERS), ("organizations/acme.toml", organization)];
        let folder = Folder::new(&files);
        for end in 0..text.len() {
            folder.write(path, &text[..end]);
            let loaded = folder.load();
            assert_eq!(loaded.settings.is_none(), !loaded.problems.is_empty(), "{path} to byte {end}");
            assert!(loaded.problems.iter().all(|problem| problem.line > 0), "{path} to byte {end}: {:?}", loaded.problems);
        }
    }
}
