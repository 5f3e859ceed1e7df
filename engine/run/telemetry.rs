//! What is told of a running engine to those who watch it: numbers at a scrape, and health. It decides nothing about messages.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::Shared;
use crate::failure::{Class, Failure};
use crate::flow::plan::Action;
use crate::handoff::Hop;
use crate::store::commit::{Accepted, Commit, Committed, End, Leaf, Turn};
use crate::store::decisions::{Decided, Deed};
use crate::store::measures::Measures;
use crate::store::replays::ReplayChange;
use crate::system::health::Health;
use crate::world::metrics::text::{Form, Readings};
use crate::world::metrics::{FlowMeter, Metrics, StepMeter, words};
use crate::world::{World, process};

pub(super) mod pushed;
pub mod serve;
mod stored;
pub(super) mod traces;

/// How old what the store has said may be before it is asked again: all who scrape share it.
const STORE_EVERY_MS: i64 = 5_000;
/// How long a scrape waits for the store.
const STORE_WITHIN: Duration = Duration::from_secs(2);
/// How long what was counted of a flow that is gone is shown still.
const FORGET_AFTER_MS: i64 = 600_000;

/// The meters of flows whose runs have ended.
#[derive(Default)]
pub(super) struct Meters(RwLock<FxHashMap<Arc<str>, FlowMeter>>);

impl Meters {
    fn of(&self, metrics: &Metrics, flow: &Arc<str>) -> FlowMeter {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = known.get(flow) {
            return meter.clone();
        }
        drop(known);
        let meter = metrics.flow(flow);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(flow.clone(), meter.clone());
        meter
    }

    /// A commit is durable: the runs that it has ended count, and the exceptions that people have settled by it.
    pub(super) fn committed(&self, metrics: &Metrics, committed: &Committed, settling: &Settling) {
        let mut last: Option<(&Arc<str>, FlowMeter)> = None;
        for ended in &committed.ended {
            if last.as_ref().is_none_or(|(flow, _)| **flow != ended.flow) {
                last = Some((&ended.flow, self.of(metrics, &ended.flow)));
            }
            if let Some((_, meter)) = &last {
                meter.completed(ended.state.name());
            }
        }
        for (how, decided) in settling.exceptions.iter().zip(&committed.decisions) {
            if !how.is_empty() && *decided == Decided::Done {
                metrics.resolved(how);
            }
        }
        for (outcome, list) in settling.replays.iter().zip(&committed.replays) {
            if !outcome.is_empty() && list.is_some() {
                metrics.replayed(outcome);
            }
        }
    }

    /// How long the runs took that a commit has ended; those whose beginning the store did not read were at these hops, in their order.
    pub(super) fn lasted<'h>(
        &self,
        world: &World,
        committed: &Committed,
        hops: impl Iterator<Item = &'h Hop>,
    ) {
        if committed.ended.is_empty() {
            return;
        }
        let now_ms = world.clock.now_ms();
        let mut hops = hops;
        for ended in &committed.ended {
            let of_hop = || {
                let hop = hops.find(|hop| hop.run == ended.run)?;
                Some(hop.message.received_at_ms)
            };
            if let Some(received_ms) = ended.received_ms.or_else(of_hop) {
                let meter = self.of(&world.metrics, &ended.flow);
                meter.lasted(now_ms.saturating_sub(received_ms));
            }
        }
    }

    fn forget(&self) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}

/// What people settle by a commit, if it counts; empty words where they do not.
pub(super) struct Settling {
    exceptions: Vec<&'static str>,
    replays: Vec<&'static str>,
}

/// What people settle by this commit.
pub(super) fn settling(commit: &Commit) -> Settling {
    let how = |deed: &Deed| match deed {
        Deed::Assign { .. } | Deed::Note | Deed::Snooze { .. } => "",
        Deed::Discard => "discarded",
        Deed::ByHand => "by_hand",
        Deed::GoOn(_) => "retried",
    };
    let outcome = |change: &ReplayChange| match change {
        ReplayChange::Take { .. } => "taken",
        ReplayChange::Refuse { .. } => "refused",
        _ => "",
    };
    let decisions = commit.decisions.iter();
    Settling {
        exceptions: decisions.map(|decision| how(&decision.deed)).collect(),
        replays: commit.replays.iter().map(outcome).collect(),
    }
}

/// Messages have come in: new ones, of which some are broken, and those that were known.
pub(super) fn accepted(meter: &FlowMeter, accepted: &[Accepted], broken: &[bool]) {
    let known = |one: &&Accepted| matches!(one, Accepted::Duplicate(_));
    let duplicates = accepted.iter().filter(known).count() as u64;
    meter.received.inc_by(accepted.len() as u64);
    meter.duplicates.inc_by(duplicates);
    let opened = accepted.iter().zip(broken);
    let opened = opened.filter(|(one, broken)| **broken && **one == Accepted::New);
    meter.opened.inc_by(opened.count() as u64);
}

/// What the end of a hop counts as, once it is durable.
pub(super) enum Ended {
    Done,
    /// At these steps, with these classes.
    Failed(Vec<(Arc<str>, Class)>),
    Retried(Class),
    /// Nothing was tried: it waits for a time.
    Nothing,
}

impl Ended {
    pub(super) fn of(end: &End) -> Ended {
        match &end.turn {
            Turn::Wait { failure, .. } => Ended::Retried(failure.class),
            Turn::Rest { .. } => Ended::Nothing,
            Turn::Over { leaves, .. } => {
                let failed = leaves.iter().filter_map(|leaf| match leaf {
                    Leaf::Exception(exception) => Some((exception.step.clone(), exception.class)),
                    _ => None,
                });
                let failed: Vec<_> = failed.collect();
                match failed.is_empty() {
                    true => Ended::Done,
                    false => Ended::Failed(failed),
                }
            }
        }
    }

    pub(super) fn count(&self, meter: &StepMeter) {
        match self {
            Ended::Done => drop(meter.done.inc()),
            Ended::Failed(all) => {
                for (step, class) in all {
                    meter.failed(step, class.name());
                }
            }
            Ended::Retried(class) => meter.retried(class.name()),
            Ended::Nothing => {}
        }
    }
}

/// An engine as those see it who watch it. A clone sees the same one.
#[derive(Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
    asked: Arc<Mutex<Asked>>,
}

/// What the store has said.
#[derive(Default)]
struct Asked {
    said: Option<(i64, Arc<Measures>)>,
    asking: Option<JoinHandle<Result<Measures, Failure>>>,
    /// Flows that are gone, and since when.
    gone: FxHashMap<Arc<str>, i64>,
}

/// Whether something is as it should be.
pub struct Condition {
    /// Whether it is.
    pub good: bool,
    /// The document: a status, and the causes.
    pub document: serde_json::Value,
}

impl Telemetry {
    pub(super) fn of(shared: &Arc<Shared>) -> Telemetry {
        Telemetry {
            shared: shared.clone(),
            asked: Arc::default(),
        }
    }

    /// All numbers. The store is asked at most once in 5 s for all who scrape, and not waited for longer than 2 s: what it has said last is
    /// served then, and its age with it.
    pub async fn scrape(&self, form: Form) -> String {
        let mut readings = Readings::default();
        self.of_engine(&mut readings);
        self.of_store(&mut readings).await;
        process::read(&mut readings);
        of_runtime(&mut readings);
        self.shared.world.metrics.text(readings, form)
    }

    fn of_engine(&self, readings: &mut Readings) {
        let shared = &self.shared;
        let project = shared.live.now().project.clone();
        readings.add(words::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        readings.add(
            words::REVISION,
            &[super::reload::short(&project.revision)],
            1.0,
        );
        let ready = shared.listener.causes().is_empty();
        readings.add(words::READY, &[], f64::from(u8::from(ready)));
        for (name, admission) in super::systems::admissions(&project) {
            let health = admission.told().health;
            for (state, word) in STATES {
                let is = f64::from(u8::from(state == health));
                readings.raise(words::SYSTEM_STATE, &[&name, word], is);
            }
        }
    }

    async fn of_store(&self, readings: &mut Readings) {
        let clock = &self.shared.world.clock;
        let mut asked = self.asked.lock().await;
        let old = |said: &Option<(i64, Arc<Measures>)>| {
            said.as_ref()
                .is_none_or(|(at_ms, _)| clock.steady_ms() - at_ms >= STORE_EVERY_MS)
        };
        if old(&asked.said) {
            let store = self.shared.store.reader().clone();
            let asking = asked
                .asking
                .get_or_insert_with(|| tokio::spawn(async move { store.measures().await }));
            // One that takes longer goes on, and the next scrape finds what it has found.
            if let Ok(measured) = tokio::time::timeout(STORE_WITHIN, asking).await {
                asked.asking = None;
                match measured {
                    Ok(Ok(measures)) => asked.said = Some((clock.steady_ms(), Arc::new(measures))),
                    Ok(Err(failure)) => {
                        tracing::debug!(%failure, "the store has no numbers for a scrape");
                    }
                    Err(_) => {}
                }
            }
        }
        let fresh = !old(&asked.said);
        readings.add(words::STORE_READ, &[], f64::from(u8::from(fresh)));
        let Some((at_ms, measures)) = asked.said.clone() else {
            return;
        };
        let age_ms = (clock.steady_ms() - at_ms).max(0);
        readings.add(words::STORE_AGE, &[], age_ms as f64 / 1_000.0);
        let live = self.live_flows(&measures);
        stored::read(readings, &measures, &live, self.shared.store.now_ms());
        if fresh {
            self.forget(&mut asked, live);
        }
    }

    /// The flows of the project, and those that have something in flight or in exceptions still.
    fn live_flows(&self, measures: &Measures) -> BTreeSet<Arc<str>> {
        let project = self.shared.live.now().project.clone();
        let mut live: BTreeSet<Arc<str>> = project
            .plans
            .values()
            .map(|plan| plan.flow.clone())
            .collect();
        let books = measures.books.iter();
        let busy = books.filter(|books| books.counts.in_flight + books.counts.in_exceptions > 0);
        live.extend(busy.map(|books| books.flow.clone()));
        live
    }

    /// Forgets what was counted of flows that have been gone for a while.
    fn forget(&self, asked: &mut Asked, mut live: BTreeSet<Arc<str>>) {
        let now_ms = self.shared.world.clock.steady_ms();
        let known = self.shared.world.metrics.flows();
        asked
            .gone
            .retain(|flow, _| known.contains(flow) && !live.contains(flow));
        for flow in known {
            if !live.contains(&flow) {
                asked.gone.entry(flow).or_insert(now_ms);
            }
        }
        let late = |since_ms: &i64| now_ms - since_ms >= FORGET_AFTER_MS;
        if asked.gone.values().any(late) {
            live.extend(
                asked
                    .gone
                    .iter()
                    .filter(|(_, since)| !late(since))
                    .map(|(flow, _)| flow.clone()),
            );
            self.shared.world.metrics.keep_flows(&live);
            self.shared.meters.forget();
        }
    }

    /// Why nothing may be accepted now; empty if it may.
    pub fn causes(&self) -> Vec<String> {
        self.shared.listener.causes()
    }

    /// How a flow is: whether it is there, whether it may accept, and what it waits for. `None` if there is no such flow.
    pub fn flow(&self, flow: &str) -> Option<Condition> {
        let project = self.shared.live.now().project.clone();
        let plan = project.plans.get(flow)?;
        let mut causes = self.causes();
        let mut systems = BTreeSet::new();
        for node in &plan.nodes {
            let Action::Effect(effect) = &node.action else {
                continue;
            };
            let Some(admission) = effect.admission() else {
                continue;
            };
            let told = admission.told();
            if told.health != Health::Up && systems.insert(admission.name().clone()) {
                causes.push(format!("{}: {}", admission.name(), told.health.name()));
            }
        }
        let good = causes.is_empty();
        let status = if good { "good" } else { "waits" };
        let document = serde_json::json!({
            "status": status, "flow": flow, "revision": &*plan.revision, "causes": causes
        });
        Some(Condition { good, document })
    }
}

/// The states of systems, as labels.
const STATES: [(Health, &str); 4] = [
    (Health::Up, "up"),
    (Health::Down, "down"),
    (Health::Refused, "refused"),
    (Health::Maintenance, "maintenance"),
];

/// What the threads that work on messages say.
fn of_runtime(readings: &mut Readings) {
    let runtime = tokio::runtime::Handle::current().metrics();
    let workers = runtime.num_workers();
    let busy = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker));
    readings.add(words::WORKERS, &[], workers as f64);
    readings.add(
        words::WORKERS_BUSY,
        &[],
        busy.sum::<Duration>().as_secs_f64(),
    );
    readings.add(words::ALIVE, &[], runtime.num_alive_tasks() as f64);
    readings.add(words::QUEUED, &[], runtime.global_queue_depth() as f64);
}
