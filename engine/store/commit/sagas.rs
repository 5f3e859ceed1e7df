//! What a commit says of sagas: what is about to be done, what was, and how it is undone.

use std::sync::Arc;

use bytes::Bytes;

use super::{EffectId, HopId, NewException, RunId, SagaId};
use crate::message::MessageId;

/// A failure in a saga.
#[derive(Clone, Debug)]
pub struct Undo {
    /// The message in the saga.
    pub saga: SagaId,
    /// The failure.
    pub exception: NewException,
    /// Whether the message ends as compensated when all is undone, instead of waiting for a person.
    pub ends: bool,
    /// The number of the first undo's hop, from `Store::next_hop`.
    pub hop: HopId,
}

/// The end of an undo; the hop that ends stood at its step.
#[derive(Clone, Debug)]
pub struct Undone {
    /// The message in the saga.
    pub saga: SagaId,
    /// Why it could not be undone; `None` if it was.
    pub failed: Option<NewException>,
    /// The number of the next undo's hop, from `Store::next_hop`.
    pub hop: HopId,
}

/// A step of a saga that is about to act: what its undo needs is durable before its first byte leaves.
#[derive(Clone, Debug)]
pub struct SagaIntent {
    /// The message in the saga.
    pub saga: SagaId,
    /// The saga's name.
    pub name: Arc<str>,
    /// The step's effect.
    pub effect: EffectId,
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: Arc<str>,
    /// The step that undoes it.
    pub undo: Option<Arc<str>>,
    /// Once it is done nothing is undone any more.
    pub pivot: bool,
    /// Whether the undo does no harm where there is nothing to undo.
    pub absent_ok: bool,
    /// The message's id.
    pub message: MessageId,
    /// The bytes before the step; `None` if they are the run's.
    pub body: Option<Bytes>,
    /// Headers, variables, item and generation before the step.
    pub envelope: Bytes,
    /// The same in the next generation: what a retry begins with when all is undone.
    pub again: Bytes,
}

/// What is known of a step of a saga.
#[derive(Clone, Debug)]
pub struct SagaResult {
    /// The step's effect.
    pub effect: EffectId,
    /// What is known.
    pub fate: SagaFate,
}

/// Whether a step of a saga acted.
#[derive(Clone, Debug)]
pub enum SagaFate {
    /// It did; the message after it, which its undo sees.
    Done {
        /// The bytes; `None` if they are the run's.
        body: Option<Bytes>,
        /// Headers, variables, item and generation.
        envelope: Bytes,
    },
    /// It did not, by this try.
    NotDone {
        /// Nor by an earlier one.
        sure: bool,
    },
    /// Nobody knows.
    Unknown,
}
