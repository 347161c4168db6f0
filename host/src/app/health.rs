//! Starts the health service.

use crate::app::readiness::{Common, HealthReady, keep_trying};
use crate::app::warmup::listen;
use crate::app::{LiveKeys, Plugins, Shared, StartError};
use crate::config::settings::{FeedbackEntry, Settings};
use crate::health::api::{ApiState, router};
use crate::health::charge::{Charge, LoopHandle};
use crate::health::poller::{self, Pollers};
use crate::health::projector::Projector;
use crate::health::sqlite::SqliteLedger;
use crate::http::probes::Probes;
use crate::http::serve::{Drain, Limits, serve};
use crate::model::name::OrgName;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
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

/// What the service needs and may fail to get.
pub struct Opened {
    listener: TcpListener,
    address: SocketAddr,
    ledger: Arc<SqliteLedger>,
}

impl Opened {
    /// Binds the port and opens the database; nothing runs yet.
    pub async fn open(shared: &Shared) -> Result<Opened, StartError> {
        let data = shared.options.data.display();
        let unavailable = |e: &dyn std::fmt::Display| {
            StartError::Unavailable(format!("the health service cannot start with the data folder {data}: {e}"))
        };
        let listener = listen("health", shared.settings.borrow().process.health.listen).await?;
        let address = listener.local_addr().map_err(|e| unavailable(&e))?;
        let ledger = Arc::new(SqliteLedger::open(&shared.options.data.join("health.db")).map_err(|e| unavailable(&e))?);
        Ok(Opened { listener, address, ledger })
    }

    pub fn start(self, shared: &Arc<Shared>) -> Health {
        start(self, shared)
    }
}

fn start(Opened { listener, address, ledger }: Opened, shared: &Arc<Shared>) -> Health {
    let settings = shared.settings.borrow().clone();
    let projector = Arc::new(Projector::new(shared.log.clone(), ledger.clone(), shared.clock.clone(), settings.process.watch_for));
    let pollers = Arc::new(Pollers::new(poller::Shared {
        ledger: ledger.clone(),
        log: shared.log.clone(),
        clock: shared.clock.clone(),
        applied: projector.applied(),
        seed: shared.clock.now().wall_ms as u64,
    }));
    pollers.set(loops(&shared.plugins, &settings, &pollers.charge()));
    follow_settings(shared, pollers.clone(), projector.clone());
    let common = Common {
        live: shared.live.clone(),
        registry: shared.plugins.registry.clone(),
        clock: shared.clock.clone(),
        log: shared.log.clone(),
        database: ledger.writer(),
    };
    shared.supervisor.spawn("the probe of health.db", keep_trying(ledger.writer(), shared.stop.clone()));
    let state = ApiState {
        ledger,
        charge: pollers.subscribe(),
        settings: shared.settings.clone(),
        keys: Arc::new(LiveKeys(shared.live.clone())),
        clock: shared.clock.clone(),
    };
    let probes = Probes {
        service: "health",
        readiness: Arc::new(HealthReady { common, projector: projector.clone() }),
        draining: shared.stop.clone(),
        metrics: Some(shared.metrics.clone()),
        document: Arc::new(OnceLock::new()),
    };
    let (stop, supervisor) = (shared.stop.clone(), &shared.supervisor);
    let drain = Drain { begins: shared.stop.clone(), ends: CancellationToken::new() };
    Health {
        address,
        ends: drain.ends.clone(),
        api: supervisor.spawn("health's API", serve(listener, router(state, probes), drain, Limits::default())),
        projector: supervisor.spawn("the projector", async move { projector.run(stop).await }),
        pollers,
    }
}

/// The loops that the organizations name. What runs and did not change is not made again; one that cannot be made is
/// shown in the log and stops no other, and goes on as it ran where its entry is the same. Reads files and may run code of
/// plugins: blocks.
fn loops(plugins: &Plugins, settings: &Settings, running: &Charge) -> Vec<LoopHandle> {
    let one = |org: &OrgName, entry: &FeedbackEntry| {
        let origin = plugins.origin(entry)?;
        if let Some(same) = running.named(org, &entry.name).filter(|l| l.handle.is_made_from(entry, &origin)) {
            return Ok(same.handle.clone());
        }
        let feedback = plugins.make_loop(org, entry, &origin)?;
        Ok::<_, String>(LoopHandle { org: org.clone(), name: entry.name.as_str().into(), entry: entry.clone(), origin, feedback })
    };
    let mut handles = Vec::new();
    for organization in settings.organizations.values() {
        for entry in &organization.feedback {
            match one(&organization.name, entry) {
                Ok(handle) => handles.push(handle),
                Err(problem) => {
                    let ran = running.named(&organization.name, &entry.name).filter(|l| l.handle.entry == *entry);
                    let goes_on = if ran.is_some() { "; it goes on as it ran" } else { "" };
                    let organization = &organization.name;
                    tracing::error!(organization.name = %organization, feedback.name = entry.name, problem, "a feedback loop cannot be made{goes_on}");
                    handles.extend(ran.map(|l| l.handle.clone()));
                }
            }
        }
    }
    handles
}

fn follow_settings(shared: &Arc<Shared>, pollers: Arc<Pollers>, projector: Arc<Projector>) {
    let (plugins, mut changes) = (shared.plugins.clone(), shared.settings.clone());
    let follow = async move {
        while changes.changed().await.is_ok() {
            let settings = changes.borrow_and_update().clone();
            projector.set_watch_for(settings.process.watch_for);
            let (plugins, running) = (plugins.clone(), pollers.charge());
            match tokio::task::spawn_blocking(move || loops(&plugins, &settings, &running)).await {
                Ok(loops) => pollers.set(loops),
                Err(error) => tracing::error!(%error, "the feedback loops could not be made; those before go on"),
            }
        }
    };
    shared.supervisor.spawn_endless("the follower of the feedback loops", follow);
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
