//! Example: an external SMTP client in Rust. It speaks plain SMTP to a relay nearby, over connections that it reuses.
//!
//! Nothing here knows that it is a `.so`: an `impl SmtpFactory`, an `impl SmtpClient`, and one line of `export_plugin!`.
//!
//! Invariant: a message is `Unknown` from the first octet of its end of data until the reply to it was read.

mod session;

use postwarm_plugin_api::{
    BoxFuture, Cause, Descriptor, Instance, Kind, Message, Outcome, SettingsProblem, SmtpClient, SmtpFactory, export_plugin,
};
use session::{Failure, Limit, Session};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "required": ["host"],
  "properties": {
    "host": { "type": "string", "description": "name or address of the relay" },
    "port": { "type": "integer", "minimum": 1, "maximum": 65535, "default": 25 }
  }
}"#;

export_plugin!(smtp: RelayFactory, id: "example-relay", schema: SCHEMA);

/// Makes relays.
struct RelayFactory;

impl SmtpFactory for RelayFactory {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "example-relay".into(),
            kind: Kind::SmtpClient,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Example in Rust: plain SMTP to a relay nearby".into(),
            settings_schema: SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let mut problems = Vec::new();
        for key in instance.settings.keys().filter(|key| !["host", "port"].contains(&key.as_str())) {
            problems.push(SettingsProblem::new(format!("/{key}"), "there is no such setting; there are `host` and `port`"));
        }
        let host = instance.settings.get("host").and_then(|host| host.as_str()).unwrap_or_default().to_owned();
        if host.is_empty() {
            problems.push(SettingsProblem::new("/host", "must be the name or address of the relay"));
        }
        let port = instance.settings.get("port").map_or(Some(25), serde_json_port);
        if port.is_none() {
            problems.push(SettingsProblem::new("/port", "must be a number from 1 to 65535"));
        }
        match (port, problems.is_empty()) {
            (Some(port), true) => Ok(Arc::new(Relay::new(host, port, instance.connections_max as usize))),
            _ => Err(problems),
        }
    }
}

fn serde_json_port(value: &postwarm_plugin_api::serde_json::Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

struct Relay {
    host: String,
    port: u16,
    connections_max: usize,
    /// One permit for each connection that may exist.
    connections: Semaphore,
    idle: Mutex<Vec<Session>>,
    closing: AtomicBool,
    /// Becomes true when the grace of closing is over: what still runs ends, and says how far it had come.
    cut: watch::Sender<bool>,
}

impl Relay {
    fn new(host: String, port: u16, connections_max: usize) -> Relay {
        let connections = Semaphore::new(connections_max);
        let cut = watch::Sender::new(false);
        Relay { host, port, connections_max, connections, idle: Mutex::default(), closing: AtomicBool::new(false), cut }
    }

    fn take_idle(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, session: Session) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }

    async fn session(&self) -> Result<Session, Failure> {
        // The server may have closed one that was idle: `NOOP` tells before a message is at stake.
        while let Some(mut session) = self.take_idle() {
            if session.noop().await.is_ok() {
                return Ok(session);
            }
        }
        Session::connect(&self.host, self.port).await
    }

    async fn send_one(&self, message: &Message, deadline: Instant) -> Outcome {
        if self.closing.load(Ordering::Acquire) {
            return Outcome::NotAttempted { cause: Cause::Stopping, detail: "the client is closing".into() };
        }
        let limit = Limit::new(deadline, self.cut.subscribe());
        let late = |what: &str| match self.closing.load(Ordering::Acquire) {
            true => Failure::unsent(Cause::Stopping, "the client is closing"),
            false => Failure::unsent(Cause::Connect, format!("the deadline passed while {what}")),
        };
        let Some(Ok(_permit)) = limit.run(self.connections.acquire()).await else {
            return late("it waited for a connection").into();
        };
        let mut session = match limit.run(self.session()).await {
            Some(Ok(session)) => session,
            Some(Err(failure)) => return failure.into(),
            None => return late("it connected").into(),
        };
        // From here on the session dies with this future, unless it ends well.
        let outcome = session.send(message, &limit).await;
        if session.is_usable() {
            self.keep(session);
        }
        outcome
    }
}

impl SmtpClient for Relay {
    fn in_flight_max(&self) -> usize {
        self.connections_max
    }

    fn send(&self, message: Message, deadline: Instant) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { self.send_one(&message, deadline).await })
    }

    fn verify(&self, deadline: Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match timeout_at(deadline.into(), self.session()).await {
                Ok(Ok(session)) => {
                    self.keep(session);
                    Ok(())
                }
                Ok(Err(failure)) => Err(failure.detail),
                Err(_) => Err(format!("{}:{} did not answer in time", self.host, self.port)),
            }
        })
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.closing.store(true, Ordering::Release);
            // All permits are free when no message is under way.
            let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
            let idle = tokio::time::timeout(grace, self.connections.acquire_many(all)).await;
            self.cut.send_replace(true);
            while let Some(mut session) = self.take_idle() {
                session.quit().await;
            }
            drop(idle);
        })
    }
}
