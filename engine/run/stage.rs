//! A stage without outside effect: takes a batch of hops, walks each message, commits once. Two lanes a stage, so that one works while
//! the other commits.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::accept::{Gate, Prepared, first_hop};
use super::replay;
use super::telemetry;
use super::turn::{self, Exchange, Finished};
use super::walk::{Ended, Walked, Walker};
use crate::failure::{Class, Failure};
use crate::flow::plan::{Action, Plan};
use crate::handoff::{Hop, Station};
use crate::message::Message;
use crate::sink::Stream;
use crate::store::commit::{Commit, Committed, End, HopId, Leaf, Turn};
use crate::world::metrics::{FlowMeter, StepMeter};
use crate::world::{failpoint, process};

/// How long a stage pauses after the store has refused a commit.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How many bytes of what stands at a door are read at once.
const DOOR_BYTES_MAX: usize = 8 << 20;

/// Where the stages of a unit take, and until when.
#[derive(Clone)]
pub(super) struct Post {
    /// The flow.
    pub(super) flow: Arc<str>,
    /// Under which revision the hops stand there.
    pub(super) revision: Arc<str>,
    /// Cancelled when nothing is taken any more.
    pub(super) stop: CancellationToken,
}

impl Post {
    /// Where the hops stand that wait for a step.
    pub(super) fn at<'a>(&'a self, step: &'a str) -> Station<'a> {
        Station::of(&self.flow, &self.revision, step)
    }
}

/// A stage of one flow.
pub(super) struct Stage {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<Plan>,
    /// The node at which hops of this stage stand.
    pub(super) node: usize,
    pub(super) post: Post,
    /// Made with the first hop: most pure steps never see one of their own.
    pub(super) meter: OnceLock<StepMeter>,
}

impl Stage {
    fn meter(&self) -> &StepMeter {
        let step = &self.plan.nodes[self.node].id;
        let metrics = &self.shared.world.metrics;
        self.meter
            .get_or_init(|| metrics.step(&self.plan.flow, step))
    }

    /// Works until it is stopped; what it has taken it finishes.
    pub(super) async fn run(self: Arc<Self>) {
        let step = self.plan.nodes[self.node].id.clone();
        loop {
            let hops = tokio::select! {
                biased;
                () = self.post.stop.cancelled() => return,
                hops = self.shared.handoff.take(self.post.at(&step), self.shared.batch_max) => hops,
            };
            failpoint::hit("stage-taken");
            self.shared.tracer.takes(&hops);
            let began = Instant::now();
            let finished = match &self.plan.nodes[self.node].action {
                Action::Stream(stream) => self.write(stream, &hops).await,
                Action::Claim(claim) => match self.claim(&**claim, &hops).await {
                    Ok(finished) => finished,
                    Err(failure) => {
                        if !self.shared.store.has_said(&failure) {
                            tracing::error!(%failure, step = &*step, "the store refused claims; the messages wait");
                        }
                        for hop in hops.into_iter().rev() {
                            self.shared.handoff.give_back(hop);
                        }
                        self.shared.world.clock.sleep(STORE_PAUSE).await;
                        continue;
                    }
                },
                _ => hops.iter().map(|hop| self.one(hop)).collect(),
            };
            let each = began.elapsed() / u32::try_from(hops.len().max(1)).unwrap_or(u32::MAX);
            for _ in &hops {
                self.meter().took(each);
            }
            commit_batch(&self.shared, hops, finished, By::Stage(self.meter())).await;
        }
    }

    fn one(&self, hop: &Hop) -> Finished {
        let walked = guarded(&self.plan, self.node, &hop.message, |walker| {
            walker.walk(Some(self.node), hop.message.clone())
        });
        turn::over(
            &self.shared,
            &self.plan,
            hop,
            walked,
            None,
            &Exchange::default(),
        )
    }

    async fn write(&self, stream: &Arc<dyn Stream>, hops: &[Hop]) -> Vec<Finished> {
        let walker = Walker::new(&self.plan);
        let mut taken = Vec::with_capacity(hops.len());
        let mut before = Vec::with_capacity(hops.len());
        for hop in hops {
            taken.push(walker.takes(self.node, &hop.message));
            before.push(replay::written_before(&self.shared, hop).await);
        }
        let messages: Vec<Message> = hops
            .iter()
            .zip(taken.iter().zip(&before))
            .filter(|(_, both)| matches!(both, (Ok(true), Ok(false))))
            .map(|(hop, _)| hop.message.clone())
            .collect();
        let mut written = put(stream, messages).await.into_iter();
        let finish = |(hop, (takes, before)): (&Hop, (Result<bool, Failure>, _))| {
            let written = match (takes, before) {
                (Ok(true), Ok(false)) => written.next().unwrap_or(Ok(true)),
                (Ok(true), before) => before,
                (other, _) => other,
            };
            let walked = match written {
                Ok(true) => Walked {
                    through: vec![self.node],
                    ..walker.walk(None, hop.message.clone())
                },
                Ok(false) => Walked {
                    ended: vec![Ended::Filtered(self.node)],
                    ..Walked::default()
                },
                Err(failure) => walker.fail(self.node, hop.message.clone(), failure),
            };
            turn::over(
                &self.shared,
                &self.plan,
                hop,
                walked,
                None,
                &Exchange::default(),
            )
        };
        hops.iter()
            .zip(taken.into_iter().zip(before))
            .map(finish)
            .collect()
    }
}

/// The door of a flow: messages that other flows have handed over become runs of this one.
pub(super) struct Door {
    pub(super) gate: Arc<Gate>,
    /// Cancelled when nothing is let in any more.
    pub(super) stop: CancellationToken,
}

impl Door {
    /// Works until it is stopped; what it has taken it finishes.
    pub(super) async fn run(self: Arc<Self>) {
        let shared = &self.gate.shared;
        loop {
            let hops = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                hops = shared.handoff.take(Station::door(&self.gate.plan.flow), shared.batch_max) => hops,
            };
            failpoint::hit("door-taken");
            let Some(hops) = self.in_order(hops).await else {
                continue;
            };
            let finished = hops.iter().map(|hop| self.one(hop)).collect();
            commit_batch(shared, hops, finished, By::Door(&self.gate.meter)).await;
        }
    }

    /// What is to be let in now. Several engines stand at the same door, and a broker keeps no order between them: there what was taken only
    /// says that something is at the door, and what stands first in the store goes first, whoever has it. `None` if nothing is to be done.
    async fn in_order(&self, taken: Vec<Hop>) -> Option<Vec<Hop>> {
        let shared = &self.gate.shared;
        if !shared.handoff.is_shared() {
            return Some(taken);
        }
        let most = shared.batch_max;
        let first = shared
            .store
            .first_at_door(&self.gate.plan.flow, most, DOOR_BYTES_MAX);
        let first = match first.await {
            Ok(first) => first,
            Err(failure) => {
                if !shared.store.has_said(&failure) {
                    tracing::error!(%failure, flow = &*self.gate.plan.flow, "the store could not say what stands at the door; it waits");
                }
                taken
                    .into_iter()
                    .rev()
                    .for_each(|hop| shared.handoff.give_back(hop));
                shared.world.clock.sleep(STORE_PAUSE).await;
                return None;
            }
        };
        let standing = first.iter().map(|hop| (hop.hop, hop.fence));
        let standing: BTreeSet<(HopId, i64)> = standing.collect();
        let elsewhere = taken
            .iter()
            .filter(|hop| !standing.contains(&(hop.hop, hop.fence)));
        let asked: Vec<_> = elsewhere.clone().map(|hop| (hop.hop, hop.fence)).collect();
        // Those behind them are looked at again after them; where the store cannot say, their end will.
        let there = shared.store.hops_there(asked).await.unwrap_or_default();
        for (nth, hop) in elsewhere.enumerate() {
            match there.get(nth) {
                Some(false) => shared.handoff.ended(hop.hop),
                Some(true) | None => shared.handoff.give_back(hop.clone()),
            }
        }
        let mut hops = Vec::with_capacity(first.len());
        for stored in first {
            match Hop::from_store(stored) {
                Ok(hop) => hops.push(hop),
                Err(failure) => tracing::error!(%failure, "a stored message cannot be read"),
            }
        }
        (!hops.is_empty()).then_some(hops)
    }

    fn one(&self, hop: &Hop) -> Finished {
        let plan = &self.gate.plan;
        let mut message = hop.message.clone();
        message.received_at_ms = self.gate.shared.world.clock.now_ms();
        let gate = self.gate.side(&message);
        let prepared = gate.admit(message, None, false);
        let (accepts, follow) = match prepared {
            Prepared::Run(run, message) => {
                let first = message
                    .zip(first_hop(&run))
                    .map(|(message, id)| gate.first(id, run.run, message));
                (vec![*run], first.into_iter().collect())
            }
            Prepared::Refused(_) => (Vec::new(), Vec::new()),
        };
        let turn = Turn::Over {
            next: Vec::new(),
            doors: Vec::new(),
            leaves: Vec::<Leaf>::new(),
        };
        let end = End {
            hop: hop.hop,
            fence: hop.fence,
            run: hop.run,
            flow: plan.flow.clone(),
            step: hop.step.clone(),
            revision: None,
            turn,
            effect: None,
            saga: None,
            trail: Vec::new(),
            accepts,
        };
        Finished { end, follow }
    }
}

/// Writes messages together; if one of them cannot be written, each alone. Gives for each that it is written, or why not.
async fn put(stream: &Arc<dyn Stream>, messages: Vec<Message>) -> Vec<Result<bool, Failure>> {
    let all = match write_guarded(stream, messages.clone()).await {
        Err(failure) if failure.class != Class::Unavailable && messages.len() > 1 => None,
        written => Some(written),
    };
    let mut written = Vec::with_capacity(messages.len());
    for message in messages {
        written.push(match &all {
            Some(all) => all.clone(),
            None => write_guarded(stream, vec![message]).await,
        });
    }
    written
}

async fn write_guarded(stream: &Arc<dyn Stream>, messages: Vec<Message>) -> Result<bool, Failure> {
    if messages.is_empty() {
        return Ok(true);
    }
    let stream = stream.clone();
    let writing = tokio::spawn(async move { stream.write(&messages).await });
    match writing.await {
        Ok(written) => written.map(|()| true),
        Err(_) => Err(panicked("stream")),
    }
}

/// Walks under guard: a panic of a part is a failure of this message, not the end of the engine.
pub(super) fn guarded(
    plan: &Plan,
    node: usize,
    message: &Message,
    walk: impl FnOnce(&Walker<'_>) -> Walked,
) -> Walked {
    let walker = Walker::new(plan);
    catch_unwind(AssertUnwindSafe(|| walk(&walker))).unwrap_or_else(|_| {
        let failure = panicked(&plan.nodes[node].id);
        Walked {
            ended: vec![Ended::Failed(node, message.clone(), failure)],
            ..Walked::default()
        }
    })
}

pub(super) fn panicked(step: &str) -> Failure {
    process::panicked();
    Failure::internal(format!(
        "a defect of the engine at the step `{step}`; the message is kept, please report it"
    ))
}

/// Who has taken a batch, for the metrics.
enum By<'a> {
    Stage(&'a StepMeter),
    Door(&'a FlowMeter),
}

impl By<'_> {
    /// The ends of these hops were applied, or not.
    fn ended(&self, ends: &[(telemetry::Ended, bool)], committed: &Committed) {
        for (nth, (end, broken)) in ends.iter().enumerate() {
            let accepts = committed.ends_accepts.get(nth).map_or(&[][..], |all| all);
            match self {
                By::Stage(meter) if committed.ends.get(nth) == Some(&true) => end.count(meter),
                By::Stage(_) => {}
                By::Door(meter) => telemetry::accepted(meter, accepts, &[*broken]),
            }
        }
    }
}

/// One commit for a batch. If the store refuses it, the hops are given back and taken again later: pure work is done again at no cost.
async fn commit_batch(shared: &Shared, hops: Vec<Hop>, finished: Vec<Finished>, by: By<'_>) {
    let mut follow = Vec::with_capacity(finished.len());
    let mut commit = Commit::default();
    for one in finished {
        commit.ends.push(one.end);
        follow.push(one.follow);
    }
    let broken = |end: &End| end.accepts.iter().any(|run| first_hop(run).is_none());
    let ends = commit.ends.iter();
    let ends: Vec<_> = ends
        .map(|end| (telemetry::Ended::of(end), broken(end)))
        .collect();
    let accepts = commit.ends.iter().flat_map(|end| &end.accepts);
    let chained = accepts.filter(|run| !run.chains.is_empty());
    let chained: Vec<HopId> = chained.filter_map(first_hop).collect();
    chained.iter().for_each(|hop| shared.handoff.holds(*hop));
    failpoint::hit("stage-before-commit");
    match shared.commit(commit).await {
        Ok(committed) => {
            failpoint::hit("stage-committed");
            by.ended(&ends, &committed);
            for (hop, (end, _)) in hops.iter().zip(&ends) {
                shared.tracer.worked(hop, end);
            }
            let meters = &shared.meters;
            meters.lasted(&shared.world, &committed, hops.iter());
            for (nth, (hop, follow)) in hops.iter().zip(follow).enumerate() {
                let applied = committed.ends.get(nth).copied().unwrap_or(false);
                let accepts = committed.ends_accepts.get(nth).map_or(&[][..], |all| all);
                if accepts.is_empty() {
                    if !applied {
                        follow
                            .iter()
                            .for_each(|never| shared.handoff.ended(never.hop));
                    }
                    shared.settled(hop.hop, applied, follow);
                    continue;
                }
                for (accepted, first) in accepts.iter().zip(follow) {
                    shared.begins(accepted, first);
                }
                shared.settled(hop.hop, applied, Vec::new());
            }
            failpoint::hit("stage-announced");
        }
        Err(failure) => {
            if !shared.store.has_said(&failure) {
                tracing::error!(%failure, "the store refused a commit; its messages are kept and tried again");
            }
            chained.iter().for_each(|hop| shared.handoff.ended(*hop));
            for hop in hops.into_iter().rev() {
                shared.tracer.gives_back(hop.hop);
                shared.handoff.give_back(hop);
            }
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = shared.world.clock.sleep(STORE_PAUSE) => {}
            }
        }
    }
}
