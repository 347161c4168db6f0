//! An engine that a test turns by hand: its clock, its clients' answers and its database's failures are the test's.

use crate::clock::{Clock, ManualClock};
use crate::config::settings::*;
use crate::model::address::Address;
use crate::model::delivery::Counts;
use crate::model::email::{Mailbox, NewEmail};
use crate::model::name::{EmailNumber, OrgId, OrgName};
use crate::model::user::NewUser;
use crate::warmup::engine::dispatch::{MakeSigner, Sign};
use crate::warmup::engine::feeder::{Looked, ProviderLookup};
use crate::warmup::engine::tests::flaky::Flaky;
use crate::warmup::engine::tests::script::Script;
use crate::warmup::engine::{Engine, Parts, View};
use crate::warmup::limits::{Limits, Shared};
use crate::warmup::marks::MarksFile;
use crate::warmup::progress::{self, Question};
use crate::warmup::sqlite::SqliteStore;
use crate::warmup::store::{Accepted, Believed, Queue, Store};
use postwarm_plugin_api::{Cause, EnhancedCode, Outcome, Phase, Reply};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// When the tests' clock starts.
pub const START: i64 = 1_764_000_000_000;
/// Every provider that the fixture noted.
const BELIEVED: Believed = Believed { checked_after: START - 1, settings: 7 };
/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn accepted() -> Outcome {
    Outcome::Accepted(reply(250))
}

pub fn reply(code: u16) -> Reply {
    Reply { code, enhanced: Some(EnhancedCode((code / 100) as u8, 0, 0)), text: "so".into() }
}

pub struct Unsigned;

impl MakeSigner for Unsigned {
    fn make(&self, _: &Organization) -> Arc<dyn Sign> {
        Arc::new(Unsigned)
    }
}

impl Sign for Unsigned {
    fn sign(&self, _: &str, _: &[u8], _: crate::warmup::engine::BodyHash<'_>, _: i64) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn is_slow(&self) -> bool {
        false
    }
}

pub struct Other;

#[async_trait::async_trait]
impl ProviderLookup for Other {
    async fn provider(&self, _: &str, _: i64) -> Looked {
        Looked { provider: "other".into(), decided: true }
    }
}

pub fn settings(clients: usize, change: impl FnOnce(&mut Organization)) -> Arc<Settings> {
    let entry = |n: usize| SmtpEntry {
        name: format!("client{n}"),
        plugin: "fake".into(),
        settings: Default::default(),
        secrets: Default::default(),
        limits: Vec::new(),
        connections: 10,
        share: None,
    };
    let name = OrgName::parse("acme").unwrap();
    let mut organization = Organization {
        name: name.clone(),
        from_domains: vec!["acme.example".into()],
        development: true,
        public_url: None,
        on_unknown: OnUnknown::Hold,
        limits: Vec::new(),
        provider_limits: Default::default(),
        dkim: Vec::new(),
        smtp: (0..clients).map(entry).collect(),
        feedback: Vec::new(),
        backfill: BackfillSettings {
            per_recipient: Window { messages: 1, per: Duration::from_secs(10) },
            hold_max: Duration::from_secs(3600),
        },
        retry: Retry { schedule: vec![Duration::from_millis(20)], give_up_after: Duration::from_secs(3600), jitter: 0.0 },
    };
    change(&mut organization);
    let listen = Listener { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
    let process = Process {
        warmup: listen.clone(),
        health: listen,
        default_organization: None,
        allow_development_beyond_loopback: false,
        plugins_directory: "plugins".into(),
        events: Events::Embedded { retention: Duration::from_secs(1) },
        shares: Default::default(),
        sending_rows_max: 16,
        drain_max: Duration::from_secs(5),
        watch_for: Duration::from_secs(1),
        dns: Dns { nameserver: None, timeout: Duration::from_secs(1), enabled: false },
    };
    Arc::new(Settings {
        process: Arc::new(process),
        providers: Arc::default(),
        organizations: [(name, Arc::new(organization))].into(),
        unusable: [].into(),
    })
}

pub fn failing() -> Outcome {
    Outcome::NotAttempted { cause: Cause::Connect, detail: "refused".into() }
}

/// What a client says that is closed of what had not left.
pub fn closing() -> Outcome {
    Outcome::NotAttempted { cause: Cause::Stopping, detail: "the client closes".into() }
}

pub fn unknown() -> Outcome {
    Outcome::Unknown { phase: Phase::EndOfData, detail: "silence".into() }
}

/// The database, the settings and the clients; engines come and go.
pub struct World {
    folder: tempfile::TempDir,
    pub queue: Arc<Flaky>,
    pub clock: Arc<ManualClock>,
    pub settings: watch::Sender<Arc<Settings>>,
    pub script: Script,
    pub view: Arc<View>,
    /// Those of the latest engine.
    limits: Mutex<Shared>,
    pub signers: Arc<dyn MakeSigner>,
}

impl World {
    pub fn new(settings: Arc<Settings>) -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("warmup.db")).unwrap());
        let queue = Arc::new(Flaky::over(store));
        let (clock, view) = (Arc::new(ManualClock::at(START)), Arc::new(View::default()));
        let limits = Mutex::new(Shared::new(Limits::new(clock.boot_id())));
        World {
            folder,
            queue,
            clock,
            settings: watch::channel(settings).0,
            script: Script::default(),
            view,
            limits,
            signers: Arc::new(Unsigned),
        }
    }

    /// The file of marks.
    pub fn marks(&self) -> PathBuf {
        self.folder.path().join("sending.marks")
    }

    pub async fn org(&self, name: &str) -> OrgId {
        self.queue.store.organization(&OrgName::parse(name).unwrap()).await.unwrap()
    }

    pub async fn register(&self, name: &str, users: usize, domain: &str) {
        let user = |n: usize| NewUser { name: "N".into(), address: Address::parse(&format!("u{n}@{domain}")).unwrap() };
        self.queue.store.import(self.org(name).await, (0..users).map(user).collect(), true, START).await.unwrap();
    }

    /// Accepts an email for everybody who is registered.
    pub async fn send(&self, name: &str) -> EmailNumber {
        let from = Mailbox { name: None, address: Address::parse("a@acme.example").unwrap() };
        let email = NewEmail { from, reply_to: None, subject: "S".into(), body: "B".into(), html: None, headers: Vec::new() };
        match self.queue.store.accept(self.org(name).await, email, None, START).await.unwrap() {
            Accepted::New { email, .. } => email,
            other => panic!("{other:?}"),
        }
    }

    /// Fans out and starts back-fills. `mail.example` is the provider `mail`, and so on.
    pub async fn feed(&self) {
        let now = self.clock.now().wall_ms;
        let named = |domains: Vec<String>| {
            let provider = |d: String| (d.clone(), d.split('.').next().unwrap().to_owned());
            domains.into_iter().map(provider).collect::<Vec<_>>()
        };
        while let Some(next) = self.queue.fan_out_next(OrgId(0), 1_000, BELIEVED).await.unwrap() {
            self.queue.set_providers(named(next.unknown_domains), BELIEVED.settings, START).await.unwrap();
            self.queue.fan_out(next.org, next.email, 1_000, now).await.unwrap();
        }
        let domains = self.queue.backfill_domains(1_000, BELIEVED, now).await.unwrap();
        self.queue.set_providers(named(domains), BELIEVED.settings, START).await.unwrap();
        self.queue.backfill_step(1_000, now).await.unwrap();
    }

    /// Registers users, sends them one email and fans it out.
    pub async fn broadcast(&self, name: &str, users: usize, domain: &str) -> EmailNumber {
        self.register(name, users, domain).await;
        let email = self.send(name).await;
        self.feed().await;
        email
    }

    /// A new process: what the one before it counted is in the database alone.
    pub async fn engine(&self) -> Engine {
        self.try_engine().await.unwrap()
    }

    pub async fn try_engine(&self) -> anyhow::Result<Engine> {
        let limits = Shared::new(Limits::new(self.clock.boot_id()));
        *self.limits.lock().unwrap() = limits.clone();
        let parts = Parts {
            queue: self.queue.clone(),
            store: self.queue.clone(),
            clock: self.clock.clone(),
            settings: self.settings.subscribe(),
            make: Arc::new(self.script.clone()),
            wake: Arc::new(Notify::new()),
            view: self.view.clone(),
            limits,
            marks: MarksFile::new(self.folder.path(), self.clock.boot_id()),
            signers: self.signers.clone(),
            mail: Handle::current(),
            seed: 1,
        };
        Engine::start(parts).await
    }

    /// Stops an engine, whose clients give back what they have once a client of this name is told to close within the time of a drain.
    pub async fn stop_until_closed(&self, engine: Engine, name: &str) {
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = tokio::spawn(engine.run(stop));
        let told = (name.to_owned(), self.settings.borrow().process.drain_max);
        let seen = async {
            while !self.script.closed().contains(&told) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("the client is told to close");
        self.script.release(closing);
        self.queue.turns_fail.store(false, Ordering::SeqCst);
        self.clock.advance(Duration::from_secs(1));
        tokio::time::timeout(PATIENCE, ended).await.expect("the drain ends").unwrap();
    }

    /// Stops an engine whose messages are in flight, and lets its drain expire.
    pub async fn stop_slowly(&self, engine: Engine) {
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = engine.run(stop);
        tokio::pin!(ended);
        // The drain waits for answers and for its deadline now.
        assert!(futures_util::poll!(&mut ended).is_pending());
        self.clock.advance(Duration::from_secs(8));
        ended.await;
    }

    /// A turn whose commit fails.
    pub async fn failing_turn(&self, engine: &mut Engine) {
        let turn = engine.turn(Vec::new());
        tokio::pin!(turn);
        // It waits by the clock before it tries again.
        assert!(futures_util::poll!(&mut turn).is_pending());
        self.clock.advance(Duration::from_secs(1));
        turn.await;
    }

    pub async fn counts(&self, name: &str, email: EmailNumber) -> Counts {
        self.queue.store.email(self.org(name).await, email).await.unwrap().unwrap().counts
    }

    pub async fn waits_for(&self, name: &str) -> Option<String> {
        let (org, email) = (self.org(name).await, EmailNumber(1));
        let organization = self.settings.borrow().organizations[&OrgName::parse(name).unwrap()].clone();
        let queued = self.counts(name, email).await.queued;
        let lanes = self.queue.store.waiting(org, email).await.unwrap();
        let question = Question { org, organization: &organization, email, queued, lanes: &lanes };
        let limits = self.limits.lock().unwrap().clone();
        progress::now(&question, &self.view, &limits, self.clock.now()).waits_for
    }
}

/// Changes the one organization of [`settings`], or adds another under the name that it is given.
pub fn edit(settings: &Arc<Settings>, change: impl FnOnce(&mut Process, &mut Organization)) -> Arc<Settings> {
    let mut organization = (**settings.organizations.values().next().unwrap()).clone();
    let mut process = (*settings.process).clone();
    change(&mut process, &mut organization);
    let mut organizations = settings.organizations.clone();
    organizations.insert(organization.name.clone(), Arc::new(organization));
    Arc::new(Settings { process: Arc::new(process), providers: settings.providers.clone(), organizations, unusable: [].into() })
}

impl Engine {
    /// One turn: what has come back is recorded, what is due is claimed and handed over.
    pub async fn once(&mut self) {
        self.lanes.look_again();
        self.refresh_lanes().await;
        let claims = self.plan();
        self.turn(claims).await;
        // The messages' tasks run up to where their clients have them.
        tokio::task::yield_now().await;
    }

    /// Takes in `rows` answers.
    pub async fn answers(&mut self, rows: usize) {
        for _ in 0..rows {
            tokio::time::timeout(PATIENCE, self.returns.any()).await.expect("a message comes back");
            self.returns.take(1).into_iter().for_each(|done| self.take_in(done));
        }
    }
}
