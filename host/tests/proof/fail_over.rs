//! A client that cannot go on hands over to the next one within a second; what is in doubt stays where it is.

use crate::broadcast::{Broadcast, within};
use crate::check::check;
use crate::harness::Site;
use crate::scenario::{Line, Plan};
use crate::servers::client;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::{Action, Rule, Script, Step};
use std::time::{Duration, Instant};

/// From the cause to the first message through the second client.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// Of each phase.
const DEADLINE: Duration = Duration::from_millis(500);
/// So many messages in a row without a reply make a client fail.
const UNKNOWNS: usize = 3;

/// What takes the first server out of the running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It is gone: connections are refused.
    Gone,
    /// It refuses to greet.
    TurnedAway,
    /// It takes the credentials no more.
    Unauthenticated,
    /// It falls silent at this step.
    Silent(Step),
}

const CAUSES: [Cause; 9] = [
    Cause::Gone,
    Cause::TurnedAway,
    Cause::Unauthenticated,
    Cause::Silent(Step::Greeting),
    Cause::Silent(Step::Ehlo),
    Cause::Silent(Step::Auth),
    Cause::Silent(Step::Mail),
    Cause::Silent(Step::Rcpt),
    Cause::Silent(Step::Data),
];

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (rounds, recipients) = plan.pick((1, 60), (1, 300), (10, 1_000));
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        let mut causes = CAUSES;
        rng.shuffle(&mut causes);
        for &cause in &causes[..plan.pick(3, CAUSES.len(), CAUSES.len())] {
            let served = rng.usize(1..recipients / 2);
            let took = hand_over(&mut line, cause, served, recipients).await;
            line.expect(took <= HAND_OVER_MAX, || {
                format!("{cause:?} after {served} messages: {took:?} to the first one through the next client")
            });
            slowest = slowest.max(took);
            line.faults += 1;
        }
        stall_after_the_dot(&mut line, rng.usize(1..recipients / 2), recipients).await;
        line.faults += 1;
    }
    line.note(format!("the slowest hand-over took {slowest:.1?} from the refusal, or from the end of a deadline of {DEADLINE:?}"));
    line
}

/// Takes the first server away after some messages; answers how long it took to the first message through the second one.
async fn hand_over(line: &mut Line, cause: Cause, served: usize, recipients: usize) -> Duration {
    // Every session carries as many messages as are served, so that the next message needs another session.
    let (step, action) = match cause {
        Cause::Gone => (Step::Greeting, Action::Close),
        Cause::TurnedAway => (Step::Greeting, Action::reply("554 5.3.2 no service here")),
        Cause::Unauthenticated => (Step::Auth, Action::reply("535 5.7.8 these credentials are wrong")),
        Cause::Silent(step) => (step, Action::Stall),
    };
    let at_envelope = matches!(step, Step::Mail | Step::Rcpt | Step::Data);
    let rule = Rule::new(step, action).skip(if at_envelope { served } else { 1 });
    let credentials = Some(("user".to_owned(), "secret".to_owned()));
    let first = Sink::start(Script { credentials, ..Script::default() }.rule(rule)).await;
    let second = Sink::start(Script::default()).await;
    let per_session = if at_envelope || cause == Cause::Gone { recipients } else { served };
    let site = site(&first, &second, per_session);
    let postwarm = site.serve();
    let broadcast = Broadcast::begin(&postwarm, recipients).await;
    within("the first server's messages", first.journal().accepts(served)).await;
    let (cause_at, deadline) = match cause {
        Cause::Gone => {
            first.close();
            (Instant::now(), Duration::ZERO)
        }
        Cause::TurnedAway => (seen(&first, 1, |fact| is_reply(fact, "554")).await, Duration::ZERO),
        Cause::Unauthenticated => (seen(&first, 1, |fact| is_reply(fact, "535")).await, Duration::ZERO),
        Cause::Silent(step) => (silent(&first, step, served).await, DEADLINE),
    };
    within("the first message through the second client", second.journal().accepts(1)).await;
    let took = cause_at.elapsed().saturating_sub(deadline);
    let found = check(&broadcast.evidence(postwarm, &site, &[&first, &second]).await);
    line.expect(found.duplicates == 0, || format!("{cause:?} after {served} messages: {} came twice", found.duplicates));
    // A server that goes away may do so between a final dot and its reply.
    let doubts_max = u64::from(cause == Cause::Gone);
    line.expect(found.unknown_listed <= doubts_max, || format!("{cause:?} left {} messages in doubt", found.unknown_listed));
    line.add(recipients as u64, found);
    took
}

/// The server takes messages and falls silent: each is in doubt, and none goes to the next client.
async fn stall_after_the_dot(line: &mut Line, served: usize, recipients: usize) {
    let stall = Rule::new(Step::EndOfData, Action::Stall).skip(served);
    let accepting = Rule::new(Step::EndOfData, Action::Stall.accept_then()).skip(served).times(UNKNOWNS / 2);
    let credentials = Some(("user".to_owned(), "secret".to_owned()));
    let first = Sink::start(Script { credentials, ..Script::default() }.rule(accepting).rule(stall)).await;
    let second = Sink::start(Script::default()).await;
    let site = site(&first, &second, recipients);
    let organization = std::fs::read_to_string(site.config().join("organizations/demo.toml")).unwrap();
    site.organization("demo", &organization.replace("end_of_data = \"60s\"", "end_of_data = \"500ms\""));
    let postwarm = site.serve();
    let broadcast = Broadcast::begin(&postwarm, recipients).await;
    let evidence = broadcast.evidence(postwarm, &site, &[&first, &second]).await;
    let ended = first.journal().count(|entry| matches!(entry.fact, Fact::Content { .. }));
    let doubted: Vec<&str> = evidence.rows.iter().filter(|row| row.state == "unknown").map(|row| row.recipient.as_str()).collect();
    let stalled = ended - served;
    line.expect(stalled >= UNKNOWNS && doubted.len() == stalled, || {
        format!("{stalled} messages had no reply to their final dot, {} are in doubt", doubted.len())
    });
    let moved: Vec<String> = second.journal().accepted().into_iter().filter(|to| doubted.contains(&to.as_str())).collect();
    line.expect(moved.is_empty(), || format!("in doubt, and sent through the next client: {moved:?}"));
    let found = check(&evidence);
    line.expect(found.duplicates == 0, || format!("after a stall behind the dot {} messages came twice", found.duplicates));
    line.add(recipients as u64, found);
}

/// Two clients of one connection each; a session of the first carries so many messages.
fn site(first: &Sink, second: &Sink, per_session: usize) -> Site {
    let deadline = format!("\"{}ms\"", DEADLINE.as_millis());
    let deadlines = ["connect", "greeting", "mail", "rcpt", "data", "content"].map(|phase| format!("{phase} = {deadline}")).join(", ");
    let settings = format!(
        "deadlines = {{ {deadlines}, end_of_data = \"60s\" }}, messages_per_connection_max = {per_session}, \
         username = \"user\", password = {{ env = \"SINK_PASSWORD\" }}, allow_insecure_auth = true"
    );
    let clients = client("first", first.addr, &settings, "connections = 1") + &client("second", second.addr, "", "connections = 1");
    Site::with_organization(&clients).env("SINK_PASSWORD", "secret")
}

/// Waits for the facts of this kind, and answers when they were there.
async fn seen(sink: &Sink, count: usize, is_meant: impl Fn(&Fact) -> bool) -> Instant {
    sink.journal().wait_for(|entries| entries.iter().filter(|entry| is_meant(&entry.fact)).count() >= count).await;
    Instant::now()
}

fn is_reply(fact: &Fact, code: &str) -> bool {
    matches!(fact, Fact::Replied(reply) if reply.starts_with(code))
}

/// When the server fell silent at this step: in its second session, or at the message behind those that it served.
async fn silent(sink: &Sink, step: Step, served: usize) -> Instant {
    match step {
        Step::Greeting => seen(sink, 2, |fact| *fact == Fact::Connected).await,
        Step::Ehlo => seen(sink, 2, |fact| matches!(fact, Fact::Ehlo(_))).await,
        Step::Auth => seen(sink, 2, |fact| matches!(fact, Fact::Auth { .. })).await,
        Step::Mail => seen(sink, served + 1, |fact| matches!(fact, Fact::Mail(_))).await,
        Step::Rcpt => seen(sink, served + 1, |fact| matches!(fact, Fact::Rcpt(_))).await,
        _ => seen(sink, served + 1, |fact| *fact == Fact::Data).await,
    }
}
