//! SIGTERM and SIGINT: the first drains, the second ends the process at once.
//!
//! Invariant: both are listened for before anything is started, for the first process of a container has no default action.

use crate::app::StartError;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Listens from now on. What it returns is cancelled at the first signal; the second ends the process with 128 and the
/// signal's number, as a shell says it.
pub fn listen() -> Result<CancellationToken, StartError> {
    let listen = |kind| signal(kind).map_err(|e| StartError::Unavailable(format!("signals cannot be listened for: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let asked = CancellationToken::new();
    let first = asked.clone();
    tokio::spawn(async move {
        loop {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            };
            if first.is_cancelled() {
                tracing::warn!("a second signal: ending at once; what was on its way is unknown, and listed after the next start");
                std::process::exit(128 + kind.as_raw_value());
            }
            tracing::info!("stopping: running requests and messages end first; a second signal ends at once");
            first.cancel();
        }
    });
    Ok(asked)
}
