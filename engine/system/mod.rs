//! Outside systems: connection, credentials, limits. Shared by steps and sinks.

/// An outside system: what its file says, and its one connection, made at the first use.
pub struct System {}
