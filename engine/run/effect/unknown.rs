//! Effects whose outcome nobody knows: repeated where the target recognises a repeat, asked for where there is a probe, and otherwise left to
//! a person. Never a blind resend.

use std::time::Duration;

use super::{EffectStage, answer_of};
use crate::component::{Probed, Request};
use crate::failure::{Class, Failure};
use crate::handoff::Hop;
use crate::run::stage::panicked;
use crate::run::turn::Exchange;
use crate::store::commit::{Commit, EffectState, Intended};
use crate::world::{failpoint, mutation};

/// How many "no" answers of a probe are needed before a request is sent again.
const ABSENT_NEEDED: u32 = 2;

/// What is known about an effect whose outcome is not.
pub(super) struct Unknown {
    pub(super) request: Request,
    pub(super) first_at_ms: i64,
    pub(super) last_at_ms: i64,
    pub(super) absent: u32,
    /// Perhaps it was never sent: the store was restored, and does not know what was done after its backup.
    pub(super) restored: bool,
}

impl Unknown {
    /// How it came to be unknown.
    fn story(&self) -> &'static str {
        if self.restored {
            "the store was restored from a backup, and this may have been sent since"
        } else {
            "the request was sent and its answer never came"
        }
    }
}

impl EffectStage {
    /// The repeat of a request whose first outcome nobody knows surely took no effect: nobody knows more than before.
    pub(super) async fn refused_again(&self, hop: &Hop, failure: Failure, request: Request) {
        let outcome = self.outcome(hop, &request, EffectState::Unknown);
        let exchange = Exchange {
            answer: answer_of(&failure),
            request: Some(request.bytes),
        };
        let may_pass = failure.class.retried_by_default();
        let failure = Failure {
            class: Class::Ambiguous,
            message: format!(
                "{}; this was a repeat, and an earlier try may have taken effect",
                failure.message
            ),
            ..failure
        };
        if may_pass {
            self.retry_or_fail(hop, failure, Some(outcome), exchange)
                .await;
        } else {
            self.fail(hop, failure, Some(outcome), exchange).await;
        }
    }

    /// Right after a send whose outcome nobody knows.
    pub(super) async fn unknown(&self, hop: &Hop, failure: Failure, unknown: Unknown) {
        let outcome = self.outcome(hop, &unknown.request, EffectState::Unknown);
        let exchange = Exchange {
            answer: answer_of(&failure),
            request: Some(unknown.request.bytes.clone()),
        };
        let failure = Failure {
            class: Class::Ambiguous,
            ..failure
        };
        if self.recognised(&unknown) {
            self.retry_or_fail(hop, failure, Some(outcome), exchange)
                .await;
        } else if let Some(settle_ms) = self.promises.probe_settle_ms {
            let due_ms = unknown.last_at_ms + i64::try_from(settle_ms).unwrap_or(i64::MAX / 4);
            self.wait(hop, due_ms, hop.attempt + 1, failure, Some(outcome))
                .await;
        } else {
            self.fail(hop, failure, Some(outcome), exchange).await;
        }
    }

    /// Taken again, and the outcome of an earlier send is not known.
    pub(super) async fn find_out(&self, hop: Hop, unknown: Unknown) {
        if self.recognised(&unknown) {
            return self.take_over(hop, unknown.request, true).await;
        }
        let Some(settle_ms) = self.promises.probe_settle_ms else {
            return self.nobody_knows(&hop, unknown).await;
        };
        let settled_ms = unknown.last_at_ms + i64::try_from(settle_ms).unwrap_or(i64::MAX / 4);
        if self.shared.world.clock.now_ms() < settled_ms {
            let failure = Failure::new(
                Class::Ambiguous,
                format!("{}; the target will be asked", unknown.story()),
            );
            return self
                .wait(&hop, settled_ms, hop.attempt, failure, None)
                .await;
        }
        match self.probe(&hop, &unknown.request).await {
            Probed::Applied(answer) => {
                let walked = self.after(&hop, &answer);
                let outcome = self.outcome(
                    &hop,
                    &unknown.request,
                    EffectState::Done(answer.bytes.clone()),
                );
                let exchange = Exchange {
                    request: Some(unknown.request.bytes),
                    answer: Some(answer.bytes),
                };
                self.over(&hop, walked, Some(outcome), exchange).await;
            }
            Probed::Absent if unknown.absent + 1 < ABSENT_NEEDED => {
                let outcome = self.outcome(&hop, &unknown.request, EffectState::Absent);
                let failure = Failure::new(
                    Class::Ambiguous,
                    "the target does not have it yet; it will be asked once more",
                );
                let due_ms = self.shared.world.clock.now_ms()
                    + i64::try_from(settle_ms).unwrap_or(i64::MAX / 4);
                self.wait(&hop, due_ms, hop.attempt, failure, Some(outcome))
                    .await;
            }
            Probed::Absent if hop.attempt > self.plan.nodes[self.node].retry.attempts => {
                let failure = Failure::new(
                    Class::Ambiguous,
                    "no answer came to any attempt, and the target says that it does not have it",
                );
                let exchange = Exchange {
                    request: Some(unknown.request.bytes),
                    answer: None,
                };
                self.fail(&hop, failure, None, exchange).await;
            }
            Probed::Absent => self.take_over(hop, unknown.request, false).await,
            Probed::Held(_) => self.shared.handoff.give_back(hop),
            Probed::Failed(failure) => {
                let failure = Failure {
                    class: Class::Ambiguous,
                    message: format!("the probe failed: {}", failure.message),
                    ..failure
                };
                let exchange = Exchange {
                    request: Some(unknown.request.bytes),
                    answer: None,
                };
                self.retry_or_fail(&hop, failure, None, exchange).await;
            }
        }
    }

    /// Sent, unanswered, and nobody can be asked: a person decides.
    async fn nobody_knows(&self, hop: &Hop, unknown: Unknown) {
        let failure = Failure::new(
            Class::Ambiguous,
            format!(
                "{}; the target keeps no idempotency key and there is no probe",
                unknown.story()
            ),
        );
        let outcome = self.outcome(hop, &unknown.request, EffectState::Unknown);
        let exchange = Exchange {
            request: Some(unknown.request.bytes),
            answer: None,
        };
        self.fail(hop, failure, Some(outcome), exchange).await;
    }

    /// Asks the target; a part that breaks meanwhile is a probe that failed.
    async fn probe(&self, hop: &Hop, request: &Request) -> Probed {
        let effect = self.effect.clone();
        let (message, request) = (hop.message.clone(), request.clone());
        failpoint::hit("probe-before");
        let asked = tokio::spawn(async move { effect.probe(&message, &request).await });
        let probed = asked
            .await
            .unwrap_or_else(|_| Probed::Failed(panicked(&hop.step)));
        failpoint::hit("probe-answered");
        probed
    }

    /// Sends what was sent before: the target recognises it (`doubt`: it may have it), or does not have it.
    async fn take_over(&self, hop: Hop, request: Request, doubt: bool) {
        let commit = Commit {
            intents: vec![self.intent(&hop, &request, true)],
            ..Commit::default()
        };
        failpoint::hit("take-over-before-commit");
        let taken_over = self.shared.commit(commit).await;
        failpoint::hit("take-over-committed");
        match taken_over {
            Ok(committed) => match committed.intents.into_iter().next() {
                Some(Intended::Send {
                    request,
                    idempotency_key,
                    first_at_ms,
                    ..
                }) => {
                    self.send(
                        hop,
                        Request {
                            bytes: request,
                            idempotency_key,
                        },
                        Some(first_at_ms),
                        doubt,
                    )
                    .await;
                }
                Some(Intended::Done(answer)) => self.done_before(hop, answer).await,
                _ => self.shared.handoff.give_back(hop),
            },
            Err(failure) => {
                if !self.shared.store.has_said(&failure) {
                    tracing::error!(%failure, "the store refused an intent; nothing was sent");
                }
                self.shared
                    .world
                    .clock
                    .sleep(Duration::from_millis(500))
                    .await;
                self.shared.handoff.give_back(hop);
            }
        }
    }

    fn recognised(&self, unknown: &Unknown) -> bool {
        if mutation::is("blind-resend") {
            return true;
        }
        let Some(kept_ms) = self.promises.kept_ms else {
            return false;
        };
        let age_ms = self.shared.world.clock.now_ms() - unknown.first_at_ms;
        unknown.request.idempotency_key.is_some() && u64::try_from(age_ms).unwrap_or(0) < kept_ms
    }
}
