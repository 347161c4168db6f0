//! `make bench`: what a user would measure, through the public interfaces of the real binary.
//!
//! Each bench is a ratio or a size with a floor. What is compared runs within one round, one after the other; rounds
//! repeat, and the median over them counts. Every run has a sink, a port and folders of its own. The table is printed
//! and written to `target/bench/bench.json`; a floor that is not reached ends with 1.
//!
//! `cargo bench -p postwarm --bench bench -- [NAME...] [--rounds N] [--rows N] [--list]`

mod machine;
mod peers;
mod product;
mod report;
mod runs;

use report::{Bench, Kind, Report};
use std::process::ExitCode;

const BENCHES: &[Bench] = &[
    Bench {
        name: "broadcast",
        what: "broadcast with state and events, against smtp-source -d",
        kind: Kind::AtLeast,
        floor: 1.15,
        aim: 1.4,
        run: runs::broadcast,
    },
    Bench { name: "cpu", what: "CPU of a message, against smtp-source's own", kind: Kind::AtMost, floor: 0.8, aim: 0.6, run: runs::cpu },
    Bench { name: "import", what: "users imported a second (thousands)", kind: Kind::AtLeast, floor: 100.0, aim: 250.0, run: runs::import },
    Bench {
        name: "memory",
        what: "peak resident memory of a broadcast in MB",
        kind: Kind::AtMost,
        floor: 96.0,
        aim: 64.0,
        run: runs::memory,
    },
    Bench {
        name: "memory-million",
        what: "peak resident memory of a broadcast to 1,000,000 in MB",
        kind: Kind::AtMost,
        floor: 128.0,
        aim: 80.0,
        run: runs::memory_of_a_million,
    },
    Bench {
        name: "size-million",
        what: "rate of a broadcast to 1,000,000, against one to 10,000",
        kind: Kind::AtLeast,
        floor: 0.9,
        aim: 1.0,
        run: runs::rate_of_a_million,
    },
];

/// Recipients of a broadcast where the bench does not say another number.
const ROWS: usize = 100_000;
const ROUNDS: usize = 5;

struct Arguments {
    names: Vec<String>,
    rounds: usize,
    rows: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` passes --test: nothing to measure then.
    if arguments.iter().any(|a| a == "--test") {
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|a| a == "--list") {
        BENCHES.iter().for_each(|bench| println!("{:<16} {}", bench.name, bench.what));
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(&arguments) {
        Ok(arguments) => arguments,
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::from(64);
        }
    };
    if peers::program("smtp-sink").is_none() || peers::program("smtp-source").is_none() {
        println!("skipped: bench because smtp-sink and smtp-source are not installed (Debian: apt-get install postfix)");
        return ExitCode::SUCCESS;
    }
    let chosen = |bench: &&Bench| arguments.names.is_empty() || arguments.names.iter().any(|name| name == bench.name);
    let mut report = Report::new(BENCHES.iter().filter(chosen).collect(), arguments.rows);
    for round in 1..=arguments.rounds {
        report.round(round, &runs::Round::new(arguments.rows));
    }
    report.finish()
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments { names: Vec::new(), rounds: ROUNDS, rows: ROWS };
    let mut rest = arguments.iter().filter(|a| *a != "--bench");
    while let Some(argument) = rest.next() {
        let mut number = || rest.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or_else(|| format!("{argument} needs a number"));
        match argument.as_str() {
            "--rounds" => parsed.rounds = number()?,
            "--rows" => parsed.rows = number()?,
            name if BENCHES.iter().any(|bench| bench.name == name) => parsed.names.push(name.to_owned()),
            other => return Err(format!("there is no bench `{other}`; --list names them")),
        }
    }
    Ok(parsed)
}
