//! `organizations/NAME.toml` to [`Organization`].

use crate::config::clients::{Client, Place};
use crate::config::document::Node;
use crate::config::form::secret_reference;
use crate::config::limits;
use crate::config::plugins::{Plugins, Table};
use crate::config::problem::{Report, choice};
use crate::config::providers::Found;
use crate::config::secrets::resolve;
use crate::config::serving::Serving;
use crate::config::settings::{BackfillSettings, Dkim, DkimAlgorithm, OnUnknown, Organization, Process, Retry, Window, is_loopback};
use crate::model::domain;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What an organization's file is checked against. `None`: that file is broken, which is reported there.
pub struct Around<'a> {
    pub plugins: Plugins<'a>,
    pub process: Option<&'a Process>,
    pub providers: Option<&'a Found>,
    pub serving: Serving,
}

/// An organization, and which presets its clients came from.
#[derive(Debug)]
pub struct Draft {
    pub organization: Organization,
    /// As many as the organization's clients.
    pub presets: Vec<Option<String>>,
}

/// Decodes a document that `form::check` has seen.
pub fn decode(place: &Place<'_>, report: &mut Report) -> Draft {
    let root = &place.document.root;
    let (presets, smtp) = place.smtp(report).into_iter().map(|Client { entry, preset }| (preset, entry)).unzip();
    let mut from_domains = root.domains("from_domains");
    let mut seen = BTreeSet::new();
    from_domains.retain(|domain| seen.insert(domain.clone()));
    let organization = Organization {
        name: place.org.clone(),
        development: root.flag("development").unwrap_or(false),
        public_url: public_url(place, report),
        on_unknown: if root.text("on_unknown") == Some("resend") { OnUnknown::Resend } else { OnUnknown::Hold },
        limits: limits::windows(place.document, root.get("limits"), report),
        provider_limits: provider_limits(place, report),
        dkim: dkim(place, &from_domains, report),
        smtp,
        feedback: place.feedback(report),
        backfill: backfill(root.get("backfill")),
        retry: retry(root.get("retry")),
        from_domains,
    };
    if organization.development {
        loopback_only(place, report);
    }
    Draft { organization, presets }
}

fn public_url(place: &Place<'_>, report: &mut Report) -> Option<String> {
    let root = &place.document.root;
    let development = root.flag("development").unwrap_or(false);
    if let Some(url) = root.text("public_url") {
        if url.starts_with("http://") && !development {
            let message = "public_url is not https, and one-click unsubscribe needs it (RFC 8058)";
            place.document.warning(report, root.at("public_url"), message, "write https://");
        }
        return Some(url.trim_end_matches('/').to_owned());
    }
    if development {
        let listen = place.around.process?.warmup.listen;
        return Some(match listen.ip().is_unspecified() {
            true => format!("http://localhost:{}", listen.port()),
            false => format!("http://{listen}"),
        });
    }
    let message = "there is no public_url, so that mail has no List-Unsubscribe";
    place.document.warning(report, &(0..0), message, "add public_url = \"https://...\", where this service is reached from outside");
    None
}

/// Without a key whoever reaches the service is the organization.
fn loopback_only(place: &Place<'_>, report: &mut Report) {
    let Some(process) = place.around.process else { return };
    if process.allow_development_beyond_loopback {
        return;
    }
    for (service, listen) in place.around.serving.listeners(process) {
        if !is_loopback(listen.ip()) {
            let message = format!("development = true lets in everybody who reaches the service, and {service} listens on {listen}");
            let remedy = "listen on 127.0.0.1, or set allow_development_beyond_loopback = true in postwarm.toml if something else keeps strangers out";
            place.document.error(report, place.document.root.at("development"), message, remedy);
        }
    }
}

fn provider_limits(place: &Place<'_>, report: &mut Report) -> BTreeMap<String, Vec<Window>> {
    let by_provider = place.document.root.get("limits").and_then(|limits| limits.get("provider"));
    let mut found: BTreeMap<String, Vec<Window>> = BTreeMap::new();
    for (given, entry) in by_provider.into_iter().flat_map(Node::entries) {
        let windows = limits::windows(place.document, Some(&entry.node), report);
        let Some(names) = place.around.providers.map(|found| &found.mailbox_names) else { continue };
        let Some(name) = names.get(&given.to_lowercase()) else {
            let remedy = choice(given, names.keys().map(String::as_str), "add [provider.NAME] to providers.toml");
            place.document.error(report, &entry.key, format!("there is no provider `{given}` in providers.toml"), remedy);
            continue;
        };
        if found.insert(name.clone(), windows).is_some() {
            place.document.error(report, &entry.key, format!("`{given}` is `{name}` again"), "name each provider once");
        }
    }
    found
}

fn dkim(place: &Place<'_>, from_domains: &[String], report: &mut Report) -> Vec<Dkim> {
    let mut seen = BTreeSet::new();
    let mut keys = Vec::new();
    let table = Table { document: place.document, node: None, base: place.base, shared: place.shared };
    for node in place.document.root.list("dkim") {
        let (Some(domain), Some(selector), Some(key)) = (node.text("domain"), node.text("selector"), node.get("key")) else { continue };
        let domain = domain::pattern(domain);
        if !seen.insert((domain.clone(), selector.to_owned())) {
            place.document.error(report, node.at("selector"), format!("a second key for {selector} of {domain}"), "keep one of them");
        }
        let covers = |from: &String| *from == domain || from.ends_with(&format!(".{domain}"));
        if !from_domains.iter().any(covers) {
            let message = format!("the key of {domain} signs no mail of from_domains");
            place.document.warning(report, node.at("domain"), message, "use one of from_domains, or a domain above it");
        }
        if secret_reference(key).is_err() {
            continue;
        }
        let span = &key.span;
        let Some(key) = place.around.plugins.secret("key", key, &table, report) else { continue };
        let algorithm = match node.text("algorithm") {
            Some("ed25519-sha256") => DkimAlgorithm::Ed25519Sha256,
            _ => DkimAlgorithm::RsaSha256,
        };
        // A key that cannot be had is reported already.
        if let Ok(secret) = resolve(&key, place.around.plugins.env)
            && let Err(problem) = crate::config::dkim::parse(algorithm, secret.expose())
        {
            let remedy = format!("name the private key of the selector {selector} of {domain}, and its algorithm");
            place.document.error(report, span, format!("`key` {problem}"), remedy);
        }
        keys.push(Dkim { domain, selector: selector.to_owned(), algorithm, key });
    }
    keys
}

fn backfill(section: Option<&Node>) -> BackfillSettings {
    let per_recipient = section.and_then(|section| limits::window(section.get("per_recipient")?));
    BackfillSettings {
        per_recipient: per_recipient.unwrap_or(Window { messages: 1, per: Duration::from_secs(10) }),
        hold_max: section.and_then(|section| section.duration("hold_max")).unwrap_or(Duration::from_secs(3600)),
    }
}

fn retry(section: Option<&Node>) -> Retry {
    let schedule: Vec<Duration> =
        section.map_or(&[][..], |section| section.list("schedule")).iter().filter_map(Node::as_duration).collect();
    let default = || [60, 5 * 60, 15 * 60, 3600, 4 * 3600].map(Duration::from_secs).to_vec();
    Retry {
        schedule: if schedule.is_empty() { default() } else { schedule },
        give_up_after: section.and_then(|section| section.duration("give_up_after")).unwrap_or(Duration::from_secs(72 * 3600)),
        jitter: section.and_then(|section| section.real("jitter")).unwrap_or(0.1),
    }
}
