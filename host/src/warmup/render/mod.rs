//! Rendering: an accepted email and a recipient make the bytes that a client sends.
//!
//! An email is compiled once. What does not differ between recipients is encoded once and shared; a recipient then costs a header
//! block. Where a text names its recipient, its body is rendered for each.
//!
//! Invariant: what is rendered is RFC 5322 clean whatever the input (see `plugin_api::Message`) and 7-bit but for addresses that
//! are not ASCII. No clock, no I/O.

mod body;
mod check;
mod depth;
mod encoding;
mod header;
mod lines;
mod splice;
#[cfg(test)]
mod tests;
mod text;

pub use check::check;

use crate::config::settings::Organization;
use crate::model::email::{Email, Mailbox};
use body::Part;
use bytes::Bytes;
use text::{Text, Values};

/// The last field of Feedback-ID, the same for all mail: 5 to 15 characters.
const FEEDBACK_SENDER_ID: &str = "postwarm";

/// What an organization adds to its emails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderSettings {
    pub organization: String,
    /// Where unsubscribe links point, without a trailing slash; `None`: no List-Unsubscribe.
    pub public_url: Option<String>,
}

impl RenderSettings {
    pub fn of(organization: &Organization) -> RenderSettings {
        RenderSettings { organization: organization.name.as_str().to_owned(), public_url: organization.public_url.clone() }
    }

    /// The link of one unsubscribe token; `None` without a public URL.
    pub fn unsubscribe_url(&self, token: &str) -> Option<String> {
        self.public_url.as_ref().map(|url| format!("{url}/unsubscribe/{token}"))
    }
}

/// One recipient of an email.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    pub name: &'a str,
    pub address: &'a str,
    /// Without angle brackets; the same on every attempt.
    pub message_id: &'a str,
    pub unsubscribe_url: Option<&'a str>,
}

/// The bytes of one message. Always 7-bit in its body.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// With the blank line behind it.
    pub header: Bytes,
    pub body: Bytes,
    /// An address is not ASCII.
    pub smtputf8: bool,
}

/// A message could not be rendered for one recipient: the delivery fails with these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {part} {message}")]
pub struct RenderError {
    /// `subject`, `body` or `html`.
    pub part: &'static str,
    pub message: String,
}

/// An email, compiled for all its recipients.
pub struct Template {
    email: i64,
    /// The fields that are the same for all, each with its line end.
    fixed: Vec<u8>,
    /// `None`: it is among the fixed ones.
    subject: Option<Text>,
    content: Content,
    smtputf8: bool,
}

enum Content {
    /// The fields that describe the body, the blank line, and the body.
    Shared {
        header: Vec<u8>,
        body: Bytes,
    },
    Personal {
        plain: Text,
        html: Option<Text>,
    },
}

impl Template {
    /// Compiles an email. Problems are JSON pointers with what is wrong; an email that passed [`check`] with the same settings has
    /// none.
    pub fn compile(email: &Email, settings: &RenderSettings) -> Result<Template, Vec<(String, String)>> {
        check(&email.content, settings)?;
        let content = &email.content;
        let failed = |pointer: &str| {
            let pointer = pointer.to_owned();
            move |message| vec![(pointer, message)]
        };
        let subject = Text::plain(&content.subject).map_err(failed("/subject"))?;
        let plain = Text::plain(&content.body).map_err(failed("/body"))?;
        let html = content.html.as_deref().map(Text::html).transpose().map_err(failed("/html"))?;
        let fixed = fixed_fields(email, settings, subject.fixed());
        let mailboxes = [Some(&content.from), content.reply_to.as_ref()];
        Ok(Template {
            email: email.number.0,
            fixed,
            subject: subject.fixed().is_none().then_some(subject),
            content: compile_content(plain, html, email.number.0),
            smtputf8: mailboxes.into_iter().flatten().any(|m| !m.address.as_str().is_ascii()),
        })
    }

    /// Tells whether all recipients get the same body.
    pub fn shares_body(&self) -> bool {
        matches!(self.content, Content::Shared { .. })
    }

    /// Renders the message of one recipient. `now` is the wall clock in milliseconds since 1970 UTC.
    pub fn render(&self, recipient: &Recipient<'_>, now: i64) -> Result<Rendered, RenderError> {
        let values = Values { name: recipient.name, email_id: recipient.address, unsubscribe_url: recipient.unsubscribe_url };
        let failed = |part: &'static str| move |message: String| RenderError { part, message };
        let mut header = Vec::with_capacity(self.fixed.len() + 768);
        header::date(&mut header, now);
        header.extend_from_slice(&self.fixed);
        if let Some(subject) = &self.subject {
            header::text(&mut header, "Subject", &subject.render(values).map_err(failed("subject"))?);
        }
        header::mailbox(&mut header, "To", Some(recipient.name), recipient.address);
        header::bracketed(&mut header, "Message-ID", recipient.message_id);
        if let Some(url) = recipient.unsubscribe_url {
            header::bracketed(&mut header, "List-Unsubscribe", url);
            header.extend_from_slice(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        }
        let body = match &self.content {
            Content::Shared { header: described, body } => {
                header.extend_from_slice(described);
                body.clone()
            }
            Content::Personal { plain, html } => {
                let plain = Part::of(plain, values).map_err(failed("body"))?;
                let html = html.as_ref().map(|html| Part::of(html, values)).transpose().map_err(failed("html"))?;
                let body = body::write(&plain, html.as_ref(), self.email, &mut header);
                header.extend_from_slice(b"\r\n");
                Bytes::from(body)
            }
        };
        Ok(Rendered { header: header.into(), body, smtputf8: self.smtputf8 || !recipient.address.is_ascii() })
    }
}

fn compile_content(mut plain: Text, mut html: Option<Text>, email: i64) -> Content {
    let html_fixed = html.as_ref().is_none_or(|html| html.fixed().is_some());
    let Some(fixed) = plain.fixed().filter(|_| html_fixed) else {
        [Some(&mut plain), html.as_mut()].into_iter().flatten().for_each(Text::look_at_lines);
        return Content::Personal { plain, html };
    };
    let mut header = Vec::new();
    let html = html.as_ref().and_then(Text::fixed).map(Part::ready);
    let body = body::write(&Part::ready(fixed), html.as_ref(), email, &mut header);
    header.extend_from_slice(b"\r\n");
    Content::Shared { header, body: body.into() }
}

fn fixed_fields(email: &Email, settings: &RenderSettings, subject: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    let content = &email.content;
    let mut mailbox = |name: &str, m: &Mailbox| header::mailbox(&mut out, name, m.name.as_deref(), m.address.as_str());
    mailbox("From", &content.from);
    if let Some(reply_to) = &content.reply_to {
        mailbox("Reply-To", reply_to);
    }
    if let Some(subject) = subject {
        header::text(&mut out, "Subject", subject);
    }
    for (name, value) in &content.headers {
        header::text(&mut out, name, value);
    }
    // Four fields, none twice, none about the recipient: mailbox providers report complaints by them.
    let feedback = format!("email-{}:org-{}:broadcast:{FEEDBACK_SENDER_ID}", email.number.0, settings.organization);
    header::text(&mut out, "Feedback-ID", &feedback);
    if !content.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("precedence")) {
        header::text(&mut out, "Precedence", "bulk");
    }
    out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    out
}
