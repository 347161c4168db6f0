//! Header fields: folding (RFC 5322 2.2.3), encoded words (RFC 2047), mailboxes, dates.
//!
//! Invariant: whatever the input, each function writes whole fields that end in CRLF; no other CR or LF is written but folds, no
//! octet above 127 but in addresses, and no line is longer than 998 octets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Lines are folded at this column where they can be.
const LINE_MAX: usize = 78;
/// A word longer than this is encoded, so that a line can break within it.
const WORD_MAX: usize = 900;
/// Octets of text in one encoded word of 75 characters.
const ENCODED_OCTETS_MAX: usize = 45;
/// A quoted display name up to this long stands on one line.
const QUOTED_MAX: usize = 60;

/// Writes a field of free text, such as Subject.
pub fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    if is_plain(value) {
        fold(out, name.len() + 2, value);
    } else {
        encoded_words(out, name.len() + 2, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a field of one mailbox: `"name" <address>`.
pub fn mailbox(out: &mut Vec<u8>, name: &str, display: Option<&str>, address: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let mut column = name.len() + 2;
    if let Some(display) = display.filter(|d| !d.is_empty()) {
        column = phrase(out, column, display);
        let fits = column + 1 + address.len() + 2 <= LINE_MAX;
        out.extend_from_slice(if fits { b" " } else { b"\r\n " });
    }
    out.push(b'<');
    unbroken(out, address);
    out.extend_from_slice(b">\r\n");
}

/// Writes a field whose value is one token that must not be folded, in angle brackets: a Message-ID or a URL.
pub fn bracketed(out: &mut Vec<u8>, name: &str, token: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": <");
    unbroken(out, token);
    out.extend_from_slice(b">\r\n");
}

/// Writes `Date` (RFC 5322 3.3) in UTC.
pub fn date(out: &mut Vec<u8>, wall_ms: i64) {
    const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    // From 1970 to the end of 9999: a year has four digits.
    let secs = wall_ms.div_euclid(1_000).clamp(0, 253_402_300_799);
    let (days, second) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[(month - 1) as usize]);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let two = |number: i64| [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
    let (century, year) = (two(year / 100), two(year % 100));
    let (day, hour, minute, second) = (two(day), two(hour), two(minute), two(second));
    let parts: [&[u8]; 16] =
        [b"Date: ", weekday, b", ", &day, b" ", month, b" ", &century, &year, b" ", &hour, b":", &minute, b":", &second, b" +0000\r\n"];
    parts.into_iter().for_each(|part| out.extend_from_slice(part));
}

/// Year, month and day of a day since 1970 (Hinnant's algorithm, the era starting in March).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Writes a display name and returns the column behind it.
fn phrase(out: &mut Vec<u8>, column: usize, display: &str) -> usize {
    if !is_plain(display) || display.len() > QUOTED_MAX {
        return encoded_words(out, column, display);
    }
    let before = out.len();
    out.push(b'"');
    for byte in display.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    column + out.len() - before
}

/// Text that reads back as it is when written as it is.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| (0x20..=0x7e).contains(&b))
        && value.as_bytes().windows(2).all(|pair| pair != b"=?" && pair != b"  ")
        && !value.starts_with(' ')
        && !value.ends_with(' ')
        && (value.len() <= WORD_MAX || value.split(' ').all(|word| word.len() <= WORD_MAX))
}

fn fold(out: &mut Vec<u8>, mut column: usize, value: &str) {
    for (index, word) in value.split(' ').enumerate() {
        if index > 0 && column + 1 + word.len() > LINE_MAX {
            out.extend_from_slice(b"\r\n ");
            column = 1;
        } else if index > 0 {
            out.push(b' ');
            column += 1;
        }
        out.extend_from_slice(word.as_bytes());
        column += word.len();
    }
}

/// Writes text as encoded words, whole characters in each, and returns the column behind the last.
fn encoded_words(out: &mut Vec<u8>, mut column: usize, value: &str) -> usize {
    let mut rest = value;
    while !rest.is_empty() {
        let room = LINE_MAX.saturating_sub(column + 12) / 4 * 3;
        let octets_max = room.clamp(12, ENCODED_OCTETS_MAX);
        let end = rest.floor_char_boundary(octets_max.min(rest.len()));
        let (word, behind) = rest.split_at(end);
        let encoded = STANDARD.encode(word);
        out.extend_from_slice(b"=?utf-8?B?");
        out.extend_from_slice(encoded.as_bytes());
        out.extend_from_slice(b"?=");
        column += encoded.len() + 12;
        rest = behind;
        if !rest.is_empty() {
            out.extend_from_slice(b"\r\n ");
            column = 1;
        }
    }
    column
}

/// Writes a token without what could end it or its line.
fn unbroken(out: &mut Vec<u8>, token: &str) {
    let breaks = |b: &u8| b.is_ascii_control() || matches!(b, b'<' | b'>');
    // Without an early end, so that many octets are looked at at once.
    if token.len() <= WORD_MAX && !token.as_bytes().iter().fold(false, |any, b| any | breaks(b)) {
        return out.extend_from_slice(token.as_bytes());
    }
    out.extend(token.bytes().filter(|b| !breaks(b)).take(WORD_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("utf-8")
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "Thu, 01 Jan 1970 00:00:00"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00"),
            (1_795_608_672_999, "Wed, 25 Nov 2026 12:11:12"),
            (-5, "Thu, 01 Jan 1970 00:00:00"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59"),
        ];
        for (ms, expected) in cases {
            assert_eq!(written(|out| date(out, ms)), format!("Date: {expected} +0000\r\n"));
        }
    }

    #[test]
    fn plain_text_folds_at_spaces_and_other_text_is_encoded() {
        let long = "word ".repeat(40);
        let folded = written(|out| text(out, "Subject", long.trim_end()));
        assert!(folded.lines().all(|line| line.len() <= 78) && folded.lines().count() > 2);
        assert_eq!(folded.replace("\r\n ", " "), format!("Subject: {}\r\n", long.trim_end()));
        assert_eq!(written(|out| text(out, "Subject", "Grüße")), "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n");
        let encoded = written(|out| text(out, "Subject", &"ü".repeat(200)));
        assert!(encoded.lines().all(|line| line.len() <= 78), "{encoded}");
    }

    #[test]
    fn a_display_name_is_quoted_or_encoded_and_cannot_end_its_line() {
        assert_eq!(written(|out| mailbox(out, "To", Some("Al \"A\" B"), "a@b.example")), "To: \"Al \\\"A\\\" B\" <a@b.example>\r\n");
        assert_eq!(written(|out| mailbox(out, "To", None, "a@b.example")), "To: <a@b.example>\r\n");
        let evil = written(|out| mailbox(out, "To", Some("x\r\nBcc: <y@z.example>"), "a@b.example"));
        assert_eq!(evil.lines().filter(|line| !line.starts_with(' ')).count(), 1, "{evil}");
    }
}
