//! Email addresses. They compare without case.
//!
//! Invariant: an `Address` has no control character, no white space at its ends, and is valid by RFC 5321.

use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest address in octets (RFC 5321 4.5.3.1.3: a path of 256 with its brackets).
pub const ADDRESS_OCTETS_MAX: usize = 254;

/// A valid address as it was given, compared without case.
#[derive(Clone)]
pub struct Address(String);

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {ADDRESS_OCTETS_MAX} octets")]
    TooLong,
    #[error("has a control character at byte {0}")]
    Control(usize),
    #[error("has no `@`")]
    NoAt,
    #[error("has white space or a character that no address may have at byte {0}")]
    Character(usize),
    #[error("has a local part that RFC 5321 does not allow")]
    LocalPart,
    #[error("has a domain that RFC 5321 does not allow")]
    Domain,
}

impl Address {
    /// Parses an address, such as `alice@example.com`. White space around it is dropped.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let given = text.trim_matches([' ', '\t']);
        if given.is_empty() {
            return Err(AddressError::Empty);
        }
        if let Some(at) = given.find(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err(AddressError::Control(at));
        }
        if given.len() > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        let (local, domain) = given.rsplit_once('@').ok_or(AddressError::NoAt)?;
        if let Some(at) = given.find(|c: char| matches!(c, '<' | '>') || (c.is_whitespace() && !local.starts_with('"'))) {
            return Err(AddressError::Character(at));
        }
        lettre::Address::new(local, domain).map(|_| ()).map_err(|e| match e {
            lettre::address::AddressError::InvalidUser => AddressError::LocalPart,
            _ => AddressError::Domain,
        })?;
        Ok(Address(given.to_owned()))
    }

    /// Takes back an address that was parsed before it was stored.
    pub fn stored(text: String) -> Address {
        Address(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that compares: lower case.
    pub fn key(&self) -> String {
        self.0.to_lowercase()
    }

    /// The domain in lower case.
    pub fn domain(&self) -> String {
        self.0.rsplit_once('@').map_or("", |(_, d)| d).to_lowercase()
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Addresses stay out of logs.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address(***@{})", self.domain())
    }
}
