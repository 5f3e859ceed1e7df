//! JSON Schema: compile, apply over the tape. Pure; no network.
