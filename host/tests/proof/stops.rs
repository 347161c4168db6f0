//! SIGTERM in the middle of broadcasts, with replies that come within a second and with some that do not come.

use crate::check::check;
use crate::scenario::{Line, Plan};
use crate::trial::{Moment, Trial, targets};
use std::time::{Duration, Instant};

/// How long a stop may take where replies take a second at most.
const STOP_MAX: Duration = Duration::from_secs(15);
const REPLY_MAX_MS: u64 = 1_000;
/// How long a server may take for each group of replies, in milliseconds.
const DELAYS_MS: [u64; 3] = [0, 5, 20];

/// The replies come within a second.
pub async fn answered(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (broadcasts, stops, recipients) = plan.pick((1, 3, 1_500), (2, 6, 4_000), (5, 10, 20_000));
    let mut longest = Duration::ZERO;
    for broadcast in 0..broadcasts {
        let delay = Duration::from_millis(DELAYS_MS[broadcast % DELAYS_MS.len()]);
        let mut trial = Trial::prepare("", delay).await;
        trial.begin(recipients).await;
        for (nth, target) in targets(&mut rng, recipients, stops).into_iter().enumerate() {
            let moment = if nth % 2 == 0 { Moment::any(&mut rng) } else { Moment::dot(&mut rng) };
            let held = trial.reach(target, moment).await;
            let wait = Duration::from_millis(rng.u64(..REPLY_MAX_MS));
            let gates = trial.gates();
            let (mut took, mut code) = (Duration::ZERO, None);
            let found = trial
                .broken_by(held, async |postwarm, _| {
                    let began = Instant::now();
                    postwarm.begin_termination();
                    if held > 0 {
                        tokio::time::sleep(wait).await;
                    }
                    gates.open();
                    code = postwarm.ended();
                    took = began.elapsed();
                })
                .await;
            let place = || format!("stop {nth} of broadcast {broadcast}, {moment:?} after {target} messages,");
            line.expect(code == Some(0), || format!("{} ended with {code:?}", place()));
            line.expect(found.doubts == 0, || format!("{} left {} rows in doubt", place(), found.doubts));
            line.expect(took <= STOP_MAX, || format!("{} took {took:?}", place()));
            line.faults += 1;
            longest = longest.max(took);
        }
        let found = check(&trial.end().await);
        line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
        line.add(recipients as u64, found);
    }
    line.note(format!("the longest stop took {longest:.1?}"));
    line
}

/// The replies to some final dots do not come before `drain_max` has passed.
pub async fn stalled(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (stops, recipients) = plan.pick((1, 400), (4, 2_000), (20, 10_000));
    let mut trial = Trial::prepare("", Duration::ZERO).await;
    trial.site.append("[delivery]\ndrain_max = \"1s\"\n");
    trial.begin(recipients).await;
    for (nth, target) in targets(&mut rng, recipients, stops).into_iter().enumerate() {
        let moment = Moment::stall(&mut rng);
        let held = trial.reach(target, moment).await;
        let mut code = None;
        let found = trial
            .broken_by(held, async |postwarm, _| {
                postwarm.begin_termination();
                code = postwarm.ended();
            })
            .await;
        let place = || format!("stop {nth}, {moment:?} after {target} messages,");
        line.expect(code == Some(0), || format!("{} ended with {code:?}", place()));
        line.expect(found.doubts == held, || format!("{} left {} rows in doubt; {held} final dots had no reply", place(), found.doubts));
        line.faults += 1;
    }
    let found = check(&trial.end().await);
    line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
    line.add(recipients as u64, found);
    line
}
