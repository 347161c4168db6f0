//! Starts the warmup service.

use crate::app::readiness::{Common, WarmupReady, keep_trying};
use crate::app::signers::DkimSigners;
use crate::app::{LiveKeys, Shared, StartError};
use crate::bus::relay::Relay;
use crate::config::settings::Settings;
use crate::http::probes::Probes;
use crate::http::serve::{Drain, Limits, serve};
use crate::warmup::api::state::{ApiState, Progress};
use crate::warmup::engine::{Engine, Feeder, Looked, Parts, ProviderLookup, View};
use crate::warmup::limits::{Limits as SendLimits, Shared as SharedLimits};
use crate::warmup::mailbox_provider::dns::DnsLookup;
use crate::warmup::mailbox_provider::{Directory, Found, MxLookup, fingerprint};
use crate::warmup::marks::MarksFile;
use crate::warmup::progress::{self, EmailNow, Question};
use crate::warmup::render::{self, RenderSettings};
use crate::warmup::sqlite::SqliteStore;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

/// The running service.
pub struct Warmup {
    /// Where it listens.
    pub address: std::net::SocketAddr,
    api: JoinHandle<()>,
    /// Cancelled when the work has ended: until then the probes answer.
    ends: CancellationToken,
    engine: JoinHandle<()>,
    relaying: JoinHandle<()>,
    relay: Arc<Relay>,
}

/// What the service needs and may fail to get.
pub struct Opened {
    listener: TcpListener,
    address: std::net::SocketAddr,
    store: Arc<SqliteStore>,
}

impl Opened {
    /// Binds the port and opens the database; nothing runs yet.
    pub async fn open(shared: &Shared) -> Result<Opened, StartError> {
        let listener = listen("warmup", shared.settings.borrow().process.warmup.listen).await?;
        let address = listener.local_addr().map_err(|e| unavailable(shared, e.into()))?;
        let store = SqliteStore::open(&shared.options.data.join("warmup.db")).map_err(|e| unavailable(shared, e))?;
        let store = Arc::new(store);
        Ok(Opened { listener, address, store })
    }

    /// Where it fails, nothing was sent and nothing runs.
    pub async fn start(self, shared: &Arc<Shared>) -> Result<Warmup, StartError> {
        start(self, shared).await
    }
}

fn unavailable(shared: &Shared, e: anyhow::Error) -> StartError {
    StartError::Unavailable(format!("the warmup service cannot start with the data folder {}: {e:#}", shared.options.data.display()))
}

async fn start(Opened { listener, address, store }: Opened, shared: &Arc<Shared>) -> Result<Warmup, StartError> {
    let (wake, feeder_wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let view = Arc::new(View::default());
    let limits = SharedLimits::new(SendLimits::new(shared.clock.boot_id()));
    let parts = Parts {
        queue: store.clone(),
        store: store.clone(),
        clock: shared.clock.clone(),
        settings: shared.settings.clone(),
        make: shared.plugins.clone(),
        wake: wake.clone(),
        view: view.clone(),
        limits: limits.clone(),
        signers: Arc::new(DkimSigners(shared.plugins.env.clone())),
        marks: MarksFile::new(&shared.options.data, shared.clock.boot_id()),
        mail: shared.options.mail.clone(),
        seed: shared.clock.now().wall_ms as u64,
    };
    let runtime = &shared.options.engine;
    let engine =
        runtime.spawn(Engine::start(parts)).await.map_err(|e| unavailable(shared, e.into()))?.map_err(|e| unavailable(shared, e))?;
    let feeder = Feeder {
        queue: store.clone(),
        clock: shared.clock.clone(),
        lookup: Arc::new(Lookup::new(shared.settings.clone())),
        wake: feeder_wake.clone(),
        engine: wake,
    };
    let state = ApiState {
        store: store.clone(),
        settings: shared.settings.clone(),
        keys: Arc::new(LiveKeys(shared.live.clone())),
        clock: shared.clock.clone(),
        progress: Arc::new(ViewProgress { view, limits, shared: shared.clone() }),
        check_template: Arc::new(|email, organization| render::check(email, &RenderSettings::of(organization))),
        wake: feeder_wake,
    };
    let relay = Arc::new(Relay::new(store.clone(), shared.log.clone(), shared.clock.clone()));
    let common = Common {
        live: shared.live.clone(),
        registry: shared.plugins.registry.clone(),
        clock: shared.clock.clone(),
        log: shared.log.clone(),
        database: store.writer(),
    };
    let probes = Probes {
        service: "warmup",
        readiness: Arc::new(WarmupReady { common, relay: relay.clone() }),
        draining: shared.stop.clone(),
        metrics: Some(shared.metrics.clone()),
        document: Arc::new(OnceLock::new()),
    };
    let router = crate::warmup::api::router(state, probes);
    let (stop, supervisor) = (shared.stop.clone(), &shared.supervisor);
    crate::app::metrics::sample(shared, store.clone());
    supervisor.spawn("the feeder", feeder.run(stop.clone()));
    supervisor.spawn("the probe of warmup.db", keep_trying(store.writer(), stop.clone()));
    let (relaying, until) = (relay.clone(), stop.clone());
    let drain = Drain { begins: stop.clone(), ends: CancellationToken::new() };
    Ok(Warmup {
        address,
        ends: drain.ends.clone(),
        api: supervisor.spawn("warmup's API", serve(listener, router, drain, Limits::default())),
        engine: supervisor.spawn_on(runtime, "the engine", engine.run(stop)),
        relaying: supervisor.spawn("the relay", async move { relaying.run(until).await }),
        relay,
    })
}

/// Binds a service's port.
pub async fn listen(service: &str, address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| {
        StartError::Unavailable(format!(
            "{service} cannot listen on {address}: {e}; stop what uses it, or set `[{service}] listen` or PORT"
        ))
    })
}

impl Warmup {
    /// Resolves when requests and messages have ended and their events are in the log.
    pub async fn ended(self) {
        let ended = |ended: Result<(), JoinError>| {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the warmup service ended badly");
            }
        };
        ended(self.engine.await);
        ended(self.relaying.await);
        self.ends.cancel();
        // Requests that still ran may have written events.
        ended(self.api.await);
        match tokio::time::timeout(std::time::Duration::from_secs(5), self.relay.drain()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "events stay in the outbox until the next start"),
            Err(_) => tracing::warn!("events stay in the outbox until the next start: the log takes too long"),
        }
    }
}

/// Finds mailbox providers with the directory of the current settings.
struct Lookup {
    settings: watch::Receiver<Arc<Settings>>,
    current: tokio::sync::Mutex<(Arc<Settings>, Arc<Directory>)>,
}

impl Lookup {
    fn new(settings: watch::Receiver<Arc<Settings>>) -> Lookup {
        let now = settings.borrow().clone();
        let directory = Arc::new(directory(&now));
        Lookup { settings, current: tokio::sync::Mutex::new((now, directory)) }
    }
}

fn directory(settings: &Settings) -> Directory {
    let dns = &settings.process.dns;
    let lookup: Option<Arc<dyn MxLookup>> = match dns.enabled.then(|| DnsLookup::new(dns)) {
        None => None,
        Some(Ok(lookup)) => Some(Arc::new(lookup)),
        Some(Err(error)) => {
            tracing::warn!(%error, "mail exchangers cannot be looked up; providers are found by domain alone");
            None
        }
    };
    Directory::new(settings.providers.clone(), lookup)
}

#[async_trait::async_trait]
impl ProviderLookup for Lookup {
    async fn provider(&self, domain: &str, boot_ms: i64) -> Looked {
        let directory = {
            let mut current = self.current.lock().await;
            let now = self.settings.borrow().clone();
            if !Arc::ptr_eq(&current.0.providers, &now.providers) || current.0.process.dns != now.process.dns {
                *current = (now.clone(), Arc::new(directory(&now)));
            }
            current.1.clone()
        };
        let found = directory.find(domain, boot_ms).await;
        Looked { provider: found.name().to_owned(), decided: !matches!(found, Found::Undecided) }
    }

    fn settings(&self) -> i64 {
        let now = self.settings.borrow();
        fingerprint(&now.providers, &now.process.dns)
    }
}

struct ViewProgress {
    view: Arc<View>,
    limits: SharedLimits,
    shared: Arc<Shared>,
}

impl Progress for ViewProgress {
    fn of(&self, question: &Question<'_>) -> EmailNow {
        progress::now(question, &self.view, &self.limits, self.shared.clock.now())
    }
}
