//! What people have stopped: a flow, a step, a sink, a system. It stands in the store, counts on every engine there and over restarts, and is
//! stronger than the project's files.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::desk::{Desk, reason_of};
use super::fronts::Fronts;
use super::reload::Works;
use super::{Failure, systems};
use crate::failure::Class;
use crate::flow::plan::{Plan, Project};
use crate::store::commit::Commit;
use crate::store::toggles::{How, Target, Toggle, ToggleChange};

/// How many targets one wish may name.
const TARGETS_MAX: usize = 1_000;
/// How many names a refusal lists.
const NAMES_MAX: usize = 10;

/// What a person wishes to be stopped, or to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Toggling {
    /// What: `FLOW`, `FLOW/STEP` or `system:NAME`.
    #[schema(value_type = Vec<String>)]
    pub targets: Vec<Target>,
    /// How it is stopped; `None`: it goes on.
    pub to: Option<How>,
    /// Who wishes it; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Why. Needed for what is stopped.
    #[serde(default)]
    pub why: Option<String>,
    /// Until when it is stopped, in milliseconds since 1970; `None`: until somebody lets it go on.
    #[serde(default)]
    pub until_ms: Option<i64>,
}

/// How a target is, and was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Toggled {
    /// What.
    #[schema(value_type = String)]
    pub target: Target,
    /// How it was stopped before.
    pub before: Option<Toggle>,
    /// How it is stopped now.
    pub now: Option<Toggle>,
    /// How many messages stand there.
    pub waiting: u64,
}

impl Desk {
    /// Stops what is named, or lets it go on: all of it, or nothing if one of the names is unknown. Engines that share the store follow within
    /// two seconds.
    ///
    /// Fails with class `validation` without a reason, or if it cannot be stopped like this; with `not_found` for what is not there.
    pub async fn toggle(&self, wish: &Toggling) -> Result<Vec<Toggled>, Failure> {
        if wish.targets.is_empty() || wish.targets.len() > TARGETS_MAX {
            return Err(Failure::validation(format!(
                "name 1 to {TARGETS_MAX} targets: FLOW, FLOW/STEP or system:NAME"
            )));
        }
        let why = match (&wish.why, wish.to) {
            (why, Some(_)) => Some(reason_of(why.as_deref().unwrap_or_default())?.to_owned()),
            (why, None) => why.clone(),
        };
        if wish
            .until_ms
            .is_some_and(|until_ms| until_ms <= self.world.clock.now_ms())
        {
            return Err(Failure::validation(
                "the time until which it is to be stopped is over",
            ));
        }
        let before = self.store.toggles().await?;
        for target in &wish.targets {
            if let Some(to) = wish.to {
                self.can_be(target, to).await?;
            }
        }
        // What is not stopped cannot go on: nothing is done, and nothing written down.
        let news = |target: &&Target| {
            wish.to.is_some() || before.iter().any(|toggle| toggle.target == **target)
        };
        let change = |target: &Target| match wish.to {
            None => ToggleChange::Resume(target.clone(), wish.who.clone(), why.clone()),
            Some(how) => ToggleChange::Stop(Toggle {
                target: target.clone(),
                how,
                who: wish.who.clone(),
                why: why.clone().unwrap_or_default(),
                since_ms: 0,
                until_ms: wish.until_ms,
            }),
        };
        let commit = Commit {
            toggles: wish.targets.iter().filter(news).map(change).collect(),
            by: self.by(),
            ..Commit::default()
        };
        self.store.commit(commit).await?;
        if let Some(works) = &self.works {
            works.follow_toggles().await?;
        }
        let after = self.store.toggles().await?;
        let mut toggled = Vec::with_capacity(wish.targets.len());
        for target in &wish.targets {
            let of = |all: &[Toggle]| all.iter().find(|one| one.target == *target).cloned();
            toggled.push(Toggled {
                target: target.clone(),
                before: of(&before),
                now: of(&after),
                waiting: self.store.standing_at(target.clone()).await?,
            });
        }
        Ok(toggled)
    }

    /// What is stopped now.
    pub async fn toggles(&self) -> Result<Vec<Toggled>, Failure> {
        let now_ms = self.world.clock.now_ms();
        let mut shown = Vec::new();
        for toggle in self.store.toggles().await? {
            if toggle.is_over(now_ms) {
                continue;
            }
            shown.push(Toggled {
                target: toggle.target.clone(),
                waiting: self.store.standing_at(toggle.target.clone()).await?,
                before: None,
                now: Some(toggle),
            });
        }
        Ok(shown)
    }

    /// Whether there is such a target, and it can be stopped like this. Without a project nobody knows better than the person.
    async fn can_be(&self, target: &Target, to: How) -> Result<(), Failure> {
        if to.refuses() && !matches!(target, Target::Flow(_)) {
            return Err(Failure::validation(format!(
                "`{target}` can be paused only: nothing is refused where messages are under way. Pause it, or stop the flow"
            )));
        }
        let Some(project) = self.project() else {
            return Ok(());
        };
        match target {
            Target::System(name) => match system_names(&project) {
                names if names.iter().any(|known| known == name) => Ok(()),
                names => Err(unknown(target, "systems", &names)),
            },
            Target::Flow(flow) | Target::Step(flow, _) => {
                let Some(plan) = project.plans.get(flow) else {
                    // Its messages may still be in flight.
                    return match self.store.last_of(flow).await? {
                        Some(_) => Ok(()),
                        None => {
                            let names: Vec<_> = project.plans.keys().cloned().collect();
                            Err(unknown(target, "flows", &names))
                        }
                    };
                };
                match target {
                    Target::Step(_, step) => stands(plan, step, target),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Whether messages stand at a step: others run together with the one before them.
fn stands(plan: &Plan, step: &Arc<str>, target: &Target) -> Result<(), Failure> {
    let stops = (0..plan.nodes.len()).filter(|nth| !plan.fuses(*nth));
    let stops: Vec<Arc<str>> = stops.map(|nth| plan.nodes[nth].id.clone()).collect();
    if stops.contains(step) {
        return Ok(());
    }
    if plan.node(step).is_none() {
        return Err(unknown(target, "steps at which messages stand", &stops));
    }
    Err(Failure::validation(format!(
        "no message ever stands at `{target}`, because it runs together with the step before it. Messages stand at {}",
        stops.join(", ")
    )))
}

fn system_names(project: &Project) -> Vec<Arc<str>> {
    let systems = project.library.systems.values();
    systems.map(|system| system.name().clone()).collect()
}

fn unknown(target: &Target, what: &str, names: &[Arc<str>]) -> Failure {
    let more = match names.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.iter().take(NAMES_MAX).map(|name| &**name);
    let names = names.collect::<Vec<_>>().join(", ");
    Failure::new(
        Class::NotFound,
        format!("there is no `{target}`; the {what} are {names}{more}"),
    )
}

impl Works {
    /// Does what the store says is stopped, and lets go on what is not any more.
    pub(super) async fn follow_toggles(&self) -> Result<(), Failure> {
        let mut fronts = self.fronts().lock().await;
        self.follow_toggles_with(&mut fronts).await
    }

    /// As `follow_toggles`; at the start of an engine nothing was taken before.
    pub(super) async fn follow_toggles_with(&self, fronts: &mut Fronts) -> Result<(), Failure> {
        let shared = self.shared();
        let now_ms = shared.world.clock.now_ms();
        let stored = shared.store.toggles().await?;
        let (over, toggles): (Vec<_>, Vec<_>) = stored
            .into_iter()
            .partition(|toggle| toggle.is_over(now_ms));
        let before = self.toggled(toggles.clone());
        if before != toggles {
            self.pause_systems(&shared.live.now().project);
            shared.handoff.hold(toggles.clone());
            fronts.close(shared, closed(&toggles)).await;
            self.say(&before, &toggles).await;
        }
        let ends = over.into_iter().filter_map(|toggle| {
            let until_ms = toggle.until_ms?;
            Some(ToggleChange::Ends(toggle.target, until_ms))
        });
        let commit = Commit {
            toggles: ends.collect(),
            ..Commit::default()
        };
        if commit.toggles.is_empty() {
            return Ok(());
        }
        shared.commit(commit).await.map(drop)
    }

    /// Lets nothing be sent to the systems that are stopped.
    pub(super) fn pause_systems(&self, project: &Project) {
        let toggles = self.toggles();
        let paused = |name: &str| {
            let its =
                |toggle: &&Toggle| matches!(&toggle.target, Target::System(of) if **of == *name);
            toggles.iter().find(its).cloned()
        };
        systems::pause(project, paused);
    }

    /// One line for each that is stopped now, and for each that goes on.
    async fn say(&self, before: &[Toggle], now: &[Toggle]) {
        for toggle in now.iter().filter(|toggle| !before.contains(toggle)) {
            let waiting = self.shared().store.standing_at(toggle.target.clone()).await;
            let waiting =
                waiting.map_or_else(|_| String::new(), |many| format!("; {many} in flight"));
            tracing::warn!("{} is {}{waiting}", toggle.target, told(toggle));
        }
        let goes_on = |was: &&Toggle| !now.iter().any(|toggle| toggle.target == was.target);
        for was in before.iter().filter(goes_on) {
            tracing::info!("{} goes on; it was {}", was.target, told(was));
        }
    }
}

/// The flows that accept nothing new, and until when.
fn closed(toggles: &[Toggle]) -> BTreeMap<Arc<str>, Option<i64>> {
    let refused = toggles.iter().filter(|toggle| toggle.how.refuses());
    let flows = refused.filter_map(|toggle| match &toggle.target {
        Target::Flow(flow) => Some((flow.clone(), toggle.until_ms)),
        _ => None,
    });
    flows.collect()
}

/// How, by whom, why and until when something is stopped, in a few words.
pub fn told(toggle: &Toggle) -> String {
    let until = toggle.until_ms.map_or_else(String::new, |until_ms| {
        let until = Timestamp::from_millisecond(until_ms).unwrap_or_default();
        format!(" until {}", until.strftime("%Y-%m-%d %H:%M:%SZ"))
    });
    format!(
        "{} by {}{until}: {}",
        toggle.how.name(),
        toggle.who,
        toggle.why
    )
}
