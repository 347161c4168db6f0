//! HTTP for both services: serving with limits, problems, keys, paging, probes.
//!
//! Invariant: it knows no endpoint of a service, no store and no engine. Only `error` names status codes.

pub mod addresses;
pub mod auth;
pub mod body;
pub mod error;
pub mod framing;
pub mod json;
pub mod layers;
pub mod openapi;
pub mod paging;
pub mod params;
pub mod probes;
pub mod serve;
pub mod shape;
pub mod stall;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod tries;
pub mod waiting;
