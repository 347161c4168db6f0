//! A Kafka that goes away and comes back while mail is sent; a health service that is killed while it reads.

use crate::broadcast::{Broadcast, site, within};
use crate::check::check;
use crate::harness::{PATIENCE, Postwarm, until};
use crate::own_broker::OwnBroker;
use crate::scenario::{Line, Plan};
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

/// The broker is away three times, each time from the middle of a broadcast to a time after its end.
pub async fn away(plan: Plan) -> Line {
    let broker = match OwnBroker::start() {
        Ok(broker) => broker,
        Err(words) => return Line::skipped(&plan, &words),
    };
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (recipients, down, paused) = plan.pick((500, 1, 2), (4_000, 10, 15), (20_000, 30, 60));
    let sink = Sink::start(Script { keep_content: false, ..Script::default() }).await;
    let site = broker.topics.serve_to(site(&sink, ""));
    let mut postwarm = site.serve();
    let mut over = Vec::new();
    for away in [Away::Stopped, Away::Killed, Away::Paused] {
        let mut broadcast = match over.is_empty() {
            true => Broadcast::begin(&postwarm, recipients).await,
            false => Broadcast::send(&postwarm, recipients).await,
        };
        let target = sink.journal().accepted_count() + rng.usize(1..recipients / 2);
        within("the first messages", sink.journal().accepts(target)).await;
        leave(&broker, away);
        let began = Instant::now();
        // All of it is sent while nobody takes its events.
        broadcast.over(&postwarm).await;
        let sent_after = began.elapsed();
        let length = Duration::from_secs(if matches!(away, Away::Paused) { paused } else { down });
        tokio::time::sleep(length.saturating_sub(began.elapsed())).await;
        come_back(&broker, away);
        let back = Instant::now();
        if matches!(away, Away::Killed) {
            // What was published may not have been noted as published.
            tokio::time::sleep(Duration::from_millis(rng.u64(..500))).await;
            postwarm.kill();
            postwarm = site.serve();
        }
        let settled = broadcast.settle(&postwarm, &postwarm).await;
        line.note(format!(
            "{away:?} for {:.0?}: the rest of the broadcast was sent after {sent_after:.1?}, and health was exact {:.1?} after the return",
            back - began,
            back.elapsed()
        ));
        line.faults += 1;
        over.push((broadcast, settled));
    }
    let code = postwarm.terminate();
    line.expect(code == Some(0), || format!("a stop ended with {code:?}"));
    let told = Told::kafka(&broker.topics).await;
    for (broadcast, settled) in over {
        let found = check(&broadcast.conclude(settled, &told, &[&sink]));
        line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
        line.expect(found.unknown_listed == 0, || format!("{} messages are in doubt", found.unknown_listed));
        line.add(recipients as u64, found);
    }
    let repeated = line.found.repeated;
    line.note(format!("{repeated} records came again with the same id"));
    line
}

fn leave(broker: &OwnBroker, away: Away) {
    match away {
        // The end of a broker takes its time; it is gone when this returns.
        Away::Stopped => broker.stop(),
        Away::Killed => assert!(broker.signal("-KILL")),
        Away::Paused => assert!(broker.signal("-STOP")),
    }
}

fn come_back(broker: &OwnBroker, away: Away) {
    match away {
        Away::Stopped | Away::Killed => broker.start_again(),
        Away::Paused => assert!(broker.signal("-CONT")),
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
