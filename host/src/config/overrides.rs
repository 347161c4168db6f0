//! What environment variables put above the files. An empty variable is an absent one.
//!
//! Invariant: no provider's name stands here; what a variable's value may name is data of the files.

use crate::config::clients::said;
use crate::config::credentials::{Unset, Used};
use crate::config::organization::{Around, Draft};
use crate::config::problem::{Problem, Report, Severity, choice, nearest};
use crate::config::secrets::Env;
use crate::config::serving::Serving;
use crate::config::settings::{Events, Process, SmtpEntry};
use crate::config::texts;
use crate::model::name::OrgName;
use postwarm_plugin_api::Kind;

const PORT: &str = "PORT";
const KAFKA_BROKERS: &str = "KAFKA_BROKERS";
const KAFKA_TOPIC: &str = "KAFKA_TOPIC";
const CLIENT: &str = "CHOOSEN_SMTP_CLIENT_TYPE";
/// What is right for `KAFKA_TOPIC`.
const TOPICS_FORM: &str = "write two different names, emails,recipients, such as email-events,emailId-events";

fn variable(env: &Env<'_>, name: &str) -> Option<String> {
    env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn error(report: &mut Report, variable: &str, message: impl Into<String>, remedy: impl Into<String>) {
    report.push(Problem::of(variable, Severity::Error, message, remedy));
}

/// The brokers of `KAFKA_BROKERS`, which imply Kafka.
pub fn brokers(env: &Env<'_>, report: &mut Report) -> Option<Vec<String>> {
    let value = variable(env, KAFKA_BROKERS)?;
    let brokers: Vec<String> = value.split(',').map(|broker| broker.trim().to_owned()).collect();
    for broker in brokers.iter().filter(|broker| !texts::is_broker(broker)) {
        error(
            report,
            KAFKA_BROKERS,
            format!("`{}` is no host:port", broker.escape_debug()),
            "write it as localhost:9092, several with commas",
        );
    }
    Some(brokers)
}

/// Applies `PORT` and `KAFKA_TOPIC`.
pub fn apply(process: &mut Process, serving: Serving, env: &Env<'_>, report: &mut Report) {
    if let Some(value) = variable(env, PORT) {
        port(process, serving, &value, report);
    }
    if let Some(value) = variable(env, KAFKA_TOPIC) {
        topics(process, &value, report);
    }
}

fn port(process: &mut Process, serving: Serving, value: &str, report: &mut Report) {
    let Ok(port) = value.parse::<u16>() else {
        return error(report, PORT, format!("`{}` is no port", value.escape_debug()), "use 0 to 65535, such as 8080");
    };
    // Port 0 leaves the choice to the system, for each service on its own.
    let next = if port == 0 { Some(0) } else { port.checked_add(1) };
    match (serving, next) {
        (Serving::Warmup, _) => process.warmup.listen.set_port(port),
        (Serving::Health, _) => process.health.listen.set_port(port),
        (Serving::Both, Some(next)) => {
            process.warmup.listen.set_port(port);
            process.health.listen.set_port(next);
        }
        (Serving::Both, None) => error(report, PORT, "65535 leaves no next port for health", "use a smaller one"),
    }
}

fn topics(process: &mut Process, value: &str, report: &mut Report) {
    let wrong = |report: &mut Report, message: String| error(report, KAFKA_TOPIC, message, TOPICS_FORM);
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    let [emails, recipients] = names[..] else {
        let count = if names.len() == 1 { "one topic is named".to_owned() } else { format!("{} topics are named", names.len()) };
        return wrong(report, count);
    };
    for (place, topic) in [("first", emails), ("second", recipients)].into_iter().filter(|(_, topic)| !texts::is_topic(topic)) {
        match topic.is_empty() {
            true => wrong(report, format!("the {place} topic has no name")),
            false => wrong(report, format!("`{}` is no topic name", topic.escape_debug())),
        }
    }
    if emails == recipients && !emails.is_empty() {
        wrong(report, format!("emails and recipients are both `{}`", emails.escape_debug()));
    }
    match &mut process.events {
        Events::Kafka(kafka) => {
            if [emails, recipients].contains(&kafka.facts.as_str()) {
                wrong(report, format!("`{}` is the topic of the facts already", kafka.facts));
            }
            (kafka.emails, kafka.recipients) = (emails.to_owned(), recipients.to_owned());
        }
        Events::Embedded { .. } => {
            let message = "has no effect, because the events are embedded";
            report.push(Problem::of(KAFKA_TOPIC, Severity::Warning, message, "set KAFKA_BROKERS, or kind = \"kafka\" in [events]"));
        }
    }
}

/// Puts the client that `CHOOSEN_SMTP_CLIENT_TYPE` names first. `default` is the default organization, where there is one.
pub fn choose(around: &Around<'_>, default: Option<&mut Draft>, report: &mut Report) {
    let Some(value) = variable(around.plugins.env, CLIENT) else { return };
    // Where providers.toml is broken, that is the problem to report.
    let Some(found) = around.providers else { return };
    let Some(draft) = default else {
        return error(report, CLIENT, "there is no default organization to choose for", "set [organizations] default in postwarm.toml");
    };
    let preset = found.preset_names.get(&value.to_lowercase());
    let smtp = &mut draft.organization.smtp;
    let named = |name: &str| smtp.iter().position(|entry| entry.name == name);
    let position = named(&value)
        .or_else(|| smtp.iter().position(|entry| entry.name.eq_ignore_ascii_case(&value)))
        .or_else(|| draft.presets.iter().position(|from| preset.is_some() && from.as_ref() == preset))
        .or_else(|| named(preset?));
    if let Some(position) = position {
        smtp[..=position].rotate_right(1);
        draft.presets[..=position].rotate_right(1);
        return;
    }
    let Some((name, preset)) = preset.and_then(|name| Some((name, found.providers.presets.get(name)?))) else {
        let names: Vec<String> = smtp.iter().map(|entry| entry.name.clone()).chain(preset_choices(around)).collect();
        let remedy = match nearest(&value, names.iter().chain(found.preset_names.keys()).map(String::as_str)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => choice(&value, names.iter().map(String::as_str), "add [preset.NAME] to providers.toml"),
        };
        return error(report, CLIENT, format!("`{}` is no configured client and no preset", value.escape_debug()), remedy);
    };
    let entry = around.preset_client(name, preset);
    check_made(around, &draft.organization.name, &Used { name, preset, own: &[] }, &entry, report);
    draft.organization.smtp.insert(0, entry);
    draft.presets.insert(0, Some(name.clone()));
}

/// Asks the plugin about a client that no file holds.
fn check_made(around: &Around<'_>, org: &OrgName, used: &Used<'_>, entry: &SmtpEntry, report: &mut Report) {
    if !around.plugins.catalogue.has(Kind::SmtpClient, &entry.plugin) {
        return;
    }
    let asked = around.ask_preset(org, used, entry);
    if let Some(Unset { severity, message }) = asked.unset {
        report.push(Problem::of(CLIENT, severity, message, "set what is missing"));
    }
    for problem in asked.problems {
        let message = format!("preset `{}`: {}", entry.name, said(&problem).0);
        error(report, CLIENT, message, "correct [preset.NAME] in providers.toml");
    }
}

/// What people call the presets: the aliases, else the name.
fn preset_choices<'a>(around: &'a Around<'_>) -> impl Iterator<Item = String> + 'a {
    let presets = around.providers.into_iter().flat_map(|found| &found.providers.presets);
    presets.flat_map(|(name, preset)| if preset.aliases.is_empty() { vec![name.clone()] } else { preset.aliases.clone() })
}
