//! Email addresses. They compare without case, and without regard to how their domain is written.
//!
//! Invariant: an `Address` has no control character, nothing that cannot be seen, no white space at its ends, and is valid by
//! RFC 5321 and, beyond ASCII, by RFC 6531.
//! Invariant: only a local part beyond ASCII makes an address need SMTPUTF8, for its domain is sent as an A-label.

use crate::model::domain::{a_label, starts_as_a_label};
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest address in octets (RFC 5321 4.5.3.1.3: a path of 256 with its brackets).
pub const ADDRESS_OCTETS_MAX: usize = 254;

/// A valid address, shown as it was given; `Alice@münchen.example` and `alice@xn--mnchen-3ya.example` are one.
#[derive(Clone)]
pub struct Address {
    given: String,
    /// As it is sent, where that differs: the domain is an A-label.
    sent: Option<Box<str>>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {ADDRESS_OCTETS_MAX} octets")]
    TooLong,
    #[error("has a control character at byte {0}")]
    Control(usize),
    #[error("has a character that cannot be seen or is not assigned (U+{:04X}) at byte {at}; remove it", u32::from(*character))]
    Hidden { at: usize, character: char },
    #[error("has no `@`")]
    NoAt,
    #[error("has white space or a character that no address may have at byte {0}")]
    Character(usize),
    #[error("has a local part that RFC 5321 does not allow")]
    LocalPart,
    #[error("has a domain that RFC 5321 does not allow")]
    Domain,
    #[error("has a domain that is no internationalized domain name (UTS #46)")]
    InternationalDomain,
}

impl Address {
    /// Parses an address, such as `alice@example.com`. White space around it is dropped.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        if is_plain(text.as_bytes()) {
            return Ok(Address { given: text.to_owned(), sent: None });
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
        if let Some((at, character)) = given.char_indices().find(|(at, c)| is_hidden(*c) && !(*at > local.len() && is_joiner(*c))) {
            return Err(AddressError::Hidden { at, character });
        }
        let ascii = a_label(domain).ok_or(AddressError::InternationalDomain)?;
        lettre::Address::new(local, &*ascii).map(|_| ()).map_err(|e| match e {
            lettre::address::AddressError::InvalidUser => AddressError::LocalPart,
            _ => AddressError::Domain,
        })?;
        let sent = (!domain.is_ascii()).then(|| format!("{local}@{ascii}").into_boxed_str());
        match &sent {
            Some(sent) if sent.len() > ADDRESS_OCTETS_MAX => Err(AddressError::TooLong),
            _ => Ok(Address { given: given.to_owned(), sent }),
        }
    }

    /// Takes back an address, as it was given or its key, that was parsed before it was stored.
    pub fn stored(text: String) -> Address {
        let sent = match text.rsplit_once('@') {
            Some((local, domain)) if !domain.is_ascii() => a_label(domain).map(|ascii| format!("{local}@{ascii}").into_boxed_str()),
            _ => None,
        };
        Address { given: text, sent }
    }

    /// The address as it is sent, in commands and in header fields: its domain is ASCII.
    pub fn as_str(&self) -> &str {
        self.sent.as_deref().unwrap_or(&self.given)
    }

    /// The address as it was given, to be shown.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// The form that compares: lower case, the domain an A-label.
    pub fn key(&self) -> String {
        self.as_str().to_lowercase()
    }

    /// The domain in lower case, as an A-label.
    pub fn domain(&self) -> String {
        self.as_str().rsplit_once('@').map_or("", |(_, d)| d).to_lowercase()
    }
}

/// Tells whether a character shows nothing by itself, or is none that Unicode has assigned.
fn is_hidden(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse, Surrogate, Unassigned};
    let category = || CodePointMapData::<GeneralCategory>::new().get(c);
    !c.is_ascii()
        && (CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            || matches!(category(), Control | Format | PrivateUse | Surrogate | Unassigned))
}

/// The two that some scripts need within a domain; IDNA says where (RFC 5892 A.1 and A.2).
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
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
            && !starts_as_a_label(part)
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
        f.write_str(&self.given)
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
    use postwarm_plugin_testkit::corpora::isemail;
    use proptest::prelude::*;

    #[test]
    fn all_addresses_that_isemail_calls_invalid_are_refused_with_a_reason() {
        let Some(all) = isemail("the addresses that isemail calls invalid") else { return };
        let invalid: Vec<_> = all.iter().filter(|test| test.category == "ISEMAIL_ERR").map(|test| &test.address).collect();
        assert_eq!(invalid.len(), 66);
        let taken: Vec<_> = invalid.iter().filter(|address| Address::parse(address).is_ok()).collect();
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn all_plain_addresses_that_isemail_calls_valid_are_taken() {
        let Some(all) = isemail("the addresses that isemail calls valid") else { return };
        let valid = all.iter().filter(|test| test.category == "ISEMAIL_VALID_CATEGORY").map(|test| &test.address);
        let refused: Vec<_> = valid.filter_map(|address| Some((address, Address::parse(address).err()?))).collect();
        assert!(refused.is_empty(), "{refused:?}");
    }

    #[test]
    fn one_mailbox_is_one_address_however_its_domain_is_written() {
        let forms = ["U@xn--mnchen-3ya.example", "u@münchen.example", "u@MÜNCHEN.example", "u@mu\u{308}nchen。example"];
        for given in forms {
            let address = Address::parse(given).expect("valid");
            assert_eq!(address.key(), "u@xn--mnchen-3ya.example");
            assert_eq!(address.domain(), "xn--mnchen-3ya.example");
            assert!(address.as_str().eq_ignore_ascii_case("u@xn--mnchen-3ya.example"), "{}", address.as_str());
            assert_eq!((address.given(), &*address.to_string()), (given, given));
            let stored = Address::stored(given.to_owned());
            assert_eq!((stored.as_str(), stored.key()), (address.as_str(), address.key()));
        }
        assert_eq!(Address::parse("q@b。co").expect("mapped").as_str(), "q@b.co");
        assert_eq!(Address::parse("Ü@bücher.example").expect("valid").as_str(), "Ü@xn--bcher-kva.example");
        assert_eq!(Address::parse("x@نامه\u{200c}ای.com").expect("a joiner where it may be").as_str(), "x@xn--mgba3gch31f060k.com");
    }

    #[test]
    fn what_cannot_be_seen_or_has_no_a_label_is_refused_in_words() {
        let refused = |text: &str| Address::parse(text).expect_err(text);
        for hidden in ['\u{200b}', '\u{ad}', '\u{200d}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{e000}', '\u{378}', '\u{fe0f}', '\u{e0041}']
        {
            let wanted = AddressError::Hidden { at: 1, character: hidden };
            assert_eq!(refused(&format!("a{hidden}b@x.example")), wanted);
            assert_eq!(refused(&format!("\"{hidden}b\"@x.example")), wanted);
        }
        assert_eq!(refused("a@ex\u{ad}ample.com"), AddressError::Hidden { at: 4, character: '\u{ad}' });
        for domain in ["xn--a.example", "ü..example", "a\u{200c}b.example", "ü_x.example", "-ü.example", "ü＠b.example"] {
            assert_eq!(refused(&format!("a@{domain}")), AddressError::InternationalDomain, "{domain}");
        }
        let long = ["ü".repeat(40), "ü".repeat(40), "ü".repeat(40)].join(".");
        assert_eq!(refused(&format!("{}@{long}.example", "a".repeat(64))), AddressError::TooLong);
        let words = refused("a\u{200b}@x.example").to_string();
        assert_eq!(words, "has a character that cannot be seen or is not assigned (U+200B) at byte 1; remove it");
    }

    proptest! {
        #[test]
        fn the_short_way_never_takes_what_the_long_one_refuses(text in "[a-c0.!@-]{1,12}|a@[xn-]{4,6}[a-z0-9-]{0,5}\\.[a-z]{2}|[a-z.+]{1,70}@[a-z0-9.-]{1,70}|[a-b]{1,3}@([a-b0-9-]{1,64}\\.){1,5}[a-z0-9]{1,4}") {
            if is_plain(text.as_bytes()) {
                let slow = Address::parse_any(&text);
                prop_assert!(slow.as_ref().is_ok_and(|a| a.as_str() == text), "{text:?}: {slow:?}");
            }
        }
    }
}
