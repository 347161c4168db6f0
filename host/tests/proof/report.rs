//! The table of a run, as text or as a JSON object a line.

use crate::scenario::{Line, Scenario, Size};
use std::process::ExitCode;
use std::time::Instant;

/// How the lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Table,
    Json,
}

/// What was found so far.
pub struct Report {
    form: Form,
    began: Instant,
    broken: usize,
    skipped: usize,
}

impl Report {
    pub fn new(form: Form, seed: u64, size: Size) -> Report {
        // On standard error, so that the lines can be read by a program.
        eprintln!("seed {seed}, size {size:?}; repeat with: --seed {seed} --size {}", format!("{size:?}").to_lowercase());
        if form == Form::Table {
            println!(
                "{:<16} {:>10} {:>6} {:>5} {:>14} {:>10} {:>14} {:>11} {:>12}",
                "scenario", "recipients", "faults", "lost", "false_accepted", "duplicates", "unknown_listed", "events_lost", "events_twice"
            );
        }
        Report { form, began: Instant::now(), broken: 0, skipped: 0 }
    }

    /// Prints a line at once: a run takes long.
    pub fn add(&mut self, scenario: &Scenario, line: Line) {
        self.broken += usize::from(!line.broken.is_empty());
        self.skipped += usize::from(line.skipped.is_some());
        if let Some(because) = &line.skipped {
            postwarm_plugin_testkit::skip::skip(&format!("proof {}", line.scenario), because);
        }
        match self.form {
            Form::Json => println!("{}", serde_json::to_string(&line).expect("numbers and texts")),
            Form::Table => print(scenario, &line),
        }
    }

    pub fn finish(self) -> ExitCode {
        let seconds = self.began.elapsed().as_secs();
        eprintln!("{seconds} s; {} scenarios broke their promise, {} were skipped", self.broken, self.skipped);
        if self.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn print(scenario: &Scenario, line: &Line) {
    let found = &line.found;
    match &line.skipped {
        Some(because) => println!("{:<16} SKIPPED: {because}", line.scenario),
        None => println!(
            "{:<16} {:>10} {:>6} {:>5} {:>14} {:>10} {:>14} {:>11} {:>12}",
            line.scenario,
            line.recipients,
            line.faults,
            found.lost,
            found.false_accepted,
            found.duplicates,
            found.unknown_listed,
            found.events_lost,
            found.events_twice
        ),
    }
    line.notes.iter().for_each(|note| println!("  {note}"));
    if !line.broken.is_empty() {
        println!("  BROKEN: {}", scenario.promise);
        line.broken.iter().for_each(|words| println!("  - {words}"));
    }
}
