//! Steady load: what a process holds does not grow.

use crate::broadcast::site;
use crate::harness::{Postwarm, until};
use crate::process::{Usage, usage};
use crate::scenario::{Line, Plan};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::{Action, Rule, Script, Step};
use serde_json::json;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Recipients of each email; one of them is refused.
const RECIPIENTS: usize = 100;
/// An email every so often.
const EVERY: Duration = Duration::from_secs(1);
/// What memory may grow by from the second third of the time to the last: caches fill slowly.
const GROWTH_MAX_KIB: u64 = 8 * 1024;
const FILES_MORE_MAX: u64 = 20;
const THREADS_MORE_MAX: u64 = 4;
/// Commits of a few tenths of a second, in which the relay has come by.
const OUTBOX_ROWS_MAX: u64 = 20;

/// One look at the process.
struct Look {
    usage: Usage,
    outbox_rows: u64,
}

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let seconds = plan.minutes.map_or(plan.pick(9, 60, 300), |minutes| minutes * 60);
    let refused = Rule::new(Step::Rcpt, Action::reply("550 5.1.1 no such user")).recipient("user7@");
    let sink = Sink::start(Script { keep_content: false, ..Script::default() }.rule(refused)).await;
    let site = site(&sink, "");
    let postwarm = site.serve();
    postwarm.import(RECIPIENTS, "x.example").await;
    let began = Instant::now();
    let (mut looks, mut emails) = (Vec::new(), 0_u32);
    while began.elapsed() < Duration::from_secs(seconds) {
        postwarm.send("Hello").await;
        emails += 1;
        // Load is steady: a slow moment is made up for.
        tokio::time::sleep((EVERY * emails).saturating_sub(began.elapsed())).await;
        let look = Look { usage: usage(&postwarm), outbox_rows: outbox_rows(&postwarm).await };
        if emails % 60 == 0 {
            eprintln!(
                "minute {}: {} MB, {} files, {} threads, {} rows in the outbox, {} messages",
                emails / 60,
                look.usage.resident_kib / 1024,
                look.usage.files,
                look.usage.threads,
                look.outbox_rows,
                sink.journal().accepted_count()
            );
        }
        looks.push(look);
    }
    let (earlier, later) = looks[looks.len() / 3..].split_at(looks.len() / 3);
    for (what, figure, more_max) in [
        ("KiB of memory", (|look| look.usage.resident_kib) as fn(&Look) -> u64, GROWTH_MAX_KIB),
        ("files", |look| look.usage.files, FILES_MORE_MAX),
        ("threads", |look| look.usage.threads, THREADS_MORE_MAX),
        ("rows in the outbox", |look| look.outbox_rows, OUTBOX_ROWS_MAX),
    ] {
        let (before, after) = (median(earlier, figure), median(later, figure));
        line.expect(after <= before + more_max, || format!("{what}: {before} in the second third of the time, {after} in the last"));
        line.note(format!("{what}: {before} in the second third of the time, {after} in the last"));
    }
    let messages = u64::from(emails) * RECIPIENTS as u64;
    line.recipients = messages;
    conclude(&mut line, &postwarm, &sink, emails).await;
    assert_eq!(postwarm.terminate(), Some(0), "the exit code of a stop");
    line
}

/// Every email is over, at both services, and every recipient is in its state.
async fn conclude(line: &mut Line, postwarm: &Postwarm, sink: &Sink, emails: u32) {
    let (all, sent_each) = (i64::from(emails), RECIPIENTS as i64 - 1);
    let is_over = async || {
        let (_, list) = postwarm.get("/emails?limit=10000").await;
        let count = |state: &str| list.as_array().unwrap().iter().map(|email| email["counts"][state].as_i64().unwrap()).sum::<i64>();
        let counts = (count("sent"), count("failed"));
        ((counts == (all * sent_each, all)).then_some(()), json!([counts.0, counts.1]))
    };
    until("every email to end, with one refusal each", is_over).await;
    let health = async || {
        let (_, stats) = postwarm.get("/all_mail_stats?limit=10000").await;
        let sum = |figure: &str| stats.as_object().unwrap().values().map(|of| of[figure].as_i64().unwrap()).sum::<i64>();
        let figures = (sum("recipients"), sum("bounced"));
        ((figures == (all * RECIPIENTS as i64, all)).then_some(()), json!([figures.0, figures.1]))
    };
    until("health to count all of it", health).await;
    let accepted = sink.journal().accepted_messages();
    let distinct: HashSet<_> = accepted.iter().collect();
    line.found.duplicates = (accepted.len() - distinct.len()) as u64;
    line.found.false_accepted = ((all * sent_each) as u64).saturating_sub(distinct.len() as u64);
    line.expect(accepted.len() as i64 == all * sent_each && distinct.len() == accepted.len(), || {
        format!("{} messages were accepted, {} distinct ones; {} are shown as sent", accepted.len(), distinct.len(), all * sent_each)
    });
}

async fn outbox_rows(postwarm: &Postwarm) -> u64 {
    let text = postwarm.client.get(format!("{}/metrics", postwarm.warmup)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("postwarm_outbox_rows "));
    line.and_then(|rows| rows.parse::<f64>().ok()).unwrap_or_default() as u64
}

fn median(looks: &[Look], figure: fn(&Look) -> u64) -> u64 {
    let mut figures: Vec<u64> = looks.iter().map(figure).collect();
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
