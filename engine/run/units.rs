//! Units: the stages of one revision of a flow. A unit is started when hops want it, and stopped when its flow has a newer revision and none
//! of its hops is left. It decides nothing about messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::append::AppendStage;
use super::effect::EffectStage;
use super::stage::{Post, Stage};
use super::waiting::WaitStage;
use super::{Plan, Shared};
use crate::flow::plan::Action;

/// How many batches of a stage may be under way: one works while the other commits.
const LANES: usize = 2;
/// How long a unit of an older revision stays without hops before it is stopped: between two stages a hop is nowhere for a moment.
const IDLE_MS: i64 = 5_000;

/// A flow, and one of its revisions.
pub(super) type Which = (Arc<str>, Arc<str>);

/// The units of an engine.
pub(super) struct Units {
    running: Mutex<BTreeMap<Which, Unit>>,
    stages: TaskTracker,
}

struct Unit {
    plan: Arc<Plan>,
    stop: CancellationToken,
    /// Whether its flow has this revision now.
    current: bool,
    /// Since when it has no hops, by the steady clock.
    idle_since_ms: Option<i64>,
}

impl Units {
    /// Its stages are tasks of this tracker.
    pub(super) fn new(stages: TaskTracker) -> Units {
        Units {
            running: Mutex::default(),
            stages,
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Which, Unit>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the stages of a plan for the hops of this revision. If there are stages for them, those finish what they have taken and end.
    pub(super) fn start(
        &self,
        shared: &Arc<Shared>,
        plan: &Arc<Plan>,
        revision: &Arc<str>,
        current: bool,
    ) {
        let post = Post {
            flow: plan.flow.clone(),
            revision: revision.clone(),
            stop: shared.stop.child_token(),
        };
        let unit = Unit {
            plan: plan.clone(),
            stop: post.stop.clone(),
            current,
            idle_since_ms: None,
        };
        for node in 0..plan.nodes.len() {
            self.stage(shared, plan, node, &post);
        }
        shared.handoff.serve(&plan.flow, revision, true);
        let which = (plan.flow.clone(), revision.clone());
        if let Some(before) = self.running().insert(which, unit) {
            before.stop.cancel();
        }
    }

    /// The plan of a unit that runs.
    pub(super) fn plan(&self, flow: &Arc<str>, revision: &Arc<str>) -> Option<Arc<Plan>> {
        let running = self.running();
        let unit = running.get(&(flow.clone(), revision.clone()))?;
        Some(unit.plan.clone())
    }

    /// Any plan of a flow: of its unit that runs with the most hops.
    pub(super) fn any(&self, shared: &Shared, flow: &str) -> Option<Arc<Plan>> {
        let running = self.running();
        let its = running.iter().filter(|((of, _), _)| **of == *flow);
        let most = its.max_by_key(|((flow, revision), unit)| {
            (unit.current, shared.handoff.many(flow, revision))
        });
        most.map(|(_, unit)| unit.plan.clone())
    }

    /// The units of a flow are of older revisions from now on, but for this one.
    pub(super) fn outdate(&self, flow: &str, but: Option<&str>) {
        for ((of, revision), unit) in self.running().iter_mut() {
            if **of == *flow {
                unit.current = but.is_some_and(|but| **revision == *but);
            }
        }
    }

    /// The older revisions that run, with the hops that each has.
    pub(super) fn older(&self, shared: &Shared) -> Vec<(Which, usize)> {
        let running = self.running();
        let older = running.iter().filter(|(_, unit)| !unit.current);
        older
            .map(|(which, _)| (which.clone(), shared.handoff.many(&which.0, &which.1)))
            .collect()
    }

    /// Stops units of older revisions that have had no hops for a while. Should some come after all, the hand-off asks for the unit again.
    pub(super) fn tidy(&self, shared: &Shared) {
        let now_ms = shared.world.clock.steady_ms();
        self.running().retain(|(flow, revision), unit| {
            if unit.current || shared.handoff.many(flow, revision) > 0 {
                unit.idle_since_ms = None;
                return true;
            }
            let since_ms = *unit.idle_since_ms.get_or_insert(now_ms);
            if now_ms - since_ms < IDLE_MS {
                return true;
            }
            unit.stop.cancel();
            shared.handoff.serve(flow, revision, false);
            tracing::debug!(
                flow = &**flow,
                revision = &**revision,
                "nothing is left of an older revision"
            );
            false
        });
    }

    fn stage(&self, shared: &Arc<Shared>, plan: &Arc<Plan>, node: usize, post: &Post) {
        let meter = || shared.world.metrics.step(&plan.flow, &plan.nodes[node].id);
        match &plan.nodes[node].action {
            Action::Effect(effect) => {
                let meter = meter();
                let (effect, promises) = (effect.clone(), effect.promises());
                let stage = EffectStage {
                    shared: shared.clone(),
                    plan: plan.clone(),
                    node,
                    effect,
                    promises,
                    post: post.clone(),
                    meter,
                };
                self.stages.spawn(Arc::new(stage).run());
            }
            Action::Append(append) => {
                let append = append.clone();
                let stage = AppendStage {
                    shared: shared.clone(),
                    plan: plan.clone(),
                    node,
                    append,
                    post: post.clone(),
                    meter: meter(),
                };
                self.stages.spawn(Arc::new(stage).run());
            }
            Action::Wait(waiting) => {
                let waiting = waiting.clone();
                let stage = WaitStage {
                    shared: shared.clone(),
                    plan: plan.clone(),
                    node,
                    waiting,
                    post: post.clone(),
                    meter: meter(),
                };
                self.stages.spawn(Arc::new(stage).run());
            }
            action => {
                let lanes = match action {
                    Action::Stream(_) | Action::Claim(_) => 1,
                    _ => LANES,
                };
                let stage = Arc::new(Stage {
                    shared: shared.clone(),
                    plan: plan.clone(),
                    node,
                    post: post.clone(),
                    meter: OnceLock::new(),
                });
                for _ in 0..lanes {
                    self.stages.spawn(stage.clone().run());
                }
            }
        }
    }
}
