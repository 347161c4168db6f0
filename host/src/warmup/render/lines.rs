//! Templates of fixed text and values, in lines that are looked at once for all recipients: a message then costs copies alone.
//!
//! Invariant: writes what [`encoding`](super::encoding) would of the same text, octet by octet, or declines.

use crate::warmup::render::encoding::{
    self, BOUNDARY_START, Broken, Encoding, FROM, LINE_MAX, append_escaped, ends_in_space, needs_escape, room,
};
use crate::warmup::render::splice::Pieces;
use crate::warmup::render::text::VARIABLES;
use std::borrow::Cow;

/// Lines of one text: some hundred octets of memory each.
const LINES_MAX: usize = 2_000;

/// What stands for each of [`VARIABLES`].
pub type Filling<'a> = [Cow<'a, str>; VARIABLES.len()];

/// A template in lines.
pub struct TemplateLines {
    lines: Vec<Line>,
    /// Octets of its fixed text, line ends among them.
    fixed_octets: usize,
    /// How often each value stands in it.
    times: [usize; VARIABLES.len()],
    /// Octets of fixed text that quoted-printable has to escape whatever their place.
    escapes: usize,
    /// Its fixed text alone keeps it from being sent as it is.
    is_encoded: bool,
    /// Values that stand where a line could come to start as mailbox files change it, with what of that start would be theirs.
    after_from: Vec<(&'static [u8], usize)>,
}

/// Fixed text with values between it, up to a line end.
#[derive(Default)]
struct Line {
    pieces: Vec<(Vec<u8>, usize)>,
    tail: Vec<u8>,
    fixed_octets: usize,
    times: [usize; VARIABLES.len()],
    /// Something in it needs an escape.
    is_escaped: bool,
}

/// The lines with the values of one recipient.
pub struct Filled<'a> {
    lines: &'a [Line],
    values: Filling<'a>,
    pub encoding: Encoding,
    pub octets: usize,
}

impl TemplateLines {
    /// `None` where there are more of them than are worth their memory.
    pub fn of(pieces: &Pieces) -> Option<TemplateLines> {
        let mut lines = vec![Line::default()];
        for (text, value) in &pieces.before {
            push(&mut lines, text, Some(*value));
        }
        push(&mut lines, &pieces.tail, None);
        if lines.len() > LINES_MAX {
            return None;
        }
        lines.iter_mut().for_each(Line::finish);
        let fixed = || pieces.before.iter().map(|(text, _)| text.as_str()).chain([pieces.tail.as_str()]);
        let is_encoded = fixed().any(|text| text.contains(BOUNDARY_START)) || lines.iter().any(|line| line.is_escaped_by_place());
        let unprintable = fixed().any(|text| !text.bytes().all(encoding::is_printable));
        let mut times = [0; VARIABLES.len()];
        pieces.before.iter().for_each(|(_, value)| times[*value] += 1);
        Some(TemplateLines {
            fixed_octets: fixed().map(str::len).sum(),
            escapes: fixed().map(|text| encoding::count(text.as_bytes(), needs_escape)).sum(),
            is_encoded: is_encoded || unprintable,
            times,
            after_from: lines.iter().filter_map(Line::after_from).collect(),
            lines,
        })
    }

    /// Puts values in. `None` where one of them could change how a line is encoded, and where the text is in base64.
    pub fn fill<'a>(&'a self, values: Filling<'a>) -> Option<Filled<'a>> {
        let has_plain = |value: usize| self.times[value] == 0 || is_plain(values[value].as_bytes());
        let makes_from = |(rest, value): &(&[u8], usize)| rest.iter().zip(values[*value].as_bytes()).all(|(a, b)| a == b);
        if !(0..values.len()).all(has_plain) || self.after_from.iter().any(makes_from) {
            return None;
        }
        let octets = octets_with(self.fixed_octets, &self.times, &values);
        let is_seven_bit = !self.is_encoded && self.lines.iter().all(|line| line.octets(&values) <= LINE_MAX);
        let encoding = Encoding::of(is_seven_bit, self.escapes, octets);
        (encoding != Encoding::Base64).then_some(Filled { lines: &self.lines, values, encoding, octets })
    }
}

impl Filled<'_> {
    /// Writes it in its encoding, every line end as CRLF.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(room(self.octets));
        let mut joined = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b"\r\n");
            }
            if self.encoding == Encoding::SevenBit {
                line.each(&self.values, |piece| out.extend_from_slice(piece));
            } else if line.is_escaped {
                joined.clear();
                line.each(&self.values, |piece| joined.extend_from_slice(piece));
                append_escaped(&joined, out);
            } else {
                let mut broken = Broken::default();
                line.each(&self.values, |piece| broken.push(piece, out));
            }
        }
    }
}

impl Line {
    fn octets(&self, values: &Filling<'_>) -> usize {
        octets_with(self.fixed_octets, &self.times, values)
    }

    /// Fixed text at its start.
    fn start(&self) -> &[u8] {
        self.pieces.first().map_or(&self.tail, |(text, _)| text)
    }

    fn is_escaped_by_place(&self) -> bool {
        ends_in_space(&self.tail) || self.start().starts_with(FROM)
    }

    /// Counts what it has once it is whole.
    fn finish(&mut self) {
        let fixed = || self.pieces.iter().map(|(text, _)| text).chain([&self.tail]);
        let octets = fixed().map(Vec::len).sum();
        let is_escaped = self.is_escaped_by_place() || fixed().any(|text| text.iter().any(|byte| needs_escape(*byte)));
        (self.fixed_octets, self.is_escaped) = (octets, is_escaped);
        for (_, value) in &self.pieces {
            self.times[*value] += 1;
        }
    }

    /// The value behind its first text where both could make it start as mailbox files change it; and the end of that start.
    fn after_from(&self) -> Option<(&'static [u8], usize)> {
        let (text, value) = self.pieces.first()?;
        let rest = FROM.strip_prefix(text.as_slice()).filter(|rest| !rest.is_empty())?;
        Some((rest, *value))
    }

    /// Its pieces, in order.
    fn each(&self, values: &Filling<'_>, mut take: impl FnMut(&[u8])) {
        for (text, value) in &self.pieces {
            take(text);
            take(values[*value].as_bytes());
        }
        take(&self.tail);
    }
}

/// Appends fixed text, and what stands behind it, to the lines.
fn push(lines: &mut Vec<Line>, text: &str, value: Option<usize>) {
    for (index, fixed) in encoding::Lines::of(text).enumerate() {
        if index > 0 {
            lines.push(Line::default());
        }
        if let Some(line) = lines.last_mut() {
            line.tail.extend_from_slice(fixed);
        }
    }
    if let (Some(value), Some(line)) = (value, lines.last_mut()) {
        let text = std::mem::take(&mut line.tail);
        line.pieces.push((text, value));
    }
}

fn octets_with(fixed: usize, times: &[usize; VARIABLES.len()], values: &Filling<'_>) -> usize {
    fixed + times.iter().zip(values).map(|(times, value)| times * value.len()).sum::<usize>()
}

/// A value that changes nothing about its line but its length: no escape, no line end, no space that may come to stand at the end of a
/// line, and no end of a boundary's start.
fn is_plain(value: &[u8]) -> bool {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    value.iter().all(is_text) && !ends_in_space(value) && value.first().is_some_and(|first| *first != b'_')
}

#[cfg(test)]
mod tests {
    use crate::warmup::render::encoding::{Encoding, Whole};
    use crate::warmup::render::splice::Splice;
    use crate::warmup::render::text::Values;
    use proptest::prelude::*;

    type Written = (Encoding, usize, Vec<u8>);

    /// What is filled in, and what is encoded of the joined text.
    fn both_ways(source: &str, html: bool, values: Values<'_>) -> (Option<Written>, Written) {
        let mut splice = Splice::of(source, html).expect("values alone");
        splice.look_at_lines();
        let filled = splice.fill(&values).map(|filled| {
            let mut out = Vec::new();
            filled.append_to(&mut out);
            (filled.encoding, filled.octets, out)
        });
        let whole = Whole::of(splice.render(&values).expect("short").into());
        let mut out = Vec::new();
        whole.append_to(&mut out);
        (filled, (whole.encoding, whole.octets(), out))
    }

    fn values<'a>(name: &'a str, email_id: &'a str) -> Values<'a> {
        Values { name, email_id, unsubscribe_url: Some("https://example.com/unsubscribe/x-1") }
    }

    #[test]
    fn lines_are_filled_in_every_encoding_but_base64() {
        let long = "Dear {{ name }}, this line is longer than a line of quoted-printable, and it is broken softly.\n";
        for (source, encoding) in [
            ("Dear {{ name }},\r\nhow are you?\rBye\n", Encoding::SevenBit),
            ("{{ name }}\n\n{{email_id}} {{ unsubscribe_url }}", Encoding::SevenBit),
            (long, Encoding::QuotedPrintable),
            ("<a href=\"{{ unsubscribe_url }}\">{{ name }}</a>\nFrom {{ name }}\ntrailing \n", Encoding::QuotedPrintable),
            ("Grüße an {{ name }}, der das hier liest", Encoding::QuotedPrintable),
            ("a =_ b {{ name }} and more text, so that it stays legible", Encoding::QuotedPrintable),
        ] {
            for html in [false, true] {
                let (filled, whole) = both_ways(source, html, values("Alice", "alice@example.com"));
                assert_eq!(filled.as_ref(), Some(&whole), "{source:?}");
                assert_eq!(whole.0, encoding, "{source:?}");
            }
        }
    }

    #[test]
    fn a_value_that_could_change_how_a_line_is_encoded_is_left_to_who_reads_the_whole() {
        for name in ["", "Jürgen", "a=b", "_x", "a ", "a\nb", "a\r", "tab\tbed"] {
            assert_eq!(both_ways("Dear {{ name }},\n", false, values(name, "a@b.example")).0, None, "{name:?}");
        }
        for (source, name) in [("{{ name }} said", "From"), ("{{ name }}om x", "Fr"), ("Fro{{ name }}", "m x"), ("x\n{{ name }}", "From x")]
        {
            assert_eq!(both_ways(source, false, values(name, "a@b.example")).0, None, "{source:?}");
        }
        assert_eq!(both_ways("日本語日本語日本語 {{ name }}", false, values("Alice", "a@b.example")).0, None, "base64");
        // A value that does not stand there does not matter.
        assert!(both_ways("Dear {{ email_id }}", false, values("", "a@b.example")).0.is_some());
    }

    #[test]
    fn a_text_of_many_lines_is_read_as_a_whole() {
        let lines = |count: usize| "{{ name }}\n".repeat(count.min(900)) + &"\n".repeat(count.saturating_sub(901));
        let values = values("Alice", "a@b.example");
        assert!(both_ways(&lines(super::LINES_MAX), false, values).0.is_some());
        assert_eq!(both_ways(&lines(super::LINES_MAX + 1), false, values).0, None);
    }

    proptest! {
        #[test]
        fn what_is_filled_in_is_what_is_encoded_of_the_joined_text(
            parts in proptest::collection::vec(prop_oneof![
                Just("{{ name }}".to_owned()), Just("{{email_id}}".to_owned()), Just("{{ unsubscribe_url }}".to_owned()),
                "[ \r\n=_.FromX-]{0,6}", "(\n|\r\n|)(From |Fr|)", "[a-z ]{20,90}", "[a-z]{70,80}", "\\PC{0,4}", "[\t\x0b\x7f]{0,2}",
            ], 0..12),
            [name, email_id, url] in ["[ =_FromX<&]{0,6}", "[a-z]{1,9}", "(From |rom |om |[a-z:/.]{0,9})"],
            html in any::<bool>(),
        ) {
            let source = parts.concat();
            prop_assume!(Splice::of(&source, html).is_some());
            let values = Values { name: &name, email_id: &email_id, unsubscribe_url: Some(&url) };
            let (filled, whole) = both_ways(&source, html, values);
            if let Some(filled) = filled {
                prop_assert_eq!(filled, whole, "{:?}", source);
            }
        }
    }
}
