//! Which rows in hand may have left, and what a server said of them, in a file that outlives the process though not a loss of power.
//!
//! Each row in hand has a place in it from before a client sees it until the commit that takes the row out of `sending`: an
//! answer that came and was not committed stands there. The header names the boot and the turns of the database between which
//! the file holds, so that a start knows whether it tells of this database.
//!
//! Invariant: a row that is in `sending` and has no mark in a file that a start believes has certainly not left. Whatever makes that
//! doubtful makes the file unbelieved, and then all rows are in doubt.
//! Invariant: an answer is marked as one only while all of it stands there, and is of this attempt.
//! Invariant: a file is changed only by the process that made it; the next one puts its own in its place, once what this one left is
//! settled.

pub mod answer;
mod map;
#[cfg(test)]
mod tests;

use crate::model::name::{DeliveryKey, EmailNumber, OrgId, UserNumber};
use answer::{ANSWER_WORDS, Answer};
use map::{Map, WORD_OCTETS, is_on_reliable_file_system};
use postwarm_plugin_api::{KeepMarks, Mark, Outcome};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Says what the file is, and how it is laid out.
const MAGIC: u64 = u64::from_be_bytes(*b"pwmarks2");
/// The words of the header.
const FORM: usize = 0;
const PLACES: usize = 1;
const COMMITTED: usize = 2;
const INTENDED: usize = 3;
const WITHOUT_PLACE: usize = 4;
const BOOT: std::ops::Range<usize> = 5..13;
const HEADER_WORDS: usize = 16;
/// The words of a place: organization, email, user and attempt, how far the message came, and what a server said.
const FLAG: usize = 4;
const ANSWER: usize = 5;
const PLACE_WORDS: usize = ANSWER + ANSWER_WORDS;

/// A client was given the message.
const HANDED: u64 = 0b001;
/// The end of its data may have left.
const LEFT: u64 = 0b010;
/// A server has answered, and the place says what.
const ANSWERED: u64 = 0b100;
/// The bits below the ticket.
const BITS: u32 = 3;

/// How far a row came that an earlier process had in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// No client has it, or the one that had it gave it back.
    Nobody,
    /// A client that had not begun the end of its data: certainly unsent.
    Client,
    /// The end of its data may have left, and no answer is known.
    Wire,
    /// A server answered.
    Answered(Answer),
}

/// Why what an earlier process marked is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    #[error("it left no marks")]
    Absent,
    #[error("its marks cannot be read: {0}")]
    Unreadable(String),
    #[error("its marks come from the disk and not from memory, and may be old")]
    FromDisk,
    #[error("its marks have another form")]
    OtherForm,
    #[error("its marks are of another boot")]
    OtherBoot,
    #[error("its marks are of turn {committed} or {intended} of the database, which is at turn {database}")]
    OtherTurn { committed: i64, intended: i64, database: i64 },
    #[error("{0} of its rows had no place for a mark")]
    WithoutPlace(u64),
}

/// Marks that must go and cannot.
#[derive(Debug, thiserror::Error)]
#[error("the marks of an earlier process, {}, cannot be taken away: {error}; let this user do that, or remove them", path.display())]
pub struct Stays {
    path: PathBuf,
    error: io::Error,
}

/// Where the marks are kept, by one process after another.
#[derive(Debug, Clone)]
pub struct MarksFile {
    path: PathBuf,
    boot_id: String,
}

impl MarksFile {
    pub fn new(folder: &Path, boot_id: String) -> MarksFile {
        MarksFile { path: folder.join("sending.marks"), boot_id }
    }

    /// What an earlier process marked, where the database is at this turn. It stays until [`MarksFile::begin`]; what is not
    /// believed is to be taken away at once, as a look at it makes it look as if it had been in memory.
    pub fn left(&self, turn: i64) -> Result<Left, Unbelieved> {
        let unreadable = |error: io::Error| Unbelieved::Unreadable(error.to_string());
        // mincore tells the truth only to whom may write.
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unbelieved::Absent),
            opened => opened.map_err(unreadable)?,
        };
        let map = Map::of(&file).map_err(unreadable)?;
        if !map.is_in_memory().map_err(unreadable)? {
            return Err(Unbelieved::FromDisk);
        }
        Left::read(map.words(), &self.boot_id, turn)
    }

    /// Takes away what an earlier process marked: a later start might believe what tells of other rows.
    pub fn take_away(&self) -> Result<(), Stays> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Stays { path: self.path.clone(), error }),
            _ => Ok(()),
        }
    }

    /// Begins to mark, where the database is at this turn and has nothing in `sending`. Without a file nothing is marked, and a
    /// warning says so.
    pub fn begin(&self, turn: i64, places: usize) -> Result<Marks, Stays> {
        match self.make(turn, places) {
            Ok(map) => Ok(Marks::over(map, places)),
            Err(error) => {
                tracing::warn!(%error, "what leaves cannot be marked in the data folder: a kill leaves all rows in hand unknown");
                self.take_away()?;
                Ok(Marks::none())
            }
        }
    }

    fn make(&self, turn: i64, places: usize) -> io::Result<Map> {
        let boot = boot_words(&self.boot_id).ok_or_else(|| io::Error::other("nothing names this boot of the system"))?;
        let part = self.path.with_extension("marks.part");
        let _ = std::fs::remove_file(&part);
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&part)?;
        if !is_on_reliable_file_system(&file)? {
            return Err(io::Error::other("its file system is not ext4, XFS or tmpfs"));
        }
        // Written and flushed, so that every block is there: a page must not need room when the disk is full.
        file.write_all(&vec![0; (HEADER_WORDS + places * PLACE_WORDS) * WORD_OCTETS])?;
        file.sync_all()?;
        let map = Map::of(&file)?;
        // A page that was taken out of memory for want of it would make the next start believe nothing.
        if let Err(error) = map.keep_in_memory() {
            let octets = map.words().len() * WORD_OCTETS;
            tracing::warn!(%error, octets, "the marks may not be locked in memory: where it is short, a kill leaves all rows in hand unknown; allow that many octets with `ulimit -l`, LimitMEMLOCK or `ulimits.memlock`");
        }
        let words = map.words();
        let turn = turn as u64;
        for (word, value) in [(PLACES, places as u64), (COMMITTED, turn), (INTENDED, turn), (WITHOUT_PLACE, 0), (FORM, MAGIC)] {
            words[word].store(value, Ordering::Release);
        }
        words[BOOT].iter().zip(boot).for_each(|(word, value)| word.store(value, Ordering::Release));
        std::fs::rename(&part, &self.path)?;
        Ok(map)
    }
}

/// A boot's name, padded; `None` where there is none or it is too long.
fn boot_words(boot_id: &str) -> Option<[u64; BOOT.end - BOOT.start]> {
    let mut octets = [0; (BOOT.end - BOOT.start) * WORD_OCTETS];
    octets.get_mut(..boot_id.len()).filter(|room| !room.is_empty())?.copy_from_slice(boot_id.as_bytes());
    let mut words = [0; BOOT.end - BOOT.start];
    for (word, octets) in words.iter_mut().zip(octets.chunks_exact(WORD_OCTETS)) {
        octets.iter().for_each(|octet| *word = *word << 8 | u64::from(*octet));
    }
    Some(words)
}

/// How far each row came that had a place.
#[derive(Debug)]
pub struct Left(HashMap<(DeliveryKey, i64), Reached>);

impl Left {
    fn read(words: &[AtomicU64], boot_id: &str, turn: i64) -> Result<Left, Unbelieved> {
        let word = |place: usize| words.get(place).map_or(0, |word| word.load(Ordering::Acquire));
        let places = words.get(HEADER_WORDS..).unwrap_or_default();
        if word(FORM) != MAGIC || !places.len().is_multiple_of(PLACE_WORDS) || word(PLACES) != (places.len() / PLACE_WORDS) as u64 {
            return Err(Unbelieved::OtherForm);
        }
        if boot_words(boot_id).is_none_or(|boot| BOOT.zip(boot).any(|(place, value)| word(place) != value)) {
            return Err(Unbelieved::OtherBoot);
        }
        let (committed, intended) = (word(COMMITTED) as i64, word(INTENDED) as i64);
        if turn != committed && turn != intended {
            return Err(Unbelieved::OtherTurn { committed, intended, database: turn });
        }
        match word(WITHOUT_PLACE) {
            0 => {}
            rows => return Err(Unbelieved::WithoutPlace(rows)),
        }
        let mut left = HashMap::new();
        for place in places.chunks_exact(PLACE_WORDS) {
            let word = |at: usize| place[at].load(Ordering::Acquire);
            let reached = match word(FLAG) {
                flag if flag & ANSWERED != 0 => {
                    answer::decode(&std::array::from_fn(|at| word(ANSWER + at))).map_or(Reached::Wire, Reached::Answered)
                }
                flag if flag & LEFT != 0 => Reached::Wire,
                flag if flag & HANDED != 0 => Reached::Client,
                _ => continue,
            };
            let [org, email, user, attempt] = [0, 1, 2, 3].map(|at| word(at) as i64);
            let row = DeliveryKey { org: OrgId(org), email: EmailNumber(email), user: UserNumber(user) };
            // Never two tell of one attempt. If they did, nobody could say which is right.
            left.entry((row, attempt)).and_modify(|before| *before = Reached::Wire).or_insert(reached);
        }
        Ok(Left(left))
    }

    /// How far the row came in this attempt. What a place still tells of an earlier one was committed.
    pub fn of(&self, row: DeliveryKey, attempt: i64) -> Reached {
        self.0.get(&(row, attempt)).cloned().unwrap_or(Reached::Nobody)
    }
}

/// The place of a row in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    index: usize,
    /// Tells the rows apart that have had the place: what comes late for one of them does not touch another's mark.
    ticket: u64,
}

/// The places of this process, for the one who takes rows in hand.
pub struct Marks {
    kept: Option<Arc<Kept>>,
    free: Vec<usize>,
    ticket_last: u64,
    /// Rows in hand that found no place: there are more than when the process started.
    without_place: u64,
    /// What the next commit takes out of `sending`.
    leaving: Vec<Option<Place>>,
}

impl Marks {
    /// Marks nothing.
    pub fn none() -> Marks {
        Marks { kept: None, free: Vec::new(), ticket_last: 0, without_place: 0, leaving: Vec::new() }
    }

    fn over(map: Map, places: usize) -> Marks {
        Marks { kept: Some(Arc::new(Kept(map))), free: (0..places).rev().collect(), ..Marks::none() }
    }

    /// How many rows may be in hand so that each has a place; no bound where nothing is marked.
    pub fn places(&self) -> usize {
        self.kept.as_deref().map_or(usize::MAX, |kept| (kept.0.words().len() - HEADER_WORDS) / PLACE_WORDS)
    }

    /// Gives a row that is in `sending` now a place for this attempt; `None` where there is none.
    pub fn take(&mut self, row: DeliveryKey, attempt: i64) -> Option<Place> {
        let kept = self.kept.as_deref()?;
        let Some(index) = self.free.pop() else {
            self.without_place += 1;
            kept.store(WITHOUT_PLACE, self.without_place);
            return None;
        };
        self.ticket_last += 1;
        let words = kept.place(index);
        for (word, number) in words.iter().zip([row.org.0, row.email.0, row.user.0, attempt]) {
            word.store(number as u64, Ordering::Release);
        }
        words[FLAG].store(self.ticket_last << BITS, Ordering::Release);
        Some(Place { index, ticket: self.ticket_last })
    }

    /// What marks the place, to go with the message.
    pub fn marker(&self, place: Option<Place>) -> Option<Marker> {
        Some(Marker { kept: self.kept.clone()?, place: place? })
    }

    /// The row's client has certainly not sent it.
    pub fn clear(&self, place: Option<Place>) {
        if let (Some(kept), Some(place)) = (&self.kept, place) {
            kept.change(place, |_| 0);
        }
    }

    /// The next commit takes the row out of `sending`.
    pub fn leaves(&mut self, place: Option<Place>) {
        if self.kept.is_some() {
            self.leaving.push(place);
        }
    }

    /// The database comes to this turn now, or stays where it is.
    pub fn intend(&self, turn: i64) {
        if let Some(kept) = &self.kept {
            kept.store(INTENDED, turn as u64);
        }
    }

    /// The database has come to this turn: what left in it needs its place no more.
    pub fn committed(&mut self, turn: i64) {
        let Some(kept) = &self.kept else { return };
        kept.store(COMMITTED, turn as u64);
        let had_room = self.without_place == 0;
        for place in self.leaving.drain(..) {
            match place {
                Some(place) => {
                    kept.place(place.index)[FLAG].store(0, Ordering::Release);
                    self.free.push(place.index);
                }
                None => self.without_place = self.without_place.saturating_sub(1),
            }
        }
        if !had_room {
            kept.store(WITHOUT_PLACE, self.without_place);
        }
    }
}

/// Marks one row.
pub struct Marker {
    kept: Arc<Kept>,
    place: Place,
}

impl Marker {
    /// A client is given the message. What a server said to one before it in this attempt holds no more.
    pub fn handed(&self) {
        self.kept.change(self.place, |bits| bits & !ANSWERED | HANDED);
    }

    /// The end of its data may leave from now on.
    pub fn left(&self) {
        self.kept.set(self.place.index, self.place.ticket);
    }

    /// The client has certainly not sent it.
    pub fn unsent(&self) {
        self.kept.change(self.place, |_| 0);
    }

    /// For a client that marks the end of data itself.
    pub fn mark(&self) -> Mark {
        Mark::new(self.kept.clone(), self.place.index, self.place.ticket)
    }

    /// The client's outcome came at this wall time. Where no server said it, or it is too long, the row stays as it is marked.
    pub fn answered(&self, outcome: &Outcome, at: i64) {
        let Some(words) = answer::encode(outcome, at) else { return };
        // Until all of it stands there, nothing does.
        if !self.kept.change(self.place, |bits| bits & !ANSWERED) {
            return;
        }
        for (word, value) in self.kept.place(self.place.index)[ANSWER..].iter().zip(words.used()) {
            word.store(*value, Ordering::Release);
        }
        self.kept.change(self.place, |bits| bits | ANSWERED);
    }
}

/// The file, shared with all who mark.
struct Kept(Map);

impl Kept {
    fn store(&self, word: usize, value: u64) {
        self.0.words()[word].store(value, Ordering::Release);
    }

    fn place(&self, index: usize) -> &[AtomicU64] {
        &self.0.words()[HEADER_WORDS + index * PLACE_WORDS..][..PLACE_WORDS]
    }

    /// Changes how far the row came that has the place. Tells whether it still has it; else there is nothing to mark.
    fn change(&self, place: Place, bits: impl Fn(u64) -> u64) -> bool {
        let changed = |now: u64| (now >> BITS == place.ticket).then(|| place.ticket << BITS | bits(now & (HANDED | LEFT | ANSWERED)));
        self.place(place.index)[FLAG].fetch_update(Ordering::AcqRel, Ordering::Acquire, changed).is_ok()
    }
}

impl KeepMarks for Kept {
    fn set(&self, index: usize, ticket: u64) {
        self.change(Place { index, ticket }, |bits| bits | LEFT);
    }

    fn clear(&self, index: usize, ticket: u64) {
        self.change(Place { index, ticket }, |bits| bits & !LEFT);
    }
}
