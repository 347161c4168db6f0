//! The loop over Mailpit's HTTP API: a message that is there is delivered, its flag says read, a tag `spam` says spam.
//!
//! Invariant: every poll reads the whole list, because a flag may change on an old message; it stops early only when the
//! host watches nothing, wants no more or waits no longer, and the cursor says where to go on.

use crate::api::{Api, Summary};
use crate::scan::Scan;
use crate::settings::{LOOP_SCHEMA, LoopSettings, feedback};
use crate::time::unix_ms;
use postwarm_plugin_api::{
    BoxFuture, Builtin, Capabilities, Descriptor, Fact, FactKind, FactSink, FeedbackFactory, FeedbackLoop, Instance, Kind, Poll, PollError,
    SettingsProblem, register_builtin,
};
use postwarm_plugin_kit::cursor::Cursor;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// How often in a row the list may move away under a question.
const MOVES_MAX: usize = 10;

/// Makes loops of the plugin `mailpit`.
pub struct MailpitFeedback;

register_builtin!(Builtin::Feedback(&MailpitFeedback));

impl FeedbackFactory for MailpitFeedback {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "mailpit".into(),
            kind: Kind::FeedbackLoop,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Reads from Mailpit's HTTP API which messages are there, read, or tagged as spam.".into(),
            settings_schema: LOOP_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>> {
        Ok(Arc::new(MailpitLoop { settings: feedback(&instance)?, api: OnceLock::new() }))
    }
}

struct MailpitLoop {
    settings: LoopSettings,
    api: OnceLock<Api>,
}

impl FeedbackLoop for MailpitLoop {
    fn capabilities(&self) -> Capabilities {
        Capabilities { delivered: true, read: true, spam: true, ..Capabilities::default() }
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async move {
            let cursor = Cursor::parse(poll.cursor, "mailpit", "a count of messages")?;
            if poll.watch.page(0, 1).await.is_empty() {
                return Ok(cursor.to_string());
            }
            let cursor = self.scan(cursor, poll.deadline, sink).await?;
            Ok(cursor.to_string())
        })
    }
}

impl MailpitLoop {
    fn api(&self) -> Result<&Api, PollError> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let api = Api::new(self.settings.url.clone(), self.settings.credentials.clone())?;
        Ok(self.api.get_or_init(|| api))
    }

    /// Reads from the cursor to the newest message and returns the start of the list, or where it had to stop.
    async fn scan(&self, cursor: Cursor, deadline: Instant, sink: &mut dyn FactSink) -> Result<Cursor, PollError> {
        let api = self.api()?;
        let mut scan = Scan::new(cursor.place);
        let (mut moves, mut told, mut at) = (0, cursor.facts, cursor);
        loop {
            if at != cursor && Instant::now() >= deadline {
                return Ok(at);
            }
            let (start, limit) = scan.window();
            let page = match api.messages(start, limit, deadline).await {
                Ok(page) => page,
                // What was reported stays reported; the failure comes back with the next poll.
                Err(_) if at != cursor && Instant::now() >= deadline => return Ok(at),
                Err(error) => return Err(error),
            };
            let Some(fresh) = scan.take(start, page) else {
                moves += 1;
                if moves == MOVES_MAX {
                    return Err(PollError::Temporary("mailpit's list does not hold the messages that it counts".into()));
                }
                continue;
            };
            moves = 0;
            for (place, summary) in fresh {
                let here = Cursor { place, facts: std::mem::take(&mut told) };
                match here.tell(facts(&summary), place + 1, sink) {
                    ControlFlow::Continue(next) => at = next,
                    ControlFlow::Break(stop) => return Ok(stop),
                }
            }
            if scan.is_done() {
                return Ok(Cursor::default());
            }
        }
    }
}

/// Returns what a summary says, always in the same order. Only the first has a time: Mailpit does not say when a flag
/// or a tag was set.
fn facts(summary: &Summary) -> Vec<Fact> {
    let spam = summary.tags.iter().flatten().any(|tag| tag.eq_ignore_ascii_case("spam"));
    [(true, FactKind::Delivered), (summary.read, FactKind::Read), (spam, FactKind::Spam)]
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, kind)| {
            let at_ms = if kind == FactKind::Delivered { unix_ms(&summary.created) } else { None };
            Fact { message_id: summary.message_id.clone(), kind, at_ms, detail: None }
        })
        .collect()
}
