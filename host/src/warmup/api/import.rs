//! `POST /users/import`: millions of users in one streamed request.
//!
//! Invariant: memory is bounded by two batches and one line an import, and a fixed number of imports. While a batch commits, the next one is read. What was
//! committed stays when the upload breaks off; the same upload again finds it as existing.

use crate::http::body::{self, broken_off};
use crate::http::error::{ApiError, Code};
use crate::http::json::media_type;
use crate::http::params::Params;
use crate::http::serve::BODY_STALL_MAX;
use crate::model::name::OrgId;
use crate::model::user::NewUser;
use crate::warmup::api::rows::{Batch, RowError, Rows, Utf16};
use crate::warmup::api::state::{Api, Member};
use crate::warmup::store::{Imported, StoreError};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use futures_util::StreamExt;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use utoipa::ToSchema;

/// Imports that run at a time, of all organizations: each keeps two batches in memory, some 2 MB.
pub const IMPORTS_MAX: usize = 4;
/// Seconds after which a refused import may be tried again.
const IMPORT_RETRY_SECS: u64 = 10;
/// Rows of one commit. One piece more fits into the 10,000 that the store takes.
pub const BATCH_ROWS: usize = 5_000;
/// Octets that are read between two looks at the batch: at most some 2,000 rows.
const PIECE_OCTETS_MAX: usize = 16 * 1024;

/// The answer of an import.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportAnswer {
    created: u64,
    /// Rows whose address was registered before, or stands twice in the upload.
    existing: u64,
    invalid: u64,
    /// The first 1,000 refused rows.
    errors: Vec<RowError>,
}

/// Registers many users: one JSON object a line, or CSV.
///
/// There is no limit to the size; a body that stands still for 30 s ends. A row that is refused does not stop others.
#[utoipa::path(post, path = "/users/import", tag = "users",
    params(("backfill" = Option<bool>, Query, description = "Starts back-fill for the new users (default: no).")),
    request_body(description = "`{\"name\": ..., \"email_id\": ...}` a line, or CSV of `name,email_id`.",
        content((String = "application/x-ndjson"), (String = "text/csv"))),
    responses((status = 200, description = "Read to the end; what was valid is durable.", body = ImportAnswer)))]
pub async fn import_users(
    State(api): State<Api>,
    member: Member,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImportAnswer>, ApiError> {
    let backfill = Params::read(&uri, &["backfill"])?.switch("backfill")?;
    let mut rows = format(&headers)?;
    let _running = api.imports.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{IMPORTS_MAX} imports are running, which is as many as may; nothing was read, try again");
        ApiError::new(Code::ImportsRunning, detail).retry_after(IMPORT_RETRY_SECS)
    })?;
    let mut commits = Commits { api, org: member.org, backfill, running: None, total: Imported::default() };
    let mut batch = Batch::default();
    match run(body, &mut rows, &mut batch, &mut commits).await {
        Ok(()) => {
            let Imported { created, existing } = commits.total;
            Ok(Json(ImportAnswer { created, existing, invalid: batch.invalid, errors: batch.errors }))
        }
        Err(error) => {
            // Whoever repairs the upload wants to know where he stands; a commit that fails now has been reported.
            let _ = commits.settle().await;
            let Imported { created, existing } = commits.total;
            let kept = format!("{}; {created} users were created and {existing} existed before that, they stay", error.detail);
            Err(ApiError { detail: kept, ..error })
        }
    }
}

async fn run(body: Body, rows: &mut Rows, batch: &mut Batch, commits: &mut Commits) -> Result<(), ApiError> {
    let mut stream = body.into_data_stream();
    while let Some(chunk) = next(&mut stream).await? {
        for piece in chunk.chunks(PIECE_OCTETS_MAX) {
            rows.feed(piece, batch).map_err(|Utf16| body::utf16())?;
            if batch.users.len() >= BATCH_ROWS {
                commits.start(std::mem::replace(&mut batch.users, Vec::with_capacity(BATCH_ROWS))).await?;
            }
        }
    }
    rows.finish(batch).map_err(|Utf16| body::utf16())?;
    commits.start(std::mem::take(&mut batch.users)).await?;
    commits.settle().await
}

async fn next(stream: &mut axum::body::BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    match timeout(BODY_STALL_MAX, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(_))) => Err(broken_off()),
        Err(_) => Err(ApiError::new(Code::RequestTimeout, format!("the body stood still for {} s", BODY_STALL_MAX.as_secs()))),
    }
}

fn format(headers: &HeaderMap) -> Result<Rows, ApiError> {
    body::refuse_compressed(headers)?;
    match media_type(headers).as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" | "application/json" => {
            Ok(Rows::ndjson())
        }
        "text/csv" => Ok(Rows::csv()),
        _ => Err(ApiError::new(Code::UnsupportedMediaType, "send `Content-Type: application/x-ndjson` or `text/csv`")),
    }
}

/// Commits one batch at a time, while the next one is read.
struct Commits {
    api: Api,
    org: OrgId,
    backfill: bool,
    running: Option<JoinHandle<Result<Imported, StoreError>>>,
    total: Imported,
}

impl Commits {
    /// Waits for the batch before and starts this one.
    async fn start(&mut self, users: Vec<NewUser>) -> Result<(), ApiError> {
        self.settle().await?;
        if !users.is_empty() {
            let (api, org, backfill) = (self.api.clone(), self.org, self.backfill);
            self.running = Some(tokio::spawn(async move {
                let imported = api.store.import(org, users, backfill, api.now()).await?;
                if backfill && imported.created > 0 {
                    api.wake.notify_one();
                }
                Ok(imported)
            }));
        }
        Ok(())
    }

    /// Waits for the batch that is being committed.
    async fn settle(&mut self) -> Result<(), ApiError> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let imported = running.await.map_err(|_| ApiError::new(Code::Internal, "storing a batch failed; the log has more"))??;
        self.total.created += imported.created;
        self.total.existing += imported.existing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::send;
    use crate::warmup::api::testing::api;
    use axum::http::Request;

    fn import(body: Body) -> Request<Body> {
        let request = Request::post("/users/import").header("authorization", "Bearer key-acme").header("content-type", "text/csv");
        request.body(body).unwrap()
    }

    #[tokio::test]
    async fn more_imports_than_may_run_are_refused_before_they_are_read() {
        let (router, _, _) = api();
        let (mut running, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..IMPORTS_MAX {
            let (end, may_end) = tokio::sync::oneshot::channel::<()>();
            let (begins, has_begun) = tokio::sync::oneshot::channel();
            let body = futures_util::stream::once(async move {
                begins.send(()).unwrap();
                let _ = may_end.await;
                Ok::<_, std::io::Error>(Bytes::from_static(b"name,email_id\n"))
            });
            let router = router.clone();
            running.push(tokio::spawn(async move { send(&router, import(Body::from_stream(body))).await }));
            has_begun.await.unwrap();
            ends.push(end);
        }
        let refused = send(&router, import(Body::empty())).await;
        assert_eq!(refused.problem(), "503 imports_running ");
        assert_eq!(refused.headers.get("retry-after").and_then(|v| v.to_str().ok()), Some("10"));
        drop(ends);
        for import in running {
            assert_eq!(import.await.unwrap().status.as_u16(), 200);
        }
        assert_eq!(send(&router, import(Body::empty())).await.status.as_u16(), 200, "there is room again");
    }
}
