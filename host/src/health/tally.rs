//! What one delivery counts as: pure decisions about states, attempts and evidence.
//!
//! Invariant: applying a change or a fact again, or in another order, ends in the same delivery. Every delivery counts
//! in exactly one of unsent, waiting, expired, doubt, suppressed, bounced and delivered.

use crate::model::delivery::{Source, State};
use crate::model::event::RecipientChanged;
use crate::model::message_id::RecipientMessageId;
use postwarm_plugin_api::FactKind;
use std::ops::{AddAssign, SubAssign};

/// What is known of a delivery besides its state: a bit for each kind of fact, and the two below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub i64);

impl Flags {
    /// It failed, and no server refused it: a person dropped it while it was unknown, or no client could carry it.
    pub const UNREFUSED: Flags = Flags(1 << 6);
    /// It is no longer watched.
    pub const EXPIRED: Flags = Flags(1 << 7);
    /// The facts that imply arrival: all but bounced.
    const ARRIVED: Flags = Flags(0b10_1111);
    const FACTS: Flags = Flags(0b11_1111);

    pub fn of(kind: FactKind) -> Flags {
        Flags(1 << kind_number(kind))
    }

    pub fn has_any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The number that stands for a kind in the database.
pub fn kind_number(kind: FactKind) -> i64 {
    match kind {
        FactKind::Delivered => 0,
        FactKind::Spam => 1,
        FactKind::Opened => 2,
        FactKind::Read => 3,
        FactKind::Bounced => 4,
        FactKind::Unsubscribed => 5,
    }
}

/// A delivery as last applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub state: State,
    pub attempt: i64,
    pub source: Source,
    /// The number of its recipient domain and provider together.
    pub place: i64,
    /// The token of its Message-ID; -1 where the id has another form.
    pub token: i64,
    /// When it came to be sent or unknown, in milliseconds since 1970 UTC; 0 where it is neither.
    pub sent_at: i64,
    pub flags: Flags,
}

impl Delivery {
    /// The delivery that a change describes, without evidence.
    pub fn from_change(change: &RecipientChanged, place: i64) -> Delivery {
        let unrefused = change.state == State::Failed && (change.dropped || change.said.reply.is_none());
        Delivery {
            state: change.state,
            attempt: change.attempt,
            source: change.source,
            place,
            token: RecipientMessageId::parse(&change.message_id).map_or(-1, |id| id.token),
            sent_at: if is_watched(change.state) { change.at } else { 0 },
            flags: if unrefused { Flags::UNREFUSED } else { Flags::default() },
        }
    }

    /// Tells whether `self` is later than `other`: by attempt, then by what may follow within an attempt.
    pub fn supersedes(&self, other: &Delivery) -> bool {
        (self.attempt, rank(self.state)) > (other.attempt, rank(other.state))
    }

    /// Keeps the evidence that an earlier state of the same delivery had.
    #[must_use]
    pub fn with_evidence_of(mut self, earlier: &Delivery) -> Delivery {
        self.flags = self.flags.with(Flags(earlier.flags.0 & Flags::FACTS.0));
        self
    }

    /// Tells whether a loop may still have news of it.
    pub fn is_watched(&self) -> bool {
        is_watched(self.state) && !self.flags.has_any(Flags::EXPIRED)
    }

    /// What it counts as.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        match self.source {
            Source::Live => tally.live = 1,
            Source::Backfill => tally.backfill = 1,
        }
        // Evidence beats what the SMTP dialogue said; arrival beats a bounce, for it was seen.
        if self.flags.has_any(Flags::ARRIVED) {
            tally.delivered = 1;
            tally.opened = i64::from(self.flags.has_any(Flags::of(FactKind::Opened)));
            tally.read = i64::from(self.flags.has_any(Flags::of(FactKind::Read)));
            tally.spam = i64::from(self.flags.has_any(Flags::of(FactKind::Spam)));
            return tally;
        }
        match self.state {
            _ if self.flags.has_any(Flags::of(FactKind::Bounced)) => tally.bounced = 1,
            State::Failed if self.flags.has_any(Flags::UNREFUSED) => tally.doubt = 1,
            State::Failed => tally.bounced = 1,
            State::Suppressed => tally.suppressed = 1,
            State::Unknown => tally.doubt = 1,
            State::Sent if self.flags.has_any(Flags::EXPIRED) => tally.expired = 1,
            State::Sent => tally.waiting = 1,
            State::Queued | State::Deferred | State::Sending => {}
        }
        tally
    }
}

/// Tells whether a loop may still have news of a delivery in this state.
pub fn is_watched(state: State) -> bool {
    matches!(state, State::Sent | State::Unknown)
}

/// The order of states within one attempt: an unknown is settled by whatever comes after it.
fn rank(state: State) -> i64 {
    match state {
        State::Queued => 0,
        State::Sending => 1,
        State::Deferred => 2,
        State::Unknown => 3,
        State::Sent => 4,
        State::Failed => 5,
        State::Suppressed => 6,
    }
}

/// How many deliveries count as what. The rest of `live + backfill` is not sent yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub live: i64,
    pub backfill: i64,
    /// Sent, watched, no evidence.
    pub waiting: i64,
    /// Sent, no longer watched, no evidence.
    pub expired: i64,
    /// In doubt, no evidence.
    pub doubt: i64,
    pub suppressed: i64,
    pub bounced: i64,
    pub delivered: i64,
    /// Of the delivered.
    pub opened: i64,
    /// Of the delivered.
    pub read: i64,
    /// Of the delivered.
    pub spam: i64,
}

impl Tally {
    /// The figures in the order in which they are stored.
    pub fn columns(&self) -> [i64; 11] {
        [
            self.live,
            self.backfill,
            self.waiting,
            self.expired,
            self.doubt,
            self.suppressed,
            self.bounced,
            self.delivered,
            self.opened,
            self.read,
            self.spam,
        ]
    }

    pub fn from_columns(c: [i64; 11]) -> Tally {
        let [live, backfill, waiting, expired, doubt, suppressed, bounced, delivered, opened, read, spam] = c;
        Tally { live, backfill, waiting, expired, doubt, suppressed, bounced, delivered, opened, read, spam }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        let (a, b) = (self.columns(), other.columns());
        *self = Tally::from_columns(std::array::from_fn(|i| a[i] + b[i]));
    }
}

impl SubAssign for Tally {
    fn sub_assign(&mut self, other: Tally) {
        let (a, b) = (self.columns(), other.columns());
        *self = Tally::from_columns(std::array::from_fn(|i| a[i] - b[i]));
    }
}
