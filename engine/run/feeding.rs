//! Sources at work: one that fails is started again, and one that only one engine may run runs where it leads.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::{Shared, lead, notify};
use crate::component::{Intake, Source};

/// How long a source may take to stop after another engine may run it.
const LOST_WITHIN: Duration = Duration::from_secs(3);
/// After so many failures in a row people are told that a source fails.
const TOLD_AFTER: u32 = 3;
/// The first and the longest pause before a failed source is started again.
const SOURCE_PAUSE_MS: (u64, u64) = (500, 30_000);

/// Runs a source while this engine leads it.
pub(super) async fn run_alone(source: Arc<dyn Source>, intake: Intake, shared: Arc<Shared>) {
    let name = format!("source:{}", intake.flow);
    while let Some(lead) = lead::lead(&shared, &name, &intake.stop).await {
        let stop = intake.stop.child_token();
        let led = Intake {
            stop: stop.clone(),
            ..intake.clone()
        };
        let running = keep_running(source.clone(), led, shared.clone());
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => return,
            () = lead.lost() => {}
        }
        tracing::warn!(
            flow = &*intake.flow,
            "another engine may run the source; it is stopped here"
        );
        stop.cancel();
        // Whatever it still commits is conditional on where its cursor was.
        tokio::select! {
            () = running => {}
            () = shared.world.clock.sleep(LOST_WITHIN) => {}
        }
    }
}

/// Runs a source until it ends by itself or is stopped; after a failure it is started again, with growing pauses.
pub(super) async fn keep_running(source: Arc<dyn Source>, intake: Intake, shared: Arc<Shared>) {
    let mut pause_ms = SOURCE_PAUSE_MS.0;
    let mut in_a_row = 0;
    while !intake.stop.is_cancelled() {
        let began_ms = intake.world.clock.steady_ms();
        // Ended with this function, wherever that is broken off.
        let running = AbortOnDropHandle::new(tokio::spawn(source.clone().run(intake.clone())));
        let failure = match running.await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(_) => super::stage::panicked("source"),
        };
        if intake.world.clock.steady_ms() - began_ms > 60_000 {
            pause_ms = SOURCE_PAUSE_MS.0;
            in_a_row = 0;
        }
        in_a_row += 1;
        if in_a_row == TOLD_AFTER {
            notify::source_fails(&shared, &intake.flow, &failure).await;
        }
        if !shared.store.has_said(&failure) {
            tracing::error!(flow = &*intake.flow, %failure, pause_ms, "the source failed; it is started again");
        }
        tokio::select! {
            () = intake.stop.cancelled() => return,
            () = intake.world.clock.sleep(Duration::from_millis(pause_ms)) => {}
        }
        pause_ms = (pause_ms * 2).min(SOURCE_PAUSE_MS.1);
    }
}
