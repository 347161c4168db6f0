//! What plugins said of entries that have not changed since.
//!
//! A check makes an instance, for which a plugin may take seconds, while the next edit of anybody waits.
//!
//! Invariant: what passed an external plugin is not asked again until the entry, a secret of it or the plugin's content is another; what did
//! not pass is asked each time.

use crate::config::catalogue::Catalogue;
use postwarm_plugin_api::{Instance, Kind, SettingsProblem};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The entries that are kept in mind; those of organizations that are gone are among them.
const PASSED_MAX: usize = 10_000;

/// Which content a plugin has now; `None` for a built-in, which is quick and asked each time.
pub type Content = Box<dyn Fn(Kind, &str) -> Option<String> + Send + Sync>;

/// A catalogue that is not asked the same again.
pub struct Checked<C> {
    catalogue: C,
    content: Content,
    passed: Mutex<HashMap<Entry, Passed>>,
}

/// An entry, by its kind, the plugin's id, the organization and its own name.
type Entry = (Kind, String, String, String);

/// What an entry was when it passed.
struct Passed {
    content: String,
    instance: Instance,
}

impl<C: Catalogue> Checked<C> {
    pub fn new(catalogue: C, content: Content) -> Checked<C> {
        Checked { catalogue, content, passed: Mutex::default() }
    }

    fn has_passed(&self, entry: &Entry, content: &str, instance: &Instance) -> bool {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(entry).is_some_and(|passed| passed.content == content && are_same(&passed.instance, instance))
    }
}

fn are_same(one: &Instance, other: &Instance) -> bool {
    one.settings == other.settings && one.secrets == other.secrets && one.connections_max == other.connections_max
}

impl<C: Catalogue> Catalogue for Checked<C> {
    fn has(&self, kind: Kind, id: &str) -> bool {
        self.catalogue.has(kind, id)
    }

    fn ids(&self, kind: Kind) -> Vec<String> {
        self.catalogue.ids(kind)
    }

    fn check(&self, kind: Kind, id: &str, instance: &Instance) -> Vec<SettingsProblem> {
        let Some(content) = (self.content)(kind, id) else { return self.catalogue.check(kind, id, instance) };
        let entry = (kind, id.to_owned(), instance.organization.clone(), instance.name.clone());
        if self.has_passed(&entry, &content, instance) {
            return Vec::new();
        }
        let problems = self.catalogue.check(kind, id, instance);
        // Only now is it known which content was used: one that does not load falls back to the one before.
        let content = (self.content)(kind, id).unwrap_or(content);
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if !problems.is_empty() {
            passed.remove(&entry);
            return problems;
        }
        if passed.len() >= PASSED_MAX {
            passed.clear();
        }
        passed.insert(entry, Passed { content, instance: instance.clone() });
        problems
    }

    fn secrets(&self, kind: Kind, id: &str) -> Vec<String> {
        self.catalogue.secrets(kind, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::Secret;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Finds fault with the setting `bad`, and counts how often it was asked.
    struct Asked(Arc<AtomicUsize>);

    impl Catalogue for Asked {
        fn has(&self, _: Kind, _: &str) -> bool {
            true
        }

        fn ids(&self, _: Kind) -> Vec<String> {
            Vec::new()
        }

        fn check(&self, _: Kind, _: &str, instance: &Instance) -> Vec<SettingsProblem> {
            self.0.fetch_add(1, Ordering::SeqCst);
            instance.settings.get("bad").map(|_| SettingsProblem::new("/bad", "no")).into_iter().collect()
        }

        fn secrets(&self, _: Kind, _: &str) -> Vec<String> {
            Vec::new()
        }
    }

    fn instance(settings: serde_json::Value) -> Instance {
        Instance {
            organization: "acme".into(),
            name: "relay".into(),
            settings: settings.as_object().unwrap().clone(),
            secrets: Default::default(),
            connections_max: 1,
            data_dir: "data".into(),
        }
    }

    #[test]
    fn an_entry_that_passed_is_asked_again_once_it_or_its_plugin_is_another() {
        let (asked, content) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new("v1")));
        let now = content.clone();
        let checked = Checked::new(Asked(asked.clone()), Box::new(move |_, _| Some((*now.lock().unwrap()).to_owned())));
        let times = |kind, instance: &Instance| {
            asked.store(0, Ordering::SeqCst);
            let problems = [(); 3].map(|()| checked.check(kind, "p", instance).len());
            (asked.load(Ordering::SeqCst), problems[0])
        };
        let plain = instance(serde_json::json!({"host": "a"}));
        assert_eq!(times(Kind::SmtpClient, &plain), (1, 0));
        assert_eq!(times(Kind::SmtpClient, &plain), (0, 0));
        assert_eq!(times(Kind::FeedbackLoop, &plain), (1, 0));
        assert_eq!(times(Kind::SmtpClient, &Instance { name: "other".into(), ..plain.clone() }), (1, 0));
        assert_eq!(times(Kind::SmtpClient, &instance(serde_json::json!({"host": "b"}))), (1, 0));
        assert_eq!(times(Kind::SmtpClient, &plain), (1, 0));
        *content.lock().unwrap() = "v2";
        assert_eq!(times(Kind::SmtpClient, &plain), (1, 0));
        let secrets = [("password".to_owned(), Secret::new("new"))].into();
        assert_eq!(times(Kind::SmtpClient, &Instance { secrets, ..plain.clone() }), (1, 0));
        assert_eq!(times(Kind::SmtpClient, &instance(serde_json::json!({"bad": 1}))), (3, 1), "what was refused is asked each time");
    }
}
