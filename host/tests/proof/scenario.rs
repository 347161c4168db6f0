//! What a scenario is: a promise, what it is given, and the line that it answers with.

use crate::check::Found;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use std::panic::AssertUnwindSafe;
use tokio::runtime::Runtime;

/// A promise and how it is put to the proof.
pub struct Scenario {
    pub name: &'static str,
    /// What holds, in one sentence.
    pub promise: &'static str,
    pub run: fn(Plan) -> LocalBoxFuture<'static, Line>,
}

/// `scenario!(name, promise, function)` where the function is `async fn(Plan) -> Line`.
macro_rules! scenario {
    ($name:expr, $promise:expr, $run:path) => {
        Scenario { name: $name, promise: $promise, run: |plan| Box::pin($run(plan)) }
    };
}
pub(crate) use scenario;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// In every run of CI: all scenarios in a minute and a half, to three.
    Small,
    /// Some six minutes.
    Usual,
    /// Before a release.
    Full,
}

impl Size {
    pub fn parse(text: &str) -> Result<Size, String> {
        match text {
            "small" => Ok(Size::Small),
            "usual" => Ok(Size::Usual),
            "full" => Ok(Size::Full),
            other => Err(format!("there is no size `{other}`: small, usual or full")),
        }
    }
}

/// What a scenario is given.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub name: &'static str,
    pub seed: u64,
    pub size: Size,
    /// How long the soak takes, where it was said.
    pub minutes: Option<u64>,
}

impl Plan {
    pub fn new(name: &'static str, seed: u64, size: Size) -> Plan {
        Plan { name, seed, size, minutes: None }
    }

    /// The scenario's own randomness: the same for a seed whatever ran before it.
    pub fn rng(&self) -> fastrand::Rng {
        let own = self.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3));
        fastrand::Rng::with_seed(self.seed ^ own)
    }

    /// One of three numbers, by size.
    pub fn pick<T>(&self, small: T, usual: T, full: T) -> T {
        match self.size {
            Size::Small => small,
            Size::Usual => usual,
            Size::Full => full,
        }
    }
}

/// What a scenario found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Line {
    pub scenario: String,
    pub recipients: u64,
    /// Kills, stops, refusals: whatever was done to it.
    pub faults: u64,
    #[serde(flatten)]
    pub found: Found,
    /// Why it did not run; then nothing else counts.
    pub skipped: Option<String>,
    /// What is worth telling besides.
    pub notes: Vec<String>,
    /// Each promise that did not hold, in words.
    pub broken: Vec<String>,
}

impl Line {
    pub fn new(plan: &Plan) -> Line {
        Line { scenario: plan.name.to_owned(), ..Line::default() }
    }

    /// It cannot run here.
    pub fn skipped(plan: &Plan, because: &str) -> Line {
        Line { skipped: Some(because.to_owned()), ..Line::new(plan) }
    }

    pub fn note(&mut self, words: impl Into<String>) {
        self.notes.push(words.into());
    }

    /// Breaks the promise in these words unless it holds.
    pub fn expect(&mut self, holds: bool, words: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(words());
        }
    }

    /// Adds what the checker found of one broadcast, and holds it to what is promised everywhere: nothing lost, nothing falsely
    /// accepted, no event lost or applied twice. Duplicates and doubts are the scenario's to judge.
    pub fn add(&mut self, recipients: u64, found: Found) {
        self.recipients += recipients;
        for (count, what) in [
            (found.lost, "recipients are lost"),
            (found.false_accepted, "recipients are shown as sent to whom nothing was accepted"),
            (found.events_lost, "changes have no event"),
            (found.events_twice, "changes are told twice"),
        ] {
            self.expect(count == 0, || format!("{count} {what}"));
        }
        self.broken.extend(found.words.iter().cloned());
        self.found.add(found);
    }
}

/// Runs a scenario to its line, even where it panics.
pub fn run(runtime: &Runtime, scenario: &Scenario, plan: Plan) -> Line {
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on((scenario.run)(plan))));
    ran.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let mut line = Line::new(&plan);
        line.broken.push(format!("it could not go on: {}", words.unwrap_or("it panicked")));
        line
    })
}
