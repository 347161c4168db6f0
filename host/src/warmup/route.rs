//! Which of an organization's clients is used now, and which lanes pause.
//!
//! A client that fails hands over at once to the next in the order of preference; one message probes it from time to time, and a
//! server's answer brings it back. A client at its limit is not failing: its mail waits. A refusal that blames the account or the
//! domain pauses the client or the lane (client and mailbox provider), and never the user.
//!
//! Invariant: pure functions over (state, outcome, now by the boot clock); no randomness, no I/O.

use postwarm_plugin_api::{Cause, Fault, Outcome};
use std::time::Duration;

/// The first wait for a probe; it doubles up to [`PROBE_MS_MAX`].
pub const PROBE_MS_MIN: i64 = 1_000;
pub const PROBE_MS_MAX: i64 = 60_000;
/// A probe that nobody reported on by then is forgotten, and another may go.
pub const PROBE_LOST_MS: i64 = 15 * 60_000;
/// So many messages in a row without a reply make a client fail.
pub const UNKNOWNS_MAX: u32 = 3;
/// So many messages in a row whose connection broke before their content make a client fail: more than a server that starts anew
/// costs a client of few connections.
pub const BREAKS_MAX: u32 = 10;
/// A client that has mail in hand and answers nothing for so long gets no new mail. Servers take seconds, seldom minutes.
pub const STALL_MS: i64 = 60_000;
/// The first pause of a lane; it doubles up to [`PAUSE_MS_MAX`].
pub const PAUSE_MS_MIN: i64 = 60_000;
pub const PAUSE_MS_MAX: i64 = 15 * 60_000;
/// No reply can pause a lane for longer.
pub const RETRY_AFTER_MS_MAX: i64 = 24 * 3_600_000;

/// Whether a client works, as far as its outcomes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientHealth {
    failing: Option<Failing>,
    /// Messages in a row whose reply never came.
    unknowns: u32,
    /// Messages in a row whose connection broke before their content.
    breaks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failing {
    /// Failed probes.
    probes: u32,
    probe_at: i64,
    /// A message is out as a probe; until when it is waited for.
    probing_until: Option<i64>,
}

impl ClientHealth {
    /// Takes note of an outcome. "Not attempted" that blames the client makes it fail, and so do [`UNKNOWNS_MAX`] messages in a row
    /// without a reply and [`BREAKS_MAX`] whose connection broke; any reply to a message means that it works. Failures of messages that were out already do not lengthen the wait.
    pub fn observe(&mut self, outcome: &Outcome, now: i64) {
        self.unknowns = match outcome {
            Outcome::Unknown { .. } => self.unknowns.saturating_add(1),
            Outcome::NotAttempted { .. } => self.unknowns,
            _ => 0,
        };
        self.breaks = match outcome {
            Outcome::NotAttempted { cause: Cause::Disconnected, .. } => self.breaks.saturating_add(1),
            Outcome::NotAttempted { .. } | Outcome::Unknown { .. } => self.breaks,
            _ => 0,
        };
        match (outcome, &mut self.failing) {
            (Outcome::Unknown { .. }, None) if self.unknowns >= UNKNOWNS_MAX => self.stall(now),
            (Outcome::Accepted(_) | Outcome::Deferred { .. } | Outcome::Rejected { .. }, _) => self.failing = None,
            (Outcome::NotAttempted { cause, .. }, None) if cause.blames_client() || self.breaks >= BREAKS_MAX => {
                self.failing = Some(Failing { probes: 0, probe_at: now + PROBE_MS_MIN, probing_until: None });
            }
            // The probe has told nothing.
            (Outcome::NotAttempted { cause: Cause::Stopping | Cause::Unsupported, .. }, Some(failing)) => {
                failing.probing_until = None;
            }
            (Outcome::NotAttempted { .. } | Outcome::Unknown { .. }, Some(failing)) if failing.probing_until.is_some() => {
                let probes = failing.probes.saturating_add(1);
                *failing = Failing { probes, probe_at: now + doubled(PROBE_MS_MIN, probes, PROBE_MS_MAX), probing_until: None };
            }
            (Outcome::NotAttempted { .. } | Outcome::Unknown { .. }, _) => {}
        }
    }

    /// Tells whether a client with messages in hand has been silent for too long. `heard_at`: its last answer, or when it got the
    /// first of them.
    pub fn is_stalled(&self, heard_at: i64, now: i64) -> bool {
        now.saturating_sub(heard_at) >= STALL_MS
    }

    /// Notes that the client gets no new mail but probes until it answers.
    pub fn stall(&mut self, now: i64) {
        self.failing.get_or_insert(Failing { probes: 0, probe_at: now + PROBE_MS_MIN, probing_until: None });
    }

    /// Says that one message goes out as a probe; [`choose`] offers no other until it is reported on.
    pub fn begin_probe(&mut self, now: i64) {
        if let Some(failing) = &mut self.failing {
            failing.probing_until = Some(now + PROBE_LOST_MS);
        }
    }

    /// Says that the probe did not go out: there was no message for it.
    pub fn release_probe(&mut self) {
        if let Some(failing) = &mut self.failing {
            failing.probing_until = None;
        }
    }

    pub fn is_failing(&self) -> bool {
        self.failing.is_some()
    }
}

/// Which client gets mail now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This one, as much as its limits allow.
    Use(usize),
    /// This one gets a single message (`begin_probe`); then choose again for the rest.
    Probe(usize),
    /// None now. The next probe is due then, by the boot clock; `None`: probes are out, wait for them. Also where there is no
    /// client at all.
    Wait(Option<i64>),
}

/// Chooses among the clients in the order of preference: the first that is not failing; a better one whose probe is due gets its
/// probe first.
pub fn choose<'a>(clients: impl IntoIterator<Item = &'a ClientHealth>, now: i64) -> Choice {
    let mut next: Option<i64> = None;
    for (index, client) in clients.into_iter().enumerate() {
        match client.failing {
            None => return Choice::Use(index),
            Some(Failing { probing_until: Some(until), .. }) if until > now => {}
            Some(failing) if failing.probe_at <= now => return Choice::Probe(index),
            Some(failing) => next = Some(next.map_or(failing.probe_at, |at| at.min(failing.probe_at))),
        }
    }
    Choice::Wait(next)
}

/// The pause of a client (its account was refused), or of a lane, one client and one mailbox provider (the domain was refused
/// there).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pause {
    until: i64,
    /// Pauses in a row.
    times: u32,
}

impl Pause {
    /// Takes note of an outcome: a refusal for this fault pauses, for the time that the reply asked for at least. Outcomes of
    /// messages that were out already do not double the pause. An acceptance after the pause ends the row.
    pub fn observe(&mut self, pausing: Fault, outcome: &Outcome, now: i64) {
        let paused = self.until > now;
        match outcome {
            Outcome::Deferred { fault, retry_after, .. } if *fault == pausing => self.pause(*retry_after, now),
            Outcome::Rejected { fault, .. } if *fault == pausing => self.pause(None, now),
            Outcome::Accepted(_) if !paused => self.times = 0,
            _ => {}
        }
    }

    /// Until when the pause lasts, by the boot clock; `None` where it is not.
    pub fn paused_until(&self, now: i64) -> Option<i64> {
        (self.until > now).then_some(self.until)
    }

    fn pause(&mut self, retry_after: Option<Duration>, now: i64) {
        if self.until <= now {
            self.until = now + doubled(PAUSE_MS_MIN, self.times, PAUSE_MS_MAX);
            self.times = self.times.saturating_add(1);
        }
        let asked = i64::try_from(retry_after.unwrap_or_default().as_millis()).unwrap_or(i64::MAX).min(RETRY_AFTER_MS_MAX);
        self.until = self.until.max(now + asked);
    }
}

fn doubled(first: i64, times: u32, most: i64) -> i64 {
    first.saturating_mul(1_i64 << times.min(32)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::{Phase, Reply};

    fn reply(code: u16) -> Reply {
        Reply { code, enhanced: None, text: String::new() }
    }

    fn not_attempted(cause: Cause) -> Outcome {
        Outcome::NotAttempted { cause, detail: String::new() }
    }

    fn refused(fault: Fault, retry_after: Option<u64>) -> Outcome {
        Outcome::Deferred { reply: reply(421), fault, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn a_failing_client_hands_over_at_once_and_one_message_probes_it() {
        let mut clients = [ClientHealth::default(); 2];
        assert_eq!(choose(&clients, 0), Choice::Use(0));
        clients[0].observe(&not_attempted(Cause::Connect), 0);
        assert_eq!(choose(&clients, 0), Choice::Use(1));
        assert_eq!(choose(&clients, PROBE_MS_MIN), Choice::Probe(0));
        clients[0].begin_probe(PROBE_MS_MIN);
        assert_eq!(choose(&clients, PROBE_MS_MIN), Choice::Use(1), "one probe at a time");
        clients[0].observe(&Outcome::Accepted(reply(250)), 1_500);
        assert_eq!(choose(&clients, 1_500), Choice::Use(0));
    }

    #[test]
    fn failed_probes_double_the_wait_up_to_a_minute_and_messages_already_out_do_not() {
        let mut client = ClientHealth::default();
        for _ in 0..10 {
            client.observe(&not_attempted(Cause::Authenticate), 0);
        }
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..9 {
            let Choice::Wait(Some(at)) = choose([&client], now) else { panic!("failing") };
            waits.push((at - now) / 1_000);
            now = at;
            client.begin_probe(now);
            client.observe(&not_attempted(Cause::Connect), now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn when_all_fail_the_probe_that_is_due_first_decides() {
        let mut clients = [ClientHealth::default(); 2];
        clients[0].observe(&not_attempted(Cause::Tls), 500);
        clients[1].observe(&not_attempted(Cause::Session), 100);
        assert_eq!(choose(&clients, 600), Choice::Wait(Some(1_100)));
        assert_eq!(choose(&clients, 1_100), Choice::Probe(1));
        clients[1].begin_probe(1_100);
        clients[0].begin_probe(1_500);
        assert_eq!(choose(&clients, 1_600), Choice::Wait(None));
        assert_eq!(choose(&clients, 1_600 + PROBE_LOST_MS), Choice::Probe(0), "a lost probe is forgotten");
    }

    #[test]
    fn a_broken_connection_a_stop_a_refusal_and_a_stall_do_not_hand_over() {
        let outcomes = [
            not_attempted(Cause::Disconnected),
            not_attempted(Cause::Stopping),
            refused(Fault::Account, None),
            Outcome::Rejected { reply: reply(550), fault: Fault::Domain },
            Outcome::Unknown { phase: Phase::EndOfData, detail: String::new() },
        ];
        for outcome in outcomes {
            let mut client = ClientHealth::default();
            client.observe(&outcome, 0);
            assert!(!client.is_failing(), "{outcome:?}");
        }
    }

    #[test]
    fn three_messages_in_a_row_without_a_reply_hand_over_and_a_reply_between_does_not() {
        let silent = Outcome::Unknown { phase: Phase::EndOfData, detail: String::new() };
        let mut client = ClientHealth::default();
        for outcome in [&silent, &silent, &Outcome::Accepted(reply(250)), &silent, &silent] {
            client.observe(outcome, 0);
        }
        assert!(!client.is_failing());
        client.observe(&silent, 5);
        assert_eq!(choose([&client], 5), Choice::Wait(Some(5 + PROBE_MS_MIN)));
        client.observe(&Outcome::Accepted(reply(250)), 6);
        assert_eq!(choose([&client], 6), Choice::Use(0), "a reply to any message means that it works");
    }

    #[test]
    fn a_client_that_answers_nothing_for_a_minute_gets_probes_alone() {
        let mut client = ClientHealth::default();
        assert!(!client.is_stalled(0, STALL_MS - 1) && client.is_stalled(0, STALL_MS));
        client.stall(STALL_MS);
        assert_eq!(choose([&client], STALL_MS + PROBE_MS_MIN), Choice::Probe(0));
    }

    #[test]
    fn a_probe_that_stalls_counts_as_failed_and_one_without_a_message_goes_back() {
        let mut client = ClientHealth::default();
        client.observe(&not_attempted(Cause::Connect), 0);
        client.begin_probe(1_000);
        client.release_probe();
        assert_eq!(choose([&client], 1_000), Choice::Probe(0));
        client.begin_probe(1_000);
        client.observe(&Outcome::Unknown { phase: Phase::EndOfData, detail: String::new() }, 2_000);
        assert_eq!(choose([&client], 2_000), Choice::Wait(Some(4_000)));
    }

    #[test]
    fn without_a_client_mail_waits() {
        assert_eq!(choose([], 0), Choice::Wait(None));
    }

    #[test]
    fn a_refusal_that_blames_the_account_or_domain_pauses_the_lane_twice_as_long_each_time() {
        let (mut lane, mut now, mut pauses) = (Pause::default(), 0, Vec::new());
        for _ in 0..6 {
            lane.observe(Fault::Domain, &refused(Fault::Domain, None), now);
            lane.observe(Fault::Domain, &refused(Fault::Domain, None), now + 1);
            let until = lane.paused_until(now).expect("paused");
            pauses.push((until - now) / 60_000);
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15]);
        lane.observe(Fault::Domain, &Outcome::Accepted(reply(250)), now);
        lane.observe(Fault::Domain, &refused(Fault::Domain, None), now);
        assert_eq!(lane.paused_until(now), Some(now + PAUSE_MS_MIN));
    }

    #[test]
    fn a_pause_honours_what_the_reply_asks_for_and_other_faults_pause_nothing() {
        let mut lane = Pause::default();
        for fault in [Fault::Recipient, Fault::Content, Fault::Network, Fault::Domain] {
            lane.observe(Fault::Account, &refused(fault, Some(600)), 0);
        }
        assert_eq!(lane.paused_until(0), None);
        lane.observe(Fault::Account, &refused(Fault::Account, Some(7_200)), 0);
        assert_eq!(lane.paused_until(0), Some(7_200_000));
        lane.observe(Fault::Account, &refused(Fault::Account, Some(u64::MAX)), 1);
        assert_eq!(lane.paused_until(1), Some(1 + RETRY_AFTER_MS_MAX));
    }
}
