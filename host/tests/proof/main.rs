//! `make proof`: breaks the real binary and what it depends on, and counts what was lost.
//!
//! Scenarios run one after another, each with folders, ports and a sink of its own, through public interfaces only. Each
//! prints a line; a promise that is broken is told in words below it, and ends with 1. Every random choice comes from the
//! seed that is printed first.
//!
//! `cargo test --release -p postwarm --test proof -- [SCENARIO...] [--seed N] [--size small|usual|full] [--minutes N] [--list] [--json] [--help]`
#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on fails where it stands, and the others go on")]

mod arguments;
mod broadcast;
mod check;
#[expect(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../harness/mod.rs"]
mod harness;
mod own_broker;
mod process;
mod report;
mod scenario;
mod servers;
mod topics;
mod trial;
mod volume;
mod wall_clock;

// A scenario each.
mod broker;
mod checker;
mod fail_over;
mod full_disk;
mod hostile;
mod kills;
mod limits;
mod phases;
mod power_loss;
mod smuggling;
mod soak;
mod stalls;
mod stops;

use arguments::Arguments;
use report::Report;
use scenario::{Plan, Scenario, scenario};
use std::process::ExitCode;

/// Every scenario, in the order in which they run.
const SCENARIOS: &[Scenario] = &[
    scenario!("checker", "The checker itself catches what is lost, false, doubled, unlisted or untold.", checker::run),
    scenario!("kills", "kill -9 loses nothing and doubles nothing; in doubt, and listed, is only what may have left.", kills::hold),
    scenario!("resend", "With on_unknown = \"resend\" a message comes twice only where it was listed as unknown first.", kills::resend),
    scenario!("stops", "SIGTERM leaves nothing in doubt, doubles nothing, and ends within 15 s.", stops::answered),
    scenario!("stalled-stops", "SIGTERM doubts only messages whose final dot has no reply when drain_max ends.", stops::stalled),
    scenario!(
        "power-loss",
        "What was acknowledged survives a power loss; at most 512 messages are in doubt, each listed.",
        power_loss::run
    ),
    scenario!("phases", "Each fault of a server in each phase becomes what the document's table says, and nothing hangs.", phases::run),
    scenario!(
        "smuggling",
        "No content that REST takes is more than one message, to the strictest server or the most lenient.",
        smuggling::contents
    ),
    scenario!("starttls", "Nothing that is said in clear behind the reply to STARTTLS is taken.", smuggling::starttls),
    scenario!("fail-over", "A client that cannot go on hands over within a second; what is in doubt never moves.", fail_over::run),
    scenario!("limits", "No rolling window ever holds more than its limit, and what is allowed is used.", limits::run),
    scenario!("stalls", "A process that stands still for a while loses nothing and doubles nothing.", stalls::stops),
    scenario!("clock-jumps", "A wall clock that jumps by days loses nothing, doubles nothing and holds nothing up.", stalls::jumps),
    scenario!("full-disk", "What was acknowledged outlives a full disk; the rest is refused, and all goes on with room.", full_disk::run),
    scenario!("hostile-clients", "Hostile clients hold up no others, and do not make the process grow.", hostile::run),
    scenario!("soak", "Under steady load nothing grows: memory, files, threads, outbox.", soak::run),
    scenario!("broker", "While Kafka is away sending goes on; no event is lost and none applied twice.", broker::away),
    scenario!("health-kills", "Killed while it reads, health counts every change once.", broker::health_kills),
];

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1), SCENARIOS) {
        Ok(arguments) => arguments,
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::from(64);
        }
    };
    if arguments.help {
        println!("{}", arguments::USAGE);
        return ExitCode::SUCCESS;
    }
    if arguments.list {
        SCENARIOS.iter().for_each(|scenario| println!("{:<16} {}", scenario.name, scenario.promise));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    let mut report = Report::new(arguments.form, arguments.seed, arguments.size);
    for scenario in arguments.chosen(SCENARIOS) {
        let plan = Plan { minutes: arguments.minutes, ..Plan::new(scenario.name, arguments.seed, arguments.size) };
        report.add(scenario, scenario::run(&runtime, scenario, plan));
    }
    report.finish()
}
