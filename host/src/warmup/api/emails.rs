//! Emails: list, show.
//!
//! Invariant: the counts of an email add up to its recipients, and a message id finds an email only with its domain.

use crate::http::error::{ApiError, Code};
use crate::http::paging::Page;
use crate::http::params::Params;
use crate::http::time::rfc3339;
use crate::model::delivery::Counts;
use crate::model::email::EmailSummary;
use crate::model::message_id::{email_message_id, read_email_message_id};
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::api::sender::write_mailbox;
use crate::warmup::api::state::{Api, Member};
use crate::warmup::progress::Question;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

/// An email as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmailAnswer {
    /// Counts from 1 per organization.
    email_id: i64,
    #[schema(example = "<email-123@yourdomain.com>")]
    message_id: String,
    from: String,
    subject: String,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
    /// Live recipients and back-fill so far.
    recipients: i64,
    counts: CountsAnswer,
}

/// How many recipients are in which state.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountsAnswer {
    queued: i64,
    sending: i64,
    sent: i64,
    deferred: i64,
    failed: i64,
    suppressed: i64,
    unknown: i64,
}

/// An email and how it goes on.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneEmailAnswer {
    #[serde(flatten)]
    email: EmailAnswer,
    /// Messages tried a second over the last minute; null where none was.
    rate_per_second: Option<f64>,
    /// When all that are queued now will have been tried, as far as it can be told; never before the limits allow. RFC 3339, UTC.
    eta: Option<String>,
    /// What the rest waits for, in words; what ends first comes first.
    waits_for: Option<String>,
}

impl From<EmailSummary> for EmailAnswer {
    fn from(email: EmailSummary) -> EmailAnswer {
        EmailAnswer {
            email_id: email.number.0,
            message_id: format!("<{}>", email_message_id(email.number.0, &email.from.address.domain())),
            from: write_mailbox(&email.from),
            subject: email.subject,
            created_at: rfc3339(email.created_at),
            recipients: email.recipients,
            counts: email.counts.into(),
        }
    }
}

impl From<Counts> for CountsAnswer {
    fn from(counts: Counts) -> CountsAnswer {
        let Counts { queued, sending, sent, deferred, failed, suppressed, unknown } = counts;
        CountsAnswer { queued, sending, sent, deferred, failed, suppressed, unknown }
    }
}

/// Lists the emails, oldest first.
#[utoipa::path(get, path = "/emails", tag = "emails",
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "The emails.", body = [EmailAnswer])))]
pub async fn list_emails(State(api): State<Api>, member: Member, uri: Uri) -> Result<Response, ApiError> {
    let page = Page::read(&Params::read(&uri, &["limit", "cursor"])?)?;
    let order = (page.after_number()?, |email: &EmailSummary| email.number.0);
    Ok(page.answer(&uri, order, |after, max| api.store.emails(member.org, EmailNumber(after), max), EmailAnswer::from).await?)
}

/// Shows one email, by number or message id, and how it goes on.
#[utoipa::path(get, path = "/emails/{id}", tag = "emails",
    params(("id" = String, Path, description = "The number, or the message id with or without angle brackets and quotes.")),
    responses((status = 200, description = "The email.", body = OneEmailAnswer)))]
pub async fn show_email(
    State(api): State<Api>,
    member: Member,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<OneEmailAnswer>, ApiError> {
    let email = find_email(&api, member.org, path).await?;
    let waits = email.counts.queued > 0 || email.counts.deferred > 0;
    let lanes = if waits { api.store.waiting(member.org, email.number).await? } else { Vec::new() };
    let progress = api.progress.of(&Question {
        org: member.org,
        organization: &member.caller.organization,
        email: email.number,
        queued: email.counts.queued,
        lanes: &lanes,
    });
    Ok(Json(OneEmailAnswer {
        email: email.into(),
        rate_per_second: progress.rate_per_second,
        eta: progress.eta.map(rfc3339),
        waits_for: progress.waits_for,
    }))
}

/// Finds an email by what stands in the path.
pub async fn find_email(api: &Api, org: OrgId, path: Result<Path<String>, PathRejection>) -> Result<EmailSummary, ApiError> {
    let unknown = || ApiError::new(Code::EmailUnknown, "no email has this number or message id; GET /emails lists all");
    let Path(text) = path.map_err(|_| unknown())?;
    let (number, domain) = read_email_id(&text).ok_or_else(unknown)?;
    let email = api.store.email(org, number).await?.ok_or_else(unknown)?;
    let same = domain.is_none_or(|domain| domain.eq_ignore_ascii_case(&email.from.address.domain()));
    same.then_some(email).ok_or_else(unknown)
}

/// Reads `123`, `email-123@domain`, `<email-123@domain>`, each also in double quotes.
fn read_email_id(text: &str) -> Option<(EmailNumber, Option<&str>)> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if let Some((number, domain)) = read_email_message_id(text) {
        return Some((EmailNumber(number), Some(domain)));
    }
    let number = text.parse().ok().filter(|n: &i64| *n > 0 && n.to_string() == text)?;
    Some((EmailNumber(number), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_is_named_by_number_or_message_id() {
        for text in ["12", "\"12\""] {
            assert_eq!(read_email_id(text), Some((EmailNumber(12), None)), "{text}");
        }
        for text in ["email-12@a.example", "<email-12@a.example>", "\"<email-12@a.example>\""] {
            assert_eq!(read_email_id(text), Some((EmailNumber(12), Some("a.example"))), "{text}");
        }
        for text in ["0", "-1", "012", "+1", "1.0", "", "\"", "9223372036854775808", "email-1", "1.2.abc@a"] {
            assert_eq!(read_email_id(text), None, "{text}");
        }
    }
}
