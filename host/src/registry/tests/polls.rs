//! A feedback loop in C, over a watch list and a sink of the test's.

use super::support::{Place, instance};
use postwarm_plugin_api::{BoxFuture, FactKind, FactSink, FeedbackLoop, Poll, PollError, Report, WatchList, Watched};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Five;

impl WatchList for Five {
    fn page(&self, after: u64, max: usize) -> BoxFuture<'_, Vec<Watched>> {
        let watched = |position: u64| Watched {
            position,
            message_id: format!("m{position}@example.com"),
            domain: "example.org".into(),
            sent_at_ms: 1000,
        };
        Box::pin(std::future::ready((after + 1..=5).take(max).map(watched).collect()))
    }
}

struct UpTo(usize, Vec<Report>);

impl FactSink for UpTo {
    fn push(&mut self, report: Report) -> bool {
        self.1.push(report);
        self.1.len() < self.0
    }
}

fn watcher(place: &Place) -> Arc<dyn FeedbackLoop> {
    place.drop_c("watcher", include_str!("watcher.c"), &[]);
    place.settle();
    place.registry.resolve_feedback("watcher").expect("it loads").create(instance(json!({}))).expect("it makes one")
}

async fn poll(feedback: &dyn FeedbackLoop, cursor: &str, most: usize) -> (Result<String, PollError>, Vec<String>) {
    let mut sink = UpTo(most, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    let polled = feedback.poll(Poll { cursor, watch: &Five, deadline }, &mut sink).await;
    let ids = sink.1.into_iter().map(|report| match report {
        Report::Message(fact) => {
            assert_eq!((fact.kind, fact.at_ms, fact.detail.as_deref()), (FactKind::Read, Some(1001), Some("example.org")));
            fact.message_id
        }
        other => panic!("it reports messages only, not {other:?}"),
    });
    (polled, ids.collect())
}

#[tokio::test]
async fn a_poll_pages_through_the_watch_list_and_pushes_what_it_finds() {
    let place = Place::new();
    let feedback = watcher(&place);
    let can = feedback.capabilities();
    assert!(can.delivered && can.read && !can.spam && !can.aggregates);
    let (cursor, ids) = poll(&*feedback, "0", usize::MAX).await;
    assert_eq!(cursor.as_deref(), Ok("0+5"));
    assert_eq!(ids, ["m1@example.com", "m2@example.com", "m3@example.com", "m4@example.com", "m5@example.com"]);
}

#[tokio::test]
async fn a_poll_stops_when_the_sink_wants_no_more() {
    let place = Place::new();
    let (cursor, ids) = poll(&*watcher(&place), "0", 3).await;
    assert_eq!((cursor.as_deref(), ids.len()), (Ok("0+3"), 3));
}

#[tokio::test]
async fn a_poll_that_fails_says_whether_a_person_must_act() {
    let place = Place::new();
    let (refused, ids) = poll(&*watcher(&place), "fail", 3).await;
    assert_eq!(refused, Err(PollError::Refused("you shall not poll".into())));
    assert!(ids.is_empty());
}
