//! The documents are complete and true: every route stands in `docs/API.md`, every metric and variable in
//! `docs/OPERATIONS.md`, every key and setting in `docs/CONFIGURATION.md`, and `docs/ARCHITECTURE.md` names files that exist.

use crate::harness::Site;
use crate::tidy::{root, sources};
use postwarm::config::settings::{Dkim, DkimAlgorithm, SecretRef};
use postwarm::warmup::sign::Signer;
use postwarm_plugin_api::{Builtin, inventory};
use postwarm_plugin_testkit::skip::skip;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The heads of operations: `GET /users/{email_id}`.
fn operations(openapi: &Value) -> BTreeSet<String> {
    let methods = |(path, item): (&String, &Value)| {
        let of = |method: &String| format!("{} {path}", method.to_uppercase());
        item.as_object().unwrap().keys().map(of).collect::<Vec<_>>()
    };
    openapi["paths"].as_object().unwrap().iter().flat_map(methods).collect()
}

#[test]
fn every_route_has_its_chapter_and_every_chapter_its_route() {
    let mut routes = BTreeSet::new();
    for service in ["warmup", "health"] {
        let openapi = serde_json::from_str(&document(&format!("openapi-{service}.json"))).unwrap();
        routes.append(&mut operations(&openapi));
    }
    let text = document("API.md");
    let heads = text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    assert_eq!(heads.map(str::to_owned).collect::<BTreeSet<_>>(), routes);
}

#[tokio::test]
async fn both_services_answer_the_documents_that_are_checked_in() {
    let postwarm = Site::with_organization("").serve();
    for (service, base) in [("warmup", &postwarm.warmup), ("health", &postwarm.health)] {
        let answer = postwarm.client.get(format!("{base}/openapi.json")).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let wanted: Value = serde_json::from_str(&document(&format!("openapi-{service}.json"))).unwrap();
        assert_eq!(answer, wanted, "docs/openapi-{service}.json");
    }
}

/// Names in string literals of the shipped sources that begin so.
fn names(prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in ["host/src", "plugin-api", "plugins"].into_iter().flat_map(sources) {
        for part in source.text.split(&format!("\"{prefix}")).skip(1) {
            let (name, _) = part.split_once('"').unwrap();
            if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                found.insert(format!("{prefix}{name}"));
            }
        }
    }
    found
}

#[test]
fn every_metric_and_variable_of_the_sources_is_explained() {
    let text = document("OPERATIONS.md");
    let mut wanted = names("postwarm_");
    // The sources of an example, and symbols of the ABI, are no metrics.
    wanted.retain(|name| !name.starts_with("postwarm_example") && !name.starts_with("postwarm_plugin_entry"));
    assert!(wanted.contains("postwarm_events_published_total"), "the sources are read: {wanted:?}");
    wanted.extend(names("POSTWARM_"));
    wanted.extend(names("KAFKA_"));
    wanted.extend(names("CHOOSEN_"));
    wanted.insert("RUST_LOG".to_owned());
    // Variables of tests are explained by their prefix.
    let is_missing = |name: &&String| !name.starts_with("POSTWARM_TEST_") && !text.contains(&format!("`{name}`"));
    let missing: Vec<&String> = wanted.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "docs/OPERATIONS.md does not explain {missing:?}");
    let told = text.split("| `postwarm_").skip(1).map(|rest| format!("postwarm_{}", rest.split('`').next().unwrap()));
    let gone: Vec<String> = told.filter(|name| !wanted.contains(name)).collect();
    assert!(gone.is_empty(), "docs/OPERATIONS.md explains {gone:?}, which is nowhere in the sources");
}

/// What stands between the fences of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    text.split(&format!("```{language}\n")).skip(1).map(|part| part.split("```").next().unwrap()).collect()
}

/// The chapter under a head, up to the next of its level.
fn chapter<'a>(text: &'a str, head: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n## {head}\n")).unwrap_or_else(|| panic!("no chapter {head}"));
    rest.split("\n## ").next().unwrap()
}

fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of all tables whose first column has this head, by each name in the first cell.
fn rows(chapter: &str, head: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let start = format!("| {head} |");
    let mut lines = chapter.lines();
    while lines.any(|line| line.starts_with(&start)) {
        for line in lines.by_ref().skip(1).take_while(|line| line.starts_with('|')) {
            let first = line.trim_start_matches('|').split('|').next().unwrap();
            spans(first).for_each(|name| found.entry(name.to_owned()).or_default().push(line.replace(',', "")));
        }
    }
    found
}

const WINDOWS: [&str; 5] = ["per_second", "per_minute", "per_hour", "per_day", "windows"];

/// The keys of a schema by path, such as `smtp.limits.connections`. Lists of tables are like tables, and `NAME` is any name; what
/// every `limits` has is left to the chapter on limits.
fn keys(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (schema["properties"].as_object(), schema["additionalProperties"].is_object(), schema["items"]["properties"].is_object()) {
        (Some(properties), ..) if !properties.contains_key("messages") => {
            let limits = properties.contains_key("per_second");
            if limits {
                found.insert(path.to_owned(), Value::Null);
            }
            let own = properties.iter().filter(|(name, _)| !limits || !WINDOWS.contains(&name.as_str()));
            own.for_each(|(name, value)| keys(value, &below(name), found));
        }
        (None, true, _) if schema["additionalProperties"]["properties"].is_object() => {
            keys(&schema["additionalProperties"], &below("NAME"), found);
        }
        (None, _, true) => keys(&schema["items"], path, found),
        _ => drop(found.insert(path.to_owned(), schema.clone())),
    }
}

/// What a schema says of a value that its row does not say: words, bounds, the default.
fn unsaid(schema: &Value, row: &str) -> Vec<String> {
    let about = schema["description"].as_str().unwrap_or_default();
    let default = about.split_once("Default ").map(|(_, rest)| rest.trim_end_matches('.').replace(',', ""));
    let bounds = ["minimum", "maximum"].into_iter().filter_map(|bound| schema[bound].as_u64()).map(|n| n.to_string());
    let words = schema["enum"].as_array().into_iter().flatten().map(|word| format!("`{word}`"));
    let own = (!schema["default"].is_null()).then(|| schema["default"].to_string().trim_matches('"').to_owned());
    let inner = schema["properties"].as_object().into_iter().flatten();
    let inner = inner.map(|(name, inner)| format!("`{name}` {}", inner["default"].as_str().unwrap_or_default()).trim().to_owned());
    default.into_iter().chain(bounds).chain(words).chain(own).chain(inner).filter(|text| !row.contains(text.as_str())).collect()
}

#[test]
fn every_key_of_the_configuration_is_explained_and_nothing_else() {
    let text = document("CONFIGURATION.md");
    for (file, head) in [("postwarm", "`postwarm.toml`"), ("providers", "`providers.toml`"), ("organization", "`organizations/NAME.toml`")]
    {
        let schema: Value = serde_json::from_str(&document(&format!("schema/{file}.schema.json"))).unwrap();
        let mut wanted = BTreeMap::new();
        keys(&schema, "", &mut wanted);
        let told = rows(chapter(&text, head), "key");
        assert_eq!(told.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "docs/CONFIGURATION.md, {head}");
        for (key, schema) in &wanted {
            let unsaid = unsaid(schema, &told[key][0]);
            assert!(unsaid.is_empty(), "docs/CONFIGURATION.md, {head}, `{key}` does not say {unsaid:?}");
        }
    }
    let told: BTreeSet<String> = rows(chapter(&text, "Limits"), "key").into_keys().collect();
    assert_eq!(told, WINDOWS.into_iter().chain(["messages", "per"]).map(str::to_owned).collect());
}

#[test]
fn every_setting_of_the_built_in_plugins_is_explained_and_nothing_else() {
    let text = document("CONFIGURATION.md");
    let chapter = chapter(&text, "Settings of the built-in plugins");
    let told = rows(chapter, "setting");
    let mut wanted = BTreeSet::new();
    for builtin in inventory::iter::<Builtin> {
        let descriptor = match builtin {
            Builtin::Smtp(factory) => factory.descriptor(),
            Builtin::Feedback(factory) => factory.descriptor(),
        };
        assert!(spans(chapter).any(|span| span == descriptor.id), "the plugin {} is not named", descriptor.id);
        let schema: Value = serde_json::from_str(&descriptor.settings_schema).unwrap();
        for (name, setting) in schema["properties"].as_object().unwrap() {
            let rows = told.get(name).unwrap_or_else(|| panic!("docs/CONFIGURATION.md does not explain `{name}` of {}", descriptor.id));
            let unsaid: Vec<_> = rows.iter().map(|row| unsaid(setting, row)).collect();
            assert!(unsaid.iter().any(Vec::is_empty), "`{name}` of {} does not say {unsaid:?}", descriptor.id);
            wanted.insert(name.clone());
        }
    }
    assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), wanted);
}

/// Runs the commands of a block where the folder `config` lies, and answers what they print.
fn run(site: &Site, block: &str) -> Vec<String> {
    let one = |line: &str| {
        let output = std::process::Command::new("bash").args(["-o", "pipefail", "-c", line]).current_dir(&site.folder).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    block.lines().map(one).collect()
}

#[test]
fn the_complete_organization_is_complete_and_passes_the_check_with_keys_made_as_it_says() {
    let text = document("CONFIGURATION.md");
    let example = blocks(&text, "toml")[0];
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        return skip("the_complete_organization_is_complete_and_passes_the_check_with_keys_made_as_it_says", "openssl is not installed");
    }
    let site = Site::new();
    site.append("[shares.relay-1]\nlimits = { per_day = 50_000 }");
    site.organization("acme", example);
    let commands = blocks(&text, "sh");
    run(&site, commands[0]);
    let public = run(&site, commands[1]);
    assert_eq!(public.iter().map(String::len).collect::<Vec<_>>(), [392, 44], "{public:?}");
    site.command(&["key", "new", "acme", "--data", &site.data().to_string_lossy()]).output().unwrap();
    let check = site.command(&["check"]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && !said.contains("warning"), "{said}");

    let key = |name: &str, algorithm| {
        let key = SecretRef::File { path: site.config().join("organizations").join(name), fingerprint: None };
        Dkim { domain: "acme.example".into(), selector: "s1".into(), algorithm, key }
    };
    let pair = [key("acme-rsa.pem", DkimAlgorithm::RsaSha256), key("acme-ed25519.pem", DkimAlgorithm::Ed25519Sha256)];
    let read = |secret: &SecretRef| match secret {
        SecretRef::File { path, .. } => std::fs::read_to_string(path).map_err(|e| e.to_string()),
        _ => Err("these are files".to_owned()),
    };
    Signer::new(&pair, read).unwrap();

    let schema: Value = serde_json::from_str(&document("schema/organization.schema.json")).unwrap();
    let mut paths = BTreeMap::new();
    keys(&schema, "", &mut paths);
    let last = |path: &String| path.rsplit('.').find(|name| *name != "NAME").unwrap().to_owned();
    let missing: Vec<String> = paths.keys().map(last).chain(WINDOWS.map(str::to_owned)).filter(|key| !example.contains(key)).collect();
    assert!(missing.is_empty(), "the complete organization lacks {missing:?}");
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let text = document("ARCHITECTURE.md");
    let inside = ["", "host/src", "host/src/warmup", "host/src/health", "host", "docs"];
    let is_path = |span: &&str| {
        let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
        plain
            && !span.starts_with('/')
            && (span.ends_with('/') || [".rs", ".md", ".sql", ".toml", ".h"].iter().any(|end| span.ends_with(end)))
    };
    let named: BTreeSet<&str> = spans(&text).filter(is_path).collect();
    let found = |span: &&str| inside.iter().any(|folder| root().join(folder).join(span).exists());
    let gone: Vec<&&str> = named.iter().filter(|span| !found(span)).collect();
    assert!(gone.is_empty(), "docs/ARCHITECTURE.md names {gone:?}, which do not exist");
}
