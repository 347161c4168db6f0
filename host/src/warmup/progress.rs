//! How an email goes on, for who asks: how fast, until when, and what the rest waits for.
//!
//! Invariant: pure but for the locks it reads under; it decides nothing. A time is never earlier than the limits allow.

use crate::clock::Now;
use crate::config::settings::Organization;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::engine::{Held, View};
use crate::warmup::limits::{Allowance, Blocked, Limits, Scopes, Shared};
use crate::warmup::store::WaitingLane;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The most reasons that one answer names.
pub const REASONS_MAX: usize = 3;
/// Beyond this, in milliseconds, no time is told: about a hundred years.
const TELLABLE_MS: i64 = 100 * 365 * 86_400_000;

/// How an email goes now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EmailNow {
    /// Messages tried a second, over the last minute.
    pub rate_per_second: Option<f64>,
    /// In milliseconds since 1970 UTC.
    pub eta: Option<i64>,
    pub waits_for: Option<String>,
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub org: OrgId,
    pub organization: &'a Organization,
    pub email: EmailNumber,
    /// Its queued recipients, those that are not fanned out yet included.
    pub queued: i64,
    pub lanes: &'a [WaitingLane],
}

/// Answers from what the engine shows and what the limits have counted.
pub fn now(question: &Question<'_>, view: &View, limits: &Shared, at: Now) -> EmailNow {
    let Question { org, organization, email, .. } = *question;
    let client = view.client(org).or_else(|| organization.smtp.first().map(|entry| entry.name.as_str().into()));
    let client = client.as_deref().unwrap_or_default();
    let mut load = Load { rate: view.rate_of_organization(org, at.boot_ms), ..Load::default() };
    let mut reasons = Vec::new();
    let in_lanes: i64 = question.lanes.iter().map(|lane| lane.queued).sum();
    load.rest = count(question.queued - in_lanes);
    {
        let mut limits = limits.lock();
        for lane in question.lanes {
            let held = view.held(org, &lane.provider, at.boot_ms);
            let scopes = Scopes::of(organization, client, &lane.provider);
            if lane.queued > 0 {
                load.held |= held.as_ref().is_some_and(|held| held.until_boot_ms.is_none());
                load.not_before = load.not_before.max(held.as_ref().and_then(|held| held.until_boot_ms));
                let ahead = count(lane.ahead.max(lane.queued));
                load.lanes.push(LaneLoad { rows: ahead, limits: limits.allowances(&scopes.provider, at.boot_ms) });
            }
            reasons.extend(reason(held, &scopes, &mut limits, at));
        }
        if question.queued > 0 {
            load.common = common(organization, client, &mut limits, at);
        }
    }
    EmailNow { rate_per_second: view.rate(org, email, at.boot_ms), eta: eta(&load, at), waits_for: waits_for(reasons) }
}

fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

/// What every message of the organization is counted by, whoever receives it.
fn common(organization: &Organization, client: &str, limits: &mut Limits, at: Now) -> Vec<Allowance> {
    let scopes = Scopes::of(organization, client, "");
    let names = [Some(&scopes.org), Some(&scopes.client), scopes.share.as_ref()];
    names.into_iter().flatten().flat_map(|scope| limits.allowances(scope, at.boot_ms)).collect()
}

/// What stands before the last recipient of an email.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Load {
    pub lanes: Vec<LaneLoad>,
    /// Recipients whose lane is not known yet.
    pub rest: u64,
    /// The windows that all of them are counted by.
    pub common: Vec<Allowance>,
    /// Messages tried a second, of the whole organization.
    pub rate: Option<f64>,
    /// Nothing goes, and nobody can tell until when: a client fails.
    pub held: bool,
    /// Nothing goes before this, by the boot clock.
    pub not_before: Option<i64>,
}

/// What stands in one lane.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LaneLoad {
    pub rows: u64,
    /// The mailbox provider's windows.
    pub limits: Vec<Allowance>,
}

/// When the last of them will have been tried, in milliseconds since 1970 UTC: as the rate says, and not before the limits allow.
///
/// `None` where nothing is queued, a client fails, a limit allows nothing at all, or there is neither a rate nor a limit to go by.
pub fn eta(load: &Load, now: Now) -> Option<i64> {
    let rows = load.lanes.iter().map(|lane| lane.rows).fold(load.rest, u64::saturating_add);
    if rows == 0 || load.held {
        return None;
    }
    let mut at = load.not_before.unwrap_or(now.boot_ms).max(now.boot_ms);
    for lane in &load.lanes {
        for limit in &lane.limits {
            at = at.max(limit.at(lane.rows)?);
        }
    }
    for limit in &load.common {
        at = at.max(limit.at(rows)?);
    }
    match load.rate.filter(|rate| *rate > 0.0) {
        Some(rate) => at = at.max(now.boot_ms.saturating_add((rows as f64 / rate * 1_000.0) as i64)),
        // That the limits allow it at once does not say that it is done at once.
        None if at == now.boot_ms => return None,
        None => {}
    }
    let wait = at - now.boot_ms;
    (wait < TELLABLE_MS).then(|| now.wall_ms.saturating_add(wait))
}

/// Why a lane does not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// When it moves again, by the boot clock; `None`: as soon as something answers.
    pub until_boot_ms: Option<i64>,
    pub words: String,
}

fn reason(held: Option<Held>, scopes: &Scopes, limits: &mut Limits, now: Now) -> Option<Reason> {
    if let Some(held) = held {
        return Some(Reason { until_boot_ms: held.until_boot_ms, words: held.words });
    }
    let blocked = limits.waits(&scopes.names(), now.boot_ms)?;
    Some(Reason { until_boot_ms: blocked.next_at_boot_ms, words: words(&blocked, now) })
}

/// The reasons, each once, the one that ends first before the others; at most [`REASONS_MAX`].
pub fn waits_for(mut reasons: Vec<Reason>) -> Option<String> {
    reasons.sort_by(|a, b| (a.until_boot_ms, &a.words).cmp(&(b.until_boot_ms, &b.words)));
    reasons.dedup_by(|a, b| a.words == b.words);
    let more = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    let mut parts: Vec<String> = reasons.into_iter().map(|reason| reason.words).collect();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `client `gmail`, daily cap 500 reached, next at 2026-11-25T12:00:00Z`.
fn words(by: &Blocked, now: Now) -> String {
    let mut parts = by.scope.split('/');
    let (kind, name) = (parts.next().unwrap_or_default(), parts.next_back().unwrap_or_default());
    let per = match by.window.per.as_millis() {
        1_000 => "per-second".to_owned(),
        60_000 => "per-minute".to_owned(),
        3_600_000 => "hourly".to_owned(),
        86_400_000 => "daily".to_owned(),
        _ => format!("per-{}", humantime::format_duration(by.window.per)).replace(' ', ""),
    };
    let kind = if kind == "org" { "organization" } else { kind };
    let reached = format!("{kind} `{name}`, {per} cap {} reached", by.window.messages);
    match by.next_at_boot_ms {
        Some(at) => format!("{reached}, next at {}", instant(at, now)),
        None if by.window.messages == 0 => reached,
        None => format!("{reached}, next when a reply has come"),
    }
}

/// An instant of the boot clock for people, rounded up to the second: not before it does anything move.
pub fn instant(boot_ms: i64, now: Now) -> String {
    let wall_ms = u64::try_from(now.wall_ms.saturating_add(boot_ms.saturating_sub(now.boot_ms))).unwrap_or(0);
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(wall_ms.div_ceil(1_000))).to_string()
}
