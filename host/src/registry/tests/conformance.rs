//! The conformance suite of the contract, over each example as a library.

use super::support::{Place, c_example, instance, rust_example};
use postwarm_plugin_api::{SmtpFactory, Watched};
use postwarm_plugin_testkit::conformance::feedback::{Source, feedback_loop};
use postwarm_plugin_testkit::conformance::smtp::{Pointed, smtp_client};
use serde_json::json;
use std::net::SocketAddr;

async fn conforms(factory: &dyn SmtpFactory) {
    let at = |addr: SocketAddr| instance(json!({ "host": addr.ip().to_string(), "port": addr.port() }));
    smtp_client(Pointed { factory, at: &at, with_secret: None }).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_example_conforms() {
    let place = Place::new();
    place.drop_file(&rust_example("postwarm-plugin-example-smtp-rust"));
    place.settle();
    conforms(&*place.registry.resolve_smtp("example-relay").expect("it loads")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_c_example_conforms() {
    let place = Place::new();
    place.drop_file(&c_example(place.folder.path()));
    place.settle();
    conforms(&*place.registry.resolve_smtp("example-c").expect("it loads")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_csv_example_conforms() {
    let place = Place::new();
    place.drop_file(&rust_example("postwarm-plugin-example-csv-loop"));
    place.settle();
    let csv = place.folder.path().join("facts.csv");
    std::fs::write(&csv, "message_id,kind,at\na@b,delivered,1\na@b,read,2\nc@d,spam,\n").expect("writable");
    let watched =
        |position, message_id: &str| Watched { position, message_id: message_id.into(), domain: "example.com".into(), sent_at_ms: 0 };
    let source = Source {
        factory: &*place.registry.resolve_feedback("example-csv").expect("it loads"),
        instance: instance(json!({ "path": csv })),
        watch: vec![watched(1, "a@b"), watched(2, "c@d")],
        failing: (instance(json!({ "path": place.folder.path().join("nothing.csv") })), String::new()),
    };
    feedback_loop(&source).await.assert_passed();
}
