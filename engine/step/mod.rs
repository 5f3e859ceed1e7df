//! Steps: what happens to messages on the way. The contract and the registry; they do not know sinks.

use std::sync::Arc;

use crate::component::{Effect, Pure, components};

#[cfg(test)]
pub(crate) mod bench;
pub mod filter;
pub mod map;
pub mod set;
pub mod validate;

/// A step, ready to run.
pub enum Ready {
    /// No outside effect: fuses with its neighbours.
    Pure(Box<dyn Pure>),
    /// Acts on the outside: a stage of its own.
    Effect(Arc<dyn Effect>),
}

components! {
    /// The kinds of steps. `branch` and `use` are structure, not kinds.
    StepKind -> Ready {
        map: map::Map,
        validate: validate::Validate,
        filter: filter::Filter,
        set: set::Set,
    }
}
