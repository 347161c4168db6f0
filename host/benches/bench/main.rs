//! `make bench`: what a user would measure, through the public interfaces of the real binary.
//!
//! Each bench is a ratio or a size with a floor. What is compared runs within one round, one after the other; rounds
//! repeat, and the median over them counts. Every run has a sink, a port and folders of its own. The table is printed
//! and written to `target/bench/bench.json`; a floor that is not reached ends with 1. `docs/PERFORMANCE.md` says more.
//!
//! `cargo bench -p postwarm --bench bench -- [NAME...] [--rounds N] [--rows N] [--small | --full] [--list] [--help]`

mod arguments;
mod kafka;
mod machine;
mod needs;
mod peers;
mod process;
mod product;
mod readings;
mod report;
mod round;
mod rows;
mod sinks;
mod stats;
mod table;

use arguments::{Arguments, Extent};
use kafka::Broker;
use needs::Need;
use report::Report;
use round::{Round, Sizes};
use std::process::ExitCode;
use table::{BENCHES, Bench};

const USAGE: &str = "\
make bench BENCH=\"[NAME...] [OPTION...]\"; without a name all run

  --rounds N     rounds of each; 5 where nothing is said, of the long ones every second
  --rows N       recipients of a broadcast, 100000 where nothing is said; scales all else
  --small        some benches with 20000 recipients; what misses its floor by more than 15 % is measured again, five times at most
  --full         all rounds of the long ones too, and 1000000 recipients for p99-get
  --list         the benches, each with its floor and its aim
  --help         this

Ends with 0 where every floor that was measured is reached, with 1 where one is not, with 64 where it was asked for something that it does not
know. What cannot run here is skipped, and counted in the last line.";

/// How often what misses its floor by more than its slack is measured again at the small size, whose runs are a second long.
const AGAIN_MAX: usize = 5;
/// The part of its floor by which a bench may miss it at the small size: as much lies between two runs of a second.
const SMALL_SLACK: f64 = 0.15;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(sinks::fast::ROLE) => return sinks::fast::run(&words[1..]),
        Some(peers::unpipelined::ROLE) => return peers::unpipelined::run(&words[1..]),
        _ => {}
    }
    // `cargo test --benches` passes --test: nothing to measure then.
    if words.iter().any(|word| word == "--test") {
        return ExitCode::SUCCESS;
    }
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{}", USAGE);
        return ExitCode::SUCCESS;
    }
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
    let arguments = match arguments::parse(&words, &[&known[..], &["--list"]].concat()) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("{what}");
            return ExitCode::from(64);
        }
    };
    if arguments.names.iter().any(|name| name == "--list") {
        let sizes = Sizes { rows: arguments.rows, extent: arguments.extent };
        BENCHES.iter().for_each(|bench| println!("{:<18} {:>7} {:>7}  {}", bench.name, bench.floor, bench.aim, bench.what(sizes)));
        return ExitCode::SUCCESS;
    }
    let benches = chosen(&arguments);
    let mut report = measure(&benches, &arguments);
    let (times, slack) = if arguments.extent == Extent::Small { (AGAIN_MAX, SMALL_SLACK) } else { (0, 0.0) };
    for _ in 0..times {
        let missed = report.missed_by_more_than(slack);
        if missed.is_empty() {
            break;
        }
        let names: Vec<&str> = missed.iter().map(|bench| bench.name).collect();
        println!("measured again: {}", names.join(", "));
        report.replace(measure(&missed, &arguments));
    }
    report.show();
    if slack > 0.0 {
        println!("who misses a floor by no more than {:.0} % of it passes at this size", slack * 100.0);
    }
    if report.missed_by_more_than(slack).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(arguments: &Arguments) -> Vec<&'static Bench> {
    let is_named = |bench: &Bench| arguments.names.iter().any(|name| name == bench.name);
    let is_meant = |bench: &Bench| arguments.extent != Extent::Small || bench.is_small;
    BENCHES.iter().filter(|bench| if arguments.names.is_empty() { is_meant(bench) } else { is_named(bench) }).collect()
}

/// All rounds of some benches.
fn measure(benches: &[&'static Bench], arguments: &Arguments) -> Report {
    let mut needs: Vec<Need> = benches.iter().flat_map(|bench| bench.needs).copied().collect();
    needs.sort();
    needs.dedup();
    let unmet: Vec<(Need, String)> = needs.iter().filter_map(|need| Some((*need, need.meet().err()?))).collect();
    let reason = |bench: &Bench| unmet.iter().find(|(need, _)| bench.needs.contains(need)).map(|(_, reason)| reason.clone());
    let sizes = Sizes { rows: arguments.rows, extent: arguments.extent };
    let mut report = Report::new(benches.iter().map(|bench| (*bench, reason(bench))), sizes);
    let broker = needs.contains(&Need::Kafka).then(|| Broker::find().ok()).flatten();
    // Who names a bench wants it in every round.
    let has_long = !arguments.names.is_empty() || arguments.extent == Extent::Full;
    for number in 1..=arguments.rounds {
        report.round(number, &Round::new(sizes, broker.clone()), |bench| number % 2 == 1 || has_long || !bench.is_long);
    }
    report
}
