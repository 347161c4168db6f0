//! What an outcome means for its delivery.
//!
//! Invariant: pure. A refusal that blames the account or the domain never costs a user his mail at once: it is tried
//! again until the organization gives up.

use crate::clock::Steady;
use crate::config::settings::{OnUnknown, Organization};
use crate::model::delivery::Said;
use crate::warmup::backoff::{self, Refusal};
use crate::warmup::engine::returns::{Done, Unmade};
use crate::warmup::engine::untried::TIMES_MAX;
use crate::warmup::store::Settled;
use postwarm_plugin_api::{Cause, Fault, Outcome, Reply};
use std::time::Duration;

/// How long a message waits that could not be made though nothing is wrong with it, in milliseconds.
pub const UNMADE_WAIT_MS: i64 = 5_000;
/// How long a message waits whose connection broke, or was closed, before its content, in milliseconds.
const UNTRIED_WAIT_MS: i64 = 500;
/// How long a message waits whose session failed and that has no other client, in milliseconds: longer than the first probe, so
/// that this one is of another message, which the first may have kept back.
const BEHIND_WAIT_MS: i64 = 5_000;

/// `steady`: since when the wall clock tells an age. `other_client`: another one works, and gets the message next.
pub fn settle(done: &Done, organization: &Organization, steady: &Steady, jitter_unit: f64, other_client: bool) -> Settled {
    let now = done.at.wall_ms;
    let outcome = match &done.outcome {
        Ok(outcome) => outcome,
        Err(Unmade::Content(words)) => return Settled::Failed(said(None, Some(Fault::Content), Some(words.clone()))),
        Err(Unmade::Now(_)) => return Settled::Returned { next_at: now + UNMADE_WAIT_MS },
    };
    match outcome {
        Outcome::Accepted(reply) => Settled::Sent(said(Some(reply), None, None)),
        Outcome::Rejected { reply, fault: fault @ (Fault::Account | Fault::Domain) } => {
            again(done, organization, steady, jitter_unit, (said(Some(reply), Some(*fault), None), None))
        }
        Outcome::Rejected { reply, fault } => Settled::Failed(said(Some(reply), Some(*fault), None)),
        Outcome::Deferred { reply, fault, retry_after } => {
            again(done, organization, steady, jitter_unit, (said(Some(reply), Some(*fault), None), *retry_after))
        }
        Outcome::NotAttempted { cause: Cause::Disconnected | Cause::Stopping, .. } => Settled::Returned { next_at: now + UNTRIED_WAIT_MS },
        Outcome::NotAttempted { cause: Cause::Session, .. } if !other_client => Settled::Returned { next_at: now + BEHIND_WAIT_MS },
        Outcome::NotAttempted { .. } => Settled::Returned { next_at: now },
        Outcome::Unknown { detail, .. } => in_doubt(Some(organization), detail, now),
    }
}

/// Nobody knows whether the message arrived: it is listed, and sent again where its organization wants that.
pub fn in_doubt(organization: Option<&Organization>, detail: &str, now: i64) -> Settled {
    let resending = organization.filter(|o| o.on_unknown == OnUnknown::Resend);
    Settled::Unknown { said: said(None, None, Some(detail.to_owned())), resend_at: resending.map(|o| now + first_wait(o)) }
}

/// What an outcome means where the organization's file went away meanwhile.
pub fn without_organization(done: &Done) -> Settled {
    match &done.outcome {
        Ok(Outcome::Accepted(reply)) => Settled::Sent(said(Some(reply), None, None)),
        Ok(Outcome::Rejected { reply, fault }) => Settled::Failed(said(Some(reply), Some(*fault), None)),
        Ok(Outcome::Unknown { detail, .. }) => in_doubt(None, detail, done.at.wall_ms),
        _ => Settled::Returned { next_at: done.at.wall_ms },
    }
}

/// A message that broke, or met, too many sessions counts as refused for now, though no server said so.
pub fn attempted(done: &Done, organization: &Organization, steady: &Steady, jitter_unit: f64) -> Settled {
    let detail = match &done.outcome {
        Ok(Outcome::NotAttempted { detail, .. }) => detail.as_str(),
        _ => "",
    };
    let detail = format!("{TIMES_MAX} sessions in a row ended before the message was sent; the last: {detail}");
    again(done, organization, steady, jitter_unit, (said(None, Some(Fault::Network), Some(detail)), None))
}

fn again(
    done: &Done,
    organization: &Organization,
    steady: &Steady,
    jitter_unit: f64,
    (said, retry_after): (Said, Option<Duration>),
) -> Settled {
    let claimed = &done.claimed;
    let refusal = Refusal { attempt: claimed.attempt, retry_after, queued_at: claimed.queued_at, steady_ms: steady.lasts(done.at) };
    match backoff::next_at(&organization.retry, refusal, done.at.wall_ms, jitter_unit) {
        Some(next_at) => Settled::Deferred { said, next_at },
        None => {
            let given_up = format!("given up {} after it was queued", humantime::format_duration(organization.retry.give_up_after));
            let detail = said.detail.map_or(given_up.clone(), |detail| format!("{given_up}; {detail}"));
            Settled::Failed(Said { detail: Some(detail), ..said })
        }
    }
}

fn first_wait(organization: &Organization) -> i64 {
    organization.retry.schedule.first().copied().unwrap_or(Duration::from_secs(60)).as_millis() as i64
}

fn said(reply: Option<&Reply>, fault: Option<Fault>, detail: Option<String>) -> Said {
    Said { reply: reply.cloned(), fault, detail }
}
