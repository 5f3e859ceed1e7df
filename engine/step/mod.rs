//! Steps: what happens to messages on the way. The contract and the registry; they do not know sinks.
