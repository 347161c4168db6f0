//! Shows that the checker sees: evidence that is right passes, and with one thing wrong it does not.

use crate::check::{Change, Evidence, Found, Health, Row, Taken, check, figures};
use crate::scenario::{Line, Plan};

const RECIPIENTS: i64 = 4;
type Wrong = (&'static str, fn(&mut Evidence), fn(&Found) -> bool);

/// Each with what is done to the evidence, and what must be found then.
const WRONGS: [Wrong; 14] = [
    ("nothing", |_| {}, |found| *found == Found { unknown_listed: 1, ..Found::default() }),
    ("a row is missing", |e| drop(e.rows.remove(0)), |found| found.lost == 1),
    ("a row stays queued", |e| e.rows[0].state = "queued".to_owned(), |found| found.lost == 1),
    ("a row failed unasked", |e| e.rows[0].state = "failed".to_owned(), |found| found.lost == 1),
    ("the sink has no message", |e| drop(e.taken.remove(0)), |found| found.false_accepted == 1),
    (
        "the sink has another message",
        |e| e.taken[0].message_id = "1.9.x@acme.example".to_owned(),
        |found| found.false_accepted == 1 && !found.words.is_empty(),
    ),
    ("the sink has a message twice", |e| e.taken.push(e.taken[0].clone()), |found| found.duplicates == 1 && found.duplicates_unlisted == 1),
    (
        "a message came once more after its doubt",
        |e| sent_again(e, 2),
        |found| found.duplicates == 1 && found.duplicates_unlisted == 0 && found.unknown_listed == 1 && found.words.is_empty(),
    ),
    (
        "a message came twice more after one doubt",
        |e| sent_again(e, 3),
        |found| found.duplicates == 2 && found.duplicates_unlisted == 1 && !found.words.is_empty(),
    ),
    (
        "a message came twice before it was in doubt",
        |e| e.taken.extend([taken(RECIPIENTS), taken(RECIPIENTS)]),
        |found| found.duplicates == 1 && found.duplicates_unlisted == 1 && !found.words.is_empty(),
    ),
    ("an event is missing", |e| drop(e.events.remove(0)), |found| found.events_lost == 1),
    ("the email is not completed", |e| drop(e.progress.pop()), |found| found.events_lost == 1),
    ("a final change comes again as new", |e| e.events.push(Change { attempt: 2, ..e.events[0].clone() }), |found| found.events_twice == 1),
    ("health counts one more", |e| e.health = e.health.map(|h| Health { unknown: h.unknown + 1, ..h }), |found| found.events_twice == 1),
];

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    for (name, wrong, is_seen) in WRONGS {
        let mut evidence = right();
        wrong(&mut evidence);
        let found = check(&evidence);
        line.faults += 1;
        line.expect(is_seen(&found), || format!("{name}: {found:?}"));
    }
    line.recipients = RECIPIENTS as u64;
    line
}

/// All but the last are sent; that one is in doubt, and did not arrive.
fn right() -> Evidence {
    let state = |user| if user < RECIPIENTS { "sent" } else { "unknown" };
    let rows: Vec<Row> = (1..=RECIPIENTS).map(|user| row(user, state(user))).collect();
    Evidence {
        promised: rows.iter().map(|row| row.recipient.clone()).collect(),
        taken: (1..RECIPIENTS).map(taken).collect(),
        events: rows.iter().map(Row::change).collect(),
        progress: ["accepted", "started", "completed"].map(str::to_owned).to_vec(),
        health: Some(figures(&rows)),
        rows,
        ..Evidence::default()
    }
}

/// The one in doubt was sent again, and came so often in all.
fn sent_again(evidence: &mut Evidence, times: usize) {
    let row = evidence.rows.last_mut().expect("there is one in doubt");
    evidence.seen.insert(row.change());
    (row.attempts, row.state) = (2, "sent".to_owned());
    evidence.events.push(row.change());
    evidence.taken.extend(std::iter::repeat_with(|| taken(RECIPIENTS)).take(times));
}

fn row(user: i64, state: &str) -> Row {
    let (recipient, message_id) = (format!("user{user}@x.example"), message_id(user));
    Row { recipient, state: state.to_owned(), attempts: 1, message_id, reply: None }
}

fn taken(user: i64) -> Taken {
    Taken { recipient: format!("user{user}@x.example"), message_id: message_id(user) }
}

fn message_id(user: i64) -> String {
    format!("1.{user}.AbCdEfGh@acme.example")
}
