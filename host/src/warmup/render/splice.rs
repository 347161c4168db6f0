//! Templates that name their recipient and do nothing else: fixed pieces with values between them.
//!
//! Invariant: answers what the template language would, octet by octet, or declines.

use crate::warmup::render::lines::{Filled, Filling, TemplateLines};
use crate::warmup::render::text::{RENDERED_OCTETS_MAX, VARIABLES, Values};
use minijinja::HtmlEscape;
use std::borrow::Cow;

/// Values in one text; more of them could exhaust the steps that the template language may take.
const VALUES_MAX: usize = 1_000;

/// A template in pieces.
pub struct Splice {
    pieces: Pieces,
    /// The same in lines, for a body.
    lines: Option<TemplateLines>,
    html: bool,
}

/// Fixed text with values between it.
pub struct Pieces {
    /// Text, and the place in [`VARIABLES`] of the value behind it.
    pub before: Vec<(String, usize)>,
    pub tail: String,
}

impl Splice {
    /// Takes a template apart; `None` where it asks for more than values. `html`: values are escaped.
    pub fn of(source: &str, html: bool) -> Option<Splice> {
        // Blocks and comments.
        if source.contains("{%") || source.contains("{#") {
            return None;
        }
        let (mut before, mut rest) = (Vec::new(), source);
        while let Some((text, behind)) = rest.split_once("{{") {
            let (inside, behind) = behind.split_once("}}")?;
            let value = VARIABLES.iter().position(|variable| *variable == inside.trim_matches([' ', '\t', '\r', '\n']))?;
            before.push((text.to_owned(), value));
            rest = behind;
        }
        let pieces = Pieces { before, tail: rest.to_owned() };
        (pieces.before.len() <= VALUES_MAX).then_some(Splice { pieces, lines: None, html })
    }

    /// The text for one recipient; `None` where it is longer than a text may be.
    pub fn render(&self, values: &Values<'_>) -> Option<String> {
        let values = self.values(values);
        let Pieces { before, tail } = &self.pieces;
        let octets = before.iter().map(|(text, value)| text.len() + values[*value].len()).sum::<usize>() + tail.len();
        if octets > RENDERED_OCTETS_MAX {
            return None;
        }
        let mut out = String::with_capacity(octets);
        for (text, value) in before {
            out.push_str(text);
            out.push_str(&values[*value]);
        }
        out.push_str(tail);
        Some(out)
    }

    /// Looks at its lines, once for all recipients.
    pub fn look_at_lines(&mut self) {
        self.lines = TemplateLines::of(&self.pieces);
    }

    /// The same line by line; `None` where nobody has looked at its lines, and where a value could change how one is encoded.
    pub fn fill<'a>(&'a self, values: &Values<'a>) -> Option<Filled<'a>> {
        self.lines.as_ref()?.fill(self.values(values)).filter(|filled| filled.octets <= RENDERED_OCTETS_MAX)
    }

    fn values<'a>(&self, values: &Values<'a>) -> Filling<'a> {
        let values = [values.name, values.email_id, values.unsubscribe_url.unwrap_or_default()];
        values.map(|value| if self.html { html(value) } else { value.into() })
    }
}

/// Escapes what the template language does.
fn html(value: &str) -> Cow<'_, str> {
    match value.bytes().any(|byte| matches!(byte, b'<' | b'>' | b'&' | b'"' | b'\'' | b'/')) {
        true => HtmlEscape(value).to_string().into(),
        false => value.into(),
    }
}
