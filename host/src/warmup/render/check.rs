//! What an email must be before it is accepted.
//!
//! Invariant: an email that passes can be compiled, and each problem names its field by JSON pointer.

use super::RenderSettings;
use super::text::Text;
use crate::model::email::{HEADER_NAME_CHARS_MAX, HEADERS_MAX, Mailbox, NewEmail, is_own_header};

/// Octets of a subject, a display name or a header value.
const FIELD_OCTETS_MAX: usize = 998;
/// Checks an email as the API got it against what its organization offers: all problems at once, each with the JSON pointer of its
/// field.
pub fn check(email: &NewEmail, settings: &RenderSettings) -> Result<(), Vec<(String, String)>> {
    let mut problems = Vec::new();
    mailbox(&mut problems, "/from", &email.from);
    if let Some(reply_to) = &email.reply_to {
        mailbox(&mut problems, "/reply_to", reply_to);
    }
    field(&mut problems, "/subject", &email.subject);
    let texts = [
        ("/subject", Some(Text::plain(&email.subject))),
        ("/body", Some(Text::plain(&email.body))),
        ("/html", email.html.as_deref().map(Text::html)),
    ];
    for (pointer, text) in texts {
        problems.extend(text.and_then(|text| template(text, settings)).map(|message| (pointer.to_owned(), message)));
    }
    for (pointer, text) in [("/body", Some(&email.body)), ("/html", email.html.as_ref())] {
        if text.is_some_and(|text| text.contains('\0')) {
            problems.push((pointer.to_owned(), "contains NUL; remove it".to_owned()));
        }
    }
    headers(&mut problems, &email.headers);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What is wrong with a text.
fn template(text: Result<Text, String>, settings: &RenderSettings) -> Option<String> {
    let text = match text {
        Ok(text) => text,
        Err(message) => return Some(message),
    };
    (settings.public_url.is_none() && text.names("unsubscribe_url")).then(|| {
        format!(
            "names `unsubscribe_url`, but there is no address that it could point to; set public_url in config/organizations/{}.toml to \
             where this service is reached from outside, or leave the link out",
            settings.organization
        )
    })
}

fn headers(problems: &mut Vec<(String, String)>, headers: &[(String, String)]) {
    if headers.len() > HEADERS_MAX {
        problems.push(("/headers".to_owned(), format!("has {} headers; use at most {HEADERS_MAX}", headers.len())));
    }
    for (name, value) in headers {
        let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let formed = (1..=HEADER_NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !formed {
            let message = format!("is no header name: use 1 to {HEADER_NAME_CHARS_MAX} letters, digits and hyphens");
            problems.push((pointer.clone(), message));
        } else if is_own_header(name) {
            problems.push((pointer.clone(), "is a header that is written for you; leave it out".to_owned()));
        }
        field(problems, &pointer, value);
    }
}

fn mailbox(problems: &mut Vec<(String, String)>, pointer: &str, mailbox: &Mailbox) {
    if let Some(name) = &mailbox.name {
        field(problems, pointer, name);
    }
}

/// A text of one line.
fn field(problems: &mut Vec<(String, String)>, pointer: &str, value: &str) {
    if let Some(at) = value.find(['\r', '\n', '\0']) {
        let character = value[at..].chars().next().unwrap_or_default().escape_debug();
        problems.push((pointer.to_owned(), format!("contains `{character}` at byte {at}; it must be one line")));
    }
    if value.len() > FIELD_OCTETS_MAX {
        problems.push((pointer.to_owned(), format!("has {} octets; use at most {FIELD_OCTETS_MAX}", value.len())));
    }
}
