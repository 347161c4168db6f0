//! What environment variables put above the files.

use super::{Folder, org};
use crate::config::serving::Serving;
use crate::config::settings::Events;
use expect_test::{Expect, expect};

#[test]
fn port_is_of_the_one_service_and_of_both_in_turn() {
    let row = |serving, port: &str| {
        let mut folder = Folder::demo(&[]).set("PORT", port).set("KAFKA_BROKERS", "a:1");
        folder.serving = serving;
        let process = folder.load().settings.unwrap().process;
        (process.warmup.listen.port(), process.health.listen.port())
    };
    assert_eq!(row(Serving::Warmup, "9000"), (9000, 8081));
    assert_eq!(row(Serving::Health, "9000"), (8080, 9000));
    assert_eq!(row(Serving::Both, "9000"), (9000, 9001));
    assert_eq!(row(Serving::Both, "0"), (0, 0));
    assert_eq!(row(Serving::Both, ""), (8080, 8081));
}

#[test]
fn kafka_variables_stand_above_the_file() {
    let row = |brokers: &str, topics: &str| {
        let folder = Folder::demo(&[]).set("KAFKA_BROKERS", brokers).set("KAFKA_TOPIC", topics);
        match &folder.load().settings.unwrap().process.events {
            Events::Kafka(kafka) => format!("{} {} {} {}", kafka.brokers.join("+"), kafka.emails, kafka.recipients, kafka.facts),
            Events::Embedded { .. } => "embedded".to_owned(),
        }
    };
    assert_eq!(row("", ""), "embedded");
    assert_eq!(row("a:1, b:2", ""), "a:1+b:2 email-events emailId-events health-facts");
    assert_eq!(row("a:1", "x,y"), "a:1 x y health-facts");
    assert_eq!(row("a:1", " x , y "), "a:1 x y health-facts");
}

#[test]
fn kafka_topic_names_two_topics_that_differ_or_is_refused() {
    for kafka in ["", "a:1"] {
        let row = |value: &str| {
            let folder = Folder::demo(&[]).set("KAFKA_BROKERS", kafka).set("KAFKA_TOPIC", value);
            let loaded = folder.load();
            assert!(loaded.settings.is_none(), "`{value}` is taken");
            folder.shown(&loaded.problems).replace(FORM, "")
        };
        assert_eq!(row("one"), "KAFKA_TOPIC: one topic is named\n");
        assert_eq!(row("a,b,c"), "KAFKA_TOPIC: 3 topics are named\n");
        assert_eq!(row("a,b,"), "KAFKA_TOPIC: 3 topics are named\n");
        assert_eq!(row("a,"), "KAFKA_TOPIC: the second topic has no name\n");
        assert_eq!(row(" ,b"), "KAFKA_TOPIC: the first topic has no name\n");
        assert_eq!(row(","), "KAFKA_TOPIC: the first topic has no name\nKAFKA_TOPIC: the second topic has no name\n");
        assert_eq!(row("same, same"), "KAFKA_TOPIC: emails and recipients are both `same`\n");
    }
    let folder = Folder::demo(&[]).set("KAFKA_BROKERS", "a:1").set("KAFKA_TOPIC", "a,health-facts");
    let shown = folder.shown(&folder.load().problems);
    assert_eq!(shown.replace(FORM, ""), "KAFKA_TOPIC: `health-facts` is the topic of the facts already\n");
}

const FORM: &str = "; write two different names, emails,recipients, such as email-events,emailId-events";

const TWO: &str = r#"
from_domains = ["demo.example"]
development = true
[[smtp]]
name = "first"
plugin = "sandbox"
[[smtp]]
name = "second"
plugin = "sandbox"
[[smtp]]
name = "third"
preset = "bigmail"
"#;

fn order(text: &str, value: &str) -> Vec<String> {
    let folder = Folder::demo(&[("organizations/demo.toml", text)]).set("CHOOSEN_SMTP_CLIENT_TYPE", value);
    let settings = folder.load().settings.unwrap();
    settings.organizations[&org("demo")].smtp.iter().map(|entry| entry.name.clone()).collect()
}

#[test]
fn the_chosen_client_goes_first() {
    let text = TWO;
    assert_eq!(order(text, "second"), ["second", "first", "third"]);
    assert_eq!(order(text, "SECOND"), ["second", "first", "third"]);
    assert_eq!(order(text, "first"), ["first", "second", "third"]);
    assert_eq!(order(text, "BIG"), ["third", "first", "second"]);
    assert_eq!(order(text, "bigmail"), ["third", "first", "second"]);
}

#[test]
fn a_chosen_preset_that_no_file_names_makes_its_client() {
    assert_eq!(order(super::DEMO, "BIG"), ["bigmail", "sandbox"]);
    assert_eq!(order("from_domains = [\"a.example\"]\ndevelopment = true\n", "BIG"), ["bigmail"]);
}

fn check(variable: &str, value: &str, expected: Expect) {
    let folder = Folder::demo(&[]).set(variable, value);
    let loaded = folder.load();
    assert!(loaded.settings.is_none());
    expected.assert_eq(&folder.shown(&loaded.problems));
}

#[test]
fn a_bad_value_names_its_variable() {
    check(
        "PORT",
        "http",
        expect![[r#"
        PORT: `http` is no port; use 0 to 65535, such as 8080
    "#]],
    );
    check(
        "PORT",
        "65535",
        expect![[r#"
        PORT: 65535 leaves no next port for health; use a smaller one
    "#]],
    );
    check(
        "KAFKA_BROKERS",
        "a:1,b",
        expect![[r#"
        KAFKA_BROKERS: `b` is no host:port; write it as localhost:9092, several with commas
    "#]],
    );
    check(
        "KAFKA_TOPIC",
        "a b,c",
        expect![[r#"
        KAFKA_TOPIC: `a b` is no topic name; write two different names, emails,recipients, such as email-events,emailId-events
    "#]],
    );
    check(
        "CHOOSEN_SMTP_CLIENT_TYPE",
        "PIGEON",
        expect![[r#"
        CHOOSEN_SMTP_CLIENT_TYPE: `PIGEON` is no configured client and no preset; use `sandbox` or `BIG`
    "#]],
    );
    check(
        "CHOOSEN_SMTP_CLIENT_TYPE",
        "BIGMIAL",
        expect![[r#"
            CHOOSEN_SMTP_CLIENT_TYPE: `BIGMIAL` is no configured client and no preset; did you mean `bigmail`?
        "#]],
    );
}

#[test]
fn choosing_needs_an_organization_to_choose_for() {
    let folder = Folder::demo(&[("organizations/acme.toml", super::DEMO)]).set("CHOOSEN_SMTP_CLIENT_TYPE", "BIG");
    expect![[r#"
        CHOOSEN_SMTP_CLIENT_TYPE: there is no default organization to choose for; set [organizations] default in postwarm.toml
    "#]]
    .assert_eq(&folder.shown(&folder.load().problems));
}

#[test]
fn topics_without_kafka_are_warned_of() {
    let folder = Folder::demo(&[]).set("KAFKA_TOPIC", "a,b");
    expect![[r#"
        KAFKA_TOPIC: has no effect, because the events are embedded; set KAFKA_BROKERS, or kind = "kafka" in [events]
    "#]]
    .assert_eq(&folder.shown(&folder.load().warnings));
}

/// The problems and warnings of a folder with this preset, which its default organization or the environment names.
fn credentials(preset: &str, variables: &[&str]) -> [String; 2] {
    let providers = super::PROVIDERS.replace("port = 587", preset);
    let text = format!("{}[[smtp]]\npreset = \"bigmail\"\n", super::DEMO);
    let shown = |folder: Folder| {
        let folder = variables.iter().fold(folder, |folder, variable| folder.set(variable, "geheim"));
        let loaded = folder.load();
        assert_eq!(loaded.settings.is_none(), !loaded.problems.is_empty());
        let warnings = folder.shown(&loaded.warnings);
        folder.shown(&loaded.problems) + &warnings.lines().map(|line| format!("warning: {line}\n")).collect::<String>()
    };
    let in_toml = shown(Folder::demo(&[("providers.toml", &providers), ("organizations/demo.toml", &text)]));
    [in_toml, shown(Folder::demo(&[("providers.toml", &providers)]).set("CHOOSEN_SMTP_CLIENT_TYPE", "BIG"))]
}

#[test]
fn credentials_that_are_not_set_are_named_and_a_problem_where_nothing_goes_without() {
    let needed = "port = 587, auth = true";
    expect![[r#"
        organizations/demo.toml:7:10: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, and it needs credentials; set what is missing, or write it into settings
        CHOOSEN_SMTP_CLIENT_TYPE: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, and it needs credentials; set what is missing
    "#]]
    .assert_eq(&credentials(needed, &[]).concat());
    expect![[r#"
        warning: organizations/demo.toml:7:10: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, so that it is used without credentials; set what is missing, or write it into settings
        warning: CHOOSEN_SMTP_CLIENT_TYPE: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, so that it is used without credentials; set what is missing
    "#]]
    .assert_eq(&credentials("port = 587", &[]).concat());
    expect![[r#"
        organizations/demo.toml:7:10: preset `bigmail`: `BIG_USER` is set and `BIG_PASSWORD` is not; set what is missing, or write it into settings
        CHOOSEN_SMTP_CLIENT_TYPE: preset `bigmail`: `BIG_USER` is set and `BIG_PASSWORD` is not; set what is missing
    "#]]
    .assert_eq(&credentials(needed, &["BIG_USER"]).concat());
    expect![[r#"
        warning: organizations/demo.toml:7:10: preset `bigmail`: `BIG_PASSWORD` is set and `BIG_USER` is not; set what is missing, or write it into settings
        warning: CHOOSEN_SMTP_CLIENT_TYPE: preset `bigmail`: `BIG_PASSWORD` is set and `BIG_USER` is not; set what is missing
    "#]]
    .assert_eq(&credentials("port = 587", &["BIG_PASSWORD"]).concat());
    assert_eq!(credentials(needed, &["BIG_USER", "BIG_PASSWORD"]).concat(), "");
}

#[test]
fn what_else_is_wrong_with_a_preset_is_said_beside_its_credentials() {
    expect![[r#"
        organizations/demo.toml:7:10: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, and it needs credentials; set what is missing, or write it into settings
        organizations/demo.toml:7:10: `settings.port` is no port; use 1 to 65535
        CHOOSEN_SMTP_CLIENT_TYPE: preset `bigmail`: `BIG_PASSWORD` and `BIG_USER` are not set, and it needs credentials; set what is missing
        CHOOSEN_SMTP_CLIENT_TYPE: preset `bigmail`: `settings.port` is no port; correct [preset.NAME] in providers.toml
    "#]]
    .assert_eq(&credentials("port = 99999, auth = true", &[]).concat());
}
