//! Whatever happens to a process and its settings, no receiver counts more than what is configured.

use super::{SCOPE, window};
use crate::clock::Now;
use crate::config::settings::Window;
use crate::warmup::limits::Limits;
use crate::warmup::store::Usage;
use proptest::prelude::*;
use std::collections::HashMap;

/// Which of the world's windows are configured, as bits.
type Chosen = u8;

/// What may happen to a process that sends.
#[derive(Debug, Clone)]
enum Step {
    Wait(i64),
    /// In one commit with what is counted, as the engine does it.
    Claim(u64),
    FailingClaim(u64),
    Settle(usize),
    GiveBack(usize),
    Commit,
    WallJump(i64),
    /// Windows are taken out, put back, edited.
    Configure(Chosen),
    /// A crash, and a start this much later.
    Restart {
        after: i64,
        reboot: bool,
        start: Start,
    },
}

/// What comes in which order at a start.
#[derive(Debug, Clone, Copy)]
enum Start {
    Restores,
    ConfiguresFirst,
    /// The file is broken: nothing is configured until it is mended, and the scope is used meanwhile.
    Unconfigured,
    /// Killed before its first commit, and started again.
    Twice,
}

fn step() -> impl Strategy<Value = Step> {
    let start = prop::sample::select(vec![Start::Restores, Start::ConfiguresFirst, Start::Unconfigured, Start::Twice]);
    prop_oneof![
        4 => (0_i64..400).prop_map(Step::Wait),
        1 => (400_i64..40_000).prop_map(Step::Wait),
        5 => (1_u64..12).prop_map(Step::Claim),
        1 => (1_u64..12).prop_map(Step::FailingClaim),
        5 => (1_usize..12).prop_map(Step::Settle),
        1 => (1_usize..3).prop_map(Step::GiveBack),
        2 => Just(Step::Commit),
        1 => (-100_000_i64..100_000).prop_map(Step::WallJump),
        2 => any::<Chosen>().prop_map(Step::Configure),
        1 => ((0_i64..9_000), any::<bool>(), start).prop_map(|(after, reboot, start)| Step::Restart { after, reboot, start }),
    ]
}

/// A message that may have arrived at any time from its claim to its outcome.
struct Sent {
    /// Its outcome, or the start that found it in doubt; `None` while it is out.
    last: Option<i64>,
    /// Which windows have to count it, by their place.
    counted: Vec<bool>,
}

/// A process, its disk and its receiver.
struct World {
    windows: Vec<Window>,
    chosen: Chosen,
    /// Which windows have to count what is sent while they are not configured: those that have something to count.
    known: Vec<bool>,
    limits: Limits,
    /// True time; the boot clock is that less `booted`, the wall clock that plus `wall_ahead`.
    time: i64,
    booted: i64,
    boots: u32,
    wall_ahead: i64,
    sent: Vec<Sent>,
    settled_uncommitted: usize,
    disk: HashMap<(String, i64, i64), Usage>,
}

impl World {
    fn new(windows: Vec<Window>) -> World {
        let mut world = World {
            known: vec![false; windows.len()],
            windows,
            chosen: Chosen::MAX,
            limits: Limits::new("boot-0"),
            time: 5_000,
            booted: 0,
            boots: 0,
            wall_ahead: 1_700_000_000_000,
            sent: Vec::new(),
            settled_uncommitted: 0,
            disk: HashMap::new(),
        };
        world.start(Start::Restores);
        world
    }

    fn now(&self) -> Now {
        Now { boot_ms: self.time - self.booted, wall_ms: self.time + self.wall_ahead }
    }

    fn is_configured(&self, place: usize) -> bool {
        self.chosen & (1 << place) != 0
    }

    fn configured(&self) -> Vec<Window> {
        (0..self.windows.len()).filter(|place| self.is_configured(*place)).map(|place| self.windows[place]).collect()
    }

    fn configure(&mut self) {
        let (windows, now) = (self.configured(), self.now());
        self.limits.configure(SCOPE, &windows, now);
        self.note_known();
    }

    fn note_known(&mut self) {
        for place in 0..self.windows.len() {
            // A short window starts spent, and so may forget.
            let is_short = per_ms(&self.windows[place]) <= 1_000;
            let holds = self.sent.iter().any(|sent| sent.counted[place] && self.lies_within(sent, place));
            self.known[place] = is_short || self.is_configured(place) || (self.known[place] && holds);
        }
    }

    fn lies_within(&self, sent: &Sent, place: usize) -> bool {
        sent.last.is_none_or(|last| last > self.time - per_ms(&self.windows[place]))
    }

    fn start(&mut self, start: Start) {
        let in_doubt = self.sent.iter().filter(|sent| sent.last.is_none()).count() + self.settled_uncommitted;
        if let Start::Unconfigured = start {
            self.chosen = 0;
        }
        let starts = if let Start::Twice = start { 2 } else { 1 };
        for _ in 0..starts {
            self.limits = Limits::new(format!("boot-{}", self.boots));
            if let Start::ConfiguresFirst = start {
                self.configure();
            }
            let stored = self.disk.values().cloned().collect();
            self.limits.restore(stored, in_doubt as u64, self.now());
        }
        let time = self.time;
        self.sent.iter_mut().filter(|sent| sent.last.is_none()).for_each(|sent| sent.last = Some(time));
        match start {
            Start::Restores | Start::Twice => self.configure(),
            Start::ConfiguresFirst | Start::Unconfigured => self.note_known(),
        }
        self.commit();
    }

    fn commit(&mut self) {
        for row in self.limits.dirty(self.now()).iter().cloned() {
            let key = (row.boot_id.clone(), row.per_ms, row.bucket_ms);
            match row.count {
                0 => drop(self.disk.remove(&key)),
                _ => drop(self.disk.insert(key, row)),
            }
        }
        self.limits.written();
        self.settled_uncommitted = 0;
    }

    fn claim(&mut self, want: u64) -> Result<(), TestCaseError> {
        let n = self.limits.claimable(&[SCOPE], want, self.now().boot_ms).n;
        self.limits.take(&[SCOPE], n);
        self.commit();
        self.sent.extend((0..n).map(|_| Sent { last: None, counted: self.known.clone() }));
        for (place, window) in self.windows.iter().enumerate().filter(|(place, _)| n > 0 && self.is_configured(*place)) {
            let count = self.sent.iter().filter(|sent| sent.counted[place] && self.lies_within(sent, place)).count();
            prop_assert!(count as u64 <= window.messages, "{count} in {window:?} at {}", self.time);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (time, now) = (self.time, self.now().boot_ms);
        match step {
            Step::Wait(ms) => self.time += ms,
            Step::Claim(want) => self.claim(want)?,
            Step::FailingClaim(want) => {
                let n = self.limits.claimable(&[SCOPE], want, now).n;
                self.limits.take(&[SCOPE], n);
                self.limits.dirty(self.now());
                self.limits.give_back(&[SCOPE], n);
            }
            Step::Settle(n) => {
                let out: Vec<&mut Sent> = self.sent.iter_mut().filter(|sent| sent.last.is_none()).take(n).collect();
                self.limits.settle(&[SCOPE], out.len() as u64, now);
                self.settled_uncommitted += out.len();
                out.into_iter().for_each(|sent| sent.last = Some(time));
            }
            Step::GiveBack(n) => {
                let before = self.sent.len();
                let mut left = n;
                self.sent.retain(|sent| {
                    let goes = sent.last.is_none() && left > 0;
                    left -= usize::from(goes);
                    !goes
                });
                self.limits.give_back(&[SCOPE], (before - self.sent.len()) as u64);
            }
            Step::Commit => self.commit(),
            Step::WallJump(by) => self.wall_ahead += by,
            Step::Configure(chosen) => {
                self.chosen = chosen;
                self.configure();
            }
            Step::Restart { after, reboot, start } => {
                self.time += after;
                if reboot {
                    self.booted = self.time;
                    self.boots += 1;
                }
                self.start(start);
            }
        }
        Ok(())
    }
}

fn per_ms(window: &Window) -> i64 {
    window.per.as_millis() as i64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_receiver_counts_more_than_the_maximum_in_any_window(
        shape in prop::collection::vec((1_u64..20, prop::sample::select(vec![7_u64, 200, 1_000, 1_500, 9_000, 40_000])), 1..4),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let windows: Vec<Window> = shape.iter().map(|(n, per)| window(*n, *per)).collect();
        let mut world = World::new(windows);
        let rebooted = steps.iter().any(|s| matches!(s, Step::Restart { reboot: true, .. }));
        for step in steps {
            // A wall clock that jumps forward before a reboot is believed, which no counting survives.
            if rebooted && matches!(step, Step::WallJump(_)) {
                continue;
            }
            world.step(step)?;
        }
    }
}
