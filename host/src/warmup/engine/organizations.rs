//! The organizations as they run: their clients, what each has in hand, and which of them works.
//!
//! Invariant: a client whose entry did not change is the same instance after a reload; one that changed or went away is
//! closed once its messages have ended, or the process stops.

use crate::clock::Now;
use crate::config::settings::{Organization, Providers, Settings, SmtpEntry};
use crate::model::message_id::Tokens;
use crate::model::name::OrgId;
use crate::warmup::engine::MakeClient;
use crate::warmup::engine::calls::Calls;
use crate::warmup::engine::client::Client;
use crate::warmup::engine::dispatch::{MakeSigner, Sign};
use crate::warmup::engine::hands::{ClientNumber, Declined, Hand, Scopes};
use crate::warmup::engine::returns::{Back, Done, Unmade};
use crate::warmup::engine::settle;
use crate::warmup::limits::{self, Limits, client_scope, org_scope, provider_scope, share_scope};
use crate::warmup::metrics::client_failing;
use crate::warmup::progress;
use crate::warmup::route::{self, Choice, Pause};
use crate::warmup::store::{BackfillPace, Store};
use postwarm_plugin_api::{Fault, Outcome, SmtpClient};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How far apart the messages of a lane come back that wait for another client, in milliseconds: all at once would each be offered
/// in vain but the first.
const APART_MS: i64 = 5;

/// How often silent clients are looked for, in milliseconds.
const LOOK_MS: i64 = 1_000;

pub struct Organizations {
    store: Arc<dyn Store>,
    make: Arc<dyn MakeClient>,
    signers: Arc<dyn MakeSigner>,
    back: Back,
    mail: Handle,
    running: BTreeMap<OrgId, Running>,
    /// Clients that no organization names any more and that have messages to end.
    retired: Vec<Weak<dyn SmtpClient>>,
    clients_made: u64,
    /// When silent clients are looked for next, by the boot clock.
    looks_at: i64,
}

/// One organization as it runs.
pub struct Running {
    pub settings: Arc<Organization>,
    pub signer: Arc<dyn Sign>,
    clients: Vec<Client>,
    providers: Arc<Providers>,
    pauses: HashMap<(Arc<str>, Arc<str>), Pause>,
    /// Lanes whose mail cannot be made now, by provider. New settings may be the remedy, so that they start without.
    held: HashMap<Arc<str>, Held>,
    /// When the last of the messages comes back that wait for another client, by provider and the boot clock.
    back_at: HashMap<Arc<str>, i64>,
    /// The limits of each lane that had mail since the settings were taken.
    scopes: HashMap<(ClientNumber, Arc<str>), Scopes>,
}

struct Held {
    until: i64,
    why: String,
}

/// An organization with the entries that a client is to be made for.
struct Wanted {
    organization: Arc<Organization>,
    entries: Vec<SmtpEntry>,
}

/// An organization with what was made for it, without the clients that could not be.
struct Made {
    organization: Arc<Organization>,
    clients: Vec<(SmtpEntry, Arc<dyn SmtpClient>)>,
    signer: Arc<dyn Sign>,
}

impl Wanted {
    /// Runs code of plugins and reads files: blocks.
    fn made(self, make: &dyn MakeClient, signers: &dyn MakeSigner) -> Made {
        let Wanted { organization, entries } = self;
        let mut clients = Vec::with_capacity(entries.len());
        for entry in entries {
            match make.make(&organization, &entry) {
                Ok(client) => clients.push((entry, client)),
                Err(problem) => {
                    tracing::error!(organization.name = %organization.name, client.name = entry.name, problem, "a client cannot be made");
                }
            }
        }
        Made { signer: signers.make(&organization), organization, clients }
    }
}

impl Organizations {
    pub fn new(store: Arc<dyn Store>, make: Arc<dyn MakeClient>, signers: Arc<dyn MakeSigner>, back: Back, mail: Handle) -> Organizations {
        Organizations { store, make, signers, back, mail, running: BTreeMap::new(), retired: Vec::new(), clients_made: 0, looks_at: 0 }
    }

    pub fn tokens(&self) -> Arc<Tokens> {
        self.store.tokens()
    }

    /// Where rows go back to.
    pub fn back(&self) -> &Back {
        &self.back
    }

    pub fn get(&self, org: OrgId) -> Option<&Running> {
        self.running.get(&org)
    }

    pub fn get_mut(&mut self, org: OrgId) -> Option<&mut Running> {
        self.running.get_mut(&org)
    }

    pub fn paces(&self) -> HashMap<OrgId, BackfillPace> {
        let pace = |r: &Running| {
            let settings = r.settings.backfill;
            BackfillPace { messages: settings.per_recipient.messages, per: settings.per_recipient.per, hold_max: settings.hold_max }
        };
        self.running.iter().map(|(org, running)| (*org, pace(running))).collect()
    }

    /// Takes new settings: makes what is new, keeps what did not change, closes what is gone.
    pub async fn take(&mut self, settings: &Settings) -> anyhow::Result<()> {
        // All that can fail comes first: a reload is taken up whole or not at all.
        let mut orgs = Vec::with_capacity(settings.organizations.len());
        let mut wanted = Vec::with_capacity(settings.organizations.len());
        for organization in settings.organizations.values() {
            let org = self.store.organization(&organization.name).await?;
            orgs.push(org);
            wanted.push(self.wanted(org, organization));
        }
        let (make, signers) = (self.make.clone(), self.signers.clone());
        // Plugins may take seconds, and keys are read from files: neither holds up a worker.
        let made = tokio::task::spawn_blocking(move || wanted.into_iter().map(|w| w.made(&*make, &*signers)).collect::<Vec<_>>()).await?;
        self.retired.retain(|client| client.strong_count() > 0);
        let mut before = std::mem::take(&mut self.running);
        for (org, made) in orgs.into_iter().zip(made) {
            let old = before.remove(&org);
            let running = self.one(made, settings.providers.clone(), old);
            self.running.insert(org, running);
        }
        for gone in before.into_values() {
            self.retired.extend(gone.clients.into_iter().map(|c| c.retire(&gone.settings.name)));
        }
        Ok(())
    }

    /// Looks for silent clients among all that run, those of organizations to whom nothing more is due included: what they have in
    /// hand others wait for. Not at each turn, as there may be many.
    pub fn look_whether_silent(&mut self, boot_ms: i64) {
        if boot_ms >= self.looks_at {
            self.looks_at = boot_ms + LOOK_MS;
            self.running.values_mut().for_each(|running| running.look_whether_silent(boot_ms));
        }
    }

    /// What is to be made for an organization: all that no client serves that runs.
    fn wanted(&self, org: OrgId, organization: &Arc<Organization>) -> Wanted {
        let runs = |entry: &SmtpEntry| self.get(org).is_some_and(|running| running.clients.iter().any(|c| c.entry == *entry));
        let entries = organization.smtp.iter().filter(|entry| !runs(entry)).cloned().collect();
        Wanted { organization: organization.clone(), entries }
    }

    /// Sets the limits of all that run.
    pub fn configure(&self, settings: &Settings, limits: &mut Limits, now: Now) {
        self.running.values().for_each(|running| running.configure(settings, limits, now));
    }

    fn one(&mut self, made: Made, providers: Arc<Providers>, old: Option<Running>) -> Running {
        let Made { organization, clients: mut new, signer } = made;
        let (mut kept, pauses) = old.map_or((Vec::new(), HashMap::new()), |o| (o.clients, o.pauses));
        let mut clients = Vec::new();
        for entry in &organization.smtp {
            if let Some(at) = kept.iter().position(|c| c.entry == *entry) {
                clients.push(kept.swap_remove(at));
            } else if let Some(at) = new.iter().position(|(of, _)| of == entry) {
                let (_, client) = new.swap_remove(at);
                clients.push(Client::new(self.next_number(), entry, Calls::new(client, self.back.clone(), self.mail.clone())));
            }
        }
        self.retired.extend(kept.into_iter().map(|c| c.retire(&organization.name)));
        for client in &clients {
            client_failing(&organization.name, &client.name, client.health.is_failing());
        }
        Running {
            settings: organization,
            signer,
            clients,
            providers,
            pauses,
            held: HashMap::new(),
            back_at: HashMap::new(),
            scopes: HashMap::new(),
        }
    }

    fn next_number(&mut self) -> ClientNumber {
        self.clients_made += 1;
        ClientNumber(self.clients_made)
    }

    /// Gives back what no client has, and closes every client, those too that a reload took away; resolves when all have said QUIT or
    /// `grace` has passed.
    pub fn close(&self, grace: Duration) -> JoinHandle<()> {
        let all = || self.running.values().flat_map(|running| &running.clients);
        all().for_each(|client| client.calls.withdraw("the process stops"));
        let retired = self.retired.iter().filter_map(Weak::upgrade);
        let clients: Vec<_> = all().map(|client| client.calls.client().clone()).chain(retired).collect();
        self.mail.spawn(async move {
            let closing = clients.iter().map(|c| c.close(grace));
            futures_util::future::join_all(closing).await;
        })
    }
}

impl Running {
    fn configure(&self, settings: &Settings, limits: &mut Limits, now: Now) {
        let name = &self.settings.name;
        limits.configure(&org_scope(name), &self.settings.limits, now);
        // One that nobody limits any more is free, and counts on.
        let providers = provider_scope(name, "");
        let known = limits.scopes(&providers);
        let used = known.iter().map(|scope| &scope[providers.len()..]);
        let named = settings.providers.mailbox.keys().chain(self.settings.provider_limits.keys()).map(String::as_str);
        for provider in used.chain(named).collect::<BTreeSet<_>>() {
            limits.configure(&provider_scope(name, provider), self.provider_windows(provider), now);
        }
        for client in &self.clients {
            limits.configure(&client_scope(name, &client.name), &client.entry.limits, now);
        }
        for (share, windows) in &settings.process.shares {
            limits.configure(&share_scope(share), windows, now);
        }
    }

    /// The organization's own word on a provider, else the provider's default.
    fn provider_windows(&self, provider: &str) -> &[crate::config::settings::Window] {
        let default = self.providers.mailbox.get(provider).map(|p| p.limits.as_slice());
        self.settings.provider_limits.get(provider).map(Vec::as_slice).or(default).unwrap_or_default()
    }

    fn index(&self, number: ClientNumber) -> Option<usize> {
        self.clients.iter().position(|c| c.number == number)
    }

    /// Which client gets mail now, by its place.
    pub fn choose(&mut self, boot_ms: i64) -> Choice {
        self.look_whether_silent(boot_ms);
        route::choose(self.clients.iter().map(|c| &c.health), boot_ms)
    }

    fn look_whether_silent(&mut self, boot_ms: i64) {
        let org = &self.settings.name;
        self.clients.iter_mut().for_each(|client| client.look_whether_silent(org, boot_ms));
    }

    /// Tells whether some client gets more than probes now.
    pub fn works(&self, boot_ms: i64) -> bool {
        matches!(route::choose(self.clients.iter().map(|c| &c.health), boot_ms), Choice::Use(_))
    }

    /// Which client gets a message now that these cannot carry, by its place; `None` where all the organization's clients are
    /// among them.
    pub fn choose_other(&self, declined: &[Declined], boot_ms: i64) -> Option<Choice> {
        let places: Vec<usize> =
            (0..self.clients.len()).filter(|place| declined.iter().all(|d| d.number != self.clients[*place].number)).collect();
        // A client that could not be made may yet be, and then it may carry it.
        if places.is_empty() && self.clients.len() == self.settings.smtp.len() {
            return None;
        }
        Some(match route::choose(places.iter().map(|place| &self.clients[*place].health), boot_ms) {
            Choice::Use(index) => Choice::Use(places[index]),
            Choice::Probe(index) => Choice::Probe(places[index]),
            wait @ Choice::Wait(_) => wait,
        })
    }

    pub fn why_failing(&self) -> String {
        match self.clients.iter().find(|c| c.health.is_failing()) {
            Some(client) => format!("client `{}` is failing: {}", client.name, client.last_failure),
            None => "the organization has no client that works".to_owned(),
        }
    }

    /// Until when, by the boot clock, the lane gets nothing through this client, and why: the mail could not be made, or the
    /// account (for all lanes of the client) or the domain (for the lane) was refused.
    pub fn paused(&self, index: usize, provider: &Arc<str>, now: Now) -> Option<(i64, String)> {
        let client = &self.clients[index];
        if let Some(held) = self.held(provider, now) {
            return Some(held);
        }
        let account = client.pause.paused_until(now.boot_ms);
        let lane = self.pauses.get(&(client.name.clone(), provider.clone())).and_then(|pause| pause.paused_until(now.boot_ms));
        let (until, what) = account.map(|at| (at, "account")).max(lane.map(|at| (at, "domain")))?;
        Some((until, format!("client `{}` was refused for its {what}, next at {}", client.name, progress::instant(until, now))))
    }

    /// Until when the mail to a provider is kept back because it could not be made, and why.
    pub fn held(&self, provider: &Arc<str>, now: Now) -> Option<(i64, String)> {
        let held = self.held.get(provider).filter(|held| held.until > now.boot_ms)?;
        Some((held.until, format!("{}, tried again at {}", held.why, progress::instant(held.until, now))))
    }

    /// Keeps a lane back whose mail cannot be made now.
    fn hold(&mut self, provider: &Arc<str>, why: &str, now: Now) {
        self.held.insert(provider.clone(), Held { until: now.boot_ms + settle::UNMADE_WAIT_MS, why: why.to_owned() });
    }

    /// When one more message comes back that waits for another client: not before `boot_ms`, and behind those that wait.
    pub fn come_back(&mut self, provider: &Arc<str>, boot_ms: i64) -> i64 {
        let last = self.back_at.entry(provider.clone()).or_default();
        *last = boot_ms.max(*last + APART_MS);
        *last
    }

    /// How many more rows the client may have in hand: in its calls, and ahead of them.
    pub fn room(&self, index: usize, boot_ms: i64) -> usize {
        self.clients[index].room(boot_ms)
    }

    /// Tells whether the client answers so fast that rows are claimed ahead of its calls.
    pub fn is_brisk(&self, index: usize, boot_ms: i64) -> bool {
        self.clients[index].ahead(boot_ms) > 0
    }

    /// The limits that a message through this client to this provider belongs to.
    pub fn scopes_of(&mut self, index: usize, provider: &Arc<str>, limits: &mut Limits) -> Scopes {
        let (settings, client) = (&self.settings, &self.clients[index]);
        let made = || limits::Scopes::of(settings, &client.name, provider).numbers(limits);
        self.scopes.entry((client.number, provider.clone())).or_insert_with(made).clone()
    }

    pub fn client(&self, index: usize) -> (Arc<str>, ClientNumber) {
        (self.clients[index].name.clone(), self.clients[index].number)
    }

    pub fn client_name(&self, index: usize) -> &Arc<str> {
        &self.clients[index].name
    }

    pub fn begin_probe(&mut self, index: usize, boot_ms: i64) {
        self.clients[index].health.begin_probe(boot_ms);
    }

    pub fn release_probe(&mut self, number: ClientNumber) {
        if let Some(index) = self.index(number) {
            self.clients[index].health.release_probe();
        }
    }

    pub fn reserve(&mut self, index: usize, rows: usize, boot_ms: i64) {
        self.clients[index].reserve(rows, boot_ms);
    }

    pub fn unreserve(&mut self, number: ClientNumber, rows: usize) {
        if let Some(index) = self.index(number) {
            self.clients[index].unreserve(rows);
        }
    }

    /// The calls of the client that a row was claimed for.
    pub fn calls(&self, number: ClientNumber) -> Option<&Calls> {
        self.index(number).map(|index| &self.clients[index].calls)
    }

    /// A row has come back: its client has room again, and its health is known better. What a client said that was replaced
    /// meanwhile means nothing for the new one.
    pub fn ended(&mut self, hand: &Hand, done: &Done) {
        let now = done.at.boot_ms;
        self.unreserve(hand.client, 1);
        let outcome = match &done.outcome {
            Ok(outcome) => outcome,
            Err(Unmade::Now(why)) => return self.hold(&hand.claimed.provider, why, done.at),
            Err(Unmade::Content(_)) => return,
        };
        let Some(index) = self.index(hand.client) else { return };
        self.clients[index].observe(&self.settings.name, outcome, now);
        let lane = || (hand.claimed.client.clone(), hand.claimed.provider.clone());
        match outcome {
            // An acceptance changes a pause only where there is one.
            Outcome::Accepted(_) if self.pauses.is_empty() || !self.pauses.contains_key(&lane()) => {}
            Outcome::Deferred { .. } | Outcome::Rejected { .. } | Outcome::Accepted(_) => {
                self.pauses.entry(lane()).or_default().observe(Fault::Domain, outcome, now);
            }
            _ => {}
        }
    }
}
