//! Retention: removes what has been finished for long enough, a little at a time.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::store::retention::Retention;

/// How often the engine looks for what may go.
const EVERY: Duration = Duration::from_secs(60);
/// How many rows go in one transaction.
pub(super) const ROWS_MOST: usize = 500;

/// Sweeps until the engine stops.
pub(super) async fn run(shared: Arc<Shared>, retention: Retention) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.world.clock.sleep(EVERY) => {}
        }
        loop {
            match shared.store.sweep(retention).await {
                Ok(swept) if swept.more && !shared.stop.is_cancelled() => {}
                Ok(_) => break,
                Err(failure) => {
                    tracing::warn!(%failure, "retention could not remove old runs");
                    break;
                }
            }
        }
    }
}
