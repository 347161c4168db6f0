//! The port to warmup's database: what the API and the engine ask of it.
//!
//! A state change and its event are one commit. Every method that changes something has committed durably when it
//! returns. Adapters: `sqlite`. All pass one contract suite.
//!
//! Invariant: no SQL type and no JSON stands in this interface; every query of the API names its organization.

use crate::bus::Outbox;
use crate::model::address::Address;
use crate::model::delivery::{Said, Source, State};
use crate::model::email::{Email, EmailSummary, NewEmail};
use crate::model::message_id::Tokens;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use crate::model::user::{Backfill, NewUser, User};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The database failed. The caller answers 503 or stops sending; nothing was half done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room: it works again when there is (507).
    #[error("the disk of the warmup database is full")]
    Full,
    #[error("the warmup database is not available: {0}")]
    Unavailable(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// What the API asks.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The organization's number; made on first use.
    async fn organization(&self, name: &OrgName) -> Result<OrgId>;
    /// Makes and checks Message-IDs and unsubscribe tokens with this database's secret.
    fn tokens(&self) -> Arc<Tokens>;

    /// Registers a user; the address again gives the same user and changes nothing. `backfill` starts with a new user.
    async fn register(&self, org: OrgId, user: NewUser, now: i64) -> Result<Registered>;
    /// Registers many in one commit, at most 10,000 a call. Doubles within the call count as existing.
    async fn import(&self, org: OrgId, users: Vec<NewUser>, backfill: bool, now: i64) -> Result<Imported>;
    /// Users behind `after`, in the order of their numbers.
    async fn users(&self, org: OrgId, after: UserNumber, limit: usize) -> Result<Vec<User>>;
    async fn user(&self, org: OrgId, address: &Address) -> Result<Option<(User, Backfill)>>;
    /// Takes the user of a delivery off all further mail. `false` where there is no such delivery. Idempotent.
    async fn unsubscribe(&self, delivery: DeliveryKey, now: i64) -> Result<bool>;

    /// Accepts an email for everybody who is registered now, in one commit. With an idempotency key that is known
    /// (24 hours), nothing changes.
    async fn accept(&self, org: OrgId, email: NewEmail, idempotency: Option<Idempotency>, now: i64) -> Result<Accepted>;
    /// Emails behind `after`, in the order of their numbers.
    async fn emails(&self, org: OrgId, after: EmailNumber, limit: usize) -> Result<Vec<EmailSummary>>;
    async fn email(&self, org: OrgId, email: EmailNumber) -> Result<Option<EmailSummary>>;
    /// The lanes in which recipients of the email wait; those that are not fanned out yet are in none. Costs a step a lane of
    /// each open email up to this one, however many recipients wait.
    async fn waiting(&self, org: OrgId, email: EmailNumber) -> Result<Vec<WaitingLane>>;
    /// The recipients of an email behind user `after`, those not fanned out yet included as queued. Looks at a bounded
    /// number of them, so that a page may end before it is full.
    async fn deliveries(&self, org: OrgId, email: EmailNumber, page: DeliveryPage) -> Result<Deliveries>;
    /// Settles unknown deliveries as a person says; answers how many it settled. Works in several commits: when it
    /// fails, the same call again settles the rest.
    async fn resolve(&self, org: OrgId, email: EmailNumber, which: Which, action: Action, now: i64) -> Result<usize>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    New(User),
    Existing(User),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    pub created: u64,
    pub existing: u64,
}

/// An `Idempotency-Key` with a hash of the body it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub body_hash: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    New {
        email: EmailNumber,
        recipients: i64,
    },
    /// The same key and body came before.
    Again {
        email: EmailNumber,
        recipients: i64,
    },
    /// The same key came before with another body.
    OtherBody,
}

/// How much of an email waits for one mailbox provider; what a client has in hand does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingLane {
    pub provider: String,
    /// Recipients of the email that nothing was tried for.
    pub queued: i64,
    /// Recipients of the email that were refused for now.
    pub deferred: i64,
    /// Queued recipients of this email and of those accepted before it, in this lane.
    pub ahead: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    pub state: Option<State>,
    pub after: UserNumber,
    pub limit: usize,
}

/// A page of recipients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deliveries {
    pub rows: Vec<DeliveryRow>,
    /// The search ended at this user before the page was full: it goes on behind him. `None` where the page is full or
    /// nobody is left.
    pub searched_to: Option<UserNumber>,
}

/// One recipient of an email, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    pub user: UserNumber,
    pub recipient: Address,
    pub state: State,
    pub attempts: i64,
    pub client: Option<String>,
    pub said: Said,
    pub queued_at: i64,
    /// When it is tried again.
    pub next_at: Option<i64>,
    pub finished_at: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    All,
    Recipients(Vec<Address>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Queues them again.
    Resend,
    /// Leaves them unsent: failed, with an event that says `dropped`.
    Drop,
}

/// What the engine asks. One engine works on a database at a time.
#[async_trait]
pub trait Queue: Outbox {
    /// Every row in `sending`, as it was claimed: after a start, what an earlier process left there. Reads only; a row
    /// leaves `sending` by a turn that records what became of it.
    async fn in_hand(&self) -> Result<Vec<Claimed>>;
    /// The number of the last turn that was committed; 0 before the first.
    async fn last_turn(&self) -> Result<i64>;
    /// One turn: outcomes recorded, limits written, rows handed to another client, new rows claimed into `sending`, all in one
    /// commit. Answers the new rows.
    async fn turn(&self, turn: Turn) -> Result<Vec<Claimed>>;
    /// Which lanes have rows due at or before `now`, and when the next deferred row is due.
    async fn lanes(&self, now: i64) -> Result<Lanes>;
    /// The next step of fan-out: of the organization whose turn it is after `last`, the oldest email that is not fanned
    /// out, and the domains among its next `rows` recipients whose provider is not `believed`. `None`: nothing to fan out.
    async fn fan_out_next(&self, last: OrgId, rows: usize, believed: Believed) -> Result<Option<FanOut>>;
    /// Notes the mailbox providers of domains, `(domain, provider)`, found with the settings of that fingerprint.
    async fn set_providers(&self, found: Vec<(String, String)>, settings: i64, checked_at: i64) -> Result<()>;
    /// Notes that nobody could tell the mailbox providers of domains: what was known before stays, and is believed as if it
    /// had been found like that.
    async fn set_undecided(&self, domains: Vec<String>, settings: i64, checked_at: i64) -> Result<()>;
    /// Puts the next `rows` users of the email into their lanes.
    async fn fan_out(&self, org: OrgId, email: EmailNumber, rows: usize, now: i64) -> Result<()>;
    /// The domains of the first `rows` back-fills that are due whose provider is not `believed`.
    async fn backfill_domains(&self, rows: usize, believed: Believed, now: i64) -> Result<Vec<String>>;
    /// Starts the next email of each back-fill that is due, at most `rows`.
    async fn backfill_step(&self, rows: usize, now: i64) -> Result<BackfillStep>;
    /// An email whole, for rendering.
    async fn content(&self, org: OrgId, email: EmailNumber) -> Result<Option<Email>>;
    /// What the limits had counted when the last process ended.
    async fn usage(&self) -> Result<Vec<Usage>>;
}

/// One turn of the engine.
#[derive(Debug, Default)]
pub struct Turn {
    /// Numbers the turns that were committed, from 1; one that could not be is tried again under its number.
    pub number: i64,
    /// Shared, as whoever asks keeps them until the turn has committed.
    pub outcomes: Arc<Vec<Recorded>>,
    /// Rows in `sending` that go to another client now: the one that they name.
    pub handed: Vec<Arc<Claimed>>,
    pub claims: Vec<Claim>,
    pub usage: Arc<Vec<Usage>>,
    /// The pace of back-fill by organization: a row that it does not let go yet is not claimed, and is due when it does.
    pub paces: Arc<HashMap<OrgId, BackfillPace>>,
    /// Milliseconds since 1970 UTC.
    pub now: i64,
}

/// What became of a claimed row.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub claimed: Arc<Claimed>,
    pub result: Settled,
    pub at: i64,
}

#[derive(Debug, Clone)]
pub enum Settled {
    Sent(Said),
    Deferred {
        said: Said,
        next_at: i64,
    },
    Failed(Said),
    /// `resend_at`: the organization wants it sent again by itself, after it was listed as unknown.
    Unknown {
        said: Said,
        resend_at: Option<i64>,
    },
    /// Certainly unsent: as it was before the claim, due again at `next_at`.
    Returned {
        next_at: i64,
    },
}

/// A wish for rows of one lane.
#[derive(Debug, Clone)]
pub struct Claim {
    pub lane: LaneKey,
    pub client: Arc<str>,
    pub rows_max: usize,
}

/// A row in `sending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub delivery: DeliveryKey,
    pub org_name: OrgName,
    pub address: Address,
    pub name: String,
    pub provider: Arc<str>,
    pub client: Arc<str>,
    pub source: Source,
    /// The state before the claim.
    pub was: State,
    /// Attempts, this one included.
    pub attempt: i64,
    pub queued_at: i64,
    /// The delivery's Message-ID, without angle brackets.
    pub message_id: Arc<str>,
}

/// One organization's mail to one mailbox provider: live mail and its retries, or back-fill and its retries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaneKey {
    pub org: OrgId,
    pub provider: Arc<str>,
    pub source: Source,
}

/// The lanes that have work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lanes {
    pub due: Vec<LaneKey>,
    pub next_at: Option<i64>,
}

/// Which mailbox providers of domains are believed without a lookup: those noted after `checked_after` and found with
/// the settings of this fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    pub checked_after: i64,
    pub settings: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanOut {
    pub org: OrgId,
    pub email: EmailNumber,
    /// How many recipients it is of, that are asked for at most.
    pub rows: usize,
    pub unknown_domains: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackfillPace {
    pub messages: u64,
    pub per: Duration,
    pub hold_max: Duration,
}

impl BackfillPace {
    /// Nobody was written to, so the next one may start at once.
    pub const AT_ONCE: BackfillPace = BackfillPace { messages: 1, per: Duration::ZERO, hold_max: Duration::ZERO };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackfillStep {
    pub started: usize,
    /// When the next back-fill may start; `None` where none waits for a time.
    pub next_at: Option<i64>,
}

/// The `bucket_ms` of what was out, and so in no bucket yet, when the row was written.
pub const STILL_OUT: i64 = i64::MAX;

/// A part of a rolling window of one limit: `count` slots came free-to-age in the bucket that starts at `bucket_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// `client/acme/relay`, `org/acme`, `provider/acme/gmail`, `share/relay-1`.
    pub scope: String,
    pub per_ms: i64,
    pub bucket_ms: i64,
    /// The bucket's start by the wall clock, believed across a reboot.
    pub bucket_wall_ms: i64,
    pub boot_id: String,
    /// The bucket's count now; replaces what was stored.
    pub count: i64,
}
