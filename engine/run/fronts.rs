//! The fronts of flows: where messages come in. Each has a gate of the flow's newest revision, a door at which other flows hand over, and a
//! source. A reload puts another gate in its place; a source is started anew only if it is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Gate;
use super::canary::Candidate;
use super::stage::Door;
use super::{Failure, Plan, Shared, feeding};
use crate::component::api::Calls;
use crate::component::{Accept, Batch, Intake, Source, Verdict};
use crate::failure::Class;
use crate::flow::plan::Print;
use crate::source::Ready;
use crate::store::commit::DOOR;
use crate::world::Pending;

/// How long a webhook may take to register.
const BINDINGS_WITHIN_MS: i64 = 10_000;
/// How long a source that is replaced may take to end before the next one begins: what it still commits is conditional on its cursor.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// What a sender is asked to wait where nobody has said until when a flow accepts nothing.
const CLOSED_RETRY_AFTER_MS: i64 = 60_000;
/// The longest that a sender is asked to wait: it may go on earlier.
const CLOSED_RETRY_AFTER_MOST_MS: i64 = 3_600_000;

/// The way into a flow, whichever revision it has.
pub(super) struct Entry {
    gate: RwLock<Arc<Gate>>,
    /// Whether nothing new is accepted.
    closed: watch::Sender<Option<Closed>>,
    /// Cancelled when nothing is accepted any more.
    intake: CancellationToken,
}

/// That a flow accepts nothing new.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Closed {
    /// Until when, in milliseconds since 1970, if that is known.
    until_ms: Option<i64>,
    /// Whether what comes waits instead of being refused: from a source that would not bring it again.
    waits: bool,
}

/// The front of one flow.
struct Front {
    print: Print,
    entry: Arc<Entry>,
    door: Running,
    source: Option<Running>,
}

/// A task that can be stopped.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The fronts of an engine, by flow. Only one caller at a time changes them.
pub(super) struct Fronts {
    all: BTreeMap<Arc<str>, Front>,
    root: Arc<Path>,
    /// Cancelled first: sources stop bringing messages in.
    intake: CancellationToken,
    sources: TaskTracker,
    stages: TaskTracker,
    /// The flows that accept nothing new, by the will of people, and until when.
    closed: BTreeMap<Arc<str>, Option<i64>>,
    /// The flows of which a canary takes a share.
    split: BTreeMap<Arc<str>, Candidate>,
    /// While a source has ended only because its flow accepts nothing, not all work is over.
    goes_on: Option<Running>,
}

impl Entry {
    fn gate(&self) -> Arc<Gate> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        gate.clone()
    }

    fn put(&self, gate: Arc<Gate>) {
        let mut now = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        now.hand_over(&gate);
        *now = gate;
    }

    /// Waits until something new is accepted, where that is how it is closed.
    async fn open(&self) -> Result<(), Failure> {
        let mut closed = self.closed.subscribe();
        loop {
            let Some(now) = *closed.borrow_and_update() else {
                return Ok(());
            };
            if !now.waits {
                return Err(self.refusal(now));
            }
            tokio::select! {
                () = self.intake.cancelled() => return Err(self.refusal(now)),
                changed = closed.changed() => changed.map_err(|_| self.refusal(now))?,
            }
        }
    }

    /// What a sender is told. Who has stopped the flow, and why, is nobody's business outside.
    fn refusal(&self, closed: Closed) -> Failure {
        let now_ms = self.gate().shared.world.clock.now_ms();
        let wait_ms = closed.until_ms.map_or(CLOSED_RETRY_AFTER_MS, |until_ms| {
            (until_ms - now_ms).clamp(1_000, CLOSED_RETRY_AFTER_MOST_MS)
        });
        Failure::new(Class::Unavailable, "nothing is accepted now")
            .with_retry_after_ms(u64::try_from(wait_ms).unwrap_or(1_000))
    }
}

impl Accept for Entry {
    fn turned_away(&self, count: u64) {
        self.gate().turned_away(count);
    }

    fn called(&self, calls: Vec<Calls>) {
        self.gate().called(calls);
    }

    fn accept(&self, batch: Batch) -> Pending<'_, Result<Vec<Verdict>, Failure>> {
        Box::pin(async move {
            if !batch.arrivals.is_empty() {
                self.open().await?;
            }
            self.gate().accept(batch).await
        })
    }

    fn room(&self) -> Pending<'_, ()> {
        Box::pin(async move {
            // Whoever is refused is told so when it brings something.
            self.open().await.ok();
            self.gate().room().await;
        })
    }

    fn cursor<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>, Failure>> {
        Box::pin(async move { self.gate().cursor(name).await })
    }

    fn cursors<'a>(
        &'a self,
        prefix: &'a str,
    ) -> Pending<'a, Result<Vec<(String, String)>, Failure>> {
        Box::pin(async move { self.gate().cursors(prefix).await })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    /// Stops it, and waits until it has ended, but not for ever.
    async fn end(mut self, within: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            tracing::warn!(
                "what was to stop is still at work; it goes on beside what takes its place"
            );
        }
    }
}

impl Fronts {
    pub(super) fn new(
        root: &Path,
        intake: CancellationToken,
        sources: TaskTracker,
        stages: TaskTracker,
    ) -> Fronts {
        Fronts {
            all: BTreeMap::new(),
            root: Arc::from(root),
            intake,
            sources,
            stages,
            closed: BTreeMap::new(),
            split: BTreeMap::new(),
            goes_on: None,
        }
    }

    /// Refuses those who wait for an answer, and tells a source that fetches to end.
    fn close_now(&self, flow: &Arc<str>) {
        let front = &self.all[flow];
        let plan = front.entry.gate().plan.clone();
        let (Ready::Runs(source), Some(until_ms)) = (&plan.source, self.closed.get(flow)) else {
            return;
        };
        match (fetches(&**source), &front.source) {
            (true, Some(running)) => running.stop.cancel(),
            (true, None) => {}
            (false, _) => {
                let closed = closing(Some(*until_ms), &**source);
                front.entry.closed.send_replace(closed);
            }
        }
    }

    /// These flows have another side from now on that takes a share of their messages, and only these.
    pub(super) async fn split(
        &mut self,
        shared: &Arc<Shared>,
        flows: BTreeMap<Arc<str>, Candidate>,
    ) {
        let before = std::mem::replace(&mut self.split, flows);
        let touched: BTreeSet<Arc<str>> = before
            .into_keys()
            .chain(self.split.keys().cloned())
            .collect();
        for flow in touched {
            if let Some(front) = self.all.get(&flow) {
                let plan = front.entry.gate().plan.clone();
                self.gate(shared, &plan).await;
            }
        }
    }

    /// These flows accept nothing new from now on, and only these. Who waits for an answer is refused; a source that fetches ends, and begins
    /// again where it was; one that would not bring its messages again waits.
    pub(super) async fn close(
        &mut self,
        shared: &Arc<Shared>,
        closed: BTreeMap<Arc<str>, Option<i64>>,
    ) {
        self.goes_on = (!closed.is_empty()).then(|| {
            let stop = self.intake.child_token();
            let task = self.sources.spawn(stop.clone().cancelled_owned());
            Running { stop, task }
        });
        let before = std::mem::replace(&mut self.closed, closed);
        let mut changed = self.flows();
        changed.retain(|flow| before.get(flow) != self.closed.get(flow));
        // All at once; then each is waited for.
        for flow in &changed {
            self.close_now(flow);
        }
        for flow in changed {
            let now = self.closed.get(&flow).copied();
            let front = self.all.get_mut(&flow).expect("it has a front");
            let plan = front.entry.gate().plan.clone();
            let Ready::Runs(source) = &plan.source else {
                continue;
            };
            if now.is_some()
                && fetches(&**source)
                && let Some(source) = front.source.take()
            {
                source.end(ENDS_WITHIN).await;
            }
            front.entry.closed.send_replace(closing(now, &**source));
            if now.is_none()
                && front.source.is_none()
                && shared.live.now().project.plans.contains_key(&flow)
            {
                let running = self.feed(shared, &plan, source.clone());
                let front = self.all.get_mut(&flow).expect("it has a front");
                front.source = Some(running);
                front.print = plan.prints.source;
            }
        }
    }

    /// Whether a flow has a door.
    pub(super) fn has(&self, flow: &str) -> bool {
        self.all.contains_key(flow)
    }

    /// These flows come in by these plans from now on. Webhooks that are another one begin before the last one ends: nobody finds a closed
    /// door. All other sources end first.
    pub(super) async fn put(
        &mut self,
        shared: &Arc<Shared>,
        plans: &[Arc<Plan>],
    ) -> Result<(), Failure> {
        let mut leaving = Vec::new();
        let mut begun = Vec::new();
        for plan in plans {
            self.gate(shared, plan).await;
            let front = self.all.get_mut(&plan.flow).expect("it was put there");
            let same = front.print == plan.prints.source && front.source.is_some();
            if same {
                continue;
            }
            let before = front.source.take();
            let Ready::Runs(source) = &plan.source else {
                leaving.extend(before);
                continue;
            };
            match (source.binding(), before) {
                (Some(binding), before) => {
                    let there = shared.listener.registered(&binding);
                    begun.push((plan.flow.clone(), binding, there));
                    leaving.extend(before);
                }
                (None, Some(before)) => before.end(ENDS_WITHIN).await,
                (None, None) => {}
            }
            let closed = self.closed.get(&plan.flow).copied();
            let front = self.all.get_mut(&plan.flow).expect("it was put there");
            front.entry.closed.send_replace(closing(closed, &**source));
            if closed.is_some() && fetches(&**source) {
                continue;
            }
            let running = self.feed(shared, plan, source.clone());
            let front = self.all.get_mut(&plan.flow).expect("it was put there");
            front.source = Some(running);
            front.print = plan.prints.source;
        }
        let served = registered(shared, &begun).await;
        for source in leaving {
            source.end(ENDS_WITHIN).await;
        }
        served
    }

    /// What other flows have handed over to a flow comes in under this plan; from elsewhere nothing does.
    pub(super) async fn open_door(&mut self, shared: &Arc<Shared>, plan: &Arc<Plan>) {
        self.gate(shared, plan).await;
    }

    /// A flow takes nothing in any more. What is at its door comes in still.
    pub(super) async fn shut(&mut self, flow: &str) {
        let front = self.all.get_mut(flow);
        if let Some(source) = front.and_then(|front| front.source.take()) {
            source.end(ENDS_WITHIN).await;
        }
    }

    /// A flow that nobody comes to any more goes.
    pub(super) fn remove(&mut self, shared: &Shared, flow: &str) {
        if let Some(front) = self.all.remove(flow) {
            front.door.stop.cancel();
            shared.handoff.serve(flow, DOOR, false);
        }
    }

    /// The flows that have a front.
    pub(super) fn flows(&self) -> Vec<Arc<str>> {
        self.all.keys().cloned().collect()
    }

    /// The gate and the door of a flow are those of this plan from now on. The last door lets in what it has taken first: messages keep
    /// their order.
    async fn gate(&mut self, shared: &Arc<Shared>, plan: &Arc<Plan>) {
        let candidate = self.split.get(&plan.flow).cloned();
        let gate = Arc::new(Gate::of(shared, plan).beside(candidate));
        let door = Door {
            gate: gate.clone(),
            stop: shared.stop.child_token(),
        };
        let stop = door.stop.clone();
        let begin = || Running {
            stop,
            task: self.stages.spawn(Arc::new(door).run()),
        };
        if let Some(front) = self.all.get_mut(&plan.flow) {
            front.entry.put(gate);
            front.door.stop.cancel();
            // A door that the store does not let go on tries for ever; the next one must not wait for ever.
            tokio::time::timeout(ENDS_WITHIN, &mut front.door.task)
                .await
                .ok();
            front.door = begin();
            return;
        }
        let front = Front {
            print: plan.prints.source,
            entry: Arc::new(Entry {
                gate: RwLock::new(gate),
                closed: watch::Sender::new(None),
                intake: self.intake.clone(),
            }),
            door: begin(),
            source: None,
        };
        self.all.insert(plan.flow.clone(), front);
        shared.handoff.serve(&plan.flow, DOOR, true);
    }

    fn feed(
        &self,
        shared: &Arc<Shared>,
        plan: &Arc<Plan>,
        source: Arc<dyn crate::component::Source>,
    ) -> Running {
        let stop = self.intake.child_token();
        let intake = Intake {
            flow: plan.flow.clone(),
            accept: self.all[&plan.flow].entry.clone(),
            world: shared.world.clone(),
            listener: shared.listener.clone(),
            root: self.root.clone(),
            stop: stop.clone(),
        };
        let shared = shared.clone();
        let task = match source.alone() {
            true => self
                .sources
                .spawn(feeding::run_alone(source, intake, shared)),
            false => self
                .sources
                .spawn(feeding::keep_running(source, intake, shared)),
        };
        Running { stop, task }
    }
}

/// Whether a source fetches what it brings, and can do so later.
fn fetches(source: &dyn Source) -> bool {
    source.binding().is_none() && !source.ends()
}

/// How a source's way in is closed.
fn closing(closed: Option<Option<i64>>, source: &dyn Source) -> Option<Closed> {
    closed.map(|until_ms| Closed {
        until_ms,
        waits: source.ends(),
    })
}

/// Waits until every webhook is registered beside those that were there: a sender must not find a ready engine without its path.
async fn registered(shared: &Shared, begun: &[(Arc<str>, String, usize)]) -> Result<(), Failure> {
    let clock = &shared.world.clock;
    let until_ms = clock.steady_ms() + BINDINGS_WITHIN_MS;
    for (flow, binding, before) in begun {
        while shared.listener.registered(binding) <= *before {
            if clock.steady_ms() > until_ms {
                return Err(Failure::internal(format!(
                    "the flow `{flow}` does not serve `{binding}`"
                )));
            }
            clock.sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}
