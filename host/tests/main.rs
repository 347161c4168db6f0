//! The one integration test binary of the host: a module a subject.

mod first_mail;
mod harness;
mod readme;
mod real_servers;
mod restart;
mod tidy;
