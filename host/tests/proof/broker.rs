//! A Kafka that goes away and comes back while mail is sent, and a process that is killed then; a health service that is killed while it reads.

use crate::broadcast::{Broadcast, site, within};
use crate::check::{Health, Row, check};
use crate::harness::{PATIENCE, Postwarm, Site, until};
use crate::own_broker::OwnBroker;
use crate::scenario::{Line, Plan, Size};
use crate::topics::Told;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::json;
use std::time::{Duration, Instant};

/// How the broker goes away.
#[derive(Debug, Clone, Copy)]
enum Away {
    Stopped,
    Killed,
    /// Its connections stay open, and nothing is answered.
    Paused,
}

/// The broker is away again and again, each time from the middle of a broadcast to a time after its end and that of a second one.
pub async fn away(plan: Plan) -> Line {
    let broker = match OwnBroker::start() {
        Ok(broker) => broker,
        Err(words) => return Line::skipped(&plan, &words),
    };
    let mut line = Line::new(&plan);
    let (recipients, down, paused) = plan.pick((500, 1, 1), (4_000, 10, 15), (20_000, 30, 60));
    let outages: &[(Away, u64)] = match plan.size {
        // A broker that was killed takes ten seconds to come back.
        Size::Small => &[(Away::Paused, paused)],
        Size::Usual | Size::Full => &[(Away::Stopped, down), (Away::Killed, down), (Away::Paused, paused)],
    };
    let sink = Sink::start(Script { keep_content: false, ..Script::default() }).await;
    let site = broker.topics.serve_to(site(&sink, ""));
    let postwarm = site.serve();
    let warm_up = Broadcast::begin(&postwarm, recipients).await;
    let mut outage = Outage { rng: plan.rng(), broker, sink, site, recipients, over: Vec::new() };
    outage.settle(vec![warm_up], &postwarm).await;
    let mut postwarm = Some(postwarm);
    for (away, seconds) in outages {
        let running = postwarm.take().expect("it runs between outages");
        postwarm = Some(outage.one(*away, Duration::from_secs(*seconds), running, &mut line).await);
    }
    let code = postwarm.and_then(Postwarm::terminate);
    line.expect(code == Some(0), || format!("a stop ended with {code:?}"));
    let told = Told::kafka(&outage.broker.topics).await;
    for (broadcast, settled) in outage.over {
        let found = check(&broadcast.conclude(settled, &told, &[&outage.sink]));
        line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
        line.expect(found.unknown_listed == 0, || format!("{} messages are in doubt", found.unknown_listed));
        line.add(recipients as u64, found);
    }
    let repeated = line.found.repeated;
    line.note(format!("{repeated} records came again with the same id"));
    line
}

/// What the outages of a run share.
struct Outage {
    rng: fastrand::Rng,
    broker: OwnBroker,
    sink: Sink,
    site: Site,
    recipients: usize,
    over: Vec<(Broadcast, Settled)>,
}

type Settled = (Vec<Row>, Option<Health>);

impl Outage {
    async fn one(&mut self, away: Away, least: Duration, postwarm: Postwarm, line: &mut Line) -> Postwarm {
        let under_way = Broadcast::send(&postwarm, self.recipients).await;
        let target = self.sink.journal().accepted_count() + self.rng.usize(1..self.recipients / 2);
        within("the first messages", self.sink.journal().accepts(target)).await;
        let began = Instant::now();
        leave(&self.broker, away);
        let accepted_while_away = Broadcast::send(&postwarm, self.recipients).await;
        // All of both is sent while nobody takes its events.
        under_way.over(&postwarm).await;
        accepted_while_away.over(&postwarm).await;
        let sent_after = began.elapsed();
        tokio::time::sleep(least.saturating_sub(began.elapsed())).await;
        come_back(&self.broker, away);
        let back = Instant::now();
        // What was published may not have been noted as published.
        tokio::time::sleep(Duration::from_millis(self.rng.u64(..500))).await;
        postwarm.kill();
        let postwarm = self.site.serve();
        self.settle(vec![under_way, accepted_while_away], &postwarm).await;
        line.faults += 1;
        line.note(format!(
            "{away:?}, back after {:.1?}: two broadcasts were sent after {sent_after:.1?}; health was exact {:.1?} after the return",
            back - began,
            back.elapsed()
        ));
        postwarm
    }

    /// Waits until health knows all of them.
    async fn settle(&mut self, broadcasts: Vec<Broadcast>, postwarm: &Postwarm) {
        for mut broadcast in broadcasts {
            let settled = broadcast.settle(postwarm, postwarm).await;
            self.over.push((broadcast, settled));
        }
    }
}

fn leave(broker: &OwnBroker, away: Away) {
    let signal = match away {
        Away::Stopped => "-TERM",
        Away::Killed => "-KILL",
        Away::Paused => "-STOP",
    };
    assert!(broker.signal(signal), "the broker runs");
}

fn come_back(broker: &OwnBroker, away: Away) {
    match away {
        Away::Stopped => {
            broker.stop();
            broker.start_again();
        }
        Away::Killed => broker.start_again(),
        Away::Paused => assert!(broker.signal("-CONT"), "the broker is paused"),
    }
}

/// A health service of its own process is killed again and again while it reads what another one publishes.
pub async fn health_kills(plan: Plan) -> Line {
    let broker = match OwnBroker::start() {
        Ok(broker) => broker,
        Err(words) => return Line::skipped(&plan, &words),
    };
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (recipients, kills) = plan.pick((1_000, 3), (10_000, 20), (50_000, 20));
    // Ten connections send some 500 a second, so that every kill meets a broadcast under way.
    let script = Script { keep_content: false, reply_delay: Duration::from_millis(20), ..Script::default() };
    let sink = Sink::start(script).await;
    let site = broker.topics.serve_to(site(&sink, ""));
    let warmup = site.serve_as(&["serve", "warmup"]);
    let mut health = site.serve_as(&["serve", "health"]);
    let mut broadcast = Broadcast::begin(&warmup, recipients).await;
    let span = recipients / kills;
    let mut applied = 0;
    for nth in 0..kills {
        within("messages", sink.journal().accepts(nth * span + rng.usize(..span / 2))).await;
        applied = reads_on(&health, broadcast.email, applied).await;
        tokio::time::sleep(Duration::from_micros(rng.u64(..5_000))).await;
        health.kill();
        health = site.serve_as(&["serve", "health"]);
        line.faults += 1;
    }
    let sent = sink.journal().accepted_count();
    line.note(format!("{sent} of {recipients} were sent at the last kill"));
    let settled = broadcast.settle(&warmup, &health).await;
    for (service, code) in [("health", health.terminate()), ("warmup", warmup.terminate())] {
        line.expect(code == Some(0), || format!("{service} ended with {code:?}"));
    }
    let found = check(&broadcast.conclude(settled, &Told::kafka(&broker.topics).await, &[&sink]));
    line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
    line.add(recipients as u64, found);
    line
}

/// Waits until health has applied more than before; answers how much.
async fn reads_on(health: &Postwarm, email: i64, before: i64) -> i64 {
    until(&format!("health to read on within {PATIENCE:?}"), async || {
        let (_, stats) = health.get(&format!("/mail_stats?email_id={email}")).await;
        let applied = stats["unknown"].as_i64().unwrap_or(0);
        ((applied > before).then_some(applied), json!({"before": before, "stats": stats}))
    })
    .await
}
