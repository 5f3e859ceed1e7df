//! The one integration-test target.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the disk and the clock themselves"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, also outside of its `#[test]` function"
)]
#![allow(unreachable_pub, reason = "what tests share says so with `pub`")]

mod support;

mod admin;
mod apis;
mod authoring;
mod cases;
mod check;
mod cli;
mod cluster;
mod contracts;
mod doctor;
mod durability;
mod effects;
mod explain;
mod faults;
mod flows;
mod fuzz;
mod govern;
mod handoff;
mod hostile;
mod lsp;
mod notices;
mod order;
mod parts;
mod personal;
mod queues;
mod reference;
mod reload;
mod sagas;
mod security;
mod shadow;
mod sql;
mod storage;
mod supplies;
mod systems;
mod telemetry;
mod tidy;
mod toggles;
mod waiting;
