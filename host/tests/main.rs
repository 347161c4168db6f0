//! The one integration test binary of the host: a module a subject.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod bad_input;
mod bench;
mod cli;
mod documents;
mod first_mail;
mod harness;
mod metrics;
mod organizations;
mod plugins;
mod readme;
mod ready;
mod real_servers;
mod recipient_domains;
mod reload;
mod replay;
mod restart;
mod tidy;
