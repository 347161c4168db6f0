//! Bodies: line ends, transfer encodings (RFC 2045), the two alternatives.
//!
//! Invariant: what is written is 7-bit, ends in CRLF, has no bare CR or LF and no line longer than 78 octets; no encoded part
//! contains the start of a boundary.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How boundaries start; neither quoted-printable nor base64 can contain it, and plain parts with it are encoded.
const BOUNDARY_START: &str = "=_";
const LINE_MAX: usize = 78;
/// Short texts stay legible rather than small.
const SHORT: usize = 24;
/// RFC 2045 6.7 and 6.8: encoded lines have at most 76 characters.
const ENCODED_LINE_MAX: usize = 76;

/// The texts of one message.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    pub plain: &'a str,
    pub html: Option<&'a str>,
}

/// Writes the body and appends the fields that describe it to `header`. The boundary depends on the email's number alone.
pub fn write(texts: Texts<'_>, email: i64, header: &mut Vec<u8>) -> Vec<u8> {
    let Some(html) = texts.html else {
        let (encoding, mut body) = encode(texts.plain);
        header.extend_from_slice(&part_header("plain", encoding));
        if !body.ends_with(b"\r\n") {
            // A soft line break keeps the text as it is; plain text gets a line end.
            body.extend_from_slice(if encoding == Encoding::QuotedPrintable { b"=\r\n" } else { b"\r\n" });
        }
        return body;
    };
    let boundary = format!("{BOUNDARY_START}postwarm.{email}");
    header.extend_from_slice(format!("Content-Type: multipart/alternative;\r\n boundary=\"{boundary}\"\r\n").as_bytes());
    let mut body = Vec::with_capacity(texts.plain.len() + html.len() + 512);
    for (subtype, text) in [("plain", texts.plain), ("html", html)] {
        let (encoding, encoded) = encode(text);
        body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        body.extend_from_slice(&part_header(subtype, encoding));
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(&encoded);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    SevenBit,
    QuotedPrintable,
    Base64,
}

fn part_header(subtype: &str, encoding: Encoding) -> Vec<u8> {
    let encoding = match encoding {
        Encoding::SevenBit => "7bit",
        Encoding::QuotedPrintable => "quoted-printable",
        Encoding::Base64 => "base64",
    };
    format!("Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n").into_bytes()
}

fn encode(text: &str) -> (Encoding, Vec<u8>) {
    let text = with_crlf(text);
    if is_seven_bit(&text) {
        return (Encoding::SevenBit, text.into_bytes());
    }
    match escapes(text.as_bytes()) * 6 <= text.len() + SHORT {
        true => (Encoding::QuotedPrintable, quoted_printable(&text)),
        false => (Encoding::Base64, base64_lines(&text)),
    }
}

/// Makes every line end (CRLF, CR, LF) a CRLF.
fn with_crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        out.push_str("\r\n");
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + 1 };
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The lines of a text whose line ends are all CRLF, without them.
fn lines(text: &str) -> impl Iterator<Item = &[u8]> {
    let octets = text.as_bytes();
    let ends = memchr::memchr_iter(b'\n', octets).map(|at| (at - 1, at + 1)).chain([(octets.len(), octets.len())]);
    ends.scan(0, |start, (end, next)| Some(&octets[std::mem::replace(start, next)..end]))
}

/// Text that every server passes on as it is: short lines without trailing space, and none that a mailbox file would change.
fn is_seven_bit(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), BOUNDARY_START.as_bytes()).is_none()
        && lines(text).all(|line| {
            line.len() <= LINE_MAX && is_printable(line) && !matches!(line.last(), Some(b' ' | b'\t')) && !line.starts_with(b"From ")
        })
}

// Both count in octets and without an early end, so that the compiler looks at many octets at once.

fn is_printable(line: &[u8]) -> bool {
    line.iter().fold(0, |odd, b| odd | (u8::from(!(0x20..=0x7e).contains(b)) & u8::from(*b != b'\t'))) == 0
}

/// How many octets of a text need an escape.
fn escapes(text: &[u8]) -> usize {
    let of_part = |part: &[u8]| usize::from(part.iter().fold(0, |sum, b| sum + u8::from(needs_escape(*b))));
    text.chunks(usize::from(u8::MAX)).map(of_part).sum()
}

fn needs_escape(byte: u8) -> bool {
    (byte == b'=') | (!(0x20..=0x7e).contains(&byte) & (byte != b'\t') & (byte != b'\r') & (byte != b'\n'))
}

fn quoted_printable(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8 + 8);
    for (index, line) in lines(text).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        let from = line.starts_with(b"From ");
        if !from && escapes(line) == 0 && !matches!(line.last(), Some(b' ' | b'\t')) {
            for (index, part) in line.chunks(ENCODED_LINE_MAX - 1).enumerate() {
                out.extend_from_slice(if index > 0 { b"=\r\n" } else { b"" });
                out.extend_from_slice(part);
            }
            continue;
        }
        let mut column = 0;
        for (at, &byte) in line.iter().enumerate() {
            let last = at + 1 == line.len();
            let escape = needs_escape(byte) || (from && at == 0) || (last && matches!(byte, b' ' | b'\t'));
            let width = if escape { 3 } else { 1 };
            // One column is left for the soft break itself.
            if column + width > ENCODED_LINE_MAX - 1 {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if escape {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            } else {
                out.push(byte);
            }
            column += width;
        }
    }
    out
}

fn base64_lines(text: &str) -> Vec<u8> {
    let encoded = STANDARD.encode(text);
    let mut out = Vec::with_capacity(encoded.len() + encoded.len() / 38 + 2);
    for line in encoded.as_bytes().chunks(ENCODED_LINE_MAX) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, encoding: Encoding, expected: &str) {
        let (used, body) = encode(text);
        assert_eq!((used, String::from_utf8(body).expect("7-bit").as_str()), (encoding, expected), "{text:?}");
    }

    #[test]
    fn the_encoding_is_the_simplest_that_keeps_the_text() {
        check("Hello\nthere\r.\n", Encoding::SevenBit, "Hello\r\nthere\r\n.\r\n");
        check("one trailing \nFrom me", Encoding::QuotedPrintable, "one trailing=20\r\n=46rom me");
        check("a = b, =_ c", Encoding::QuotedPrintable, "a =3D b, =3D_ c");
        check("Grüße an alle, die das hier lesen", Encoding::QuotedPrintable, "Gr=C3=BC=C3=9Fe an alle, die das hier lesen");
        check("日本語", Encoding::Base64, "5pel5pys6Kqe\r\n");
    }

    #[test]
    fn lines_are_what_stands_between_the_line_ends() {
        for text in ["", "a", "a\r\n", "\r\n\r\nb", "a\r\nb\r\n\r\n"] {
            let expected: Vec<&[u8]> = text.split("\r\n").map(str::as_bytes).collect();
            assert_eq!(lines(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_line_is_broken_softly() {
        let (encoding, body) = encode(&"long line without end x".repeat(20));
        assert_eq!(encoding, Encoding::QuotedPrintable);
        let body = String::from_utf8(body).expect("7-bit");
        assert!(body.split("\r\n").all(|line| line.len() <= 76), "{body}");
        assert_eq!(body.replace("=\r\n", ""), "long line without end x".repeat(20));
    }

    #[test]
    fn a_text_alone_ends_in_crlf_and_two_texts_are_alternatives() {
        let mut header = Vec::new();
        assert_eq!(write(Texts { plain: "", html: None }, 1, &mut header), b"\r\n");
        let mut header = Vec::new();
        let body = write(Texts { plain: "--=_postwarm.7--", html: Some("<p>x</p>") }, 7, &mut header);
        let body = String::from_utf8(body).expect("7-bit");
        assert_eq!(body.matches("--=_postwarm.7").count(), 3, "{body}");
    }
}
