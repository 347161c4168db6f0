//! The words of the domain: organizations, users, emails, deliveries, events, addresses.
//!
//! Invariant: no I/O, no async, no clock, no randomness; nothing here knows SQL, JSON or HTTP.

pub mod address;
pub mod delivery;
pub mod domain;
pub mod email;
pub mod event;
pub mod message_id;
pub mod name;
pub mod number_map;
pub mod user;
