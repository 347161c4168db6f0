//! The one integration test binary of the host: a module a subject.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod first_mail;
mod harness;
mod organizations;
mod readme;
mod real_servers;
mod restart;
mod tidy;
