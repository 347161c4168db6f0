//! An SMTP server inside the process whose mailboxes behave, and the loop that tells what they did.
//!
//! Invariant: what a mailbox does is a pure function of the seed, the rates, the recipient and the Message-ID
//! ([`behaviour`]); the loop knows only what the file of verdicts says.

pub mod behaviour;
pub mod client;
pub mod feedback;
pub mod server;
pub mod session;
pub mod settings;

#[cfg(test)]
mod tests;
