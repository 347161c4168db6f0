//! Rounds to a table: medians, floors, the noise of the machine.

use crate::machine;
use crate::round::{Round, Sample, Sizes};
use crate::stats::median;
use crate::table::Bench;
use serde_json::{Value, json};
use std::path::Path;

/// What the rounds of some benches found.
pub struct Report {
    sizes: Sizes,
    rows: Vec<Row>,
    rounds: Vec<Value>,
}

struct Row {
    bench: &'static Bench,
    /// Why it was not measured.
    skipped: Option<String>,
    quiet: Vec<f64>,
    noisy: Vec<f64>,
}

impl Row {
    /// The figures that count: a disturbed round does only where there is no other.
    fn values(&self) -> &[f64] {
        if self.quiet.is_empty() { &self.noisy } else { &self.quiet }
    }

    fn median(&self) -> Option<f64> {
        median(self.values())
    }

    /// Whether it misses its floor by more than this part of it.
    fn misses_by_more_than(&self, slack: f64) -> bool {
        self.median().is_some_and(|value| !self.bench.reaches(value, self.bench.eased(self.bench.floor, slack)))
    }
}

impl Report {
    /// Starts one. Each bench stands with why it is skipped.
    pub fn new(benches: impl IntoIterator<Item = (&'static Bench, Option<String>)>, sizes: Sizes) -> Report {
        let row = |(bench, skipped)| Row { bench, skipped, quiet: Vec::new(), noisy: Vec::new() };
        Report { sizes, rows: benches.into_iter().map(row).collect(), rounds: Vec::new() }
    }

    /// Runs every bench once that `has` chooses, and prints what it found.
    pub fn round(&mut self, number: usize, round: &Round, has: impl Fn(&Bench) -> bool) {
        for row in self.rows.iter_mut().filter(|row| row.skipped.is_none() && has(row.bench)) {
            let Sample { value, from, noise } = (row.bench.run)(round);
            let (others, stolen) = ((noise.others * 100.0).round(), (noise.stolen * 100.0).round());
            let mark = if noise.is_too_much() { "  NOISY" } else { "" };
            println!("round {number} {:<18} {value:>9.2}  {from}  others {others} %, stolen {stolen} %{mark}", row.bench.name);
            if noise.is_too_much() {
                row.noisy.push(value)
            } else {
                row.quiet.push(value)
            }
            self.rounds.push(json!({
                "round": number, "bench": row.bench.name, "value": value, "from": from, "others_percent": others, "stolen_percent": stolen,
                "is_noisy": noise.is_too_much(),
            }));
        }
    }

    /// The benches whose median misses the floor by more than a part of it.
    pub fn missed_by_more_than(&self, slack: f64) -> Vec<&'static Bench> {
        self.rows.iter().filter(|row| row.misses_by_more_than(slack)).map(|row| row.bench).collect()
    }

    /// Takes the rows of a later report in the place of its own.
    pub fn replace(&mut self, later: Report) {
        for row in later.rows {
            if let Some(own) = self.rows.iter_mut().find(|own| own.bench.name == row.bench.name) {
                *own = row;
            }
        }
        self.rounds.extend(later.rounds);
    }

    /// Prints and writes the table.
    pub fn show(&self) {
        println!("\n{}", machine::name());
        println!("{:<18} {:>9} {:>9} {:>9} {:>7} {:>7}  rounds    verdict, what", "bench", "median", "least", "most", "floor", "aim");
        let table: Vec<Value> = self.rows.iter().map(|row| self.show_row(row)).collect();
        let skipped = self.rows.iter().filter(|row| row.median().is_none()).count();
        println!("{} missed their floor, {skipped} were skipped", self.missed_by_more_than(0.0).len());
        write(&json!({ "machine": machine::name(), "rows": self.sizes.rows, "table": table, "rounds": self.rounds }));
    }

    fn show_row(&self, row: &Row) -> Value {
        let Bench { name, floor, aim, .. } = *row.bench;
        let what = row.bench.what(self.sizes);
        let Some(median) = row.median() else {
            let why = row.skipped.as_deref().unwrap_or("no round had it");
            println!("{name:<18} skipped: {why}; {what}");
            return json!({ "bench": name, "what": what, "floor": floor, "aim": aim, "skipped": why });
        };
        let least = row.values().iter().copied().fold(f64::INFINITY, f64::min);
        let most = row.values().iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (floor_reached, aim_reached) = (!row.misses_by_more_than(0.0), row.bench.reaches(median, aim));
        let verdict = match (floor_reached, aim_reached) {
            (_, true) => "aim",
            (true, false) => "floor",
            (false, false) => "MISSES ITS FLOOR",
        };
        let (quiet, noisy) = (row.quiet.len(), row.noisy.len());
        let rounds = if noisy == 0 { quiet.to_string() } else { format!("{quiet}+{noisy} noisy") };
        println!("{name:<18} {median:>9.2} {least:>9.2} {most:>9.2} {floor:>7} {aim:>7}  {rounds:<9} {verdict}: {what}");
        json!({
            "bench": name, "what": what, "median": median, "least": least, "most": most, "floor": floor, "aim": aim,
            "floor_reached": floor_reached, "aim_reached": aim_reached, "quiet_rounds": quiet, "noisy_rounds": noisy,
        })
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
