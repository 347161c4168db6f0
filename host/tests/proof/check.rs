//! The checker: per recipient, what the sink took against what REST says, what the topics tell and what health counts.
//!
//! Invariant: pure. It knows no process, file or port; `broadcast` gathers what it compares.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Words for the first few recipients of a kind are enough to find out more.
const WORDS_MAX: usize = 5;
const WORDS_IN_ALL_MAX: usize = 30;

/// A delivery as `GET /emails/{id}/deliveries` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub recipient: String,
    pub state: String,
    pub attempts: u64,
    /// Without angle brackets.
    pub message_id: String,
    /// A server's reply with its code, or a sentence of ours.
    pub reply: Option<String>,
}

/// A change of a delivery: what an event's id says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    pub email: i64,
    pub user: i64,
    pub attempt: u64,
    pub state: String,
}

/// One message that a sink took responsibility for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub recipient: String,
    /// Without angle brackets.
    pub message_id: String,
}

impl Taken {
    /// The number of its email; 0 where its Message-ID has none.
    pub fn email(&self) -> i64 {
        numbers(&self.message_id).0
    }
}

/// The figures of `GET /mail_stats` that the log alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    pub recipients: i64,
    pub bounced: i64,
    pub suppressed: i64,
    pub pending: i64,
    pub unknown: i64,
}

/// Everything that is known of one email when all is over.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Whom the 202 promised to reach.
    pub promised: Vec<String>,
    pub rows: Vec<Row>,
    pub taken: Vec<Taken>,
    /// Changes that REST showed at any time, besides those of the rows.
    pub seen: BTreeSet<Change>,
    /// Every record of the recipients' topic about this email, in the order of the log.
    pub events: Vec<Change>,
    /// The progress that the emails' topic tells, in order.
    pub progress: Vec<String>,
    /// `None` where no health service ran.
    pub health: Option<Health>,
    /// Final states besides `sent` and `unknown` in which a recipient is not lost.
    pub may_end: Vec<&'static str>,
}

/// What the checker found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Promised recipients without a final state that accounts for them.
    pub lost: u64,
    /// Shown as sent, though no sink accepted that Message-ID.
    pub false_accepted: u64,
    /// Accepted more than once: each further time counts.
    pub duplicates: u64,
    /// Of these, those for which no doubt of their own was listed before.
    #[serde(skip)]
    pub duplicates_unlisted: u64,
    /// Doubts that REST listed.
    pub unknown_listed: u64,
    /// Of the doubts that remain, those whose message a sink accepted.
    #[serde(skip)]
    pub unknown_arrived: u64,
    /// Changes without an event, or that health did not apply.
    pub events_lost: u64,
    /// Final changes told again as if they were new, or that health applied twice.
    pub events_twice: u64,
    /// Records that came again with the same id, which is allowed.
    #[serde(skip)]
    pub repeated: u64,
    /// The first recipients of each kind.
    #[serde(skip)]
    pub words: Vec<String>,
}

impl Found {
    pub fn add(&mut self, other: Found) {
        self.lost += other.lost;
        self.false_accepted += other.false_accepted;
        self.duplicates += other.duplicates;
        self.duplicates_unlisted += other.duplicates_unlisted;
        self.unknown_listed += other.unknown_listed;
        self.unknown_arrived += other.unknown_arrived;
        self.events_lost += other.events_lost;
        self.events_twice += other.events_twice;
        self.repeated += other.repeated;
        self.words.extend(other.words);
    }
}

impl Row {
    /// The numbers of the email and the user are the first parts of a Message-ID.
    pub fn change(&self) -> Change {
        let (email, user) = numbers(&self.message_id);
        Change { email, user, attempt: self.attempts, state: self.state.clone() }
    }

    fn is_refused(&self) -> bool {
        self.reply.as_deref().and_then(|reply| reply.get(..3)).is_some_and(|code| code.bytes().all(|octet| octet.is_ascii_digit()))
    }
}

fn numbers(message_id: &str) -> (i64, i64) {
    let mut parts = message_id.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Compares it all.
pub fn check(evidence: &Evidence) -> Found {
    let mut found = Found::default();
    deliveries(evidence, &mut found);
    copies(evidence, &mut found);
    events(evidence, &mut found);
    health(evidence, &mut found);
    let more = found.words.len().saturating_sub(WORDS_IN_ALL_MAX);
    if more > 0 {
        found.words.truncate(WORDS_IN_ALL_MAX);
        found.words.push(format!("and {more} more"));
    }
    found
}

/// Notes a finding in words, as long as there are few of its kind.
fn tell(nth: u64, found: &mut Found, words: impl FnOnce() -> String) {
    if nth as usize <= WORDS_MAX {
        found.words.push(words());
    }
}

fn deliveries(evidence: &Evidence, found: &mut Found) {
    let rows: HashMap<&str, &Row> = evidence.rows.iter().map(|row| (row.recipient.as_str(), row)).collect();
    let taken: HashSet<&str> = evidence.taken.iter().map(|taken| taken.message_id.as_str()).collect();
    for recipient in &evidence.promised {
        let Some(row) = rows.get(recipient.as_str()) else {
            found.lost += 1;
            tell(found.lost, found, || format!("{recipient} was promised and has no row"));
            continue;
        };
        let state = row.state.as_str();
        if !["sent", "unknown"].contains(&state) && !evidence.may_end.contains(&state) {
            found.lost += 1;
            tell(found.lost, found, || format!("{recipient} ended {state}: {:?}", row.reply));
        }
        found.unknown_arrived += u64::from(state == "unknown" && taken.contains(row.message_id.as_str()));
        if state == "sent" && !taken.contains(row.message_id.as_str()) {
            found.false_accepted += 1;
            tell(found.false_accepted, found, || format!("{recipient} is shown as sent; the sink never accepted {}", row.message_id));
        }
    }
    let listed = evidence.seen.iter().cloned().chain(evidence.rows.iter().map(Row::change)).filter(|change| change.state == "unknown");
    found.unknown_listed = listed.collect::<BTreeSet<_>>().len() as u64;
    let promised: HashSet<&str> = evidence.promised.iter().map(String::as_str).collect();
    let strangers = rows.keys().filter(|recipient| !promised.contains(*recipient)).count();
    if evidence.rows.len() != rows.len() || strangers > 0 {
        found.words.push(format!("{} rows are of {} recipients, {strangers} of them not promised", evidence.rows.len(), rows.len()));
    }
}

/// A copy is a second acceptance for the same recipient of the same email, whatever its Message-ID.
fn copies(evidence: &Evidence, found: &mut Found) {
    let known = || evidence.seen.iter().cloned().chain(evidence.rows.iter().map(Row::change));
    let mut doubts: HashMap<(i64, i64), BTreeSet<u64>> = HashMap::new();
    for doubt in known().chain(evidence.events.iter().cloned()).filter(|change| change.state == "unknown") {
        doubts.entry((doubt.email, doubt.user)).or_default().insert(doubt.attempt);
    }
    let rows: HashMap<&str, &Row> = evidence.rows.iter().map(|row| (row.recipient.as_str(), row)).collect();
    let mut times: HashMap<(&str, i64), u64> = HashMap::new();
    for taken in &evidence.taken {
        let (email, user) = numbers(&taken.message_id);
        let row = rows.get(taken.recipient.as_str());
        if row.is_none_or(|row| row.message_id != taken.message_id) {
            found.words.push(format!("the sink accepted {} for {}, of which REST does not know", taken.message_id, taken.recipient));
        }
        let times = times.entry((&taken.recipient, email)).or_default();
        *times += 1;
        if *times > 1 {
            found.duplicates += 1;
            let may_be = acceptances(row.copied(), doubts.get(&(email, user)));
            if *times > may_be {
                found.duplicates_unlisted += 1;
                tell(found.duplicates_unlisted, found, || {
                    format!("{} was accepted {times} times; its doubts allow {may_be}", taken.recipient)
                });
            }
        }
    }
}

/// How often a message may have been accepted: at each attempt in doubt once, and at the one that is shown as sent. Only a doubt
/// that was listed before another attempt allows a copy.
fn acceptances(row: Option<&Row>, doubts: Option<&BTreeSet<u64>>) -> u64 {
    let doubts_before = |attempt: u64| doubts.map_or(0, |doubts| doubts.range(..attempt).count() as u64);
    match row {
        Some(row) if row.state == "sent" => doubts_before(row.attempts) + 1,
        _ => doubts_before(u64::MAX).max(1),
    }
}

/// Within an attempt a later state settles an earlier one.
fn rank(state: &str) -> u8 {
    ["deferred", "unknown", "sent", "failed", "suppressed"].iter().position(|known| *known == state).map_or(0, |at| at as u8)
}

fn events(evidence: &Evidence, found: &mut Found) {
    let told: HashSet<&Change> = evidence.events.iter().collect();
    found.repeated = (evidence.events.len() - told.len()) as u64;
    let of_rows = evidence.rows.iter().map(Row::change);
    let changes: BTreeSet<Change> =
        evidence.seen.iter().cloned().chain(of_rows).filter(|change| !["queued", "sending"].contains(&change.state.as_str())).collect();
    for change in changes.iter().filter(|change| !told.contains(change)) {
        found.events_lost += 1;
        tell(found.events_lost, found, || format!("no event tells of {change:?}"));
    }
    for wanted in ["accepted", "started", "completed"] {
        if !evidence.progress.iter().any(|progress| progress == wanted) {
            found.events_lost += 1;
            found.words.push(format!("no event tells that the email was {wanted}"));
        }
    }
    let mut of_delivery: BTreeMap<(i64, i64), Vec<&Change>> = BTreeMap::new();
    told.iter().for_each(|change| of_delivery.entry((change.email, change.user)).or_default().push(change));
    let ends: HashMap<(i64, i64), Change> =
        evidence.rows.iter().map(Row::change).map(|change| ((change.email, change.user), change)).collect();
    for (delivery, mut changes) in of_delivery {
        changes.sort_by_key(|change| (change.attempt, rank(&change.state)));
        for pair in changes.windows(2) {
            // After an end nothing follows; a doubt is no end, and what is unknown may be dropped.
            if ["sent", "failed", "suppressed"].contains(&pair[0].state.as_str()) {
                found.events_twice += 1;
                tell(found.events_twice, found, || format!("{:?} follows {:?}", pair[1], pair[0]));
            }
        }
        let last = changes.last().expect("each entry was made with a change");
        match ends.get(&delivery) {
            None => found.words.push(format!("an event tells of {last:?}, of which REST does not know")),
            Some(end) if end != *last && told.contains(end) => {
                found.words.push(format!("the last event of {delivery:?} is {last:?}; REST says {end:?}"));
            }
            Some(_) => {}
        }
    }
}

/// What health must say of these rows where no feedback loop can tell.
pub fn figures(rows: &[Row]) -> Health {
    let mut figures = Health { recipients: rows.len() as i64, ..Health::default() };
    for row in rows {
        match row.state.as_str() {
            "sent" | "unknown" => figures.unknown += 1,
            "failed" if row.is_refused() => figures.bounced += 1,
            "failed" => figures.unknown += 1,
            "suppressed" => figures.suppressed += 1,
            _ => figures.pending += 1,
        }
    }
    figures
}

fn health(evidence: &Evidence, found: &mut Found) {
    let Some(health) = evidence.health else { return };
    let wanted = figures(&evidence.rows);
    if health == wanted {
        return;
    }
    found.words.push(format!("health says {health:?}; the rows are {wanted:?}"));
    let pairs = [
        (health.recipients, wanted.recipients),
        (health.bounced, wanted.bounced),
        (health.suppressed, wanted.suppressed),
        (health.unknown, wanted.unknown),
    ];
    for (is, should) in pairs {
        found.events_lost += (should - is).max(0) as u64;
        found.events_twice += (is - should).max(0) as u64;
    }
}
