//! Sagas in motion: what is noted before and after a step acts, and which leaves are a saga's matter. What is undone next the store decides, in
//! the commit that ends a hop.

use sha2::{Digest, Sha256};

use super::Shared;
use super::effect::effect_id;
use super::turn::same;
use crate::component::{Answer, Context, Effect};
use crate::flow::plan::{Plan, Saga, SagaStep};
use crate::handoff::Hop;
use crate::message::Message;
use crate::store::commit::sagas::{SagaFate, SagaIntent, SagaResult, Undo, Undone};
use crate::store::commit::{EffectState, Leaf, NewException, Outcome, SagaId};
use crate::store::envelope::Envelope;

/// What a saga says about the step at this node, if the step acts on the outside.
pub(super) fn step(plan: &Plan, node: usize) -> Option<(&Saga, &SagaStep)> {
    let saga = plan.saga(node)?;
    Some((saga, saga.step(node)?))
}

/// What is noted before a step of a saga acts; `None` for any other step.
pub(super) fn intent(plan: &Plan, node: usize, hop: &Hop) -> Option<SagaIntent> {
    let (saga, step) = step(plan, node)?;
    let message = &hop.message;
    let mut again = message.clone();
    again.generation += 1;
    Some(SagaIntent {
        saga: saga_id(plan, saga, message),
        name: saga.id.clone(),
        effect: effect_id(plan, node, hop),
        run: hop.run,
        step: hop.step.clone(),
        undo: step.undo.map(|undo| plan.nodes[undo].id.clone()),
        pivot: step.pivot,
        absent_ok: step.absent_ok,
        message: message.id,
        body: (!hop.runs_body).then(|| message.body.bytes().clone()),
        envelope: Envelope::write(message),
        again: Envelope::write(&again),
    })
}

/// What an outcome means for the saga that the step belongs to.
pub(super) fn result(
    plan: &Plan,
    node: usize,
    hop: &Hop,
    (effect, cx): (&dyn Effect, &Context<'_>),
    outcome: &Outcome,
) -> Option<SagaResult> {
    step(plan, node)?;
    let fate = match &outcome.state {
        EffectState::Done(answer) => {
            let answer = Answer {
                bytes: answer.clone(),
            };
            // An answer that cannot be used is no reason to forget that the step acted.
            let message = effect
                .finish(hop.message.clone(), &answer, cx)
                .unwrap_or_else(|_| hop.message.clone());
            let runs_body = hop.runs_body && same(&hop.message.body, &message.body);
            SagaFate::Done {
                body: (!runs_body).then(|| message.body.bytes().clone()),
                envelope: Envelope::write(&message),
            }
        }
        EffectState::NotApplied => SagaFate::NotDone {
            sure: outcome.unannounced.is_none(),
        },
        EffectState::Unknown => SagaFate::Unknown,
        EffectState::Absent => return None,
    };
    Some(SagaResult {
        effect: outcome.effect,
        fate,
    })
}

/// Leaves as sagas see them: a failure in a saga may be undone, and the end of an undo is not the end of its message.
pub(super) fn leaves(shared: &Shared, plan: &Plan, hop: &Hop, leaves: Vec<Leaf>) -> Vec<Leaf> {
    if plan.sagas.is_empty() {
        return leaves;
    }
    let here = plan.node(&hop.step);
    let undoes = here
        .and_then(|node| Some((node, plan.saga(node)?)))
        .filter(|(node, saga)| saga.undoes(*node));
    let resolve = |leaf| match (undoes, leaf) {
        (Some((_, saga)), leaf) => Leaf::Undone(Box::new(Undone {
            saga: saga_id(plan, saga, &hop.message),
            failed: match leaf {
                Leaf::Exception(exception) => Some(by_hand(plan, here, exception)),
                _ => None,
            },
            hop: shared.store.next_hop(),
        })),
        (None, Leaf::Exception(exception)) => {
            match plan.node(&exception.step).and_then(|at| plan.saga(at)) {
                Some(saga) => Leaf::Undo(Box::new(Undo {
                    saga: saga_id(plan, saga, &hop.message),
                    exception,
                    ends: saga.ends,
                    hop: shared.store.next_hop(),
                })),
                None => Leaf::Exception(exception),
            }
        }
        (None, leaf) => leaf,
    };
    leaves.into_iter().map(resolve).collect()
}

/// Says what a person must undo.
fn by_hand(plan: &Plan, undo: Option<usize>, exception: NewException) -> NewException {
    let step = exception.step.trim_end_matches("/undo");
    let system = undo.and_then(|undo| plan.nodes[undo].system.as_deref());
    NewException {
        message: format!(
            "`{step}` could not be undone; undo it by hand at {}, or retry this: {}",
            system.unwrap_or("the target"),
            exception.message
        ),
        ..exception
    }
}

/// The message in the saga. Its id does not change there: what makes parts of a message cannot stand in a saga.
fn saga_id(plan: &Plan, saga: &Saga, message: &Message) -> SagaId {
    let digest = Sha256::digest(format!(
        "saga\n{}\n{}\n{}\n{}",
        message.id, plan.flow, saga.id, message.generation
    ));
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    SagaId(id)
}
