//! The one integration test binary of the host: a module a subject.

mod bad_input;
mod first_mail;
mod harness;
mod organizations;
mod readme;
mod reload;
mod restart;
mod tidy;
