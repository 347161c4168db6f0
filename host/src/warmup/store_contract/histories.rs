//! Random histories of live mail, compared step by step with a model that keeps a row a delivery.

use super::*;
use std::collections::BTreeMap;

const PROVIDERS: [&str; 3] = ["other", "mail-a", "mail-b"];
const CLIENTS: [&str; 2] = ["relay", "second"];
const USERS: i64 = 150;
const STEPS: usize = 120;

type Key = (EmailNumber, UserNumber);

/// What the model knows of a delivery.
#[derive(Debug, Clone)]
struct Row {
    provider: &'static str,
    state: State,
    attempts: i64,
    client: Option<&'static str>,
    said: Said,
    /// From when on it is due; `None` where nothing happens by itself.
    due: Option<i64>,
    /// Nobody has had it yet, or at least it never came back.
    fresh: bool,
    hand: Option<(Arc<Claimed>, &'static str)>,
}

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len())]
    }
}

struct History {
    f: Fixture,
    dice: Dice,
    now: i64,
    rows: BTreeMap<Key, Row>,
    left: Vec<UserNumber>,
}

pub async fn a_random_history_is_told_as_it_was(open: Open) {
    for seed in 1..=4 {
        let f = Fixture::new(open).await;
        let mut history = History { f, dice: Dice(seed), now: NOW, rows: BTreeMap::new(), left: Vec::new() };
        let users = (0..USERS).map(|n| user(&format!("u{n}@d{}.example", n * n % 3))).collect();
        history.f.store.import(history.f.org, users, false, NOW).await.unwrap();
        let found = (0..3).map(|n| (format!("d{n}.example"), PROVIDERS[n].to_owned())).collect();
        history.f.store.set_providers(found, BELIEVED.settings, NOW).await.unwrap();
        for step in 0..STEPS {
            history = history.step().await;
            history.compare(seed, step).await;
        }
        let sent = history.rows.values().filter(|row| row.state == State::Sent).count();
        assert!(sent > 50, "seed {seed} shows little: {sent} were sent");
    }
}

impl History {
    async fn step(mut self) -> History {
        self.now += self.dice.below(500) as i64;
        match self.dice.below(20) {
            0 => self.accept().await,
            1 => self.fan_out_a_part().await,
            2 => self.unsubscribe().await,
            3 => self.resolve().await,
            4 => self.turn(0, true, 0).await,
            5 => self.f = self.f.restart().await,
            6..10 => self.turn(0, false, 1).await,
            10..14 => self.turn(40, false, 0).await,
            _ => {
                let (hands_over, claims) = (self.dice.below(2) == 0, 1 + self.dice.below(3));
                self.turn(40, hands_over, claims).await;
            }
        }
        self
    }

    async fn accept(&mut self) {
        let email = self.f.accept(self.now).await;
        for n in 1..=USERS {
            let row = Row {
                provider: PROVIDERS[((n - 1) * (n - 1) % 3) as usize],
                state: State::Queued,
                attempts: 0,
                client: None,
                said: Said::default(),
                due: None,
                fresh: true,
                hand: None,
            };
            self.rows.insert((email, UserNumber(n)), row);
        }
        self.fan_out_a_part().await;
    }

    /// The model's fan-out: the oldest email that is not whole, so many users.
    async fn fan_out_a_part(&mut self) {
        let rows = 1 + self.dice.below(100);
        let Some(next) = self.f.store.fan_out_next(OrgId(0), rows, BELIEVED).await.unwrap() else { return };
        self.f.store.fan_out(next.org, next.email, rows, self.now).await.unwrap();
        let waits = |row: &Row| row.state == State::Queued && row.fresh && row.due.is_none() && row.hand.is_none();
        let of_email = self.rows.iter_mut().filter(|((email, _), row)| *email == next.email && waits(row)).take(rows);
        for ((_, user), row) in of_email {
            match self.left.contains(user) {
                true => row.state = State::Suppressed,
                false => row.due = Some(0),
            }
        }
    }

    async fn unsubscribe(&mut self) {
        let Some(email) = self.rows.keys().next_back().map(|(email, _)| *email) else { return };
        let key = (email, UserNumber(1 + self.dice.below(USERS as usize) as i64));
        let row = &self.rows[&key];
        let exists = row.due.is_some() || row.state != State::Queued || row.hand.is_some();
        let delivery = crate::model::name::DeliveryKey { org: self.f.org, email, user: key.1 };
        assert_eq!(self.f.store.unsubscribe(delivery, self.now).await.unwrap(), exists);
        if exists {
            self.left.push(key.1);
        }
    }

    async fn resolve(&mut self) {
        let Some(email) = self.rows.keys().next_back().map(|(email, _)| *email) else { return };
        let action = self.dice.of(&[Action::Resend, Action::Drop]);
        self.f.store.resolve(self.f.org, email, Which::All, action, self.now).await.unwrap();
        let unknown = self.rows.iter_mut().filter(|((of, _), row)| *of == email && row.state == State::Unknown && row.hand.is_none());
        for (_, row) in unknown {
            match action {
                Action::Resend => (row.state, row.due) = (State::Queued, Some(self.now)),
                Action::Drop => {
                    (row.state, row.due) = (State::Failed, None);
                    row.said.detail = Some("dropped by a person".to_owned());
                }
            }
        }
    }

    /// One turn: what it records, hands over and claims. The store does all of it in this order, in one commit.
    async fn turn(&mut self, outcomes_max: usize, hands_over: bool, claims: usize) {
        let outcomes = if outcomes_max > 0 { self.outcomes(outcomes_max) } else { Vec::new() };
        let handed = if hands_over { self.handed().into_iter().collect() } else { Vec::new() };
        let mut expected = Vec::new();
        let claims: Vec<Claim> = (0..claims).map(|_| self.claim(&mut expected)).collect();
        let turn = Turn { outcomes: Arc::new(outcomes), handed, claims, now: self.now, ..Turn::default() };
        let claimed = self.f.store.turn(turn).await.unwrap();
        let keys: Vec<_> = claimed.iter().map(|c| ((c.delivery.email, c.delivery.user), c.client.to_string())).collect();
        assert_eq!(keys, expected.iter().map(|(key, client)| (*key, client.to_string())).collect::<Vec<_>>());
        for (claimed, (key, client)) in claimed.into_iter().zip(expected) {
            let row = self.rows.get_mut(&key).unwrap();
            assert_eq!((claimed.was, claimed.attempt, &*claimed.provider), (row.state, row.attempts + 1, row.provider));
            row.hand = Some((Arc::new(claimed), client));
        }
    }

    fn handed(&mut self) -> Option<Arc<Claimed>> {
        let client = self.dice.of(&CLIENTS);
        let row = self.rows.values_mut().find(|row| row.hand.is_some())?;
        let (claimed, _) = row.hand.as_ref()?;
        let claimed = Arc::new(Claimed { client: client.into(), ..(**claimed).clone() });
        row.hand = Some((claimed.clone(), client));
        Some(claimed)
    }

    /// A claim, and which rows it is to get behind those of the claims before it.
    fn claim(&mut self, expected: &mut Vec<(Key, &'static str)>) -> Claim {
        let (provider, client, rows_max) = (self.dice.of(&PROVIDERS), self.dice.of(&CLIENTS), 1 + self.dice.below(60));
        let due = |row: &Row| row.due.filter(|due| *due <= self.now && row.hand.is_none() && row.provider == provider);
        let free = |key: &Key| expected.iter().all(|(taken, _)| taken != key);
        let mut wanted: Vec<(bool, i64, Key)> =
            self.rows.iter().filter(|(key, _)| free(key)).filter_map(|(key, row)| due(row).map(|due| (row.fresh, due, *key))).collect();
        wanted.sort();
        wanted.truncate(rows_max);
        for (_, _, key) in wanted {
            if self.left.contains(&key.1) {
                let row = self.rows.get_mut(&key).unwrap();
                (row.state, row.due, row.fresh) = (State::Suppressed, None, false);
            } else {
                expected.push((key, client));
            }
        }
        let lane = LaneKey { org: self.f.org, provider: provider.into(), source: Source::Live };
        Claim { lane, client: client.into(), rows_max }
    }

    fn outcomes(&mut self, most: usize) -> Vec<Recorded> {
        let most = 1 + self.dice.below(most);
        let mut outcomes = Vec::new();
        for row in self.rows.values_mut().filter(|row| row.hand.is_some()) {
            if outcomes.len() == most || self.dice.below(5) == 0 {
                continue;
            }
            let Some((claimed, client)) = row.hand.take() else { continue };
            let next_at = self.now + self.dice.below(2_000) as i64;
            let words = said(250 + 100 * self.dice.below(4) as u16, ["", "ok", "as you like; a longer one"][self.dice.below(3)]);
            let (result, state, due) = match self.dice.below(12) {
                0 => (Settled::Deferred { said: words.clone(), next_at }, State::Deferred, Some(next_at)),
                1 => (Settled::Failed(words.clone()), State::Failed, None),
                2 => (Settled::Unknown { said: words.clone(), resend_at: None }, State::Unknown, None),
                4 => (Settled::Unknown { said: words.clone(), resend_at: Some(next_at) }, State::Unknown, Some(next_at)),
                3 => (Settled::Returned { next_at }, row.state, Some(next_at)),
                _ => (Settled::Sent(words.clone()), State::Sent, None),
            };
            (row.state, row.due, row.fresh) = (state, due, false);
            if !matches!(result, Settled::Returned { .. }) {
                (row.attempts, row.client, row.said) = (claimed.attempt, Some(client), words);
            }
            outcomes.push(Recorded { claimed, result, at: self.now });
        }
        outcomes
    }

    async fn compare(&mut self, seed: u64, step: usize) {
        let place = format!("seed {seed}, step {step}");
        let mut in_hand = self.f.store.in_hand().await.unwrap();
        in_hand.sort_by_key(|claimed| (claimed.delivery.email, claimed.delivery.user));
        let held: Vec<Claimed> = self.rows.values().filter_map(|row| row.hand.as_ref()).map(|(claimed, _)| (**claimed).clone()).collect();
        assert_eq!(in_hand, held, "{place}");
        let Some(last) = self.rows.keys().next_back().map(|(email, _)| email.0) else { return };
        for email in (1..=last).map(EmailNumber) {
            let wanted = self.dice.of(&[None, Some(State::Queued), Some(State::Sending), Some(State::Sent), Some(State::Deferred)]);
            let limit = 1 + self.dice.below(70);
            let rows: Vec<(&Key, &Row)> = self.rows.iter().filter(|((of, _), _)| *of == email).collect();
            let shown = |row: &Row| if row.hand.is_some() { State::Sending } else { row.state };
            let expected: Vec<String> = rows
                .iter()
                .filter(|(_, row)| wanted.is_none_or(|wanted| wanted == shown(row)))
                .map(|((_, user), row)| {
                    let client = row.hand.as_ref().map(|(_, client)| *client).or(row.client);
                    format!("{} {:?} {} {client:?} {:?}", user.0, shown(row), row.attempts, row.said)
                })
                .collect();
            assert_eq!(self.list(email, wanted, limit).await, expected, "{place}, {wanted:?} of email {}", email.0);
            let counts = self.f.counts(email).await;
            let of = |state| rows.iter().filter(|(_, row)| shown(row) == state).count() as i64;
            let model = [counts.queued, counts.sending, counts.sent, counts.deferred, counts.failed, counts.suppressed, counts.unknown];
            let states =
                [State::Queued, State::Sending, State::Sent, State::Deferred, State::Failed, State::Suppressed, State::Unknown].map(of);
            assert_eq!(model, states, "{place}, counts of email {}", email.0);
            self.compare_waiting(email, &place).await;
        }
    }

    async fn compare_waiting(&self, email: EmailNumber, place: &str) {
        let waits = |row: &Row, state| row.state == state && row.due.is_some() && row.hand.is_none();
        for lane in self.f.store.waiting(self.f.org, email).await.unwrap() {
            let of_lane = |state, from: i64| {
                let rows = self.rows.iter().filter(|((of, _), row)| (from..=email.0).contains(&of.0) && row.provider == lane.provider);
                rows.filter(|(_, row)| waits(row, state)).count() as i64
            };
            let expected = (of_lane(State::Queued, email.0), of_lane(State::Deferred, email.0), of_lane(State::Queued, 1));
            assert_eq!((lane.queued, lane.deferred, lane.ahead), expected, "{place}, {} of email {}", lane.provider, email.0);
        }
    }

    /// All pages of a list.
    async fn list(&self, email: EmailNumber, state: Option<State>, limit: usize) -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), UserNumber(0));
        loop {
            let page = self.f.store.deliveries(self.f.org, email, DeliveryPage { state, after, limit }).await.unwrap();
            assert_eq!(page.searched_to, None);
            let Some(last) = page.rows.last() else { return found };
            after = last.user;
            found.extend(
                page.rows.iter().map(|r| format!("{} {:?} {} {:?} {:?}", r.user.0, r.state, r.attempts, r.client.as_deref(), r.said)),
            );
        }
    }
}
