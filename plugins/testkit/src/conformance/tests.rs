//! The suite finds plugins that do not keep the contract.

use super::feedback::{Source, feedback_loop};
use super::smtp::{Pointed, smtp_client};
use crate::instance::instance;
use postwarm_plugin_api::{
    BoxFuture, Capabilities, Descriptor, Fact, FactKind, FactSink, FeedbackFactory, FeedbackLoop, Instance, Kind, Message, Outcome, Poll,
    PollError, Reply, Report, SettingsProblem, SmtpClient, SmtpFactory,
};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A plugin that says what sounds best.
struct Liar;

fn descriptor(kind: Kind) -> Descriptor {
    Descriptor {
        id: "Liar".into(),
        kind,
        version: "1".into(),
        summary: "Tells what you want to hear.".into(),
        settings_schema: "{}".into(),
    }
}

impl SmtpFactory for Liar {
    fn descriptor(&self) -> Descriptor {
        descriptor(Kind::SmtpClient)
    }

    fn create(&self, _: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        Ok(Arc::new(Liar))
    }
}

impl SmtpClient for Liar {
    fn in_flight_max(&self) -> usize {
        1
    }

    fn send(&self, _: Message, _: Instant) -> BoxFuture<'_, Outcome> {
        Box::pin(async { Outcome::Accepted(Reply { code: 250, enhanced: None, text: "of course".into() }) })
    }

    fn verify(&self, _: Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl FeedbackFactory for Liar {
    fn descriptor(&self) -> Descriptor {
        descriptor(Kind::FeedbackLoop)
    }

    fn create(&self, _: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>> {
        Ok(Arc::new(Liar))
    }
}

impl FeedbackLoop for Liar {
    fn capabilities(&self) -> Capabilities {
        Capabilities { delivered: true, ..Capabilities::default() }
    }

    fn poll<'a>(&'a self, _: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async {
            for kind in [FactKind::Delivered, FactKind::Read] {
                sink.push(Report::Message(Fact { message_id: "<m@x>".into(), kind, at_ms: None, detail: None }));
            }
            Ok("always here".into())
        })
    }
}

fn empty() -> Instance {
    instance(json!({}), &[])
}

#[tokio::test]
async fn a_client_that_accepts_whatever_happens_is_found_out() {
    let report = smtp_client(Pointed { factory: &Liar, at: &|_| empty(), with_secret: None }).await;
    let failed: Vec<&str> = report.failed().map(|check| check.name).collect();
    for name in [
        "the descriptor is valid",
        "an unknown setting is reported with its pointer",
        "contents arrive octet by octet",
        "a refused recipient is rejected and the next message is accepted",
        "a reply of 4yz is deferred and may be tried again",
        "every concurrent send is answered once and credited rightly",
        "a refused connection is not attempted and blames the client",
        "a connection lost after the end of data leaves the message unknown",
        "one lost connection leaves at most one message unknown",
        "a server that never greets is given up at the deadline",
        "a cancelled send gives its reply to no other message",
        "closing twice is harmless, and later sends are not attempted",
    ] {
        assert!(failed.contains(&name), "passed: {name}\n{report}");
    }
}

#[tokio::test]
async fn a_loop_that_says_too_much_is_found_out() {
    let source = Source { factory: &Liar, instance: empty(), watch: Vec::new(), failing: (empty(), String::new()) };
    let report = feedback_loop(&source).await;
    let failed: Vec<&str> = report.failed().map(|check| check.name).collect();
    for name in [
        "the descriptor is valid",
        "it reports something, and only what it declares",
        "a sink that wants no more is heard, and nothing is lost by it",
        "a source that fails is an error without secrets, and not the absence of news",
    ] {
        assert!(failed.contains(&name), "passed: {name}\n{report}");
    }
}
