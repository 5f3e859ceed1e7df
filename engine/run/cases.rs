//! How a message goes on that waits for a person: from which step, with which body, and what is said to the ledger. It decides for one
//! exception and changes nothing.

use bytes::Bytes;

use super::admission;
use super::desk::{Desk, Retry, Verb};
use super::effect::effect_of;
use crate::body::Body;
use crate::component::Promises;
use crate::failure::{Class, Failure};
use crate::flow::plan::{Action, Plan};
use crate::message::Message;
use crate::store::commit::{DOOR, EffectId, NewHop};
use crate::store::decisions::{Admitted, GoOn, How};
use crate::store::effects::{Amended, EffectRow, EffectStanding};
use crate::store::envelope::Envelope;
use crate::store::exceptions::ExceptionDetail;

/// What a retry of something unknown must say.
const CHOOSE: &str = "look at the target, then choose: `--applied` (it took effect: the message goes on) or `--as-new` (it is sent once more, and you answer for it)";

/// How the message goes on; a failure says why it may not, and what may.
pub(super) fn go_on(desk: &Desk, detail: &ExceptionDetail, verb: &Verb) -> Result<GoOn, Failure> {
    let project = desk.project().ok_or_else(|| {
        Failure::config("the project cannot be loaded, and only it knows how a message goes on; `crossdock check` says why")
    })?;
    let row = &detail.row;
    let plan = project.plans.get(&*row.flow).ok_or_else(|| {
        Failure::config(format!(
            "the project has no flow `{}` any more; `discard` it, or `resolve --by-hand`",
            row.flow
        ))
    })?;
    let case = Case {
        desk,
        detail,
        plan,
        message: message(detail, verb)?,
    };
    if *row.step == *DOOR {
        case.let_in(verb)
    } else {
        case.again_at_step(verb)
    }
}

struct Case<'a> {
    desk: &'a Desk,
    detail: &'a ExceptionDetail,
    plan: &'a Plan,
    message: Message,
}

impl Case<'_> {
    /// From the flow's door: what it asks for is asked again.
    fn let_in(mut self, verb: &Verb) -> Result<GoOn, Failure> {
        let known = matches!(self.detail.row.class, Class::Duplicate | Class::Conflict);
        let (how, as_new) = match verb {
            Verb::Retry {
                how: Retry::Applied,
                ..
            } => {
                return Err(Failure::validation(
                    "nothing was sent yet: it waits at the flow's door",
                ));
            }
            Verb::Retry { how, .. } => (How::Retried, *how == Retry::AsNew),
            Verb::Edit { .. } => (How::Edited, false),
            _ => {
                return Err(Failure::validation(
                    "the flow's door cannot be skipped: what breaks the contract would go on unchecked; `edit` it",
                ));
            }
        };
        if known && !as_new {
            return Err(Failure::validation(
                "its key is known with other content: `discard` it, or `retry --as-new` lets it in as a message of its own",
            ));
        }
        let asks = |failure: Failure| Failure {
            message: format!(
                "{}; `edit` the body, or change what the flow asks for",
                failure.message
            ),
            ..failure
        };
        admission::check_contract(self.plan, &self.message).map_err(asks)?;
        admission::find_keys(self.plan, &mut self.message).map_err(asks)?;
        let version = admission::version(self.plan, &mut self.message).map_err(asks)?;
        if as_new {
            self.raise_generation();
        }
        let claims = if known {
            Vec::new()
        } else {
            admission::once(self.plan, &self.message)
                .into_iter()
                .collect()
        };
        let keys = self.message.keys.clone();
        let chains = admission::chains(self.plan, &self.message);
        let first = self.plan.nodes[0].id.clone();
        let mut go_on = self.at(first, how, verb);
        go_on.admitted = Some(Admitted {
            claims,
            keys,
            chains,
            version: version.filter(|_| !known),
        });
        Ok(go_on)
    }

    /// From the failed step, or from the one after it.
    fn again_at_step(mut self, verb: &Verb) -> Result<GoOn, Failure> {
        let step = self.detail.row.step.clone();
        let at = self.plan.node(&step).ok_or_else(|| {
            Failure::config(format!(
                "the flow `{}` has no step `{step}` any more; `crossdock replay rerun {}` begins anew",
                self.plan.flow, self.detail.row.run.0
            ))
        })?;
        let node = &self.plan.nodes[at];
        let effect = effect_of(&self.message, &self.plan.flow, &step);
        let known = self
            .detail
            .effects
            .iter()
            .find(|known| known.effect == effect);
        match verb {
            Verb::Skip { .. } => {
                let next = self.after(at)?;
                Ok(self.at(next, How::Skipped, verb))
            }
            Verb::Edit { .. } => {
                self.edited_fits()?;
                if known.is_some_and(|known| known.standing != EffectStanding::NotApplied) {
                    return Err(Failure::validation(format!(
                        "what was sent may have taken effect, so another body cannot take its place: {CHOOSE}"
                    )));
                }
                let mut go_on = self.at(step, How::Edited, verb);
                go_on.amended = Some((effect, Amended::Anew));
                Ok(go_on)
            }
            Verb::Retry {
                how: Retry::AsNew, ..
            } => {
                self.raise_generation();
                Ok(self.at(step, How::Retried, verb))
            }
            Verb::Retry {
                how: Retry::Applied,
                answer,
                ..
            } => {
                if known.is_none() {
                    return Err(Failure::validation(format!(
                        "nothing was ever sent by `{step}`: there is nothing that took effect"
                    )));
                }
                let answer = serde_json::json!({ "status": 200, "headers": {}, "body": answer });
                let mut go_on = self.at(step, How::Retried, verb);
                go_on.amended = Some((effect, Amended::Applied(Bytes::from(answer.to_string()))));
                Ok(go_on)
            }
            _ => {
                let promises = match &node.action {
                    Action::Effect(effect) => Some(effect.promises()),
                    _ => None,
                };
                self.may_repeat(known, promises.as_ref())?;
                let amended = renewable(known, effect);
                let mut go_on = self.at(step, How::Retried, verb);
                go_on.amended = amended;
                Ok(go_on)
            }
        }
    }

    /// Whether the ledger can tell what to do, without a person's word.
    fn may_repeat(
        &self,
        known: Option<&EffectRow>,
        promises: Option<&Promises>,
    ) -> Result<(), Failure> {
        let Some(known) = known else { return Ok(()) };
        match known.standing {
            EffectStanding::NotApplied => Ok(()),
            EffectStanding::Done if self.detail.row.class == Class::Conflict => {
                Err(Failure::validation(format!(
                    "it took effect before with another request: {CHOOSE}"
                )))
            }
            EffectStanding::Done => Ok(()),
            EffectStanding::Undone => Err(Failure::validation(
                "it was undone, and the target may still know its request: `--as-new` sends it as something new",
            )),
            EffectStanding::Intent | EffectStanding::Unknown => {
                let told = promises.is_some_and(|promises| {
                    promises.safe
                        || promises.probe_settle_ms.is_some()
                        || promises.kept_ms.is_some_and(|kept_ms| {
                            let age_ms = self.desk.world.clock.now_ms() - known.first_at_ms;
                            known.idempotency_key.is_some()
                                && u64::try_from(age_ms).unwrap_or(0) < kept_ms
                        })
                });
                if told {
                    return Ok(());
                }
                Err(Failure::validation(format!(
                    "nobody knows whether the request took effect, and the target cannot tell: {CHOOSE}"
                )))
            }
        }
    }

    /// Where a message goes that leaves a step out.
    fn after(&self, at: usize) -> Result<std::sync::Arc<str>, Failure> {
        let node = &self.plan.nodes[at];
        if node.sink {
            return Err(Failure::validation(format!(
                "`{}` is a sink, nothing comes after it: `discard` the message, or `resolve --by-hand` if it was done outside",
                node.id
            )));
        }
        if matches!(node.action, Action::Route(_)) || node.kind == "split" {
            return Err(Failure::validation(format!(
                "`{}` decides where the message goes, or what becomes of it: it cannot be left out",
                node.id
            )));
        }
        let next = node
            .next
            .ok_or_else(|| Failure::validation(format!("nothing comes after `{}`", node.id)))?;
        Ok(self.plan.nodes[next].id.clone())
    }

    /// An edited body is held against what is known of it.
    fn edited_fits(&self) -> Result<(), Failure> {
        let was = self.detail.body.clone().map(Body::new);
        let was_json = was.is_some_and(|was| was.document().is_ok());
        if was_json {
            self.message.body.document().map_err(|failure| Failure {
                message: format!("the edited body is no JSON: {}", failure.message),
                ..failure
            })?;
        }
        if self.detail.runs_body {
            admission::check_contract(self.plan, &self.message)?;
        }
        Ok(())
    }

    fn raise_generation(&mut self) {
        self.message.generation = self.message.generation.max(self.detail.generation) + 1;
    }

    fn at(self, step: std::sync::Arc<str>, how: How, verb: &Verb) -> GoOn {
        let edited = matches!(verb, Verb::Edit { .. });
        let own_body = edited || !self.detail.runs_body;
        let body = self.message.body.bytes().clone();
        let moved = self.plan.revision != self.detail.revision;
        GoOn {
            how,
            revision: moved.then(|| self.plan.revision.clone()),
            hop: NewHop {
                hop: self.desk.store.next_hop(),
                run: self.detail.row.run,
                flow: self.detail.row.flow.clone(),
                step,
                message: self.message.id,
                body: own_body.then(|| body.clone()),
                envelope: Some(Envelope::write(&self.message)),
            },
            generation: self.message.generation,
            amended: None,
            admitted: None,
            body: edited.then_some(body),
        }
    }
}

/// What surely took no effect is rendered anew: the mapping may have been mended.
fn renewable(known: Option<&EffectRow>, effect: EffectId) -> Option<(EffectId, Amended)> {
    known
        .filter(|known| known.standing == EffectStanding::NotApplied)
        .map(|_| (effect, Amended::Anew))
}

/// The message as it stood at the step, or as it was edited.
fn message(detail: &ExceptionDetail, verb: &Verb) -> Result<Message, Failure> {
    let body = match verb {
        Verb::Edit { body, .. } => Bytes::copy_from_slice(body.as_bytes()),
        _ => detail.body.clone().ok_or_else(|| {
            Failure::new(
                Class::NotFound,
                "retention has removed its body; nothing can go on",
            )
        })?,
    };
    let envelope = Envelope::read(&detail.envelope.clone().unwrap_or_default())?;
    Ok(Message {
        id: detail.row.at,
        root: detail.root,
        item: envelope.item,
        generation: envelope.generation,
        received_at_ms: detail.received_at_ms,
        keys: std::sync::Arc::new(detail.keys.clone()),
        headers: envelope.headers,
        variables: envelope.variables,
        guards: envelope.guards,
        body: Body::new(body),
    })
}
