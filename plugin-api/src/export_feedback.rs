//! The table of feedback loops over an ordinary `impl FeedbackFactory`.
//!
//! Invariant: the host's functions of a poll are first called before its completion. A cancelled poll may complete while a
//! thread is still within `watch_page`, or about to call it; the host answers that call with nothing, as it knows polls by
//! numbers that it never uses again.

use crate::abi;
use crate::abi_convert::{capability_bits, lend_report, read, read_watched};
use crate::export::{DoneGuard, caught, runtime};
use crate::export_instance::{Exports, cancel, create, deadline, destroy, exported, table_once};
use crate::{BoxFuture, FactSink, FeedbackLoop, Poll, Report, WatchList, Watched};
use std::ffi::c_void;
use std::sync::OnceLock;
use std::time::Duration;

type Loop = dyn FeedbackLoop;

/// The table of `E`'s factory; null where its descriptor panics.
pub fn feedback_table<E: Exports<Plugin = Loop>>(table: &'static OnceLock<abi::Feedback>) -> *const abi::Feedback {
    table_once::<E, _>(table, |descriptor| abi::Feedback {
        struct_size: abi::size_of::<abi::Feedback>(),
        reserved: 0,
        descriptor,
        create: Some(create::<E>),
        capabilities: Some(capabilities),
        poll: Some(poll),
        cancel: Some(cancel::<Loop>),
        destroy: Some(destroy::<Loop>),
    })
}

unsafe extern "C" fn capabilities(instance: *mut c_void) -> u32 {
    // SAFETY: the host passes what `create` made.
    let exported = unsafe { exported::<Loop>(instance) };
    caught(|| capability_bits(exported.plugin.capabilities())).unwrap_or(0)
}

/// The host's end of a poll.
#[derive(Clone, Copy)]
struct HostSide {
    ctx: usize,
    push: Option<abi::Push>,
    watch_page: Option<abi::WatchPage>,
}

impl FactSink for HostSide {
    fn push(&mut self, report: Report) -> bool {
        let Some(push) = self.push else { return false };
        // SAFETY: the poll has not completed; the host copies the report before it returns.
        lend_report(&report, |c| unsafe { push(self.ctx as *mut c_void, c) == 1 })
    }
}

impl WatchList for HostSide {
    fn page(&self, after: u64, max: usize) -> BoxFuture<'_, Vec<Watched>> {
        let side = *self;
        // The host's function blocks shortly, so it gets a thread that may block.
        Box::pin(async move { tokio::task::spawn_blocking(move || side.page_blocking(after, max)).await.unwrap_or_default() })
    }
}

impl HostSide {
    fn page_blocking(self, after: u64, max: usize) -> Vec<Watched> {
        unsafe extern "C" fn take(list: *mut c_void, watched: *const abi::Watched) {
            // SAFETY: `list` is the vector below, which outlives the call; the host lends `watched`.
            unsafe { (*list.cast::<Vec<Watched>>()).push(read_watched(watched)) };
        }
        let mut list: Vec<Watched> = Vec::new();
        if let Some(watch_page) = self.watch_page {
            let max = u32::try_from(max).unwrap_or(u32::MAX);
            // SAFETY: `take` is called within this call only.
            unsafe { watch_page(self.ctx as *mut c_void, after, max, take, (&raw mut list).cast()) };
        }
        list
    }
}

unsafe extern "C" fn poll(instance: *mut c_void, request: *const abi::PollRequest, done: abi::Done, ctx: *mut c_void) -> u32 {
    let Ok(runtime) = runtime() else { return abi::ERROR_TEMPORARY };
    // SAFETY: the host passes what `create` made, and lends the request.
    let (exported, request, cursor) = unsafe {
        let request = read(request);
        let cursor = request.cursor.text();
        (exported::<Loop>(instance), request, cursor)
    };
    let ctx = ctx as usize;
    let side = HostSide { ctx, push: request.push, watch_page: request.watch_page };
    let deadline = deadline(Duration::from_millis(request.timeout_ms));
    let feedback = exported.plugin.clone();
    let polled = async move {
        let mut sink = side;
        feedback.poll(Poll { cursor: &cursor, watch: &side, deadline }, &mut sink).await
    };
    exported.spawn(runtime, ctx, DoneGuard::new(done, ctx).complete(polled));
    abi::OK
}
