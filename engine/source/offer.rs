//! Offers a batch to the engine until it is durable or the source must stop. For sources that can wait; a webhook asks its sender to.

use crate::component::{Batch, Intake, Verdict};
use crate::failure::{Class, Failure};

/// The first wait after a refusal, in milliseconds; it doubles.
const FIRST_MS: u64 = 50;
/// The longest wait.
const MOST_MS: u64 = 5_000;

/// What became of an offer.
#[derive(Debug)]
pub(super) enum Offered {
    /// All of it is durable.
    Durable,
    /// The source must stop; nothing of it is durable.
    Stopped,
    /// The cursor is not where the source thinks, so the source must read it again; nothing of it is durable.
    Moved,
}

/// Offers a batch until it is durable. Fails where waiting cannot help: the source has failed then, is started again, and people are told.
pub(super) async fn offer(cx: &Intake, batch: Batch) -> Result<Offered, Failure> {
    match offer_for(cx, batch).await {
        Ok(Some(_)) => Ok(Offered::Durable),
        Ok(None) => Ok(Offered::Stopped),
        Err(failure) if failure.class == Class::Conflict => Ok(Offered::Moved),
        Err(failure) => Err(failure),
    }
}

/// Does the same, and gives the verdicts; `None` if the source must stop. A cursor that is elsewhere is the failure `conflict`.
pub(super) async fn offer_for(cx: &Intake, batch: Batch) -> Result<Option<Vec<Verdict>>, Failure> {
    let mut wait_ms = FIRST_MS;
    loop {
        if cx.stop.is_cancelled() {
            return Ok(None);
        }
        let failure = match cx.accept.accept(batch.clone()).await {
            Ok(verdicts) => return Ok(Some(verdicts)),
            Err(failure) if !may_pass(failure.class) => return Err(failure),
            Err(failure) => failure,
        };
        let pause = failure
            .retry_after_ms
            .unwrap_or(wait_ms)
            .max(wait_ms)
            .min(MOST_MS);
        tracing::debug!(flow = %cx.flow, %failure, pause, "the engine takes nothing at the moment");
        if !pause_or_stop(cx, pause).await {
            return Ok(None);
        }
        wait_ms = (wait_ms * 2).min(MOST_MS);
    }
}

/// Whether waiting may help.
fn may_pass(class: Class) -> bool {
    !matches!(
        class,
        Class::Conflict | Class::TooLarge | Class::Internal | Class::Config
    )
}

/// Waits; false if the source must stop.
pub(super) async fn pause_or_stop(cx: &Intake, ms: u64) -> bool {
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => false,
        () = cx.world.clock.sleep(std::time::Duration::from_millis(ms)) => true,
    }
}

/// Waits until the engine has room; false if the source must stop.
pub(super) async fn room_or_stop(cx: &Intake) -> bool {
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => false,
        () = cx.accept.room() => true,
    }
}
