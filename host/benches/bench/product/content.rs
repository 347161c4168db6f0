//! What is broadcast: the same size whatever stands in it.

use crate::peers::BODY_OCTETS;
use serde_json::{Value, json};

const LINE: &str = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\n";
/// Lines that name the recipient, and one about as long that names nobody.
const TEXT: [&str; 2] = [
    "Dear {{ name }}, at {{ email_id }} the quick brown fox jumps over the dog.\n",
    "Dear User 12345, at user12345@x1.example the quick brown fox jumps over the dog.\n",
];
const HTML: [&str; 2] = [
    "<p>Dear {{ name }}, at <b>{{ email_id }}</b> the quick brown fox jumps.</p>\n",
    "<p>Dear User 12345, at <b>user12345@x1.example</b> the quick brown fox jumps.</p>\n",
];
const LINK: [&str; 2] = [
    "<a href=\"{{ unsubscribe_url }}\">no more</a>\n",
    "<a href=\"http://127.0.0.1:12345/unsubscribe/AAAAAAAAAAEAAAAAAAAAAQAAAAAAADA5AAAAAAAAAAAAAAAAAAAAAA\">no more</a>\n",
];
/// Octets of the text part; the HTML part takes the rest.
const TEXT_OCTETS: usize = 1_500;

/// What a broadcast says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A text part, the same for all.
    Text,
    /// A text and an HTML part, the same for all.
    Html,
    /// The same with the recipient in every line of both parts.
    Templates,
}

impl Content {
    /// The body of `POST /send`.
    pub fn request(self) -> Value {
        let lines = |line: &str, octets: usize| line.repeat(octets / line.len());
        let which = match self {
            Content::Text => {
                return json!({ "from": "a@acme.example", "subject": "Hello", "body": lines(LINE, BODY_OCTETS) });
            }
            Content::Templates => 0,
            Content::Html => 1,
        };
        // As many lines in both, by the length of those that are sent.
        let times = |lines: [&str; 2], octets: usize| lines[which].repeat(octets / lines[1].len());
        let html = times(HTML, BODY_OCTETS - TEXT_OCTETS) + LINK[which];
        json!({ "from": "a@acme.example", "subject": "Hello", "body": times(TEXT, TEXT_OCTETS), "html": html })
    }
}
