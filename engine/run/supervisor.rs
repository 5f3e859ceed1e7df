//! Starts and stops everything that moves: stages, doors, sources, timers. Whatever runs has an owner here that stops it and awaits it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::accept::Gate;
use super::append::{self, AppendStage};
use super::desk::Desk;
use super::effect::EffectStage;
use super::space::{self, LEAST_DEFAULT, Space};
use super::stage::{Door, Stage};
use super::waiting::WaitStage;
use super::{
    Arc, CancellationToken, Duration, Failure, Listener, Plan, Project, Shared, Store, TaskTracker,
    World, due, guard, lead, notify, replay,
};
use super::{intake, sweep, systems};
use crate::component::words::Secret;
use crate::component::{Intake, Source};
use crate::flow::plan::Action;
use crate::flow::settings;
use crate::handoff::Handoff;
use crate::handoff::embedded::{Embedded, Limits};
use crate::handoff::rabbitmq::topology::{self, Topology};
use crate::handoff::rabbitmq::{self, Rabbit};
use crate::source;
use crate::store::retention::Retention;
use crate::world::failpoint;
use tokio_util::task::AbortOnDropHandle;

/// How many messages one commit may take, where nobody says so.
const BATCH_DEFAULT: u32 = 128;
/// How many batches of a stage may be under way: one works while the other commits.
const LANES: usize = 2;
/// How long webhooks may take to register.
const BINDINGS_WITHIN_MS: i64 = 10_000;
/// How long a source may take to stop after another engine may run it.
const LOST_WITHIN: Duration = Duration::from_secs(3);
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
        let batch_max = start.project.settings.limits.batch.unwrap_or(BATCH_DEFAULT) as usize;
        let least = start.project.settings.limits.disk_free;
        let least = least.map_or(LEAST_DEFAULT, |size| size.bytes);
        let space = Space::new(start.store.place().file(), least);
        let handoff = handoff(&start).await?;
        let keep = keep(&start.project);
        let lengths = append::lengths(&start.store, &start.root, &start.world).await?;
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
            lengths,
            limits,
            replays: replay::Replays::default(),
            batch_max,
        });
        append::cut_tails(&shared, &start.root).await?;
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
        let shared = &self.shared;
        loop {
            match shared.handoff.at_rest().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(failure) => tracing::debug!(%failure, "the store could not say what goes on"),
            }
            shared.world.clock.sleep(shared.handoff.rest_look()).await;
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
        self.shared.handoff.close().await;
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
        let (replays, retention) = (shared.clone(), shared.clone());
        self.stages.spawn(lead::only(
            shared.clone(),
            "replays".to_owned(),
            move || replay::run(replays.clone()),
        ));
        self.stages.spawn(lead::only(
            shared.clone(),
            "retention".to_owned(),
            move || sweep::run(retention.clone(), keep),
        ));
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
            let (source, shared) = (source.clone(), self.shared.clone());
            match source.alone() {
                true => self.sources.spawn(run_alone(source, intake, shared)),
                false => self.sources.spawn(keep_running(source, intake, shared)),
            };
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

/// The hand-off that the settings ask for.
async fn handoff(start: &Start) -> Result<Handoff, Failure> {
    let local = Embedded::new(start.store.clone(), Limits::default());
    let Some(given) = &start.project.settings.handoff.rabbitmq else {
        return Ok(local.into());
    };
    let options = rabbitmq::Options {
        place: broker_of(given)?,
        topology: topology_of(&start.project),
        body_max: given.body_max.map_or(rabbitmq::BODY_MAX, |size| {
            usize::try_from(size.bytes).unwrap_or(usize::MAX)
        }),
        patience: rabbitmq::START_PATIENCE,
    };
    let (store, world) = (start.store.clone(), start.world.clone());
    let broker = Rabbit::start(store, local.clone(), world, options).await?;
    Ok(Handoff::over(local, broker))
}

/// Where the broker of the settings is.
pub fn broker_of(given: &settings::Rabbitmq) -> Result<rabbitmq::Place, Failure> {
    let key = given.key.as_ref().map(Secret::reveal);
    let identity = given.certificate.as_deref().zip(key);
    let place = rabbitmq::place(&given.urls, given.ca.as_deref(), identity);
    place.map_err(|why| Failure::config(format!("handoff.rabbitmq: {why}")))
}

/// The queues of a project on a broker: one for each step at which messages can stand, and one for each flow's door.
pub fn topology_of(project: &Project) -> Topology {
    let batch = project.settings.limits.batch.unwrap_or(BATCH_DEFAULT);
    let mut stages = Vec::new();
    for plan in project.plans.values() {
        let stage = |step: &Arc<str>, prefetch: usize| topology::Stage {
            flow: plan.flow.clone(),
            step: step.clone(),
            also: Vec::new(),
            prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
            single: false,
        };
        let batches = 2 * batch as usize;
        // What one run hands over comes before what the run behind it does: one engine at a time stands at the door.
        let mut door = stage(&Arc::from(super::turn::DOOR), batches);
        door.single = true;
        for (nth, node) in plan.nodes.iter().enumerate() {
            match &node.action {
                // Who makes few calls at a time leaves the rest to other engines.
                Action::Effect(effect) => {
                    let calls = effect.promises().concurrency.clamp(2, 64);
                    stages.push(stage(&node.id, 4 * calls));
                }
                // It runs with what is before it; a message stands there only when a person has sent it.
                Action::Pure(_) | Action::Flow(_) | Action::Discard | Action::Route(_)
                    if nth > 0 =>
                {
                    door.also.push(node.id.clone());
                }
                _ => stages.push(stage(&node.id, batches)),
            }
        }
        stages.push(door);
    }
    let settings = project.settings.handoff.rabbitmq.as_ref();
    let name = settings.and_then(|given| given.name.as_deref());
    Topology::new(name.unwrap_or(topology::NAME_DEFAULT), stages)
}

/// Runs a source while this engine leads it.
async fn run_alone(source: Arc<dyn Source>, intake: Intake, shared: Arc<Shared>) {
    let name = format!("source:{}", intake.flow);
    while let Some(lead) = lead::lead(&shared, &name, &intake.stop).await {
        let stop = intake.stop.child_token();
        let led = Intake {
            stop: stop.clone(),
            ..intake.clone()
        };
        let running = keep_running(source.clone(), led, shared.clone());
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => return,
            () = lead.lost() => {}
        }
        tracing::warn!(
            flow = &*intake.flow,
            "another engine may run the source; it is stopped here"
        );
        stop.cancel();
        // Whatever it still commits is conditional on where its cursor was.
        tokio::select! {
            () = running => {}
            () = shared.world.clock.sleep(LOST_WITHIN) => {}
        }
    }
}

/// Runs a source until it ends by itself or is stopped; after a failure it is started again, with growing pauses.
async fn keep_running(source: Arc<dyn Source>, intake: Intake, shared: Arc<Shared>) {
    let mut pause_ms = SOURCE_PAUSE_MS.0;
    let mut in_a_row = 0;
    while !intake.stop.is_cancelled() {
        let began_ms = intake.world.clock.steady_ms();
        // Ended with this function, wherever that is broken off.
        let running = AbortOnDropHandle::new(tokio::spawn(source.clone().run(intake.clone())));
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
