//! Templates that name their recipient and do nothing else: fixed pieces with values between them.
//!
//! Invariant: answers what the template language would, octet by octet, or declines.

use crate::warmup::render::text::{RENDERED_OCTETS_MAX, VARIABLES, Values};
use minijinja::HtmlEscape;

/// Values in one text; more of them could exhaust the steps that the template language may take.
const VALUES_MAX: usize = 1_000;

/// A template in pieces.
pub struct Splice {
    /// Text, and the place in [`VARIABLES`] of the value behind it.
    pieces: Vec<(String, usize)>,
    tail: String,
    html: bool,
}

impl Splice {
    /// Takes a template apart; `None` where it asks for more than values. `html`: values are escaped.
    pub fn of(source: &str, html: bool) -> Option<Splice> {
        // Blocks and comments.
        if source.contains("{%") || source.contains("{#") {
            return None;
        }
        let (mut pieces, mut rest) = (Vec::new(), source);
        while let Some((text, behind)) = rest.split_once("{{") {
            let (inside, behind) = behind.split_once("}}")?;
            let value = VARIABLES.iter().position(|variable| *variable == inside.trim_matches([' ', '\t', '\r', '\n']))?;
            pieces.push((text.to_owned(), value));
            rest = behind;
        }
        (pieces.len() <= VALUES_MAX).then(|| Splice { pieces, tail: rest.to_owned(), html })
    }

    /// The text for one recipient; `None` where it is longer than a text may be.
    pub fn render(&self, values: &Values<'_>) -> Option<String> {
        let values = [values.name, values.email_id, values.unsubscribe_url.unwrap_or_default()];
        match self.html {
            true => self.join(values.map(|value| HtmlEscape(value).to_string()).each_ref().map(String::as_str)),
            false => self.join(values),
        }
    }

    fn join(&self, values: [&str; 3]) -> Option<String> {
        let octets = self.pieces.iter().map(|(text, value)| text.len() + values[*value].len()).sum::<usize>() + self.tail.len();
        if octets > RENDERED_OCTETS_MAX {
            return None;
        }
        let mut out = String::with_capacity(octets);
        for (text, value) in &self.pieces {
            out.push_str(text);
            out.push_str(values[*value]);
        }
        out.push_str(&self.tail);
        Some(out)
    }
}
