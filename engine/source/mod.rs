//! Sources: where messages come from. The contract and the registry; they do not know flows.

use std::sync::Arc;

use crate::component::Source;

/// A source, ready to run.
pub enum Ready {
    /// Runs by itself and brings messages in.
    Runs(Arc<dyn Source>),
    /// Waits for what other flows hand over.
    Flow,
}
