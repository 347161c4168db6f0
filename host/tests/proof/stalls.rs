//! A process that stands still for a while, and one whose wall clock jumps: sending goes on as if nothing had been.

use crate::broadcast::{Broadcast, site, within};
use crate::check::check;
use crate::process::signal;
use crate::scenario::{Line, Plan};
use crate::trial::targets;
use crate::wall_clock::WallClock;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::{Entry, Fact};
use postwarm_plugin_testkit::sink::script::{Action, Rule, Script, Step};
use std::time::{Duration, Instant};

const DAY_SECS: i64 = 86_400;
/// The wall clock as the email is accepted, as seconds off the right time.
const AT_FIRST: i64 = 40 * DAY_SECS;
/// Where it jumps while messages are refused: by more than an organization gives a message by default.
const AHEAD: i64 = AT_FIRST + 10 * DAY_SECS;
/// Where it jumps while refused messages wait: back each time, as nothing else would bring the instant closer that they wait for.
const JUMPS_BACK: [i64; 3] = [DAY_SECS, -DAY_SECS, -40 * DAY_SECS];
/// Long enough for the process to look at its clock, and short of the time for which a refused message waits.
const BETWEEN_JUMPS: Duration = Duration::from_secs(1);
/// How long a broadcast may take whose messages are refused once and tried again after five seconds.
const JUMPING_MAX: Duration = Duration::from_secs(60);
/// So many times a recipient is refused; as many messages may go in two seconds.
const REFUSALS: usize = 400;

/// SIGSTOP and SIGCONT at random.
pub async fn stops(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (count, recipients, longest_ms) = plan.pick((3, 1_500, 500), (8, 6_000, 2_000), (20, 20_000, 10_000));
    let sink = Sink::start(Script { keep_content: false, ..Script::default() }).await;
    let site = site(&sink, "");
    let postwarm = site.serve();
    let broadcast = Broadcast::begin(&postwarm, recipients).await;
    let mut longest = Duration::ZERO;
    for target in targets(&mut rng, recipients, count) {
        within("the next messages", sink.journal().accepts(target)).await;
        let stall = Duration::from_millis(rng.u64(50..longest_ms));
        signal(&postwarm, "-STOP");
        tokio::time::sleep(stall).await;
        signal(&postwarm, "-CONT");
        longest = longest.max(stall);
        line.faults += 1;
    }
    let found = check(&broadcast.evidence(postwarm, &site, &[&sink]).await);
    line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
    line.expect(found.unknown_listed == 0, || format!("{} messages are in doubt", found.unknown_listed));
    line.add(recipients as u64, found);
    line.note(format!("the longest stop took {longest:.1?}"));
    line
}

/// The wall clock goes to and fro while refused messages wait for their time.
pub async fn jumps(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let (rounds, recipients) = plan.pick((1, 600), (2, 2_000), (10, 10_000));
    for _ in 0..rounds {
        let refused = Rule::new(Step::Rcpt, Action::reply("451 4.3.0 later")).times(REFUSALS);
        let sink = Sink::start(Script { keep_content: false, ..Script::default() }.rule(refused)).await;
        let retry = "[retry]\nschedule = [\"5s\"]\n[limits]\nper_second = 200\n";
        let (site, clock) = WallClock::give(site(&sink, retry));
        let clock = match clock {
            Ok(clock) => clock,
            Err(because) => return Line::skipped(&plan, &because),
        };
        let postwarm = site.serve();
        clock.jump(AT_FIRST);
        let broadcast = Broadcast::begin(&postwarm, recipients).await;
        let began = Instant::now();
        // The others are refused when they are far older, as the clock says.
        sink.journal().wait_for(|entries| refusals(entries) >= REFUSALS / 4).await;
        clock.jump(AHEAD);
        // These wait for an instant far ahead when the clock goes back.
        sink.journal().wait_for(|entries| refusals(entries) >= REFUSALS).await;
        for seconds in JUMPS_BACK {
            clock.jump(seconds);
            tokio::time::sleep(BETWEEN_JUMPS).await;
        }
        line.faults += 2 + JUMPS_BACK.len() as u64;
        broadcast.over(&postwarm).await;
        let took = began.elapsed();
        line.expect(took <= JUMPING_MAX, || format!("a broadcast took {took:.1?}: something waited for a clock that had jumped"));
        // Two jumps may fall between two looks at the clock.
        let saw = site.log().contains("the wall clock was set back");
        line.expect(saw, || "the process never saw its clock set back".to_owned());
        let found = check(&broadcast.evidence(postwarm, &site, &[&sink]).await);
        line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
        line.expect(found.unknown_listed == 0, || format!("{} messages are in doubt", found.unknown_listed));
        line.add(recipients as u64, found);
    }
    line
}

fn refusals(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| matches!(&entry.fact, Fact::Replied(reply) if reply.starts_with("451"))).count()
}
