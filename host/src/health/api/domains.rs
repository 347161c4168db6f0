//! Recipient domains: who receives for them, who tells about them.
//!
//! Invariant: a domain is listed once mail to it was attempted; what the loops say of themselves is of this process.

use crate::health::api::Api;
use crate::http::auth::Caller;
use crate::http::error::ApiError;
use crate::http::paging::Page;
use crate::http::params::Params;
use crate::http::time::rfc3339;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use postwarm_plugin_api::Capabilities;
use serde::Serialize;
use utoipa::ToSchema;

/// A recipient domain.
#[derive(Debug, Serialize, ToSchema)]
pub struct DomainAnswer {
    domain: String,
    /// The mailbox provider that receives for it, or `other`.
    provider: String,
    /// The feedback loop in charge; `null`: nobody can tell what becomes of mail to it.
    #[serde(rename = "loop")]
    feedback: Option<String>,
    /// What that loop can tell.
    can_tell: Vec<&'static str>,
    /// When the last poll that the loop answered began; RFC 3339, UTC.
    checked_at: Option<String>,
    /// When it is asked next; RFC 3339, UTC.
    next_check_at: Option<String>,
    /// What went wrong when it was last asked.
    last_error: Option<String>,
    /// Reports that the loop made outside of what it declared; they are refused.
    refused: u64,
}

/// Lists the recipient domains, in the order of their names.
#[utoipa::path(get, path = "/domains", tag = "stats",
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "The domains.", body = [DomainAnswer])))]
pub async fn list_domains(State(api): State<Api>, caller: Caller, uri: Uri) -> Result<Response, ApiError> {
    let page = Page::read(&Params::read(&uri, &["limit", "cursor"])?)?;
    let order = (page.after.clone().unwrap_or_default(), |(domain, _): &(String, String)| domain.clone());
    let (ledger, org) = (&api.ledger, &caller.org);
    let fetch = |after: String, max| async move { ledger.domains(org, &after, max).await };
    let charge = api.charge();
    let shape = |(domain, provider): (String, String)| {
        let running = charge.of(&caller.org, &domain);
        let status = running.map(|l| l.status()).unwrap_or_default();
        DomainAnswer {
            domain,
            provider,
            feedback: running.map(|l| l.handle.name.to_string()),
            can_tell: running.map(|l| can_tell(l.capabilities)).unwrap_or_default(),
            checked_at: status.checked_at.map(rfc3339),
            next_check_at: status.next_check_at.map(rfc3339),
            last_error: status.last_error,
            refused: status.refused,
        }
    };
    Ok(page.answer(&uri, order, fetch, shape).await?)
}

fn can_tell(c: Capabilities) -> Vec<&'static str> {
    let all = [
        (c.delivered, "delivered"),
        (c.spam, "spam"),
        (c.opened, "opened"),
        (c.read, "read"),
        (c.bounced, "bounced"),
        (c.unsubscribed, "unsubscribed"),
        (c.aggregates, "aggregates"),
    ];
    all.into_iter().filter_map(|(can, name)| can.then_some(name)).collect()
}
