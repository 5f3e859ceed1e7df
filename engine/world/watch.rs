//! Seeing an engine commit, and taking its power away: what a flow test does to an engine in its own process. Nothing in the real world.

use super::Pending;

/// Sees the commits of an engine, from outside of it.
pub trait Watch: Send + Sync {
    /// Called before a commit goes to the store; gives its number. Never ends for an engine whose power is gone: nothing of it is stored any more.
    fn before_commit(&self) -> Pending<'_, u64>;
    /// Called when the commit with this number is durable, or was refused. Never ends for an engine whose power is gone: nobody hears of it.
    fn after_commit(&self, number: u64) -> Pending<'_, ()>;
}
