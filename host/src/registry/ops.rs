//! The calls that a library owes a completion: one table for the process.
//!
//! Invariant: the memory of a request lives until its completion, whatever happens to the future that waits for it. One
//! that never completes keeps its memory for ever, on purpose: a plugin that reads late must not read another message.
//! Invariant: a plugin gets a number that is never used again, no pointer, so a second completion finds nothing.

use super::external::InstanceHandle;
use postwarm_plugin_api::abi::{self, Slice};
use postwarm_plugin_api::abi_convert::{read, read_outcome};
use postwarm_plugin_api::{Cause, Message, Outcome, Phase, Report, Watched};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What a completion said.
pub(super) enum Answer {
    Outcome(Outcome),
    Result { status: u32, text: String },
}

/// What a library asks while it polls; its thread waits for the answer.
pub(super) enum Ask {
    Push(Report, SyncSender<bool>),
    Page { after: u64, max: usize, answer: SyncSender<Vec<Watched>> },
}

/// The memory of a request that a library borrows.
pub(super) enum Memory {
    Nothing,
    Send(SendMemory),
    Poll(PollMemory),
}

/// A send request and the message it points into.
pub(super) struct SendMemory(*mut SendBlock);

struct SendBlock {
    request: abi::SendRequest,
    content: [Slice; 2],
    _message: Message,
}

/// A poll request and the cursor it points into.
pub(super) struct PollMemory(*mut PollBlock);

struct PollBlock {
    request: abi::PollRequest,
    _cursor: String,
}

// SAFETY: the block is owned by this value alone; what its pointers reach is immutable and owned by the block.
unsafe impl Send for SendMemory {}
// SAFETY: as above.
unsafe impl Send for PollMemory {}

impl SendMemory {
    pub(super) fn new(message: Message) -> SendMemory {
        let eight_bit = if message.eight_bit { abi::EIGHT_BIT } else { 0 };
        let smtputf8 = if message.smtputf8 { abi::SMTPUTF8 } else { 0 };
        let request = abi::SendRequest {
            struct_size: abi::size_of::<abi::SendRequest>(),
            flags: eight_bit | smtputf8,
            timeout_ms: 0,
            delivery: Slice::new(message.delivery.as_bytes()),
            envelope_from: Slice::new(message.envelope_from.as_bytes()),
            envelope_to: Slice::new(message.envelope_to.as_bytes()),
            content: std::ptr::null(),
            content_len: 2,
            reserved: 0,
        };
        let content = [Slice::new(&message.header), Slice::new(&message.body)];
        let block = Box::into_raw(Box::new(SendBlock { request, content, _message: message }));
        // SAFETY: the block was just made and nobody else knows it.
        unsafe { (*block).request.content = (&raw const (*block).content).cast() };
        SendMemory(block)
    }
}

impl Drop for SendMemory {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box, and this is its only owner.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl PollMemory {
    pub(super) fn new(cursor: String, push: abi::Push, watch_page: abi::WatchPage) -> PollMemory {
        let request = abi::PollRequest {
            struct_size: abi::size_of::<abi::PollRequest>(),
            reserved: 0,
            timeout_ms: 0,
            cursor: Slice::new(cursor.as_bytes()),
            push: Some(push),
            watch_page: Some(watch_page),
        };
        PollMemory(Box::into_raw(Box::new(PollBlock { request, _cursor: cursor })))
    }
}

impl Drop for PollMemory {
    fn drop(&mut self) {
        // SAFETY: as for `SendMemory`.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

struct Op {
    /// The library has been called with it.
    handed_over: bool,
    deadline: Instant,
    answer: Option<oneshot::Sender<Answer>>,
    asks: Option<mpsc::UnboundedSender<Ask>>,
    memory: Memory,
    /// Keeps the instance until nothing is owed any more.
    _instance: Arc<InstanceHandle>,
}

#[derive(Default)]
struct Table {
    last: usize,
    ops: HashMap<usize, Op>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a call stood when nobody wanted its answer any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// The library never saw it, and never will.
    Withdrawn,
    /// The library has it. Its memory stays.
    HandedOver,
    /// It was completed.
    Completed,
}

/// Enters a call and returns its number.
pub(super) fn add(
    instance: Arc<InstanceHandle>,
    memory: Memory,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    asks: Option<mpsc::UnboundedSender<Ask>>,
) -> usize {
    let op = Op { handed_over: false, deadline, answer: Some(answer), asks, memory, _instance: instance };
    let mut table = table();
    table.last += 1;
    let number = table.last;
    table.ops.insert(number, op);
    number
}

/// What a library is called with.
pub(super) struct Handed {
    pub request: *const c_void,
    pub timeout_ms: u64,
}

/// Marks a call as the library's, and returns what to call it with; `None` when it was withdrawn.
pub(super) fn hand_over(number: usize, now: Instant) -> Option<Handed> {
    let mut table = table();
    let op = table.ops.get_mut(&number)?;
    op.handed_over = true;
    let timeout_ms = u64::try_from(op.deadline.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX);
    let request = match &op.memory {
        Memory::Nothing => std::ptr::null(),
        // SAFETY: the library has not seen the block yet.
        Memory::Send(memory) => unsafe {
            (*memory.0).request.timeout_ms = timeout_ms;
            (&raw const (*memory.0).request).cast()
        },
        // SAFETY: as above.
        Memory::Poll(memory) => unsafe {
            (*memory.0).request.timeout_ms = timeout_ms;
            (&raw const (*memory.0).request).cast()
        },
    };
    Some(Handed { request, timeout_ms })
}

/// Takes note that nobody waits for the answer any more.
pub(super) fn give_up(number: usize) -> GivenUp {
    let mut table = table();
    match table.ops.get_mut(&number) {
        None => GivenUp::Completed,
        Some(op) if op.handed_over => {
            op.answer = None;
            op.asks = None;
            metrics::counter!("postwarm_plugin_calls_orphaned_total").increment(1);
            GivenUp::HandedOver
        }
        Some(_) => {
            let withdrawn = table.ops.remove(&number);
            drop(table);
            drop(withdrawn);
            GivenUp::Withdrawn
        }
    }
}

/// Completes a call; its memory goes at the end. A second completion does nothing.
pub(super) fn complete(number: usize, answer: Answer) {
    let op = table().ops.remove(&number);
    match op {
        // Nobody may wait any more, and then the answer is of no use.
        Some(Op { answer: Some(waiting), .. }) => drop(waiting.send(answer)),
        Some(_) => {}
        None => metrics::counter!("postwarm_plugin_completions_ignored_total").increment(1),
    }
}

/// What a library that took a send back without a completion is worth: it promised that none will come.
pub(super) fn not_taken(status: u32) -> Outcome {
    Outcome::NotAttempted { cause: Cause::Internal, detail: format!("the plugin did not take the message (status {status})") }
}

/// What a message is worth whose deadline passed before the library was asked.
pub(super) fn too_late() -> Outcome {
    Outcome::NotAttempted { cause: Cause::Internal, detail: "the deadline had passed before the plugin was asked".into() }
}

/// The completion of a send.
///
/// # Safety
/// As the header says.
pub(super) unsafe extern "C" fn on_sent(ctx: *mut c_void, outcome: *const abi::Outcome) {
    // SAFETY: the plugin lends the outcome until this returns.
    let outcome = unsafe { read_outcome(outcome) };
    complete(ctx as usize, Answer::Outcome(outcome));
}

/// The completion of a verify, a close, a poll.
///
/// # Safety
/// As the header says.
pub(super) unsafe extern "C" fn on_done(ctx: *mut c_void, result: *const abi::CallResult) {
    // SAFETY: the plugin lends the result until this returns.
    let (status, text) = unsafe {
        let known = !result.is_null();
        let result = read(result);
        (if known { result.status } else { abi::ERROR_TEMPORARY }, result.text.text())
    };
    complete(ctx as usize, Answer::Result { status, text });
}

/// The sender of a running poll's questions; `None` when nobody listens any more.
pub(super) fn asks(number: usize) -> Option<mpsc::UnboundedSender<Ask>> {
    table().ops.get(&number)?.asks.clone()
}

/// What is left to say of a message whose plugin did not answer in time.
pub(super) fn unanswered(given_up: &GivenUp) -> Outcome {
    match given_up {
        GivenUp::Withdrawn => Outcome::NotAttempted {
            cause: Cause::Internal,
            detail: "the plugin blocks the thread that calls it, so it never got the message".into(),
        },
        GivenUp::HandedOver | GivenUp::Completed => {
            Outcome::Unknown { phase: Phase::EndOfData, detail: "the plugin did not say what became of the message".into() }
        }
    }
}
