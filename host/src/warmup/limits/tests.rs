use super::*;
use crate::warmup::store::STILL_OUT;
use std::time::Duration;

mod histories;

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
    limits.take(&[SCOPE], 2);
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
    limits.take(&[SCOPE], 3);
    limits.give_back(&[SCOPE], 1);
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
    limits.take(&[SCOPE], 40);
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
    before.take(&[SCOPE], 10);
    before.settle(&[SCOPE], 10, 5_000);
    let stored = before.dirty(at(5_000));
    assert_eq!(stored.len(), 1);
    assert_eq!(before.dirty(at(5_000)), stored, "until it is known to be committed");
    before.written();
    assert_eq!(*before.dirty(at(5_000)), []);
    let mut after = Limits::new(BOOT);
    let jumped = Now { boot_ms: 10_000, wall_ms: at(10_000).wall_ms + 999_999_999 };
    after.restore(stored.to_vec(), 0, jumped);
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
        before.take(&[SCOPE], 5);
        before.settle(&[SCOPE], 5, now);
    }
    let stored = before.dirty(at(30_000));
    let wall = stored[0].bucket_wall_ms;
    let mut after = Limits::new("boot-2");
    after.configure(SCOPE, &[window(10, 60_000)], Now { boot_ms: 50, wall_ms: wall + 15_000 });
    after.restore(stored.to_vec(), 0, Now { boot_ms: 50, wall_ms: wall + 15_000 });
    assert_eq!((free(&mut after, 44_000), free(&mut after, 46_000)), (0, 5));
    assert_eq!((free(&mut after, 60_000), free(&mut after, 61_000)), (5, 10));
    let rows = after.dirty(Now { boot_ms: 61_000, wall_ms: wall + 76_000 });
    assert_eq!(rows.iter().filter(|r| r.count == 0 && r.boot_id == BOOT).count(), 2, "the rows of the other boot are deleted");
}

#[test]
fn an_organization_whose_file_comes_back_later_finds_its_counts() {
    let mut before = limits(&[window(10, 60_000)]);
    before.take(&[SCOPE], 10);
    before.settle(&[SCOPE], 10, 0);
    let mut after = Limits::new(BOOT);
    after.restore(before.dirty(at(1)).to_vec(), 0, at(1));
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
                limits.take(&[SCOPE], n);
                out.push_back((now + latency, n));
                sent += n;
            }
        }
        let possible = max * windows as u64;
        assert!(sent * 100 >= possible * 97, "{sent} of {possible} at {per} ms");
    }
}

#[test]
fn a_window_that_is_taken_out_lets_all_through_and_counts_until_it_is_put_back() {
    let mut limits = limits(&[window(100, 86_400_000), window(5, 1_000)]);
    limits.take(&[SCOPE], 100);
    limits.settle(&[SCOPE], 100, 2_000);
    for others in [vec![], vec![window(3, 500)]] {
        limits.configure(SCOPE, &others, at(10_000));
        let opened = free(&mut limits, 12_000);
        assert_eq!(opened, others.first().map_or(u64::MAX, |w| w.messages));
        limits.take(&[SCOPE], 3);
        limits.settle(&[SCOPE], 3, 12_000);
        limits.configure(SCOPE, &[window(110, 86_400_000)], at(20_000));
    }
    assert_eq!(free(&mut limits, 20_000), 4);
    let day_later = limits.next_at(&[SCOPE], 86_300_000).expect("by time");
    limits.configure(SCOPE, &[], at(90_000_000));
    limits.configure(SCOPE, &[window(110, 86_400_000)], at(90_000_000));
    assert_eq!((day_later, free(&mut limits, 90_000_000)), (86_300_000, 110));
}

#[test]
fn a_lifted_window_goes_with_its_rows_once_nothing_lies_within_it() {
    let mut limits = limits(&[window(5, 60_000)]);
    limits.take(&[SCOPE], 1);
    limits.settle(&[SCOPE], 1, 0);
    let stored = limits.dirty(at(0));
    limits.written();
    limits.configure(SCOPE, &[], at(59_000));
    assert_eq!(*limits.dirty(at(59_000)), [], "it counts still");
    limits.configure(SCOPE, &[], at(61_000));
    let gone = limits.dirty(at(61_000));
    assert_eq!(gone.iter().map(|row| (row.bucket_ms, row.count)).collect::<Vec<_>>(), [(stored[0].bucket_ms, 0)]);
}

#[test]
fn what_was_out_counts_after_a_start_though_nothing_was_recorded_before() {
    let mut before = limits(&[window(4, 60_000), window(9, 3_600_000)]);
    before.take(&[SCOPE], 4);
    let stored = before.dirty(at(0));
    assert_eq!(stored.iter().map(|row| (row.per_ms, row.bucket_ms, row.count)).collect::<Vec<_>>(), [(3_600_000, STILL_OUT, 4)]);
    for (in_doubt_max, left) in [(9, 5), (3, 6), (0, 9)] {
        let mut after = Limits::new(BOOT);
        after.restore(stored.to_vec(), in_doubt_max, at(10_000));
        // Nobody configures it for a while, and it is used.
        after.take(&[SCOPE], 1);
        after.give_back(&[SCOPE], 1);
        assert_eq!(free(&mut after, 10_000), u64::MAX);
        let rows = after.dirty(at(20_000));
        assert_eq!((rows[0].bucket_ms, rows[0].count), (STILL_OUT, 0), "it is out no more");
        after.configure(SCOPE, &[window(9, 3_600_000)], at(20_000));
        assert_eq!(free(&mut after, 20_000), left);
    }
    before.give_back(&[SCOPE], 4);
    assert!(before.dirty(at(1)).iter().all(|row| row.count == 0));
}
