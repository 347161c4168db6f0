//! The documents are complete: every route stands in `docs/API.md`, every metric and variable in `docs/OPERATIONS.md`.

use crate::harness::Site;
use crate::tidy::{root, sources};
use serde_json::Value;
use std::collections::BTreeSet;

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
