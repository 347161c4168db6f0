//! Rounds to a table: medians, floors, the noise of the machine.

use crate::machine::{self, Machine};
use crate::runs::{Round, Sample};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// On which side of its floor a figure is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AtLeast,
    AtMost,
}

/// One row of the table.
pub struct Bench {
    pub name: &'static str,
    pub what: &'static str,
    pub kind: Kind,
    pub floor: f64,
    pub aim: f64,
    pub run: fn(&Round) -> Sample,
}

impl Bench {
    fn reaches(&self, value: f64, mark: f64) -> bool {
        match self.kind {
            Kind::AtLeast => value >= mark,
            Kind::AtMost => value <= mark,
        }
    }
}

pub struct Report {
    benches: Vec<&'static Bench>,
    rows: usize,
    rounds: Vec<Value>,
    values: Vec<Vec<f64>>,
}

impl Report {
    pub fn new(benches: Vec<&'static Bench>, rows: usize) -> Report {
        let values = benches.iter().map(|_| Vec::new()).collect();
        Report { benches, rows, rounds: Vec::new(), values }
    }

    /// Runs every bench once and prints what it found.
    pub fn round(&mut self, number: usize, round: &Round) {
        for (bench, values) in self.benches.iter().zip(&mut self.values) {
            let (before, own) = (Machine::now(), machine::cpu_of_ended_children() + machine::cpu_of(std::process::id()));
            let sample = (bench.run)(round);
            let own = machine::cpu_of_ended_children() + machine::cpu_of(std::process::id()) - own;
            let (others, stolen) = before.noise_since(own);
            values.push(sample.value);
            println!(
                "round {number} {:<16} {:>9.2}  {}  others {:.0} %, stolen {:.0} %",
                bench.name,
                sample.value,
                sample.from,
                others * 100.0,
                stolen * 100.0
            );
            self.rounds.push(json!({
                "round": number, "bench": bench.name, "value": sample.value, "from": sample.from, "others": others, "stolen": stolen,
            }));
        }
    }

    /// Prints and writes the table. Fails where a floor is not reached.
    pub fn finish(self) -> ExitCode {
        let mut below = false;
        let mut table = Vec::new();
        println!("\n{:<16} {:>9} {:>9} {:>9} {:>7} {:>7}  what ({} rows)", "bench", "median", "least", "most", "floor", "aim", self.rows);
        for (bench, mut values) in self.benches.iter().zip(self.values) {
            values.sort_by(f64::total_cmp);
            let (Some(least), Some(most)) = (values.first(), values.last()) else { continue };
            let median = values[values.len() / 2];
            let (floor, aim) = (bench.reaches(median, bench.floor), bench.reaches(median, bench.aim));
            below |= !floor;
            let verdict = if aim {
                "reaches its aim"
            } else if floor {
                "reaches its floor"
            } else {
                "MISSES ITS FLOOR"
            };
            println!(
                "{:<16} {median:>9.2} {least:>9.2} {most:>9.2} {:>7} {:>7}  {}: {verdict}",
                bench.name, bench.floor, bench.aim, bench.what
            );
            table.push(json!({
                "bench": bench.name, "what": bench.what, "median": median, "least": least, "most": most, "floor": bench.floor, "aim": bench.aim,
                "floor_reached": floor, "aim_reached": aim,
            }));
        }
        write(&json!({ "rows": self.rows, "table": table, "rounds": self.rounds }));
        if below { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn write(result: &Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("bench.json"), format!("{result:#}\n")));
    match written {
        Ok(()) => println!("written to target/bench/bench.json"),
        Err(error) => println!("target/bench/bench.json cannot be written: {error}"),
    }
}
