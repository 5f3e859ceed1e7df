//! Sinks: where messages go. The contract and the registry.
