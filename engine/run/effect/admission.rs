//! Effects and the systems that they act on: while a system takes no calls, nothing is taken, and what was taken goes back without an attempt.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{EffectStage, STORE_PAUSE_MOST_MS};
use crate::component::{Attempt, Request};
use crate::failure::Failure;
use crate::handoff::Hop;
use crate::run::stage::panicked;
use crate::store::commit::{Commit, EffectState};

impl EffectStage {
    /// Waits until the system takes calls. Gives how many hops may be taken: one, while the system is being tried.
    pub(super) async fn admitted(&self) -> usize {
        match self.effect.admission() {
            Some(admission) => admission.opened().await,
            None => usize::MAX,
        }
    }

    /// What was taken, if the system takes calls still; else it is given back.
    pub(super) fn still_admitted(&self, hops: Vec<Hop>) -> Option<Vec<Hop>> {
        if self
            .effect
            .admission()
            .is_none_or(|admission| admission.is_open())
        {
            return Some(hops);
        }
        for hop in hops.into_iter().rev() {
            self.shared.handoff.give_back(hop);
        }
        None
    }

    /// Waits until the calls of this stage have ended: after the one that tries the system nothing is taken before its end is known.
    pub(super) async fn tried(&self, places: &Arc<Semaphore>) {
        let all = u32::try_from(self.promises.concurrency.max(1)).unwrap_or(u32::MAX);
        drop(places.acquire_many(all).await);
    }

    /// Makes the call. A part that breaks leaves an outcome that nobody knows.
    pub(super) async fn perform(&self, hop: &Hop, request: &Request) -> Attempt {
        let mut repeat = self
            .effect
            .admission()
            .filter(|_| hop.attempt > 1)
            .map(|admission| admission.repeat());
        let (effect, sent) = (self.effect.clone(), request.clone());
        let call = tokio::spawn(async move { effect.perform(&sent).await });
        let attempt = call
            .await
            .unwrap_or_else(|_| Attempt::Unknown(panicked(&hop.step)));
        let failed = match &attempt {
            Attempt::NotApplied(failure) => failure.class.retried_by_default(),
            Attempt::Unknown(_) => true,
            Attempt::Applied(_) | Attempt::Held(_) => false,
        };
        if let (Some(repeat), true) = (&mut repeat, failed) {
            repeat.failed();
        }
        attempt
    }

    /// The system took no call: what the ledger says of the effect is as before, and the hop is the next one again, without an attempt.
    pub(super) async fn held(&self, hop: Hop, request: &Request, failure: Failure, doubt: bool) {
        tracing::debug!(step = &*hop.step, %failure, "a message waits for its system");
        if !self.promises.safe {
            let state = if doubt {
                EffectState::Unknown
            } else {
                EffectState::NotApplied
            };
            let outcome = self.outcome(&hop, request, state);
            let mut pause_ms = 100;
            loop {
                let commit = Commit {
                    outcomes: vec![outcome.clone()],
                    ..Commit::default()
                };
                match self.shared.commit(commit).await {
                    Ok(_) => break,
                    Err(failure) => {
                        tracing::error!(%failure, step = &*hop.step, "what is known of an effect could not be stored; trying again");
                    }
                }
                tokio::select! {
                    () = self.shared.stop.cancelled() => return,
                    () = self.shared.world.clock.sleep(Duration::from_millis(pause_ms)) => {}
                }
                pause_ms = (pause_ms * 2).min(STORE_PAUSE_MOST_MS);
            }
        }
        self.shared.handoff.give_back(hop);
    }
}
