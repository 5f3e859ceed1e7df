//! Announce and take hops: how messages pass from stage to stage. The store is the truth, a hand-off distributes.
//!
//! The contract, whatever the backend:
//! - A hop is announced after the commit that made it, and only then. Announcing it again has no effect while it is in flight.
//! - `take` gives each hop to one taker. The taker commits its end and says `ended`, or says `waits` and commits that, or gives it back.
//! - A hop is never lost: what a hand-off cannot hold stays in the store and is fetched from there when there is room.
//! - A hop that was taken when the process died is in the store still, and found by `recover`.

use std::sync::Arc;

use crate::failure::Failure;
use crate::message::Message;
use crate::store::commit::{HopId, RunId, StoredHop};

pub mod embedded;

/// A message at a step, ready to be worked on.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The hop.
    pub hop: HopId,
    /// The fence to end it with.
    pub fence: i64,
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The number of the attempt to come; the first is 1, and 0 says that it has waited for a time (`Turn::Rest`).
    pub attempt: u32,
    /// The revision under which the run was accepted.
    pub revision: Arc<str>,
    /// Whether the message's bytes are the run's accepted ones, which then need not be stored again.
    pub runs_body: bool,
    /// The message.
    pub message: Message,
}

impl Hop {
    /// The hop as the store gave it back.
    pub fn from_store(stored: StoredHop) -> Result<Hop, Failure> {
        Ok(Hop {
            hop: stored.hop,
            fence: stored.fence,
            run: stored.run,
            flow: stored.flow.clone(),
            step: stored.step.clone(),
            attempt: stored.attempt,
            revision: stored.revision.clone(),
            runs_body: stored.runs_body,
            message: stored.into_message()?,
        })
    }
}
