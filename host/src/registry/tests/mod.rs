//! The registry over real libraries: the examples, and small C plugins that misbehave.

mod calls;
mod conformance;
mod dropped;
mod examples;
mod polls;
mod replaced;
mod support;
