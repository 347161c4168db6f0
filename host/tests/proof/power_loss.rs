//! Power losses in the middle of broadcasts: the data folder is a disk that forgets what was not flushed.

use crate::check::check;
use crate::scenario::{Line, Plan};
use crate::trial::{Moment, SENDING_ROWS_MAX, Trial, targets};
use crate::volume::Volume;
use rusqlite::Connection;
use std::time::Duration;

/// Room for three databases with their logs.
const VOLUME_MIB: u64 = 256;
/// Of so many losses one falls between a final dot and its reply.
const DOT_EVERY: usize = 4;

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let mut rng = plan.rng();
    let (broadcasts, losses, recipients) = plan.pick((1, 1, 600), (1, 5, 4_000), (5, 10, 20_000));
    let (mut worst, mut doubts, mut from_disk) = (0, 0, 0);
    for broadcast in 0..broadcasts {
        let mut trial = Trial::prepare("", Duration::ZERO).await;
        let mut volume = match Volume::mount(trial.site.folder.path().join("disk"), trial.site.data(), VOLUME_MIB) {
            Ok(volume) => volume,
            Err(words) => return Line::skipped(&plan, &format!("no ext4 can be mounted on a loop device here: {words}")),
        };
        trial.begin(recipients).await;
        for (nth, target) in targets(&mut rng, recipients, losses).into_iter().enumerate() {
            let moment = if nth % DOT_EVERY == 1 { Moment::dot(&mut rng) } else { Moment::any(&mut rng) };
            // The first one falls right behind the 202.
            let target = if nth == 0 { 0 } else { target };
            let held = trial.reach(target, moment).await;
            let found = trial
                .broken_by(held, async |postwarm, _| {
                    volume.lose_power();
                    postwarm.kill();
                    volume.return_power();
                })
                .await;
            let place = || format!("loss {nth} of broadcast {broadcast}, {moment:?} after {target} messages,");
            line.expect(found.doubts <= SENDING_ROWS_MAX, || format!("{} left {} rows in doubt", place(), found.doubts));
            line.expect(trial.starts_by_marks() == 0, || {
                format!("{} was taken for a kill: the marks are older than what was sent", place())
            });
            line.faults += 1;
            worst = worst.max(found.doubts);
            doubts += found.doubts;
        }
        let found = check(&trial.end().await);
        for file in ["warmup.db", "events.db", "health.db"] {
            let answer = integrity(&trial.site.data().join(file));
            line.expect(answer == "ok", || format!("{file}: {answer}"));
        }
        line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
        line.add(recipients as u64, found);
        from_disk += trial.starts_with_marks_of_the_disk();
    }
    line.note(format!(
        "rows in doubt: {doubts}, {worst} after the worst loss; {from_disk} starts found marks that came from the disk, and did not believe them"
    ));
    line
}

fn integrity(path: &std::path::Path) -> String {
    let database = Connection::open(path).unwrap();
    database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}
