//! What `/readyz` checks.
//!
//! Invariant: only what makes requests to this service fail is `failing` (503); what needs a person while the service goes
//! on is `degraded`. Nothing here blocks: it tells what others found out.

use crate::bus::EventLog;
use crate::bus::relay::{Progress, Relay};
use crate::clock::Clock;
use crate::config::live::Live;
use crate::config::problem::Problem;
use crate::db::writer::Writable;
use crate::health::projector::Projector;
use crate::http::probes::{Check, Condition, Readiness};
use crate::registry::{PluginStatus, Registry, State};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// An event that waits for longer is worth a look, even where nothing failed.
const LAG_SECS: i64 = 30;
/// How often a database that could not be written is tried again, for nobody sends requests to a service that is not ready.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// What both services have.
pub struct Common {
    pub live: Arc<Live>,
    pub registry: Arc<Registry>,
    pub clock: Arc<dyn Clock>,
    pub log: Arc<dyn EventLog>,
    pub database: Arc<dyn Writable>,
}

/// Of warmup.
pub struct WarmupReady {
    pub common: Common,
    pub relay: Arc<Relay>,
}

/// Of health.
pub struct HealthReady {
    pub common: Common,
    pub projector: Arc<Projector>,
}

impl Readiness for WarmupReady {
    fn checks(&self) -> Vec<Check> {
        let common = &self.common;
        let remedy = "users and emails are refused and nothing is sent; it goes on within a second once it can be written";
        let mut checks = common.shared();
        checks.push(check("database", Condition::Failing, common.database_trouble("warmup.db", remedy)));
        let trouble = event_log(&self.relay.progress(), common.log.trouble(), common.clock.now().wall_ms);
        checks.push(check("event_log", Condition::Degraded, trouble));
        checks
    }
}

impl Readiness for HealthReady {
    fn checks(&self) -> Vec<Check> {
        let common = &self.common;
        let remedy = "the figures stand still and are answered as they are; they go on once it can be written";
        let mut checks = common.shared();
        checks.push(check("database", Condition::Degraded, common.database_trouble("health.db", remedy)));
        let trouble = common.log.trouble();
        let trouble =
            trouble.map(|why| format!("{why}; bring the event log back: the figures stand still until then, and nothing is lost"));
        checks.push(check("event_log", Condition::Degraded, trouble));
        checks.push(check("projector", Condition::Degraded, self.projector.last_error().map(|why| projector(&why))));
        checks
    }
}

impl Common {
    fn shared(&self) -> Vec<Check> {
        let status = self.live.now().status.clone();
        let lines = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let plugins: Vec<String> = self.registry.list().into_iter().filter_map(plugin).collect();
        let some = |words: String| Some(words).filter(|words| !words.is_empty());
        let restart = some(lines(&status.restart)).map(|words| format!("restart needed: {words}"));
        vec![
            check("configuration", Condition::Degraded, some(lines(&status.problems))),
            check("restart", Condition::Degraded, restart),
            check("plugins", Condition::Degraded, some(plugins.join("\n"))),
        ]
    }

    fn database_trouble(&self, file: &str, remedy: &str) -> Option<String> {
        let error = self.database.last_error()?;
        Some(format!("the last write to {file} failed: {error}; mend that (space, rights, who else holds the file): {remedy}"))
    }
}

/// What is to be said of a plugin's file.
fn plugin(status: PluginStatus) -> Option<String> {
    let (file, problem) = (status.file?, status.problem?);
    Some(match status.state {
        State::Rejected => format!("{file}: {problem}"),
        _ => format!("{file}: {problem}; replace the file: what was in it before is used on"),
    })
}

/// What is to be said of the way from the outbox to the log.
fn event_log(relay: &Progress, trouble: Option<String>, wall_ms: i64) -> Option<String> {
    let waits_secs = relay.oldest_at.map_or(0, |at| (wall_ms - at).max(0) / 1000);
    let why: Vec<String> = relay.last_error.iter().cloned().chain(trouble).collect();
    if why.is_empty() && waits_secs < LAG_SECS {
        return None;
    }
    let why = if why.is_empty() { "the event log is slower than the events come".to_owned() } else { why.join("\n") };
    let waits = if relay.oldest_at.is_some() { format!("the oldest event waits for {waits_secs} s") } else { "no event waits".to_owned() };
    Some(format!("{why}; {waits}; bring the event log back: events wait in warmup.db, nothing is lost and mail goes on"))
}

fn projector(why: &str) -> String {
    // Whoever made these errors says what to do about them.
    let remedy = match why {
        _ if why.contains("are gone") => "stop health, delete health.db and start it: figures then begin at the oldest record kept",
        _ if why.contains("newer") => "the figures stand still until then",
        _ => "bring back what it names; the figures stand still until then and go on by themselves",
    };
    format!("{why}; {remedy}")
}

fn check(name: &str, condition: Condition, wrong: Option<String>) -> Check {
    Check { name: name.to_owned(), condition: if wrong.is_none() { Condition::Ok } else { condition }, detail: wrong }
}

/// Tries a database that could not be written again and again until it can, or `stop`.
pub async fn keep_trying(database: Arc<dyn Writable>, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            if database.last_error().is_some() {
                // Whether it worked is in its last error.
                let _ = database.probe().await;
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_works_is_no_trouble_until_it_is_far_behind() {
        let relay = |oldest_at| Progress { oldest_at, last_error: None };
        assert_eq!(event_log(&relay(None), None, 100_000), None);
        assert_eq!(event_log(&relay(Some(90_000)), None, 100_000), None);
        let said = event_log(&relay(Some(60_000)), None, 100_000).unwrap();
        assert!(said.starts_with("the event log is slower than the events come; the oldest event waits for 40 s; "), "{said}");
    }

    #[test]
    fn what_failed_is_said_with_how_far_behind_the_log_is() {
        let relay = Progress { oldest_at: Some(93_000), last_error: Some("the event log is not available: away".into()) };
        let said = event_log(&relay, Some("broker a:1 is unreachable".into()), 100_000).unwrap();
        let wanted =
            "the event log is not available: away\nbroker a:1 is unreachable; the oldest event waits for 7 s; bring the event log back";
        assert!(said.starts_with(wanted), "{said}");
    }
}
