//! The configuration that runs, and how edits are taken up.
//!
//! Invariant: what runs is whole at all times. A broken file of an organization keeps what ran for that organization, at a
//! start nothing, and no other organization waits for it; a broken `postwarm.toml` or `providers.toml` keeps everything, and
//! the edits of all organizations wait for it, because what they say is checked against both. Keys do not wait. A file that a
//! secret comes from is watched like the TOML that names it.

use crate::config::catalogue::Catalogue;
use crate::config::files::Files;
use crate::config::keys::KeyRing;
use crate::config::loader::{Parts, parts, ring};
use crate::config::problem::{Problem, Severity};
use crate::config::serving::Serving;
use crate::config::settings::{Organization, Process, Settings, is_loopback};
use crate::config::watch::Watcher;
use crate::model::name::OrgName;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// The most organizations that one line of the log names.
const NAMES_SHOWN_MAX: usize = 10;

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
    /// Those of the warnings that only a restart ends: what was changed is read at a start alone.
    pub restart: Vec<Problem>,
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
    /// Loads a folder for the first time. A problem of one organization leaves it out until it is mended. Nothing runs
    /// with a problem of all, or where no organization is left: the answer then says why.
    pub fn start(dir: &Path, serving: Serving, env: SharedEnv, catalogue: Arc<dyn Catalogue>) -> Result<Live, Vec<Problem>> {
        let mut watcher = Watcher::new(dir);
        let parts = parts(watcher.files(), serving, &*env, &*catalogue);
        watcher.follow(&parts.secret_files);
        let mut loaded = parts.usable(&dir.join("organizations"));
        let Some(settings) = loaded.settings.take() else { return Err(loaded.problems) };
        let started = settings.process.clone();
        log_problems(&ReloadStatus::default(), &loaded.problems);
        metrics::gauge!("postwarm_config_problems").set(loaded.problems.len() as f64);
        let status = ReloadStatus { problems: loaded.problems, warnings: loaded.warnings, ..ReloadStatus::default() };
        let snapshot = Snapshot { settings: Arc::new(settings), keys: Arc::new(loaded.keys), status: Arc::new(status) };
        let sender = watch::Sender::new(Arc::new(snapshot));
        Ok(Live { sender, watcher: Mutex::new(watcher), started, serving, env, catalogue })
    }

    pub fn now(&self) -> Arc<Snapshot> {
        self.sender.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.sender.subscribe()
    }

    /// Looks for edits; to be called every [`POLL`](crate::config::watch::POLL) or so with a clock that never goes back. It
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
        let mut parts = parts(watcher.files(), self.serving, &*self.env, &*self.catalogue);
        watcher.follow(&parts.secret_files);
        self.keep_from_strangers(&mut parts, watcher.files());
        let (problems, mut warnings): (Vec<Problem>, Vec<Problem>) =
            parts.problems.iter().cloned().partition(|problem| problem.severity == Severity::Error);
        let settings = merge(&before.settings, &parts);
        let restart = needs_restart(&self.started, &settings.process, &watcher.files().shown("postwarm.toml"));
        warnings.extend(restart.iter().cloned());
        log(&before, &settings, &problems, &warnings);
        metrics::gauge!("postwarm_config_problems").set(problems.len() as f64);
        metrics::counter!("postwarm_config_reloads_total").increment(1);
        let keys = ring(&parts.keys, |org| settings.organizations.contains_key(org) || settings.unusable.contains(org));
        let status = ReloadStatus { problems, warnings, restart, reloads: before.status.reloads + 1 };
        let snapshot = Arc::new(Snapshot { settings: Arc::new(settings), keys: Arc::new(keys), status: Arc::new(status) });
        self.sender.send_replace(snapshot.clone());
        snapshot
    }

    /// Another `listen` counts from the next start on, so until then the sockets that there are decide whether an
    /// organization may do without keys.
    fn keep_from_strangers(&self, parts: &mut Parts, files: &Files) {
        let Some(process) = parts.process.as_ref().filter(|process| !process.allow_development_beyond_loopback) else { return };
        let strangers = |listeners: &[(&str, SocketAddr)]| listeners.iter().any(|(_, listen)| !is_loopback(listen.ip()));
        if !strangers(&self.serving.listeners(&self.started)) || strangers(&self.serving.listeners(process)) {
            return;
        }
        for (name, organization) in &mut parts.organizations {
            if organization.take_if(|organization| organization.development).is_some() {
                let file = files.shown(&format!("organizations/{name}.toml"));
                let message = "development = true lets in everybody who reaches the service, and it still listens beyond loopback";
                parts.problems.push(Problem::of(file, Severity::Error, message, "restart the service").at_start());
            }
        }
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
    // One that comes broken while the others run is none yet, and changes nothing for them.
    let still = |name: &&OrgName| matches!(parts.organizations.get(*name), Some(None));
    let unusable = before.unusable.iter().filter(still).cloned().collect();
    Settings {
        process: if *before.process == process { before.process.clone() } else { Arc::new(process) },
        providers: if *before.providers == *providers { before.providers.clone() } else { Arc::new(providers.clone()) },
        organizations,
        unusable,
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

fn log_problems(before: &ReloadStatus, problems: &[Problem]) {
    for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
        tracing::error!(config.file = %problem.file, "configuration not taken up: {problem}");
    }
}

/// Logs what is new; a problem that stays is not repeated.
fn log(before: &Snapshot, now: &Settings, problems: &[Problem], warnings: &[Problem]) {
    log_problems(&before.status, problems);
    for warning in warnings.iter().filter(|warning| !before.status.warnings.contains(warning)) {
        tracing::warn!(config.file = %warning.file, "configuration: {warning}");
    }
    let changed = changed_organizations(&before.settings, now);
    if problems.is_empty() || !changed.is_empty() {
        tracing::info!("configuration taken up{changed}");
    }
}

/// Which organizations came, were changed and went, in words; nothing where none did.
pub(super) fn changed_organizations(before: &Settings, now: &Settings) -> String {
    let (was, is) = (&before.organizations, &now.organizations);
    let came = is.keys().filter(|name| !was.contains_key(*name)).collect();
    let changed = is.iter().filter(|(name, is)| was.get(*name).is_some_and(|was| !Arc::ptr_eq(was, is))).map(|(name, _)| name).collect();
    let went = was.keys().filter(|name| !is.contains_key(*name)).collect();
    let parts: [(&str, Vec<&OrgName>); 3] = [("came", came), ("changed", changed), ("went", went)];
    let told = |(what, names): (&str, Vec<&OrgName>)| {
        let shown: Vec<String> = names.iter().take(NAMES_SHOWN_MAX).map(|name| format!("`{name}`")).collect();
        let more = names.len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!names.is_empty()).then(|| format!("; organizations that {what}: {}{more}", shown.join(", ")))
    };
    parts.into_iter().filter_map(told).collect()
}
