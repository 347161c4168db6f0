//! Which feedback loop is in charge of a recipient domain, what it can tell, and how it fares.
//!
//! Invariant: the most specific entry alone answers for a domain: exact before suffix (the longest) before `*`; of
//! equals, the first in the file.

use crate::config::settings::FeedbackEntry;
use crate::model::domain::rank;
use crate::model::name::OrgName;
use postwarm_plugin_api::{Capabilities, FeedbackLoop, Secret};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// A configured loop with its instance.
#[derive(Clone)]
pub struct LoopHandle {
    pub org: OrgName,
    pub name: Arc<str>,
    pub entry: FeedbackEntry,
    pub origin: Origin,
    pub feedback: Arc<dyn FeedbackLoop>,
}

/// What an instance is made from besides its entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The secrets that the entry refers to, as they were.
    pub secrets: BTreeMap<String, Secret>,
    /// Of the plugin's file, in hex; `None` for a built-in.
    pub sha256: Option<String>,
}

impl LoopHandle {
    /// Tells whether an instance made now would be made from the same.
    pub fn is_made_from(&self, entry: &FeedbackEntry, origin: &Origin) -> bool {
        self.entry == *entry && self.origin == *origin
    }
}

/// How a loop fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoopStatus {
    /// When the last poll that it answered began, in milliseconds since 1970 UTC: its reports are true as of then.
    pub checked_at: Option<i64>,
    /// When it is asked next.
    pub next_check_at: Option<i64>,
    /// What went wrong the last time; `None` after a poll that went well.
    pub last_error: Option<String>,
    /// Reports that it made outside of what it declared, refused.
    pub refused: u64,
}

/// A loop that runs.
pub struct RunningLoop {
    pub handle: LoopHandle,
    pub capabilities: Capabilities,
    status: Mutex<LoopStatus>,
}

impl RunningLoop {
    pub fn new(handle: LoopHandle) -> RunningLoop {
        RunningLoop { capabilities: handle.feedback.capabilities(), handle, status: Mutex::default() }
    }

    pub fn status(&self) -> LoopStatus {
        self.locked().clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut LoopStatus)) {
        change(&mut self.locked());
    }

    fn locked(&self) -> MutexGuard<'_, LoopStatus> {
        self.status.lock().expect("nobody panics while he holds this lock")
    }
}

/// All loops, in the order of the files.
#[derive(Clone, Default)]
pub struct Charge {
    loops: Arc<[Arc<RunningLoop>]>,
}

impl Charge {
    pub fn new(loops: Vec<Arc<RunningLoop>>) -> Charge {
        Charge { loops: loops.into() }
    }

    pub fn all(&self) -> &[Arc<RunningLoop>] {
        &self.loops
    }

    /// The loop that an organization calls by this name.
    pub fn named(&self, org: &OrgName, name: &str) -> Option<&Arc<RunningLoop>> {
        self.loops.iter().find(|l| l.handle.org == *org && *l.handle.name == *name)
    }

    /// The loop in charge of a recipient domain (lower case) of an organization.
    pub fn of(&self, org: &OrgName, domain: &str) -> Option<&Arc<RunningLoop>> {
        let best = |l: &RunningLoop| l.handle.entry.domains.iter().filter_map(|pattern| rank(pattern, domain)).max();
        let candidates = self.loops.iter().filter(|l| l.handle.org == *org).filter_map(|l| Some((best(l)?, l)));
        // `max_by_key` takes the last of equals: turned round, the first in the file.
        candidates.rev().max_by_key(|(rank, _)| *rank).map(|(_, l)| l)
    }
}
