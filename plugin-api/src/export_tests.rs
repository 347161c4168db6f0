//! The exported table, called as a host calls it: each call is completed once, whatever the client does.

use super::*;
use crate::abi_convert::{lend_instance, read_outcome};
use crate::{BoxFuture, Cause, Descriptor, Instance, Kind, Message, Outcome, Phase, Reply, SettingsProblem, SmtpClient, SmtpFactory};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

struct Factory;

impl SmtpFactory for Factory {
    fn descriptor(&self) -> Descriptor {
        let text = |text: &'static str| text.into();
        Descriptor { id: text("test"), kind: Kind::SmtpClient, version: text("1"), summary: text(""), settings_schema: text("") }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        match instance.name.as_str() {
            "panics" => panic!("in create"),
            "refused" => Err(vec![SettingsProblem::new("/a", "wrong"), SettingsProblem::new("/b", "wrong too")]),
            _ => Ok(Arc::new(Client)),
        }
    }
}

struct Client;

impl SmtpClient for Client {
    fn in_flight_max(&self) -> usize {
        7
    }

    fn send(&self, message: Message, _deadline: Instant) -> BoxFuture<'_, Outcome> {
        match &*message.envelope_to {
            "at-once" => panic!("before the future"),
            "later" => Box::pin(async {
                tokio::task::yield_now().await;
                panic!("within the future")
            }),
            "never" => Box::pin(std::future::pending()),
            _ => Box::pin(async move {
                let text = format!("{} {}", String::from_utf8_lossy(&message.header), String::from_utf8_lossy(&message.body));
                Outcome::Accepted(Reply { code: 250, enhanced: None, text })
            }),
        }
    }

    fn verify(&self, _deadline: Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { panic!("in verify") })
    }

    fn close(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async { tokio::time::sleep(Duration::ZERO).await })
    }
}

struct Exported;

impl Exports for Exported {
    type Plugin = dyn SmtpClient;

    fn descriptor() -> Descriptor {
        Factory.descriptor()
    }

    fn create(instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        Factory.create(instance)
    }
}

fn table() -> &'static abi::Smtp {
    static TABLE: OnceLock<abi::Smtp> = OnceLock::new();
    // SAFETY: the table lives as long as the process, and the descriptor does not panic.
    unsafe { &*smtp_table::<Exported>(&TABLE) }
}

unsafe extern "C" fn collect(ctx: *mut c_void, pointer: Slice, message: Slice) {
    // SAFETY: `ctx` is the vector of `create`, which is running.
    unsafe { (*ctx.cast::<Vec<String>>()).push(format!("{} {}", pointer.text(), message.text())) };
}

fn create(name: &str) -> Result<*mut c_void, Vec<String>> {
    let instance = Instance {
        organization: "acme".into(),
        name: name.into(),
        settings: serde_json::Map::new(),
        secrets: std::collections::BTreeMap::new(),
        connections_max: 1,
        data_dir: "".into(),
    };
    let (mut problems, mut pointer) = (Vec::new(), std::ptr::null_mut());
    let create = table().create.expect("it is there");
    // SAFETY: everything is lent for the length of the call.
    let status =
        lend_instance(&instance, |c| unsafe { create(std::ptr::null(), c, collect, (&raw mut problems).cast(), &raw mut pointer) });
    if status == abi::OK { Ok(pointer) } else { Err(problems) }
}

unsafe extern "C" fn sent(ctx: *mut c_void, outcome: *const abi::Outcome) {
    // SAFETY: `ctx` is a leaked sender, and the outcome is lent.
    let (sender, outcome) = unsafe { (&*ctx.cast::<Sender<Outcome>>(), read_outcome(outcome)) };
    sender.send(outcome).expect("the test waits");
}

fn send(instance: *mut c_void, to: &str) -> (*mut c_void, Receiver<Outcome>) {
    let (sender, receiver) = channel::<Outcome>();
    let ctx: *mut c_void = Box::into_raw(Box::new(sender)).cast();
    let content = [Slice::new(b"header"), Slice::new(b"bo"), Slice::new(b"dy")];
    let request = abi::SendRequest {
        struct_size: abi::size_of::<abi::SendRequest>(),
        flags: 0,
        timeout_ms: 10_000,
        delivery: Slice::EMPTY,
        envelope_from: Slice::EMPTY,
        envelope_to: Slice::new(to.as_bytes()),
        content: content.as_ptr(),
        content_len: 3,
        reserved: 0,
    };
    let send = table().send.expect("it is there");
    // SAFETY: this exporter copies the request before it returns; the sender is never freed.
    assert_eq!(unsafe { send(instance, &request, sent, ctx) }, abi::OK);
    (ctx, receiver)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_message_crosses_whole() {
    let instance = create("well").expect("it is made");
    let outcome = send(instance, "to").1.recv_timeout(PATIENCE);
    assert!(matches!(&outcome, Ok(Outcome::Accepted(reply)) if reply.text == "header body"), "{outcome:?}");
    // SAFETY: the instance was made here, and nothing is owed.
    unsafe { table().destroy.expect("it is there")(instance) };
}

#[test]
fn a_client_that_panics_leaves_the_message_unknown_with_its_words() {
    let instance = create("well").expect("it is made");
    for (to, words) in [("at-once", "the plugin panicked: before the future"), ("later", "the plugin panicked: within the future")] {
        let (_, receiver) = send(instance, to);
        let expected = Outcome::Unknown { phase: Phase::EndOfData, detail: words.into() };
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(expected));
    }
}

#[test]
fn a_cancelled_message_is_completed_once_and_never_as_accepted() {
    let instance = create("well").expect("it is made");
    let (ctx, receiver) = send(instance, "never");
    let cancel = table().cancel.expect("it is there");
    // SAFETY: the instance lives.
    unsafe {
        cancel(instance, ctx);
        cancel(instance, ctx);
    }
    let outcome = receiver.recv_timeout(PATIENCE).expect("the guard completes");
    let internal = |cause: &Cause| *cause == Cause::Internal;
    assert!(matches!(&outcome, Outcome::Unknown { .. }) || matches!(&outcome, Outcome::NotAttempted { cause, .. } if internal(cause)));
    assert!(receiver.try_recv().is_err());
}

#[test]
fn a_factory_that_panics_or_refuses_names_its_problems() {
    assert_eq!(create("panics"), Err(vec![" the plugin panicked: in create".to_owned()]));
    assert_eq!(create("refused"), Err(vec!["/a wrong".to_owned(), "/b wrong too".to_owned()]));
}

#[test]
fn a_verify_that_panics_is_an_error_in_words() {
    unsafe extern "C" fn done(ctx: *mut c_void, result: *const abi::CallResult) {
        // SAFETY: `ctx` is a leaked sender, and the result is lent.
        unsafe { (&*ctx.cast::<Sender<String>>()).send((*result).text.text()).expect("the test waits") };
    }
    let instance = create("well").expect("it is made");
    let (sender, receiver) = channel::<String>();
    let ctx = Box::into_raw(Box::new(sender)).cast();
    // SAFETY: the instance lives, the sender is never freed.
    unsafe { table().verify.expect("it is there")(instance, 1000, done, ctx) };
    assert_eq!(receiver.recv_timeout(PATIENCE).as_deref(), Ok("the plugin panicked: in verify"));
}
