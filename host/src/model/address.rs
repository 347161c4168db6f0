//! Email addresses. They compare without case.
//!
//! Invariant: an `Address` has no control character, no white space at its ends, and is valid by RFC 5321.

use std::borrow::Cow;
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
        if is_plain(text.as_bytes()) {
            return Ok(Address(text.to_owned()));
        }
        Address::parse_any(text)
    }

    fn parse_any(text: &str) -> Result<Address, AddressError> {
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

/// Tells whether the octets are an address of the plain kind that nearly all are: a dot-atom, an `@`, and a domain of
/// two or more labels of letters, digits and inner hyphens that does not end in a digit. `false` decides nothing.
fn is_plain(text: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'@', text).filter(|at| (1..=64).contains(at) && text.len() <= ADDRESS_OCTETS_MAX) else {
        return false;
    };
    let (local, domain) = (&text[..at], &text[at + 1..]);
    let atom = |part: &[u8]| !part.is_empty() && part.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(b));
    let label = |part: &[u8]| {
        (1..=63).contains(&part.len())
            && part.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && part.first() != Some(&b'-')
            && part.last() != Some(&b'-')
    };
    local.split(|b| *b == b'.').all(atom)
        && domain.contains(&b'.')
        && domain.last().is_some_and(u8::is_ascii_alphabetic)
        && domain.split(|b| *b == b'.').all(label)
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

/// Replaces what looks like an address: servers like to repeat the recipient's.
pub fn without_addresses(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return text.into();
    }
    let bounds = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | ',' | ';' | ':' | '"' | '\'');
    let parts = text.split_inclusive(bounds).map(|part| {
        let end = part.trim_end_matches(bounds).len();
        if part[..end].contains('@') { format!("[address]{}", &part[end..]).into() } else { Cow::from(part) }
    });
    parts.collect::<Vec<_>>().concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// The addresses of isemail's tests with their categories; `None`, said aloud, where they are absent.
    fn isemail() -> Option<Vec<(String, String)>> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
        let shared = std::env::var_os("POSTWARM_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
        let Ok(xml) = std::fs::read_to_string(shared.join("corpora/addresses/isemail-tests.xml")) else {
            println!("skipped: isemail's addresses because corpora/addresses/isemail-tests.xml is not in POSTWARM_SHARED");
            return None;
        };
        let inner = |test: &str, tag: &str| {
            let from = test.split_once(&format!("<{tag}>"))?.1;
            Some(from.split_once(&format!("</{tag}>"))?.0.to_owned())
        };
        let of = |test: &str| Some((unescape(&inner(test, "address").unwrap_or_default()), inner(test, "category")?));
        Some(xml.split("<test ").skip(1).filter_map(of).collect())
    }

    /// Resolves entities, then the pictures that the corpus has in place of control characters.
    fn unescape(text: &str) -> String {
        let mut parts = text.split('&');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (entity, rest) = part.split_once(';').expect("an entity");
            let number = entity.strip_prefix("#x").map(|hex| u32::from_str_radix(hex, 16));
            let number = number.or(entity.strip_prefix('#').map(str::parse));
            out.push(match (entity, number) {
                ("amp", _) => '&',
                ("lt", _) => '<',
                ("gt", _) => '>',
                ("quot", _) => '"',
                ("apos", _) => '\'',
                (_, number) => char::from_u32(number.expect("a number").expect("digits")).expect("a character"),
            });
            out.push_str(rest);
        }
        let picture = |c: char| match c {
            '\u{2400}'..='\u{241f}' => char::from_u32(c as u32 - 0x2400).expect("a control character"),
            c => c,
        };
        out.chars().map(picture).collect()
    }

    #[test]
    fn all_addresses_that_isemail_calls_invalid_are_refused_with_a_reason() {
        let Some(all) = isemail() else { return };
        let invalid: Vec<_> = all.iter().filter(|(_, category)| category == "ISEMAIL_ERR").collect();
        assert_eq!(invalid.len(), 66);
        let taken: Vec<_> = invalid.iter().filter(|(address, _)| Address::parse(address).is_ok()).collect();
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn all_plain_addresses_that_isemail_calls_valid_are_taken() {
        let Some(all) = isemail() else { return };
        let valid = all.iter().filter(|(_, category)| category == "ISEMAIL_VALID_CATEGORY");
        let refused: Vec<_> = valid.filter_map(|(address, _)| Some((address, Address::parse(address).err()?))).collect();
        assert!(refused.is_empty(), "{refused:?}");
    }

    proptest! {
        #[test]
        fn the_short_way_never_takes_what_the_long_one_refuses(text in "[a-c0.!@-]{1,12}|[a-z.+]{1,70}@[a-z0-9.-]{1,70}|[a-b]{1,3}@([a-b0-9-]{1,64}\\.){1,5}[a-z0-9]{1,4}") {
            if is_plain(text.as_bytes()) {
                let slow = Address::parse_any(&text);
                prop_assert!(slow.as_ref().is_ok_and(|a| a.as_str() == text), "{text:?}: {slow:?}");
            }
        }
    }
}
