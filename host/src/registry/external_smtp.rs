//! An SMTP client within a library, as an ordinary [`SmtpClient`].
//!
//! Invariant: `send` resolves soon after its deadline even if the library never answers; what the library was handed is
//! then unknown, what it was not is certainly unsent.

use super::external::{InstanceHandle, Loaded, create};
use super::lane::Lane;
use super::ops::{self, Answer, GivenUp, Memory, SendMemory};
use postwarm_plugin_api::{BoxFuture, Descriptor, Instance, Message, Outcome, Phase, SettingsProblem, SmtpClient, SmtpFactory, abi};
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

/// How long after its deadline a call is waited for.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Makes SMTP clients of a loaded library.
pub(super) struct ExternalSmtpFactory {
    loaded: Arc<Loaded>,
}

impl ExternalSmtpFactory {
    /// The factory of `loaded`; `None` when it has no SMTP client.
    pub(super) fn new(loaded: Arc<Loaded>) -> Option<ExternalSmtpFactory> {
        loaded.smtp.is_some().then(|| ExternalSmtpFactory { loaded: loaded.clone() })
    }

    fn table(&self) -> &super::external::Table<abi::Smtp> {
        self.loaded.smtp.as_ref().expect("`new` looked")
    }
}

impl SmtpFactory for ExternalSmtpFactory {
    fn descriptor(&self) -> Descriptor {
        self.table().descriptor.clone()
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let table = self.table().table.clone();
        let functions = (
            table.create.expect("`load` refuses a table without it"),
            table.in_flight_max.expect("`load` refuses a table without it"),
            table.destroy.expect("`load` refuses a table without it"),
        );
        let lane = self.loaded.lane.clone();
        let (instance, in_flight_max) = create(&lane, functions, instance)?;
        Ok(Arc::new(ExternalSmtp { table, lane, instance, in_flight_max: in_flight_max.max(1) as usize }))
    }
}

struct ExternalSmtp {
    table: Arc<abi::Smtp>,
    lane: Lane,
    instance: Arc<InstanceHandle>,
    in_flight_max: usize,
}

/// Gives its call up when the future that waits for it is dropped.
pub(super) struct Ticket {
    pub number: usize,
    lane: Lane,
    instance: Arc<InstanceHandle>,
    cancel: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    settled: bool,
}

impl Ticket {
    pub(super) fn new(
        number: usize,
        lane: &Lane,
        instance: &Arc<InstanceHandle>,
        cancel: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    ) -> Ticket {
        Ticket { number, lane: lane.clone(), instance: instance.clone(), cancel, settled: false }
    }

    /// The answer came.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }

    /// Stops waiting and says how the call stood.
    pub(super) fn give_up(mut self) -> GivenUp {
        self.settled = true;
        self.abandon()
    }

    fn abandon(&self) -> GivenUp {
        let given_up = ops::give_up(self.number);
        if let (GivenUp::HandedOver, Some(cancel)) = (&given_up, self.cancel) {
            let (instance, number) = (self.instance.clone(), self.number);
            // SAFETY: the instance lives as long as its handle; the number is the one that the library was given.
            self.lane.run(move || unsafe { cancel(instance.pointer(), number as *mut c_void) });
        }
        given_up
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.abandon();
        }
    }
}

impl ExternalSmtp {
    async fn send_message(&self, message: Message, deadline: Instant) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let memory = Memory::Send(SendMemory::new(message));
        let number = ops::add(self.instance.clone(), memory, deadline, answer, None);
        let ticket = Ticket::new(number, &self.lane, &self.instance, self.table.cancel);
        let send = self.table.send.expect("`load` refuses a table without it");
        let instance = self.instance.clone();
        let call = self.lane.run_in_turn(move || {
            let Some(handed) = ops::hand_over(number, Instant::now()) else { return };
            if handed.timeout_ms == 0 {
                return ops::complete(number, Answer::Outcome(ops::too_late()));
            }
            // SAFETY: the table keeps the request until the completion; the instance lives as long as its handle.
            let status = unsafe { send(instance.pointer(), handed.request.cast(), ops::on_sent, number as *mut c_void) };
            if status != abi::OK {
                ops::complete(number, Answer::Outcome(ops::not_taken(status)));
            }
        });
        let waiting = async {
            call.await;
            answered.await
        };
        match timeout_at((deadline + GRACE).into(), waiting).await {
            Ok(Ok(Answer::Outcome(outcome))) => {
                ticket.settle();
                outcome
            }
            // A library that answers a send as if it were a verify.
            Ok(_) => Outcome::Unknown { phase: Phase::EndOfData, detail: "the plugin completed the message by the wrong function".into() },
            Err(_) => ops::unanswered(&ticket.give_up()),
        }
    }

    async fn call_done(&self, function: TimedCall, deadline: Instant, patience: Duration) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let number = ops::add(self.instance.clone(), Memory::Nothing, deadline, answer, None);
        let ticket = Ticket::new(number, &self.lane, &self.instance, self.table.cancel);
        let instance = self.instance.clone();
        let call = self.lane.run_in_turn(move || {
            let Some(handed) = ops::hand_over(number, Instant::now()) else { return };
            // SAFETY: the instance lives as long as its handle.
            let status = unsafe { function(instance.pointer(), handed.timeout_ms, ops::on_done, number as *mut c_void) };
            if status != abi::OK {
                ops::complete(number, Answer::Result { status, text: format!("the plugin did not take the call (status {status})") });
            }
        });
        let waiting = async {
            call.await;
            answered.await
        };
        match timeout_at((deadline + patience).into(), waiting).await {
            Ok(Ok(Answer::Result { status, text })) => {
                ticket.settle();
                if status == abi::OK { Ok(()) } else { Err(text) }
            }
            Ok(_) => Err("the plugin completed the call by the wrong function".into()),
            Err(_) => Err("the plugin did not answer in time".into()),
        }
    }
}

type TimedCall = unsafe extern "C" fn(*mut c_void, u64, abi::Done, *mut c_void) -> u32;

impl SmtpClient for ExternalSmtp {
    fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }

    fn send(&self, message: Message, deadline: Instant) -> BoxFuture<'_, Outcome> {
        if Instant::now() >= deadline {
            return Box::pin(std::future::ready(ops::too_late()));
        }
        Box::pin(self.send_message(message, deadline))
    }

    fn verify(&self, deadline: Instant) -> BoxFuture<'_, Result<(), String>> {
        match self.table.verify {
            Some(verify) => Box::pin(self.call_done(verify, deadline, GRACE)),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(close) = self.table.close
                && let Err(words) = self.call_done(close, Instant::now() + grace, GRACE).await
            {
                tracing::warn!("an external SMTP client did not close: {words}");
            }
        })
    }
}
