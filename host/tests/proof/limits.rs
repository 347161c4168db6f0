//! Limits of every kind, counted where it matters: at the sink, in every rolling window.
//!
//! Hours and days are short `windows` here; the same code counts them, and a property test has the true ones with a clock of its own.

use crate::broadcast::{Broadcast, within};
use crate::check::check;
use crate::harness::Site;
use crate::scenario::{Line, Plan};
use crate::servers::client;
use crate::wall_clock::WallClock;
use futures_util::future::join_all;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use postwarm_plugin_testkit::skip::skip;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const DAY_SECS: i64 = 86_400;
/// Of what is allowed, where a message takes at most a fiftieth of the window from its claim to its reply.
const USED_LEAST: f64 = 0.97;

/// At most so many messages in any stretch of this length.
#[derive(Debug, Clone, Copy)]
struct Window {
    messages: usize,
    length: Duration,
}

/// Whom a limit covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Organization,
    /// Of two, which share the recipients.
    Provider,
    /// Of two: the other one has no limit, and gets nothing while this one works.
    Client,
    /// The organization, and its two clients take turns, because the first one goes away.
    TwoClients,
}

const SCOPES: [Scope; 4] = [Scope::Organization, Scope::Provider, Scope::Client, Scope::TwoClients];

/// What a sink saw of one scope.
struct Seen {
    scope: Scope,
    recipients: usize,
    found: crate::check::Found,
    /// When each message was accepted, since the start of the case.
    at: Vec<Duration>,
    /// Stretches in which nothing happened to the process but jumps of its wall clock.
    calm: Vec<(Duration, Duration)>,
    faults: u64,
    without_jumps: Option<String>,
}

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let (length, messages, stretches) = plan.pick((3, 150, 5), (6, 300, 7), (12, 1_200, 9));
    // The longest window is the one that holds in the long run; each of the others holds for a while.
    let windows = [(1, messages), (3, messages / 2), (6, messages / 3)]
        .map(|(parts, messages)| Window { messages, length: Duration::from_secs(length) / parts });
    let recipients = messages * stretches;
    let cases = SCOPES.map(|scope| tokio::task::spawn_blocking(move || Handle::current().block_on(case(scope, windows, recipients))));
    let mut worst_use = f64::INFINITY;
    for seen in join_all(cases).await {
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                line.broken.push(format!("a case could not go on: {error}"));
                continue;
            }
        };
        line.faults += seen.faults;
        for window in windows {
            let most = fullest(&seen.at, window.length);
            line.expect(most <= window.messages, || format!("{:?}: {most} messages within {window:?}", seen.scope));
        }
        let used = used(&seen, windows[0]);
        line.expect(used >= USED_LEAST, || format!("{:?}: only {:.1} % of {:?} were used", seen.scope, 100.0 * used, windows[0]));
        worst_use = worst_use.min(used);
        line.expect(seen.found.duplicates == 0, || format!("{:?}: {} messages came twice", seen.scope, seen.found.duplicates));
        if let Some(because) = &seen.without_jumps {
            skip("the clock jumps of the proof's limits", because);
            line.note(format!("{:?}: without jumps of the clock: {because}", seen.scope));
        }
        line.add(seen.recipients as u64, seen.found);
    }
    line.note(format!("at least {:.1} % of what is allowed were used in the calm stretches", 100.0 * worst_use));
    line
}

/// How many messages the fullest window of this length holds.
fn fullest(at: &[Duration], length: Duration) -> usize {
    let mut end = 0;
    let counts = at.iter().enumerate().map(|(begin, from)| {
        while at.get(end).is_some_and(|at| *at < *from + length) {
            end += 1;
        }
        end - begin
    });
    counts.max().unwrap_or(0)
}

/// Which part of what is allowed went out in calm stretches: a window's worth of messages takes a window at best.
fn used(seen: &Seen, window: Window) -> f64 {
    let is_calm = |from: Duration, to: Duration| seen.calm.iter().any(|&(begin, end)| begin <= from && to <= end);
    let pairs = seen.at.iter().zip(seen.at.iter().skip(window.messages));
    let took: Vec<Duration> = pairs.filter(|&(&from, &to)| is_calm(from, to)).map(|(from, to)| *to - *from).collect();
    let mean = took.iter().map(Duration::as_secs_f64).sum::<f64>() / took.len() as f64;
    window.length.as_secs_f64() / mean
}

async fn case(scope: Scope, windows: [Window; 3], recipients: usize) -> Seen {
    let began = Instant::now();
    let (first, second) = (Sink::start(script()).await, Sink::start(script()).await);
    let (site, clock) = WallClock::give(site(scope, windows, &first, &second));
    let jump = |seconds| {
        if let Ok(clock) = &clock {
            clock.jump(seconds);
        }
    };
    let postwarm = site.serve();
    let counted = if scope == Scope::Provider { "gmail.com" } else { "x.example" };
    postwarm.import(recipients, counted).await;
    let mut promised: Vec<String> = (0..recipients).map(|n| format!("user{n}@{counted}")).collect();
    if scope == Scope::Provider {
        postwarm.import(recipients, "x.example").await;
        promised.extend((0..recipients).map(|n| format!("user{n}@x.example")));
    }
    let recipients_all = promised.len();
    let broadcast = Broadcast::send_to(&postwarm, promised, "Hello").await;
    let accepts = async |count| {
        let both = async {
            while accepted_at(&[&first, &second], counted, began).len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("the next messages", both).await;
    };
    accepts(recipients / 4).await;
    jump(DAY_SECS);
    accepts(recipients / 2).await;
    let killed = began.elapsed();
    postwarm.kill();
    if scope == Scope::TwoClients {
        first.close();
    }
    jump(-DAY_SECS);
    let postwarm = site.serve();
    let serves = began.elapsed();
    accepts(recipients * 3 / 4).await;
    jump(0);
    let found = check(&broadcast.evidence(postwarm, &site, &[&first, &second]).await);
    let at: Vec<Duration> = accepted_at(&[&first, &second], counted, began);
    let last = at.last().copied().unwrap_or_default();
    let calm = vec![(at[0], killed), (serves + windows[0].length, last)];
    let without_jumps = clock.as_ref().err().cloned();
    let faults = 1 + u64::from(scope == Scope::TwoClients) + if clock.is_ok() { 3 } else { 0 };
    Seen { scope, recipients: recipients_all, found, at, calm, faults, without_jumps }
}

fn script() -> Script {
    Script { keep_content: false, ..Script::default() }
}

/// When these sinks accepted mail for this domain, in order.
fn accepted_at(sinks: &[&Sink], domain: &str, began: Instant) -> Vec<Duration> {
    let of_sink = |sink: &&Sink| {
        let started = sink.journal().started().duration_since(began);
        sink.journal().accepted_at_us().into_iter().map(move |(us, to)| (started + Duration::from_micros(us), to))
    };
    let each = sinks.iter().flat_map(of_sink);
    let mut at: Vec<Duration> = each.filter(|(_, to)| to.ends_with(domain)).map(|(at, _)| at).collect();
    at.sort_unstable();
    at
}

fn site(scope: Scope, windows: [Window; 3], first: &Sink, second: &Sink) -> Site {
    let windows = windows.map(|Window { messages, length }| format!("{{ messages = {messages}, per = \"{}ms\" }}", length.as_millis()));
    let windows = format!("windows = [{}]", windows.join(", "));
    let of_organization = match scope {
        Scope::Organization | Scope::TwoClients => format!("[limits]\n{windows}\n"),
        Scope::Provider => format!("[limits]\nprovider.gmail = {{ {windows} }}\n"),
        Scope::Client => String::new(),
    };
    let of_client = if scope == Scope::Client { format!("connections = 4, {windows}") } else { "connections = 4".to_owned() };
    let clients = client("first", first.addr, "", &of_client) + &client("second", second.addr, "", "connections = 4");
    Site::with_organization(&format!("{of_organization}{clients}"))
}
