//! kill -9 in the middle of broadcasts: at any moment, and between a final dot and its reply.

use crate::check::check;
use crate::scenario::{Line, Plan};
use crate::trial::{CALLS, CONNECTIONS, Moment, SENDING_ROWS_MAX, Trial, targets};
use std::time::Duration;

/// Of so many kills one falls between a final dot and its reply.
const DOT_EVERY: usize = 4;
/// How often a kill is tried again that met no transaction.
const TRIES_MAX: usize = 5;
/// How an organization has what is in doubt sent again, a second later.
const RESEND: &str = "on_unknown = \"resend\"\n[retry]\nschedule = [\"1s\"]\n";

/// What is in doubt is held until a person settles it.
pub async fn hold(plan: Plan) -> Line {
    let sizes = plan.pick((1, 4, 1_500), (3, 8, 6_000), (10, 20, 20_000));
    let mut line = kill(plan, "", sizes).await;
    let duplicates = line.found.duplicates;
    line.expect(duplicates == 0, || format!("{duplicates} messages came twice"));
    let arrived = line.found.unknown_arrived;
    line.note(format!("of what is in doubt, {arrived} messages had arrived"));
    line
}

/// What is in doubt is sent again.
pub async fn resend(plan: Plan) -> Line {
    let sizes = plan.pick((1, 3, 1_000), (2, 6, 4_000), (3, 10, 20_000));
    let mut line = kill(plan, RESEND, sizes).await;
    let duplicates = line.found.duplicates;
    line.expect(line.found.duplicates_unlisted == 0, || "messages came twice that were in no doubt before".to_owned());
    line.note(format!("{duplicates} messages came twice, each listed as unknown before"));
    line
}

async fn kill(plan: Plan, organization: &str, (broadcasts, kills, recipients): (usize, usize, usize)) -> Line {
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (mut worst, mut doubts, mut unseen, mut at_dot, mut missed, mut by_marks, mut answered) = (0, 0, 0, 0, 0, 0, 0);
    for broadcast in 0..broadcasts {
        let mut trial = Trial::prepare(organization, Duration::ZERO).await;
        trial.begin(recipients).await;
        for (nth, target) in targets(&mut rng, recipients, kills).into_iter().enumerate() {
            let moment = if nth % DOT_EVERY == 1 { Moment::dot(&mut rng) } else { Moment::any(&mut rng) };
            let place = || format!("kill {nth} of broadcast {broadcast}, {moment:?} after {target} messages,");
            let mut counts = false;
            for _ in 0..TRIES_MAX {
                let held = trial.reach(target, moment).await;
                let found = trial.broken_by(held, async |postwarm, _| postwarm.kill()).await;
                // Without marks it cannot be told what had not left, or was answered.
                let (doubts_max, unseen_max) = if trial.marks() { (CALLS, CONNECTIONS) } else { (SENDING_ROWS_MAX, SENDING_ROWS_MAX) };
                line.expect(found.doubts <= doubts_max, || format!("{} left {} rows in doubt", place(), found.doubts));
                line.expect(found.unseen <= unseen_max, || {
                    format!("{} left {} rows in doubt whose final dot cannot have been on its way", place(), found.unseen - CONNECTIONS)
                });
                worst = worst.max(found.doubts);
                doubts += found.doubts;
                unseen += found.unseen;
                counts = found.open > 0;
                if counts {
                    break;
                }
                missed += 1;
            }
            line.expect(counts, || format!("{} met no transaction {TRIES_MAX} times", place()));
            line.faults += 1;
            at_dot += u64::from(moment.is_at_dot());
        }
        if organization == RESEND {
            trial.resent().await;
        }
        line.expect(!trial.marks() || trial.starts_by_marks() > 0, || "no start went by marks, though they are kept".to_owned());
        line.add(recipients as u64, check(&trial.end().await));
        by_marks += trial.starts_by_marks();
        answered += trial.rows_answered();
        if !trial.marks() {
            line.note("the file system of temporary files can hold no marks: all that was in hand is in doubt");
        }
    }
    line.note(format!(
        "{at_dot} of the kills fell between a final dot and its reply; rows in doubt: {doubts}, {worst} after the worst kill, {unseen} that the \
         sink never had; {by_marks} starts went by marks and settled {answered} rows as they had been answered"
    ));
    if missed > 0 {
        line.note(format!("{missed} more kills met no open transaction and do not count"));
    }
    line
}
