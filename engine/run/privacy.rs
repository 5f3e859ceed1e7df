//! What is done about personal data: that somebody looks at it is written down before they do, and it is taken out of messages that have ended.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::desk::Desk;
use super::tap::{Looking, Wanted};
use crate::component::waiting::Waiting;
use crate::failure::{Class, Failure};
use crate::flow::plan::Action;
use crate::store::audit::{Acting, Entry};
use crate::store::commit::Commit;
use crate::store::erasure::{Awaits, Erased, Erasure};

/// What is to be erased.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Erasing {
    /// A business key, `order=SO-1001`: all ended messages that have it, over all flows.
    pub key: String,
    /// Who wants it; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Why; it is written into the audit log, so it names nobody.
    #[serde(default)]
    pub why: String,
    /// Only count. That is the default.
    #[serde(default = "yes")]
    pub dry_run: bool,
}

fn yes() -> bool {
    true
}

impl Desk {
    /// Takes what ended messages with a key hold out of the store, or says what that would be.
    ///
    /// Fails with class `validation` if the key has no name or no value, or a reason is missing; `not_found` if no message has it.
    pub async fn erase(&self, wish: &Erasing) -> Result<Erased, Failure> {
        let named = wish.key.split_once('=');
        let named = named.filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let Some((name, value)) = named else {
            return Err(Failure::validation(
                "what is erased is named by a key and its value: `order=SO-1001`",
            ));
        };
        if !wish.dry_run && wish.why.trim().is_empty() {
            return Err(Failure::validation(
                "a reason is missing: it is written into the audit log",
            ));
        }
        let erasure = Erasure {
            name: name.to_owned(),
            value: value.to_owned(),
            who: wish.who.clone(),
            why: wish.why.clone(),
            awaits: self.awaits()?,
        };
        let mut erased = self
            .store
            .erasable(erasure.clone(), self.store.now_ms())
            .await?;
        if erased.runs + erased.before + erased.left == 0 {
            return Err(Failure::new(
                Class::NotFound,
                "no message has this key; `crossdock journey` finds messages by any key",
            ));
        }
        if wish.dry_run {
            return Ok(erased);
        }
        let mut done = Erased::default();
        loop {
            let commit = Commit {
                erase: Some(erasure.clone()),
                by: self.by(),
                ..Commit::default()
            };
            erased = self.store.commit(commit).await?.erased.unwrap_or_default();
            let ends = !erased.more || erased.runs == 0;
            done.add(erased);
            if ends {
                return Ok(done);
            }
        }
    }

    /// The steps that wait for messages of other flows. Without the project nobody knows them, and an answer could go that somebody needs.
    fn awaits(&self) -> Result<Vec<Awaits>, Failure> {
        if self.project().is_none() {
            return Err(Failure::config(
                "the project cannot be read, so nobody knows which messages others wait for (`await`); mend it (`crossdock check`), then erase",
            ));
        }
        let mut awaits = Vec::new();
        for plan in self.plans() {
            for node in &plan.nodes {
                if let Action::Wait(waiting) = &node.action
                    && let Waiting::Answer(awaiting) = &**waiting
                {
                    awaits.push(Awaits {
                        flow: plan.flow.clone(),
                        step: node.id.clone(),
                        awaited: awaiting.from.clone(),
                        key: awaiting.key.clone(),
                        within_ms: awaiting.within_ms,
                    });
                }
            }
        }
        Ok(awaits)
    }

    /// Lets whoever acts look at messages as they pass; that is written down first.
    ///
    /// Fails with class `not_found` if the engine has no such flow or step, `throttled` if there are too many taps.
    pub async fn tap(&self, wanted: Wanted, told: String) -> Result<Looking, Failure> {
        let engine = self
            .engine
            .as_ref()
            .ok_or_else(|| Failure::new(Class::Unavailable, "no engine runs: nothing passes"))?;
        let plans = self.plans();
        let plan = plans.iter().find(|plan| plan.flow == wanted.flow);
        let plan = plan.ok_or_else(|| {
            let why = format!("there is no flow `{}`", wanted.flow);
            Failure::new(Class::NotFound, why)
        })?;
        if let Some(step) = wanted
            .step
            .as_deref()
            .filter(|step| plan.node(step).is_none())
        {
            let steps: Vec<&str> = plan.nodes.iter().map(|node| &*node.id).collect();
            let why = format!(
                "the flow `{}` has no step `{step}`; it has {}",
                plan.flow,
                steps.join(", ")
            );
            return Err(Failure::new(Class::NotFound, why));
        }
        let looking = engine.taps.open(wanted.clone())?;
        let step = wanted.step.map(|step| format!("step {step}, "));
        let acting = self.by.as_deref().cloned();
        self.tell(Entry {
            acting: acting.unwrap_or_else(|| Acting::engine("engine")),
            action: "flow.tap".into(),
            target_kind: "flow",
            target: wanted.flow.to_string(),
            reason: None,
            outcome: "done",
            detail: Some(format!("{}{told}", step.unwrap_or_default())),
        })
        .await?;
        Ok(looking)
    }

    /// Writes down that whoever acts sees what is personal of a run or an exception.
    pub async fn reveals(&self, kind: &'static str, which: i64, flow: &str) -> Result<(), Failure> {
        let acting = self.by.as_deref().cloned();
        self.tell(Entry {
            acting: acting.unwrap_or_else(|| Acting::engine("engine")),
            action: "personal.reveal".into(),
            target_kind: kind,
            target: which.to_string(),
            reason: None,
            outcome: "done",
            detail: Some(format!("flow {flow}")),
        })
        .await
    }
}
