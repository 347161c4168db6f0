//! The trait of everything that sends mail.

use crate::{BoxFuture, Message, Outcome};
use std::time::{Duration, Instant};

/// Sends messages, one recipient each, over connections of its own.
///
/// The host keeps up to [`in_flight_max`](SmtpClient::in_flight_max) calls of [`send`](SmtpClient::send) running, so
/// that a pipelining client can put the content of one message and the envelope of the next into one write. Calls may
/// finish in any order.
pub trait SmtpClient: Send + Sync + 'static {
    /// The number of `send` calls that keep every connection busy. At least 1.
    fn in_flight_max(&self) -> usize;

    /// Tells whether [`send`](SmtpClient::send) sets [`Message::mark`] itself: before every write that can carry the end of data, and
    /// not before what comes in front of it. It takes the mark back where it is certain that the end of data has not left.
    ///
    /// For a client that says no, the host sets the mark before it calls `send`; a kill then leaves unknown all that the client had
    /// been given and not answered.
    fn marks_end_of_data(&self) -> bool {
        false
    }

    /// Sends one message and says what became of it. It always resolves, at the latest soon after `deadline`.
    ///
    /// Dropping the future abandons the answer, not the truth: a connection dies with its cancelled message, so that no
    /// later message is credited with its reply.
    fn send(&self, message: Message, deadline: Instant) -> BoxFuture<'_, Outcome>;

    /// Answers as not attempted ([`Stopping`](crate::Cause::Stopping)) the messages of which no connection has begun. The host asks
    /// for it where the server has been silent for long, so that they go elsewhere; a client that does not know keeps them.
    fn withdraw(&self) {}

    /// Connects and authenticates without sending mail. `Err` says what went wrong, in words for the operator.
    fn verify(&self, deadline: Instant) -> BoxFuture<'_, Result<(), String>>;

    /// Takes no new message, lets the running ones end within `grace`, says QUIT and closes. Idempotent; a second call may come while
    /// the first one waits, and leave less time.
    fn close(&self, grace: Duration) -> BoxFuture<'_, ()>;
}
