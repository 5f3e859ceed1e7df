//! Sources: where messages come from. The contract and the registry; they do not know flows.
