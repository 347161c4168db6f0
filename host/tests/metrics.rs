//! `/metrics` after some traffic: the figures are there, and `docs/OPERATIONS.md` names each with its labels.

use crate::harness::{Postwarm, Site, until};
use crate::tidy::root;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The label names of each metric, and each sample's value.
#[derive(Default)]
struct Scrape {
    labels: BTreeMap<String, BTreeSet<String>>,
    values: BTreeMap<String, f64>,
}

async fn scrape(postwarm: &Postwarm) -> Scrape {
    let text = postwarm.client.get(format!("{}/metrics", postwarm.warmup)).send().await.unwrap().text().await.unwrap();
    let mut found = Scrape::default();
    for line in text.lines().filter(|line| line.starts_with("postwarm_")) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let name = ["_sum", "_count", "_bucket"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once('=')).map(|(key, _)| key.to_owned());
        // A summary's own label.
        found.labels.entry(name.to_owned()).or_default().extend(labels.filter(|key| key != "quantile" && key != "le"));
        found.values.insert(sample.to_owned(), value.parse().unwrap());
    }
    found
}

/// The table of the document: the labels by metric.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let mut found = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `postwarm_")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels: BTreeSet<String> = cells[2].split(',').map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
        for name in cells[1].split(',') {
            found.insert(name.trim().trim_matches('`').to_owned(), labels.clone());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_clients_and_loops_are_measured_and_every_metric_is_explained_with_its_labels() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let site = Site::with_organization(&format!(
        "[[smtp]]\nname = \"away\"\nplugin = \"smtp\"\nsettings = {{ host = \"127.0.0.1\", port = {nobody}, tls = \"none\" }}\n\
         [[smtp]]\nname = \"box\"\nplugin = \"sandbox\"\n[[feedback]]\nname = \"boxes\"\nplugin = \"sandbox\"\ndomains = [\"*\"]\ninterval = \"100ms\"\n"
    ));
    let postwarm = site.serve();
    postwarm.import(3, "x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["sent"] == 3).await;
    let wanted = [
        ("postwarm_deliveries_total{organization=\"demo\",state=\"sent\"}", 3.0),
        ("postwarm_client_failing{organization=\"demo\",client=\"away\"}", 1.0),
        ("postwarm_client_failing{organization=\"demo\",client=\"box\"}", 0.0),
        ("postwarm_queued_rows", 0.0),
        ("postwarm_sending_rows", 0.0),
        ("postwarm_outbox_rows", 0.0),
        ("postwarm_projector_lag_seconds", 0.0),
    ];
    let last = until("the figures", async || {
        let now = scrape(&postwarm).await;
        let is_there = wanted.iter().all(|(sample, value)| now.values.get(*sample) == Some(value));
        let polled = now.values.get("postwarm_polls_total{organization=\"demo\",feedback=\"boxes\"}").is_some_and(|n| *n > 0.0);
        let seen: Vec<Value> = now.values.iter().map(|(sample, value)| format!("{sample} {value}").into()).collect();
        ((is_there && polled).then_some(now), seen.into())
    })
    .await;
    let documented = documented();
    for (metric, labels) in &last.labels {
        assert_eq!(documented.get(metric), Some(labels), "the labels of {metric} in docs/OPERATIONS.md");
    }
}
