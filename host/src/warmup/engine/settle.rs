//! What an outcome means for its delivery.
//!
//! Invariant: pure. A refusal that blames the account or the domain never costs a user his mail at once: it is tried
//! again until the organization gives up.

use crate::config::settings::{OnUnknown, Organization};
use crate::model::delivery::Said;
use crate::warmup::backoff::{self, Refusal};
use crate::warmup::engine::dispatch::Unmade;
use crate::warmup::engine::returns::Done;
use crate::warmup::store::Settled;
use postwarm_plugin_api::{Cause, Fault, Outcome, Reply};
use std::time::Duration;

/// How long a message waits that could not be made though nothing is wrong with it, in milliseconds.
pub const UNMADE_WAIT_MS: i64 = 5_000;
/// How long a message waits whose connection broke, or was closed, before it was its turn, in milliseconds.
const UNTRIED_WAIT_MS: i64 = 500;

pub fn settle(done: &Done, organization: &Organization, jitter_unit: f64) -> Settled {
    let now = done.at.wall_ms;
    let outcome = match &done.outcome {
        Ok(outcome) => outcome,
        Err(Unmade::Content(words)) => return Settled::Failed(said(None, Some(Fault::Content), Some(words.clone()))),
        Err(Unmade::Now(_)) => return Settled::Returned { next_at: now + UNMADE_WAIT_MS },
    };
    match outcome {
        Outcome::Accepted(reply) => Settled::Sent(said(Some(reply), None, None)),
        Outcome::Rejected { reply, fault: fault @ (Fault::Account | Fault::Domain) } => {
            again(done, organization, jitter_unit, (reply, *fault, None))
        }
        Outcome::Rejected { reply, fault } => Settled::Failed(said(Some(reply), Some(*fault), None)),
        Outcome::Deferred { reply, fault, retry_after } => again(done, organization, jitter_unit, (reply, *fault, *retry_after)),
        Outcome::NotAttempted { cause: Cause::Disconnected | Cause::Stopping, .. } => Settled::Returned { next_at: now + UNTRIED_WAIT_MS },
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

fn again(
    done: &Done,
    organization: &Organization,
    jitter_unit: f64,
    (reply, fault, retry_after): (&Reply, Fault, Option<Duration>),
) -> Settled {
    let claimed = &done.claimed;
    let refusal = Refusal { attempt: claimed.attempt, retry_after, queued_at: claimed.queued_at };
    match backoff::next_at(&organization.retry, refusal, done.at.wall_ms, jitter_unit) {
        Some(next_at) => Settled::Deferred { said: said(Some(reply), Some(fault), None), next_at },
        None => {
            let after = humantime::format_duration(organization.retry.give_up_after);
            Settled::Failed(said(Some(reply), Some(fault), Some(format!("given up {after} after it was queued"))))
        }
    }
}

fn first_wait(organization: &Organization) -> i64 {
    organization.retry.schedule.first().copied().unwrap_or(Duration::from_secs(60)).as_millis() as i64
}

fn said(reply: Option<&Reply>, fault: Option<Fault>, detail: Option<String>) -> Said {
    Said { reply: reply.cloned(), fault, detail }
}
