//! Plugins that misbehave while they are called, and what the host makes of it.

use super::support::{Place, instance, message};
use postwarm_plugin_api::{Cause, Outcome, SmtpClient};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROBE: &str = include_str!("probe.c");

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn client(place: &Place, defines: &[&str]) -> Arc<dyn SmtpClient> {
    place.drop_c("probe", PROBE, defines);
    place.settle();
    place.registry.resolve_smtp("probe").expect("it loads").create(instance(json!({}))).expect("it makes one")
}

#[tokio::test]
async fn a_second_completion_is_ignored() {
    let place = Place::new();
    let client = client(&place, &["TWICE"]);
    for _ in 0..20 {
        let outcome = client.send(message("to@example.com"), soon()).await;
        assert!(matches!(&outcome, Outcome::Accepted(reply) if reply.text == "1"), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_message_that_the_plugin_does_not_take_is_not_attempted() {
    let place = Place::new();
    let outcome = client(&place, &["REFUSES"]).send(message("to@example.com"), soon()).await;
    assert!(matches!(outcome, Outcome::NotAttempted { cause: Cause::Internal, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_message_whose_deadline_has_passed_never_reaches_the_plugin() {
    let place = Place::new();
    let outcome = client(&place, &[]).send(message("to@example.com"), Instant::now()).await;
    assert!(matches!(outcome, Outcome::NotAttempted { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_plugin_that_blocks_stalls_itself_alone_and_only_what_it_holds_is_unknown() {
    let (place, other) = (Place::new(), Place::new());
    let blocked = client(&place, &["BLOCKS"]);
    let elsewhere = client(&other, &["VERSION=\"2\""]);
    let deadline = Instant::now() + Duration::from_secs(1);
    let held = blocked.send(message("one@example.com"), deadline);
    let waiting = blocked.send(message("two@example.com"), deadline);
    let beside = elsewhere.send(message("to@example.com"), soon());
    // The order of polling is the order of handing over.
    let (held, waiting, beside) = futures_util::join!(held, waiting, beside);
    assert!(matches!(held, Outcome::Unknown { .. }), "{held:?}");
    assert!(matches!(waiting, Outcome::NotAttempted { cause: Cause::Internal, .. }), "{waiting:?}");
    assert!(matches!(beside, Outcome::Accepted(_)), "{beside:?}");
}

#[tokio::test]
async fn an_abandoned_message_keeps_its_memory_until_the_plugin_completes_it() {
    let place = Place::new();
    let client = client(&place, &["VERSION=\"4\""]);
    for number in 0..50 {
        // The late one is handed over before the other one, which is answered.
        let late = client.send(message(&format!("late@{number}.example")), soon());
        let other = client.send(message("to@example.com"), soon());
        let answered = futures_util::future::select(late, other).await;
        let futures_util::future::Either::Right((outcome, abandoned)) = answered else { panic!("the late one was answered first") };
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        drop(abandoned);
    }
    assert_eq!(client.verify(soon()).await, Err("same 1, cancelled 50, destroyed 0".into()));
}

#[tokio::test]
async fn an_instance_is_destroyed_once_and_not_before_its_last_completion() {
    let place = Place::new();
    let first = client(&place, &["VERSION=\"3\""]);
    let second = place.registry.resolve_smtp("probe").expect("it loads").create(instance(json!({}))).expect("it makes one");
    {
        let late = first.send(message("late@example.com"), soon());
        let other = first.send(message("to@example.com"), soon());
        assert!(matches!(futures_util::future::select(late, other).await, futures_util::future::Either::Right(_)));
    }
    drop(first);
    // The first verify lets the late one complete; what that destroys is in line behind it.
    assert_eq!(second.verify(soon()).await, Err("same 1, cancelled 1, destroyed 0".into()));
    assert_eq!(second.verify(soon()).await, Err("same 1, cancelled 1, destroyed 1".into()));
}

#[tokio::test]
async fn a_plugin_without_close_closes_at_once() {
    let place = Place::new();
    client(&place, &[]).close(Duration::from_secs(600)).await;
}

#[test]
fn a_plugin_that_makes_nothing_is_a_problem_of_the_settings() {
    let place = Place::new();
    place.drop_c("probe", PROBE, &["MAKES_NOTHING"]);
    place.settle();
    let made = place.registry.resolve_smtp("probe").expect("it loads").create(instance(json!({})));
    let problems = made.err().expect("there is no instance");
    assert!(problems[0].message.contains("did not say why"), "{problems:?}");
}

#[test]
fn what_is_wrong_with_a_table_is_said_when_it_is_loaded() {
    let cases = [
        ("NO_EXPORT", "does not export `postwarm_plugin_entry_v0`"),
        ("ENTRY_ABI=3", "built for ABI 3, this host speaks 0"),
        ("NO_FACTORY", "has no such table"),
        ("OLD_TABLE", "lacks a function"),
        ("DESCRIPTOR_ID=\"other\"", "its note says `probe` 1, its descriptor `other` 1"),
        ("UNRESOLVED", "there_is_no_such_function"),
    ];
    for (define, words) in cases {
        let place = Place::new();
        place.drop_c("probe", PROBE, &[define]);
        place.settle();
        assert_eq!(place.problem("probe.so"), None, "{define}");
        let problem = place.registry.resolve_smtp("probe").err().expect("it cannot be used");
        assert!(problem.contains(words), "{define}: {problem}");
        assert_eq!(place.problem("probe.so"), Some(problem), "{define}");
    }
}
