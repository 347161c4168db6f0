//! Deliveries: what became of each recipient, and the way out of `unknown`.
//!
//! Invariant: one row a recipient; a delivery in doubt is settled only by a person.

use crate::http::error::{ApiError, FieldError};
use crate::http::json::JsonBody;
use crate::http::paging::{Found, Page};
use crate::http::params::Params;
use crate::http::time::rfc3339;
use crate::model::address::Address;
use crate::model::delivery::{Said, State as DeliveryState};
use crate::model::name::{DeliveryKey, UserNumber};
use crate::warmup::api::emails::find_email;
use crate::warmup::api::state::{Api, Member};
use crate::warmup::store::{Action, DeliveryPage, DeliveryRow, Which};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The most recipients that one request settles by name.
pub const RESOLVE_RECIPIENTS_MAX: usize = 10_000;

/// One recipient of an email.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryAnswer {
    recipient: String,
    /// `queued`, `sending`, `sent`, `deferred`, `failed`, `suppressed` or `unknown`.
    state: &'static str,
    attempts: i64,
    /// The client of the last attempt.
    client: Option<String>,
    /// What the server last said, or a sentence of ours where none spoke.
    reply: Option<String>,
    /// The Message-ID of this recipient's mail, the same on every attempt.
    message_id: String,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    queued_at: String,
    /// When it is tried again; RFC 3339, UTC.
    next_at: Option<String>,
    /// RFC 3339, UTC.
    finished_at: Option<String>,
}

/// The body of `POST /emails/{id}/deliveries/resolve`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveBody {
    /// At most 10,000 addresses, or `"all"`.
    #[schema(value_type = RecipientsShape)]
    recipients: Recipients,
    action: ResolveAction,
}

/// Addresses, or `"all"`.
#[derive(ToSchema)]
#[schema(as = Recipients)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum RecipientsShape {
    List(Vec<String>),
    All(String),
}

/// What happens to deliveries in doubt.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResolveAction {
    /// Queues them again; who got the mail already gets it twice.
    Resend,
    /// Leaves them unsent: they become `failed`.
    Drop,
}

/// The answer: how many deliveries were `unknown` and are settled now.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResolveAnswer {
    settled: usize,
}

#[derive(Debug)]
enum Recipients {
    All,
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Recipients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Recipients, D::Error> {
        struct AllOrList;
        impl<'de> Visitor<'de> for AllOrList {
            type Value = Recipients;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of addresses or \"all\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Recipients, E> {
                if text == "all" { Ok(Recipients::All) } else { Err(E::custom("must be a list of addresses or \"all\"")) }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Recipients, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = list.next_element()? {
                    addresses.push(address);
                }
                Ok(Recipients::List(addresses))
            }
        }
        deserializer.deserialize_any(AllOrList)
    }
}

/// Lists the recipients of an email in the order of registration, those not fanned out yet included.
///
/// With `state`, a page may have fewer items than `limit`, even none, and yet a next page: the `Link` header tells.
#[utoipa::path(get, path = "/emails/{id}/deliveries", tag = "deliveries",
    params(("id" = String, Path, description = "The number or the message id."),
        ("state" = Option<String>, Query, description = "Only deliveries in this state."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "The deliveries.", body = [DeliveryAnswer])))]
pub async fn list_deliveries(
    State(api): State<Api>,
    member: Member,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let params = Params::read(&uri, &["state", "limit", "cursor"])?;
    let page = Page::read(&params)?;
    let state = params.get("state").map(|text| DeliveryState::parse(text).ok_or_else(unknown_state)).transpose()?;
    let order = (page.after_number()?, |row: &DeliveryRow| row.user.0);
    let email = find_email(&api, member.org, path).await?;
    let fetch = async |after, limit| {
        let wanted = DeliveryPage { state, after: UserNumber(after), limit };
        let found = api.store.deliveries(member.org, email.number, wanted).await?;
        Ok::<_, ApiError>(Found { items: found.rows, searched_to: found.searched_to.map(|user| user.0) })
    };
    let (tokens, domain) = (api.store.tokens(), email.from.address.domain());
    let message_id = |user| tokens.recipient_message_id(DeliveryKey { org: member.org, email: email.number, user }, &domain);
    page.answer(&uri, order, fetch, |row| shape(message_id(row.user), row)).await
}

fn unknown_state() -> ApiError {
    let known = DeliveryState::ALL.map(|s| format!("`{}`", s.as_str())).join(", ");
    ApiError::parameter("state", format!("must be one of {known}"))
}

fn shape(message_id: String, row: DeliveryRow) -> DeliveryAnswer {
    DeliveryAnswer {
        recipient: row.recipient.to_string(),
        state: row.state.as_str(),
        attempts: row.attempts,
        client: row.client,
        reply: said(row.said),
        message_id: format!("<{message_id}>"),
        queued_at: rfc3339(row.queued_at),
        next_at: row.next_at.map(rfc3339),
        finished_at: row.finished_at.map(rfc3339),
    }
}

fn said(said: Said) -> Option<String> {
    said.reply.map(|reply| reply.to_string()).or(said.detail)
}

/// Settles deliveries in doubt: a person decides whether they are sent again.
#[utoipa::path(post, path = "/emails/{id}/deliveries/resolve", tag = "deliveries", request_body = ResolveBody,
    params(("id" = String, Path, description = "The number or the message id.")),
    responses((status = 200, description = "Settled.", body = ResolveAnswer)))]
pub async fn resolve_deliveries(
    State(api): State<Api>,
    member: Member,
    path: Result<Path<String>, PathRejection>,
    body: JsonBody<ResolveBody>,
) -> Result<Json<ResolveAnswer>, ApiError> {
    let which = match body.value.recipients {
        Recipients::All => Which::All,
        Recipients::List(list) => Which::Recipients(read_addresses(&list)?),
    };
    let action = match body.value.action {
        ResolveAction::Resend => Action::Resend,
        ResolveAction::Drop => Action::Drop,
    };
    let email = find_email(&api, member.org, path).await?;
    let settled = api.store.resolve(member.org, email.number, which, action, api.now()).await?;
    if settled > 0 {
        api.wake.notify_one();
    }
    Ok(Json(ResolveAnswer { settled }))
}

fn read_addresses(list: &[String]) -> Result<Vec<Address>, ApiError> {
    if list.is_empty() || list.len() > RESOLVE_RECIPIENTS_MAX {
        let problem = format!("must have 1 to {RESOLVE_RECIPIENTS_MAX} addresses");
        return Err(ApiError::fields(vec![FieldError::field(&["recipients"], problem)]));
    }
    let (mut addresses, mut errors) = (Vec::with_capacity(list.len()), Vec::new());
    for (at, text) in list.iter().enumerate() {
        match Address::parse(text) {
            Ok(address) => addresses.push(address),
            Err(problem) => errors.push(FieldError::field(&["recipients", &at.to_string()], problem.to_string())),
        }
    }
    if errors.is_empty() { Ok(addresses) } else { Err(ApiError::fields(errors)) }
}
