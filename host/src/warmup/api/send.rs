//! `POST /send`: accepts an email for all users.
//!
//! Invariant: no text that could end a header line leaves this file, and none of the headers that we set ourselves
//! can be given. The cost does not depend on the number of users.

use crate::config::settings::Organization;
use crate::http::error::{ApiError, Code, FieldError, accepted};
use crate::http::json::JsonBody;
use crate::model::email::{HEADER_NAME_CHARS_MAX, HEADERS_MAX, Mailbox, NewEmail, is_own_header};
use crate::model::message_id::email_message_id;
use crate::warmup::api::sender::read_mailbox;
use crate::warmup::api::state::{Api, Member};
use crate::warmup::api::users::no_controls;
use crate::warmup::store::{Accepted, Idempotency};
use aws_lc_rs::digest;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The longest subject in characters.
pub const SUBJECT_CHARS_MAX: usize = 998;
/// The longest value of a further header in octets.
pub const HEADER_VALUE_OCTETS_MAX: usize = 998;
/// The longest `Idempotency-Key` in characters.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// The body of `POST /send`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendBody {
    /// An address, or `Name <address>`, in one of the organization's domains.
    #[schema(example = "noreply@yourdomain.com")]
    from: String,
    /// 1 to 998 characters, no control characters.
    #[schema(min_length = 1, max_length = 998, example = "Welcome!")]
    subject: String,
    /// The text part, a template: `{{ name }}` is the recipient's name.
    #[schema(min_length = 1, example = "Hello, welcome to our warmup system.")]
    body: String,
    /// The HTML part, a template that escapes what it inserts.
    html: Option<String>,
    /// An address, or `Name <address>`.
    reply_to: Option<String>,
    /// Further headers, name to value: at most 50, names of letters, digits and hyphens.
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<Headers>,
}

/// The answer of `POST /send`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SendAnswer {
    #[schema(example = "<email-123@yourdomain.com>")]
    message_id: String,
    #[schema(example = 123)]
    email_id: i64,
    /// Who was registered before; those who come later get it as back-fill.
    recipients: i64,
}

/// Headers in the order that they were given in.
#[derive(Debug, Default)]
struct Headers(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Headers(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Broadcasts an email to all users who are registered now.
///
/// With an `Idempotency-Key`, the same key and body within 24 hours give the same answer and send nothing again.
#[utoipa::path(post, path = "/send", tag = "emails", request_body = SendBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters.")),
    responses((status = 202, description = "Accepted; durable.", body = SendAnswer)))]
pub async fn send_email(
    State(api): State<Api>,
    member: Member,
    headers: HeaderMap,
    body: JsonBody<SendBody>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let _running = match key {
        None => None,
        Some(key) => Some(api.running.enter(member.org, key).ok_or_else(|| {
            ApiError::new(Code::IdempotencyKeyRunning, "the first request with this key is still running; try again for its answer")
                .retry_after(1)
        })?),
    };
    let email = check(body.value, &member.caller.organization)?;
    (api.check_template)(&email, &member.caller.organization)
        .map_err(|problems| ApiError::fields(problems.into_iter().map(template_error).collect()))?;
    let domain = email.from.address.domain();
    let idempotency = key.map(|key| Idempotency { key: key.to_owned(), body_hash: hash(&body.raw) });
    let (email, recipients) = match api.store.accept(member.org, email, idempotency, api.now()).await? {
        Accepted::New { email, recipients } => {
            api.wake.notify_one();
            (email, recipients)
        }
        Accepted::Again { email, recipients } => (email, recipients),
        Accepted::OtherBody => {
            let text = "this key came before with another body; take a new key for a new email";
            return Err(ApiError::new(Code::IdempotencyKeyReused, text));
        }
    };
    let message_id = format!("<{}>", email_message_id(email.0, &domain));
    Ok(accepted(SendAnswer { message_id, email_id: email.0, recipients }))
}

fn template_error((pointer, detail): (String, String)) -> FieldError {
    FieldError { pointer: Some(pointer), parameter: None, detail }
}

fn hash(body: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, body).as_ref());
    out
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let printable = |key: &&str| (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|b| (0x20..0x7f).contains(&b));
    match value.to_str().ok().filter(printable) {
        Some(key) if values.next().is_none() => Ok(Some(key)),
        _ => Err(ApiError::parameter("Idempotency-Key", "must stand once and have 1 to 255 printable ASCII characters")),
    }
}

/// Checks all fields and reports all problems at once.
fn check(body: SendBody, organization: &Organization) -> Result<NewEmail, ApiError> {
    let mut errors = Vec::new();
    let mut note = |path: &[&str], problem: String| errors.push(FieldError::field(path, problem));
    let from = read_mailbox(&body.from).map_err(|problem| note(&["from"], problem)).ok();
    let reply_to = body.reply_to.as_deref().and_then(|text| read_mailbox(text).map_err(|problem| note(&["reply_to"], problem)).ok());
    if let Err(problem) = check_subject(&body.subject) {
        note(&["subject"], problem);
    }
    for (field, text) in [("body", Some(&body.body)), ("html", body.html.as_ref())] {
        if let Some(Err(problem)) = text.map(|text| check_text(text)) {
            note(&[field], problem);
        }
    }
    let headers = body.headers.unwrap_or_default().0;
    if headers.len() > HEADERS_MAX {
        note(&["headers"], format!("has more than {HEADERS_MAX} headers"));
    } else {
        for (at, (name, value)) in headers.iter().enumerate() {
            let double = headers[..at].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name));
            let checked = if double { Err("stands twice; give it once".to_owned()) } else { check_header(name, value) };
            if let Err(problem) = checked {
                note(&["headers", name], problem);
            }
        }
    }
    let from = match from {
        Some(from) if errors.is_empty() => from,
        _ => return Err(ApiError::fields(errors)),
    };
    check_from_domain(&from, organization)?;
    Ok(NewEmail { from, reply_to, subject: body.subject, body: body.body, html: body.html, headers })
}

fn check_from_domain(from: &Mailbox, organization: &Organization) -> Result<(), ApiError> {
    let domain = from.address.domain();
    if organization.from_domains.contains(&domain) {
        return Ok(());
    }
    let known = organization.from_domains.iter().map(|d| format!("`{d}`")).collect::<Vec<_>>().join(", ");
    let detail = format!("has the domain `{domain}`; the organization sends from {known}");
    let error = ApiError::new(Code::FromDomainNotAllowed, format!("`from` {detail}"));
    Err(ApiError { errors: vec![FieldError::field(&["from"], detail)], ..error })
}

fn check_subject(subject: &str) -> Result<(), String> {
    if subject.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if subject.chars().count() > SUBJECT_CHARS_MAX {
        return Err(format!("is longer than {SUBJECT_CHARS_MAX} characters"));
    }
    no_controls(subject)
}

fn check_text(text: &str) -> Result<(), String> {
    match text.find('\0') {
        _ if text.is_empty() => Err("is empty".to_owned()),
        Some(at) => Err(format!("has a NUL at byte {at}")),
        None => Ok(()),
    }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if !(1..=HEADER_NAME_CHARS_MAX).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(format!("has a name that is not 1 to {HEADER_NAME_CHARS_MAX} letters, digits and hyphens"));
    }
    if is_own_header(name) {
        return Err("is a header that Postwarm sets itself; leave it out".to_owned());
    }
    if value.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if value.len() > HEADER_VALUE_OCTETS_MAX {
        return Err(format!("is longer than {HEADER_VALUE_OCTETS_MAX} octets"));
    }
    no_controls(value)
}
