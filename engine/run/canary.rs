//! Canaries: another revision of some flows takes a share of their messages, beside the one that runs. Which messages are its own follows from
//! their key alone, so that one key is always on one side. What it has accepted ends under it, whatever becomes of the canary.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::admission;
use super::changes::{Changes, What};
use super::deploy::no_engine;
use super::desk::{Desk, reason_of};
use super::fronts::Fronts;
use super::reload::written::kept;
use super::reload::{Will, Works, short};
use super::{Failure, Plan};
use crate::expression::{Expression, Scope};
use crate::failure::Class;
use crate::flow::plan::Project;
use crate::message::Message;
use crate::store::audit::Acting;
use crate::store::canaries::{
    Canary, CanaryChange, CanaryState, Others, Side, Sides, Tally, Terms,
};
use crate::store::commit::Commit;
use crate::store::revisions::{Files, RevisionChange};

/// All keys.
pub const WHOLE: u32 = 10_000;

/// What somebody wants to try.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trying {
    /// The files of the project that is to be tried, by their paths below its folder.
    pub files: BTreeMap<String, String>,
    /// How many of 10,000 keys it takes; 0 with `when`.
    #[serde(default)]
    pub share: u32,
    /// The name of the key by whose values messages are shared out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub by: Option<Arc<str>>,
    /// The expression that is true for the messages that it takes.
    #[serde(default)]
    pub when: Option<String>,
    /// By how much, of 10,000, the share of its exceptions may be larger than that of the others.
    pub worse_by: u32,
    /// From how many messages on that counts.
    pub least: u64,
    /// Whether somebody else must promote it.
    #[serde(default)]
    pub other_promotes: bool,
    /// Who; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Why.
    pub why: String,
}

/// A canary as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shown {
    /// The canary.
    pub canary: Canary,
    /// What both sides have done, by flow; empty for one that is over and was followed by another.
    #[schema(value_type = BTreeMap<String, Sides>)]
    pub sides: BTreeMap<Arc<str>, Sides>,
    /// What it does not try: flows that are new or gone, sources, systems. That comes when it is promoted.
    #[serde(default)]
    pub not_tried: Vec<String>,
}

/// A canary as this engine follows it.
pub(super) struct Following {
    pub(super) canary: Canary,
    flows: BTreeMap<Arc<str>, Candidate>,
}

/// Which messages are the candidate's.
struct Split {
    id: i64,
    share: u32,
    by: Option<Arc<str>>,
    when: Option<Expression>,
}

/// The other side of one flow.
#[derive(Clone)]
pub(super) struct Candidate {
    /// How it lets messages in.
    pub(super) plan: Arc<Plan>,
    split: Arc<Split>,
    /// Of the others, and of the candidate.
    sides: Arc<[Counts; 2]>,
}

/// What came to one side since it was last written down.
#[derive(Default)]
struct Counts {
    taken: AtomicU64,
    refused: AtomicU64,
}

impl Trying {
    /// The canary that this is of these projects.
    fn canary(&self, base: &Project, project: &Project, flows: Others) -> Canary {
        Canary {
            id: 0,
            revision: project.revision.clone(),
            base: base.revision.clone(),
            terms: Terms {
                flows,
                by: self.by.clone(),
                when: self.when.clone(),
                worse_by: self.worse_by,
                least: self.least,
                other_promotes: self.other_promotes,
            },
            share: self.share,
            state: CanaryState::Running,
            at_ms: 0,
            who: self.who.clone(),
            why: self.why.clone(),
            ended_at_ms: None,
            ended_by: None,
            ended_why: None,
        }
    }
}

impl Candidate {
    /// Whether the candidate takes a message, and counts it. What decides is found by the plan that runs: both sides must agree about it.
    pub(super) fn takes(&self, base: &Plan, message: &Message) -> bool {
        let takes = AssertUnwindSafe(|| self.split.takes(base, message));
        let takes = catch_unwind(takes).unwrap_or(false);
        let side = &self.sides[usize::from(takes)];
        side.taken.fetch_add(1, Ordering::Relaxed);
        takes
    }

    /// A message that one side has taken breaks what that side accepts, and was refused.
    pub(super) fn refused(&self, by_candidate: bool) {
        let side = &self.sides[usize::from(by_candidate)];
        side.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Split {
    fn takes(&self, base: &Plan, message: &Message) -> bool {
        if let Some(when) = &self.when {
            let scope = Scope::of(message, &base.tables);
            return scope.is_ok_and(|scope| when.decide(&scope).unwrap_or(false));
        }
        let mut found = message.clone();
        // A key that cannot be had is no key; what is wrong with the message is found where it is let in.
        admission::find_keys(base, &mut found).ok();
        let first = base.keys.first().map(|(name, _)| name);
        let value = self
            .by
            .as_ref()
            .or(first)
            .and_then(|name| found.keys.get(name));
        let value = value.map_or(&message.body.bytes()[..], |value| value.as_bytes());
        place(self.id, value) < self.share
    }
}

/// Whether the expression that chooses messages can be read.
pub(super) fn readable(when: Option<&str>) -> Result<(), Failure> {
    let compiled = when.map(Expression::compile).transpose();
    compiled.map(drop).map_err(|faults| {
        let first = faults.first().map(|fault| fault.to_string());
        Failure::validation(format!("`when`: {}", first.unwrap_or_default()))
    })
}

/// The place of a key among 10,000, another one in each canary: not always the same customers try what is new.
pub(super) fn place(canary: i64, key: &[u8]) -> u32 {
    let mut hash = Sha256::new();
    hash.update(canary.to_be_bytes());
    hash.update(key);
    let digest = hash.finalize();
    let number = u64::from_be_bytes(digest[..8].try_into().unwrap_or_default());
    u32::try_from(number % u64::from(WHOLE)).unwrap_or(0)
}

impl Desk {
    /// Begins a canary: the project of these files takes its share of the messages from now on.
    ///
    /// Fails with class `validation` for what makes no sense, `conflict` if one runs already, `config` if the project cannot be loaded.
    pub async fn try_out(&self, wish: &Trying) -> Result<Shown, Failure> {
        reason_of(&wish.why)?;
        readable(wish.when.as_deref())?;
        if wish.when.is_none() && !(1..WHOLE).contains(&wish.share) {
            return Err(Failure::validation(
                "the share must be more than 0 % and less than 100 %",
            ));
        }
        let works = self.works.as_ref().ok_or_else(no_engine)?;
        works.begin_canary(wish, self.by()).await
    }

    /// The canary that runs takes another share of the keys. Those that it has stay with it where the share grows.
    pub async fn share_out(&self, share: u32) -> Result<Shown, Failure> {
        if !(1..WHOLE).contains(&share) {
            return Err(Failure::validation(
                "the share must be more than 0 % and less than 100 %; `promote` makes it run for all",
            ));
        }
        let canary = self.running().await?;
        if canary.terms.when.is_some() {
            return Err(Failure::new(
                Class::Conflict,
                "an expression says which messages the canary takes; stop it and begin another one",
            ));
        }
        self.change(CanaryChange::Share(canary.id, share)).await?;
        self.shown_canary(canary.id).await
    }

    /// The canary takes nothing any more. What it has accepted ends under its revision.
    pub async fn stop_canary(&self, who: &str, why: &str) -> Result<Shown, Failure> {
        let why = reason_of(why)?;
        let canary = self.running().await?;
        let end = CanaryChange::End(
            canary.id,
            CanaryState::Stopped,
            who.to_owned(),
            why.to_owned(),
        );
        self.change(end).await?;
        self.shown_canary(canary.id).await
    }

    /// The canary's revision runs for all from now on, in the place of what runs.
    ///
    /// Fails with class `forbidden` if somebody else must do that.
    pub async fn promote(&self, who: &str, why: &str) -> Result<Shown, Failure> {
        let why = reason_of(why)?;
        let canary = self.running().await?;
        if canary.terms.other_promotes && canary.who == who {
            return Err(Failure::new(
                Class::Forbidden,
                format!("{who} has begun this canary, and somebody else must promote it"),
            ));
        }
        let works = self.works.as_ref().ok_or_else(no_engine)?;
        let will = Will {
            how: "promote",
            who: who.to_owned(),
            why: Some(why.to_owned()),
            by: self.by(),
        };
        works.promote(&canary, will).await?;
        self.shown_canary(canary.id).await
    }

    /// The last canaries, the newest first.
    pub async fn canaries(&self, limit: usize) -> Result<Vec<Shown>, Failure> {
        if let Some(works) = &self.works {
            works.write_counts().await?;
        }
        let mut shown = Vec::new();
        for canary in self.store.canaries(limit).await? {
            shown.push(Shown {
                sides: self.store.canary_sides(&canary).await?,
                canary,
                not_tried: Vec::new(),
            });
        }
        Ok(shown)
    }

    async fn shown_canary(&self, id: i64) -> Result<Shown, Failure> {
        let mut all = self.canaries(1).await?.into_iter();
        all.find(|one| one.canary.id == id)
            .ok_or_else(|| Failure::internal("the canary is gone"))
    }

    async fn running(&self) -> Result<Canary, Failure> {
        let running = self.store.canary().await?;
        running.ok_or_else(|| Failure::new(Class::NotFound, "no canary runs"))
    }

    async fn change(&self, change: CanaryChange) -> Result<(), Failure> {
        let commit = Commit {
            canaries: vec![change],
            by: self.by(),
            ..Commit::default()
        };
        self.store.commit(commit).await?;
        match &self.works {
            Some(works) => works.follow_canary().await,
            None => Ok(()),
        }
    }
}

impl Works {
    /// Checks the project of a canary, keeps it, and lets it take its share.
    async fn begin_canary(
        self: &Arc<Self>,
        wish: &Trying,
        by: Option<Box<Acting>>,
    ) -> Result<Shown, Failure> {
        let mut fronts = self.fronts().lock().await;
        if let Some(runs) = self.shared().store.canary().await? {
            return Err(Failure::new(
                Class::Conflict,
                format!(
                    "a canary runs already, of revision {} by {}; promote it or stop it first",
                    short(&runs.revision),
                    runs.who
                ),
            ));
        }
        let files: Files = wish
            .files
            .iter()
            .map(|(path, text)| (path.clone(), text.clone().into()))
            .collect();
        let mut project = self.of_files(files).await?;
        let base = self.shared().live.now().project.clone();
        project.runs_where(&base);
        let changes = Changes::between(Some(&base), &project);
        let flows = other_flows(&base, &project)?;
        if let Some(by) = &wish.by {
            check_key(by, &flows, &base)?;
        }
        let commit = Commit {
            revisions: vec![RevisionChange::Try(kept(&project))],
            canaries: vec![CanaryChange::Begin(wish.canary(&base, &project, flows))],
            by,
            ..Commit::default()
        };
        self.shared().commit(commit).await?;
        self.follow_canary_with(&mut fronts).await?;
        let begun = self.shared().store.canary().await?;
        let canary = begun
            .filter(|begun| begun.revision == project.revision && begun.who == wish.who)
            .ok_or_else(|| {
                Failure::new(Class::Conflict, "another canary began at the same moment")
            })?;
        Ok(Shown {
            sides: BTreeMap::new(),
            not_tried: not_tried(&changes),
            canary,
        })
    }

    /// Follows what the store says of canaries.
    pub(super) async fn follow_canary(self: &Arc<Self>) -> Result<(), Failure> {
        let mut fronts = self.fronts().lock().await;
        self.follow_canary_with(&mut fronts).await
    }

    /// As `follow_canary`. A canary is held against one revision: when another one runs, it is over.
    pub(super) async fn follow_canary_with(&self, fronts: &mut Fronts) -> Result<(), Failure> {
        let shared = self.shared();
        let mut running = shared.store.canary().await?;
        let now = shared.live.now().project.clone();
        if let Some(canary) = running.take_if(|canary| canary.base != now.revision) {
            let why = format!(
                "{} runs in the place of {}",
                short(&now.revision),
                short(&canary.base)
            );
            self.end_canary(&canary, &why).await?;
        }
        let same = |following: &Following| {
            running.as_ref().is_some_and(|now| {
                now.id == following.canary.id && now.share == following.canary.share
            })
        };
        let known = self.canary();
        if known
            .as_ref()
            .map_or(running.is_none(), |known| same(known))
        {
            return Ok(());
        }
        self.write_counts().await?;
        let next = match running {
            Some(canary) => match self.following(canary.clone()).await {
                Ok(following) => Some(Arc::new(following)),
                Err(failure) if failure.class == Class::Config => {
                    return self.end_canary(&canary, &failure.message).await;
                }
                Err(failure) => return Err(failure),
            },
            None => None,
        };
        let flows = match &next {
            Some(next) => {
                let names: Vec<&str> = next.flows.keys().map(|flow| &**flow).collect();
                tracing::info!(
                    "a canary runs: revision {} takes {} of {}",
                    short(&next.canary.revision),
                    share_told(&next.canary),
                    names.join(", ")
                );
                next.flows.clone()
            }
            None => {
                tracing::info!("the canary is over");
                BTreeMap::new()
            }
        };
        for candidate in flows.values() {
            self.stations_of(&candidate.plan);
        }
        self.set_canary(next);
        fronts.split(shared, flows).await;
        Ok(())
    }

    async fn following(&self, canary: Canary) -> Result<Following, Failure> {
        let when = canary.terms.when.as_deref().map(Expression::compile);
        let when = when
            .transpose()
            .map_err(|_| Failure::config("the canary's expression is of a newer program"))?;
        let split = Arc::new(Split {
            id: canary.id,
            share: canary.share,
            by: canary.terms.by.clone(),
            when,
        });
        let mut flows = BTreeMap::new();
        for (flow, (_, revision)) in &canary.terms.flows {
            let (_, plan) = self.older_plan(flow, revision).await?;
            let candidate = Candidate {
                plan,
                split: split.clone(),
                sides: Arc::default(),
            };
            flows.insert(flow.clone(), candidate);
        }
        Ok(Following { canary, flows })
    }

    /// Writes down how many messages each side has taken in, and stops a canary that does worse than what it is to follow.
    async fn watch_canary(&self) -> Result<(), Failure> {
        let Some(following) = self.canary() else {
            return Ok(());
        };
        self.write_counts().await?;
        let canary = &following.canary;
        let sides = self.shared().store.canary_sides(canary).await?;
        let Some(why) = worse(canary, &sides) else {
            return Ok(());
        };
        self.end_canary(canary, &why).await
    }

    /// Watches and follows, now and then; at the start, too, where one may have been left.
    pub(super) async fn look_at_canary(&self, fronts: &mut Fronts) {
        let looked = async {
            self.watch_canary().await?;
            self.follow_canary_with(fronts).await
        };
        if let Err(failure) = looked.await
            && !self.shared().store.has_said(&failure)
        {
            tracing::error!("the canary could not be followed; what runs takes all: {failure}");
        }
    }

    /// What ends the canary that is followed when this project takes the place of what runs.
    pub(super) fn end_of_canary(
        &self,
        ends: Vec<CanaryChange>,
        next: &Project,
    ) -> Option<CanaryChange> {
        let following = self.canary()?;
        let why = format!(
            "{} runs in the place of {}",
            short(&next.revision),
            short(&following.canary.base)
        );
        let stopped = CanaryChange::End(
            following.canary.id,
            CanaryState::Stopped,
            "the engine".to_owned(),
            why,
        );
        Some(ends.into_iter().next().unwrap_or(stopped))
    }

    async fn end_canary(&self, canary: &Canary, why: &str) -> Result<(), Failure> {
        tracing::error!(
            "the canary of revision {} is stopped: {why}",
            short(&canary.revision)
        );
        let end = CanaryChange::End(
            canary.id,
            CanaryState::Stopped,
            "the engine".to_owned(),
            why.to_owned(),
        );
        let commit = Commit {
            canaries: vec![end],
            ..Commit::default()
        };
        self.shared().commit(commit).await.map(drop)
    }

    /// Writes down how many messages each side has taken in since the last time.
    pub(super) async fn write_counts(&self) -> Result<(), Failure> {
        let Some(following) = self.canary() else {
            return Ok(());
        };
        let mut canaries = Vec::new();
        for (flow, candidate) in &following.flows {
            for (nth, counts) in candidate.sides.iter().enumerate() {
                let [refused, taken] =
                    [&counts.refused, &counts.taken].map(|count| count.swap(0, Ordering::Relaxed));
                if taken + refused > 0 {
                    let more = Tally { taken, refused };
                    let id = following.canary.id;
                    canaries.push(CanaryChange::Taken(id, flow.clone(), nth == 1, more));
                }
            }
        }
        if canaries.is_empty() {
            return Ok(());
        }
        let commit = Commit {
            canaries,
            ..Commit::default()
        };
        self.shared().commit(commit).await.map(drop)
    }
}

/// Why a canary does so much worse than what it is held against that it is stopped.
fn worse(canary: &Canary, sides: &BTreeMap<Arc<str>, Sides>) -> Option<String> {
    let failed = |side: Side| side.excepted + side.refused;
    let share = |side: Side| failed(side) * u64::from(WHOLE) / side.taken.max(1);
    sides.iter().find_map(|(flow, sides)| {
        let (candidate, base) = (sides.candidate, sides.base);
        if candidate.taken < canary.terms.least {
            return None;
        }
        (share(candidate) > share(base) + u64::from(canary.terms.worse_by)).then(|| {
            format!(
                "{} of {} of its messages of {flow} ended in exceptions or were refused, {} of {} of the others",
                failed(candidate), candidate.taken, failed(base), base.taken
            )
        })
    })
}

/// The flows that are other ones in a candidate, each with its revision in both.
pub(super) fn other_flows(base: &Project, candidate: &Project) -> Result<Others, Failure> {
    let flows = base.plans.iter().filter_map(|(flow, plan)| {
        let other = candidate.plans.get(flow)?;
        let differs = plan.revision != other.revision;
        differs.then(|| {
            (
                flow.clone(),
                (plan.revision.clone(), other.revision.clone()),
            )
        })
    });
    let flows: Others = flows.collect();
    if flows.is_empty() {
        return Err(Failure::validation(
            "no flow that runs is another one in that project: there is nothing to try",
        ));
    }
    Ok(flows)
}

fn check_key(by: &Arc<str>, flows: &Others, base: &Project) -> Result<(), Failure> {
    for flow in flows.keys() {
        let keys = base.plans[flow].keys.iter();
        if !keys.clone().any(|(name, _)| name == by) {
            let names: Vec<&str> = keys.map(|(name, _)| &**name).collect();
            return Err(Failure::validation(format!(
                "the flow `{flow}` has no key `{by}`; it has {}",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            )));
        }
    }
    Ok(())
}

/// What comes only when a candidate is promoted.
pub(super) fn not_tried(changes: &Changes) -> Vec<String> {
    let mut list = Vec::new();
    for flow in &changes.flows {
        match flow.what {
            What::Added | What::Removed => {
                list.push(format!("the flow {} is {}", flow.flow, flow.what.word()))
            }
            What::Changed if flow.source => {
                list.push(format!("the source of {} is another one", flow.flow))
            }
            What::Changed | What::Restarted => {}
        }
    }
    let systems = changes.systems.iter();
    list.extend(
        systems.map(|system| format!("the system {} is {}", system.name, system.what.word())),
    );
    list
}

/// Which messages a canary takes, in words.
pub fn share_told(canary: &Canary) -> String {
    match &canary.terms.when {
        Some(when) => format!("the messages with `{when}`"),
        None => {
            let percent = f64::from(canary.share) / 100.0;
            let by = canary
                .terms
                .by
                .as_deref()
                .map_or_else(String::new, |by| format!(" by {by}"));
            format!("{percent} %{by}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_share_keeps_the_keys_that_it_has_and_takes_its_part() {
        let keys: Vec<String> = (0..20_000).map(|n| format!("SO-{n}")).collect();
        let taken = |share: u32| {
            let its = keys.iter().filter(|key| place(7, key.as_bytes()) < share);
            its.collect::<std::collections::BTreeSet<_>>()
        };
        let (small, large) = (taken(1_000), taken(5_000));
        assert!(small.is_subset(&large));
        assert!((1_800..=2_200).contains(&small.len()), "{}", small.len());
        assert!((9_600..=10_400).contains(&large.len()), "{}", large.len());
        assert_ne!(
            place(7, b"SO-1"),
            place(8, b"SO-1"),
            "another canary, other keys"
        );
    }

    #[test]
    fn a_canary_is_stopped_when_it_does_worse_than_the_others_and_not_for_what_hits_both() {
        let mut canary: Canary = serde_json::from_value(serde_json::json!({
            "id": 1, "revision": "b", "base": "a", "share": 1000, "state": "running", "at_ms": 0, "who": "ann", "why": "x",
            "terms": { "flows": {}, "worse_by": 500, "least": 20 },
        }))
        .unwrap();
        let refused = std::cell::Cell::new(0);
        let sides = |candidate: (u64, u64), base: (u64, u64)| {
            let side = |(taken, excepted), refused| Side {
                taken,
                refused,
                excepted,
            };
            let sides = Sides {
                base: side(base, 0),
                candidate: side(candidate, refused.get()),
            };
            BTreeMap::from([(Arc::from("orders"), sides)])
        };
        assert_eq!(worse(&canary, &sides((19, 19), (100, 0))), None, "too few");
        assert_eq!(
            worse(&canary, &sides((100, 5), (900, 0))),
            None,
            "5 % more may be"
        );
        assert_eq!(
            worse(&canary, &sides((100, 50), (900, 450))),
            None,
            "it hits both"
        );
        let why = worse(&canary, &sides((100, 6), (900, 0))).unwrap();
        assert!(
            why.contains("6 of 100") && why.contains("0 of 900"),
            "{why}"
        );
        // What a stricter contract turns away is as bad as what fails.
        refused.set(6);
        let why = worse(&canary, &sides((100, 0), (900, 0))).unwrap();
        assert!(why.contains("6 of 100"), "{why}");
        refused.set(0);
        canary.terms.worse_by = 0;
        assert!(worse(&canary, &sides((100, 1), (900, 0))).is_some());
    }
}
