//! Transfer encodings (RFC 2045): the simplest that keeps a text, and what it writes.
//!
//! Invariant: what is written is 7-bit, has no bare CR or LF and no line longer than 78 octets; nothing encoded contains the start of a
//! boundary.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// How boundaries start; neither quoted-printable nor base64 can contain it, and plain parts with it are encoded.
pub const BOUNDARY_START: &str = "=_";
/// Octets of a line that is sent as it is.
pub const LINE_MAX: usize = 78;
/// Lines that start so are changed by mailbox files.
pub const FROM: &[u8] = b"From ";
/// Short texts stay legible rather than small.
const SHORT: usize = 24;
/// RFC 2045 6.7 and 6.8: encoded lines have at most 76 characters.
const ENCODED_LINE_MAX: usize = 76;
/// One column is left for a soft break.
const BROKEN_LINE_MAX: usize = ENCODED_LINE_MAX - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    /// The simplest one. `escapes`: octets that quoted-printable would have to escape whatever their place.
    pub fn of(is_seven_bit: bool, escapes: usize, octets: usize) -> Encoding {
        match is_seven_bit {
            true => Encoding::SevenBit,
            false if escapes * 6 <= octets + SHORT => Encoding::QuotedPrintable,
            false => Encoding::Base64,
        }
    }

    /// As Content-Transfer-Encoding says it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::SevenBit => "7bit",
            Encoding::QuotedPrintable => "quoted-printable",
            Encoding::Base64 => "base64",
        }
    }
}

/// How many octets a text of so many takes, most likely.
pub fn room(octets: usize) -> usize {
    octets + octets / 8 + 64
}

/// A text, with what was found when it was read once.
pub struct Whole<'a> {
    text: Cow<'a, str>,
    /// Octets that stand in no 7-bit text.
    unprintable: usize,
    equals: usize,
    has_cr: bool,
    pub encoding: Encoding,
}

impl<'a> Whole<'a> {
    pub fn of(text: Cow<'a, str>) -> Whole<'a> {
        let octets = text.as_bytes();
        let equals = memchr::memchr_iter(b'=', octets).count();
        let unprintable = octets.len() - count(octets, is_printable);
        let has_cr = memchr::memchr(b'\r', octets).is_some();
        let mut whole = Whole { text, unprintable, equals, has_cr, encoding: Encoding::SevenBit };
        whole.encoding = Encoding::of(whole.is_seven_bit(), unprintable + equals, whole.octets());
        whole
    }

    pub fn octets(&self) -> usize {
        self.text.len()
    }

    /// The lines, without their ends (CRLF, CR, LF).
    fn lines(&self) -> Lines<'_> {
        Lines { rest: Some(self.text.as_bytes()), has_cr: self.has_cr }
    }

    /// Text that every server passes on as it is: short lines without trailing space, and none that a mailbox file would change.
    fn is_seven_bit(&self) -> bool {
        let has_boundary = || self.equals > 0 && memchr::memmem::find(self.text.as_bytes(), BOUNDARY_START.as_bytes()).is_some();
        let is_plain = |line: &[u8]| line.len() <= LINE_MAX && !ends_in_space(line) && !line.starts_with(FROM);
        self.unprintable == 0 && !has_boundary() && self.lines().all(is_plain)
    }

    /// Writes it in its encoding, every line end as CRLF.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(room(self.octets()));
        if self.encoding == Encoding::Base64 {
            return append_base64(&self.lines().collect::<Vec<_>>().join(b"\r\n".as_slice()), out);
        }
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                out.extend_from_slice(b"\r\n");
            }
            if self.encoding == Encoding::SevenBit {
                out.extend_from_slice(line);
            } else if self.is_legible(line) {
                Broken::default().push(line, out);
            } else {
                append_escaped(line, out);
            }
        }
    }

    /// Tells whether nothing in the line needs an escape.
    fn is_legible(&self, line: &[u8]) -> bool {
        let is_clean = match (self.unprintable, self.equals) {
            (0, 0) => true,
            (0, _) => memchr::memchr(b'=', line).is_none(),
            _ => count(line, needs_escape) == 0,
        };
        is_clean && !ends_in_space(line) && !line.starts_with(FROM)
    }
}

/// What stands between line ends; behind the last one there is a line, too.
pub struct Lines<'a> {
    rest: Option<&'a [u8]>,
    has_cr: bool,
}

impl<'a> Lines<'a> {
    pub fn of(text: &'a str) -> Lines<'a> {
        Lines { rest: Some(text.as_bytes()), has_cr: true }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let end = if self.has_cr { memchr::memchr2(b'\r', b'\n', rest) } else { memchr::memchr(b'\n', rest) };
        let Some(at) = end else { return self.rest.take() };
        let behind = if rest[at..].starts_with(b"\r\n") { at + 2 } else { at + 1 };
        self.rest = Some(&rest[behind..]);
        Some(&rest[..at])
    }
}

pub fn ends_in_space(line: &[u8]) -> bool {
    matches!(line.last(), Some(b' ' | b'\t'))
}

/// Octets whose sum fits in one, and that make whole vectors.
const COUNTED: usize = 224;

/// How many octets are such, counted without an early end and in small sums, so that the compiler looks at many of them at once.
pub fn count(octets: &[u8], is_such: impl Fn(u8) -> bool) -> usize {
    let of_part = |part: &[u8]| usize::from(part.iter().fold(0, |sum: u8, byte| sum + u8::from(is_such(*byte))));
    let (parts, rest) = octets.as_chunks::<COUNTED>();
    parts.iter().map(|part| of_part(part)).sum::<usize>() + of_part(rest)
}

pub fn is_printable(byte: u8) -> bool {
    (byte.wrapping_sub(b' ') <= b'~' - b' ') | (byte == b'\t') | (byte == b'\r') | (byte == b'\n')
}

pub fn needs_escape(byte: u8) -> bool {
    (byte == b'=') | !is_printable(byte)
}

/// A line of quoted-printable as it is written, with soft breaks.
#[derive(Default)]
pub struct Broken {
    column: usize,
}

impl Broken {
    /// Appends a piece that needs no escape.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while piece.len() > BROKEN_LINE_MAX - self.column {
            let (fits, rest) = piece.split_at(BROKEN_LINE_MAX - self.column);
            out.extend_from_slice(fits);
            out.extend_from_slice(b"=\r\n");
            (piece, self.column) = (rest, 0);
        }
        out.extend_from_slice(piece);
        self.column += piece.len();
    }

    fn push_escaped(&mut self, byte: u8, out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        if self.column + 3 > BROKEN_LINE_MAX {
            out.extend_from_slice(b"=\r\n");
            self.column = 0;
        }
        out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        self.column += 3;
    }
}

/// A line of quoted-printable that needs escapes.
pub fn append_escaped(line: &[u8], out: &mut Vec<u8>) {
    let (mut broken, mut rest) = (Broken::default(), line);
    if line.starts_with(FROM) {
        broken.push_escaped(line[0], out);
        rest = &line[1..];
    }
    let end = rest.len() - usize::from(ends_in_space(rest));
    let (text, space) = rest.split_at(end);
    // Octets that need an escape stand alone.
    for piece in text.chunk_by(|a, b| !needs_escape(*a) && !needs_escape(*b)) {
        match piece {
            [byte] if needs_escape(*byte) => broken.push_escaped(*byte, out),
            clean => broken.push(clean, out),
        }
    }
    space.iter().for_each(|byte| broken.push_escaped(*byte, out));
}

fn append_base64(octets: &[u8], out: &mut Vec<u8>) {
    for line in STANDARD.encode(octets).as_bytes().chunks(ENCODED_LINE_MAX) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> (Encoding, Vec<u8>) {
        let (whole, mut out) = (Whole::of(text.into()), Vec::new());
        whole.append_to(&mut out);
        (whole.encoding, out)
    }

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
        for text in ["", "a", "a\r\n", "\n\r\nb", "a\rb\r\n\r", "a\n\rb", "a\nb\n"] {
            let crlf = text.replace("\r\n", "\n").replace('\r', "\n");
            let expected: Vec<&[u8]> = crlf.split('\n').map(str::as_bytes).collect();
            assert_eq!(Whole::of(text.into()).lines().collect::<Vec<_>>(), expected, "{text:?}");
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
}
