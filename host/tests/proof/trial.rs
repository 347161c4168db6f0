//! A broadcast that is broken off again and again, and what each break met and left.

use crate::broadcast::{Broadcast, all_closed, site, within};
use crate::check::Evidence;
use crate::harness::{Postwarm, Site};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::{Entry, Fact};
use postwarm_plugin_testkit::sink::script::{Action, Gate, Rule, Script, Step};
use std::collections::HashSet;
use std::time::Duration;

/// The default of `sending_rows_max`: as many rows may be in hand, and in doubt where no marks tell of them.
pub const SENDING_ROWS_MAX: usize = 512;
/// As many rows as a break was seen to leave in doubt at the most. It only places the breaks; what is allowed is [`SENDING_ROWS_MAX`].
const IN_DOUBT: usize = 128;
/// The connections of [`site`]: as many final dots may be on their way and not have come to the sink.
pub const CONNECTIONS: usize = 10;
/// The calls of the built-in client, three a connection: the rows whose final dot may have left and whose answer is not known to the host.
pub const CALLS: usize = 3 * CONNECTIONS;

/// What the log says where a start went by what the killed process had marked.
const BELIEVED: &str = "what was answered is settled so";
/// In front of how many rows were.
const ANSWERED: &str = "answered=";
/// What it says where the marks were not in memory any more.
const FROM_DISK: &str = "its marks come from the disk";
/// What it says where the data folder can hold no marks.
const NO_MARKS: &str = "cannot be marked in the data folder";

/// When a break falls.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// So many microseconds after its target.
    Any(u64),
    /// Once so many connections wait for the reply to their final dot, before the sink accepts these messages.
    Dot(usize),
    /// The same, after it has accepted them.
    AcceptedDot(usize),
}

impl Moment {
    /// Any moment within some milliseconds.
    pub fn any(rng: &mut fastrand::Rng) -> Moment {
        Moment::Any(rng.u64(..3_000))
    }

    /// Every connection waits for the reply to its final dot.
    pub fn stall(rng: &mut fastrand::Rng) -> Moment {
        if rng.bool() { Moment::Dot(CONNECTIONS) } else { Moment::AcceptedDot(CONNECTIONS) }
    }

    /// Between a final dot and its reply.
    pub fn dot(rng: &mut fastrand::Rng) -> Moment {
        let connections = rng.usize(1..=CONNECTIONS);
        if rng.bool() { Moment::Dot(connections) } else { Moment::AcceptedDot(connections) }
    }

    pub fn is_at_dot(&self) -> bool {
        !matches!(self, Moment::Any(_))
    }
}

/// What one break met and left.
#[derive(Debug, Clone, Copy)]
pub struct Break {
    /// Connections with a transaction open.
    pub open: usize,
    /// Rows that came to be in doubt.
    pub doubts: usize,
    /// Of these, those whose content the sink never had in full.
    pub unseen: usize,
}

/// So many accepted messages after which the breaks of a broadcast fall. What is in doubt by then is left out, so that the
/// broadcast still runs when the turn of the last one comes.
pub fn targets(rng: &mut fastrand::Rng, recipients: usize, breaks: usize) -> Vec<usize> {
    let span = recipients / breaks - IN_DOUBT;
    (0..breaks).map(|nth| nth * span + rng.usize(..span)).collect()
}

/// What holds replies to final dots: before a message is accepted, and after it.
#[derive(Clone)]
pub struct Gates {
    before: Gate,
    after: Gate,
}

impl Gates {
    /// Lets go what is held.
    pub fn open(&self) {
        self.before.open();
        self.after.open();
    }
}

/// A broadcast under way.
pub struct Trial {
    pub sink: Sink,
    pub site: Site,
    gates: Gates,
    /// The folder of the sink's journal.
    _journal: tempfile::TempDir,
    running: Option<(Postwarm, Broadcast)>,
    place: usize,
}

impl Trial {
    /// A sink with a journal on disk, and a site that sends to it; `organization` is added to the organization's file.
    pub async fn prepare(organization: &str, reply_delay: Duration) -> Trial {
        let gates = Gates { before: Gate::opened(), after: Gate::opened() };
        let journal = tempfile::tempdir().unwrap();
        let journal_file = Some(journal.path().join("journal"));
        let script = Script { keep_content: false, journal_file, reply_delay, ..Script::default() }
            .rule(Rule::new(Step::EndOfData, Action::Hold(gates.before.clone())).while_closed(&gates.before))
            .rule(Rule::new(Step::EndOfData, Action::Hold(gates.after.clone()).accept_then()).while_closed(&gates.after));
        let sink = Sink::start(script).await;
        let site = site(&sink, organization);
        Trial { sink, site, gates, _journal: journal, running: None, place: 0 }
    }

    /// Starts the process and broadcasts.
    pub async fn begin(&mut self, recipients: usize) {
        let postwarm = self.site.serve();
        let broadcast = Broadcast::begin(&postwarm, recipients).await;
        self.running = Some((postwarm, broadcast));
    }

    /// Waits for the moment after so many accepted messages; answers how many connections are held at a dot.
    pub async fn reach(&mut self, target: usize, moment: Moment) -> usize {
        within(&format!("{target} messages"), self.sink.journal().accepts(target)).await;
        let (gate, connections) = match moment {
            Moment::Any(us) => {
                tokio::time::sleep(Duration::from_micros(us)).await;
                return 0;
            }
            Moment::Dot(connections) => (&self.gates.before, connections),
            Moment::AcceptedDot(connections) => (&self.gates.after, connections),
        };
        gate.close();
        within("replies to be held", gate.holds(connections)).await;
        connections
    }

    /// What holds the replies that [`Trial::reach`] waited for.
    pub fn gates(&self) -> Gates {
        self.gates.clone()
    }

    /// Ends the process as `how` says, starts it again and counts.
    pub async fn broken_by(&mut self, held: usize, how: impl AsyncFnOnce(Postwarm, &Site)) -> Break {
        let (postwarm, mut broadcast) = self.running.take().expect("it runs between breaks");
        how(postwarm, &self.site).await;
        self.gates.open();
        all_closed(&self.sink).await;
        let entries = self.sink.journal().entries_from(self.place);
        self.place = self.sink.journal().next_place();
        // It prints its addresses when it has recovered.
        let postwarm = self.site.serve();
        let doubts = broadcast.new_doubts(&postwarm).await;
        let seen = contents(&entries);
        let unseen = doubts.iter().filter(|row| !seen.contains(row.recipient.as_str())).count();
        let found = Break { open: held.max(open_transactions(&entries)), doubts: doubts.len(), unseen };
        self.running = Some((postwarm, broadcast));
        found
    }

    /// Waits until what is in doubt has been sent again.
    pub async fn resent(&self) {
        let (postwarm, broadcast) = self.running.as_ref().expect("it runs between breaks");
        postwarm.counts_when(broadcast.email, |counts| counts["unknown"] == 0).await;
    }

    /// How many starts went by what the process before had marked.
    pub fn starts_by_marks(&self) -> usize {
        self.site.log().matches(BELIEVED).count()
    }

    /// How many rows such starts settled as their server had answered.
    pub fn rows_answered(&self) -> usize {
        let log = self.site.log();
        let told = log.lines().filter(|line| line.contains(BELIEVED)).filter_map(|line| line.split_once(ANSWERED));
        told.filter_map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()).sum()
    }

    /// How many starts found marks that came from the disk, and did not believe them.
    pub fn starts_with_marks_of_the_disk(&self) -> usize {
        self.site.log().matches(FROM_DISK).count()
    }

    /// Tells whether what leaves is marked here at all.
    pub fn marks(&self) -> bool {
        !self.site.log().contains(NO_MARKS)
    }

    /// Waits for the end, and gathers all that is known.
    pub async fn end(&mut self) -> Evidence {
        let (postwarm, broadcast) = self.running.take().expect("it runs between breaks");
        broadcast.evidence(postwarm, &self.site, &[&self.sink]).await
    }
}

/// To whom a content arrived in full.
fn contents(entries: &[Entry]) -> HashSet<&str> {
    let contents = entries.iter().filter_map(|entry| match &entry.fact {
        Fact::Content { to, .. } => Some(to.iter().map(String::as_str)),
        _ => None,
    });
    contents.flatten().collect()
}

/// How many connections ended between a MAIL and what settled it.
fn open_transactions(entries: &[Entry]) -> usize {
    let (mut open, mut broken) = (HashSet::new(), 0);
    for entry in entries {
        match &entry.fact {
            Fact::Mail(_) => drop(open.insert(entry.connection)),
            Fact::Accepted { .. } | Fact::Command(_) => drop(open.remove(&entry.connection)),
            Fact::Closed => broken += usize::from(open.remove(&entry.connection)),
            _ => {}
        }
    }
    broken
}
