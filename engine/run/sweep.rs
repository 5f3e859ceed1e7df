//! Retention: removes what has been finished for long enough, a little at a time.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::store::retention::Retention;
use crate::world::failpoint;

/// How often the engine looks for what may go.
const EVERY: Duration = Duration::from_secs(60);
/// How many rows go in one transaction.
pub(super) const ROWS_MOST: usize = 500;

/// Sweeps until the engine stops; first at once, so that an engine that is often started anew sweeps too.
pub(super) async fn run(shared: Arc<Shared>, retention: Retention) {
    loop {
        loop {
            failpoint::hit("sweep-before");
            let swept = shared.store.sweep(retention).await;
            failpoint::hit("sweep-committed");
            match swept {
                Ok(swept) if swept.more && !shared.stop.is_cancelled() => {}
                Ok(_) => break,
                Err(failure) => {
                    tracing::warn!(%failure, "retention could not remove old runs");
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
