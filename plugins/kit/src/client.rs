//! The SMTP client that plugins give to the host.
//!
//! Invariant: making one does no I/O and starts nothing; the first `send` does, on the runtime that it runs on.

use crate::classify::Rules;
use crate::handshake;
use crate::idle::{IDLERS, Idlers};
use crate::job::Job;
use crate::pool::Pool;
use crate::settings::ServerSettings;
use postwarm_plugin_api::{BoxFuture, Cause, Message, Outcome, SmtpClient};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Calls of `send` for each connection: one whose content is out, one whose envelope follows it, one that waits, so
/// that the next envelope can always go with the content.
const IN_FLIGHT_PER_CONNECTION: usize = 3;

/// Sends messages to one server over a pool of connections.
pub struct Client {
    pool: Arc<Pool>,
}

impl Client {
    /// Makes a client of at most `connections_max` connections. `rules` say whose fault a refusal is.
    pub fn new(settings: ServerSettings, connections_max: u32, rules: Rules) -> Client {
        Client::among(&IDLERS, settings, connections_max, rules)
    }

    /// The same, with the connections among which its own count while they are idle.
    pub(crate) fn among(idlers: &'static Idlers, settings: ServerSettings, connections_max: u32, rules: Rules) -> Client {
        let connections_max = usize::try_from(connections_max).unwrap_or(usize::MAX / IN_FLIGHT_PER_CONNECTION);
        Client { pool: Pool::new(settings, connections_max, rules, idlers) }
    }

    /// The messages that no connection has taken yet.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.pool.queued()
    }

    async fn send_inner(&self, message: Message, deadline: Instant) -> Outcome {
        let (job, mut answer) = Job::new(message, deadline);
        let id = self.pool.push(job);
        let lost = |_| Outcome::Unknown { phase: postwarm_plugin_api::Phase::EndOfData, detail: "the answer was lost".to_owned() };
        tokio::select! {
            biased;
            outcome = &mut answer => return outcome.unwrap_or_else(lost),
            () = sleep_until(deadline) => {}
        }
        // A connection that has it keeps the deadline too, and knows what came of it.
        match self.pool.withdraw(id) {
            (false, _) => answer.await.unwrap_or_else(lost),
            (true, any_open) => {
                let cause = if any_open { Cause::Disconnected } else { Cause::Connect };
                Outcome::NotAttempted { cause, detail: "no connection was free before the deadline".to_owned() }
            }
        }
    }
}

impl SmtpClient for Client {
    fn in_flight_max(&self) -> usize {
        self.pool.connections_max * IN_FLIGHT_PER_CONNECTION
    }

    fn marks_end_of_data(&self) -> bool {
        true
    }

    fn send(&self, message: Message, deadline: std::time::Instant) -> BoxFuture<'_, Outcome> {
        Box::pin(self.send_inner(message, deadline.into()))
    }

    fn withdraw(&self) {
        self.pool.withdraw_all();
    }

    fn verify(&self, deadline: std::time::Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let deadline = Instant::from(deadline);
            match timeout_at(deadline, handshake::open(&self.pool.settings, &self.pool.tls, &AtomicBool::default())).await {
                Ok(Ok(session)) => {
                    handshake::quit(session.wire, deadline.min(Instant::now() + Duration::from_secs(5))).await;
                    Ok(())
                }
                Ok(Err(failure)) => Err(failure.detail),
                Err(_) => {
                    let settings = &self.pool.settings;
                    Err(format!("{}:{}: no session before the deadline", settings.host, settings.port))
                }
            }
        })
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.pool.close(Instant::now() + grace).await })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // No call of `send` can be left; idle connections say QUIT now and not at the end of their idle time.
        self.pool.refuse_new();
    }
}
