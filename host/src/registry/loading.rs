//! Loads the content of a plugin that is asked for, or what was loaded from its file before.
//!
//! Invariant: a content is loaded once in a process; one whose constructors block is not tried again by the next either.

use super::external::{Loaded, NotLoaded};
use super::files::{Verified, blocked, last_good, remember, remember_blocked};
use super::{Registry, lock, no_plugin};
use postwarm_plugin_api::Kind;
use std::sync::Arc;

impl Registry {
    /// Why this content does not load, where that was tried.
    pub(super) fn why_not_loaded(&self, sha256: &str) -> Option<String> {
        let here = lock(&self.loaded).get(sha256).and_then(|place| place.get()?.as_ref().err().cloned());
        here.or_else(|| blocked(sha256, &self.private_dir).map(|record| NotLoaded::Blocked.words(&record)))
    }

    /// What was last loaded from a file of this name, by this process or one before, if it is another content than
    /// `failed` and no other file has its id now.
    pub(super) fn loaded_before(&self, name: &str, failed: &str) -> Option<Arc<Verified>> {
        let here = lock(&self.files).get(name).and_then(|file| file.loaded_but(failed));
        let before = here.or_else(|| last_good(name, &self.private_dir).filter(|verified| verified.sha256 != failed).map(Arc::new))?;
        self.conflict(name, &before).is_none().then_some(before)
    }

    /// Uses what was loaded before in place of a content that does not load.
    fn fall_back(&self, failed: &str, words: &str) {
        let name = lock(&self.files).iter().find(|(_, file)| file.is_current(failed)).map(|(name, _)| name.clone());
        let Some(name) = name else { return };
        if let Some(before) = self.loaded_before(&name, failed) {
            tracing::warn!(plugin.file = name, plugin.sha256 = before.sha256, "what was loaded from this file before is used on");
            self.note(&name, |file| file.fall_back(failed, before, words));
        }
    }

    /// Keeps in mind which content was loaded, for when the file turns bad, and for a start that finds it so.
    fn remember(&self, verified: &Arc<Verified>) {
        for (name, file) in lock(&self.files).iter_mut() {
            let is_known = file.loaded.as_ref().is_some_and(|loaded| loaded.sha256 == verified.sha256);
            if file.is_current(&verified.sha256) && !is_known {
                // Without it the plugin works all the same, and it is not worth a try at each use.
                file.loaded = Some(verified.clone());
                if let Err(error) = remember(name, &verified.sha256, &self.private_dir) {
                    tracing::warn!(plugin.file = name, %error, "a start that finds this file broken will have nothing to fall back to");
                }
            }
        }
    }

    /// The library that provides `id`, loaded. Where its content does not load, what was loaded from that file before.
    pub(super) fn load(&self, kind: Kind, id: &str) -> Result<Arc<Loaded>, String> {
        let verified = self.provider(kind, id).ok_or_else(|| no_plugin(id))?;
        self.load_content(id, &verified).or_else(|words| {
            self.fall_back(&verified.sha256, &words);
            let before = self.provider(kind, id).filter(|before| before.sha256 != verified.sha256).ok_or(words)?;
            self.load_content(id, &before)
        })
    }

    fn load_content(&self, id: &str, verified: &Arc<Verified>) -> Result<Arc<Loaded>, String> {
        // The map is not held while a library loads, so that a slow one delays nobody else.
        let place = lock(&self.loaded).entry(verified.sha256.clone()).or_default().clone();
        let load = || {
            let fresh = self.load_now(id, verified);
            match &fresh {
                Ok(_) => tracing::info!(plugin.id = id, plugin.sha256 = verified.sha256, "plugin loaded"),
                Err(words) => tracing::error!(plugin.id = id, plugin.sha256 = verified.sha256, "plugin not loaded: {words}"),
            }
            fresh
        };
        let loaded = place.get_or_init(load).clone();
        if loaded.is_ok() {
            self.remember(verified);
        }
        loaded
    }

    fn load_now(&self, id: &str, verified: &Verified) -> Result<Arc<Loaded>, String> {
        if let Some(record) = blocked(&verified.sha256, &self.private_dir) {
            return Err(NotLoaded::Blocked.words(&record));
        }
        // The system loads one library at a time, and that one is not done.
        let behind =
            |other: &String| format!("the constructors of `{other}` block, and nothing is loaded behind them: restart the service");
        if let Some(other) = self.blocked.get() {
            return Err(behind(other));
        }
        match Loaded::load(&verified.path, &verified.notes) {
            Ok(loaded) => Ok(Arc::new(loaded)),
            Err(NotLoaded::Blocked) if self.blocked.set(id.to_owned()).is_err() => {
                Err(behind(self.blocked.get().unwrap_or(&id.to_owned())))
            }
            Err(NotLoaded::Blocked) => {
                let record = remember_blocked(&verified.sha256, &self.private_dir);
                Err(NotLoaded::Blocked.words(&record))
            }
            Err(failed) => Err(failed.words(&verified.path)),
        }
    }
}
