//! Effects that a version guards: at one step, two messages with the same guarded key are never under way at once, and one that has become
//! stale is not sent. Otherwise a slow request with an old version could arrive behind the newer one.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::OwnedMutexGuard;

use super::Shared;
use super::walk::{Ended, Walked};
use crate::failure::Failure;
use crate::message::{Guard, Message};

/// A step, a scope and a key.
type Place = (Arc<str>, Arc<str>, String);

/// Who is under way. As many entries as guarded messages are taken.
#[derive(Default)]
pub(super) struct Lanes(Mutex<FxHashMap<Place, Arc<tokio::sync::Mutex<()>>>>);

/// The right to be under way with some keys; given back when it goes.
pub(super) struct Alone<'a> {
    lanes: &'a Lanes,
    held: Vec<(Place, OwnedMutexGuard<()>)>,
}

impl Lanes {
    /// Waits until no other message with one of these keys is under way at the step. In one order for all, so that no two wait for each other.
    pub(super) async fn alone(&self, step: &Arc<str>, guards: &[Guard]) -> Alone<'_> {
        let mut places: Vec<Place> = guards
            .iter()
            .map(|guard| (step.clone(), guard.scope.clone(), guard.key.clone()))
            .collect();
        places.sort_unstable();
        places.dedup();
        let mut alone = Alone {
            lanes: self,
            held: Vec::with_capacity(places.len()),
        };
        for place in places {
            let lane = self.lanes().entry(place.clone()).or_default().clone();
            alone.held.push((place, lane.lock_owned().await));
        }
        alone
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, FxHashMap<Place, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lanes();
        for (place, held) in self.held.drain(..) {
            drop(held);
            // Whoever waits for it holds it as well.
            if lanes
                .get(&place)
                .is_some_and(|lane| Arc::strong_count(lane) == 1)
            {
                lanes.remove(&place);
            }
        }
    }
}

impl Shared {
    /// Whether a newer version of one of the message's keys has been seen since: then it ends at this node.
    pub(super) async fn stale(
        &self,
        node: usize,
        message: &Message,
    ) -> Result<Option<Walked>, Failure> {
        if message.guards.is_empty() {
            return Ok(None);
        }
        let newer = self.store.newer_version(message.guards.to_vec()).await?;
        Ok(newer.map(|newer| stale(node, &newer)))
    }
}

/// The end of a message for which it is too late.
pub(super) fn stale(node: usize, newer: &str) -> Walked {
    Walked {
        ended: vec![Ended::Stale(node, format!("older than version {newer}"))],
        ..Walked::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::MessageId;

    fn guard(key: &str) -> Guard {
        Guard {
            scope: Arc::from("newest:stock/latest"),
            key: key.to_owned(),
            version: "1".to_owned(),
            by: MessageId(1),
        }
    }

    #[tokio::test]
    async fn a_key_is_taken_by_one_at_a_time_and_nothing_is_left_behind() {
        let lanes = Lanes::default();
        let step: Arc<str> = Arc::from("erp");
        let both = [guard("B"), guard("A")];
        let first = lanes.alone(&step, &both).await;
        let patience = Duration::from_millis(20);
        for taken in ["A", "B"] {
            let taken = [guard(taken)];
            let second = lanes.alone(&step, &taken);
            assert!(tokio::time::timeout(patience, second).await.is_err());
        }
        drop(lanes.alone(&step, &[guard("C")]).await);
        drop(lanes.alone(&Arc::from("crm"), &both).await);
        drop(first);
        drop(lanes.alone(&step, &[guard("A")]).await);
        assert!(lanes.lanes().is_empty());
    }
}
