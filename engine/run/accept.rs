//! The way in: arrivals become durable runs, duplicates or exceptions in one commit. Used by sources and by the doors between flows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::Shared;
use super::admission;
use super::canary::Candidate;
use super::failing;
use super::intake;
use super::stage::panicked;
use super::telemetry;
use super::telemetry::traces::Begun;
use crate::body::Body;
use crate::component::api::Calls;
use crate::component::{Accept, Arrival, Batch, Verdict};
use crate::failure::{Class, Failure};
use crate::flow::plan::Plan;
use crate::handoff::Hop;
use crate::handoff::embedded::Share;
use crate::message::{Message, MessageId, Names};
use crate::source::Ready;
use crate::store::commit::{
    Accepted, Changed, Claim, Commit, DOOR, FENCE_FIRST, First, HopId, NewHop, NewRun, RunId,
};
use crate::store::envelope::Envelope;
use crate::world::metrics::FlowMeter;
use crate::world::{Pending, failpoint, mutation};

/// How long the id of a sender's delivery is remembered after its run has ended: 7 days.
const DELIVERY_KEEP_MS: i64 = 7 * 86_400_000;
/// How long before its commit an acknowledgement comes, where a test makes that mistake.
const EARLY: std::time::Duration = std::time::Duration::from_millis(50);
/// How many lines about who has called wait for a commit; beyond that they are lost.
const CALLED_MAX: usize = 10_000;
/// What a full engine asks its senders to wait.
const FULL_RETRY_AFTER_MS: u64 = 1_000;

/// The way into one flow.
pub(super) struct Gate {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<Plan>,
    /// How many messages the flow may have in flight.
    share: Share,
    /// The other side, if a canary takes a share.
    candidate: Option<(Candidate, Arc<Gate>)>,
    /// Deliveries that the source turned away since the last commit: they go into the books with the next.
    turned_away: AtomicU64,
    pub(super) meter: FlowMeter,
    /// Who has called, where the flow is an API: noted with the next commit.
    called: Mutex<Vec<Calls>>,
    /// Of a webhook: its method and path.
    binding: Option<String>,
}

/// What an arrival has become before the commit.
pub(super) enum Prepared {
    /// To be committed; the message for its first hop, unless it is an exception.
    Run(Box<NewRun>, Option<Message>),
    /// Turned away.
    Refused(Failure),
}

impl Accept for Gate {
    fn turned_away(&self, count: u64) {
        self.turned_away.fetch_add(count, Ordering::Relaxed);
    }

    fn called(&self, calls: Vec<Calls>) {
        let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        let room = CALLED_MAX.saturating_sub(called.len());
        called.extend(calls.into_iter().take(room));
    }

    fn accept(&self, batch: Batch) -> Pending<'_, Result<Vec<Verdict>, Failure>> {
        Box::pin(self.take_in(batch))
    }

    fn room(&self) -> Pending<'_, ()> {
        Box::pin(async {
            self.shared.space.enough().await;
            self.shared
                .handoff
                .room_for(&self.plan.flow, &self.share)
                .await;
        })
    }

    fn cursor<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>, Failure>> {
        Box::pin(self.shared.store.cursor(&self.plan.flow, name))
    }

    fn cursors<'a>(
        &'a self,
        prefix: &'a str,
    ) -> Pending<'a, Result<Vec<(String, String)>, Failure>> {
        Box::pin(self.shared.store.cursors(&self.plan.flow, prefix))
    }
}

impl Gate {
    /// The way into this flow.
    pub(super) fn of(shared: &Arc<Shared>, plan: &Arc<Plan>) -> Gate {
        Gate {
            shared: shared.clone(),
            plan: plan.clone(),
            share: shared.live.now().limits.share(plan),
            candidate: None,
            turned_away: AtomicU64::new(0),
            meter: shared.world.metrics.flow(&plan.flow),
            called: Mutex::default(),
            binding: match &plan.source {
                Ready::Runs(source) => source.binding(),
                Ready::Flow => None,
            },
        }
    }

    /// The same, with a canary beside it.
    pub(super) fn beside(self, candidate: Option<Candidate>) -> Gate {
        let candidate = candidate.map(|candidate| {
            let other = Gate::of(&self.shared, &candidate.plan);
            (candidate, Arc::new(other))
        });
        Gate { candidate, ..self }
    }

    /// The side on which a message comes in: the flow's own, or the canary's.
    pub(super) fn side(&self, message: &Message) -> &Gate {
        match &self.candidate {
            Some((candidate, other)) if candidate.takes(&self.plan, message) => other,
            _ => self,
        }
    }

    /// As `side`; what is broken comes in as it always does.
    fn side_of(&self, arrival: &Arrival) -> &Gate {
        if self.candidate.is_none() || arrival.breach.is_some() {
            return self;
        }
        let mut message = Message::new(MessageId::default(), 0, Body::new(arrival.body.clone()));
        message.headers = Arc::new(names(arrival.headers.clone()));
        self.side(&message)
    }

    /// The deliveries that were turned away and are in no book yet are told by another gate.
    pub(super) fn hand_over(&self, to: &Gate) {
        to.turned_away(self.turned_away.swap(0, Ordering::Relaxed));
        to.called(self.take_called());
    }

    fn take_called(&self) -> Vec<Calls> {
        let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *called)
    }

    /// Whether there is room, and the engine goes on. Progress alone needs no room.
    fn may_take(&self, nothing_new: bool) -> Result<(), Failure> {
        if self.shared.stop.is_cancelled() {
            return Err(Failure::new(Class::Unavailable, "the engine is stopping")
                .with_retry_after_ms(FULL_RETRY_AFTER_MS));
        }
        if nothing_new {
            return Ok(());
        }
        self.shared.space.check()?;
        match self.shared.handoff.full(&self.plan.flow, &self.share) {
            Some(full) => Err(Failure::new(Class::Throttled, intake::told(full))
                .with_retry_after_ms(FULL_RETRY_AFTER_MS)),
            None => Ok(()),
        }
    }

    async fn take_in(&self, batch: Batch) -> Result<Vec<Verdict>, Failure> {
        self.may_take(batch.arrivals.is_empty())?;
        let now_ms = self.shared.world.clock.now_ms();
        let mut commit = Commit::default();
        let mut refused = Vec::new();
        let mut firsts = Vec::with_capacity(batch.arrivals.len());
        let mut spans = Vec::with_capacity(batch.arrivals.len());
        for arrival in batch.arrivals {
            let chosen = arrival.breach.is_none();
            let side = self.side_of(&arrival);
            let (prepared, span) = side.prepare(arrival, now_ms);
            spans.push(span);
            match prepared {
                Prepared::Run(run, message) => {
                    refused.push(None);
                    let first = first_hop(&run).zip(message);
                    firsts.push(first.map(|(hop, message)| side.first(hop, run.run, message)));
                    commit.accepts.push(*run);
                }
                Prepared::Refused(failure) => {
                    if let (Some((candidate, _)), true) = (&self.candidate, chosen) {
                        candidate.refused(!std::ptr::eq(side, self));
                    }
                    refused.push(Some(failure));
                }
            }
        }
        let calls = self.take_called();
        commit.calls.clone_from(&calls);
        let forged = self.turned_away.swap(0, Ordering::Relaxed);
        let turned_away = refused.iter().flatten().count() as u64 + forged;
        commit.refused = (turned_away > 0).then(|| (self.plan.flow.clone(), turned_away));
        commit.progress = batch
            .progress
            .map(|progress| (self.plan.flow.clone(), progress));
        // On its own: a source that goes away in the middle must not leave behind what is durable and never announced.
        if mutation::is("early-ack") {
            let shared = self.shared.clone();
            // The task's end is nobody's business: that is the mistake.
            drop(tokio::spawn(async move {
                shared.world.clock.sleep(EARLY).await;
                make_durable(shared, commit, firsts).await
            }));
            let told = |refusal| match refusal {
                Some(failure) => Verdict::Refused(failure),
                None => Verdict::Accepted,
            };
            return Ok(refused.into_iter().map(told).collect());
        }
        let broken = commit.accepts.iter().map(|run| first_hop(run).is_none());
        let broken: Vec<bool> = broken.collect();
        let made_durable = tokio::spawn(make_durable(self.shared.clone(), commit, firsts));
        let accepted = made_durable
            .await
            .unwrap_or_else(|_| Err(panicked(&self.plan.nodes[0].id)))
            .inspect_err(|_| {
                self.turned_away(forged);
                self.called(calls);
            });
        self.traced(spans, &refused, &accepted);
        let accepted = accepted?;
        self.count(turned_away, &accepted, &broken);
        verdicts(refused, accepted)
    }

    /// The spans of what has come in have ended.
    fn traced(
        &self,
        spans: Vec<Option<Begun>>,
        refused: &[Option<Failure>],
        accepted: &Result<Vec<Accepted>, Failure>,
    ) {
        let failed = accepted.as_ref().err();
        for (span, refusal) in spans.into_iter().zip(refused) {
            let failure = refusal.as_ref().or(failed);
            let class = failure.map(|failure| failure.class);
            self.shared.tracer.ends(span, class);
        }
    }

    /// What has come in is durable: it counts.
    fn count(&self, turned_away: u64, accepted: &[Accepted], broken: &[bool]) {
        self.meter.received.inc_by(turned_away);
        self.meter.refused.inc_by(turned_away);
        telemetry::accepted(&self.meter, accepted, broken);
    }

    /// The first hop of a run, as the hand-off takes it.
    pub(super) fn first(&self, hop: HopId, run: RunId, message: Message) -> Hop {
        Hop {
            hop,
            fence: FENCE_FIRST,
            run,
            flow: self.plan.flow.clone(),
            step: self.plan.nodes[0].id.clone(),
            attempt: 1,
            revision: self.plan.revision.clone(),
            moved: false,
            runs_body: true,
            message,
        }
    }

    fn prepare(&self, arrival: Arrival, now_ms: i64) -> (Prepared, Option<Begun>) {
        let id = arrival
            .id
            .unwrap_or_else(|| self.message_id(arrival.identity.as_deref(), now_ms));
        let mut message = Message::new(id, now_ms, Body::new(arrival.body));
        if !arrival.headers.is_empty() {
            message.headers = Arc::new(names(arrival.headers));
        }
        let (known_by, changed) = match arrival.strict {
            true => (hash(message.body.bytes()), Changed::Refuse),
            false => ([0; 16], Changed::Ignore),
        };
        let delivery = arrival.delivery.or(arrival.identity).map(|key| Claim {
            scope: format!("delivery:{}", self.plan.flow),
            key,
            hash: known_by,
            keep_ms: DELIVERY_KEEP_MS,
            changed,
        });
        let binding = self.binding.as_deref();
        let tracer = &self.shared.tracer;
        let span = tracer.accepts(&mut message, &self.plan.flow, binding);
        let prepared = match arrival.breach {
            Some(failure) => Prepared::Run(Box::new(self.broken(message, delivery, failure)), None),
            None => self.admit(message, delivery, true),
        };
        (prepared, span)
    }

    /// Checks the contract, finds the keys and makes a run of the message. A message that brings a part down is kept as an exception.
    pub(super) fn admit(
        &self,
        message: Message,
        delivery: Option<Claim>,
        may_refuse: bool,
    ) -> Prepared {
        let spare = (message.clone(), delivery.clone());
        let admitted = catch_unwind(AssertUnwindSafe(|| {
            self.check_in(message, delivery, may_refuse)
        }));
        admitted.unwrap_or_else(|_| {
            let (message, delivery) = spare;
            Prepared::Run(
                Box::new(self.broken(message, delivery, panicked(DOOR))),
                None,
            )
        })
    }

    fn check_in(
        &self,
        mut message: Message,
        delivery: Option<Claim>,
        may_refuse: bool,
    ) -> Prepared {
        if let Err(failure) = self.check_contract(&message) {
            let refuse = may_refuse
                && self
                    .plan
                    .accepts
                    .as_ref()
                    .is_some_and(|accepts| accepts.refuse);
            return if refuse {
                Prepared::Refused(failure)
            } else {
                self.find_keys(&mut message).ok();
                Prepared::Run(Box::new(self.broken(message, delivery, failure)), None)
            };
        }
        if let Err(failure) = self.find_keys(&mut message) {
            return Prepared::Run(Box::new(self.broken(message, delivery, failure)), None);
        }
        let version = match admission::version(&self.plan, &mut message) {
            Ok(version) => version,
            Err(failure) => {
                return Prepared::Run(Box::new(self.broken(message, delivery, failure)), None);
            }
        };
        let mut run = self.new_run(&message, delivery);
        run.claims.extend(admission::once(&self.plan, &message));
        run.version = version;
        Prepared::Run(Box::new(run), Some(message))
    }

    fn check_contract(&self, message: &Message) -> Result<(), Failure> {
        admission::check_contract(&self.plan, message)
    }

    fn find_keys(&self, message: &mut Message) -> Result<(), Failure> {
        admission::find_keys(&self.plan, message)
    }

    fn new_run(&self, message: &Message, delivery: Option<Claim>) -> NewRun {
        let run = self.shared.store.next_run();
        NewRun {
            run,
            message: message.id,
            root: message.root,
            flow: self.plan.flow.clone(),
            revision: self.plan.revision.clone(),
            received_at_ms: message.received_at_ms,
            body: message.body.bytes().clone(),
            envelope: Envelope::write(message),
            keys: message.keys.clone(),
            claims: delivery.into_iter().collect(),
            chains: admission::chains(&self.plan, message),
            version: None,
            first: First::Hop(NewHop {
                hop: self.shared.store.next_hop(),
                run,
                flow: self.plan.flow.clone(),
                step: self.plan.nodes[0].id.clone(),
                message: message.id,
                body: None,
                envelope: None,
            }),
        }
    }

    fn broken(&self, message: Message, delivery: Option<Claim>, failure: Failure) -> NewRun {
        let mut run = self.new_run(&message, delivery);
        let step: Arc<str> = Arc::from(DOOR);
        run.first = First::Exception(failing::exception(
            &self.plan.flow,
            &step,
            &message,
            true,
            &failure,
            1,
        ));
        run
    }

    fn message_id(&self, identity: Option<&str>, now_ms: i64) -> MessageId {
        let entropy = match identity {
            Some(identity) => {
                let digest = Sha256::digest(format!("{}\n{identity}", self.plan.flow));
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest[..16]);
                return MessageId::from_bytes(bytes);
            }
            None => {
                (u128::from(self.shared.world.random.next()) << 64)
                    | u128::from(self.shared.world.random.next())
            }
        };
        MessageId::from_parts(u64::try_from(now_ms).unwrap_or(0), entropy)
    }
}

fn names(headers: Vec<(String, String)>) -> Names {
    let headers = headers.into_iter();
    headers
        .map(|(name, value)| (Arc::from(name), value))
        .collect()
}

/// Commits what has arrived and announces the first hops of what is new.
async fn make_durable(
    shared: Arc<Shared>,
    commit: Commit,
    firsts: Vec<Option<Hop>>,
) -> Result<Vec<Accepted>, Failure> {
    let chained = commit.accepts.iter().filter(|run| !run.chains.is_empty());
    let chained: Vec<HopId> = chained.filter_map(first_hop).collect();
    chained.iter().for_each(|hop| shared.handoff.holds(*hop));
    failpoint::hit("accept-before-commit");
    let committed = shared.commit(commit).await;
    failpoint::hit("accept-committed");
    let accepted = match committed {
        Ok(committed) => committed.accepts,
        Err(failure) => {
            chained.iter().for_each(|hop| shared.handoff.ended(*hop));
            return Err(failure);
        }
    };
    for (accepted, first) in accepted.iter().zip(firsts) {
        if let Some(first) = first {
            shared.begins(accepted, first);
        }
    }
    failpoint::hit("accept-announced");
    Ok(accepted)
}

/// What each arrival's sender is told. The store gives one verdict a run: without one nothing may be acknowledged.
fn verdicts(
    refused: Vec<Option<Failure>>,
    accepted: Vec<Accepted>,
) -> Result<Vec<Verdict>, Failure> {
    let mut accepted = accepted.into_iter();
    let verdicts = refused.into_iter().map(|refusal| match refusal {
        Some(failure) => Ok(Verdict::Refused(failure)),
        None => match accepted.next() {
            Some(Accepted::New | Accepted::Held(_) | Accepted::Changed(_)) => Ok(Verdict::Accepted),
            Some(Accepted::Duplicate(_)) => Ok(Verdict::Duplicate),
            Some(Accepted::Refused(_)) => Ok(Verdict::Refused(Failure::new(
                Class::Duplicate,
                "this id of a delivery came before with another body; give each its own",
            ))),
            None => Err(Failure::internal(
                "the store gave no verdict on a message; it is not acknowledged",
            )),
        },
    });
    verdicts.collect()
}

/// The hop with which a run begins, if it does not begin as an exception.
pub(super) fn first_hop(run: &NewRun) -> Option<HopId> {
    match &run.first {
        First::Hop(hop) => Some(hop.hop),
        First::Exception(_) => None,
    }
}

/// 16 bytes that tell one body from another.
pub(super) fn hash(bytes: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(bytes);
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_nothing_about_is_not_acknowledged() {
        let refusal = Failure::validation("broken");
        let told = verdicts(vec![Some(refusal.clone()), None], vec![Accepted::New]);
        assert_eq!(told, Ok(vec![Verdict::Refused(refusal), Verdict::Accepted]));
        assert!(verdicts(vec![None, None], vec![Accepted::New]).is_err());
    }
}
