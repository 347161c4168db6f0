//! What became of emails: one, one delivery, all.
//!
//! Invariant: the five figures that `figures` names add up to `recipients`; `null` means that nobody looked since the email was sent.

use crate::db::DbError;
use crate::health::api::Api;
use crate::health::charge::Charge;
use crate::health::figures::{Figures, InCharge, figures};
use crate::health::store::{EmailCounts, Evidence, FoundDelivery, Part};
use crate::http::auth::Caller;
use crate::http::error::{ApiError, Code};
use crate::http::paging::Page;
use crate::http::params::Params;
use crate::http::time::rfc3339;
use crate::model::message_id::{RecipientMessageId, email_message_id, read_email_message_id};
use crate::model::name::OrgName;
use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use postwarm_plugin_api::FactKind;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Emails that are read at a time: one may have ten thousand recipient domains.
const READ_EMAILS_MAX: usize = 16;

/// What became of an email or of one delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsAnswer {
    /// Counts from 1 per organization.
    email_id: i64,
    #[schema(example = "<email-123@yourdomain.com>")]
    message_id: String,
    #[serde(flatten)]
    figures: FiguresAnswer,
    /// When the last poll that a loop in charge of a recipient answered began; of several, the earliest. RFC 3339, UTC;
    /// `null` where none has answered since the first message was sent, or since the service started.
    #[schema(format = DateTime)]
    checked_at: Option<String>,
    /// The same figures by mailbox provider, of the recipients whose provider is known.
    by_provider: BTreeMap<String, FiguresAnswer>,
    /// The evidence, where one delivery was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<Vec<FactAnswer>>,
}

/// Delivered, bounced, suppressed, pending and unknown add up to recipients.
#[derive(Debug, Serialize, ToSchema)]
pub struct FiguresAnswer {
    recipients: i64,
    /// A loop saw them arrive, whatever the folder.
    delivered: i64,
    /// Of the delivered; `null` where no loop in charge can tell, or none has looked since the first message was sent.
    spam: Option<i64>,
    /// Of the delivered; `null` where no loop in charge can tell, or none has looked since the first message was sent.
    opened: Option<i64>,
    /// Of the delivered; `null` where no loop in charge can tell, or none has looked since the first message was sent.
    read: Option<i64>,
    /// Refused for good, in the SMTP dialogue or by a later report.
    bounced: i64,
    suppressed: i64,
    /// Not sent yet, or sent and its loop may still tell.
    pending: i64,
    /// In doubt, or no loop of its domain can tell.
    unknown: i64,
}

/// One piece of evidence.
#[derive(Debug, Serialize, ToSchema)]
pub struct FactAnswer {
    #[schema(value_type = String, example = "delivered")]
    kind: FactKind,
    /// When it happened, where the source told; RFC 3339, UTC.
    at: Option<String>,
    /// When the loop saw it; RFC 3339, UTC.
    seen_at: String,
    /// The loop that saw it.
    source: String,
}

/// What the parameter names.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Email(i64, Option<&'a str>),
    Delivery(RecipientMessageId, &'a str),
}

/// Tells what became of an email, or of one delivery of it.
#[utoipa::path(get, path = "/mail_stats", tag = "stats",
    params(
        ("mail_id" = Option<String>, Query, description = "The number, the message id of /send, or a recipient's message id."),
        ("email_id" = Option<String>, Query, description = "The same; give one of the two.")),
    responses((status = 200, description = "The figures.", body = StatsAnswer)))]
pub async fn show_mail_stats(State(api): State<Api>, caller: Caller, uri: Uri) -> Result<Json<StatsAnswer>, ApiError> {
    let params = Params::read(&uri, &["mail_id", "email_id"])?;
    let text = match (params.get("mail_id"), params.get("email_id")) {
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => return Err(ApiError::parameter("email_id", "is missing; give an email's number or message id")),
        (Some(_), Some(_)) => return Err(ApiError::parameter("mail_id", "stands beside `email_id`; give one of the two")),
    };
    let unknown = || ApiError::new(Code::EmailUnknown, "no email and no delivery has this id; GET /all_mail_stats lists all emails");
    let found = match wanted(text).ok_or_else(unknown)? {
        Wanted::Email(number, domain) => api
            .ledger
            .email(&caller.org, number)
            .await?
            .filter(|email| domain.is_none_or(|d| d.eq_ignore_ascii_case(&email.from_domain)))
            .map(|email| of_email(&api.charge(), &caller.org, &email)),
        Wanted::Delivery(id, domain) => api
            .ledger
            .delivery(&caller.org, id.email, id.user, id.token)
            .await?
            .filter(|delivery| domain.eq_ignore_ascii_case(&delivery.from_domain))
            .map(|delivery| of_delivery(&api.charge(), &caller.org, id.email, bare(text), delivery)),
    };
    found.map(Json).ok_or_else(unknown)
}

/// Tells what became of all emails, oldest first.
#[utoipa::path(get, path = "/all_mail_stats", tag = "stats",
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "The figures by email number.", body = BTreeMap<String, StatsAnswer>)))]
pub async fn list_all_mail_stats(State(api): State<Api>, caller: Caller, uri: Uri) -> Result<Response, ApiError> {
    let page = Page::read(&Params::read(&uri, &["limit", "cursor"])?)?;
    let charge = api.charge();
    let (charge, ledger, org) = (&charge, &api.ledger, &caller.org);
    let fetch = |mut after: i64, max: usize| async move {
        let mut found = Vec::new();
        while found.len() < max {
            let some = ledger.emails(org, after, READ_EMAILS_MAX.min(max - found.len())).await?;
            let Some(last) = some.last() else { break };
            after = last.email;
            found.extend(some.iter().map(|email| of_email(charge, org, email)));
        }
        Ok::<_, DbError>(found)
    };
    Ok(page.answer_by_key(&uri, (page.after_number()?, |stats: &StatsAnswer| stats.email_id), fetch).await?)
}

fn of_email(charge: &Charge, org: &OrgName, email: &EmailCounts) -> StatsAnswer {
    let since = |checked_at: Option<i64>| checked_at.filter(|at| email.first_sent_at.is_some_and(|sent| *at >= sent));
    let (whole, by_provider) = figures(email, |domain| {
        let running = charge.of(org, domain)?;
        Some(InCharge { can: running.capabilities, looked: since(running.status().checked_at).is_some() })
    });
    let seen = email.parts.iter().filter(|p| p.tally.live + p.tally.backfill > 0);
    let checked_at = seen.filter_map(|p| since(charge.of(org, &p.domain)?.status().checked_at)).min();
    StatsAnswer {
        email_id: email.email,
        message_id: format!("<{}>", email_message_id(email.email, &email.from_domain)),
        figures: whole.into(),
        checked_at: checked_at.map(rfc3339),
        by_provider: by_provider.into_iter().map(|(name, f)| (name.to_owned(), f.into())).collect(),
        facts: None,
    }
}

fn of_delivery(charge: &Charge, org: &OrgName, email: i64, message_id: &str, found: FoundDelivery) -> StatsAnswer {
    let part = Part { domain: found.domain, provider: found.provider, tally: found.delivery.tally() };
    let first_sent_at = Some(found.delivery.sent_at).filter(|at| *at > 0);
    let counts = EmailCounts { email, from_domain: found.from_domain, live: None, first_sent_at, parts: vec![part] };
    let facts = found.facts.into_iter().map(FactAnswer::from).collect();
    StatsAnswer { message_id: format!("<{message_id}>"), facts: Some(facts), ..of_email(charge, org, &counts) }
}

impl From<Figures> for FiguresAnswer {
    fn from(figures: Figures) -> FiguresAnswer {
        let Figures { recipients, delivered, spam, opened, read, bounced, suppressed, pending, unknown } = figures;
        FiguresAnswer { recipients, delivered, spam, opened, read, bounced, suppressed, pending, unknown }
    }
}

impl From<Evidence> for FactAnswer {
    fn from(e: Evidence) -> FactAnswer {
        FactAnswer { kind: e.kind, at: e.at.map(rfc3339), seen_at: rfc3339(e.seen_at), source: e.source }
    }
}

/// An id without white space, quotes and angle brackets around it.
fn bare(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text)
}

/// Reads `123`, `email-123@domain` or `123.7.TOKEN@domain`, each also in angle brackets or quotes.
fn wanted(text: &str) -> Option<Wanted<'_>> {
    let text = bare(text);
    if let Some((number, domain)) = read_email_message_id(text) {
        return Some(Wanted::Email(number, Some(domain)));
    }
    if let Some(id) = RecipientMessageId::parse(text) {
        return Some(Wanted::Delivery(id, text.rsplit_once('@')?.1));
    }
    text.parse().ok().filter(|n: &i64| *n > 0 && n.to_string() == text).map(|number| Wanted::Email(number, None))
}
