//! What is done once a minute: finished things that are old go, a little at a time, and exceptions that were put off come back.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::failure::Failure;
use crate::store::commit::Commit;
use crate::store::exceptions::{ExceptionFilter, ExceptionState};
use crate::store::retention::Retention;
use crate::world::failpoint;

/// How often the engine looks for what may go.
const EVERY: Duration = Duration::from_secs(60);
/// How many rows go in one transaction.
pub(super) const ROWS_MOST: usize = 500;

/// Sweeps until the engine stops; first at once, so that an engine that is often started anew sweeps too.
pub(super) async fn run(shared: Arc<Shared>, retention: Retention) {
    loop {
        if let Err(failure) = wake(&shared).await
            && !shared.store.has_said(&failure)
        {
            tracing::warn!(%failure, "exceptions that were put off could not be opened again");
        }
        loop {
            failpoint::hit("sweep-before");
            let swept = shared.store.sweep(retention).await;
            failpoint::hit("sweep-committed");
            match swept {
                Ok(swept) if swept.more && !shared.stop.is_cancelled() => {}
                Ok(_) => break,
                Err(failure) => {
                    if !shared.store.has_said(&failure) {
                        tracing::warn!(%failure, "retention could not remove old runs");
                    }
                    break;
                }
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.world.clock.sleep(EVERY) => {}
        }
    }
}

/// Opens exceptions again whose time has come. Where none was put off nothing is written.
async fn wake(shared: &Shared) -> Result<(), Failure> {
    let put_off = ExceptionFilter {
        state: Some(ExceptionState::Snoozed),
        limit: 1,
        ..ExceptionFilter::default()
    };
    if shared.store.exceptions(put_off).await?.is_empty() {
        return Ok(());
    }
    let commit = Commit {
        wake: Some(shared.world.clock.now_ms()),
        ..Commit::default()
    };
    shared.commit(commit).await.map(drop)
}
