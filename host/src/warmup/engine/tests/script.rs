//! Clients that a test answers for.

use crate::config::settings::{Organization, SmtpEntry};
use crate::warmup::engine::MakeClient;
use postwarm_plugin_api::{BoxFuture, Cause, Mark, Message, Outcome, SmtpClient};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Clients of all names that answer what the test says, and are silent until then.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Scripted>>);

#[derive(Default)]
struct Scripted {
    silent: Vec<Silent>,
    answers: VecDeque<Outcome>,
    marks: bool,
    closed: Vec<(String, Duration)>,
    /// Clients that close until the next answers.
    closing: Vec<oneshot::Sender<()>>,
    /// How many messages connections have begun with; the others can be withdrawn.
    begun: Option<usize>,
}

/// A message whose reply a test owes.
struct Silent {
    to: String,
    mark: Option<Mark>,
    answer: oneshot::Sender<Outcome>,
}

impl Script {
    /// The clients mark the end of data themselves, as the test says.
    pub fn marks(&self) {
        self.0.lock().unwrap().marks = true;
    }

    /// The end of this recipient's message may leave now.
    pub fn ends_data_of(&self, to: &str) {
        let script = self.0.lock().unwrap();
        let silent = script.silent.iter().find(|silent| silent.to == to).expect("it waits for its reply");
        silent.mark.as_ref().expect("it came with a mark").set();
    }

    /// Which clients were told to close, each time with how long they have.
    pub fn closed(&self) -> Vec<(String, Duration)> {
        self.0.lock().unwrap().closed.clone()
    }

    /// Connections begin with so many messages; a client that is asked gives the others back.
    pub fn begins(&self, messages: usize) {
        self.0.lock().unwrap().begun = Some(messages);
    }

    /// Whose messages wait for their replies.
    pub fn waiting(&self) -> Vec<String> {
        self.0.lock().unwrap().silent.iter().map(|silent| silent.to.clone()).collect()
    }

    /// The messages of a process that is gone get no replies.
    pub fn forget(&self) {
        self.0.lock().unwrap().silent.clear();
    }

    /// The next messages get these answers at once.
    pub fn answers(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.0.lock().unwrap().answers.extend(outcomes);
    }

    /// Answers every message that waits for its reply.
    pub fn release(&self, outcome: impl Fn() -> Outcome) -> usize {
        self.release_of("", outcome)
    }

    /// Answers the messages to recipients of a domain.
    pub fn release_of(&self, domain: &str, outcome: impl Fn() -> Outcome) -> usize {
        let waiting = {
            let mut script = self.0.lock().unwrap();
            script.closing.clear();
            script.silent.extract_if(.., |silent| silent.to.ends_with(domain)).collect::<Vec<_>>()
        };
        waiting.into_iter().filter_map(|silent| silent.answer.send(outcome()).ok()).count()
    }
}

impl MakeClient for Script {
    fn make(&self, _: &Organization, entry: &SmtpEntry) -> Result<Arc<dyn SmtpClient>, String> {
        Ok(Arc::new(ScriptedClient { script: self.clone(), name: entry.name.clone(), in_flight_max: entry.connections as usize }))
    }
}

struct ScriptedClient {
    script: Script,
    name: String,
    in_flight_max: usize,
}

impl SmtpClient for ScriptedClient {
    fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }

    fn marks_end_of_data(&self) -> bool {
        self.script.0.lock().unwrap().marks
    }

    fn send(&self, message: Message, _: Instant) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let reply = {
                let mut script = self.script.0.lock().unwrap();
                if let Some(answer) = script.answers.pop_front() {
                    return answer;
                }
                let (answer, reply) = oneshot::channel();
                script.silent.push(Silent { to: message.envelope_to.to_string(), mark: message.mark, answer });
                reply
            };
            match reply.await {
                Ok(outcome) => outcome,
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn withdraw(&self) {
        let mut script = self.script.0.lock().unwrap();
        let begun = script.begun.unwrap_or(usize::MAX).min(script.silent.len());
        for silent in script.silent.split_off(begun) {
            let outcome = Outcome::NotAttempted { cause: Cause::Stopping, detail: "withdrawn".to_owned() };
            silent.answer.send(outcome).expect("its call waits");
        }
    }

    fn verify(&self, _: Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (held, ended) = oneshot::channel();
            {
                let mut script = self.script.0.lock().unwrap();
                script.closed.push((self.name.clone(), grace));
                script.closing.push(held);
            }
            let _ = ended.await;
        })
    }
}
