//! The one integration test binary of the host: a module a subject.

mod tidy;
