//! Starts and stops everything that moves: stages, doors, sources, timers. Whatever runs has an owner here that stops it and awaits it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::desk::Desk;
use super::live::Live;
use super::reload::{Will, Works};
use super::space::{self, LEAST_DEFAULT, Space};
use super::sweep;
use super::telemetry::traces::Tracer;
use super::telemetry::{Meters, Telemetry, pushed};
use super::{
    Arc, CancellationToken, Duration, Failure, Listener, Shared, Store, TaskTracker, World, append,
    approvals, due, guard, lead, notify, offered, replay,
};
use crate::component::words::Secret;
use crate::flow::Loader;
use crate::flow::plan::{Action, Plan, Project};
use crate::flow::settings;
use crate::flow::stamp::Stamp;
use crate::handoff::Handoff;
use crate::handoff::embedded::{Embedded, Limits};
use crate::handoff::rabbitmq::topology::{self, Topology};
use crate::handoff::rabbitmq::{self, Rabbit};
use crate::net::listener::Registration;
use crate::store::commit::DOOR;
use crate::store::retention::Retention;
use crate::world::failpoint;

/// How often it is looked whether a project without a source that ends has got one.
const ENDLESS_LOOK: Duration = Duration::from_secs(1);
/// How long a stop waits for the last traces to be sent.
const TRACES_WITHIN: Duration = Duration::from_secs(2);
/// How many messages one commit may take, where nobody says so.
const BATCH_DEFAULT: u32 = 128;

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
    /// What has loaded the project: what it remembers makes the first reload as fast as later ones. Without it the project is read from its folder.
    pub loader: Option<Loader>,
    /// How the files were before the project was loaded, if it is to be loaded anew when they change.
    pub watch: Option<Stamp>,
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
    works: Arc<Works>,
    /// The OpenAPI document is served as long as this lives.
    _offered: Registration,
    /// Cancelled last: what sends traces.
    traces: (CancellationToken, TaskTracker),
}

impl Engine {
    /// Finds what was in flight, then starts stages, then sources.
    pub async fn start(start: Start) -> Result<Engine, Failure> {
        let limits = &start.project.settings.limits;
        let batch_max = limits.batch.unwrap_or(BATCH_DEFAULT) as usize;
        let least = limits.disk_free.map_or(LEAST_DEFAULT, |size| size.bytes);
        let space = Space::new(start.store.place().file(), least);
        start.listener.measure(&start.world.metrics, "webhooks");
        let handoff = handoff(&start).await?;
        let (keep, watch) = (keep(&start.project), start.watch);
        let lengths = append::lengths(&start.store, &start.root, &start.world).await?;
        let (traced, keepers) = (CancellationToken::new(), TaskTracker::new());
        let settings = Box::new(start.project.settings.clone());
        let collector = settings.telemetry.otlp.as_ref();
        let port = start.listener.local_addr().port().to_string();
        let tracer = Tracer::start(collector, &port, &start.world, (&traced, &keepers))?;
        let shared = Arc::new(Shared {
            live: Live::new(Arc::new(start.project)),
            store: start.store,
            handoff,
            world: start.world,
            listener: start.listener,
            stop: CancellationToken::new(),
            bell: due::Bell::default(),
            lanes: guard::Lanes::default(),
            space,
            lengths,
            replays: replay::Replays::default(),
            approvals: approvals::Approvals::of(&settings),
            batch_max,
            shadows: super::shadow::watching::Shadows::default(),
            meters: Meters::default(),
            tracer,
            taps: Arc::default(),
        });
        append::cut_tails(&shared, &start.root).await?;
        let (intake, sources) = (CancellationToken::new(), TaskTracker::new());
        let stages = TaskTracker::new();
        let trackers = (sources.clone(), stages.clone());
        let works = Works::new(&shared, &start.root, start.loader, intake.clone(), trackers);
        let works = Arc::new(works);
        works.choose().await?;
        let hops = shared.handoff.recover().await?;
        failpoint::hit("start-recovered");
        replay::Replays::recover(&shared).await?;
        notify::begin(&shared).await?;
        let homeless = homeless(&shared).await?;
        shared.space.look(&shared).await;
        let engine = Engine {
            _offered: offered::serve(&shared),
            shared,
            recovered: Recovered { hops, homeless },
            intake,
            sources,
            stages,
            works,
            traces: (traced, keepers),
        };
        engine.works.begin().await?;
        if let Some(known) = watch {
            engine.stages.spawn(engine.works.clone().watch_files(known));
        }
        engine.start_keepers(keep);
        engine.start_pushing(collector, &port)?;
        engine.sources.close();
        let world = &engine.shared.world;
        world.metrics.loaded(world.clock.now_ms());
        failpoint::hit("start-ready");
        engine.shared.listener.set_ready();
        engine.shared.space.say(&engine.shared);
        Ok(engine)
    }

    /// Where people act on this engine.
    pub fn desk(&self) -> Desk {
        Desk::of_engine(&self.shared, &self.works)
    }

    /// What is told of this engine to those who watch it.
    pub fn telemetry(&self) -> Telemetry {
        Telemetry::of(&self.shared)
    }

    /// Loads the project from the disk and lets it run, if it is sound; says in the log what became of that.
    pub async fn reload(&self, who: &str) {
        let will = Will {
            how: "reload",
            who: who.to_owned(),
            why: None,
            by: None,
        };
        let reloaded = self.works.reload(will).await;
        super::watch::tell(&reloaded, &self.works.revision());
    }

    /// The revision that runs.
    pub fn revision(&self) -> Arc<str> {
        self.works.revision()
    }

    /// What was found in the store at the start.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Waits until no source can bring more and nothing is in flight. Never ends for projects with a source that does not end.
    pub async fn finished(&self) {
        loop {
            self.sources.wait().await;
            if !self.works.is_endless() {
                break;
            }
            // A reload may bring a source that does end.
            self.shared.world.clock.sleep(ENDLESS_LOOK).await;
        }
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
        let (traced, sending) = &self.traces;
        traced.cancel();
        sending.close();
        tokio::time::timeout(TRACES_WITHIN, sending.wait())
            .await
            .ok();
        self.shared.store.shutdown().await;
        failpoint::hit("stop-store-closed");
        clean
    }

    /// Numbers for a collector, if the settings ask for them.
    fn start_pushing(&self, given: Option<&settings::Otlp>, who: &str) -> Result<(), Failure> {
        let (stop, sending) = &self.traces;
        if let Some(pushing) = pushed::sending(self.telemetry(), given, who, stop.clone())? {
            sending.spawn(pushing);
        }
        Ok(())
    }

    /// What goes on beside the flows.
    fn start_keepers(&self, keep: Retention) {
        let (shared, stages) = (&self.shared, &self.stages);
        stages.spawn(self.works.clone().run());
        stages.spawn(self.works.clone().shadow());
        stages.spawn(due::run(shared.clone()));
        stages.spawn(space::run(shared.clone()));
        let (replays, retention) = (shared.clone(), shared.clone());
        let (desk, name) = (self.desk(), "replays".to_owned());
        stages.spawn(lead::only(shared.clone(), name, move || {
            replay::run(replays.clone(), desk.clone())
        }));
        let (approved, desk) = (shared.clone(), self.desk());
        let name = "approvals".to_owned();
        stages.spawn(lead::only(shared.clone(), name, move || {
            approvals::run(approved.clone(), desk.clone())
        }));
        stages.spawn(lead::only(
            shared.clone(),
            "retention".to_owned(),
            move || sweep::run(retention.clone(), keep),
        ));
        notify::start(shared, stages);
        stages.close();
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
    let batch = project.settings.limits.batch;
    let plans = project.plans.values();
    let stages = plans.flat_map(|plan| stages_of(plan, batch)).collect();
    let settings = project.settings.handoff.rabbitmq.as_ref();
    let name = settings.and_then(|given| given.name.as_deref());
    Topology::new(name.unwrap_or(topology::NAME_DEFAULT), stages)
}

/// The queues of a plan on a broker.
pub(super) fn stages_of(plan: &Plan, batch: Option<u32>) -> Vec<topology::Stage> {
    let batch = batch.unwrap_or(BATCH_DEFAULT);
    let mut stages = Vec::new();
    let stage = |step: &Arc<str>, prefetch: usize| topology::Stage {
        flow: plan.flow.clone(),
        step: step.clone(),
        also: Vec::new(),
        prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
        single: false,
    };
    let batches = 2 * batch as usize;
    // What one run hands over comes before what the run behind it does: one engine at a time stands at the door.
    let mut door = stage(&Arc::from(DOOR), batches);
    door.single = true;
    for (nth, node) in plan.nodes.iter().enumerate() {
        match &node.action {
            // Who makes few calls at a time leaves the rest to other engines.
            Action::Effect(effect) => {
                let calls = effect.promises().concurrency.clamp(2, 64);
                stages.push(stage(&node.id, 4 * calls));
            }
            // It runs with what is before it; a message stands there only when a person has sent it.
            _ if plan.fuses(nth) => door.also.push(node.id.clone()),
            _ => stages.push(stage(&node.id, batches)),
        }
    }
    stages.push(door);
    stages
}

/// Messages in the store whose flow or step the project no longer has: kept, and shown.
async fn homeless(shared: &Shared) -> Result<Vec<(String, String, u64)>, Failure> {
    let project = shared.live.now().project.clone();
    let mut homeless = Vec::new();
    let mut seen = BTreeSet::new();
    for count in shared.store.hop_counts().await? {
        let plan = project.plans.get(&*count.flow);
        let here =
            plan.is_some_and(|plan| &*count.step == DOOR || plan.node(&count.step).is_some());
        let known = here || shared.store.last_of(&count.flow).await?.is_some();
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
