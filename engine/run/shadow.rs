//! Shadows: another revision of some flows is tried on copies of what was accepted, after it has run. Its effects are rendered and compared
//! with those of the revision that runs, and never sent. It works beside the traffic: in small batches, for about a tenth of one processor's
//! time, from a queue that drops what is too much.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::again::message_of;
use super::canary::{WHOLE, not_tried, other_flows, readable};
use super::changes::Changes;
use super::deploy::no_engine;
use super::desk::{Desk, reason_of};
use super::recompute::Recorded;
use super::reload::written::kept;
use super::reload::{Works, short};
use super::{Failure, Shared};
use crate::expression::{Expression, Scope};
use crate::failure::Class;
use crate::store::audit::Acting;
use crate::store::canaries::Others;
use crate::store::commit::Commit;
use crate::store::revisions::{Files, RevisionChange};
use crate::store::runs::RunState;
use crate::store::shadows::{Counts, Finding, Shadow, ShadowChange, ShadowState, ShadowTerms};
use crate::world::disk;

mod compare;
pub(super) mod watching;

use compare::Sides;
use watching::{Waiting, Watching};

/// For each millisecond of work so many of rest: about a tenth of one processor.
const REST: i64 = 9;
/// The shortest and the longest rest.
const REST_LEAST_MS: i64 = 10;
const REST_MOST_MS: i64 = 10_000;
/// After so much work the others of a batch wait for the next one.
const WORK_MOST_MS: i64 = 1_000;
/// How large a body may be that is compared, in bytes.
const BODY_MAX: usize = 1 << 20;
/// How often it is looked whether a shadow runs.
const LOOK_MS: i64 = 2_000;
/// When a message that is still under way is looked at again.
const AGAIN_MS: i64 = 500;
/// A message that is under way for so long is looked at as far as it has come.
const PATIENCE_MS: i64 = 300_000;
/// How often counts are written down.
const WRITE_MS: i64 = 1_000;
/// The longest time that a shadow runs.
const FOR_MOST_MS: u64 = 30 * 86_400_000;

/// What somebody wants to try without effect.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadowing {
    /// The files of the project that is to be tried, by their paths below its folder.
    pub files: BTreeMap<String, String>,
    /// At how many of 10,000 keys it looks.
    pub share: u32,
    /// The expression that is true for the messages at which it looks.
    #[serde(default)]
    pub when: Option<String>,
    /// Only these flows; none: all that differ.
    #[serde(default)]
    pub flows: Vec<String>,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Who; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Why.
    pub why: String,
}

/// A shadow as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShadowShown {
    /// The shadow.
    pub shadow: Shadow,
    /// At how many messages it has looked, by flow.
    #[schema(value_type = BTreeMap<String, Counts>)]
    pub counts: BTreeMap<Arc<str>, Counts>,
    /// What the candidate does otherwise, the most frequent first.
    pub findings: Vec<Finding>,
    /// What it does not try: flows that are new or gone, sources, systems.
    #[serde(default)]
    pub not_tried: Vec<String>,
}

impl Desk {
    /// Begins a shadow: the project of these files is tried on copies of what is accepted from now on.
    ///
    /// Fails with class `validation` for what makes no sense, `conflict` if one runs already, `config` if the project cannot be loaded.
    pub async fn begin_shadow(&self, wish: &Shadowing) -> Result<ShadowShown, Failure> {
        reason_of(&wish.why)?;
        readable(wish.when.as_deref())?;
        if !(1..=WHOLE).contains(&wish.share) {
            return Err(Failure::validation(
                "the share must be more than 0 % and at most 100 %",
            ));
        }
        if !(1..=FOR_MOST_MS).contains(&wish.for_ms) {
            return Err(Failure::validation("a shadow runs for at most 30 days"));
        }
        let works = self.works.as_ref().ok_or_else(no_engine)?;
        works.begin_shadow(wish, self.by()).await
    }

    /// The shadow that runs looks at nothing any more. Its report is kept.
    pub async fn stop_shadow(&self, who: &str, why: &str) -> Result<ShadowShown, Failure> {
        let why = reason_of(why)?;
        let running = self.store.shadow().await?;
        let shadow = running.ok_or_else(|| Failure::new(Class::NotFound, "no shadow runs"))?;
        let commit = Commit {
            shadows: vec![ShadowChange::End(shadow.id, who.to_owned(), why.to_owned())],
            by: self.by(),
            ..Commit::default()
        };
        self.store.commit(commit).await?;
        if let Some(works) = &self.works {
            works.follow_shadow().await?;
        }
        let mut all = self.shadows(usize::MAX).await?.into_iter();
        all.find(|one| one.shadow.id == shadow.id)
            .ok_or_else(|| Failure::internal("the shadow is gone"))
    }

    /// The last shadows with what came of them, the newest first.
    pub async fn shadows(&self, limit: usize) -> Result<Vec<ShadowShown>, Failure> {
        let mut shown = Vec::new();
        for shadow in self.store.shadows(limit).await? {
            let (counts, findings) = self.store.shadow_report(shadow.id).await?;
            shown.push(ShadowShown {
                shadow,
                counts,
                findings,
                not_tried: Vec::new(),
            });
        }
        Ok(shown)
    }
}

impl Works {
    /// Checks the project of a shadow, keeps it, and looks at what is accepted from now on.
    async fn begin_shadow(
        &self,
        wish: &Shadowing,
        by: Option<Box<Acting>>,
    ) -> Result<ShadowShown, Failure> {
        let shared = self.shared();
        if let Some(runs) = shared.store.shadow().await? {
            return Err(Failure::new(
                Class::Conflict,
                format!(
                    "a shadow runs already, of revision {} by {}; stop it first",
                    short(&runs.revision),
                    runs.who
                ),
            ));
        }
        let files = wish.files.iter();
        let files: Files = files
            .map(|(path, text)| (path.clone(), text.clone().into()))
            .collect();
        let mut project = self.of_files(files).await?;
        let base = shared.live.now().project.clone();
        project.runs_where(&base);
        let changes = Changes::between(Some(&base), &project);
        let flows = meant(other_flows(&base, &project)?, &wish.flows)?;
        let for_ms = i64::try_from(wish.for_ms).unwrap_or(i64::MAX / 4);
        let shadow = Shadow {
            id: 0,
            revision: project.revision.clone(),
            base: base.revision.clone(),
            terms: ShadowTerms {
                flows,
                share: wish.share,
                when: wish.when.clone(),
            },
            state: ShadowState::Running,
            at_ms: 0,
            until_ms: shared.world.clock.now_ms().saturating_add(for_ms),
            who: wish.who.clone(),
            why: wish.why.clone(),
            ended_at_ms: None,
            ended_by: None,
            ended_why: None,
        };
        let commit = Commit {
            revisions: vec![RevisionChange::Try(kept(&project))],
            shadows: vec![ShadowChange::Begin(shadow)],
            by,
            ..Commit::default()
        };
        shared.commit(commit).await?;
        self.follow_shadow().await?;
        // A short one may be over by now.
        let begun = shared.store.shadows(1).await?.pop();
        let shadow = begun
            .filter(|begun| begun.revision == project.revision && begun.who == wish.who)
            .ok_or_else(|| {
                Failure::new(Class::Conflict, "another shadow began at the same moment")
            })?;
        Ok(ShadowShown {
            shadow,
            counts: BTreeMap::new(),
            findings: Vec::new(),
            not_tried: not_tried(&changes),
        })
    }

    /// Follows what the store says of shadows. One is held against one revision: when this engine has followed it and another revision runs
    /// here now, it is over.
    async fn follow_shadow(&self) -> Result<(), Failure> {
        let shared = self.shared();
        let _one = shared.shadows.following.lock().await;
        let mut running = shared.store.shadow().await?;
        let now = shared.live.now().project.clone();
        let known = shared.shadows.now();
        let followed = known.as_ref().map(|known| known.shadow.id);
        if let Some(shadow) = running.take_if(|shadow| shadow.base != now.revision) {
            let (runs, ran) = (short(&now.revision), short(&shadow.base));
            if followed == Some(shadow.id) {
                let why = format!("{runs} runs in the place of {ran}");
                self.end_shadow(&shadow, &why).await?;
            } else if shared.shadows.other.swap(shadow.id, Ordering::Relaxed) != shadow.id {
                // Another engine runs that revision: it is for that one to say when it is over.
                tracing::info!(
                    "a shadow is held against revision {ran}, and {runs} runs here: this engine does not follow it"
                );
            }
        }
        let now_ms = shared.store.at(shared.world.clock.now_ms());
        if let Some(shadow) = running.take_if(|shadow| shadow.until_ms <= now_ms) {
            self.end_shadow(&shadow, "its time is over").await?;
        }
        if followed == running.as_ref().map(|running| running.id) {
            return Ok(());
        }
        let next = match running {
            None => None,
            Some(shadow) => match self.watching(shadow.clone()).await {
                Ok(watching) => Some(Arc::new(watching)),
                Err(failure) if failure.class == Class::Config => {
                    self.end_shadow(&shadow, &failure.message).await?;
                    None
                }
                Err(failure) => return Err(failure),
            },
        };
        let before = shared.shadows.put(next.clone());
        if let Some(next) = &next {
            let flows: Vec<&str> = next.flows.keys().map(|flow| &**flow).collect();
            tracing::info!(
                "a shadow runs: revision {} is tried on copies of {} of {}; it sends nothing",
                short(&next.shadow.revision),
                share_told(&next.shadow),
                flows.join(", ")
            );
        }
        shared.shadows.bell.notify_one();
        let Some(before) = before else { return Ok(()) };
        tracing::info!("the shadow is over; `crossdock shadow` shows what came of it");
        before.leave("left when it ended");
        self.write_shadow(&before).await
    }

    async fn watching(&self, shadow: Shadow) -> Result<Watching, Failure> {
        let when = shadow.terms.when.as_deref().map(Expression::compile);
        let when = when
            .transpose()
            .map_err(|_| Failure::config("the shadow's expression is of a newer program"))?;
        let now = self.shared().live.now().project.clone();
        let mut flows = BTreeMap::new();
        for (flow, (_, revision)) in &shadow.terms.flows {
            let Some(base) = now.plans.get(flow).cloned() else {
                continue;
            };
            let sides = Sides {
                base: (now.clone(), base),
                candidate: self.older_plan(flow, revision).await?,
            };
            flows.insert(flow.clone(), Arc::new(sides));
        }
        Ok(Watching {
            shadow,
            flows,
            when,
            seen: Mutex::default(),
        })
    }

    async fn end_shadow(&self, shadow: &Shadow, why: &str) -> Result<(), Failure> {
        let end = ShadowChange::End(shadow.id, "the engine".to_owned(), why.to_owned());
        let commit = Commit {
            shadows: vec![end],
            ..Commit::default()
        };
        self.shared().commit(commit).await.map(drop)
    }

    async fn write_shadow(&self, watching: &Watching) -> Result<(), Failure> {
        let tallies = watching.take();
        if tallies.is_empty() {
            return Ok(());
        }
        let commit = Commit {
            shadows: watching.told(&tallies),
            ..Commit::default()
        };
        let written = self.shared().commit(commit).await.map(drop);
        if written.is_err() {
            watching.give_back(tallies);
        }
        written
    }

    /// Looks at what was accepted while a shadow runs, until the engine stops.
    pub(super) async fn shadow(self: Arc<Self>) {
        let shared = self.shared().clone();
        let clock = &shared.world.clock;
        let (mut follow_ms, mut write_ms, mut look_ms) = (i64::MIN, i64::MIN, i64::MIN);
        loop {
            if clock.steady_ms() >= follow_ms {
                follow_ms = clock.steady_ms() + LOOK_MS;
                self.said(self.follow_shadow().await);
            }
            let watching = shared.shadows.now();
            let mut next_ms = follow_ms;
            if let Some(watching) = &watching {
                let began_ms = clock.steady_ms();
                if began_ms >= look_ms {
                    let looked = look(&shared, watching).await;
                    let rest_ms = match looked {
                        true => (clock.steady_ms() - began_ms) * REST,
                        false => AGAIN_MS,
                    };
                    look_ms = clock.steady_ms() + rest_ms.clamp(REST_LEAST_MS, REST_MOST_MS);
                }
                let left = !shared.shadows.is(watching);
                if left {
                    // It was stopped meanwhile, and what is still there came after that was written down.
                    watching.leave("left when it ended");
                }
                if left || clock.steady_ms() >= write_ms {
                    write_ms = clock.steady_ms() + WRITE_MS;
                    self.said(self.write_shadow(watching).await);
                }
                next_ms = next_ms.min(look_ms);
            }
            let rest_ms = next_ms - clock.steady_ms();
            let rest = Duration::from_millis(u64::try_from(rest_ms).unwrap_or(0));
            tokio::select! {
                () = shared.stop.cancelled() => {
                    if let Some(watching) = watching {
                        watching.leave("the engine stopped");
                        self.said(self.write_shadow(&watching).await);
                    }
                    return;
                }
                () = shared.shadows.bell.notified() => {}
                () = clock.sleep(rest) => {}
            }
        }
    }

    fn said(&self, done: Result<(), Failure>) {
        if let Err(failure) = done
            && !self.shared().store.has_said(&failure)
        {
            tracing::warn!(
                "the shadow could not be followed; messages are as they were: {failure}"
            );
        }
    }
}

/// Of the flows that differ those that are meant; none named: all.
fn meant(mut flows: Others, named: &[String]) -> Result<Others, Failure> {
    for name in named {
        if !flows.contains_key(&**name) {
            let names: Vec<&str> = flows.keys().map(|flow| &**flow).collect();
            let names = names.join(", ");
            return Err(Failure::validation(format!(
                "the flow `{name}` is no other one there; those that are: {names}"
            )));
        }
    }
    if !named.is_empty() {
        flows.retain(|flow, _| named.iter().any(|name| **name == **flow));
    }
    Ok(flows)
}

/// Looks at some of the messages that wait; whether there were any to look at.
async fn look(shared: &Arc<Shared>, watching: &Arc<Watching>) -> bool {
    let now_ms = shared.world.clock.steady_ms();
    let next = watching.next(now_ms);
    if next.is_empty() {
        return false;
    }
    let ids = next.iter().map(|one| one.run).collect();
    let Ok(rest) = shared.store.runs_at_rest(ids).await else {
        // The store says so itself; they are looked at later.
        watching.seen().waiting.extend(next);
        return false;
    };
    let mut looked = false;
    for mut one in next {
        let worked_ms = shared.world.clock.steady_ms() - now_ms;
        let over = shared.stop.is_cancelled() || !shared.shadows.is(watching);
        if over || worked_ms >= WORK_MOST_MS {
            watching.seen().waiting.push_front(one);
            continue;
        }
        if !rest.contains(&one.run) && now_ms - one.since_ms < PATIENCE_MS {
            one.look_ms = now_ms + AGAIN_MS;
            watching.seen().waiting.push_back(one);
            continue;
        }
        looked = true;
        if let Err(why) = look_at(shared, watching, &one).await {
            watching.seen().skip(&one.flow, why);
        }
    }
    looked
}

/// Compares what both sides make of a message; the error says why that cannot be.
async fn look_at(
    shared: &Arc<Shared>,
    watching: &Arc<Watching>,
    one: &Waiting,
) -> Result<(), &'static str> {
    let run = shared.store.run(&one.run.0.to_string()).await;
    let detail = run.map_err(|_| "the store could not be read")?;
    let detail = detail.ok_or("it is gone")?;
    if detail.row.state == RunState::Superseded {
        return Err("it was begun again");
    }
    let bytes = detail.body.as_ref().map_or(0, |body| body.len());
    if bytes > BODY_MAX {
        return Err("too large to compare");
    }
    let message = message_of(&detail).map_err(|_| "its body is gone")?;
    let sides = watching.flows.get(&one.flow).ok_or("it is gone")?.clone();
    let watching = watching.clone();
    let flow = one.flow.clone();
    let compared = disk::aside(move || {
        if let Some(when) = &watching.when {
            let scope = Scope::of(&message, &sides.base.1.tables);
            match scope.and_then(|scope| when.decide(&scope)) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) => {
                    watching.seen().skip(&flow, "`when` could not be decided");
                    return Ok(());
                }
            }
        }
        let recorded = Recorded::of(detail.effects.clone(), detail.generation);
        let compared = compare::compare(&sides, &message, &recorded);
        watching.count(&flow, &detail, compared);
        Ok(())
    });
    compared.await.map_err(|_| "it brought the comparison down")
}

/// At which messages a shadow looks, in words.
pub fn share_told(shadow: &Shadow) -> String {
    let share = match shadow.terms.share {
        WHOLE => "all messages".to_owned(),
        share => format!("{} % of the messages", f64::from(share) / 100.0),
    };
    match &shadow.terms.when {
        Some(when) => format!("{share} with `{when}`"),
        None => share,
    }
}
