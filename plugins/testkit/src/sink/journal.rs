//! What reached a sink, in order, in memory and where wanted in a file.
//!
//! Invariant: with a file, an entry is on disk before a reply that follows it leaves.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How long [`Journal::wait_for`] waits before it gives up and fails the test.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number of the connection, from 1.
    pub connection: usize,
    /// The number of the read, within the connection, that completed it.
    pub read: usize,
    /// When it happened: microseconds since the sink started.
    #[serde(default)]
    pub at_us: u64,
    pub fact: Fact,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    Connected,
    Encrypted,
    TlsFailed,
    Ehlo(String),
    /// Credentials arrived.
    Auth {
        mechanism: String,
        accepted: bool,
        encrypted: bool,
    },
    /// The whole MAIL command line.
    Mail(String),
    /// The whole RCPT command line.
    Rcpt(String),
    Data,
    /// A content arrived in full.
    Content {
        to: Vec<String>,
        /// Without dot-stuffing; empty where the script keeps no contents.
        bytes: Vec<u8>,
        /// The octets as they came, the end of data included; empty where the script keeps no contents.
        #[serde(default)]
        wire: Vec<u8>,
    },
    /// The sink took responsibility for a message.
    Accepted {
        to: Vec<String>,
        /// The Message-ID without angle brackets; empty where the content has none.
        #[serde(default)]
        message_id: String,
    },
    /// Another command.
    Command(String),
    Replied(String),
    Closed,
}

/// The entries of one sink.
#[derive(Debug)]
pub struct Journal {
    started: Instant,
    entries: Mutex<Vec<Entry>>,
    file: Option<Mutex<Written>>,
    changed: Notify,
    accepted: watch::Sender<usize>,
}

/// The journal's file, and whether it has what is not on disk yet.
#[derive(Debug)]
struct Written {
    file: File,
    is_behind: bool,
}

impl Journal {
    pub(crate) fn new(file: Option<&Path>) -> Journal {
        let open = |path: &Path| {
            File::options().create(true).append(true).open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
        };
        let file = file.map(|path| Mutex::new(Written { file: open(path), is_behind: false }));
        Journal { started: Instant::now(), entries: Mutex::default(), file, changed: Notify::new(), accepted: watch::Sender::new(0) }
    }

    pub(crate) fn push(&self, connection: usize, read: usize, fact: Fact) {
        let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let entry = Entry { connection, read, at_us, fact };
        if let Some(file) = &self.file {
            let mut line = serde_json::to_vec(&entry).expect("an entry is plain data");
            line.push(b'\n');
            let mut written = file.lock().expect("nothing panics while it holds the file");
            written.file.write_all(&line).expect("the journal file can be written");
            written.is_behind = true;
        }
        let is_accepted = matches!(entry.fact, Fact::Accepted { .. });
        self.lock().push(entry);
        if is_accepted {
            self.accepted.send_modify(|count| *count += 1);
        }
        self.changed.notify_waiters();
    }

    /// Brings to disk what is not there yet: one flush serves all replies that wait to leave.
    pub(crate) fn sync(&self) {
        let Some(file) = &self.file else { return };
        let mut written = file.lock().expect("nothing panics while it holds the file");
        if std::mem::replace(&mut written.is_behind, false) {
            written.file.sync_data().expect("the journal file can be written");
        }
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    /// Everything from the entry with this place on.
    pub fn entries_from(&self, place: usize) -> Vec<Entry> {
        self.lock().get(place..).map(<[Entry]>::to_vec).unwrap_or_default()
    }

    /// The place of the next entry.
    pub fn next_place(&self) -> usize {
        self.lock().len()
    }

    /// Counts entries.
    pub fn count(&self, is_counted: impl Fn(&Entry) -> bool) -> usize {
        self.lock().iter().filter(|entry| is_counted(entry)).count()
    }

    /// The connections so far.
    pub fn connections(&self) -> usize {
        self.count(|entry| entry.fact == Fact::Connected)
    }

    /// The recipients of accepted messages, in order.
    pub fn accepted(&self) -> Vec<String> {
        let entries = self.lock();
        let accepted = entries.iter().filter_map(|entry| match &entry.fact {
            Fact::Accepted { to, .. } => Some(to.clone()),
            _ => None,
        });
        accepted.flatten().collect()
    }

    /// What its times count from.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How many messages were accepted so far.
    pub fn accepted_count(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits until so many messages are accepted.
    pub async fn accepts(&self, count: usize) {
        // The journal itself holds the sender.
        let _ = self.accepted.subscribe().wait_for(|accepted| *accepted >= count).await;
    }

    /// Recipient and Message-ID of all that was accepted, in order.
    pub fn accepted_messages(&self) -> Vec<(String, String)> {
        let entries = self.lock();
        let accepted = entries.iter().filter_map(|entry| match &entry.fact {
            Fact::Accepted { to, message_id } => Some(to.iter().map(|recipient| (recipient.clone(), message_id.clone()))),
            _ => None,
        });
        accepted.flatten().collect()
    }

    /// When a message was accepted for each recipient, in order: microseconds since the sink started.
    pub fn accepted_at_us(&self) -> Vec<(u64, String)> {
        let entries = self.lock();
        let accepted = entries.iter().filter_map(|entry| match &entry.fact {
            Fact::Accepted { to, .. } => Some(to.iter().map(|recipient| (entry.at_us, recipient.clone()))),
            _ => None,
        });
        accepted.flatten().collect()
    }

    /// Waits until the entries are as wanted. Fails the test where they are not within 30 seconds.
    pub async fn wait_for(&self, is_wanted: impl Fn(&[Entry]) -> bool) {
        let waiting = async {
            loop {
                let mut changed = pin!(self.changed.notified());
                changed.as_mut().enable();
                if is_wanted(&self.lock()) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(WAIT_MAX, waiting).await.is_err() {
            panic!("what the test waits for did not happen; the journal has {:#?}", self.entries());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().expect("nothing panics while it holds the journal")
    }
}
