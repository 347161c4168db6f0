//! The configuration that runs, and how edits are taken up.
//!
//! Invariant: what runs is whole at all times. A broken file of an organization keeps what ran for that organization, a
//! broken `postwarm.toml` or `providers.toml` keeps everything, and no other file waits for it. A file that a secret comes
//! from is watched like the TOML that names it.

use crate::config::catalogue::Catalogue;
use crate::config::keys::KeyRing;
use crate::config::loader::{Loaded, Parts, parts, ring};
use crate::config::problem::{Problem, Severity};
use crate::config::serving::Serving;
use crate::config::settings::{Organization, Process, Settings};
use crate::config::watch::Watcher;
use crate::model::name::OrgName;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Looks up environment variables for as long as the program runs.
pub type SharedEnv = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What runs at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub settings: Arc<Settings>,
    pub keys: Arc<KeyRing>,
    pub status: Arc<ReloadStatus>,
}

/// What the last look at the files found, for `/readyz`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadStatus {
    /// What keeps a file from being taken up; what ran before it still runs.
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// How often edits were taken up since the start.
    pub reloads: u64,
}

/// Holds what runs. Whoever needs to know of changes subscribes.
pub struct Live {
    sender: watch::Sender<Arc<Snapshot>>,
    watcher: Mutex<Watcher>,
    /// What sockets, log and plugins were made from.
    started: Arc<Process>,
    serving: Serving,
    env: SharedEnv,
    catalogue: Arc<dyn Catalogue>,
}

impl Live {
    /// Loads a folder for the first time; with any problem nothing runs.
    pub fn start(dir: &Path, serving: Serving, env: SharedEnv, catalogue: Arc<dyn Catalogue>) -> Result<Live, Loaded> {
        let mut watcher = Watcher::new(dir);
        let parts = parts(watcher.files(), serving, &*env, &*catalogue);
        watcher.follow(&parts.secret_files);
        let mut loaded = parts.whole();
        let Some(settings) = loaded.settings.take() else { return Err(loaded) };
        let started = settings.process.clone();
        let status = ReloadStatus { problems: Vec::new(), warnings: loaded.warnings, reloads: 0 };
        let snapshot = Snapshot { settings: Arc::new(settings), keys: Arc::new(loaded.keys), status: Arc::new(status) };
        metrics::gauge!("postwarm_config_problems").set(0.0);
        let sender = watch::Sender::new(Arc::new(snapshot));
        Ok(Live { sender, watcher: Mutex::new(watcher), started, serving, env, catalogue })
    }

    pub fn now(&self) -> Arc<Snapshot> {
        self.sender.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.sender.subscribe()
    }

    /// Looks for edits; to be called every [`POLL`](crate::config::watch::POLL) with a clock that never goes back. It
    /// reads small files, and so may block for a moment. Returns what runs from now on, if anything changed.
    pub fn tick(&self, now_ms: i64) -> Option<Arc<Snapshot>> {
        let mut watcher = self.watcher();
        watcher.tick(now_ms)?;
        Some(self.take_up(&mut watcher))
    }

    /// Checks the same files again, because plugins came or went.
    pub fn recheck(&self) -> Arc<Snapshot> {
        self.take_up(&mut self.watcher())
    }

    fn watcher(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().expect("no thread panics while it holds this lock")
    }

    fn take_up(&self, watcher: &mut Watcher) -> Arc<Snapshot> {
        let before = self.now();
        let parts = parts(watcher.files(), self.serving, &*self.env, &*self.catalogue);
        watcher.follow(&parts.secret_files);
        let (problems, mut warnings): (Vec<Problem>, Vec<Problem>) =
            parts.problems.iter().cloned().partition(|problem| problem.severity == Severity::Error);
        let settings = merge(&before.settings, &parts);
        warnings.extend(needs_restart(&self.started, &settings.process, &watcher.files().shown("postwarm.toml")));
        log(&before.status, &problems, &warnings);
        metrics::gauge!("postwarm_config_problems").set(problems.len() as f64);
        metrics::counter!("postwarm_config_reloads_total").increment(1);
        let keys = ring(&parts.keys, |org| settings.organizations.contains_key(org));
        let status = ReloadStatus { problems, warnings, reloads: before.status.reloads + 1 };
        let snapshot = Arc::new(Snapshot { settings: Arc::new(settings), keys: Arc::new(keys), status: Arc::new(status) });
        self.sender.send_replace(snapshot.clone());
        snapshot
    }
}

/// Decides what runs next. What did not change keeps its `Arc`, so that a comparison of pointers tells.
fn merge(before: &Settings, parts: &Parts) -> Settings {
    let (Some(process), Some(providers)) = (&parts.process, &parts.providers) else { return before.clone() };
    let mut organizations: BTreeMap<OrgName, Arc<Organization>> = BTreeMap::new();
    let mut process = process.clone();
    for (name, now) in &parts.organizations {
        let ran = before.organizations.get(name);
        let next = match (now, ran) {
            (Some(now), Some(ran)) if **ran == *now => ran.clone(),
            (Some(now), _) => Arc::new(now.clone()),
            (None, Some(ran)) => {
                keep_shares(&mut process, &before.process, ran);
                ran.clone()
            }
            (None, None) => continue,
        };
        organizations.insert(name.clone(), next);
    }
    Settings {
        process: if *before.process == process { before.process.clone() } else { Arc::new(process) },
        providers: if *before.providers == *providers { before.providers.clone() } else { Arc::new(providers.clone()) },
        organizations,
    }
}

/// A share that is gone from the file still holds for whoever is kept as it ran: a limit never falls away unseen.
fn keep_shares(process: &mut Process, before: &Process, kept: &Organization) {
    for share in kept.smtp.iter().filter_map(|entry| entry.share.as_ref()) {
        if let Some(limits) = before.shares.get(share) {
            process.shares.entry(share.clone()).or_insert_with(|| limits.clone());
        }
    }
}

/// What of `postwarm.toml` is only read at a start.
fn needs_restart(started: &Process, now: &Process, file: &str) -> Vec<Problem> {
    let changed = [
        ("[warmup] listen", started.warmup != now.warmup),
        ("[health] listen", started.health != now.health),
        ("[events]", started.events != now.events),
        ("[plugins] directory", started.plugins_directory != now.plugins_directory),
    ];
    let warn = |(key, _)| {
        Problem::of(file, Severity::Warning, format!("the change of {key} has not taken effect"), "restart the service").at_start()
    };
    changed.into_iter().filter(|(_, changed)| *changed).map(warn).collect()
}

/// Logs what is new; a problem that stays is not repeated.
fn log(before: &ReloadStatus, problems: &[Problem], warnings: &[Problem]) {
    for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
        tracing::error!(config.file = %problem.file, "configuration not taken up: {problem}");
    }
    for warning in warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
        tracing::warn!(config.file = %warning.file, "configuration: {warning}");
    }
    if problems.is_empty() {
        tracing::info!("configuration taken up");
    }
}
