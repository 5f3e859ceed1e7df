//! Runs that are begun again: from the failed step, from any step, or from the accepted body. The message keeps its identity, so what was done
//! for it is not done again unless a person says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admission;
use super::desk::{Desk, Retry, Verb, said};
use super::recompute::{Machine, Recomputed, Recorded};
use super::reload::short;
use super::turn::short_hash;
use crate::body::Body;
use crate::failure::{Class, Failure};
use crate::flow::plan::{Plan, Project};
use crate::message::Message;
use crate::store::commit::{Commit, DOOR, NewHop, RunId};
use crate::store::envelope::Envelope;
use crate::store::exceptions::ExceptionState;
use crate::store::replays::{ReplayChange, ReplayId};
use crate::store::reruns::{Rerun, Rerunning};
use crate::store::runs::{RunDetail, RunRow, RunState};

/// From where a run is done again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The same run, from the failed step.
    Resume,
    /// A new run, from this step: what came before it is taken from what was recorded.
    Step(String),
    /// A new run, from the accepted body.
    Start,
}

/// How a run is done again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Again {
    /// From where.
    pub from: From,
    /// What was done is done once more, as something new; the person answers for it.
    #[serde(default)]
    pub as_new: bool,
    /// Only under the revision under which it was accepted.
    #[serde(default)]
    pub original: bool,
}

/// A run that was to be done again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The run that was named.
    pub run: i64,
    /// The run that goes on: itself after a resume, else the one that takes its place.
    pub became: Option<i64>,
    /// Why nothing could be done.
    pub refused: Option<String>,
    /// The number of the request that waits for a second person: nothing was done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<i64>,
}

/// What is committed for one run, and the run that goes on by it.
struct Prepared {
    commit: Commit,
    became: RunId,
}

impl Again {
    /// As it is said on the timeline.
    pub fn name(&self) -> String {
        let what = match &self.from {
            From::Resume => "resume".to_owned(),
            From::Step(step) => format!("rerun-from {step}"),
            From::Start => "rerun".to_owned(),
        };
        if self.as_new {
            format!("{what} as new")
        } else {
            what
        }
    }
}

impl Desk {
    /// Does runs again, each by itself: some may be refused while others go on.
    pub async fn again(
        &self,
        runs: &[i64],
        how: &Again,
        who: &str,
        why: Option<&str>,
        dry_run: bool,
    ) -> Result<Vec<Receipt>, Failure> {
        if !dry_run && let Some(id) = self.ask_about_runs(runs, how, who, why).await? {
            let waits = |run: &i64| Receipt {
                run: *run,
                became: None,
                refused: Some(format!(
                    "it waits for a second person: request {id}, see `crossdock approvals`"
                )),
                approval: Some(id),
            };
            return Ok(runs.iter().map(waits).collect());
        }
        let mut receipts = Vec::with_capacity(runs.len());
        for &run in runs {
            let refused = |why: String| Receipt {
                run,
                became: None,
                refused: Some(why),
                approval: None,
            };
            let receipt = match self.prepare_again(RunId(run), how, who, why).await? {
                Err(why) => refused(why),
                Ok(_) if dry_run => Receipt {
                    run,
                    became: None,
                    refused: None,
                    approval: None,
                },
                Ok(prepared) => match self.begin_again(prepared).await? {
                    Err(why) => refused(why),
                    Ok(became) => Receipt {
                        run,
                        became: Some(became.0),
                        refused: None,
                        approval: None,
                    },
                },
            };
            receipts.push(receipt);
        }
        Ok(receipts)
    }

    /// Does one item of a list: the item and what is done for it are one commit. Gives the run that goes on; `None` if the list has stopped,
    /// or the item was done before.
    pub(super) async fn again_of_list(
        &self,
        replay: ReplayId,
        (n, run): (i64, RunId),
        how: &Again,
        who: &str,
        why: Option<&str>,
    ) -> Result<Option<RunId>, Failure> {
        let refuse = |note: String| Commit {
            replays: vec![ReplayChange::Refuse { replay, n, note }],
            ..Commit::default()
        };
        let mut prepared = match self.prepare_again(run, how, who, why).await? {
            Ok(prepared) => prepared,
            Err(why) => {
                self.go_on(refuse(why)).await?;
                return Ok(Some(run));
            }
        };
        let became = prepared.became;
        prepared.commit.replays = vec![ReplayChange::Take { replay, n, became }];
        let committed = self.go_on(prepared.commit).await?;
        if committed.replays.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        if let Some(why) = refusal(&committed) {
            self.go_on(refuse(why)).await?;
        }
        Ok(Some(became))
    }

    async fn begin_again(&self, prepared: Prepared) -> Result<Result<RunId, String>, Failure> {
        if let Some(engine) = &self.engine {
            engine
                .handoff
                .room(engine.live.now().limits.in_flight())
                .await;
        }
        let committed = self.go_on(prepared.commit).await?;
        Ok(refusal(&committed).map_or(Ok(prepared.became), Err))
    }

    /// The commit that does a run again; the inner error says why it may not be.
    async fn prepare_again(
        &self,
        run: RunId,
        how: &Again,
        who: &str,
        why: Option<&str>,
    ) -> Result<Result<Prepared, String>, Failure> {
        let Some(detail) = self.store.run(&run.0.to_string()).await? else {
            return Ok(Err(told(Rerunning::Gone).unwrap_or_default()));
        };
        let waiting: Vec<_> = detail
            .exceptions
            .iter()
            .filter(|row| {
                !matches!(
                    row.state,
                    ExceptionState::Resolved | ExceptionState::Discarded
                )
            })
            .collect();
        let never_began = waiting.iter().any(|row| *row.step == *DOOR);
        let under = match self.plan_again(&detail.row, how).await? {
            Ok(under) => under,
            Err(why) => return Ok(Err(why)),
        };
        if how.from != From::Resume && !never_began {
            return Ok(self
                .rerun(&detail, under, how, (who, why))
                .map_err(|failure| said(&failure)));
        }
        if waiting.is_empty() {
            return Ok(Err(format!(
                "it is {}: nothing of it waits for a person; `replay rerun` begins it anew",
                detail.row.state.name()
            )));
        }
        let verb = Verb::Retry {
            how: if how.as_new {
                Retry::AsNew
            } else {
                Retry::Plain
            },
            answer: None,
            reason: why.map(str::to_owned),
        };
        let mut commit = Commit::default();
        let mut refused = None;
        for row in waiting {
            match self.decide(row.id, &verb, who).await? {
                Ok(decision) => commit.decisions.push(decision),
                Err(why) => refused = Some(format!("exception {}: {why}", row.id.0)),
            }
        }
        match refused {
            Some(why) if commit.decisions.is_empty() => Ok(Err(why)),
            _ => Ok(Ok(Prepared {
                commit,
                became: run,
            })),
        }
    }

    /// The project, and the plan of it, under which a run is done again: that of now, or that under which it was accepted. The inner error
    /// says why there is none.
    async fn plan_again(
        &self,
        row: &RunRow,
        how: &Again,
    ) -> Result<Result<(Arc<Project>, Arc<Plan>), String>, Failure> {
        let Some(project) = self.project() else {
            return Ok(Err(
                "the project cannot be loaded; `crossdock check` says why".to_owned(),
            ));
        };
        let plan = project.plans.get(&row.flow).cloned();
        let is_that = plan
            .as_ref()
            .is_some_and(|plan| plan.revision == row.revision);
        if !how.original || is_that {
            let gone = format!("the project has no flow `{}` any more", row.flow);
            return Ok(plan.map(|plan| (project, plan)).ok_or(gone));
        }
        let short = short(&row.revision);
        if how.from == From::Resume {
            return Ok(Err(format!(
                "it was accepted under revision {short} of the flow, and a step is tried again under the one that runs: `replay rerun` can take the original one"
            )));
        }
        let kept = match &self.works {
            Some(works) => works.original(&row.flow, &row.revision).await,
            None => Ok(None),
        };
        Ok(match kept {
            Ok(Some(kept)) => Ok(kept),
            Ok(None) => Err(format!(
                "it was accepted under revision {short} of the flow, and that is not loaded, or not kept; `--revision current` uses the one that is"
            )),
            Err(failure) => Err(said(&failure)),
        })
    }

    fn rerun(
        &self,
        detail: &RunDetail,
        (project, plan): (Arc<Project>, Arc<Plan>),
        how: &Again,
        (who, why): (&str, Option<&str>),
    ) -> Result<Prepared, Failure> {
        if detail.row.open > detail.row.excepted {
            return Err(Failure::validation(
                told(Rerunning::UnderWay).unwrap_or_default(),
            ));
        }
        let mut message = message_of(detail)?;
        admission::check_contract(&plan, &message)?;
        let chains = admission::chains(&plan, &message);
        let mut generation = message.generation;
        let starts = match &how.from {
            From::Step(step) => arrivals(&project, &plan, step, detail, message.clone())?,
            From::Resume | From::Start => vec![message.clone()],
        };
        if how.as_new {
            generation = generation.max(detail.generation) + 1;
            message.generation = generation;
        }
        let step = match &how.from {
            From::Step(step) => plan.node(step).unwrap_or(0),
            From::Resume | From::Start => 0,
        };
        let run = self.store.next_run();
        let hops = starts.into_iter().map(|mut start| {
            start.generation = generation;
            NewHop {
                hop: self.store.next_hop(),
                run,
                flow: plan.flow.clone(),
                step: plan.nodes[step].id.clone(),
                message: start.id,
                body: (start.body.bytes() != message.body.bytes())
                    .then(|| start.body.bytes().clone()),
                envelope: Some(Envelope::write(&start)),
            }
        });
        let rerun = Rerun {
            of: detail.row.run,
            run,
            revision: match how.original {
                true => detail.row.revision.clone(),
                false => plan.revision.clone(),
            },
            hops: hops.collect(),
            envelope: how.as_new.then(|| Envelope::write(&message)),
            generation,
            chains,
            who: Arc::from(who),
            why: why.map(str::to_owned),
            what: how.name(),
        };
        let commit = Commit {
            reruns: vec![rerun],
            ..Commit::default()
        };
        Ok(Prepared {
            commit,
            became: run,
        })
    }
}

/// The accepted message of a run.
pub(super) fn message_of(detail: &RunDetail) -> Result<Message, Failure> {
    let body = detail.body.clone().ok_or_else(|| {
        let why = match detail.row.erased_at_ms {
            Some(_) => {
                "its body was erased (`crossdock erase`); it cannot be done again. `crossdock audit --action personal` says when and why"
            }
            None => "retention has removed its body (`retention.bodies`); it cannot be done again",
        };
        Failure::new(Class::NotFound, why)
    })?;
    let envelope = Envelope::read(&detail.envelope.clone().unwrap_or_default())?;
    Ok(Message {
        id: detail.row.message,
        root: detail.row.root,
        item: envelope.item,
        generation: envelope.generation,
        received_at_ms: detail.row.received_at_ms,
        keys: Arc::new(detail.row.keys.clone()),
        headers: envelope.headers,
        variables: envelope.variables,
        guards: envelope.guards,
        body: Body::new(body),
    })
}

/// The messages that come to a step, from what was recorded before it.
fn arrivals(
    project: &Project,
    plan: &Plan,
    step: &str,
    detail: &RunDetail,
    message: Message,
) -> Result<Vec<Message>, Failure> {
    if plan.node(step).is_none() {
        let steps: Vec<&str> = plan.nodes.iter().map(|node| &*node.id).collect();
        return Err(Failure::config(format!(
            "the flow `{}` has no step `{step}`; it has {}",
            plan.flow,
            steps.join(", ")
        )));
    }
    let recorded = Recorded::of(detail.effects.clone(), detail.generation);
    let machine = Machine {
        project,
        recorded: &recorded,
        until: Some((&plan.flow, step)),
        follow: false,
        exact: false,
    };
    let done = machine.run(plan, message.clone());
    same_way(step, detail, &recorded, &done, &message)?;
    Ok(done.arrived)
}

/// What was computed now must be what happened then: else the run would be continued from something that never was.
fn same_way(
    step: &str,
    detail: &RunDetail,
    recorded: &Recorded,
    done: &Recomputed,
    accepted: &Message,
) -> Result<(), Failure> {
    let differs = |what: &str| {
        Failure::config(format!(
            "{what} before `{step}` is not what it was then; `replay rerun {}` begins from the accepted body",
            detail.row.run.0
        ))
    };
    if done.sent.iter().any(|sent| recorded.differs(sent)) {
        return Err(differs("what is sent"));
    }
    if let Some(stopped) = done.stopped.first()
        && done.arrived.is_empty()
    {
        return Err(Failure::config(format!(
            "the message does not come to `{step}`: at `{}` {}",
            stopped.step, stopped.why.message
        )));
    }
    let Some(last) = done.arrived.last() else {
        return Err(Failure::config(format!(
            "no part of the message comes to `{step}`"
        )));
    };
    let hashes: BTreeSet<&str> = detail
        .trail
        .iter()
        .filter_map(|line| line.hash.as_deref())
        .collect();
    let hash: String = short_hash(last.body.bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let as_accepted = last.body.bytes() == accepted.body.bytes();
    // Only what leaves a stage has a hash; a step in the middle of one has none to be held against.
    let held = detail
        .trail
        .iter()
        .any(|line| line.hash.is_some() && line.what == "done");
    let at_stage = detail.trail.iter().any(|line| line.step == step);
    if held && at_stage && !as_accepted && !hashes.contains(&*hash) {
        return Err(differs("the body"));
    }
    Ok(())
}

/// Why nothing, or not all, of a commit was applied.
fn refusal(committed: &crate::store::commit::Committed) -> Option<String> {
    let begun = committed.reruns.iter().find_map(|begun| told(*begun));
    begun.or_else(|| {
        let mut why = None;
        for decided in &committed.decisions {
            match super::desk::told(decided) {
                None => return None,
                told => why = told,
            }
        }
        why
    })
}

fn told(begun: Rerunning) -> Option<String> {
    match begun {
        Rerunning::Begun => None,
        Rerunning::UnderWay => {
            Some("a part of it is still under way; wait until it has ended".to_owned())
        }
        Rerunning::Superseded(run) => Some(format!("run {} has taken its place", run.0)),
        Rerunning::Gone => Some(
            "there is no such run, or its body is gone: retention has removed it (`retention.bodies`), or it was erased"
                .to_owned(),
        ),
    }
}

/// Whether a list may hold a run in this state.
pub(super) fn may_list(state: RunState) -> bool {
    state != RunState::Superseded
}
