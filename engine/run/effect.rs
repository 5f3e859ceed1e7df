//! A stage with an outside effect: intent first, then the call, then the result. What is unknown is repeated only where the target
//! recognises it, asked for where there is a probe, and otherwise waits for a person. Never a blind resend.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::Shared;
use super::failing;
use super::guard;
use super::saga;
use super::stage::{Post, guarded};
use super::telemetry;
use super::turn::{self, Exchange, Finished};
use super::walk::{Ended, Walked, Walker};
use crate::component::{Answer, Attempt, Effect, Promises, Request};
use crate::failure::{Class, Failure};
use crate::flow::plan::Plan;
use crate::handoff::Hop;
use crate::message::Message;
use crate::store::commit::sagas::SagaResult;
use crate::store::commit::{
    Commit, EffectId, EffectState, End, Intended, Intent, Leaf, Outcome, Turn, Unannounced,
};
use crate::world::failpoint;
use crate::world::metrics::StepMeter;

mod admission;
mod alone;
mod unknown;

use unknown::Unknown;

/// What a lease lasts longer than the call may take.
const LEASE_MARGIN_MS: u64 = 10_000;
/// The longest pause between tries to store a result.
const STORE_PAUSE_MOST_MS: u64 = 5_000;

/// A stage of one flow with an outside effect.
pub(super) struct EffectStage {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<Plan>,
    pub(super) node: usize,
    pub(super) effect: Arc<dyn Effect>,
    pub(super) promises: Promises,
    pub(super) post: Post,
    pub(super) meter: StepMeter,
}

impl EffectStage {
    /// Works until it is stopped; calls under way are finished.
    pub(super) async fn run(self: Arc<Self>) {
        let step = self.plan.nodes[self.node].id.clone();
        let places = Arc::new(Semaphore::new(self.promises.concurrency.max(1)));
        let calls = TaskTracker::new();
        loop {
            let stop = &self.post.stop;
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                place = places.clone().acquire_owned() => place.expect("the places are never closed"),
            };
            let most = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                most = self.admitted() => most,
            };
            let more = places.available_permits().min(self.shared.batch_max - 1);
            let more = more.min(most - 1);
            let hops = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                hops = self.take(&step, more + 1) => hops,
            };
            let Some(hops) = self.still_admitted(hops) else {
                continue;
            };
            failpoint::hit("effect-taken");
            self.shared.tracer.takes(&hops);
            let mut permits = vec![first];
            while permits.len() < hops.len() {
                permits.push(
                    places
                        .clone()
                        .acquire_owned()
                        .await
                        .expect("the places are never closed"),
                );
            }
            self.clone().begin(hops, permits, &calls).await;
            if most == 1 {
                self.tried(&places).await;
            }
        }
        calls.close();
        calls.wait().await;
    }

    /// Renders the requests of a batch, commits their intents together, and starts the calls.
    async fn begin(
        self: Arc<Self>,
        hops: Vec<Hop>,
        permits: Vec<OwnedSemaphorePermit>,
        calls: &TaskTracker,
    ) {
        let mut announced = Vec::new();
        // Of these a saga must know, though they may be repeated without harm.
        let mut safe = Vec::new();
        let mut commit = Commit::default();
        for (hop, permit) in hops.into_iter().zip(permits) {
            match self.render(&hop) {
                Err(walked) => {
                    let this = self.clone();
                    calls.spawn(async move {
                        this.over(&hop, *walked, None, Exchange::default()).await;
                        drop(permit);
                    });
                }
                Ok(request) if !self.guards(&hop).is_empty() => {
                    self.clone().send_guarded((hop, request, permit), calls);
                }
                Ok(request) => {
                    let noted = saga::intent(&self.plan, self.node, &hop);
                    if !self.promises.safe {
                        commit.sagas.extend(noted);
                        commit.intents.push(self.intent(&hop, &request, false));
                        announced.push((hop, permit));
                    } else if let Some(noted) = noted {
                        commit.sagas.push(noted);
                        safe.push((hop, request, permit));
                    } else {
                        self.clone().send_safe((hop, request, permit), calls);
                    }
                }
            }
        }
        if announced.is_empty() && safe.is_empty() {
            return;
        }
        failpoint::hit("intent-before-commit");
        match self.shared.commit(commit).await {
            Ok(committed) => {
                failpoint::hit("intent-committed");
                for one in safe {
                    self.clone().send_safe(one, calls);
                }
                for ((hop, permit), intended) in announced.into_iter().zip(committed.intents) {
                    let this = self.clone();
                    calls.spawn(async move {
                        this.go_on(hop, intended).await;
                        drop(permit);
                    });
                }
            }
            Err(failure) => {
                if !self.shared.store.has_said(&failure) {
                    tracing::error!(%failure, step = &*self.plan.nodes[self.node].id, "the store refused intents; nothing was sent");
                }
                let safe = safe.into_iter().map(|(hop, ..)| hop);
                for hop in safe.chain(announced.into_iter().map(|(hop, _)| hop)).rev() {
                    self.shared.handoff.give_back(hop);
                }
                let clock = &self.shared.world.clock;
                clock.sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// A request that may be repeated without harm needs no intent.
    fn send_safe(
        self: Arc<Self>,
        (hop, request, permit): (Hop, Request, OwnedSemaphorePermit),
        calls: &TaskTracker,
    ) {
        calls.spawn(async move {
            self.send(hop, request, None, false).await;
            drop(permit);
        });
    }

    fn render(&self, hop: &Hop) -> Result<Request, Box<Walked>> {
        let mut rendered = None;
        let walked = guarded(&self.plan, self.node, &hop.message, |walker| {
            match walker.takes(self.node, &hop.message) {
                Ok(true) => {}
                Ok(false) if self.plan.nodes[self.node].sink => {
                    return Walked {
                        ended: vec![Ended::Filtered(self.node)],
                        ..Walked::default()
                    };
                }
                Ok(false) => {
                    return walker.walk(self.plan.nodes[self.node].next, hop.message.clone());
                }
                Err(failure) => return walker.fail(self.node, hop.message.clone(), failure),
            }
            match self
                .effect
                .prepare(&hop.message, &walker.context(self.node))
            {
                Ok(request) => {
                    rendered = Some(as_generation(request, hop.message.generation));
                    Walked::default()
                }
                Err(failure) => walker.fail(self.node, hop.message.clone(), failure),
            }
        });
        rendered.ok_or_else(|| Box::new(walked))
    }

    fn intent(&self, hop: &Hop, request: &Request, take_over: bool) -> Intent {
        let now_ms = self.shared.world.clock.now_ms();
        let lease_ms = i64::try_from(self.promises.timeout_ms.saturating_add(LEASE_MARGIN_MS))
            .unwrap_or(i64::MAX / 4);
        Intent {
            effect: effect_id(&self.plan, self.node, hop),
            hop: hop.hop,
            run: hop.run,
            flow: self.plan.flow.clone(),
            step: hop.step.clone(),
            item: hop.message.item.clone(),
            request: request.bytes.clone(),
            idempotency_key: request.idempotency_key.clone(),
            owner: self.shared.store.owner(),
            at_ms: now_ms,
            lease_until_ms: now_ms + lease_ms,
            generation: hop.message.generation,
            guards: self.guards(hop),
            take_over,
        }
    }

    async fn go_on(&self, hop: Hop, intended: Intended) {
        match intended {
            Intended::Send {
                request,
                idempotency_key,
                first_at_ms,
                ..
            } => {
                let request = Request {
                    bytes: request,
                    idempotency_key,
                };
                self.send(hop, request, Some(first_at_ms), false).await;
            }
            Intended::Done(answer) => self.done_before(hop, answer).await,
            Intended::Unknown {
                request,
                idempotency_key,
                first_at_ms,
                last_at_ms,
                absent,
                restored,
            } => {
                let request = Request {
                    bytes: request,
                    idempotency_key,
                };
                let unknown = Unknown {
                    request,
                    first_at_ms,
                    last_at_ms,
                    absent,
                    restored,
                };
                self.find_out(hop, unknown).await;
            }
            Intended::Busy(until_ms) => self.busy(hop, until_ms).await,
            Intended::Undone => {
                let why = "this effect was undone, and the target may still know its request; nothing was sent: send the message as new";
                self.conflicts(&hop, why, None).await;
            }
            Intended::Stale(newer) => {
                let walked = guard::stale(self.node, &newer);
                self.over(&hop, walked, None, Exchange::default()).await;
            }
            Intended::Differs(stored) => {
                let why = "this effect was tried before with another request; nothing was sent: compare both and decide";
                self.conflicts(&hop, why, Some(stored)).await;
            }
        }
    }

    /// The ledger and the message contradict each other: a person decides.
    async fn conflicts(&self, hop: &Hop, why: &str, stored: Option<bytes::Bytes>) {
        let exchange = Exchange {
            request: stored,
            answer: None,
        };
        self.fail(hop, Failure::new(Class::Conflict, why), None, exchange)
            .await;
    }

    /// It took effect in an earlier attempt: no second effect, the message goes on with that answer.
    async fn done_before(&self, hop: Hop, answer: bytes::Bytes) {
        let answer = Answer { bytes: answer };
        let walked = self.after(&hop, &answer);
        // For a saga in another run of the same message it is news.
        let outcome = saga::step(&self.plan, self.node)
            .map(|_| EffectState::Done(answer.bytes.clone()))
            .map(|state| self.known(&hop, state));
        let exchange = Exchange {
            request: None,
            answer: Some(answer.bytes),
        };
        self.over(&hop, walked, outcome, exchange).await;
    }

    /// With `doubt` an earlier try of the same request may have taken effect: what is said of this one says nothing about that.
    async fn send(&self, hop: Hop, request: Request, first_at_ms: Option<i64>, doubt: bool) {
        match self.perform(&hop, &request).await {
            Attempt::Held(failure) => self.held(hop, &request, failure, doubt).await,
            Attempt::Applied(answer) => {
                let walked = self.after(&hop, &answer);
                let outcome = self.outcome(&hop, &request, EffectState::Done(answer.bytes.clone()));
                let exchange = Exchange {
                    request: Some(request.bytes),
                    answer: Some(answer.bytes),
                };
                self.over(&hop, walked, Some(outcome), exchange).await;
            }
            Attempt::Instead(answer, told) => self.instead(hop, request, answer, told).await,
            Attempt::NotApplied(failure) if doubt => {
                self.refused_again(&hop, failure, request).await;
            }
            Attempt::NotApplied(failure) => {
                let outcome = self.refusal(&hop, &request, &failure);
                let exchange = Exchange {
                    answer: answer_of(&failure),
                    request: Some(request.bytes),
                };
                self.retry_or_fail(&hop, failure, outcome, exchange).await;
            }
            Attempt::Unknown(failure) => {
                let now_ms = self.shared.world.clock.now_ms();
                let unknown = Unknown {
                    request,
                    first_at_ms: first_at_ms.unwrap_or(now_ms),
                    last_at_ms: now_ms,
                    absent: 0,
                    restored: false,
                };
                self.unknown(&hop, failure, unknown).await;
            }
        }
    }

    /// What the ledger is told of a request that was not applied. Of one that is safe to repeat only a saga wants to know, and there a silent
    /// target may have applied it.
    fn refusal(&self, hop: &Hop, request: &Request, failure: &Failure) -> Option<Outcome> {
        if !self.promises.safe {
            return Some(self.outcome(hop, request, EffectState::NotApplied));
        }
        saga::step(&self.plan, self.node)?;
        let silent = matches!(failure.class, Class::Timeout | Class::Unavailable);
        let state = match silent {
            true => EffectState::Unknown,
            false => EffectState::NotApplied,
        };
        Some(self.outcome(hop, request, state))
    }

    /// What an outcome means for the saga around the step.
    fn noted(&self, hop: &Hop, outcome: Option<&Outcome>) -> Option<SagaResult> {
        let walker = Walker::new(&self.plan);
        let part = (&*self.effect, &walker.context(self.node));
        saga::result(&self.plan, self.node, hop, part, outcome?)
    }

    fn after(&self, hop: &Hop, answer: &Answer) -> Walked {
        guarded(&self.plan, self.node, &hop.message, |walker| {
            let node = &self.plan.nodes[self.node];
            let mut walked =
                match self
                    .effect
                    .finish(hop.message.clone(), answer, &walker.context(self.node))
                {
                    Ok(message) => walker.walk(node.next, message),
                    Err(failure) => return walker.fail(self.node, hop.message.clone(), failure),
                };
            walked.through.insert(0, self.node);
            if let Some(milestone) = &node.milestone {
                walked.milestones.insert(0, milestone.clone());
            }
            walked
        })
    }

    /// Somebody else is at the effect.
    async fn busy(&self, hop: Hop, until_ms: i64) {
        let wait_ms = until_ms - self.shared.world.clock.now_ms();
        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
        // Another engine has a delivery of its own. Were the hop to wait in the store, the other could not end it.
        let Some(hop) = self.shared.handoff.put_off(hop, wait) else {
            return;
        };
        let failure = Failure::new(Class::Unavailable, "another worker is at this effect");
        self.wait(&hop, until_ms, hop.attempt, failure, None).await;
    }

    async fn retry_or_fail(
        &self,
        hop: &Hop,
        failure: Failure,
        outcome: Option<Outcome>,
        exchange: Exchange,
    ) {
        let retry = &self.plan.nodes[self.node].retry;
        let retried = failure.class.retried_by_default() || failure.class == Class::Ambiguous;
        if !retried || hop.attempt >= retry.attempts {
            return self.fail(hop, failure, outcome, exchange).await;
        }
        let wait_ms =
            failing::wait_ms(retry, hop.attempt + 1, &failure, &*self.shared.world.random);
        let due_ms =
            self.shared.world.clock.now_ms() + i64::try_from(wait_ms).unwrap_or(i64::MAX / 4);
        self.wait(hop, due_ms, hop.attempt + 1, failure, outcome)
            .await;
    }

    async fn fail(
        &self,
        hop: &Hop,
        failure: Failure,
        outcome: Option<Outcome>,
        exchange: Exchange,
    ) {
        let walked = guarded(&self.plan, self.node, &hop.message, |walker| {
            walker.fail(self.node, hop.message.clone(), failure)
        });
        self.over(hop, walked, outcome, exchange).await;
    }

    async fn over(&self, hop: &Hop, walked: Walked, outcome: Option<Outcome>, exchange: Exchange) {
        let noted = self.noted(hop, outcome.as_ref());
        let mut finished = turn::over(&self.shared, &self.plan, hop, walked, outcome, &exchange);
        finished.end.saga = noted;
        self.commit(hop, finished).await;
    }

    async fn wait(
        &self,
        hop: &Hop,
        due_at_ms: i64,
        attempt: u32,
        failure: Failure,
        outcome: Option<Outcome>,
    ) {
        let noted = self.noted(hop, outcome.as_ref());
        let mut finished = turn::wait(
            &self.shared,
            &self.plan,
            hop,
            due_at_ms,
            attempt,
            failure,
            outcome,
        );
        finished.end.saga = noted;
        self.commit(hop, finished).await;
    }

    /// Stores a result. It is known only here, so it is offered again until the store takes it or the engine stops.
    async fn commit(&self, hop: &Hop, finished: Finished) {
        let mut pause_ms = 100;
        self.shared.settling(&finished.end);
        let ended = telemetry::Ended::of(&finished.end);
        hit_before_commit(&finished.end);
        loop {
            let commit = Commit {
                ends: vec![finished.end.clone()],
                ..Commit::default()
            };
            match self.shared.commit(commit).await {
                Ok(committed) => {
                    hit_committed(&finished.end);
                    let applied = committed.ends.first().copied().unwrap_or(false);
                    if applied {
                        ended.count(&self.meter);
                        self.shared.tracer.worked(hop, &ended);
                        let (meters, world) = (&self.shared.meters, &self.shared.world);
                        meters.lasted(world, &committed, std::iter::once(hop));
                    }
                    return self.shared.settled_as(applied, finished);
                }
                Err(failure) => {
                    if !self.shared.store.has_said(&failure) {
                        tracing::error!(%failure, step = &*hop.step, "a result could not be stored; trying again");
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

    fn outcome(&self, hop: &Hop, request: &Request, state: EffectState) -> Outcome {
        Outcome {
            unannounced: self.promises.safe.then(|| Unannounced {
                run: hop.run,
                flow: self.plan.flow.clone(),
                step: hop.step.clone(),
                item: hop.message.item.clone(),
                request: request.bytes.clone(),
            }),
            ..self.known(hop, state)
        }
    }

    /// What is known of an effect that has an intent.
    fn known(&self, hop: &Hop, state: EffectState) -> Outcome {
        Outcome {
            effect: effect_id(&self.plan, self.node, hop),
            state,
            at_ms: self.shared.world.clock.now_ms(),
            unannounced: None,
        }
    }
}

/// What is sent as new must not be taken for what the target knows: from the second generation on the key says which one it is.
pub(super) fn as_generation(mut request: Request, generation: u32) -> Request {
    if generation > 0 {
        request.idempotency_key = request
            .idempotency_key
            .map(|key| format!("{key}-{generation}"));
    }
    request
}

/// Points before the commit of a result, by what the result is.
fn hit_before_commit(end: &End) {
    match &end.turn {
        Turn::Wait { .. } | Turn::Rest { .. } => failpoint::hit("wait-before-commit"),
        Turn::Over { leaves, .. } if leaves.iter().any(is_exception) => {
            failpoint::hit("exception-before-commit");
        }
        Turn::Over { .. } => failpoint::hit("result-before-commit"),
    }
}

/// The same after the commit, before anybody is told.
fn hit_committed(end: &End) {
    match &end.turn {
        Turn::Wait { .. } | Turn::Rest { .. } => failpoint::hit("wait-committed"),
        Turn::Over { leaves, .. } if leaves.iter().any(is_exception) => {
            failpoint::hit("exception-committed");
        }
        Turn::Over { .. } => failpoint::hit("result-committed"),
    }
}

fn is_exception(leaf: &Leaf) -> bool {
    matches!(leaf, Leaf::Exception(_))
}

/// An effect's id: message, flow, step, generation; never the run or the revision. A message's id is derived from its root, its split items and the
/// steps that handed it over, so that a repeat of any of them gives the same id, and two different messages of one root never do.
pub(super) fn effect_id(plan: &Plan, node: usize, hop: &Hop) -> EffectId {
    effect_of(&hop.message, &plan.flow, &plan.nodes[node].id)
}

/// The id of the effect that this step has for this message.
pub(super) fn effect_of(message: &Message, flow: &str, step: &str) -> EffectId {
    let digest = Sha256::digest(format!(
        "{}\n{flow}\n{step}\n{}",
        message.id, message.generation
    ));
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    EffectId(id)
}

/// What the target said, as far as the failure keeps it: shown with the exception.
fn answer_of(failure: &Failure) -> Option<bytes::Bytes> {
    failure.detail.clone().map(bytes::Bytes::from)
}
