//! A feedback loop within a library, as an ordinary [`FeedbackLoop`].
//!
//! Invariant: the library's threads never touch the sink or the watch list; the polling future does, on their behalf.

use super::external::{InstanceHandle, Loaded, Table, create};
use super::external_smtp::{GRACE, Ticket};
use super::lane::Lane;
use super::ops::{self, Answer, Ask, Memory, PollMemory};
use postwarm_plugin_api::abi_convert::{lend_watched, read_capabilities, read_report};
use postwarm_plugin_api::{
    BoxFuture, Capabilities, Descriptor, FactSink, FeedbackFactory, FeedbackLoop, Instance, Poll, PollError, SettingsProblem, abi,
};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

/// The watched messages that one call hands out.
const PAGE_MAX: u32 = 10_000;

/// Makes feedback loops of a loaded library.
pub(super) struct ExternalFeedbackFactory {
    loaded: Arc<Loaded>,
}

impl ExternalFeedbackFactory {
    /// The factory of `loaded`; `None` when it has no feedback loop.
    pub(super) fn new(loaded: Arc<Loaded>) -> Option<ExternalFeedbackFactory> {
        loaded.feedback.is_some().then(|| ExternalFeedbackFactory { loaded: loaded.clone() })
    }

    fn table(&self) -> &Table<abi::Feedback> {
        self.loaded.feedback.as_ref().expect("`new` looked")
    }
}

impl FeedbackFactory for ExternalFeedbackFactory {
    fn descriptor(&self) -> Descriptor {
        self.table().descriptor.clone()
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>> {
        let table = self.table().table.clone();
        let functions = (
            table.create.expect("`load` refuses a table without it"),
            table.capabilities.expect("`load` refuses a table without it"),
            table.destroy.expect("`load` refuses a table without it"),
        );
        let lane = self.loaded.lane.clone();
        let (instance, bits) = create(&lane, functions, instance)?;
        Ok(Arc::new(ExternalFeedback { table, lane, instance, capabilities: read_capabilities(bits) }))
    }
}

struct ExternalFeedback {
    table: Arc<abi::Feedback>,
    lane: Lane,
    instance: Arc<InstanceHandle>,
    capabilities: Capabilities,
}

impl FeedbackLoop for ExternalFeedback {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(self.poll_library(poll, sink))
    }
}

impl ExternalFeedback {
    async fn poll_library(&self, poll: Poll<'_>, sink: &mut dyn FactSink) -> Result<String, PollError> {
        let (answer, mut answered) = oneshot::channel();
        let (asks, mut asked) = mpsc::unbounded_channel();
        let memory = Memory::Poll(PollMemory::new(poll.cursor.to_owned(), on_push, on_watch_page));
        let number = ops::add(self.instance.clone(), memory, poll.deadline, answer, Some(asks));
        let ticket = Ticket::new(number, &self.lane, &self.instance, self.table.cancel);
        let function = self.table.poll.expect("`load` refuses a table without it");
        let instance = self.instance.clone();
        let call = self.lane.run_in_turn(move || {
            let Some(handed) = ops::hand_over(number, Instant::now()) else { return };
            // SAFETY: the table keeps the request until the completion; the instance lives as long as its handle.
            let status = unsafe { function(instance.pointer(), handed.request.cast(), ops::on_done, number as *mut c_void) };
            if status != abi::OK {
                ops::complete(number, Answer::Result { status, text: format!("the plugin did not take the poll (status {status})") });
            }
        });
        let serving = async {
            call.await;
            loop {
                tokio::select! {
                    biased;
                    Some(ask) = asked.recv() => serve(ask, &poll, sink).await,
                    answer = &mut answered => break answer,
                }
            }
        };
        match timeout_at((poll.deadline + GRACE).into(), serving).await {
            Ok(Ok(Answer::Result { status, text })) => {
                ticket.settle();
                match status {
                    abi::OK => Ok(text),
                    abi::ERROR_REFUSED => Err(PollError::Refused(text)),
                    _ => Err(PollError::Temporary(text)),
                }
            }
            Ok(_) => Err(PollError::Temporary("the plugin completed the poll by the wrong function".into())),
            Err(_) => Err(PollError::Temporary("the plugin did not answer in time".into())),
        }
    }
}

async fn serve(ask: Ask, poll: &Poll<'_>, sink: &mut dyn FactSink) {
    // The library's thread waits for either answer and can be gone only with the process.
    match ask {
        Ask::Push(report, answer) => drop(answer.send(sink.push(report))),
        Ask::Page { after, max, answer } => drop(answer.send(poll.watch.page(after, max).await)),
    }
}

unsafe extern "C" fn on_push(ctx: *mut c_void, report: *const abi::Report) -> u32 {
    // SAFETY: the library lends the report until this returns.
    let Some(report) = (unsafe { read_report(report) }) else { return 1 };
    let Some(asks) = ops::asks(ctx as usize) else { return 0 };
    let (answer, answered) = sync_channel(1);
    if asks.send(Ask::Push(report, answer)).is_err() {
        return 0;
    }
    drop(asks);
    u32::from(answered.recv().unwrap_or(false))
}

unsafe extern "C" fn on_watch_page(ctx: *mut c_void, after: u64, max: u32, take: abi::TakeWatched, take_ctx: *mut c_void) -> u32 {
    let Some(asks) = ops::asks(ctx as usize) else { return 0 };
    let (answer, answered) = sync_channel(1);
    if asks.send(Ask::Page { after, max: max.min(PAGE_MAX) as usize, answer }).is_err() {
        return 0;
    }
    drop(asks);
    let page = answered.recv().unwrap_or_default();
    for watched in &page {
        // SAFETY: the library's function copies before it returns.
        lend_watched(watched, |c| unsafe { take(take_ctx, c) });
    }
    page.len() as u32
}
