//! The table of SMTP clients over an ordinary `impl SmtpFactory`.
//!
//! Invariant: a message whose client was asked is `Unknown` when the client panics or is aborted: nobody can tell how far
//! it had come. Before that it is certainly unsent.

use crate::abi::{self, Slice};
use crate::abi_convert::{lend_outcome, read};
use crate::export::{Caught, DoneGuard, caught, runtime};
use crate::export_instance::{Exports, cancel, create, deadline, destroy, exported, table_once};
use crate::{Cause, Message, Outcome, Phase, PollError, SmtpClient};
use bytes::Bytes;
use std::ffi::c_void;
use std::sync::OnceLock;
use std::time::Duration;

type Client = dyn SmtpClient;

/// The table of `E`'s factory; null where its descriptor panics.
pub fn smtp_table<E: Exports<Plugin = Client>>(table: &'static OnceLock<abi::Smtp>) -> *const abi::Smtp {
    table_once::<E, _>(table, |descriptor| abi::Smtp {
        struct_size: abi::size_of::<abi::Smtp>(),
        reserved: 0,
        descriptor,
        create: Some(create::<E>),
        in_flight_max: Some(in_flight_max),
        send: Some(send),
        cancel: Some(cancel::<Client>),
        verify: Some(verify),
        close: Some(close),
        destroy: Some(destroy::<Client>),
    })
}

unsafe extern "C" fn in_flight_max(instance: *mut c_void) -> u32 {
    // SAFETY: the host passes what `create` made.
    let exported = unsafe { exported::<Client>(instance) };
    caught(|| exported.plugin.in_flight_max()).map_or(1, |max| u32::try_from(max).unwrap_or(u32::MAX).max(1))
}

/// The completion that a send owes.
struct SendGuard {
    done: Option<abi::SendDone>,
    ctx: usize,
    /// The client was asked: the content may have left.
    asked: bool,
}

impl SendGuard {
    fn finish(&mut self, outcome: &Outcome) {
        let Some(done) = self.done.take() else { return };
        // SAFETY: this is the one call that is owed; the host copies before it returns.
        lend_outcome(outcome, |c| unsafe { done(self.ctx as *mut c_void, c) });
    }

    fn fail(&mut self, words: &str) {
        let detail = words.to_owned();
        let outcome = match self.asked {
            true => Outcome::Unknown { phase: Phase::EndOfData, detail },
            false => Outcome::NotAttempted { cause: Cause::Internal, detail },
        };
        self.finish(&outcome);
    }
}

impl Drop for SendGuard {
    fn drop(&mut self) {
        self.fail("the plugin gave the message up");
    }
}

/// # Safety
/// `request` is lent for the length of the call.
unsafe fn read_message(request: *const abi::SendRequest) -> (Message, Duration) {
    // SAFETY: the host lends the request and everything that it points to.
    unsafe {
        let c = read(request);
        let slices: &[Slice] = match c.content.is_null() {
            true => &[],
            false => std::slice::from_raw_parts(c.content, c.content_len as usize),
        };
        // Copied: a plugin may keep a `Message` for longer than the host keeps the memory.
        let header = slices.first().map_or(Bytes::new(), |slice| Bytes::copy_from_slice(slice.bytes()));
        let body = match slices.get(1..).unwrap_or_default() {
            [body] => Bytes::copy_from_slice(body.bytes()),
            parts => parts.iter().flat_map(|slice| slice.bytes().iter().copied()).collect(),
        };
        let message = Message {
            delivery: c.delivery.text().into(),
            envelope_from: c.envelope_from.text().into(),
            envelope_to: c.envelope_to.text().into(),
            header,
            body,
            eight_bit: c.flags & abi::EIGHT_BIT != 0,
            smtputf8: c.flags & abi::SMTPUTF8 != 0,
            mark: None,
        };
        (message, Duration::from_millis(c.timeout_ms))
    }
}

unsafe extern "C" fn send(instance: *mut c_void, request: *const abi::SendRequest, done: abi::SendDone, ctx: *mut c_void) -> u32 {
    let Ok(runtime) = runtime() else { return abi::ERROR_TEMPORARY };
    // SAFETY: the host passes what `create` made, and lends the request.
    let (exported, (message, timeout)) = unsafe { (exported::<Client>(instance), read_message(request)) };
    let deadline = deadline(timeout);
    let client = exported.plugin.clone();
    let ctx = ctx as usize;
    let mut guard = SendGuard { done: Some(done), ctx, asked: false };
    exported.spawn(runtime, ctx, async move {
        guard.asked = true;
        match Caught(async { client.send(message, deadline).await }).await {
            Ok(outcome) => guard.finish(&outcome),
            Err(words) => guard.fail(&words),
        }
    });
    abi::OK
}

unsafe extern "C" fn verify(instance: *mut c_void, timeout_ms: u64, done: abi::Done, ctx: *mut c_void) -> u32 {
    let Ok(runtime) = runtime() else { return abi::ERROR_TEMPORARY };
    // SAFETY: the host passes what `create` made.
    let exported = unsafe { exported::<Client>(instance) };
    let client = exported.plugin.clone();
    let ctx = ctx as usize;
    let deadline = deadline(Duration::from_millis(timeout_ms));
    let verified = async move { client.verify(deadline).await.map(|()| String::new()).map_err(PollError::Refused) };
    exported.spawn(runtime, ctx, DoneGuard::new(done, ctx).complete(verified));
    abi::OK
}

unsafe extern "C" fn close(instance: *mut c_void, grace_ms: u64, done: abi::Done, ctx: *mut c_void) -> u32 {
    let Ok(runtime) = runtime() else { return abi::ERROR_TEMPORARY };
    // SAFETY: the host passes what `create` made.
    let client = unsafe { exported::<Client>(instance) }.plugin.clone();
    let closed = async move {
        client.close(Duration::from_millis(grace_ms)).await;
        Ok(String::new())
    };
    runtime.spawn(DoneGuard::new(done, ctx as usize).complete(closed));
    abi::OK
}
