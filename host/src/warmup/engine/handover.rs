//! A message that its client cannot carry: the organization's next client gets it.
//!
//! It stays in hand on its way: the turn that follows notes the next client in `sending`, and then that client gets it.
//! Where the next client may not have it now, the message goes back to the queue, and a later attempt begins anew.
//!
//! Invariant: in one attempt each client is asked once at most. A message fails only when every client that the
//! organization names has said that it cannot carry it.

use crate::clock::Now;
use crate::model::delivery::Said;
use crate::warmup::engine::hands::{Declined, Hand};
use crate::warmup::engine::organizations::Running;
use crate::warmup::limits::Limits;
use crate::warmup::route::Choice;
use crate::warmup::store::{Claimed, Settled};
use postwarm_plugin_api::{Cause, Fault, Outcome};
use std::sync::Arc;

/// How long a message waits at least that the next client may not have now, in milliseconds.
const WAIT_MS_MIN: i64 = 500;
/// And at most, as new settings may let it go earlier.
const WAIT_MS_MAX: i64 = 5 * 60_000;

/// Where the message goes.
pub enum Next {
    /// To this client, whose slots are taken.
    Client(Hand),
    Settled(Settled),
}

/// Why the client cannot carry the message; `None` where the outcome is another.
pub fn declined<E>(outcome: &Result<Outcome, E>) -> Option<&str> {
    match outcome {
        Ok(Outcome::NotAttempted { cause: Cause::Unsupported, detail }) => Some(detail),
        _ => None,
    }
}

/// Decides where a message goes whose client said `why` it cannot carry it. Its own slots were given back.
pub fn next(mut hand: Hand, why: &str, running: &mut Running, limits: &mut Limits, now: Now) -> Next {
    let client = hand.claimed.client.clone();
    hand.declined.push(Declined { number: hand.client, client, why: why.to_owned() });
    let (index, probe) = match running.choose_other(&hand.declined, now.boot_ms) {
        None => return Next::Settled(failed(&hand.declined)),
        Some(Choice::Wait(at)) => return wait(&hand, running, at, now),
        Some(Choice::Use(index)) => (index, false),
        Some(Choice::Probe(index)) => (index, true),
    };
    let provider = &hand.claimed.provider;
    if let Some((until, _)) = running.paused(index, provider, now) {
        return wait(&hand, running, Some(until), now);
    }
    let scopes = running.scopes_of(index, provider, limits);
    let claimable = limits.claimable(&scopes, 1, now.boot_ms);
    if claimable.n == 0 || running.room(index, now.boot_ms) == 0 {
        return wait(&hand, running, claimable.blocked_by.and_then(|by| by.next_at_boot_ms), now);
    }
    limits.take(&scopes, 1);
    if probe {
        running.begin_probe(index, now.boot_ms);
    }
    running.reserve(index, 1, now.boot_ms);
    let (name, client) = running.client(index);
    let claimed = Arc::new(Claimed { client: name, ..(*hand.claimed).clone() });
    Next::Client(Hand { claimed, scopes, client, place: hand.place, declined: hand.declined })
}

fn wait(hand: &Hand, running: &mut Running, until_boot_ms: Option<i64>, now: Now) -> Next {
    let wait = until_boot_ms.map_or(WAIT_MS_MIN, |at| (at - now.boot_ms).clamp(WAIT_MS_MIN, WAIT_MS_MAX));
    let at = running.come_back(&hand.claimed.provider, now.boot_ms + wait);
    Next::Settled(Settled::Returned { next_at: now.wall_ms + (at - now.boot_ms) })
}

/// No server refused it, so there is no reply to show.
fn failed(declined: &[Declined]) -> Settled {
    let each: Vec<String> = declined.iter().map(|d| format!("`{}`: {}", d.client, d.why)).collect();
    let detail = format!("no client can carry it: {}", each.join("; "));
    Settled::Failed(Said { reply: None, fault: Some(Fault::Content), detail: Some(detail) })
}
