//! Durable state, one file a noun. It does not know flows.

pub mod commit;
