//! What only one engine on a store may do at a time: it is done while this engine leads it, and left when another one may. On a store that
//! nobody shares this engine leads all the time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::store::postgres::lead::Lead;

/// How often an engine asks whether it may lead; half of it more or less, so that engines do not ask at the same moment.
const ASK_EVERY_MS: u64 = 1_000;

/// Waits until this engine leads `name`; `None` if it is stopped before.
pub(super) async fn lead(shared: &Shared, name: &str, stop: &CancellationToken) -> Option<Lead> {
    let mut said = false;
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return None,
            asked = shared.store.lead(name) => asked,
        };
        match asked {
            Ok(Some(lead)) => return Some(lead),
            Ok(None) => said = false,
            Err(failure) => {
                if !shared.store.has_said(&failure) && !std::mem::replace(&mut said, true) {
                    tracing::warn!(%failure, name, "nobody knows which engine leads; it is asked again");
                }
            }
        }
        let pause_ms = ASK_EVERY_MS / 2 + shared.world.random.below(ASK_EVERY_MS);
        tokio::select! {
            () = stop.cancelled() => return None,
            () = shared.world.clock.sleep(Duration::from_millis(pause_ms)) => {}
        }
    }
}

/// Does this while the engine leads `name`, until it ends by itself: so it must when the engine stops. It may be broken off at any point
/// at which it waits, and begun again.
pub(super) async fn only<F: Future<Output = ()>>(
    shared: Arc<Shared>,
    name: String,
    work: impl Fn() -> F,
) {
    while let Some(lead) = lead(&shared, &name, &shared.stop).await {
        tokio::select! {
            () = work() => return,
            () = lead.lost() => {}
        }
    }
}
