//! Bodies: one text, or the two alternatives.
//!
//! Invariant: what is written ends in CRLF, and its texts are encoded as [`encoding`](super::encoding) promises.

use crate::warmup::render::encoding::{BOUNDARY_START, Encoding, Whole, room};
use crate::warmup::render::lines::Filled;
use crate::warmup::render::text::{Text, Values};
use std::borrow::Cow;

/// A text of one message, and how it is encoded.
pub enum Part<'a> {
    Whole(Whole<'a>),
    Filled(Filled<'a>),
}

impl<'a> Part<'a> {
    /// A text that is there.
    pub fn ready(text: &'a str) -> Part<'a> {
        Part::Whole(Whole::of(Cow::Borrowed(text)))
    }

    /// A text for one recipient.
    pub fn of(text: &'a Text, values: Values<'a>) -> Result<Part<'a>, String> {
        match text.filled(&values) {
            Some(filled) => Ok(Part::Filled(filled)),
            None => text.render(values).map(|text| Part::Whole(Whole::of(text))),
        }
    }

    fn encoding(&self) -> Encoding {
        match self {
            Part::Whole(whole) => whole.encoding,
            Part::Filled(filled) => filled.encoding,
        }
    }

    fn octets(&self) -> usize {
        match self {
            Part::Whole(whole) => whole.octets(),
            Part::Filled(filled) => filled.octets,
        }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Part::Whole(whole) => whole.append_to(out),
            Part::Filled(filled) => filled.append_to(out),
        }
    }
}

/// Writes the body and appends the fields that describe it to `header`. The boundary depends on the email's number alone.
pub fn write(plain: &Part<'_>, html: Option<&Part<'_>>, email: i64, header: &mut Vec<u8>) -> Vec<u8> {
    let Some(html) = html else {
        part_header("plain", plain.encoding(), header);
        let mut body = Vec::new();
        plain.append_to(&mut body);
        if !body.ends_with(b"\r\n") {
            // A soft line break keeps the text as it is; plain text gets a line end.
            body.extend_from_slice(if plain.encoding() == Encoding::QuotedPrintable { b"=\r\n" } else { b"\r\n" });
        }
        return body;
    };
    let boundary = format!("{BOUNDARY_START}postwarm.{email}");
    header.extend_from_slice(format!("Content-Type: multipart/alternative;\r\n boundary=\"{boundary}\"\r\n").as_bytes());
    let mut body = Vec::with_capacity(room(plain.octets()) + room(html.octets()) + 512);
    for (subtype, part) in [("plain", plain), ("html", html)] {
        [b"--", boundary.as_bytes(), b"\r\n"].iter().for_each(|piece| body.extend_from_slice(piece));
        part_header(subtype, part.encoding(), &mut body);
        body.extend_from_slice(b"\r\n");
        part.append_to(&mut body);
        body.extend_from_slice(b"\r\n");
    }
    [b"--", boundary.as_bytes(), b"--\r\n"].iter().for_each(|piece| body.extend_from_slice(piece));
    body
}

fn part_header(subtype: &str, encoding: Encoding, out: &mut Vec<u8>) {
    let pieces = ["Content-Type: text/", subtype, "; charset=utf-8\r\nContent-Transfer-Encoding: ", encoding.name(), "\r\n"];
    pieces.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_alone_ends_in_crlf_and_two_texts_are_alternatives() {
        let mut header = Vec::new();
        assert_eq!(write(&Part::ready(""), None, 1, &mut header), b"\r\n");
        let mut header = Vec::new();
        let body = write(&Part::ready("--=_postwarm.7--"), Some(&Part::ready("<p>x</p>")), 7, &mut header);
        let body = String::from_utf8(body).expect("7-bit");
        assert_eq!(body.matches("--=_postwarm.7").count(), 3, "{body}");
    }
}
