//! A stage whose step lets messages wait durably: it says what they wait for, and takes them further when that has come. What waits is a row
//! of the store; here is nothing that a restart would lose.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::stage::{Post, guarded};
use super::telemetry;
use super::turn::{self, Exchange, Finished};
use super::walk::Walked;
use crate::component::Context;
use crate::component::waiting::{Time, Waiting};
use crate::failure::Failure;
use crate::flow::plan::Plan;
use crate::handoff::Hop;
use crate::message::Message;
use crate::store::commit::Commit;
use crate::store::groups::Close;
use crate::store::sequences::Pass;
use crate::world::metrics::StepMeter;

mod answers;
mod groups;
mod pace;
mod turns;

/// How long a stage pauses after the store has refused a commit.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// A waiting step of one flow.
pub(super) struct WaitStage {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<Plan>,
    /// The step's node.
    pub(super) node: usize,
    /// What its messages wait for.
    pub(super) waiting: Arc<Waiting>,
    pub(super) post: Post,
    pub(super) meter: StepMeter,
}

/// What a stage commits together.
#[derive(Default)]
struct Batch {
    /// The hops that are with this stage: if the store refuses the commit they are given back.
    hops: Vec<Hop>,
    finished: Vec<Finished>,
    passes: Vec<Pass>,
    closes: Vec<Close>,
}

impl Batch {
    fn add(&mut self, hop: Hop, finished: Finished) {
        self.hops.push(hop);
        self.finished.push(finished);
    }
}

impl WaitStage {
    /// Works until it is stopped; what it has taken it finishes, or leaves in the store.
    pub(super) async fn run(self: Arc<Self>) {
        match &*self.waiting {
            Waiting::Time(time) => self.delay(time).await,
            Waiting::Pace(pace) => self.pace(pace).await,
            Waiting::Answer(awaiting) => self.answers(awaiting).await,
            Waiting::Group(gathering) => self.groups(gathering).await,
            Waiting::Turn(numbered) => self.turns(numbered).await,
        }
    }

    async fn delay(&self, time: &Time) {
        while let Some(hops) = self.take(self.shared.batch_max).await {
            let finished = hops.iter().map(|hop| self.rest(hop, time)).collect();
            let batch = Batch {
                hops,
                finished,
                ..Batch::default()
            };
            self.settle(batch).await;
        }
    }

    /// A hop that has not waited yet waits, unless its time is past.
    fn rest(&self, hop: &Hop, time: &Time) -> Finished {
        let now_ms = self.shared.world.clock.now_ms();
        let waited = hop.attempt == 0 && matches!(time, Time::For(_));
        match self.ask(hop, |message, cx| time.until_ms(message, cx, now_ms)) {
            Err(walked) => self.over(hop, *walked),
            Ok(until_ms) if waited || until_ms <= now_ms => self.over(hop, self.goes_on(hop)),
            Ok(until_ms) => turn::rest(
                &self.shared,
                &self.plan,
                hop,
                until_ms,
                "its delay is not over",
            ),
        }
    }

    /// The next hops; `None` when nothing is to be taken any more.
    async fn take(&self, most: usize) -> Option<Vec<Hop>> {
        let step = &self.plan.nodes[self.node].id;
        tokio::select! {
            biased;
            () = self.post.stop.cancelled() => None,
            hops = self.shared.handoff.take(self.post.at(step), most) => Some(hops),
        }
    }

    /// Lets the step look at a message. If it does not work on it (`when`), or that fails: how the message goes on instead.
    fn ask<T>(
        &self,
        hop: &Hop,
        ask: impl FnOnce(&Message, &Context<'_>) -> Result<T, Failure>,
    ) -> Result<T, Box<Walked>> {
        let mut asked = None;
        let (plan, node) = (&self.plan, self.node);
        let walked = guarded(plan, node, &hop.message, |walker| {
            let message = || hop.message.clone();
            match walker.takes(node, &hop.message) {
                Ok(true) => {}
                Ok(false) => return walker.walk(plan.nodes[node].next, message()),
                Err(failure) => return walker.fail(node, message(), failure),
            }
            match ask(&hop.message, &walker.context(node)) {
                Ok(answer) => {
                    asked = Some(answer);
                    Walked::default()
                }
                Err(failure) => walker.fail(node, message(), failure),
            }
        });
        asked.ok_or_else(|| Box::new(walked))
    }

    /// The wait is over: the message goes on.
    fn goes_on(&self, hop: &Hop) -> Walked {
        self.goes_on_as(hop, hop.message.clone())
    }

    /// The wait is over: the message goes on as this one.
    fn goes_on_as(&self, hop: &Hop, message: Message) -> Walked {
        let (plan, node) = (&self.plan, &self.plan.nodes[self.node]);
        guarded(plan, self.node, &hop.message, |walker| {
            let mut walked = walker.walk(node.next, message);
            walked.through.insert(0, self.node);
            walked.milestones.splice(0..0, node.milestone.clone());
            walked
        })
    }

    fn over(&self, hop: &Hop, walked: Walked) -> Finished {
        let nothing = Exchange::default();
        turn::over(&self.shared, &self.plan, hop, walked, None, &nothing)
    }

    /// One commit for a batch. If the store refuses it, the hops are given back and taken again later: asking again costs nothing.
    async fn settle(&self, batch: Batch) {
        let Batch {
            hops,
            finished,
            passes,
            closes,
        } = batch;
        if finished.is_empty() {
            return;
        }
        for one in &finished {
            self.shared.settling(&one.end);
        }
        let commit = Commit {
            ends: finished.iter().map(|one| one.end.clone()).collect(),
            passes,
            closes,
            ..Commit::default()
        };
        match self.shared.commit(commit).await {
            Ok(committed) => {
                let (meters, world) = (&self.shared.meters, &self.shared.world);
                meters.lasted(world, &committed, hops.iter());
                for (nth, one) in finished.into_iter().enumerate() {
                    let applied = committed.ends.get(nth).copied().unwrap_or(false);
                    if applied {
                        let ended = telemetry::Ended::of(&one.end);
                        ended.count(&self.meter);
                        if let Some(hop) = hops.iter().find(|hop| hop.hop == one.end.hop) {
                            self.shared.tracer.worked(hop, &ended);
                        }
                    }
                    self.shared.settled_as(applied, one);
                }
            }
            Err(failure) => self.refused(hops, &failure).await,
        }
    }

    /// The store has refused a commit: the hops are given back.
    async fn refused(&self, hops: Vec<Hop>, failure: &Failure) {
        let step = &*self.plan.nodes[self.node].id;
        if !self.shared.store.has_said(failure) {
            tracing::error!(%failure, step, "the store refused a commit; its messages wait and are tried again");
        }
        for hop in hops.into_iter().rev() {
            self.shared.handoff.give_back(hop);
        }
        tokio::select! {
            () = self.post.stop.cancelled() => {}
            () = self.shared.world.clock.sleep(STORE_PAUSE) => {}
        }
    }
}
