//! Starts the warmup service.

use crate::app::readiness::Ready;
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
use crate::warmup::mailbox_provider::{Directory, Found, MxLookup};
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
    relay: JoinHandle<()>,
    store: Arc<SqliteStore>,
    shared: Arc<Shared>,
}

pub async fn start(shared: &Arc<Shared>) -> Result<Warmup, StartError> {
    let unavailable = |e: anyhow::Error| StartError::Unavailable(format!("the warmup service cannot start: {e:#}"));
    let listener = listen("warmup", shared.settings.borrow().process.warmup.listen).await?;
    let address = listener.local_addr().map_err(|e| unavailable(e.into()))?;
    let store = Arc::new(SqliteStore::open(&shared.options.data.join("warmup.db")).map_err(unavailable)?);
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
        seed: shared.clock.now().wall_ms as u64,
    };
    let engine = Engine::start(parts).await.map_err(unavailable)?;
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
    let probes = Probes {
        service: "warmup",
        readiness: Arc::new(Ready { live: shared.live.clone(), registry: shared.plugins.registry.clone() }),
        draining: shared.stop.clone(),
        metrics: Some(shared.metrics.clone()),
        document: Arc::new(OnceLock::new()),
    };
    let router = crate::warmup::api::router(state, probes);
    tokio::spawn(feeder.run(shared.stop.clone()));
    let drain = Drain { begins: shared.stop.clone(), ends: CancellationToken::new() };
    Ok(Warmup {
        address,
        ends: drain.ends.clone(),
        api: tokio::spawn(serve(listener, router, drain, Limits::default())),
        engine: tokio::spawn(engine.run(shared.stop.clone())),
        relay: tokio::spawn(Relay::run(store.clone(), shared.log.clone(), shared.clock.clone(), shared.stop.clone())),
        store,
        shared: shared.clone(),
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
        ended(self.relay.await);
        self.ends.cancel();
        // Requests that still ran may have written events.
        ended(self.api.await);
        let drained = Relay::drain(&*self.store, &*self.shared.log, &*self.shared.clock);
        match tokio::time::timeout(std::time::Duration::from_secs(5), drained).await {
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
