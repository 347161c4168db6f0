//! The composition root: the only place that chooses adapters and starts tasks.
//!
//! Invariant: what a service needs is handed to it here; nothing else reads a file of the configuration, opens a
//! database or binds a port.

mod catalogue;
mod checked;
mod data_folder;
mod health;
mod metrics;
mod readiness;
mod signals;
mod signers;
mod summary;
mod supervise;
mod warmup;

use crate::bus::EventLog;
use crate::bus::embedded::EmbeddedLog;
use crate::bus::kafka::{KafkaLog, TopicOptions};
use crate::clock::{Clock, SystemClock};
use crate::config::files::Files;
use crate::config::live::{Live, SharedEnv, Snapshot};
use crate::config::loader::parts;
use crate::config::serving::Serving;
use crate::config::settings::{Events, Settings};
use crate::config::watch::pause_after;
use crate::http::auth::Keys;
use crate::model::name::OrgName;
use crate::registry::Registry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use catalogue::{Plugins, RegistryCatalogue};
use checked::Checked;
use supervise::Supervisor;

/// How often the plugins directory is looked at.
const RESCAN: Duration = Duration::from_millis(500);

/// What `postwarm serve` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub serving: Serving,
    pub config: PathBuf,
    pub data: PathBuf,
    /// Runs the engine, so that no answer of an API holds mail up, and no connection does.
    pub engine: Handle,
    /// Runs the clients of the engine.
    pub mail: Handle,
}

/// Why serving failed, by exit code (sysexits).
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// 78. The text lists every problem.
    #[error("{0}")]
    Configuration(String),
    /// 69: a port, a folder or a broker cannot be had.
    #[error("{0}")]
    Unavailable(String),
    /// 69: a part of the running process ended that it cannot do without. What else ran has drained.
    #[error("{0}; see the log, and start the service again")]
    Ended(String),
}

/// What both services are built from.
pub struct Shared {
    pub options: Options,
    pub live: Arc<Live>,
    /// The settings alone, for those who need no more.
    pub settings: watch::Receiver<Arc<Settings>>,
    pub plugins: Arc<Plugins>,
    pub clock: Arc<dyn Clock>,
    pub log: Arc<dyn EventLog>,
    pub metrics: metrics_exporter_prometheus::PrometheusHandle,
    pub stop: CancellationToken,
    /// Starts what must run for as long as the process does.
    pub supervisor: Supervisor,
}

/// Makes the registry of a configuration folder and scans the plugins directory once.
#[expect(clippy::disallowed_methods, reason = "file ages are compared with the file system's clock")]
pub fn registry(config: &Path, data: &Path, serving: Serving, env: &SharedEnv) -> Arc<Registry> {
    // The directory stands in a file that may name plugins of it: read that one setting with the built-ins first.
    let builtins = Arc::new(Registry::new(PathBuf::new(), PathBuf::new()));
    let process = parts(&Files::read(config), serving, &**env, &RegistryCatalogue { registry: builtins, data: data.to_owned() }).process;
    let directory = process.map_or_else(|| PathBuf::from("plugins"), |p| p.plugins_directory);
    let registry = Arc::new(Registry::new(directory, data.join("plugins")));
    // What was copied there a moment ago is whole by then, or it is broken.
    std::thread::sleep(registry.settles_in(std::time::SystemTime::now()));
    registry.start(std::time::Instant::now(), std::time::SystemTime::now());
    registry
}

/// Serves until SIGTERM or SIGINT, then drains. Nothing runs before all that may fail to be had is there.
pub async fn serve(options: Options, env: SharedEnv, metrics: metrics_exporter_prometheus::PrometheusHandle) -> Result<(), StartError> {
    let asked_to_stop = signals::listen()?;
    postwarm_plugin_builtin::self_check().map_err(StartError::Configuration)?;
    let registry = registry(&options.config, &options.data, options.serving, &env);
    let content = {
        let registry = registry.clone();
        Box::new(move |kind, id: &str| registry.content(kind, id))
    };
    let catalogue = Checked::new(RegistryCatalogue { registry: registry.clone(), data: options.data.clone() }, content);
    let catalogue = Arc::new(catalogue);
    let live = Live::start(&options.config, options.serving, env.clone(), catalogue).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        StartError::Configuration(lines.join("\n"))
    })?;
    let live = Arc::new(live);
    let first = live.now();
    data_folder::take(&options.data, options.serving)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = event_log(&options, &first.settings, &clock).await?;
    let stop = CancellationToken::new();
    let supervisor = Supervisor::new(stop.clone());
    let shared = Arc::new(Shared {
        plugins: Arc::new(Plugins { registry: registry.clone(), data: options.data.clone(), env }),
        settings: settings_of(&live, &supervisor),
        options,
        live,
        clock,
        log,
        metrics,
        stop: stop.clone(),
        supervisor,
    });
    // Where the start fails, what runs already ends because of that, and not by itself.
    let _ended = stop.clone().drop_guard();
    let warmup = match shared.options.serving.warmup() {
        true => Some(warmup::Opened::open(&shared).await?),
        false => None,
    };
    let health = match shared.options.serving.health() {
        true => Some(health::Opened::open(&shared).await?),
        false => None,
    };
    let (warmup, health) = if asked_to_stop.is_cancelled() { (None, None) } else { (warmup, health) };
    let warmup = match warmup {
        Some(opened) => Some(opened.start(&shared).await?),
        None => None,
    };
    let health = health.map(|opened| opened.start(&shared));
    watch_files(shared.clone(), registry);
    metrics::keep_up(&shared);
    summary::print(&shared, &first, [warmup.as_ref().map(|w| w.address), health.as_ref().map(|h| h.address)]);
    stop.run_until_cancelled(asked_to_stop.cancelled()).await;
    tracing::info!("stopping: running requests and messages end first");
    stop.cancel();
    if let Some(warmup) = warmup {
        warmup.ended().await;
    }
    if let Some(health) = health {
        health.ended().await;
    }
    match shared.supervisor.failure() {
        Some(words) => Err(StartError::Ended(words.to_owned())),
        None => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}

async fn event_log(options: &Options, settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Arc<dyn EventLog>, StartError> {
    let unavailable = |e: &dyn std::fmt::Display| StartError::Unavailable(e.to_string());
    match &settings.process.events {
        Events::Embedded { retention } => {
            if options.serving == Serving::Health {
                let words = "health alone cannot read the embedded event log of another process: \
                             set KAFKA_BROKERS or `[events] kind = \"kafka\"`, or serve both services in one process";
                return Err(StartError::Configuration(words.to_owned()));
            }
            Ok(Arc::new(EmbeddedLog::open(&options.data, *retention, clock.clone()).map_err(|e| unavailable(&e))?))
        }
        Events::Kafka(kafka) => {
            Ok(Arc::new(KafkaLog::open(kafka.clone(), TopicOptions::default(), clock.clone()).map_err(|e| unavailable(&e))?))
        }
    }
}

/// The settings of the live configuration, as they change.
fn settings_of(live: &Arc<Live>, supervisor: &Supervisor) -> watch::Receiver<Arc<Settings>> {
    let (sender, receiver) = watch::channel(live.now().settings.clone());
    let mut changes = live.subscribe();
    supervisor.spawn_endless("the follower of the settings", async move {
        while changes.changed().await.is_ok() {
            sender.send_replace(changes.borrow_and_update().settings.clone());
        }
    });
    receiver
}

/// Takes up edits of the configuration and files dropped into the plugins directory.
fn watch_files(shared: Arc<Shared>, registry: Arc<Registry>) {
    let supervisor = shared.supervisor.clone();
    let watch = async move {
        let started = std::time::Instant::now();
        let (mut rescanned, mut took) = (started, Duration::ZERO);
        loop {
            tokio::time::sleep(pause_after(took)).await;
            let (shared, registry) = (shared.clone(), registry.clone());
            let rescan = rescanned.elapsed() >= RESCAN;
            if rescan {
                rescanned = std::time::Instant::now();
            }
            let look = move || {
                shared.live.tick(started.elapsed().as_millis() as i64);
                if rescan {
                    let before = registry.list();
                    registry.rescan(std::time::Instant::now());
                    if registry.list() != before {
                        shared.live.recheck();
                    }
                }
            };
            let began = std::time::Instant::now();
            // Small files, but a slow disk must not hold up a worker.
            if tokio::task::spawn_blocking(look).await.is_err() {
                tracing::error!("looking for edits failed; it goes on");
            }
            took = began.elapsed();
        }
    };
    supervisor.spawn_endless("the watch over the files", watch);
}

/// API keys as the live configuration has them.
pub struct LiveKeys(pub Arc<Live>);

impl Keys for LiveKeys {
    fn organization(&self, key: &str) -> Option<OrgName> {
        let now: Arc<Snapshot> = self.0.now();
        now.keys.organization(key)
    }
}
