//! The organizations as they run: their clients, what each has in hand, and which of them works.
//!
//! Invariant: a client whose entry did not change is the same instance after a reload; one that changed or went away is
//! closed once its messages have ended.

use crate::clock::Now;
use crate::config::settings::{Organization, Providers, Settings, SmtpEntry};
use crate::model::address::without_addresses;
use crate::model::message_id::Tokens;
use crate::model::name::{OrgId, OrgName};
use crate::warmup::engine::MakeClient;
use crate::warmup::engine::dispatch::{Done, MakeSigner, Sign};
use crate::warmup::limits::{Limits, Scopes};
use crate::warmup::metrics::client_failing;
use crate::warmup::progress;
use crate::warmup::route::{self, Choice, ClientHealth, LanePause};
use crate::warmup::store::{BackfillPace, Store};
use postwarm_plugin_api::{Outcome, SmtpClient};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub struct Organizations {
    store: Arc<dyn Store>,
    make: Arc<dyn MakeClient>,
    signers: Arc<dyn MakeSigner>,
    running: BTreeMap<OrgId, Running>,
}

/// One organization as it runs.
pub struct Running {
    pub settings: Arc<Organization>,
    pub signer: Arc<dyn Sign>,
    clients: Vec<Client>,
    providers: Arc<Providers>,
    pauses: HashMap<(Arc<str>, String), LanePause>,
}

struct Client {
    name: Arc<str>,
    entry: SmtpEntry,
    client: Arc<dyn SmtpClient>,
    health: ClientHealth,
    /// Rows claimed for it or in its hands.
    in_hand: usize,
    last_failure: String,
}

impl Organizations {
    pub fn new(store: Arc<dyn Store>, make: Arc<dyn MakeClient>, signers: Arc<dyn MakeSigner>) -> Organizations {
        Organizations { store, make, signers, running: BTreeMap::new() }
    }

    pub fn tokens(&self) -> Arc<Tokens> {
        self.store.tokens()
    }

    pub fn get(&self, org: OrgId) -> Option<&Running> {
        self.running.get(&org)
    }

    pub fn get_mut(&mut self, org: OrgId) -> Option<&mut Running> {
        self.running.get_mut(&org)
    }

    /// The organizations that send an unknown message again by themselves.
    pub fn resending(&self) -> Vec<OrgName> {
        let resend = |r: &&Running| r.settings.on_unknown == crate::config::settings::OnUnknown::Resend;
        self.running.values().filter(resend).map(|r| r.settings.name.clone()).collect()
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
        let mut before = std::mem::take(&mut self.running);
        for organization in settings.organizations.values() {
            let org = self.store.organization(&organization.name).await?;
            let old = before.remove(&org);
            let running = self.one(organization.clone(), settings.providers.clone(), old);
            self.running.insert(org, running);
        }
        for gone in before.into_values() {
            gone.clients.into_iter().for_each(|c| c.retire(&gone.settings.name));
        }
        Ok(())
    }

    /// Sets the limits of all that run.
    pub fn configure(&self, settings: &Settings, limits: &mut Limits, now: Now) {
        self.running.values().for_each(|running| running.configure(settings, limits, now));
    }

    fn one(&self, organization: Arc<Organization>, providers: Arc<Providers>, old: Option<Running>) -> Running {
        let (mut kept, pauses) = old.map_or((Vec::new(), HashMap::new()), |o| (o.clients, o.pauses));
        let mut clients = Vec::new();
        for entry in &organization.smtp {
            if let Some(at) = kept.iter().position(|c| c.entry == *entry) {
                clients.push(kept.swap_remove(at));
                continue;
            }
            match self.make.make(&organization, entry) {
                Ok(client) => clients.push(Client {
                    name: entry.name.as_str().into(),
                    entry: entry.clone(),
                    client,
                    health: ClientHealth::default(),
                    in_hand: 0,
                    last_failure: String::new(),
                }),
                Err(problem) => {
                    tracing::error!(organization.name = %organization.name, client.name = entry.name, problem, "a client cannot be made");
                }
            }
        }
        kept.into_iter().for_each(|c| c.retire(&organization.name));
        for client in &clients {
            client_failing(&organization.name, &client.name, client.health.is_failing());
        }
        let signer = self.signers.make(&organization);
        Running { settings: organization, signer, clients, providers, pauses }
    }

    /// Closes every client; resolves when all have said QUIT or `grace` has passed.
    pub fn close(&self, grace: Duration) -> impl Future<Output = ()> + use<> {
        let clients: Vec<_> = self.running.values().flat_map(|r| r.clients.iter().map(|c| c.client.clone())).collect();
        async move {
            let closing = clients.iter().map(|c| c.close(grace));
            futures_util::future::join_all(closing).await;
        }
    }
}

impl Client {
    /// Lets a client that is no longer named end its messages and close.
    fn retire(self, org: &OrgName) {
        client_failing(org, &self.name, false);
        tokio::spawn(async move { self.client.close(Duration::from_secs(600)).await });
    }
}

impl Running {
    fn configure(&self, settings: &Settings, limits: &mut Limits, now: Now) {
        let name = &self.settings.name;
        limits.configure(&format!("org/{name}"), &self.settings.limits, now);
        for provider in settings.providers.mailbox.keys() {
            limits.configure(&provider_scope(name, provider), self.provider_windows(provider), now);
        }
        for (provider, windows) in &self.settings.provider_limits {
            limits.configure(&provider_scope(name, provider), windows, now);
        }
        for client in &self.clients {
            limits.configure(&client_scope(name, &client.name), &client.entry.limits, now);
        }
        for (share, windows) in &settings.process.shares {
            limits.configure(&format!("share/{share}"), windows, now);
        }
    }

    /// The organization's own word on a provider, else the provider's default.
    fn provider_windows(&self, provider: &str) -> &[crate::config::settings::Window] {
        let default = self.providers.mailbox.get(provider).map(|p| p.limits.as_slice());
        self.settings.provider_limits.get(provider).map(Vec::as_slice).or(default).unwrap_or_default()
    }

    fn index(&self, client: &str) -> Option<usize> {
        self.clients.iter().position(|c| *c.name == *client)
    }

    /// Which client gets mail now, by its place.
    pub fn choose(&self, boot_ms: i64) -> Choice {
        route::choose(self.clients.iter().map(|c| &c.health), boot_ms)
    }

    pub fn why_failing(&self) -> String {
        match self.clients.iter().find(|c| c.health.is_failing()) {
            Some(client) => format!("client `{}` is failing: {}", client.name, client.last_failure),
            None => "the organization has no client that works".to_owned(),
        }
    }

    pub fn why_paused(&self, index: usize, now: Now, until: i64) -> String {
        format!("client `{}` was refused for its account or domain, next at {}", self.clients[index].name, progress::instant(until, now))
    }

    pub fn paused_until(&self, index: usize, provider: &str, boot_ms: i64) -> Option<i64> {
        self.pauses.get(&(self.clients[index].name.clone(), provider.to_owned()))?.paused_until(boot_ms)
    }

    /// How many more rows the client may have in hand.
    pub fn room(&self, index: usize) -> usize {
        let client = &self.clients[index];
        client.client.in_flight_max().saturating_sub(client.in_hand)
    }

    pub fn scopes_of(&self, index: usize, provider: &str) -> Vec<String> {
        self.scopes(&self.clients[index].name, provider)
    }

    /// The limits that a message through this client to this provider belongs to.
    pub fn scopes(&self, client: &str, provider: &str) -> Vec<String> {
        let Scopes { org, provider, client, share } = Scopes::of(&self.settings, client, provider);
        [org, provider, client].into_iter().chain(share).collect()
    }

    pub fn client_name(&self, index: usize) -> &Arc<str> {
        &self.clients[index].name
    }

    pub fn begin_probe(&mut self, index: usize, boot_ms: i64) {
        self.clients[index].health.begin_probe(boot_ms);
    }

    pub fn release_probe(&mut self, client: &str) {
        if let Some(index) = self.index(client) {
            self.clients[index].health.release_probe();
        }
    }

    pub fn reserve(&mut self, index: usize, rows: usize) {
        self.clients[index].in_hand += rows;
    }

    pub fn unreserve(&mut self, client: &str, rows: usize) {
        if let Some(index) = self.index(client) {
            let client = &mut self.clients[index];
            client.in_hand = client.in_hand.saturating_sub(rows);
        }
    }

    /// The client for a row that was claimed for it.
    pub fn begin(&self, client: &str) -> Option<Arc<dyn SmtpClient>> {
        self.index(client).map(|index| self.clients[index].client.clone())
    }

    /// A row has come back: its client has room again, its limits have counted it, its health is known better.
    pub fn ended(&mut self, done: &Done, limits: &mut Limits) {
        let claimed = &done.claimed;
        let scopes = self.scopes(&claimed.client, &claimed.provider);
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let now = done.at.boot_ms;
        self.unreserve(&claimed.client, 1);
        match &done.outcome {
            Ok(Outcome::NotAttempted { .. }) | Err(_) => limits.give_back(&scopes, 1, now),
            Ok(_) => limits.settle(&scopes, 1, now),
        }
        let Ok(outcome) = &done.outcome else { return };
        if let Some(index) = self.index(&claimed.client) {
            self.observe(index, outcome, now);
        }
        if matches!(outcome, Outcome::Deferred { .. } | Outcome::Rejected { .. } | Outcome::Accepted(_)) {
            let lane = (claimed.client.clone(), claimed.provider.to_string());
            match outcome {
                // An acceptance changes a pause only where there is one.
                Outcome::Accepted(_) if !self.pauses.contains_key(&lane) => {}
                _ => self.pauses.entry(lane).or_default().observe(outcome, now),
            }
        }
    }

    fn observe(&mut self, index: usize, outcome: &Outcome, now: i64) {
        let client = &mut self.clients[index];
        let before = client.health.is_failing();
        client.health.observe(outcome, now);
        match (before, client.health.is_failing(), outcome) {
            (false, true, Outcome::NotAttempted { cause, detail }) => {
                // Servers repeat recipients in what they say, and this goes to the log and to `waits_for`.
                let detail = without_addresses(detail).into_owned();
                client.last_failure.clone_from(&detail);
                client_failing(&self.settings.name, &client.name, true);
                tracing::warn!(organization.name = %self.settings.name, client.name = %client.name, ?cause, detail, "a client fails; the next one takes over");
            }
            (true, false, _) => {
                client_failing(&self.settings.name, &client.name, false);
                tracing::info!(organization.name = %self.settings.name, client.name = %client.name, "a client works again");
            }
            _ => {}
        }
    }
}

fn provider_scope(org: &OrgName, provider: &str) -> String {
    format!("provider/{org}/{provider}")
}

fn client_scope(org: &OrgName, client: &str) -> String {
    format!("client/{org}/{client}")
}
