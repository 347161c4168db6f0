//! A mark that outlives the process: the end of a message's data may have left.
//!
//! After a kill the host sends again by itself what has no mark, and lists as unknown what has one. So a mark that comes late is a
//! message that comes twice, and one that is never taken back is a doubt too many.
//!
//! Invariant: a mark is set when [`Mark::set`] returns, whatever ends the process then. It outlives no loss of power.

use std::fmt;
use std::sync::Arc;

/// Where the host keeps marks. It knows a message by its place, and by a ticket that no message had before it.
pub trait KeepMarks: Send + Sync + 'static {
    /// Does nothing where the place has another message by now.
    fn set(&self, place: usize, ticket: u64);
    /// Does nothing where the place has another message by now.
    fn clear(&self, place: usize, ticket: u64);
}

/// The mark of one message. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Mark {
    keeper: Arc<dyn KeepMarks>,
    place: usize,
    ticket: u64,
}

impl Mark {
    /// Makes a handle to what the keeper has at this place under this ticket.
    pub fn new(keeper: Arc<dyn KeepMarks>, place: usize, ticket: u64) -> Mark {
        Mark { keeper, place, ticket }
    }

    /// Notes that the end of data may leave from now on. Costs a few instructions and never waits.
    pub fn set(&self) {
        self.keeper.set(self.place, self.ticket);
    }

    /// Notes that the end of data has certainly not left, and will not.
    pub fn clear(&self) {
        self.keeper.clear(self.place, self.ticket);
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark").field("place", &self.place).field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
