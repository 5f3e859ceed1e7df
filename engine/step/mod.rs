//! Steps: what happens to messages on the way. The contract and the registry; they do not know sinks.

use std::sync::Arc;

use crate::component::{Effect, Pure};

/// A step, ready to run.
pub enum Ready {
    /// No outside effect: fuses with its neighbours.
    Pure(Box<dyn Pure>),
    /// Acts on the outside: a stage of its own.
    Effect(Arc<dyn Effect>),
}
