//! What the handlers share, and what they ask of the engine.
//!
//! Invariant: the API reaches the engine only by waking it and by asking for progress.

use crate::clock::Clock;
use crate::config::settings::{Organization, Settings};
use crate::http::auth::{Auth, Caller, Keys};
use crate::http::error::{ApiError, Code};
use crate::http::tries::Tries;
use crate::model::email::NewEmail;
use crate::model::name::OrgId;
use crate::warmup::api::import::IMPORTS_MAX;
use crate::warmup::progress::{EmailNow, Question};
use crate::warmup::store::{Store, StoreError};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

/// Unsubscribe tokens that name nobody which one remote address may try within a minute.
pub const BAD_TOKENS_MAX: usize = 30;
/// Seconds after which a client may try again when the database was not available.
const STORE_RETRY_SECS: u64 = 5;

/// Tells how emails go on. Must not block.
pub trait Progress: Send + Sync + 'static {
    fn of(&self, question: &Question<'_>) -> EmailNow;
}

/// Tries an email's templates with what its organization offers; `Err` has the JSON pointer and the message of each that does not render.
pub type CheckTemplate = Arc<dyn Fn(&NewEmail, &Organization) -> Result<(), Vec<(String, String)>> + Send + Sync>;

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
    /// Unsubscribe tokens that named nobody.
    pub bad_tokens: Arc<Tries>,
}

impl Api {
    pub fn new(state: ApiState) -> Api {
        let bad_tokens = Arc::new(Tries::new(BAD_TOKENS_MAX, state.clock.clone()));
        let auth = Arc::new(Auth::new(state.keys, state.settings, state.clock.clone()));
        let ApiState { store, clock, progress, check_template, wake, .. } = state;
        let imports = Arc::new(Semaphore::new(IMPORTS_MAX));
        Api { store, clock, progress, check_template, wake, running: Running::default(), imports, auth, bad_tokens }
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
