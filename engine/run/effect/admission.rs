//! Effects and the systems that they act on: while a system takes no calls, nothing is taken, and what was taken goes back without an attempt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::{EffectStage, STORE_PAUSE_MOST_MS};
use crate::component::{Answer, Attempt, Request};
use crate::failure::Failure;
use crate::handoff::Hop;
use crate::net::trace;
use crate::run::stage::panicked;
use crate::run::turn::{self, Exchange};
use crate::store::commit::{Commit, EffectState, Trail};
use crate::system::admission::Admission;
use crate::world::failpoint;

/// How long until the retry budget is looked at again after it was used up.
const BUDGET_PAUSE: Duration = Duration::from_secs(1);

/// How long a message waits for a system that does not say for how long.
const WAIT_MS: u64 = 1_000;

/// A stage that takes nothing for a while.
struct Shut<'a>(&'a EffectStage);

impl<'a> Shut<'a> {
    fn new(stage: &'a EffectStage) -> Shut<'a> {
        Shut::say(stage, true);
        Shut(stage)
    }

    fn say(stage: &EffectStage, shut: bool) {
        let step = &stage.plan.nodes[stage.node].id;
        stage.shared.handoff.shut(stage.post.at(step), shut);
    }
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        Shut::say(self.0, false);
    }
}

impl EffectStage {
    /// Waits until the system takes calls. Gives how many hops may be taken: one, while the system is being tried.
    pub(super) async fn admitted(&self) -> usize {
        let admission = self.effect.admission();
        let waits = |admission: &&Arc<Admission>| !self.goes_on_without(admission);
        let Some(admission) = admission.filter(waits) else {
            return usize::MAX;
        };
        if admission.is_open() {
            return admission.opened().await;
        }
        // What waits here meanwhile takes no place from other flows.
        let shut = Shut::new(self);
        let most = admission.opened().await;
        drop(shut);
        most
    }

    /// Whether messages go on with something else while the system takes no calls. Not where a person has stopped it.
    fn goes_on_without(&self, admission: &Admission) -> bool {
        self.effect.falls_back() && !admission.is_paused()
    }

    /// Takes hops: no more repeats among them than the system's retry budget allows. Repeats that it does not allow wait where they are.
    pub(super) async fn take(&self, step: &str, most: usize) -> Vec<Hop> {
        let handoff = &self.shared.handoff;
        let Some(admission) = self.effect.admission() else {
            return handoff.take(self.post.at(step), most).await;
        };
        loop {
            let repeats = admission.repeats_free();
            tokio::select! {
                biased;
                hops = handoff.take_with(self.post.at(step), most, repeats) => return hops,
                () = self.shared.world.clock.sleep(BUDGET_PAUSE), if repeats == 0 => {}
            }
        }
    }

    /// What was taken, if the system takes calls still; else it is given back.
    pub(super) fn still_admitted(&self, hops: Vec<Hop>) -> Option<Vec<Hop>> {
        let admission = self.effect.admission();
        if admission.is_none_or(|admission| self.goes_on_without(admission) || admission.is_open())
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
        if !self.promises.safe {
            failpoint::hit("effect-before-send");
        }
        let began = Instant::now();
        let system = self.effect.admission().map(|admission| &**admission.name());
        let tracer = &self.shared.tracer;
        let (place, span) = tracer.calls(hop, system, request);
        let call = tokio::spawn(trace::within(
            place,
            async move { effect.perform(&sent).await },
        ));
        let attempt = call
            .await
            .unwrap_or_else(|_| Attempt::Unknown(panicked(&hop.step)));
        match attempt {
            Attempt::Held(_) => self.shared.tracer.gives_back(hop.hop),
            _ => self.meter.took(began.elapsed()),
        }
        tracer.called(span, &attempt);
        if !self.promises.safe {
            failpoint::hit("effect-sent");
        }
        let failed = match &attempt {
            Attempt::NotApplied(failure) => failure.class.retried_by_default(),
            Attempt::Unknown(_) => true,
            Attempt::Applied(_) | Attempt::Instead(..) | Attempt::Held(_) => false,
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
                        if !self.shared.store.has_said(&failure) {
                            tracing::error!(%failure, step = &*hop.step, "what is known of an effect could not be stored; trying again");
                        }
                    }
                }
                tokio::select! {
                    () = self.shared.stop.cancelled() => return,
                    () = self.shared.world.clock.sleep(Duration::from_millis(pause_ms)) => {}
                }
                pause_ms = (pause_ms * 2).min(STORE_PAUSE_MOST_MS);
            }
        }
        if self.effect.falls_back() {
            // Others may have something to go on with: this one does not stand before them.
            let wait_ms = failure.retry_after_ms.unwrap_or(WAIT_MS);
            let due_ms =
                self.shared.world.clock.now_ms() + i64::try_from(wait_ms).unwrap_or(i64::MAX / 4);
            return self.wait(&hop, due_ms, hop.attempt, failure, None).await;
        }
        self.shared.handoff.give_back(hop);
    }

    /// The system cannot be asked, and this stands in for its answer: the message goes on, and its timeline says so.
    pub(super) async fn instead(&self, hop: Hop, request: Request, answer: Answer, told: String) {
        let walked = self.after(&hop, &answer);
        let outcome = self.outcome(&hop, &request, EffectState::Done(answer.bytes.clone()));
        let exchange = Exchange {
            request: Some(request.bytes),
            answer: Some(answer.bytes),
        };
        let noted = self.noted(&hop, Some(&outcome));
        let (shared, plan) = (&self.shared, &self.plan);
        let mut finished = turn::over(shared, plan, &hop, walked, Some(outcome), &exchange);
        finished.end.saga = noted;
        finished.end.trail.insert(
            0,
            Trail {
                at_ms: shared.world.clock.now_ms(),
                step: hop.step.clone(),
                what: "fallback",
                detail: Some(told),
                hash: None,
            },
        );
        self.commit(&hop, finished).await;
    }
}
