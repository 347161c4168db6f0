//! What the handlers share, and what they ask of the engine.
//!
//! Invariant: the API reaches the engine only by waking it and by asking for progress.

use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::http::auth::{Auth, Caller, Keys};
use crate::http::error::{ApiError, Code};
use crate::model::email::NewEmail;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::api::import::IMPORTS_MAX;
use crate::warmup::store::{Store, StoreError};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

/// Seconds after which a client may try again when the database was not available.
const STORE_RETRY_SECS: u64 = 5;

/// How an email goes on, as the engine sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProgressNow {
    /// Messages a second, over the last minute; `None` where nothing is being sent.
    pub rate_per_second: Option<f64>,
    /// When the last recipient will be tried, in milliseconds since 1970 UTC, as far as it can be told.
    pub eta: Option<i64>,
    /// What the rest waits for, in words: ``client `gmail`, daily cap 500 reached, next at ...``.
    pub waits_for: Option<String>,
}

/// Tells how emails go on. Must not block.
pub trait Progress: Send + Sync + 'static {
    fn of(&self, org: OrgId, email: EmailNumber) -> ProgressNow;
}

/// Tries an email's templates; `Err` has the JSON pointer and the message of each that does not render.
pub type CheckTemplate = Arc<dyn Fn(&NewEmail) -> Result<(), Vec<(String, String)>> + Send + Sync>;

/// What the API needs.
#[derive(Clone)]
pub struct ApiState {
    pub store: Arc<dyn Store>,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub keys: Arc<dyn Keys>,
    pub clock: Arc<dyn Clock>,
    pub progress: Arc<dyn Progress>,
    pub check_template: CheckTemplate,
    /// Notified after commits that give the engine work.
    pub wake: Arc<Notify>,
}

/// The handlers' state.
#[derive(Clone)]
pub struct Api {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub progress: Arc<dyn Progress>,
    pub check_template: CheckTemplate,
    pub wake: Arc<Notify>,
    pub running: Running,
    /// A permit for each import that may run.
    pub imports: Arc<Semaphore>,
    auth: Arc<Auth>,
}

impl Api {
    pub fn new(state: ApiState) -> Api {
        let auth = Arc::new(Auth::new(state.keys, state.settings, state.clock.clone()));
        let ApiState { store, clock, progress, check_template, wake, .. } = state;
        Api {
            store,
            clock,
            progress,
            check_template,
            wake,
            running: Running::default(),
            imports: Arc::new(Semaphore::new(IMPORTS_MAX)),
            auth,
        }
    }

    /// Milliseconds since 1970 UTC.
    pub fn now(&self) -> i64 {
        self.clock.now().wall_ms
    }
}

impl FromRef<Api> for Arc<Auth> {
    fn from_ref(api: &Api) -> Arc<Auth> {
        api.auth.clone()
    }
}

/// The caller with the number of his organization in the database.
#[derive(Debug, Clone)]
pub struct Member {
    pub caller: Caller,
    pub org: OrgId,
}

impl FromRequestParts<Api> for Member {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Member, ApiError> {
        let caller = Caller::from_request_parts(parts, api).await?;
        let org = api.store.organization(&caller.org).await?;
        Ok(Member { caller, org })
    }
}

/// The idempotency keys of requests that are running.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<HashSet<(OrgId, String)>>>);

/// One running key, given back when dropped.
#[derive(Debug)]
pub struct RunningKey {
    running: Arc<Mutex<HashSet<(OrgId, String)>>>,
    key: (OrgId, String),
}

impl Running {
    /// Marks a key as running; `None` where it is already.
    pub fn enter(&self, org: OrgId, key: &str) -> Option<RunningKey> {
        let key = (org, key.to_owned());
        let entered = self.0.lock().expect("no thread panics while it holds this lock").insert(key.clone());
        entered.then(|| RunningKey { running: self.0.clone(), key })
    }
}

impl Drop for RunningKey {
    fn drop(&mut self) {
        self.running.lock().expect("no thread panics while it holds this lock").remove(&self.key);
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        tracing::error!(%error, "a request could not use the database");
        match error {
            StoreError::Full => ApiError::new(Code::StoreFull, "the disk of the database is full; nothing was changed"),
            StoreError::Unavailable(_) => {
                ApiError::new(Code::StoreUnavailable, "the database is not available at the moment; nothing was changed, try again")
                    .retry_after(STORE_RETRY_SECS)
            }
        }
    }
}
