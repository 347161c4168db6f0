//! Content that looks well and does not load takes nothing away from what ran.

use super::support::{Place, compile, instance, message};
use crate::registry::{Registry, State};
use postwarm_plugin_api::{Kind, Outcome};
use serde_json::json;
use std::time::{Duration, Instant, SystemTime};

const PROBE: &str = include_str!("probe.c");
const WATCHER: &str = include_str!("watcher.c");
/// Passes every check that runs no code of it.
const DOES_NOT_LOAD: &[&[&str]] = &[&["UNRESOLVED"], &["ENTRY_ABI=7"], &["NO_EXPORT"], &["NO_FACTORY"]];

fn built(name: &str, source: &str, defines: &[&str]) -> Vec<u8> {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    std::fs::read(compile(folder.path(), name, source, defines)).expect("it was built")
}

/// The registry of the next process over the same folders.
fn next_start(place: &Place) -> Registry {
    let registry = Registry::new(place.plugins(), place.folder.path().join("private"));
    registry.start(Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    registry
}

/// The sha256 in use, the state and the problem of the only file.
fn shown(registry: &Registry) -> (Option<String>, State, Option<String>) {
    let status = registry.list().into_iter().find(|status| status.file.is_some()).expect("it is listed");
    (status.sha256, status.state, status.problem)
}

#[tokio::test]
async fn an_smtp_client_whose_new_content_does_not_load_is_made_from_the_last_that_did() {
    for defines in DOES_NOT_LOAD {
        let place = Place::new();
        place.drop_octets("probe.so", &built("probe", PROBE, &["VERSION=\"good\""]));
        place.settle();
        place.registry.resolve_smtp("probe").expect("it loads");
        let good = shown(&place.registry).0;
        let bad = built("probe", PROBE, defines);
        for _ in 0..2 {
            // The second time it is known before it is asked for.
            place.drop_octets("probe.so", &bad);
            place.settle();
            let client = place.registry.resolve_smtp("probe").expect("what ran goes on").create(instance(json!({}))).expect("it makes one");
            let outcome = client.send(message("to@example.com"), Instant::now() + Duration::from_secs(20)).await;
            assert!(matches!(&outcome, Outcome::Accepted(reply) if reply.text == "good"), "{defines:?}: {outcome:?}");
            let (sha256, state, problem) = shown(&place.registry);
            assert_eq!((&sha256, state), (&good, State::Loaded), "{defines:?}");
            assert!(problem.is_some(), "{defines:?}: the list says what is wrong with the file");
        }
        let next = next_start(&place);
        next.resolve_smtp("probe").expect("it goes on after a restart");
        let (sha256, state, problem) = shown(&next);
        assert_eq!((sha256, state, problem.is_some()), (good, State::Loaded, true), "{defines:?}");
    }
}

#[test]
fn a_feedback_loop_whose_new_content_does_not_load_is_made_from_the_last_that_did() {
    let place = Place::new();
    place.drop_octets("watcher.so", &built("watcher", WATCHER, &[]));
    place.settle();
    place.registry.resolve_feedback("watcher").expect("it loads");
    let good = shown(&place.registry).0;
    place.drop_octets("watcher.so", &built("watcher", WATCHER, &["UNRESOLVED"]));
    place.settle();
    for registry in [&place.registry, &next_start(&place)] {
        let made = registry.resolve_feedback("watcher").expect("what ran goes on").create(instance(json!({})));
        made.expect("it makes one");
        let (sha256, state, problem) = shown(registry);
        assert_eq!((&sha256, state), (&good, State::Loaded));
        assert!(problem.expect("it is said").contains("there_is_no_such_function"));
    }
}

#[test]
fn content_that_loads_again_takes_the_place_of_what_was_fallen_back_to() {
    let place = Place::new();
    for (defines, version) in [(&["VERSION=\"one\""][..], "one"), (&["UNRESOLVED"], "one"), (&["VERSION=\"three\""], "three")] {
        place.drop_octets("probe.so", &built("probe", PROBE, defines));
        place.settle();
        place.registry.resolve_smtp("probe").expect("one of them loads");
        assert_eq!(place.registry.describe(Kind::SmtpClient, "probe").expect("it is there").version, version);
    }
    assert_eq!(place.problem("probe.so"), None);
}

#[test]
fn the_first_content_that_does_not_load_is_rejected_in_words() {
    let place = Place::new();
    place.drop_octets("probe.so", &built("probe", PROBE, &["UNRESOLVED"]));
    place.settle();
    for registry in [&place.registry, &next_start(&place)] {
        let words = registry.resolve_smtp("probe").err().expect("nothing ran before");
        assert!(words.contains("there_is_no_such_function"), "{words}");
        assert_eq!(shown(registry).1, State::Rejected);
    }
}
