//! The one HTTP listener that webhooks and health checks share. It knows paths, sizes and deadlines, and nothing of what is behind a path.

/// The one HTTP listener of the engine. A clone is the same listener.
#[derive(Clone)]
pub struct Listener {}
