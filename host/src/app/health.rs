//! Starts the health service.

use crate::app::readiness::Ready;
use crate::app::warmup::listen;
use crate::app::{LiveKeys, Plugins, Shared, StartError};
use crate::config::settings::Settings;
use crate::health::api::{ApiState, router};
use crate::health::charge::LoopHandle;
use crate::health::poller::{self, Pollers};
use crate::health::projector::Projector;
use crate::health::sqlite::SqliteLedger;
use crate::http::probes::Probes;
use crate::http::serve::{Drain, Limits, serve};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The running service.
pub struct Health {
    /// Where it listens.
    pub address: SocketAddr,
    api: JoinHandle<()>,
    /// Cancelled when the work has ended: until then the probes answer.
    ends: CancellationToken,
    projector: JoinHandle<()>,
    pollers: Arc<Pollers>,
}

pub async fn start(shared: &Arc<Shared>) -> Result<Health, StartError> {
    let unavailable = |e: &dyn std::fmt::Display| StartError::Unavailable(format!("the health service cannot start: {e}"));
    let settings = shared.settings.borrow().clone();
    let listener = listen("health", settings.process.health.listen).await?;
    let address = listener.local_addr().map_err(|e| unavailable(&e))?;
    let ledger = Arc::new(SqliteLedger::open(&shared.options.data.join("health.db")).map_err(|e| unavailable(&e))?);
    let projector = Arc::new(Projector::new(shared.log.clone(), ledger.clone(), shared.clock.clone(), settings.process.watch_for));
    let pollers = Arc::new(Pollers::new(poller::Shared {
        ledger: ledger.clone(),
        log: shared.log.clone(),
        clock: shared.clock.clone(),
        applied: projector.applied(),
        seed: shared.clock.now().wall_ms as u64,
    }));
    pollers.set(loops(&shared.plugins, &settings));
    follow_settings(shared, pollers.clone());
    let state = ApiState {
        ledger,
        charge: pollers.subscribe(),
        settings: shared.settings.clone(),
        keys: Arc::new(LiveKeys(shared.live.clone())),
        clock: shared.clock.clone(),
    };
    let probes = Probes {
        service: "health",
        readiness: Arc::new(Ready { live: shared.live.clone(), registry: shared.plugins.registry.clone() }),
        draining: shared.stop.clone(),
        metrics: Some(shared.metrics.clone()),
        document: Arc::new(OnceLock::new()),
    };
    let stop = shared.stop.clone();
    let drain = Drain { begins: shared.stop.clone(), ends: CancellationToken::new() };
    Ok(Health {
        address,
        ends: drain.ends.clone(),
        api: tokio::spawn(serve(listener, router(state, probes), drain, Limits::default())),
        projector: tokio::spawn(async move { projector.run(stop).await }),
        pollers,
    })
}

/// The loops that the organizations name; one that cannot be made is shown in the log and stops no other.
fn loops(plugins: &Plugins, settings: &Settings) -> Vec<LoopHandle> {
    let mut handles = Vec::new();
    for organization in settings.organizations.values() {
        for entry in &organization.feedback {
            match plugins.make_loop(organization, entry) {
                Ok(feedback) => {
                    let name = entry.name.as_str().into();
                    handles.push(LoopHandle { org: organization.name.clone(), name, entry: entry.clone(), feedback });
                }
                Err(problem) => {
                    tracing::error!(organization.name = %organization.name, feedback.name = entry.name, problem, "a feedback loop cannot be made");
                }
            }
        }
    }
    handles
}

fn follow_settings(shared: &Arc<Shared>, pollers: Arc<Pollers>) {
    let (plugins, mut changes, stop) = (shared.plugins.clone(), shared.settings.clone(), shared.stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while changes.changed().await.is_ok() {
            let settings = changes.borrow_and_update().clone();
            pollers.set(loops(&plugins, &settings));
        }
    }));
}

impl Health {
    /// Resolves when requests have ended and what was read of the log is in the ledger.
    pub async fn ended(self) {
        self.pollers.stop().await;
        self.ends.cancel();
        for task in [self.api, self.projector] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the health service ended badly");
            }
        }
    }
}
