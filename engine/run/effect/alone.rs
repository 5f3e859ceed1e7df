//! Effects of messages whose version guards a key: one at a time for each key, and none once a newer version has been seen.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

use super::EffectStage;
use crate::component::Request;
use crate::handoff::Hop;
use crate::message::Guard;
use crate::run::turn::Exchange;
use crate::store::commit::Commit;

/// How long the stage pauses after the store could not be asked.
const STORE_PAUSE: Duration = Duration::from_millis(500);

impl EffectStage {
    /// The versions that must still be the newest when this effect is sent. Within a saga there are none: what has begun is brought to its end,
    /// forward or back.
    pub(super) fn guards(&self, hop: &Hop) -> Arc<Vec<Guard>> {
        match self.plan.saga(self.node) {
            Some(_) => Arc::default(),
            None => hop.message.guards.clone(),
        }
    }

    /// Starts an effect that a version guards.
    pub(super) fn send_guarded(
        self: Arc<Self>,
        (hop, request, permit): (Hop, Request, OwnedSemaphorePermit),
        calls: &TaskTracker,
    ) {
        calls.spawn(async move {
            self.send_alone(hop, request).await;
            drop(permit);
        });
    }

    /// Sends unless a newer version was seen: asked in the commit of the intent, or, where a repeat is safe and there is none, in the store.
    async fn send_alone(&self, hop: Hop, request: Request) {
        let lanes = &self.shared.lanes;
        let _alone = lanes.alone(&hop.step, &hop.message.guards).await;
        let refused = if self.promises.safe {
            match self.shared.stale(self.node, &hop.message).await {
                Ok(Some(stale)) => {
                    return self.over(&hop, stale, None, Exchange::default()).await;
                }
                Ok(None) => return self.send(hop, request, None, false).await,
                Err(failure) => failure,
            }
        } else {
            let commit = Commit {
                intents: vec![self.intent(&hop, &request, false)],
                ..Commit::default()
            };
            match self.shared.commit(commit).await {
                Ok(committed) => match committed.intents.into_iter().next() {
                    Some(intended) => return self.go_on(hop, intended).await,
                    None => return self.shared.handoff.give_back(hop),
                },
                Err(failure) => failure,
            }
        };
        if !self.shared.store.has_said(&refused) {
            tracing::error!(failure = %refused, step = &*hop.step, "the store could not be asked; nothing was sent");
        }
        self.shared.world.clock.sleep(STORE_PAUSE).await;
        self.shared.handoff.give_back(hop);
    }
}
