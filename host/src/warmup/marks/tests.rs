//! Each reason not to believe a file or an answer in it, and when a place is given to another row.

use super::*;
use postwarm_plugin_api::{Fault, Phase, Reply};
use postwarm_plugin_testkit::skip::skip;
use std::os::unix::fs::PermissionsExt;

const BOOT_ID: &str = "8d5e6f0c-7c43-4f3c-9d0e-1f0f6d3a2b1c";
const TURN: i64 = 40;

struct Site {
    folder: tempfile::TempDir,
    file: MarksFile,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let file = MarksFile::new(folder.path(), BOOT_ID.to_owned());
        Site { folder, file }
    }

    /// Changes the file as a process does that has it mapped.
    fn change(&self, change: impl FnOnce(&[AtomicU64])) {
        let file = OpenOptions::new().read(true).write(true).open(&self.file.path).unwrap();
        change(Map::of(&file).unwrap().words());
    }

    fn of_other_boot(&self) -> MarksFile {
        MarksFile::new(self.folder.path(), "other".to_owned())
    }
}

fn row(user: i64) -> DeliveryKey {
    DeliveryKey { org: OrgId(1), email: EmailNumber(2), user: UserNumber(user) }
}

#[test]
fn a_start_finds_how_far_each_row_came_however_often_it_looks() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 8).unwrap();
    let places: Vec<_> = (1..=5).map(|user| marks.take(row(user), 1)).collect();
    for place in &places[1..] {
        marks.marker(*place).unwrap().handed();
    }
    marks.marker(places[2]).unwrap().left();
    marks.marker(places[3]).unwrap().mark().set();
    let unsent = marks.marker(places[4]).unwrap().mark();
    unsent.set();
    unsent.clear();
    drop(marks);
    for _ in 0..2 {
        let left = site.file.left(TURN).unwrap();
        for (users, reached) in [([1, 6], Reached::Nobody), ([2, 5], Reached::Client), ([3, 4], Reached::Wire)] {
            assert_eq!(users.map(|user| left.of(row(user), 1)), [reached.clone(), reached]);
        }
    }
}

#[test]
fn what_a_client_gave_back_was_with_nobody() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 1).unwrap();
    let place = marks.take(row(1), 1);
    let marker = marks.marker(place).unwrap();
    marker.handed();
    marker.left();
    marks.clear(place);
    assert_eq!(site.file.left(TURN).unwrap().of(row(1), 1), Reached::Nobody);
}

fn accepted(text: &str) -> Outcome {
    Outcome::Accepted(Reply { code: 250, enhanced: None, text: text.to_owned() })
}

/// A process ends whose one row is handed over and has left; `more` happened to it besides.
fn ended(site: &Site, more: impl FnOnce(&mut Marks, Option<Place>)) -> Reached {
    let mut marks = site.file.begin(TURN, 1).unwrap();
    let place = marks.take(row(1), 1);
    let marker = marks.marker(place).unwrap();
    marker.handed();
    marker.left();
    more(&mut marks, place);
    site.file.left(TURN).unwrap().of(row(1), 1)
}

#[test]
fn an_answer_outlives_the_process_whether_the_end_of_data_had_left_or_not() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 2).unwrap();
    let places = [1, 2].map(|user| marks.take(row(user), user));
    let sent = marks.marker(places[0]).unwrap();
    sent.handed();
    sent.left();
    sent.answered(&accepted("so"), 77);
    let refused = Outcome::Rejected { reply: Reply { code: 550, enhanced: None, text: String::new() }, fault: Fault::Recipient };
    marks.marker(places[1]).unwrap().answered(&refused, 78);
    drop(marks);
    let left = site.file.left(TURN).unwrap();
    assert_eq!(left.of(row(1), 1), Reached::Answered(Answer { outcome: accepted("so"), at: 77 }));
    assert_eq!(left.of(row(2), 2), Reached::Answered(Answer { outcome: refused, at: 78 }));
}

#[test]
fn an_answer_of_which_a_kill_left_the_words_without_the_mark_is_in_doubt() {
    let site = Site::new();
    let words = answer::encode(&accepted("so"), 77).unwrap();
    let reached = ended(&site, |_, _| {
        site.change(|all| {
            all[HEADER_WORDS + ANSWER..].iter().zip(words.used()).for_each(|(word, value)| word.store(*value, Ordering::Release));
        });
    });
    assert_eq!(reached, Reached::Wire);
}

#[test]
fn words_that_are_no_answer_are_in_doubt_though_they_are_marked_as_one() {
    let site = Site::new();
    let reached = ended(&site, |marks, place| {
        marks.marker(place).unwrap().answered(&accepted("so"), 77);
        site.change(|all| all[HEADER_WORDS + ANSWER].store(9, Ordering::Release));
    });
    assert_eq!(reached, Reached::Wire);
}

#[test]
fn what_is_no_answer_or_too_long_leaves_the_row_in_doubt() {
    let silence = Outcome::Unknown { phase: Phase::EndOfData, detail: String::new() };
    for outcome in [accepted(&"x".repeat(512)), silence] {
        let site = Site::new();
        assert_eq!(ended(&site, |marks, place| marks.marker(place).unwrap().answered(&outcome, 77)), Reached::Wire);
    }
}

#[test]
fn an_answer_does_not_outlive_a_handover_to_another_client() {
    let site = Site::new();
    let reached = ended(&site, |marks, place| {
        let marker = marks.marker(place).unwrap();
        marker.answered(&accepted("so"), 77);
        marker.handed();
    });
    assert_eq!(reached, Reached::Wire);
    let site = Site::new();
    let reached = ended(&site, |marks, place| {
        let marker = marks.marker(place).unwrap();
        marker.answered(&accepted("so"), 77);
        marks.clear(place);
        marker.handed();
    });
    assert_eq!(reached, Reached::Client);
}

#[test]
fn a_place_tells_of_one_attempt_and_of_no_later_one() {
    let site = Site::new();
    ended(&site, |marks, place| marks.marker(place).unwrap().answered(&accepted("so"), 77));
    assert_eq!(site.file.left(TURN).unwrap().of(row(1), 2), Reached::Nobody);
}

#[test]
fn two_places_that_tell_of_one_attempt_leave_it_in_doubt() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 2).unwrap();
    for _ in 0..2 {
        let place = marks.take(row(1), 1);
        marks.marker(place).unwrap().answered(&accepted("so"), 77);
    }
    assert_eq!(site.file.left(TURN).unwrap().of(row(1), 1), Reached::Wire);
}

#[test]
fn a_place_is_free_only_after_the_commit_that_its_row_leaves_in() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 1).unwrap();
    let place = marks.take(row(1), 1);
    marks.marker(place).unwrap().left();
    marks.leaves(place);
    assert_eq!(marks.take(row(2), 1), None, "its outcome is not committed");
    marks.intend(TURN + 1);
    assert_eq!(site.file.left(TURN + 1).unwrap_err(), Unbelieved::WithoutPlace(1));
}

#[test]
fn what_comes_late_for_a_row_does_not_touch_the_next_one_of_its_place() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 1).unwrap();
    let place = marks.take(row(1), 1);
    let late_marker = marks.marker(place).unwrap();
    let late = late_marker.mark();
    marks.leaves(place);
    marks.committed(TURN + 1);
    let next = marks.take(row(2), 1);
    late.set();
    late_marker.answered(&accepted("late"), 77);
    assert_eq!(site.file.left(TURN + 1).unwrap().of(row(2), 1), Reached::Nobody);
    marks.marker(next).unwrap().left();
    marks.marker(next).unwrap().answered(&accepted("so"), 78);
    late.clear();
    late_marker.answered(&accepted("late"), 77);
    marks.clear(place);
    let left = site.file.left(TURN + 1).unwrap();
    assert_eq!((left.of(row(1), 1), left.of(row(2), 1)), (Reached::Nobody, Reached::Answered(Answer { outcome: accepted("so"), at: 78 })));
}

#[test]
fn rows_without_a_place_are_told_until_they_left() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 1).unwrap();
    let places = [marks.take(row(1), 1), marks.take(row(2), 1), marks.take(row(3), 1)];
    assert!(places[0].is_some() && places[1].is_none() && marks.marker(places[1]).is_none());
    marks.leaves(places[1]);
    marks.committed(TURN + 1);
    marks.leaves(places[2]);
    marks.committed(TURN + 2);
    assert_eq!(site.file.left(TURN + 2).unwrap().of(row(1), 1), Reached::Nobody, "all that are left have a place");
}

#[test]
fn the_database_may_stand_on_either_side_of_the_commit_under_way() {
    let site = Site::new();
    let marks = site.file.begin(TURN, 1).unwrap();
    marks.intend(TURN + 1);
    assert!(site.file.left(TURN).is_ok());
    assert!(site.file.left(TURN + 1).is_ok());
}

#[test]
fn an_older_or_newer_database_is_another_one() {
    for turn in [TURN - 1, TURN + 2, 0] {
        let site = Site::new();
        site.file.begin(TURN, 1).unwrap().intend(TURN + 1);
        let other = Unbelieved::OtherTurn { committed: TURN, intended: TURN + 1, database: turn };
        assert_eq!(site.file.left(turn).unwrap_err(), other);
    }
}

#[test]
fn another_boot_is_not_believed() {
    let site = Site::new();
    site.file.begin(TURN, 1).unwrap();
    assert_eq!(site.of_other_boot().left(TURN).unwrap_err(), Unbelieved::OtherBoot);
}

#[test]
fn what_is_no_file_of_marks_is_not_believed() {
    let site = Site::new();
    assert_eq!(site.file.left(TURN).unwrap_err(), Unbelieved::Absent);
    for content in [&b"x"[..], &[0; 4096], &[0xff; 160]] {
        std::fs::write(&site.file.path, content).unwrap();
        let why = site.file.left(TURN).unwrap_err();
        assert!(matches!(why, Unbelieved::OtherForm | Unbelieved::Unreadable(_)), "{why:?}");
    }
    site.file.begin(TURN, 2).unwrap();
    let whole = std::fs::read(&site.file.path).unwrap();
    std::fs::write(&site.file.path, &whole[..whole.len() - 32]).unwrap();
    assert_eq!(site.file.left(TURN).unwrap_err(), Unbelieved::OtherForm, "it is shorter than it says");
    site.file.begin(TURN, 2).unwrap();
    for (form, words) in [(MAGIC + 1, "a later form"), (MAGIC - 1, "an earlier form")] {
        site.file.begin(TURN, 2).unwrap();
        site.change(|words| words[FORM].store(form, Ordering::SeqCst));
        assert_eq!(site.file.left(TURN).unwrap_err(), Unbelieved::OtherForm, "{words}");
    }
}

#[test]
fn what_comes_from_the_disk_is_not_believed_though_a_look_has_brought_it_to_memory() {
    let site = Site::new();
    let mut marks = site.file.begin(TURN, 8).unwrap();
    marks.take(row(1), 1);
    drop(marks);
    let file = OpenOptions::new().read(true).write(true).open(&site.file.path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    if Map::of(&file).unwrap().is_in_memory().unwrap() {
        skip("what_comes_from_the_disk_is_not_believed", "the file system of temporary files keeps all in memory");
        return;
    }
    assert_eq!(site.file.left(TURN).unwrap_err(), Unbelieved::FromDisk);
    site.file.take_away().unwrap();
    assert_eq!(site.file.left(TURN).unwrap_err(), Unbelieved::Absent, "it is gone");
}

#[test]
fn a_process_that_begins_takes_the_place_of_the_one_before_and_leaves_its_own_alone() {
    let site = Site::new();
    let mut before = site.file.begin(TURN, 1).unwrap();
    let late = before.take(row(1), 1);
    let _now = site.file.begin(TURN + 1, 1).unwrap();
    before.marker(late).unwrap().left();
    before.committed(TURN + 9);
    assert_eq!(site.file.left(TURN + 1).unwrap().of(row(1), 1), Reached::Nobody);
    assert_eq!(std::fs::metadata(&site.file.path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(site.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["sending.marks"]);
}

#[test]
fn without_a_file_nothing_is_marked_and_nothing_fails() {
    let nowhere = MarksFile::new(Path::new("/proc/none"), BOOT_ID.to_owned());
    let mut marks = nowhere.begin(TURN, 8).unwrap();
    let place = marks.take(row(1), 1);
    assert!(place.is_none() && marks.marker(place).is_none());
    marks.clear(place);
    marks.leaves(place);
    marks.intend(TURN + 1);
    marks.committed(TURN + 1);
    assert_eq!(nowhere.left(TURN + 1).unwrap_err(), Unbelieved::Absent);
}

#[test]
fn a_boot_without_a_name_marks_nothing_and_takes_the_old_marks_away() {
    let site = Site::new();
    site.file.begin(TURN, 1).unwrap();
    let unnamed = MarksFile::new(site.folder.path(), String::new());
    assert!(unnamed.begin(TURN, 1).unwrap().take(row(1), 1).is_none());
    assert_eq!(site.file.left(TURN).unwrap_err(), Unbelieved::Absent);
}

#[test]
fn marks_that_cannot_be_replaced_or_taken_away_are_an_error_that_names_them() {
    let site = Site::new();
    // Nobody can remove it as a file, or rename a file over it.
    std::fs::create_dir(&site.file.path).unwrap();
    for error in [site.file.take_away().err(), site.file.begin(TURN, 1).err()] {
        let words = error.expect("it stays").to_string();
        assert!(words.contains(&site.file.path.display().to_string()) && words.contains("let this user do that"), "{words}");
    }
}

#[test]
fn more_than_may_be_locked_in_memory_is_told() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")?.split_whitespace().next()).unwrap();
    let Ok(octets) = soft.parse::<u64>() else {
        skip("more_than_may_be_locked_in_memory_is_told", "all of the memory may be locked");
        return;
    };
    // Who may lock what he likes has no limit. Of this thread alone.
    let mut may = rustix::thread::capabilities(None).unwrap();
    may.effective.remove(rustix::thread::CapabilitySet::IPC_LOCK);
    rustix::thread::set_capabilities(None, may).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(octets + 4096).unwrap();
    assert!(Map::of(&file).unwrap().keep_in_memory().is_err());
}

#[test]
fn there_are_as_many_places_as_were_asked_for_and_no_bound_without_a_file() {
    assert_eq!(Site::new().file.begin(TURN, 7).unwrap().places(), 7);
    assert_eq!(Marks::none().places(), usize::MAX);
}
