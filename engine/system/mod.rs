//! Outside systems: connection, credentials, limits. Shared by steps and sinks.
