//! Each phase of a session, met with each fault, is what docs/RELIABILITY.md says, message by message.

mod table;

use crate::broadcast::Broadcast;
use crate::check::{Evidence, Row, check};
use crate::harness::Site;
use crate::scenario::{Line, Plan};
use crate::servers::{Closed, Deaf, client};
use crate::topics::Told;
use futures_util::{StreamExt as _, stream};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::{Action, Rule, Script, Step, Tls};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use table::{Cell, Class, Fault, Phase};
use tokio::runtime::Handle;

/// Recipients of each broadcast.
const RECIPIENTS: usize = 4;
/// The fault meets the second message of the second broadcast, over a connection that has served the first one.
const SERVED: usize = RECIPIENTS + 1;
/// Cases at a time.
const CASES_AT_ONCE: usize = 8;
/// The deadline of the phase that stalls. All others are long.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long a client may say QUIT.
const QUIT_MAX: Duration = Duration::from_secs(5);
/// What a busy machine may take besides, the waits of the documents included.
const SLACK: Duration = Duration::from_secs(5);
/// Until a client has filled the buffers of the system.
const HELD_UP: Duration = Duration::from_millis(200);
/// Longer than any case.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// More than what is written without a look at the replies.
const LARGE_OCTETS: usize = 950_000;

/// A cell of the table, met by a connection that has served messages, or by one that has not.
#[derive(Debug, Clone, Copy)]
struct Case {
    cell: Cell,
    served: bool,
}

/// What one case came to.
struct Came {
    case: Case,
    class: Class,
    took: Duration,
    evidence: Vec<Evidence>,
    /// Rows whose reply is not that of their own message.
    credited: Vec<Row>,
}

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let mut all: Vec<Case> = table::read().into_iter().flat_map(cases).collect();
    plan.rng().shuffle(&mut all);
    all.truncate(plan.pick(24, usize::MAX, usize::MAX));
    let running = stream::iter(all).map(|case| async move {
        let on_own_thread = tokio::task::spawn_blocking(move || Handle::current().block_on(run_case(case)));
        (case, on_own_thread.await)
    });
    let mut running = running.buffer_unordered(CASES_AT_ONCE);
    let mut slowest = Duration::ZERO;
    while let Some((case, came)) = running.next().await {
        line.faults += 1;
        let Ok(came) = came else {
            line.broken.push(format!("{case:?}: it could not go on"));
            continue;
        };
        slowest = slowest.max(came.took);
        judge(&mut line, came);
    }
    line.note(format!("the slowest case took {slowest:.1?}; a phase that stalls has {DEADLINE:?}"));
    line
}

fn cases(cell: Cell) -> Vec<Case> {
    let each: &[bool] = match cell.phase {
        Phase::Connect | Phase::Greeting | Phase::Ehlo | Phase::StartTls | Phase::Handshake | Phase::Auth => &[false],
        Phase::Quit => &[true],
        // Buffers have grown behind a large message, and would take another one whole.
        Phase::Body => &[false],
        _ => &[false, true],
    };
    each.iter().map(|&served| Case { cell, served }).collect()
}

fn judge(line: &mut Line, came: Came) {
    let Case { cell: Cell { phase, fault, class }, served } = came.case;
    let place = || format!("{phase:?}, {fault:?}, {}", if served { "after others" } else { "first of its session" });
    let is_as_said = came.class == class || (class == Class::Again && came.class == Class::NextClient);
    line.expect(is_as_said, || format!("{}: {}; the document says {}", place(), came.class.word(), class.word()));
    line.expect(came.credited.is_empty(), || format!("{}: the reply of another message: {:?}", place(), came.credited));
    let (least, most) = bounds(phase, fault);
    line.expect((least..=most).contains(&came.took), || format!("{}: took {:?}, not {least:?} to {most:?}", place(), came.took));
    // A server that takes a message and says that it did not gets it again.
    let asked_twice = phase == Phase::AcceptedDot && came.class == Class::Deferred;
    for evidence in came.evidence {
        let hit = evidence.rows.iter().filter(|row| ["failed", "unknown"].contains(&row.state.as_str())).count();
        line.expect(hit <= 1, || format!("{}: {hit} messages paid for one fault", place()));
        let mut found = check(&evidence);
        if asked_twice && found.duplicates == 1 {
            found.words.retain(|words| !words.contains("was accepted 2 times"));
            found.duplicates = 0;
        }
        let duplicates = found.duplicates;
        line.expect(duplicates == 0, || format!("{}: {duplicates} messages came twice", place()));
        let told = line.broken.len();
        line.add(RECIPIENTS as u64, found);
        line.broken[told..].iter_mut().for_each(|words| *words = format!("{}: {words}", place()));
    }
}

/// How long a case may take, and must where a deadline ends it.
fn bounds(phase: Phase, fault: Fault) -> (Duration, Duration) {
    match (phase, fault) {
        (Phase::Quit, _) => (Duration::ZERO, QUIT_MAX + SLACK),
        // Other clients get the mail of a server that does not greet within 700 ms.
        (Phase::Connect | Phase::Greeting, Fault::Stall) => (Duration::from_millis(600), DEADLINE + SLACK),
        (_, Fault::Stall) => (DEADLINE - Duration::from_millis(100), DEADLINE + SLACK),
        _ => (Duration::ZERO, SLACK),
    }
}

async fn run_case(case: Case) -> Came {
    let cell = case.cell;
    let (closed, deaf) = (Closed::bind(), Deaf::listen().await);
    let first = if cell.phase == Phase::Connect { None } else { Some(Sink::start(script(case)).await) };
    let address = match (&first, cell.fault) {
        (Some(sink), _) => sink.addr,
        (None, Fault::Stall) => deaf.addr,
        (None, _) => closed.addr,
    };
    let second = Sink::start(own_replies(Script::default())).await;
    let site = site(cell, address, first.as_ref(), &second);
    let postwarm = site.serve();
    postwarm.import(RECIPIENTS, "x.example").await;
    let body = if cell.phase == Phase::Body { "äöü, all work and no play.\n".repeat(LARGE_OCTETS / 31) } else { "Hello".to_owned() };
    let (mut broadcasts, mut shown) = (Vec::new(), Vec::new());
    let mut took = Duration::ZERO;
    let broadcasts_before = usize::from(case.served);
    for _ in 0..=broadcasts_before {
        let began = Instant::now();
        let mut broadcast = Broadcast::send_body(&postwarm, RECIPIENTS, &body).await;
        broadcast.over(&postwarm).await;
        took = began.elapsed();
        shown.push(broadcast.settle(&postwarm, &postwarm).await);
        broadcasts.push(broadcast);
        if let (Phase::Quit, Some(first)) = (cell.phase, &first) {
            first.journal().wait_for(|entries| entries.iter().any(|entry| entry.fact == Fact::Command("QUIT".to_owned()))).await;
        }
    }
    assert_eq!(postwarm.terminate(), Some(0), "the exit code of a stop");
    let told = Told::embedded(&site);
    let sinks: Vec<&Sink> = first.iter().chain([&second]).collect();
    let mut evidence: Vec<Evidence> =
        broadcasts.into_iter().zip(shown).map(|(broadcast, shown)| broadcast.conclude(shown, &told, &sinks)).collect();
    if cell.class == Class::Failed {
        evidence.iter_mut().for_each(|evidence| evidence.may_end.push("failed"));
    }
    let class = class(&evidence, first.as_ref(), &second);
    let rows = evidence.iter().flat_map(|evidence| &evidence.rows).filter(|row| row.state != "unknown");
    let credited = rows.filter(|row| !is_own(row, cell)).cloned().collect();
    Came { case, class, took, evidence, credited }
}

/// A reply of these servers names the recipient wherever it answers one message.
fn is_own(row: &Row, cell: Cell) -> bool {
    let reply = row.reply.as_deref().unwrap_or_default();
    reply.contains(&row.recipient) || (row.state == "failed" && cell.phase == Phase::Mail)
}

fn class(evidence: &[Evidence], first: Option<&Sink>, second: &Sink) -> Class {
    let told = |state: &str| evidence.iter().flat_map(|evidence| &evidence.events).any(|change| change.state == state);
    let promised: usize = evidence.iter().map(|evidence| evidence.promised.len()).sum();
    let tried = first.map_or(0, |sink| sink.journal().count(|entry| matches!(entry.fact, Fact::Mail(_))));
    if told("unknown") {
        Class::Unknown
    } else if told("failed") {
        Class::Failed
    } else if told("deferred") {
        Class::Deferred
    } else if second.journal().accepted_count() > 0 {
        Class::NextClient
    } else if tried > promised {
        Class::Again
    } else {
        Class::Nothing
    }
}

fn own_replies(script: Script) -> Script {
    script.on(Step::EndOfData, Action::reply("250 2.0.0 took the mail for {to}"))
}

/// A server that behaves but for one fault.
fn script(case: Case) -> Script {
    let cell = case.cell;
    let action = action(cell);
    let script = Script {
        tls: if matches!(cell.phase, Phase::StartTls | Phase::Handshake) { Tls::StartTls } else { Tls::None },
        credentials: (cell.phase == Phase::Auth).then(|| ("user".to_owned(), "secret".to_owned())),
        // So that a client of a server that does not read has to wait.
        small_buffers: cell.phase == Phase::Body,
        ..Script::default()
    };
    let rule = |step, action: Action| Rule::new(step, action);
    let once = |step, action| rule(step, action).times(1).skip(if case.served { SERVED } else { 0 });
    let rule = match cell.phase {
        Phase::Connect => return script,
        Phase::Greeting => rule(Step::Greeting, action),
        Phase::Ehlo => rule(Step::Ehlo, action),
        Phase::StartTls => rule(Step::StartTls, action),
        Phase::Handshake => rule(Step::Handshake, action),
        Phase::Auth => rule(Step::Auth, action),
        Phase::Mail => once(Step::Mail, action),
        Phase::Rcpt => once(Step::Rcpt, action),
        Phase::Data => once(Step::Data, action),
        // The client is held up within the body, and not yet at its end.
        Phase::Body if cell.fault == Fault::Stall => once(Step::Content, action.after_deafness(FOR_EVER)),
        Phase::Body => once(Step::Content, action.after_deafness(HELD_UP)),
        Phase::Dot => once(Step::EndOfData, action),
        Phase::AcceptedDot => once(Step::EndOfData, action.accept_then()),
        Phase::Quit => rule(Step::Quit, action),
    };
    own_replies(script.rule(rule))
}

fn action(cell: Cell) -> Action {
    let refusal = match cell.phase {
        Phase::Greeting => "554 5.3.2 no service here",
        Phase::Ehlo | Phase::StartTls | Phase::Handshake | Phase::Quit => "502 5.5.1 not here",
        Phase::Auth => "535 5.7.8 wrong",
        Phase::Mail => "552 5.3.4 too large",
        _ => "550 5.1.1 no {to} here",
    };
    match cell.fault {
        // In the middle of a body nobody waits for a reply, and the server would read on.
        Fault::Defer if cell.phase == Phase::Body => Action::ReplyThenClose("451 4.3.0 not now".to_owned()),
        Fault::Refuse if cell.phase == Phase::Body => Action::ReplyThenClose(refusal.to_owned()),
        Fault::Defer => Action::reply("451 4.3.0 {to} not now"),
        Fault::Refuse => Action::reply(refusal),
        Fault::Leave => Action::ReplyThenClose("421 4.3.2 closing".to_owned()),
        Fault::Close => Action::Close,
        Fault::Half => Action::RawThenClose(b"25".to_vec()),
        Fault::Stall => Action::Stall,
        Fault::Garbage => Action::RawThenClose(b"HTTP/1.1 400 Bad Request\r\n".to_vec()),
        Fault::Endless => Action::Endless,
    }
}

/// The first client has the fault, the second one none.
fn site(cell: Cell, address: SocketAddr, first: Option<&Sink>, second: &Sink) -> Site {
    let name = match cell.phase {
        Phase::Connect | Phase::Handshake => "connect",
        Phase::Greeting | Phase::Ehlo | Phase::StartTls | Phase::Auth => "greeting",
        Phase::Mail => "mail",
        Phase::Rcpt => "rcpt",
        Phase::Data => "data",
        Phase::Body => "content",
        Phase::Dot | Phase::AcceptedDot => "end_of_data",
        Phase::Quit => "",
    };
    // A client that writes a body reads again when it is through, so that an endless reply stalls it too.
    let stalls = cell.fault == Fault::Stall || (cell.phase, cell.fault) == (Phase::Body, Fault::Endless);
    let is_short = |deadline: &str| stalls && deadline == name;
    let deadlines = ["connect", "greeting", "mail", "rcpt", "data", "content", "end_of_data"]
        .map(|deadline| format!("{deadline} = \"{}\"", if is_short(deadline) { "1s" } else { "60s" }))
        .join(", ");
    let mut settings = format!("deadlines = {{ {deadlines} }}");
    if cell.phase == Phase::Quit {
        settings.push_str(", idle_max = \"200ms\"");
    }
    if cell.phase == Phase::Auth {
        settings.push_str(", username = \"user\", password = { env = \"SINK_PASSWORD\" }, allow_insecure_auth = true");
    }
    let site = Site::with_organization("").env("SINK_PASSWORD", "secret");
    if let (Phase::StartTls | Phase::Handshake, Some(first)) = (cell.phase, first) {
        site.write("ca.pem", first.ca_pem());
        settings.push_str(&format!(", tls = \"starttls\", tls_ca_file = {:?}", site.config().join("ca.pem")));
    }
    let retry = "[retry]\nschedule = [\"300ms\"]\njitter = 0\n";
    let clients = client("first", address, &settings, "connections = 1") + &client("second", second.addr, "", "connections = 1");
    site.organization("demo", &format!("from_domains = [\"acme.example\"]\ndevelopment = true\n{retry}{clients}"));
    site
}
