//! JSON objects of texts and numbers, in one fixed order of their fields: what a broadcast writes and reads for each recipient.
//!
//! A field is named by all that stands between the value before it and its own, such as `,"state":"`.
//!
//! Invariant: what is written is JSON whatever the texts are. `Fields` reads nothing that JSON does not allow, and gives up on
//! all that would be written in another way.

use std::borrow::Cow;

/// Appends a number in decimal.
pub fn push_number(out: &mut Vec<u8>, before: &str, number: i64) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a text and its closing quote.
pub fn push_text(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    match is_plain(text) {
        true => out.extend_from_slice(text.as_bytes()),
        false => push_escaped(out, text),
    }
    out.push(b'"');
}

/// A text that is written as it is. Without an early end, so that many octets are looked at at once.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, octet| plain & (octet >= 0x20) & (octet != b'"') & (octet != b'\\'))
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for octet in text.bytes() {
        match octet {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', octet]),
            0..0x20 => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]),
            _ => out.push(octet),
        }
    }
}

/// What is left to read. Every method answers `None` where the text goes on in another way.
pub struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    pub fn of(octets: &'a [u8]) -> Option<Fields<'a>> {
        std::str::from_utf8(octets).ok().map(Fields)
    }

    /// A text that needs no unescaping.
    pub fn text(&mut self, before: &str) -> Option<Cow<'a, str>> {
        let rest = self.0.strip_prefix(before)?;
        let (text, rest) = rest.split_at(rest.bytes().position(|octet| octet < 0x20 || matches!(octet, b'"' | b'\\'))?);
        self.0 = rest.strip_prefix('"')?;
        Some(text.into())
    }

    /// A number of at most eighteen digits.
    pub fn number(&mut self, before: &str) -> Option<i64> {
        let rest = self.0.strip_prefix(before)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = rest.split_at(digits);
        let plain = (1..=18).contains(&digits) && (digits == 1 || !number.starts_with('0'));
        // A fraction or an exponent would go on.
        let ends = rest.starts_with([',', '}']);
        self.0 = rest;
        (plain && ends).then(|| number.bytes().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    }

    /// The end of the object and of all.
    pub fn end(self) -> Option<()> {
        (self.0 == "}").then_some(())
    }
}
