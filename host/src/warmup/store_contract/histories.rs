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
            4 => self.hand_over().await,
            5 => self.f = self.f.restart().await,
            6..12 => self.claim().await,
            _ => self.record().await,
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

    async fn hand_over(&mut self) {
        let client = self.dice.of(&CLIENTS);
        let Some(row) = self.rows.values_mut().find(|row| row.hand.is_some()) else { return };
        let Some((claimed, _)) = &row.hand else { return };
        let claimed = Arc::new(Claimed { client: client.into(), ..(**claimed).clone() });
        row.hand = Some((claimed.clone(), client));
        self.f.store.turn(Turn { handed: vec![claimed], now: self.now, ..Turn::default() }).await.unwrap();
    }

    async fn claim(&mut self) {
        let (provider, client, rows_max) = (self.dice.of(&PROVIDERS), self.dice.of(&CLIENTS), 1 + self.dice.below(60));
        let lane = LaneKey { org: self.f.org, provider: provider.into(), source: Source::Live };
        let turn = Turn { claims: vec![Claim { lane, client: client.into(), rows_max }], now: self.now, ..Turn::default() };
        let claimed = self.f.store.turn(turn).await.unwrap();

        let due = |row: &Row| row.due.filter(|due| *due <= self.now && row.hand.is_none() && row.provider == provider);
        let mut wanted: Vec<(bool, i64, Key)> =
            self.rows.iter().filter_map(|(key, row)| due(row).map(|due| (row.fresh, due, *key))).collect();
        wanted.sort();
        wanted.truncate(rows_max);
        let gone = |key: &Key| self.left.contains(&key.1);
        let expected: Vec<Key> = wanted.iter().map(|(_, _, key)| *key).filter(|key| !gone(key)).collect();
        assert_eq!(claimed.iter().map(|c| (c.delivery.email, c.delivery.user)).collect::<Vec<_>>(), expected);
        for (_, _, key) in wanted.iter().filter(|(_, _, key)| gone(key)) {
            let row = self.rows.get_mut(key).unwrap();
            (row.state, row.due, row.fresh) = (State::Suppressed, None, false);
        }
        for claimed in claimed {
            let row = self.rows.get_mut(&(claimed.delivery.email, claimed.delivery.user)).unwrap();
            assert_eq!((claimed.was, claimed.attempt, &*claimed.provider), (row.state, row.attempts + 1, row.provider));
            row.hand = Some((Arc::new(claimed), client));
        }
    }

    async fn record(&mut self) {
        let most = 1 + self.dice.below(40);
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
        self.f.store.turn(Turn { outcomes: Arc::new(outcomes), now: self.now, ..Turn::default() }).await.unwrap();
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
