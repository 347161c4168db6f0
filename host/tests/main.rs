//! The one integration test binary of the host: a module a subject.

mod cli;
mod documents;
mod first_mail;
mod harness;
mod plugins;
mod readme;
mod replay;
mod restart;
mod tidy;
