//! Starts and stops everything that moves: stages, doors, sources, timers. Whatever runs has an owner here that stops it and awaits it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::accept::Gate;
use super::append::AppendStage;
use super::desk::Desk;
use super::effect::EffectStage;
use super::space::{self, LEAST_DEFAULT, Space};
use super::stage::{Door, Stage};
use super::waiting::WaitStage;
use super::{
    Arc, CancellationToken, Duration, Embedded, Failure, Listener, Plan, Project, Shared, Store,
    TaskTracker, World, due, guard, notify, replay,
};
use super::{intake, sweep, systems};
use crate::component::{Intake, Source};
use crate::flow::plan::Action;
use crate::handoff::embedded::Limits;
use crate::source;
use crate::store::retention::Retention;
use crate::world::failpoint;

/// How many batches of a stage may be under way: one works while the other commits.
const LANES: usize = 2;
/// How long webhooks may take to register.
const BINDINGS_WITHIN_MS: i64 = 10_000;
/// After so many failures in a row people are told that a source fails.
const TOLD_AFTER: u32 = 3;
/// The first and the longest pause before a failed source is started again.
const SOURCE_PAUSE_MS: (u64, u64) = (500, 30_000);

/// How many threads work on messages: one less than there are processors, because the store writes on a thread of its own. Where there
/// are two, a second one would only take turns with it, and each message would be handed from one to the other.
pub fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    processors.saturating_sub(1).max(1)
}

/// What an engine starts from.
pub struct Start {
    /// The checked project.
    pub project: Project,
    /// The project's folder: where sources and sinks look for relative paths.
    pub root: PathBuf,
    /// Clock, environment, randomness.
    pub world: World,
    /// The open store.
    pub store: Store,
    /// The bound listener.
    pub listener: Listener,
}

/// What was found in the store at the start.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Messages that were in flight when the engine last stopped.
    pub hops: u64,
    /// Flows and steps that messages wait for and that the project no longer has, with their numbers.
    pub homeless: Vec<(String, String, u64)>,
}

/// A running engine.
pub struct Engine {
    shared: Arc<Shared>,
    recovered: Recovered,
    /// Cancelled first: sources stop bringing messages in.
    intake: CancellationToken,
    sources: TaskTracker,
    stages: TaskTracker,
    endless: bool,
}

impl Engine {
    /// Finds what was in flight, then starts stages, then sources.
    pub async fn start(start: Start) -> Result<Engine, Failure> {
        let limits = intake::Limits::of(&start.project);
        let batch_max = start.project.settings.limits.batch.unwrap_or(128) as usize;
        let least = start.project.settings.limits.disk_free;
        let least = least.map_or(LEAST_DEFAULT, |size| size.bytes);
        let space = Space::new(start.store.path(), least);
        let handoff = Embedded::new(start.store.clone(), Limits::default());
        let keep = keep(&start.project);
        let shared = Arc::new(Shared {
            project: Arc::new(start.project),
            store: start.store,
            handoff,
            world: start.world,
            listener: start.listener,
            stop: CancellationToken::new(),
            bell: due::Bell::default(),
            lanes: guard::Lanes::default(),
            space,
            limits,
            replays: replay::Replays::default(),
            batch_max,
        });
        let systems = systems::begin(&shared).await?;
        let hops = shared.handoff.recover().await?;
        failpoint::hit("start-recovered");
        replay::Replays::recover(&shared).await?;
        notify::begin(&shared).await?;
        let homeless = homeless(&shared).await?;
        shared.space.look(&shared).await;
        let mut engine = Engine {
            shared,
            recovered: Recovered { hops, homeless },
            intake: CancellationToken::new(),
            sources: TaskTracker::new(),
            stages: TaskTracker::new(),
            endless: false,
        };
        for system in systems {
            engine.stages.spawn(system.run(engine.shared.clone()));
        }
        engine.start_stages(keep);
        engine.start_sources(&start.root);
        engine.bindings_served().await?;
        failpoint::hit("start-ready");
        engine.shared.listener.set_ready();
        engine.shared.space.say(&engine.shared);
        Ok(engine)
    }

    /// Where people act on this engine.
    pub fn desk(&self) -> Desk {
        Desk::of_engine(&self.shared)
    }

    /// What was found in the store at the start.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Waits until no source can bring more and nothing is in flight. Never ends for projects with a source that does not end.
    pub async fn finished(&self) {
        if self.endless {
            return std::future::pending().await;
        }
        self.sources.wait().await;
        self.at_rest().await;
    }

    /// Waits until the store is broken (see `Store::breaks`); from then on the engine is not ready. Gives why.
    pub async fn breaks(&self) -> Failure {
        let failure = self.shared.store.breaks().await;
        self.shared
            .listener
            .set_unready(vec![failure.message.clone()]);
        failure
    }

    /// Waits until nothing goes on by itself: messages that wait behind one that a person must look at stay. Sources go on.
    pub async fn at_rest(&self) {
        while self.shared.handoff.moving() > 0 {
            self.shared
                .world
                .clock
                .sleep(Duration::from_millis(5))
                .await;
        }
    }

    /// Stops: sources first, then stages, each finishing what it has taken. Gives whether all did so within the limit; if not, nothing is
    /// lost: what was under way is found again at the next start.
    pub async fn stop(self, limit: Duration) -> bool {
        self.shared
            .listener
            .set_unready(vec!["the engine is stopping".to_owned()]);
        failpoint::hit("stop-asked");
        self.intake.cancel();
        let clock = self.shared.world.clock.clone();
        let stop = async {
            self.sources.wait().await;
            self.shared.listener.stop(limit).await;
            self.shared.stop.cancel();
            self.stages.wait().await;
        };
        let clean = tokio::select! {
            () = stop => true,
            () = clock.sleep(limit) => false,
        };
        self.shared.stop.cancel();
        failpoint::hit("stop-drained");
        self.shared.store.shutdown().await;
        failpoint::hit("stop-store-closed");
        clean
    }

    /// Waits until every webhook is registered: a sender must not find a ready engine without its path.
    async fn bindings_served(&self) -> Result<(), Failure> {
        let clock = &self.shared.world.clock;
        let until_ms = clock.steady_ms() + BINDINGS_WITHIN_MS;
        for plan in self.shared.project.plans.values() {
            let source::Ready::Runs(source) = &plan.source else {
                continue;
            };
            let Some(binding) = source.binding() else {
                continue;
            };
            while !self.shared.listener.serves(&binding) {
                if clock.steady_ms() > until_ms {
                    return Err(Failure::internal(format!(
                        "the flow `{}` does not serve `{binding}`",
                        plan.flow
                    )));
                }
                clock.sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    fn start_stages(&self, keep: Retention) {
        let shared = &self.shared;
        for plan in shared.project.plans.values() {
            for node in 0..plan.nodes.len() {
                self.start_stage(plan, node);
            }
            let door = Arc::new(Door {
                gate: Gate::of(shared, plan),
            });
            self.stages.spawn(door.run());
        }
        self.stages.spawn(due::run(shared.clone()));
        self.stages.spawn(space::run(shared.clone()));
        self.stages.spawn(replay::run(shared.clone()));
        self.stages.spawn(sweep::run(shared.clone(), keep));
        notify::start(shared, &self.stages);
        self.stages.close();
    }

    fn start_stage(&self, plan: &Arc<Plan>, node: usize) {
        let (shared, plan) = (self.shared.clone(), plan.clone());
        match &plan.nodes[node].action {
            Action::Effect(effect) => {
                let (effect, promises) = (effect.clone(), effect.promises());
                self.stages.spawn(
                    Arc::new(EffectStage {
                        shared,
                        plan,
                        node,
                        effect,
                        promises,
                    })
                    .run(),
                );
            }
            Action::Append(append) => {
                let append = append.clone();
                self.stages.spawn(
                    Arc::new(AppendStage {
                        shared,
                        plan,
                        node,
                        append,
                    })
                    .run(),
                );
            }
            Action::Stream(_) | Action::Claim(_) => {
                self.stages
                    .spawn(Arc::new(Stage { shared, plan, node }).run());
            }
            Action::Wait(waiting) => {
                let waiting = waiting.clone();
                self.stages.spawn(
                    Arc::new(WaitStage {
                        shared,
                        plan,
                        node,
                        waiting,
                    })
                    .run(),
                );
            }
            Action::Pure(_) | Action::Flow(_) | Action::Discard | Action::Route(_) => {
                let stage = Arc::new(Stage { shared, plan, node });
                for _ in 0..LANES {
                    self.stages.spawn(stage.clone().run());
                }
            }
        }
    }

    fn start_sources(&mut self, root: &std::path::Path) {
        let root: Arc<std::path::Path> = Arc::from(root);
        for plan in self.shared.project.plans.values() {
            let source::Ready::Runs(source) = &plan.source else {
                continue;
            };
            self.endless |= !source.ends();
            let intake = Intake {
                flow: plan.flow.clone(),
                accept: Arc::new(Gate::of(&self.shared, plan)),
                world: self.shared.world.clone(),
                listener: self.shared.listener.clone(),
                root: root.clone(),
                stop: self.intake.clone(),
            };
            self.sources
                .spawn(keep_running(source.clone(), intake, self.shared.clone()));
        }
        self.endless |= self
            .shared
            .project
            .plans
            .values()
            .all(|plan| matches!(plan.source, source::Ready::Flow));
        self.sources.close();
    }
}

/// Runs a source until it ends by itself or is stopped; after a failure it is started again, with growing pauses.
async fn keep_running(source: Arc<dyn Source>, intake: Intake, shared: Arc<Shared>) {
    let mut pause_ms = SOURCE_PAUSE_MS.0;
    let mut in_a_row = 0;
    while !intake.stop.is_cancelled() {
        let began_ms = intake.world.clock.steady_ms();
        let running = tokio::spawn(source.clone().run(intake.clone()));
        let failure = match running.await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(_) => super::stage::panicked("source"),
        };
        if intake.world.clock.steady_ms() - began_ms > 60_000 {
            pause_ms = SOURCE_PAUSE_MS.0;
            in_a_row = 0;
        }
        in_a_row += 1;
        if in_a_row == TOLD_AFTER {
            notify::source_fails(&shared, &intake.flow, &failure).await;
        }
        tracing::error!(flow = &*intake.flow, %failure, pause_ms, "the source failed; it is started again");
        tokio::select! {
            () = intake.stop.cancelled() => return,
            () = intake.world.clock.sleep(Duration::from_millis(pause_ms)) => {}
        }
        pause_ms = (pause_ms * 2).min(SOURCE_PAUSE_MS.1);
    }
}

/// Messages in the store whose flow or step the project no longer has: kept, and shown.
async fn homeless(shared: &Shared) -> Result<Vec<(String, String, u64)>, Failure> {
    let mut homeless = Vec::new();
    let mut seen = BTreeSet::new();
    for count in shared.store.hop_counts().await? {
        let plan = shared.project.plans.get(&*count.flow);
        let known = plan.is_some_and(|plan| {
            &*count.step == super::turn::DOOR || plan.node(&count.step).is_some()
        });
        if !known && seen.insert((count.flow.clone(), count.step.clone())) {
            homeless.push((
                count.flow.to_string(),
                count.step.to_string(),
                count.ready + count.waiting + count.held,
            ));
        }
    }
    Ok(homeless)
}

fn keep(project: &Project) -> Retention {
    let retention = &project.settings.retention;
    let days = |given: Option<crate::component::words::Duration>, default_days: i64| {
        given.map_or(default_days * 86_400_000, |given| {
            i64::try_from(given.ms).unwrap_or(i64::MAX / 4)
        })
    };
    Retention {
        runs_ms: days(retention.runs, 30),
        bodies_ms: days(retention.bodies, 7),
        exceptions_ms: days(retention.exceptions, 90),
        limit: sweep::ROWS_MOST,
    }
}
