//! Which plugins there are: built-ins, which register through `inventory`, and externals, `.so` files in a directory.
//!
//! Invariant: a dropped file is copied, checked and listed, and runs none of its code until [`Registry::resolve_smtp`] or
//! [`Registry::resolve_feedback`] is asked for its id.
//! Invariant: a file that turns bad never takes away what ran: where its content is refused, what was in use stays, and
//! where it does not load, or after a restart, the last that was loaded from a file of that name is used.

mod builtins;
mod dropped;
mod elf;
mod external;
mod external_feedback;
mod external_smtp;
mod files;
mod lane;
mod loading;
mod note;
mod ops;
#[cfg(test)]
mod tests;

use builtins::{BuiltinFeedback, BuiltinSmtp, builtin_status, describe_builtin};
use dropped::{Dropped, SETTLE};
use external::Loaded;
use external_feedback::ExternalFeedbackFactory;
use external_smtp::ExternalSmtpFactory;
use files::{Fingerprint, NotTaken, Verified, directory_problem, take};
// Named so that the linker keeps what registers in it.
use postwarm_plugin_api::{Builtin, Descriptor, FeedbackFactory, Kind, SmtpFactory};
use postwarm_plugin_builtin as _;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The files of the directory that are looked at, by name.
const FILES_MAX: usize = 256;

/// Where a plugin comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    BuiltIn,
    External,
}

/// How far a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// An organization may name it. An external one has run none of its code.
    Available,
    /// An organization named it, and it runs.
    Loaded,
    /// Its file has not been still for long enough to be read.
    Settling,
    /// `problem` says why it cannot be used.
    Rejected,
}

/// A line of `plugin list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginStatus {
    /// `None` for a file that does not say.
    pub id: Option<String>,
    pub kind: Option<Kind>,
    pub version: Option<String>,
    pub source: Source,
    /// The name of the file in the plugins directory.
    pub file: Option<String>,
    /// Of the content that is in use, in hex.
    pub sha256: Option<String>,
    pub state: State,
    /// What is wrong, in words: why it was rejected, or why its newest content is not used.
    pub problem: Option<String>,
}

/// The plugins of this process.
pub struct Registry {
    plugins_dir: PathBuf,
    private_dir: PathBuf,
    builtins: Vec<Builtin>,
    files: Mutex<BTreeMap<String, Dropped>>,
    /// By sha256: a content is loaded once, and what failed is not tried again.
    loaded: Mutex<HashMap<String, Arc<Loading>>>,
    /// The plugin whose constructors never returned: they hold the lock under which the system loads libraries.
    blocked: OnceLock<String>,
    /// Held by the one scan that runs.
    scanning: Mutex<()>,
}

/// A content that is loaded once, or that it is known why it is not.
type Loading = OnceLock<Result<Arc<Loaded>, String>>;

/// How long ago a file changed, by the file system's own clock.
fn age(meta: &std::fs::Metadata, wall: SystemTime) -> Duration {
    let changed = Duration::new(u64::try_from(meta.ctime()).unwrap_or(0), u32::try_from(meta.ctime_nsec()).unwrap_or(0));
    wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(changed)
}

impl Registry {
    /// The registry of the built-ins; files are seen by [`Registry::start`] and [`Registry::rescan`].
    pub fn new(plugins_dir: PathBuf, private_dir: PathBuf) -> Registry {
        let mut builtins: Vec<Builtin> = postwarm_plugin_api::inventory::iter::<Builtin>.into_iter().copied().collect();
        builtins.sort_by_key(|builtin| describe_builtin(builtin).id);
        Registry {
            plugins_dir,
            private_dir,
            builtins,
            files: Mutex::default(),
            loaded: Mutex::default(),
            blocked: OnceLock::new(),
            scanning: Mutex::default(),
        }
    }

    /// The first scan: takes at once what lay unchanged in the directory before, by the file system's own clock, so that
    /// organizations find their plugins when their files are read. Reads and copies files: blocks.
    pub fn start(&self, now: Instant, wall: SystemTime) {
        self.scan(now, |meta| age(meta, wall) >= SETTLE);
    }

    /// How long until every file has lain unchanged for long enough to be taken by [`Registry::start`]; nothing for one from the
    /// future.
    pub fn settles_in(&self, wall: SystemTime) -> Duration {
        self.found().values().map(|meta| SETTLE.saturating_sub(age(meta, wall))).filter(|wait| *wait < SETTLE).max().unwrap_or_default()
    }

    /// Looks at the directory again; to be called every half second. A file is read once it has been the same for
    /// `SETTLE`. Idempotent. Reads and copies files: blocks.
    pub fn rescan(&self, now: Instant) {
        self.scan(now, |_| false);
    }

    fn scan(&self, now: Instant, lay_before: impl Fn(&std::fs::Metadata) -> bool) {
        let _one = lock(&self.scanning);
        let bad_directory = directory_problem(&self.plugins_dir);
        let found = self.found();
        let gone = {
            let mut files = lock(&self.files);
            let before = files.len();
            files.retain(|name, _| found.contains_key(name));
            files.len() != before
        };
        if gone {
            lock(&self.files).values_mut().for_each(Dropped::other_gone);
        }
        for (name, meta) in &found {
            let seen = Fingerprint::of(meta);
            let is_due = {
                let mut files = lock(&self.files);
                let file = files.entry(name.clone()).or_insert_with(|| Dropped::new(seen, now));
                let is_new = file.look(seen, now);
                if let Some(words) = &bad_directory {
                    file.withdraw(words);
                }
                bad_directory.is_none() && is_new && (file.settled(now) || lay_before(meta))
            };
            if is_due {
                self.examine(name, seen, now);
            }
        }
    }

    /// The `.so` files of the directory that are not hidden.
    fn found(&self) -> BTreeMap<String, std::fs::Metadata> {
        let Ok(entries) = std::fs::read_dir(&self.plugins_dir) else { return BTreeMap::new() };
        let named = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let meta = std::fs::symlink_metadata(entry.path()).ok()?;
            (name.ends_with(".so") && !name.starts_with('.')).then_some((name, meta))
        });
        let mut found: BTreeMap<String, std::fs::Metadata> = named.collect();
        while found.len() > FILES_MAX {
            found.pop_last();
        }
        found
    }

    fn examine(&self, name: &str, seen: Fingerprint, now: Instant) {
        let verified = match take(&self.plugins_dir.join(name), seen, &self.private_dir) {
            Ok(verified) => verified,
            Err(NotTaken::Changing) => return self.note(name, |file| file.changing(now)),
            Err(NotTaken::Rejected(words)) => {
                let nothing_in_use = lock(&self.files).get(name).is_some_and(|file| file.current.is_none());
                let before = if nothing_in_use { self.loaded_before(name, "") } else { None };
                return self.reject(name, words, before, seen);
            }
        };
        if let Some(words) = self.conflict(name, &verified) {
            tracing::warn!(plugin.file = name, "plugin rejected: {words}");
            return self.note(name, |file| file.refuse(words, seen));
        }
        if let Some(words) = self.why_not_loaded(&verified.sha256)
            && let Some(before) = self.loaded_before(name, &verified.sha256)
        {
            return self.reject(name, words, Some(before), seen);
        }
        let ids: Vec<&str> = verified.notes.iter().map(|note| note.id.as_str()).collect();
        tracing::info!(plugin.file = name, plugin.id = ids.join(","), plugin.sha256 = verified.sha256, "plugin available");
        self.note(name, |file| file.take(verified, seen));
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut Dropped)) {
        if let Some(file) = lock(&self.files).get_mut(name) {
            change(file);
        }
    }

    fn reject(&self, name: &str, words: String, before: Option<Arc<Verified>>, seen: Fingerprint) {
        let mut files = lock(&self.files);
        let Some(file) = files.get_mut(name) else { return };
        let goes_on = if before.is_some() || file.current.is_some() { ", and its content from before stays in use" } else { "" };
        tracing::warn!(plugin.file = name, "plugin rejected{goes_on}: {words}");
        file.reject(words, before, seen);
    }

    /// Says who already has an id of `verified`.
    fn conflict(&self, name: &str, verified: &Verified) -> Option<String> {
        let files = lock(&self.files);
        verified.notes.iter().find_map(|note| {
            if self.builtins.iter().map(describe_builtin).any(|builtin| builtin.id == note.id && builtin.kind == note.kind) {
                return Some(format!("its id `{}` is that of a built-in: choose another", note.id));
            }
            let provides = |file: &Dropped| {
                file.current.as_ref().is_some_and(|other| other.notes.iter().any(|held| held.id == note.id && held.kind == note.kind))
            };
            let (other, _) = files.iter().find(|(other, file)| *other != name && provides(file))?;
            Some(format!("its id `{}` is already that of {other}: remove one of them", note.id))
        })
    }

    /// The SMTP client `id`; loads an external one. `Err` says in words why there is none. Blocks while it loads.
    pub fn resolve_smtp(&self, id: &str) -> Result<Arc<dyn SmtpFactory>, String> {
        for builtin in &self.builtins {
            if let Builtin::Smtp(factory) = builtin
                && factory.descriptor().id == id
            {
                return Ok(Arc::new(BuiltinSmtp(*factory)));
            }
        }
        let loaded = self.load(Kind::SmtpClient, id)?;
        ExternalSmtpFactory::new(loaded).map(|factory| Arc::new(factory) as _).ok_or_else(|| no_plugin(id))
    }

    /// As [`Registry::resolve_smtp`], for feedback loops.
    pub fn resolve_feedback(&self, id: &str) -> Result<Arc<dyn FeedbackFactory>, String> {
        for builtin in &self.builtins {
            if let Builtin::Feedback(factory) = builtin
                && factory.descriptor().id == id
            {
                return Ok(Arc::new(BuiltinFeedback(*factory)));
            }
        }
        let loaded = self.load(Kind::FeedbackLoop, id)?;
        ExternalFeedbackFactory::new(loaded).map(|factory| Arc::new(factory) as _).ok_or_else(|| no_plugin(id))
    }

    /// What the plugin says of itself, without running any of it.
    pub fn describe(&self, kind: Kind, id: &str) -> Option<Descriptor> {
        let builtin = self.builtins.iter().map(describe_builtin).find(|builtin| builtin.kind == kind && builtin.id == id);
        builtin.or_else(|| {
            let verified = self.provider(kind, id)?;
            let note = verified.notes.iter().find(|note| note.kind == kind)?;
            Some(Descriptor {
                id: note.id.clone().into(),
                kind,
                version: note.version.clone().into(),
                summary: "".into(),
                settings_schema: note.schema.clone().into(),
            })
        })
    }

    /// The sha256, in hex, of the content that an external plugin has now.
    pub fn content(&self, kind: Kind, id: &str) -> Option<String> {
        self.provider(kind, id).map(|verified| verified.sha256.clone())
    }

    /// The ids that an organization may name, sorted.
    pub fn ids(&self, kind: Kind) -> Vec<String> {
        let built_in = self.builtins.iter().map(describe_builtin).filter(|builtin| builtin.kind == kind);
        let mut ids: Vec<String> = built_in.map(|builtin| builtin.id.into_owned()).collect();
        let files = lock(&self.files);
        let notes = files.values().filter_map(|file| file.current.as_ref()).flat_map(|verified| &verified.notes);
        ids.extend(notes.filter(|note| note.kind == kind).map(|note| note.id.clone()));
        ids.sort();
        ids
    }

    /// Every plugin, and every file that is none, with the reason.
    pub fn list(&self) -> Vec<PluginStatus> {
        let mut list: Vec<PluginStatus> = self.builtins.iter().map(builtin_status).collect();
        let loaded = lock(&self.loaded);
        for (name, file) in lock(&self.files).iter() {
            let status = PluginStatus {
                id: None,
                kind: None,
                version: None,
                source: Source::External,
                file: Some(name.clone()),
                sha256: None,
                state: State::Rejected,
                problem: file.problem.clone(),
            };
            let Some(verified) = &file.current else {
                let state = if status.problem.is_some() { State::Rejected } else { State::Settling };
                list.push(PluginStatus { state, ..status });
                continue;
            };
            for note in &verified.notes {
                let (state, problem) = match loaded.get(&verified.sha256).and_then(|loaded| loaded.get()) {
                    None => (State::Available, status.problem.clone()),
                    Some(Ok(_)) => (State::Loaded, status.problem.clone()),
                    Some(Err(words)) => (State::Rejected, Some(words.clone())),
                };
                list.push(PluginStatus {
                    id: Some(note.id.clone()),
                    kind: Some(note.kind),
                    version: Some(note.version.clone()),
                    sha256: Some(verified.sha256.clone()),
                    state,
                    problem,
                    ..status.clone()
                });
            }
        }
        list
    }

    fn provider(&self, kind: Kind, id: &str) -> Option<Arc<Verified>> {
        let files = lock(&self.files);
        let mut current = files.values().filter_map(|file| file.current.as_ref());
        current.find(|verified| verified.notes.iter().any(|note| note.kind == kind && note.id == id)).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_plugin(id: &str) -> String {
    format!("there is no plugin `{id}` of this kind")
}
