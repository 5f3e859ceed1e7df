//! Where people act: verbs over exceptions and runs. The command line and the admin API call the same functions here, beside a running engine
//! or on a store that none runs on. It decides whether a verb may be; the store decides who was first.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::cases;
use super::reload::Works;
use crate::failure::{Class, Failure};
use crate::flow::plan::{Plan, Project};
use crate::personal::MASK;
use crate::store::Store;
use crate::store::audit::{Acting, Entry};
use crate::store::commit::{Commit, Committed, HopId};
use crate::store::decisions::{Decided, Decision, Deed};
use crate::store::exceptions::{ExceptionDetail, ExceptionFilter, ExceptionId, ExceptionState};
use crate::store::reruns::Rerunning;
use crate::store::tokens::{Issued, TokenChange};
use crate::world::World;

/// How many exceptions one commit decides about.
const TOGETHER_MAX: usize = 200;
/// How many refusals a report lists; all are counted.
const REFUSALS_MAX: usize = 50;

/// What a person does about exceptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verb {
    /// Somebody takes it.
    Assign {
        /// Who.
        to: String,
        /// Also from somebody else.
        #[serde(default)]
        take_over: bool,
    },
    /// A note is left.
    Note {
        /// The note.
        text: String,
    },
    /// It is put off.
    Snooze {
        /// Until this time, in milliseconds since 1970.
        until_ms: i64,
    },
    /// It is given up.
    Discard {
        /// Why.
        reason: String,
    },
    /// It was done by hand, outside.
    ByHand {
        /// What was done.
        note: String,
    },
    /// The failed step is left out.
    Skip {
        /// Why.
        reason: String,
    },
    /// The failed step is tried again with another body.
    Edit {
        /// The body.
        body: String,
        /// Why.
        #[serde(default)]
        reason: Option<String>,
    },
    /// The failed step is tried again.
    Retry {
        /// What is known of what was sent before.
        #[serde(default)]
        how: Retry,
        /// With `applied`: the body of the answer that the target gave.
        #[serde(default)]
        answer: Option<Value>,
        /// Why.
        #[serde(default)]
        reason: Option<String>,
    },
}

/// What a retry says of what was sent before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Nothing: the ledger knows.
    #[default]
    Plain,
    /// It is sent once more, whatever happened before; the person answers for it.
    AsNew,
    /// It took effect; the person has looked.
    Applied,
}

/// Which exceptions a verb is about.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    /// These.
    pub ids: Vec<i64>,
    /// All that wait, of this flow.
    pub flow: Option<String>,
    /// Of this class.
    pub class: Option<String>,
    /// With this cause.
    pub issue: Option<String>,
    /// At this step.
    pub step: Option<String>,
    /// Of runs with this key.
    pub key: Option<String>,
    /// All that wait.
    pub all: bool,
}

/// Exceptions that were chosen at one moment.
pub struct Chosen {
    /// By what.
    pub(super) which: Which,
    /// The filter, for what there was at that moment; `None` if single ones are named.
    pub(super) filter: Option<ExceptionFilter>,
    /// How many there were.
    pub many: u64,
}

/// What became of a verb.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Report {
    /// For how many exceptions it was done, or would be.
    pub done: u64,
    /// How many were refused.
    pub refused: u64,
    /// The first of those, and why.
    pub refusals: Vec<Refusal>,
    /// Nothing was changed: it was only asked.
    pub dry_run: bool,
    /// Whether an engine runs; if not, what goes on does so at the next start.
    pub engine: bool,
    /// The number of the request that waits for a second person: nothing was done yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<i64>,
}

/// An exception about which a verb was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// The exception.
    pub exception: i64,
    /// Why not, and what to do.
    pub why: String,
}

/// What became of a verb about one exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It is done.
    Done,
    /// Something was done about the exception since it was looked at: nothing was changed.
    Changed,
    /// It cannot be done, for this reason.
    Refused(String),
}

/// Where people act. A clone is the same desk.
#[derive(Clone)]
pub struct Desk {
    pub(super) store: Store,
    pub(super) world: World,
    /// The project, where no engine runs.
    alone: Option<Arc<Project>>,
    pub(super) engine: Option<Arc<Shared>>,
    pub(super) works: Option<Arc<Works>>,
    /// Who acts, for the audit log; `None`: the engine.
    pub(super) by: Option<Arc<Acting>>,
}

impl Desk {
    /// The desk of a running engine.
    pub(super) fn of_engine(shared: &Arc<Shared>, works: &Arc<Works>) -> Desk {
        Desk {
            store: shared.store.clone(),
            world: shared.world.clone(),
            alone: None,
            engine: Some(shared.clone()),
            works: Some(works.clone()),
            by: None,
        }
    }

    /// A desk over a store on which no engine runs. Without a project nothing can go on; all else can be done.
    pub fn of_store(store: Store, project: Option<Project>, world: World) -> Desk {
        Desk {
            store,
            world,
            alone: project.map(Arc::new),
            engine: None,
            works: None,
            by: None,
        }
    }

    /// The same desk, at which this person acts.
    #[must_use]
    pub fn of(&self, acting: Acting) -> Desk {
        Desk {
            by: Some(Arc::new(acting)),
            ..self.clone()
        }
    }

    /// Writes down what was done or tried beside the store, or was not done.
    pub async fn tell(&self, entry: Entry) -> Result<(), Failure> {
        let commit = Commit {
            audit: vec![entry],
            ..Commit::default()
        };
        self.store.commit(commit).await.map(drop)
    }

    /// The world in which it stands.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The plans that run, or would, by name.
    pub fn plans(&self) -> Vec<Arc<Plan>> {
        let project = self.project();
        let plans = project.iter().flat_map(|project| project.plans.values());
        plans.cloned().collect()
    }

    /// Makes or revokes a token. False if it could not be done.
    pub async fn change_token(&self, change: TokenChange) -> Result<bool, Failure> {
        let commit = Commit {
            tokens: vec![change],
            by: self.by(),
            ..Commit::default()
        };
        let committed = self.store.commit(commit).await?;
        Ok(matches!(committed.tokens.first(), Some(Issued::Done(_))))
    }

    /// Who acts, if it is not the engine.
    pub(super) fn by(&self) -> Option<Box<Acting>> {
        self.by.as_deref().cloned().map(Box::new)
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The project that runs, or would, if it could be loaded.
    pub(super) fn project(&self) -> Option<Arc<Project>> {
        match &self.engine {
            Some(engine) => Some(engine.live.now().project.clone()),
            None => self.alone.clone(),
        }
    }

    /// The project's revision, if it could be loaded.
    pub fn revision(&self) -> Option<Arc<str>> {
        self.project().map(|project| project.revision.clone())
    }

    /// Does the verb about these exceptions, each by itself: some may be refused while others are done.
    ///
    /// Fails with class `validation` if nothing is chosen, or a reason is missing.
    pub async fn act(
        &self,
        which: &Which,
        verb: &Verb,
        who: &str,
        dry_run: bool,
    ) -> Result<Report, Failure> {
        let chosen = self.choose(which).await?;
        self.act_on_chosen(&chosen, verb, who, dry_run).await
    }

    /// The same about what was chosen before, and looked at: it is never about more than `many`.
    pub async fn act_on_chosen(
        &self,
        chosen: &Chosen,
        verb: &Verb,
        who: &str,
        dry_run: bool,
    ) -> Result<Report, Failure> {
        reasoned(verb)?;
        if chosen.many > 1 {
            verb.reasoned_for_many()?;
        }
        let mut report = Report {
            dry_run,
            engine: self.engine.is_some(),
            ..Report::default()
        };
        if !dry_run {
            report.approval = self.ask_about(chosen, verb, who).await?;
            if report.approval.is_some() {
                return Ok(report);
            }
        }
        let Some(mut filter) = chosen.filter.clone() else {
            for ids in chosen.which.ids.chunks(TOGETHER_MAX) {
                self.act_on(ids, verb, who, dry_run, &mut report).await?;
            }
            return Ok(report);
        };
        let mut left = usize::try_from(chosen.many).unwrap_or(usize::MAX);
        while left > 0 {
            let rows = self.store.exceptions(filter.clone()).await?;
            let Some(last) = rows.last() else { break };
            filter.after = Some(last.id);
            let ids: Vec<i64> = rows.iter().take(left).map(|row| row.id.0).collect();
            left -= ids.len();
            self.act_on(&ids, verb, who, dry_run, &mut report).await?;
        }
        Ok(report)
    }

    /// Which exceptions are chosen at this moment, and how many. What comes in later is not: a retry must not follow its own failures for ever,
    /// and nothing grows beyond what was decided about.
    pub async fn choose(&self, which: &Which) -> Result<Chosen, Failure> {
        let which = which.clone();
        let Some(mut filter) = which.filter()? else {
            return Ok(Chosen {
                many: which.ids.len() as u64,
                filter: None,
                which,
            });
        };
        let (many, newest) = self.store.count_exceptions(filter.clone()).await?;
        filter.before = Some(ExceptionId(newest.map_or(0, |newest| newest.0) + 1));
        filter.after = Some(ExceptionId(0));
        Ok(Chosen {
            which,
            filter: Some(filter),
            many,
        })
    }

    async fn act_on(
        &self,
        ids: &[i64],
        verb: &Verb,
        who: &str,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut commit = Commit::default();
        for &id in ids {
            match self.decide(ExceptionId(id), verb, who).await? {
                Ok(decision) if dry_run => {
                    report.done += 1;
                    drop(decision);
                }
                Ok(decision) => commit.decisions.push(decision),
                Err(why) => report.refuse(id, why),
            }
        }
        if commit.decisions.is_empty() {
            return Ok(());
        }
        if let Some(engine) = &self.engine {
            engine
                .handoff
                .room(engine.live.now().limits.in_flight())
                .await;
        }
        let chosen: Vec<i64> = commit
            .decisions
            .iter()
            .map(|decision| decision.exception.0)
            .collect();
        let committed = self.go_on(commit).await?;
        for (id, decided) in chosen.into_iter().zip(committed.decisions) {
            match told(&decided) {
                None => report.done += 1,
                Some(why) => report.refuse(id, why),
            }
        }
        Ok(())
    }

    /// Does the verb about one exception; with a version only if nothing was done about it since.
    ///
    /// Fails with class `not_found` if there is no such exception.
    pub async fn act_on_one(
        &self,
        id: i64,
        verb: &Verb,
        who: &str,
        version: Option<u32>,
    ) -> Result<Acted, Failure> {
        reasoned(verb)?;
        if self.store.exception(ExceptionId(id)).await?.is_none() {
            let why = told(&Decided::Gone).unwrap_or_default();
            return Err(Failure::new(Class::NotFound, why));
        }
        let mut decision = match self.decide(ExceptionId(id), verb, who).await? {
            Ok(decision) => decision,
            Err(why) => return Ok(Acted::Refused(why)),
        };
        decision.version = version;
        let commit = Commit {
            decisions: vec![decision],
            ..Commit::default()
        };
        let committed = self.go_on(commit).await?;
        let decided = committed.decisions.first().unwrap_or(&Decided::Gone);
        Ok(match (decided, told(decided)) {
            (Decided::Changed, _) => Acted::Changed,
            (_, None) => Acted::Done,
            (_, Some(why)) => Acted::Refused(why),
        })
    }

    /// The decision that a verb is for an exception; the inner error says why it may not be.
    pub(super) async fn decide(
        &self,
        id: ExceptionId,
        verb: &Verb,
        who: &str,
    ) -> Result<Result<Decision, String>, Failure> {
        let Some(detail) = self.store.exception(id).await? else {
            return Ok(Err(told(&Decided::Gone).unwrap_or_default()));
        };
        if matches!(
            detail.row.state,
            ExceptionState::Resolved | ExceptionState::Discarded
        ) {
            return Ok(Err(settled(&detail)));
        }
        if let Verb::Edit { body, .. } = verb
            && body.contains(MASK)
        {
            return Ok(Err(format!(
                "the edited body holds `{MASK}`, which stands where the engine has hidden personal data: it would go out in its place. Begin from the body with `--reveal` (or `?reveal=true`), or write the values"
            )));
        }
        let deed = match verb {
            Verb::Assign { to, take_over } => Deed::Assign {
                to: to.clone(),
                take_over: *take_over,
            },
            Verb::Note { .. } => Deed::Note,
            Verb::Snooze { until_ms } => Deed::Snooze {
                until_ms: *until_ms,
            },
            Verb::Discard { .. } => Deed::Discard,
            Verb::ByHand { .. } => Deed::ByHand,
            Verb::Skip { .. } | Verb::Edit { .. } | Verb::Retry { .. } => {
                match cases::go_on(self, &detail, verb) {
                    Ok(go_on) => Deed::GoOn(go_on),
                    Err(failure) => return Ok(Err(said(&failure))),
                }
            }
        };
        Ok(Ok(Decision {
            exception: id,
            who: Arc::from(who),
            why: verb.why().map(str::to_owned),
            version: None,
            deed,
        }))
    }

    /// Commits decisions and reruns. Their hops may have to wait for their turn: the hand-off knows of them before.
    pub(super) async fn go_on(&self, mut commit: Commit) -> Result<Committed, Failure> {
        commit.by = self.by();
        let Some(engine) = &self.engine else {
            return self.store.commit(commit).await;
        };
        let hops = hops_of(&commit);
        for rerun in &commit.reruns {
            engine.replays.begins(rerun.run);
        }
        let all = hops.iter().flatten();
        all.for_each(|hop| engine.handoff.holds(*hop));
        let committed = engine.commit(commit).await;
        let began: Vec<bool> = match &committed {
            Err(_) => Vec::new(),
            Ok(committed) => {
                let decided = committed.decisions.iter();
                let begun = committed.reruns.iter();
                decided
                    .map(|decided| *decided == Decided::Done)
                    .chain(begun.map(|begun| *begun == Rerunning::Begun))
                    .collect()
            }
        };
        for (at, hops) in hops.iter().enumerate() {
            if !began.get(at).copied().unwrap_or(false) {
                hops.iter().for_each(|hop| engine.handoff.ended(*hop));
            }
        }
        committed
    }
}

impl Verb {
    pub(super) fn why(&self) -> Option<&str> {
        match self {
            Verb::Assign { .. } | Verb::Snooze { .. } => None,
            Verb::Note { text } | Verb::ByHand { note: text } => Some(text),
            Verb::Discard { reason } | Verb::Skip { reason } => Some(reason),
            Verb::Edit { reason, .. } | Verb::Retry { reason, .. } => reason.as_deref(),
        }
    }
}

impl Which {
    /// These exceptions.
    pub fn these(ids: impl IntoIterator<Item = i64>) -> Which {
        Which {
            ids: ids.into_iter().collect(),
            ..Which::default()
        }
    }

    /// The filter; `None` if single ones are named.
    pub(super) fn filter(&self) -> Result<Option<ExceptionFilter>, Failure> {
        let filtered = self.all
            || self.flow.is_some()
            || self.class.is_some()
            || self.issue.is_some()
            || self.step.is_some()
            || self.key.is_some();
        match (self.ids.is_empty(), filtered) {
            (true, false) => {
                return Err(Failure::validation(
                    "nothing is chosen: name exceptions by number, or choose with --issue, --flow, --class, --key or --all",
                ));
            }
            (false, true) => {
                return Err(Failure::validation(
                    "exceptions are named by number or chosen by a filter, not both",
                ));
            }
            (false, false) => return Ok(None),
            (true, true) => {}
        }
        let class = match &self.class {
            None => None,
            Some(name) => Some(Class::from_name(name).ok_or_else(|| {
                Failure::validation(format!(
                    "there is no class `{name}`; one of: {}",
                    Class::ALL.map(Class::name).join(", ")
                ))
            })?),
        };
        Ok(Some(ExceptionFilter {
            flow: self.flow.clone(),
            class,
            fingerprint: self.issue.clone(),
            step: self.step.clone(),
            key: self.key.clone(),
            limit: TOGETHER_MAX,
            ..ExceptionFilter::default()
        }))
    }
}

impl Report {
    fn refuse(&mut self, exception: i64, why: String) {
        self.refused += 1;
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push(Refusal { exception, why });
        }
    }
}

/// The hops that a commit's decisions and reruns begin with, for each.
fn hops_of(commit: &Commit) -> Vec<Vec<HopId>> {
    let decisions = commit
        .decisions
        .iter()
        .map(|decision| match &decision.deed {
            Deed::GoOn(go_on) => vec![go_on.hop.hop],
            _ => Vec::new(),
        });
    let reruns = commit.reruns.iter();
    let reruns = reruns.map(|rerun| rerun.hops.iter().map(|hop| hop.hop).collect());
    decisions.chain(reruns).collect()
}

/// Verbs that end something, or leave something out, say why.
fn reasoned(verb: &Verb) -> Result<(), Failure> {
    let missing = match verb {
        Verb::Discard { reason } | Verb::Skip { reason } => reason.trim().is_empty(),
        Verb::ByHand { note: text } | Verb::Note { text } | Verb::Assign { to: text, .. } => {
            text.trim().is_empty()
        }
        Verb::Snooze { .. } | Verb::Edit { .. } | Verb::Retry { .. } => false,
    };
    if missing {
        return Err(Failure::validation(
            "a text is missing: say why, so that the next one who looks knows",
        ));
    }
    Ok(())
}

/// A reason that says something.
pub(super) fn reason_of(why: &str) -> Result<&str, Failure> {
    let why = why.trim();
    match why.is_empty() {
        true => Err(Failure::validation(
            "a reason is missing: say why, so that the next one who looks knows",
        )),
        false => Ok(why),
    }
}

/// Why the store refused a decision; `None` if it did not.
pub(super) fn told(decided: &Decided) -> Option<String> {
    match decided {
        Decided::Done => None,
        Decided::Settled { state, how, who } => Some(format!(
            "it was {} before{}{}",
            state.name(),
            who.as_ref()
                .map(|who| format!(" by {who}"))
                .unwrap_or_default(),
            how.as_ref()
                .filter(|how| *how != state.name())
                .map(|how| format!(" ({how})"))
                .unwrap_or_default(),
        )),
        Decided::Changed => {
            Some("somebody has done something about it meanwhile: look at it again".to_owned())
        }
        Decided::Taken(owner) => Some(format!("{owner} has it; `--take-over` takes it from there")),
        Decided::Held(run) => Some(format!(
            "run {} has its key: discard this one, or `retry --as-new` lets it in beside that",
            run.0
        )),
        Decided::Gone => {
            Some("there is no such exception; `crossdock exceptions --all` lists them".to_owned())
        }
    }
}

fn settled(detail: &ExceptionDetail) -> String {
    let decided = Decided::Settled {
        state: detail.row.state,
        how: detail.row.how.clone(),
        who: detail.history.last().map(|line| line.who.clone()),
    };
    told(&decided).unwrap_or_default()
}

/// A refusal in one line.
pub(super) fn said(failure: &Failure) -> String {
    failure.message.clone()
}
