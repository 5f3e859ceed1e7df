//! Hot reload: a whole project takes the place of another while messages are in flight. What was accepted ends under the revision that it
//! has; what comes is accepted under the new one. What is not as it was is a value (`changes`); here is the order in which it is done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::canary::Following;
use super::changes::{Changes, What};
use super::fronts::Fronts;
use super::units::Units;
use super::{Failure, Plan, Shared, supervisor, systems, watch};
use crate::diagnostic::{Findings, render};
use crate::failure::Class;
use crate::flow::Loader;
use crate::flow::plan::Project;
use crate::handoff::rabbitmq::topology::Topology;
use crate::source::Ready;
use crate::store::audit::Acting;
use crate::store::canaries::{Canary, CanaryChange, CanaryState};
use crate::store::commit::{Commit, DOOR};
use crate::store::revisions::Withdrawn;
use crate::store::toggles::Toggle;
use crate::world::{disk, failpoint};

use written::{record, target, withdraw};

mod older;
pub(super) mod written;

/// How often it is looked whether older revisions are done with, and whether a revision was withdrawn elsewhere.
const LOOK: Duration = Duration::from_secs(2);
/// How long it takes until a revision that could not be had is looked for again.
const AGAIN_AFTER_MS: i64 = 60_000;

/// By whose will a project is to run.
#[derive(Clone, Debug)]
pub struct Will {
    /// By a `start`, a `reload` or a `rollback`.
    pub how: &'static str,
    /// Who.
    pub who: String,
    /// Why, if a person said so.
    pub why: Option<String>,
    /// Who acts, for the audit log; `None`: the engine.
    pub by: Option<Box<Acting>>,
}

/// What became of a reload.
#[derive(Debug)]
pub enum Reloaded {
    /// Another revision runs; the findings are warnings.
    Switched(Changes, Findings),
    /// The project is as it runs.
    Same(Findings),
    /// The project was withdrawn. What runs in its place runs on.
    Withdrawn(Withdrawn),
    /// The project cannot be loaded. What ran runs on.
    Refused(Findings),
}

/// What lies on the disk.
enum Looked {
    /// A project that is to take the place of what runs.
    Other(Box<Project>, Changes, Findings),
    /// None, and what that comes to; with the revision, if it can be loaded.
    Otherwise(Reloaded, Option<Arc<str>>),
}

/// Everything of an engine that a reload changes. One reload at a time.
pub(super) struct Works {
    shared: Arc<Shared>,
    units: Units,
    fronts: Mutex<Fronts>,
    loader: StdMutex<Loader>,
    root: Arc<Path>,
    /// The revision that lies on the disk, as it was last loaded.
    disk: StdMutex<Arc<str>>,
    /// Since when the files on the disk cannot be loaded, in milliseconds since 1970, and why.
    refused: StdMutex<Option<(i64, String)>>,
    sources: TaskTracker,
    stages: TaskTracker,
    /// Stops those who tell how systems are.
    watched: StdMutex<CancellationToken>,
    /// When revisions that could not be had are looked for again, by the steady clock.
    again_ms: AtomicI64,
    /// What is stopped, as far as it was followed.
    toggles: StdMutex<Vec<Toggle>>,
    /// The canary that runs, as far as it was followed.
    canary: StdMutex<Option<Arc<Following>>>,
    /// Projects of older revisions, by their revision.
    older: StdMutex<BTreeMap<Arc<str>, Arc<Project>>>,
}

impl Works {
    pub(super) fn new(
        shared: &Arc<Shared>,
        root: &Path,
        loader: Option<Loader>,
        intake: CancellationToken,
        (sources, stages): (TaskTracker, TaskTracker),
    ) -> Works {
        Works {
            units: Units::new(stages.clone()),
            fronts: Mutex::new(Fronts::new(root, intake, sources.clone(), stages.clone())),
            loader: StdMutex::new(loader.unwrap_or_else(|| Loader::new(root, &shared.world))),
            root: Arc::from(root),
            refused: StdMutex::default(),
            disk: StdMutex::new(shared.live.now().project.revision.clone()),
            shared: shared.clone(),
            sources,
            stages,
            watched: StdMutex::new(shared.stop.child_token()),
            again_ms: AtomicI64::new(i64::MAX),
            toggles: StdMutex::default(),
            canary: StdMutex::default(),
            older: StdMutex::default(),
        }
    }

    /// Decides what runs at the start of the engine: what is on the disk, unless it was withdrawn; and writes it down if it is news.
    pub(super) async fn choose(&self) -> Result<(), Failure> {
        let shared = &self.shared;
        let mut project = shared.live.now().project.clone();
        let withdrawn = shared.store.withdrawn().await?;
        let target = target(&withdrawn, &project.revision);
        if target != project.revision {
            tracing::warn!(
                "the project on the disk is revision {}, which was withdrawn; {} runs instead. `crossdock revisions` says by whom and why",
                short(&project.revision),
                short(&target)
            );
            project = Arc::new(self.kept_project(&target).await?);
            shared.handoff.stations(supervisor::topology_of(&project));
            shared.live.put(project.clone());
        }
        let last = shared.store.deployments(1).await?;
        let last = last.first().map(|last| last.revision.clone());
        let kept = shared.store.kept(&project.revision).await?.is_some();
        if kept && last.as_ref() == Some(&project.revision) {
            return Ok(());
        }
        let will = Will {
            how: "start",
            who: self.root.display().to_string(),
            why: None,
            by: None,
        };
        let commit = Commit {
            revisions: record(&project, last, String::new(), &will),
            ..Commit::default()
        };
        shared.commit(commit).await.map(drop)
    }

    /// Whether there is a source that does not end, or none at all.
    pub(super) fn is_endless(&self) -> bool {
        let project = self.shared.live.now().project.clone();
        let plans = project.plans.values();
        let mut sources = plans.filter_map(|plan| match &plan.source {
            Ready::Runs(source) => Some(source),
            Ready::Flow => None,
        });
        match sources.next() {
            Some(first) => !first.ends() || sources.any(|source| !source.ends()),
            None => true,
        }
    }

    /// Starts the project that is there at the start of the engine.
    pub(super) async fn begin(&self) -> Result<(), Failure> {
        let shared = &self.shared;
        let project = shared.live.now().project.clone();
        let watched = systems::begin(shared, &project, None).await?;
        self.watch(watched, true);
        let mut fronts = self.fronts.lock().await;
        self.follow_toggles_with(&mut fronts).await?;
        self.look_at_canary(&mut fronts).await;
        for plan in project.plans.values() {
            self.units.start(shared, plan, &plan.revision, true);
        }
        // What is in flight under other revisions goes on before anything new comes in.
        while let Some((flow, revision)) = shared.handoff.wanted_now() {
            self.wanted(&mut fronts, flow, revision).await;
        }
        let plans: Vec<Arc<Plan>> = project.plans.values().cloned().collect();
        fronts.put(shared, &plans).await
    }

    /// Serves what hops want, and tidies up behind revisions that are done with, until the engine stops.
    pub(super) async fn run(self: Arc<Self>) {
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                (flow, revision) = shared.handoff.wanted() => {
                    let mut fronts = self.fronts.lock().await;
                    self.wanted(&mut fronts, flow, revision).await;
                }
                () = shared.world.clock.sleep(LOOK) => self.look().await,
            }
        }
    }

    /// Hops want a revision that has no stages here. If it cannot be had, they wait, people are told, and it is looked for again: to let them
    /// go on under another one is for a person to decide.
    async fn wanted(&self, fronts: &mut Fronts, flow: Arc<str>, revision: Arc<str>) {
        let Err(failure) = self.serve(fronts, &flow, &revision).await else {
            return;
        };
        if !self.shared.store.has_said(&failure) {
            tracing::error!(
                "messages of the flow `{flow}` wait, because revision {} of it cannot be loaded: {failure}. Bring back what it needs, or let them begin anew: `crossdock replay rerun`",
                short(&revision)
            );
        }
        let again_ms = self.shared.world.clock.steady_ms() + AGAIN_AFTER_MS;
        self.again_ms.store(again_ms, Ordering::Relaxed);
    }

    async fn look(self: &Arc<Self>) {
        self.units.tidy(&self.shared);
        self.take_strays().await;
        if self.shared.world.clock.steady_ms() >= self.again_ms.load(Ordering::Relaxed) {
            self.again_ms.store(i64::MAX, Ordering::Relaxed);
            self.shared.handoff.ask_again();
        }
        if self.shared.store.is_shared()
            && let Err(failure) = self.follow().await
            && !self.shared.store.has_said(&failure)
        {
            tracing::warn!("what was withdrawn could not be followed: {failure}");
        }
        let Ok(mut fronts) = self.fronts.try_lock() else {
            return;
        };
        if let Err(failure) = self.follow_toggles_with(&mut fronts).await
            && !self.shared.store.has_said(&failure)
        {
            tracing::warn!("what is stopped could not be followed: {failure}");
        }
        self.look_at_canary(&mut fronts).await;
        let project = self.shared.live.now().project.clone();
        // Whoever is in flight may still hand over to a flow that is gone.
        let busy = self
            .units
            .older(&self.shared)
            .iter()
            .any(|(_, many)| *many > 0);
        for flow in fronts.flows() {
            let gone = !project.plans.contains_key(&flow);
            if gone && !busy && self.shared.handoff.many(&flow, DOOR) == 0 {
                fronts.remove(&self.shared, &flow);
            }
        }
    }

    /// Messages stand at steps that only a revision of another engine has, which may be gone: they are taken here too.
    async fn take_strays(&self) {
        let shared = &self.shared;
        for (flow, step) in shared.handoff.strays() {
            let found = async {
                let Some(revision) = shared.store.revision_at(&flow, &step).await? else {
                    return Ok(());
                };
                if let Some(plan) = self.plan_for(&flow, &revision).await? {
                    self.stations_of(&plan);
                }
                Ok::<_, Failure>(())
            };
            if let Err(failure) = found.await {
                tracing::debug!("messages at {flow}/{step} are left to other engines: {failure}");
            }
        }
    }

    /// Messages may stand at the steps of this plan as well.
    pub(super) fn stations_of(&self, plan: &Plan) {
        let batch = self.shared.live.now().project.settings.limits.batch;
        let stages = supervisor::stages_of(plan, batch);
        self.shared.handoff.stations(Topology::new("", stages));
    }

    /// Starts what hops of this revision need.
    async fn serve(
        &self,
        fronts: &mut Fronts,
        flow: &Arc<str>,
        revision: &Arc<str>,
    ) -> Result<(), Failure> {
        let shared = &self.shared;
        let current = shared.live.now().project.plans.get(flow).cloned();
        if **revision == *DOOR {
            if fronts.has(flow) {
                return Ok(());
            }
            let plan = match current.or_else(|| self.units.any(shared, flow)) {
                Some(plan) => plan,
                None => match shared.store.last_of(flow).await? {
                    Some(last) => self.older_plan(flow, &last).await?.1,
                    None => return homeless(flow),
                },
            };
            fronts.open_door(shared, &plan).await;
            return Ok(());
        }
        if self.units.plan(flow, revision).is_some() {
            return Ok(());
        }
        let Some(plan) = self.plan_for(flow, revision).await? else {
            return homeless(flow);
        };
        let current = current.is_some_and(|current| current.revision == *revision);
        self.stations_of(&plan);
        self.units.start(shared, &plan, revision, current);
        Ok(())
    }

    /// Loads the project from the disk and lets it run, if it is sound and another one. It is done to its end, also if nobody waits for it any more.
    pub(super) async fn reload(self: &Arc<Self>, will: Will) -> Result<Reloaded, Failure> {
        let works = self.clone();
        let reloaded = to_its_end(
            self.stages
                .spawn(async move { works.reload_now(will).await }),
        )
        .await;
        self.count(match &reloaded {
            Ok(Reloaded::Switched(..)) => "switched",
            Ok(Reloaded::Same(_)) => "same",
            Ok(Reloaded::Withdrawn(_)) => "withdrawn",
            Ok(Reloaded::Refused(_)) => "refused",
            Err(_) => "failed",
        });
        reloaded
    }

    fn count(&self, result: &str) {
        let world = &self.shared.world;
        let at_ms = (result == "switched").then(|| world.clock.now_ms());
        world.metrics.reloaded(result, at_ms);
    }

    async fn reload_now(self: &Arc<Self>, will: Will) -> Result<Reloaded, Failure> {
        let mut fronts = self.fronts.lock().await;
        let looked = self.look_at_disk().await?;
        self.note(&looked);
        let (project, changes, findings) = match looked {
            Looked::Other(project, changes, findings) => (*project, changes, findings),
            Looked::Otherwise(reloaded, _) => return Ok(reloaded),
        };
        self.switch(&mut fronts, project, &changes, will, Commit::default())
            .await?;
        Ok(Reloaded::Switched(changes, findings))
    }

    /// What a reload would do.
    pub(super) async fn would(self: &Arc<Self>) -> Result<Reloaded, Failure> {
        Ok(match self.look_at_disk().await? {
            Looked::Other(_, changes, findings) => Reloaded::Switched(changes, findings),
            Looked::Otherwise(reloaded, _) => reloaded,
        })
    }

    /// The project on the disk, as far as it is to take the place of what runs. Changes nothing.
    async fn look_at_disk(self: &Arc<Self>) -> Result<Looked, Failure> {
        let works = self.clone();
        let loaded = disk::aside(move || Ok(lock(&works.loader).load())).await?;
        failpoint::hit("reload-loaded");
        let Some(project) = loaded.project else {
            return Ok(Looked::Otherwise(Reloaded::Refused(loaded.findings), None));
        };
        let on_disk = Some(project.revision.clone());
        let mut withdrawn = self.shared.store.withdrawn().await?;
        withdrawn.retain(|one| one.revision == project.revision);
        if let Some(withdrawn) = withdrawn.pop() {
            return Ok(Looked::Otherwise(Reloaded::Withdrawn(withdrawn), on_disk));
        }
        let changes = Changes::between(Some(&self.shared.live.now().project), &project);
        Ok(match changes.is_empty() {
            true => Looked::Otherwise(Reloaded::Same(loaded.findings), on_disk),
            false => Looked::Other(Box::new(project), changes, loaded.findings),
        })
    }

    /// Notes which revision lies on the disk, or that it holds none that can be loaded.
    fn note(&self, looked: &Looked) {
        let on_disk = match looked {
            Looked::Other(project, ..) => Some(&project.revision),
            Looked::Otherwise(_, on_disk) => on_disk.as_ref(),
        };
        let mut refused = lock(&self.refused);
        if let Looked::Otherwise(Reloaded::Refused(findings), _) = looked {
            let now_ms = self.shared.world.clock.now_ms();
            let since_ms = refused.take().map_or(now_ms, |(since_ms, _)| since_ms);
            *refused = Some((since_ms, render::summary(findings)));
        } else {
            *refused = None;
        }
        if let Some(on_disk) = on_disk {
            *lock(&self.disk) = on_disk.clone();
        }
    }

    /// Withdraws what runs in favour of a revision that is kept, and runs that.
    pub(super) async fn roll_back(
        self: &Arc<Self>,
        to: &str,
        will: Will,
    ) -> Result<Changes, Failure> {
        let (works, to) = (self.clone(), to.to_owned());
        let rolled_back = to_its_end(
            self.stages
                .spawn(async move { works.roll_back_now(&to, will).await }),
        )
        .await;
        self.count(match &rolled_back {
            Ok(_) => "switched",
            Err(_) => "failed",
        });
        rolled_back
    }

    async fn roll_back_now(self: &Arc<Self>, to: &str, will: Will) -> Result<Changes, Failure> {
        let mut fronts = self.fronts.lock().await;
        let (project, changes) = self.other(to).await?;
        let also = Commit {
            revisions: withdraw(&self.revision(), &project.revision, &will),
            ..Commit::default()
        };
        self.switch(&mut fronts, project, &changes, will, also)
            .await?;
        Ok(changes)
    }

    /// Withdraws what runs in favour of a canary's revision, which is for all from now on.
    pub(super) async fn promote(
        self: &Arc<Self>,
        canary: &Canary,
        will: Will,
    ) -> Result<(), Failure> {
        let (works, canary) = (self.clone(), canary.clone());
        to_its_end(self.stages.spawn(async move {
            let mut fronts = works.fronts.lock().await;
            let runs = works.shared.store.canary().await?;
            if runs.is_none_or(|runs| runs.id != canary.id || runs.base != works.revision()) {
                let why = "the canary ended a moment ago; look with `crossdock canary` why";
                return Err(Failure::new(Class::Conflict, why));
            }
            let (project, changes) = works.other(&canary.revision).await?;
            let (who, why) = (will.who.clone(), will.why.clone().unwrap_or_default());
            let also = Commit {
                revisions: withdraw(&works.revision(), &project.revision, &will),
                canaries: vec![CanaryChange::End(
                    canary.id,
                    CanaryState::Promoted,
                    who,
                    why,
                )],
                ..Commit::default()
            };
            works
                .switch(&mut fronts, project, &changes, will, also)
                .await
        }))
        .await
    }

    /// What it would change to run a revision that is kept.
    pub(super) async fn would_roll_back(&self, to: &str) -> Result<Changes, Failure> {
        self.other(to).await.map(|(_, changes)| changes)
    }

    async fn other(&self, to: &str) -> Result<(Project, Changes), Failure> {
        let now = self.shared.live.now().project.clone();
        if *to == *now.revision {
            return Err(Failure::new(Class::Conflict, "this revision runs already"));
        }
        let project = self.kept_project(to).await?;
        let changes = Changes::between(Some(&now), &project);
        Ok((project, changes))
    }

    /// Follows what was withdrawn, or lifted, by another engine or while none ran.
    async fn follow(self: &Arc<Self>) -> Result<(), Failure> {
        let withdrawn = self.shared.store.withdrawn().await?;
        let disk = lock(&self.disk).clone();
        let to = target(&withdrawn, &disk);
        if to == self.revision() {
            return Ok(());
        }
        if to == disk {
            let reloaded = self.reload(Will::of_files(&self.root)).await;
            watch::tell(&reloaded, &self.revision());
            return Ok(());
        }
        let mut fronts = self.fronts.lock().await;
        let (project, changes) = self.other(&to).await?;
        let by = withdrawn.iter().find(|one| one.revision == disk);
        let will = Will {
            how: "rollback",
            who: by.map_or_else(String::new, |one| one.who.clone()),
            why: by.and_then(|one| one.why.clone()),
            by: None,
        };
        let who = will.who.clone();
        self.switch(&mut fronts, project, &changes, will, Commit::default())
            .await?;
        tracing::warn!(
            "revision {} was withdrawn by {}; {} runs instead",
            short(&disk),
            who,
            short(&to)
        );
        Ok(())
    }

    /// The revision that runs.
    pub(super) fn revision(&self) -> Arc<str> {
        self.shared.live.now().project.revision.clone()
    }

    /// Since when the files on the disk cannot be loaded, in milliseconds since 1970, and why.
    pub(super) fn refused(&self) -> Option<(i64, String)> {
        lock(&self.refused).clone()
    }

    /// What an engine's parts share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The ways in.
    pub(super) fn fronts(&self) -> &Mutex<Fronts> {
        &self.fronts
    }

    /// What is stopped, as far as it was followed.
    pub(super) fn toggles(&self) -> Vec<Toggle> {
        lock(&self.toggles).clone()
    }

    /// This is stopped from now on; gives what was before.
    pub(super) fn toggled(&self, now: Vec<Toggle>) -> Vec<Toggle> {
        std::mem::replace(&mut *lock(&self.toggles), now)
    }

    /// The canary that runs, as far as it was followed.
    pub(super) fn canary(&self) -> Option<Arc<Following>> {
        lock(&self.canary).clone()
    }

    /// This canary is followed from now on; gives the one before.
    pub(super) fn set_canary(&self, next: Option<Arc<Following>>) -> Option<Arc<Following>> {
        std::mem::replace(&mut *lock(&self.canary), next)
    }

    /// The project's folder.
    pub(super) fn root(&self) -> Arc<Path> {
        self.root.clone()
    }

    /// Cancelled when the engine stops.
    pub(super) fn stop(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    /// Puts a project in the place of the one that runs. Once it is written down it is done; what fails after that is told.
    async fn switch(
        self: &Arc<Self>,
        fronts: &mut Fronts,
        project: Project,
        changes: &Changes,
        will: Will,
        also: Commit,
    ) -> Result<(), Failure> {
        // Sources that end must not look like the end of all work.
        let _goes_on = self.sources.token();
        let shared = &self.shared;
        let last = shared.live.now().project.clone();
        let project = Arc::new(project);
        let commit = self.written(&project, &last, changes, &will, also);
        self.write_counts().await?;
        shared.commit(commit).await?;
        failpoint::hit("reload-recorded");
        shared.handoff.stations(supervisor::topology_of(&project));
        match systems::begin(shared, &project, Some(&last)).await {
            Ok(watched) => self.watch(watched, false),
            Err(failure) => {
                tracing::error!(%failure, "which steps use which systems could not be written down; a restart does it");
            }
        }
        self.pause_systems(&project);
        let mut changed = Vec::new();
        for plan in project.plans.values() {
            let as_it_was = last
                .plans
                .get(&plan.flow)
                .is_some_and(|was| was.prints.whole == plan.prints.whole);
            if as_it_was {
                continue;
            }
            self.units.start(shared, plan, &plan.revision, true);
            self.units.outdate(&plan.flow, Some(&plan.revision));
            changed.push(plan.clone());
        }
        shared.live.put(project.clone());
        if self.set_canary(None).is_some() {
            fronts.split(shared, BTreeMap::new()).await;
        }
        failpoint::hit("reload-live");
        if let Err(failure) = fronts.put(shared, &changed).await {
            tracing::error!(%failure, "a source of the new revision has not begun");
        }
        for flow in changes.flows_that(What::Removed) {
            fronts.shut(flow).await;
            self.units.outdate(flow, None);
        }
        if !changes.systems.is_empty() || changes.flows_that(What::Restarted).next().is_some() {
            self.older().clear();
            self.replace_older(&project).await;
        }
        shared.handoff.ask_again();
        // Last, when nobody acts on what was any more.
        let anew = changes.systems.iter();
        let anew: Vec<&str> = anew.map(|system| system.name.as_str()).collect();
        if let Err(failure) = systems::begin_anew(shared, &project, &anew).await {
            tracing::warn!(
                "what waits for a system that has changed waits until its time: {failure}"
            );
        }
        failpoint::hit("reload-done");
        Ok(())
    }

    /// What is written down when a project takes the place of another.
    fn written(
        &self,
        project: &Project,
        last: &Project,
        changes: &Changes,
        will: &Will,
        also: Commit,
    ) -> Commit {
        let before = Some(last.revision.clone());
        let mut revisions = record(project, before, changes.line(), will);
        revisions.extend(also.revisions);
        let end = self.end_of_canary(also.canaries, project);
        Commit {
            revisions,
            canaries: end.into_iter().collect(),
            by: will.by.clone(),
            ..Commit::default()
        }
    }

    /// Tells how systems are, instead of those who did.
    fn watch(&self, watched: Vec<systems::Watched>, at_start: bool) {
        let stop = self.shared.stop.child_token();
        let mut last = lock(&self.watched);
        last.cancel();
        *last = stop.clone();
        for system in watched {
            self.stages
                .spawn(system.run(self.shared.clone(), stop.clone(), at_start));
        }
    }
}

/// A revision as it is shown.
pub fn short(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

/// Waits for work that goes on whether or not somebody waits.
async fn to_its_end<T>(work: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    work.await
        .unwrap_or_else(|_| Err(Failure::internal("a reload was broken off by a defect")))
}

fn homeless(flow: &str) -> Result<(), Failure> {
    tracing::warn!(
        flow,
        "messages wait for a flow that the project no longer has; they are kept"
    );
    Ok(())
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
