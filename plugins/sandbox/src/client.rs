//! The client that sends to the sandbox: the kit's, pointed at a server that the first send starts.
//!
//! Invariant: clients with the same folder and behaviour share one server while one of them lives; a server that ended
//! with its runtime is replaced at the next send.

use crate::server::Server;
use crate::settings::{CLIENT_SCHEMA, ServerBehaviour, client};
use postwarm_plugin_api::{
    BoxFuture, Builtin, Cause, Descriptor, Fault, Instance, Kind, Message, Outcome, SettingsProblem, SmtpClient, SmtpFactory,
    register_builtin,
};
use postwarm_plugin_kit::classify::Rule;
use postwarm_plugin_kit::client::Client;
use postwarm_plugin_kit::settings::{Defaults, ServerSettings};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Makes clients of the plugin `sandbox`.
pub struct SandboxSmtp;

register_builtin!(Builtin::Smtp(&SandboxSmtp));

impl SmtpFactory for SandboxSmtp {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "sandbox".into(),
            kind: Kind::SmtpClient,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends over real SMTP to mailboxes inside the process that behave like people's.".into(),
            settings_schema: CLIENT_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let behaviour = client(&instance)?;
        let settings = server_settings(&instance)?;
        let idle = Client::new(settings.clone(), instance.connections_max, RULES);
        let in_flight_max = idle.in_flight_max();
        let (data_dir, connections_max) = (instance.data_dir, instance.connections_max);
        let state = Mutex::new(State { running: None, closed: false });
        Ok(Arc::new(SandboxClient { key: (data_dir, behaviour), settings, connections_max, in_flight_max, state }))
    }
}

/// The sandbox's mailboxes refuse in their providers' words, of which this one carries a code of the network (x.4.1).
const RULES: &[Rule] = &[Rule::text("recipient address rejected", Fault::Recipient)];

/// The kit's settings for a server on loopback; the port is not known yet.
fn server_settings(instance: &Instance) -> Result<ServerSettings, Vec<SettingsProblem>> {
    let settings = [("host", "127.0.0.1"), ("tls", "none"), ("helo_name", "localhost")];
    let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    ServerSettings::parse(&Instance { settings, ..instance.clone() }, Defaults::default())
}

type Key = (PathBuf, ServerBehaviour);

static SERVERS: LazyLock<Mutex<HashMap<Key, Weak<Server>>>> = LazyLock::new(Mutex::default);

/// Returns the running server of this folder and behaviour, or starts one in the runtime of the caller.
fn server(key: &Key) -> std::io::Result<Arc<Server>> {
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = servers.get(key).and_then(Weak::upgrade).filter(|server| server.is_alive()) {
        return Ok(server);
    }
    servers.retain(|_, server| server.strong_count() > 0);
    let server = Arc::new(Server::start(&key.0, key.1)?);
    servers.insert(key.clone(), Arc::downgrade(&server));
    Ok(server)
}

struct SandboxClient {
    key: Key,
    settings: ServerSettings,
    connections_max: u32,
    in_flight_max: usize,
    state: Mutex<State>,
}

struct State {
    running: Option<Running>,
    closed: bool,
}

#[derive(Clone)]
struct Running {
    server: Arc<Server>,
    client: Arc<Client>,
}

impl SandboxClient {
    /// Returns the kit's client for the running server, or why there is none.
    fn running(&self) -> Result<Running, (Cause, String)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err((Cause::Stopping, "the client is being closed".to_owned()));
        }
        if let Some(running) = state.running.as_ref().filter(|running| running.server.is_alive()) {
            return Ok(running.clone());
        }
        let server = server(&self.key).map_err(|error| {
            let dir = self.key.0.display();
            (Cause::Connect, format!("the sandbox's server cannot start: {error}; check that {dir} can be written"))
        })?;
        let settings = ServerSettings { port: server.address().port(), ..self.settings.clone() };
        let client = Arc::new(Client::new(settings, self.connections_max, RULES));
        let running = Running { server, client };
        state.running = Some(running.clone());
        Ok(running)
    }
}

impl SmtpClient for SandboxClient {
    fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }

    fn marks_end_of_data(&self) -> bool {
        true
    }

    fn send(&self, message: Message, deadline: Instant) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            match self.running() {
                Ok(running) => running.client.send(message, deadline).await,
                Err((cause, detail)) => Outcome::NotAttempted { cause, detail },
            }
        })
    }

    fn withdraw(&self) {
        let running = self.state.lock().unwrap_or_else(PoisonError::into_inner).running.clone();
        if let Some(running) = running {
            running.client.withdraw();
        }
    }

    fn verify(&self, deadline: Instant) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let running = self.running().map_err(|(_, detail)| detail)?;
            running.client.verify(deadline).await
        })
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let running = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.closed = true;
                state.running.clone()
            };
            if let Some(running) = running {
                running.client.close(grace).await;
            }
            self.state.lock().unwrap_or_else(PoisonError::into_inner).running = None;
        })
    }
}
