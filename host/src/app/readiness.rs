//! What `/readyz` checks.

use crate::config::live::Live;
use crate::http::probes::{Check, Condition, Readiness};
use crate::registry::{Registry, State};
use std::sync::Arc;

/// The configuration and the plugins.
pub struct Ready {
    pub live: Arc<Live>,
    pub registry: Arc<Registry>,
}

impl Readiness for Ready {
    fn checks(&self) -> Vec<Check> {
        let problems = &self.live.now().status.problems;
        let broken = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let rejected: Vec<String> = self
            .registry
            .list()
            .into_iter()
            .filter(|p| p.state == State::Rejected)
            .filter_map(|p| Some(format!("{}: {}", p.file?, p.problem?)))
            .collect();
        vec![check("configuration", broken), check("plugins", rejected.join("\n"))]
    }
}

fn check(name: &str, wrong: String) -> Check {
    let condition = if wrong.is_empty() { Condition::Ok } else { Condition::Degraded };
    Check { name: name.to_owned(), condition, detail: Some(wrong).filter(|w| !w.is_empty()) }
}
