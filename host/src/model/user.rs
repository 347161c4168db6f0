//! Users: whom an organization writes to.

use crate::model::address::Address;
use crate::model::name::UserNumber;

/// A user to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// 1 to 200 characters, no control characters.
    pub name: String,
    pub address: Address,
}

/// A registered user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub number: UserNumber,
    pub name: String,
    pub address: Address,
    /// Milliseconds since 1970 UTC.
    pub created_at: i64,
}

/// How far a newcomer's back-fill has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill {
    /// The earlier emails that the newcomer gets.
    pub emails: i64,
    /// Of these, how many are final.
    pub done: i64,
    pub state: BackfillState,
    /// When the next one may start, in milliseconds since 1970 UTC; `None` where nothing waits for a time.
    pub next_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackfillState {
    /// Nothing to do: no earlier email, or imported without back-fill.
    None,
    Running,
    Done,
}

impl BackfillState {
    pub fn as_str(self) -> &'static str {
        match self {
            BackfillState::None => "none",
            BackfillState::Running => "running",
            BackfillState::Done => "done",
        }
    }
}
