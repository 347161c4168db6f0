use super::*;
use proptest::prelude::*;
use std::time::Duration;

const BOOT: &str = "boot-1";
const SCOPE: &str = "client/acme/relay";

fn window(messages: u64, per_ms: u64) -> Window {
    Window { messages, per: Duration::from_millis(per_ms) }
}

fn at(boot_ms: i64) -> Now {
    Now { boot_ms, wall_ms: 1_700_000_000_000 + boot_ms }
}

fn limits(windows: &[Window]) -> Limits {
    let mut limits = Limits::new(BOOT);
    limits.configure(SCOPE, windows, at(0));
    limits
}

fn free(limits: &mut Limits, now: i64) -> u64 {
    limits.claimable(&[SCOPE], u64::MAX, now).n
}

#[test]
fn a_slot_comes_free_one_window_after_its_outcome_and_not_after_its_claim() {
    let mut limits = limits(&[window(2, 10_000)]);
    limits.take(&[SCOPE], 2, 0);
    assert_eq!(limits.next_at(&[SCOPE], 20_000), None, "only an outcome can free a slot");
    assert_eq!(free(&mut limits, 20_000), 0);
    limits.settle(&[SCOPE], 2, 20_000);
    assert_eq!(free(&mut limits, 29_999), 0);
    let next = limits.next_at(&[SCOPE], 29_999).expect("by time");
    assert!((30_000..30_200).contains(&next), "{next}");
    assert_eq!((free(&mut limits, next - 1), free(&mut limits, next)), (0, 2));
}

#[test]
fn only_a_message_that_was_not_attempted_gives_its_slot_back() {
    let mut limits = limits(&[window(3, 60_000)]);
    limits.take(&[SCOPE], 3, 0);
    limits.give_back(&[SCOPE], 1, 5);
    limits.settle(&[SCOPE], 2, 5);
    assert_eq!(free(&mut limits, 6), 1);
}

#[test]
fn the_scope_and_window_that_allow_least_are_named() {
    let mut limits = limits(&[window(100, 60_000), window(5, 3_600_000)]);
    limits.configure("org/acme", &[window(7, 86_400_000)], at(0));
    let found = limits.claimable(&["org/acme", SCOPE, "share/none"], 50, 0);
    let blocked = found.blocked_by.expect("blocked");
    assert_eq!((found.n, blocked.scope.as_str(), blocked.window.messages), (5, SCOPE, 5));
    assert_eq!(limits.claimable(&["org/acme", SCOPE], 5, 0), Claimable { n: 5, blocked_by: None });
}

#[test]
fn a_window_of_a_second_starts_spent_and_a_longer_one_does_not() {
    let mut limits = limits(&[window(10, 1_000), window(50, 60_000)]);
    assert_eq!(free(&mut limits, 999), 0);
    let next = limits.next_at(&[SCOPE], 0).expect("by time");
    assert!((1_000..=1_010).contains(&next), "{next}");
    assert_eq!(free(&mut limits, next), 10);
}

#[test]
fn a_maximum_of_nothing_never_opens() {
    let mut limits = limits(&[window(0, 60_000)]);
    assert_eq!((free(&mut limits, i64::MAX / 8), limits.next_at(&[SCOPE], 0)), (0, None));
}

#[test]
fn an_edited_maximum_keeps_the_counts_and_a_new_length_takes_them_over() {
    let mut limits = limits(&[window(100, 3_600_000)]);
    limits.take(&[SCOPE], 40, 0);
    limits.settle(&[SCOPE], 40, 1_000);
    limits.configure(SCOPE, &[window(50, 3_600_000)], at(2_000));
    assert_eq!(free(&mut limits, 2_000), 10);
    limits.configure(SCOPE, &[window(60, 600_000), window(45, 86_400_000)], at(3_000));
    assert_eq!(free(&mut limits, 3_000), 5);
    assert_eq!(free(&mut limits, 1_000_000), 5);
}

#[test]
fn what_was_stored_comes_back_by_the_boot_clock_whatever_the_wall_clock_says() {
    let mut before = limits(&[window(10, 60_000)]);
    before.take(&[SCOPE], 10, 5_000);
    before.settle(&[SCOPE], 10, 5_000);
    let stored = before.dirty(at(5_000));
    assert_eq!(stored.len(), 1);
    assert_eq!(before.dirty(at(5_000)), stored, "until it is known to be committed");
    before.written();
    assert_eq!(*before.dirty(at(5_000)), []);
    let mut after = Limits::new(BOOT);
    let jumped = Now { boot_ms: 10_000, wall_ms: at(10_000).wall_ms + 999_999_999 };
    after.restore(stored.to_vec(), jumped);
    after.configure(SCOPE, &[window(10, 60_000)], jumped);
    assert_eq!(free(&mut after, 65_000), 0);
    assert_eq!(free(&mut after, 66_000), 10);
    let gone = after.dirty(at(66_000));
    assert_eq!(gone.iter().map(|row| row.count).collect::<Vec<_>>(), [0], "the row of the expired bucket is deleted");
}

#[test]
fn across_a_reboot_the_wall_clock_is_believed_and_the_future_counts_as_now() {
    let mut before = limits(&[window(10, 60_000)]);
    for now in [0, 30_000] {
        before.take(&[SCOPE], 5, now);
        before.settle(&[SCOPE], 5, now);
    }
    let stored = before.dirty(at(30_000));
    let wall = stored[0].bucket_wall_ms;
    let mut after = Limits::new("boot-2");
    after.configure(SCOPE, &[window(10, 60_000)], Now { boot_ms: 50, wall_ms: wall + 15_000 });
    after.restore(stored.to_vec(), Now { boot_ms: 50, wall_ms: wall + 15_000 });
    assert_eq!((free(&mut after, 44_000), free(&mut after, 46_000)), (0, 5));
    assert_eq!((free(&mut after, 60_000), free(&mut after, 61_000)), (5, 10));
    let rows = after.dirty(Now { boot_ms: 61_000, wall_ms: wall + 76_000 });
    assert_eq!(rows.iter().filter(|r| r.count == 0 && r.boot_id == BOOT).count(), 2, "the rows of the other boot are deleted");
}

#[test]
fn an_organization_whose_file_comes_back_later_finds_its_counts() {
    let mut before = limits(&[window(10, 60_000)]);
    before.take(&[SCOPE], 10, 0);
    before.settle(&[SCOPE], 10, 0);
    let mut after = Limits::new(BOOT);
    after.restore(before.dirty(at(1)).to_vec(), at(1));
    after.configure(SCOPE, &[window(10, 30_000), window(20, 60_000)], at(20_000));
    assert_eq!(free(&mut after, 20_000), 0);
}

#[test]
fn at_least_97_percent_is_used_when_the_latency_is_2_percent_of_the_window() {
    for (per, max) in [(1_000, 200), (10_000, 50), (3_600_000, 1_000)] {
        let mut limits = limits(&[window(max, per as u64)]);
        let (latency, step) = (per / 50, (per / 2_000).max(1));
        let (mut sent, mut out) = (0, std::collections::VecDeque::<(i64, u64)>::new());
        let windows = 50;
        for now in (per * 2..per * (2 + windows)).step_by(step as usize) {
            while out.front().is_some_and(|(due, _)| *due <= now) {
                let (due, n) = out.pop_front().expect("there is one");
                limits.settle(&[SCOPE], n, due);
            }
            let n = free(&mut limits, now);
            if n > 0 {
                limits.take(&[SCOPE], n, now);
                out.push_back((now + latency, n));
                sent += n;
            }
        }
        let possible = max * windows as u64;
        assert!(sent * 100 >= possible * 97, "{sent} of {possible} at {per} ms");
    }
}

/// What may happen to a process that sends.
#[derive(Debug, Clone)]
enum Step {
    Wait(i64),
    Claim(u64),
    Settle(usize),
    GiveBack(usize),
    Commit,
    FailingCommit,
    WallJump(i64),
    /// A crash, and a start this much later; on another boot or not.
    Restart {
        after: i64,
        reboot: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_i64..400).prop_map(Step::Wait),
        1 => (400_i64..40_000).prop_map(Step::Wait),
        5 => (1_u64..12).prop_map(Step::Claim),
        5 => (1_usize..12).prop_map(Step::Settle),
        1 => (1_usize..3).prop_map(Step::GiveBack),
        3 => Just(Step::Commit),
        1 => Just(Step::FailingCommit),
        1 => (-100_000_i64..100_000).prop_map(Step::WallJump),
        1 => ((0_i64..9_000), any::<bool>()).prop_map(|(after, reboot)| Step::Restart { after, reboot }),
    ]
}

/// A process, its disk, and a receiver that may have got each message at any time from its claim to its outcome.
struct World {
    windows: Vec<Window>,
    limits: Limits,
    /// True time; the boot clock is that less `booted`, the wall clock that plus `wall_ahead`.
    time: i64,
    booted: i64,
    boots: u32,
    wall_ahead: i64,
    out: Vec<i64>,
    settled_uncommitted: Vec<i64>,
    disk: HashMap<(String, i64, i64), Usage>,
    /// Claim and the last moment of each message that may have arrived.
    arrived: Vec<(i64, i64)>,
}

impl World {
    fn new(windows: Vec<Window>) -> World {
        let mut world = World {
            windows,
            limits: Limits::new("boot-0"),
            time: 5_000,
            booted: 0,
            boots: 0,
            wall_ahead: 1_700_000_000_000,
            out: Vec::new(),
            settled_uncommitted: Vec::new(),
            disk: HashMap::new(),
            arrived: Vec::new(),
        };
        world.start();
        world
    }

    fn now(&self) -> Now {
        Now { boot_ms: self.time - self.booted, wall_ms: self.time + self.wall_ahead }
    }

    fn start(&mut self) {
        self.limits = Limits::new(format!("boot-{}", self.boots));
        let stored = self.disk.values().cloned().collect();
        self.limits.restore(stored, self.now());
        self.limits.configure(SCOPE, &self.windows, self.now());
        // Rows whose outcome was not committed are in doubt.
        let doubtful = self.out.len() + self.settled_uncommitted.len();
        let now = self.now().boot_ms;
        self.limits.take(&[SCOPE], doubtful as u64, now);
        self.limits.settle(&[SCOPE], doubtful as u64, now);
        self.arrived.extend(self.out.drain(..).map(|claim| (claim, self.time)));
        self.settled_uncommitted.clear();
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
        self.settled_uncommitted.clear();
    }

    fn step(&mut self, step: Step) {
        let now = self.now().boot_ms;
        match step {
            Step::Wait(ms) => self.time += ms,
            Step::Claim(want) => {
                let n = self.limits.claimable(&[SCOPE], want, now).n;
                self.limits.take(&[SCOPE], n, now);
                self.out.extend((0..n).map(|_| self.time));
            }
            Step::Settle(n) => {
                let n = n.min(self.out.len());
                self.limits.settle(&[SCOPE], n as u64, now);
                let time = self.time;
                self.arrived.extend(self.out.drain(..n).map(|claim| (claim, time)));
                self.settled_uncommitted.extend((0..n).map(|_| time));
            }
            Step::GiveBack(n) => {
                let n = n.min(self.out.len());
                self.limits.give_back(&[SCOPE], n as u64, now);
                self.out.truncate(self.out.len() - n);
            }
            Step::Commit => self.commit(),
            Step::FailingCommit => drop(self.limits.dirty(self.now())),
            Step::WallJump(by) => self.wall_ahead += by,
            Step::Restart { after, reboot } => {
                self.time += after;
                if reboot {
                    // The wall clock is believed across a reboot: only there it must be right, or behind.
                    self.booted = self.time;
                    self.boots += 1;
                }
                self.start();
            }
        }
    }

    /// The most that a receiver can have counted in any window, at worst for us.
    fn worst(&self, per_ms: i64) -> usize {
        let ends = self.arrived.iter().map(|(_, last)| *last);
        ends.map(|from| self.arrived.iter().filter(|(claim, last)| *last >= from && *claim < from + per_ms).count()).max().unwrap_or(0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_receiver_counts_more_than_the_maximum_in_any_window(
        shape in prop::collection::vec((1_u64..20, prop::sample::select(vec![7_u64, 200, 1_000, 1_500, 9_000, 40_000])), 1..4),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let windows: Vec<Window> = shape.iter().map(|(n, per)| window(*n, *per)).collect();
        let mut world = World::new(windows.clone());
        let rebooted = steps.iter().any(|s| matches!(s, Step::Restart { reboot: true, .. }));
        for step in steps {
            // A wall clock that jumps forward before a reboot is believed, which no counting survives.
            if rebooted && matches!(step, Step::WallJump(_)) {
                continue;
            }
            world.step(step);
        }
        world.step(Step::Settle(usize::MAX));
        for window in windows {
            let worst = world.worst(window.per.as_millis() as i64);
            prop_assert!(worst as u64 <= window.messages, "{worst} in {window:?}");
        }
    }
}
