//! The conformance suite of the plugin contract: named checks over any SMTP client and any feedback loop.
//!
//! A suite takes a factory and settings, so that it does not matter whether the plugin is built in, a library in this
//! process or one in a child process.
//!
//! Invariant: knows the contract and no plugin; a check that fails says what it expected and never ends the others.

pub mod feedback;
pub mod smtp;

mod basics;
mod smtp_content;
mod smtp_end;
mod smtp_faults;
mod smtp_marks;

use std::fmt;
use std::time::Duration;

/// How long one check may take.
const CHECK_MAX: Duration = Duration::from_secs(60);

/// What a check found: `Err` says what was expected and what was there.
pub type Finding = Result<(), String>;

/// What a suite found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The kind and the id of the plugin.
    pub plugin: String,
    pub checks: Vec<Check>,
}

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What holds where the check passes, as a sentence.
    pub name: &'static str,
    pub finding: Finding,
}

impl Report {
    fn new(plugin: String) -> Report {
        Report { plugin, checks: Vec::new() }
    }

    async fn check(&mut self, name: &'static str, check: impl Future<Output = Finding>) {
        let finding = match tokio::time::timeout(CHECK_MAX, check).await {
            Ok(finding) => finding,
            Err(_) => Err(format!("it did not end within {} s", CHECK_MAX.as_secs())),
        };
        self.checks.push(Check { name, finding });
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.finding.is_err())
    }

    /// Fails the test that calls it where a check failed, and shows all of them.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(!self.checks.is_empty() && self.failed().next().is_none(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of {}", self.plugin)?;
        for check in &self.checks {
            match &check.finding {
                Ok(()) => writeln!(f, "  passed: {}", check.name)?,
                Err(found) => writeln!(f, "  FAILED: {}: {found}", check.name)?,
            }
        }
        Ok(())
    }
}

/// Turns a condition into a finding.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Finding {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests;
