//! The one integration test binary of the host: a module a subject.

mod first_mail;
mod harness;
mod organizations;
mod readme;
mod restart;
mod tidy;
