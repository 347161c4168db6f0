//! Reads SMTP replies out of a byte stream, incrementally and within bounds (RFC 5321 4.2).
//!
//! Invariant: knows nothing of sockets, phases or messages.
//! Invariant: holds at most [`LINES_MAX`] lines of [`LINE_OCTETS_MAX`] octets, whatever a server sends.

use memchr::memchr;
use postwarm_plugin_api::{EnhancedCode, Reply};

/// The longest line that is read, its line end included. RFC 5321 4.5.3.1.5 says 512; real servers say more.
pub const LINE_OCTETS_MAX: usize = 2048;
/// The most lines that one reply may have.
pub const LINES_MAX: usize = 100;
/// The octets of a reply's text that are kept for an outcome.
pub const TEXT_OCTETS_MAX: usize = 512;

/// What a server sent that is no SMTP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("the server sent a reply line of more than {LINE_OCTETS_MAX} octets")]
    LineTooLong,
    #[error("the server sent a reply of more than {LINES_MAX} lines")]
    TooManyLines,
    #[error("the server sent a line that is no SMTP reply")]
    Garbage,
    #[error("the server sent the reply code {0}, which SMTP does not have")]
    Code(u16),
    #[error("the server changed the reply code from {0} to {1} within one reply")]
    CodeChanged(u16, u16),
}

/// A parser of one connection's replies. It takes whole lines and leaves an unfinished one with the caller.
#[derive(Debug, Default)]
pub struct ReplyParser {
    code: u16,
    lines: usize,
    done: bool,
    /// The texts of the lines, each ended by a line feed.
    text: Vec<u8>,
}

impl ReplyParser {
    /// Takes lines from `input` until a reply is complete. Returns the octets taken and the code of the completed reply.
    /// The octets behind it are the next reply's; an unfinished line is not taken and must be given again.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<u16>), ReplyError> {
        let mut taken = 0;
        while let Some(end) = memchr(b'\n', &input[taken..]) {
            if end >= LINE_OCTETS_MAX {
                return Err(ReplyError::LineTooLong);
            }
            let line = &input[taken..taken + end];
            taken += end + 1;
            if self.take_line(line.strip_suffix(b"\r").unwrap_or(line))? {
                return Ok((taken, Some(self.code)));
            }
        }
        if input.len() - taken >= LINE_OCTETS_MAX {
            return Err(ReplyError::LineTooLong);
        }
        Ok((taken, None))
    }

    /// Returns the reply that [`feed`](Self::feed) completed last.
    pub fn reply(&self) -> Reply {
        let mut enhanced = None;
        let mut text = String::new();
        for line in self.lines() {
            let line = String::from_utf8_lossy(line);
            let (code, rest) = split_enhanced(&line);
            enhanced = enhanced.or(code);
            // The same code stands on every line; another one is part of the text.
            let rest = if code == enhanced { rest } else { &line };
            push_words(&mut text, rest);
        }
        text.truncate(text.floor_char_boundary(TEXT_OCTETS_MAX));
        Reply { code: self.code, enhanced, text }
    }

    /// Returns the texts of the completed reply, line by line and without codes; an EHLO reply is read from them.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&octet| octet == b'\n').take(self.lines)
    }

    /// Takes one line and tells whether it was the reply's last.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let (code, last) = line_code(line)?;
        if self.done || self.lines == 0 {
            *self = ReplyParser { code, text: std::mem::take(&mut self.text), ..ReplyParser::default() };
            self.text.clear();
        }
        if code != self.code {
            return Err(ReplyError::CodeChanged(self.code, code));
        }
        if self.lines == LINES_MAX {
            return Err(ReplyError::TooManyLines);
        }
        self.lines += 1;
        self.done = last;
        self.text.extend_from_slice(line.get(4..).unwrap_or_default());
        self.text.push(b'\n');
        Ok(last)
    }
}

/// Reads the code of a reply line, and whether no further line follows.
fn line_code(line: &[u8]) -> Result<(u16, bool), ReplyError> {
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Garbage)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(ReplyError::Garbage);
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if !(200..=599).contains(&code) {
        return Err(ReplyError::Code(code));
    }
    match rest.first() {
        None | Some(b' ') => Ok((code, true)),
        Some(b'-') => Ok((code, false)),
        Some(_) => Err(ReplyError::Garbage),
    }
}

/// Splits the enhanced status code (RFC 3463) off the front of a line's text.
fn split_enhanced(line: &str) -> (Option<EnhancedCode>, &str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match parse_enhanced(word) {
        Some(code) => (Some(code), rest),
        None => (None, line),
    }
}

/// Reads an enhanced status code such as `5.1.1` off a server's words: of a class and with numbers that RFC 3463 knows.
pub fn parse_enhanced(word: &str) -> Option<EnhancedCode> {
    let code: EnhancedCode = word.parse().ok()?;
    (matches!(code.0, 2 | 4 | 5) && code.1 <= 999 && code.2 <= 999).then_some(code)
}

/// Appends `line` behind one space, without control characters.
fn push_words(text: &mut String, line: &str) {
    let line = line.trim();
    if line.is_empty() || text.len() >= TEXT_OCTETS_MAX {
        return;
    }
    if !text.is_empty() {
        text.push(' ');
    }
    text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let mut parser = ReplyParser::default();
        let (_, code) = parser.feed(input)?;
        Ok(code.map(|_| parser.reply()))
    }

    #[test]
    fn lines_are_joined_and_the_enhanced_code_is_taken_off_each() {
        let reply = parse(b"550-5.1.1 The email account that you tried\r\n550 5.1.1 to reach does not exist\r\n").unwrap().unwrap();
        assert_eq!(reply.enhanced, Some(EnhancedCode(5, 1, 1)));
        assert_eq!(reply.to_string(), "550 5.1.1 The email account that you tried to reach does not exist");
    }

    #[test]
    fn a_bare_code_is_a_reply() {
        assert_eq!(parse(b"250\r\n").unwrap().unwrap().to_string(), "250");
    }

    #[test]
    fn a_reply_split_at_any_octet_reads_the_same() {
        let whole = b"250-one\r\n250-SIZE 10\r\n250 2.0.0 three\r\n354 go\r\n";
        for cut in 0..=whole.len() {
            let mut parser = ReplyParser::default();
            let mut pending = Vec::new();
            let mut seen = Vec::new();
            for part in [&whole[..cut], &whole[cut..]] {
                pending.extend_from_slice(part);
                loop {
                    let (taken, code) = parser.feed(&pending).unwrap();
                    pending.drain(..taken);
                    match code {
                        Some(_) => seen.push(parser.reply().to_string()),
                        None => break,
                    }
                }
            }
            assert_eq!(seen, ["250 2.0.0 one SIZE 10 three", "354 go"], "cut at {cut}");
        }
    }

    #[test]
    fn hostile_replies_are_errors_and_not_memory() {
        assert_eq!(parse(&vec![b'2'; 64 << 20]), Err(ReplyError::LineTooLong));
        assert_eq!(parse(&b"250-x\r\n".repeat(10_000)), Err(ReplyError::TooManyLines));
        assert_eq!(parse(b"999 no\r\n"), Err(ReplyError::Code(999)));
        assert_eq!(parse(b"100 no\r\n"), Err(ReplyError::Code(100)));
        assert_eq!(parse(b"250-a\r\n550 b\r\n"), Err(ReplyError::CodeChanged(250, 550)));
        for garbage in [&b"\r\n"[..], b"HTTP/1.1 400\r\n", b"25\r\n", b"2500 x\r\n", b"\x16\x03\x01\n"] {
            assert_eq!(parse(garbage), Err(ReplyError::Garbage), "{garbage:?}");
        }
    }

    #[test]
    fn the_text_is_bounded_and_has_no_control_characters() {
        let mut line = b"550 5.7.1 \x00\x1b\xff".to_vec();
        line.extend("é".repeat(900).bytes());
        line.extend(b"\r\n");
        let reply = parse(&line).unwrap().unwrap();
        assert!(reply.text.len() <= TEXT_OCTETS_MAX);
        assert!(!reply.text.chars().any(char::is_control));
    }
}
