//! Announcements: which hops a hand-off outside of the store has been told of. The store is the truth; what is noted here only says what
//! need not be told again, so that all of it may be forgotten at any time.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;

use super::commit::{Commit, HopId, StoredHop};
use super::database::{Connection, Sql, params};
use super::writer::Writing;
use super::{Store, hops};

/// - `ready_at` is when a hop was added or became ready
/// - `announced` is null for a hop that is to be announced, 0 for one that its engine hands on by itself, else when it was announced
pub(super) const COLUMNS: &str = "
ALTER TABLE hops ADD COLUMN ready_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hops ADD COLUMN announced INTEGER DEFAULT 0;
CREATE INDEX hops_door ON hops (flow, ready_at, id) WHERE step = '@accept';
CREATE INDEX hops_unannounced ON hops (ready_at) WHERE announced IS NULL AND due_at IS NULL AND held IS NULL;
";

/// How many hops are ready for a step, as far as they were announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyCount {
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// Hops that were announced.
    pub announced: u64,
    /// Hops that were not, or whose announcement was forgotten.
    pub unannounced: u64,
    /// When the first of those that were announced was, in milliseconds since 1970.
    pub announced_at_ms: Option<i64>,
}

impl Store {
    /// Hops that have been ready for so long and were not announced, those that have waited longest first; no more of them than `limit`,
    /// and no more once their bytes reach `bytes_max`.
    pub async fn unannounced(
        &self,
        for_so_long: Duration,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredHop>, Failure> {
        let age_ms = i64::try_from(for_so_long.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.now_ms().saturating_sub(age_ms);
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM hops WHERE announced IS NULL AND due_at IS NULL AND held IS NULL AND ready_at <= ?1
                 ORDER BY ready_at, id LIMIT ?2",
            )?;
            let waiting: Vec<i64> = statement
                .query_map([before_ms, super::limit(limit)], |row| row.get(0))?;
            some(connection, waiting, bytes_max)
        })
        .await
    }

    /// The hops at the door of a flow that have been ready longest, in that order; no more of them than `limit`, and no more once their bytes
    /// reach `bytes_max`. They may be with a taker.
    pub async fn first_at_door(
        &self,
        flow: &Arc<str>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredHop>, Failure> {
        let flow = flow.clone();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM hops WHERE step = '@accept' AND flow = ?1 AND due_at IS NULL AND held IS NULL
                 ORDER BY ready_at, id LIMIT ?2",
            )?;
            let first: Vec<i64> =
                statement.query_map(params![flow, super::limit(limit)], |row| row.get(0))?;
            some(connection, first, bytes_max)
        })
        .await
    }

    /// How many hops are ready, by flow and step.
    pub async fn ready_counts(&self) -> Result<Vec<ReadyCount>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT flow, step, count(announced), count(*) - count(announced), min(announced) FROM hops
                 WHERE due_at IS NULL AND held IS NULL GROUP BY flow, step ORDER BY flow, step",
            )?;
            statement.query_map((), |row| {
                Ok(ReadyCount {
                    flow: row.get(0)?,
                    step: row.get(1)?,
                    announced: hops::count(row, 2)?,
                    unannounced: hops::count(row, 3)?,
                    announced_at_ms: row.get(4)?,
                })
            })
        })
        .await
    }

    /// What was announced for a step counts no more: its hops are to be announced again.
    pub async fn forget_announcements(
        &self,
        flow: &Arc<str>,
        step: &Arc<str>,
    ) -> Result<(), Failure> {
        let commit = Commit {
            forget: vec![(flow.clone(), step.clone())],
            ..Commit::default()
        };
        self.commit(commit).await.map(drop)
    }
}

/// These hops, those that are not ready left out; no more once their bytes reach `bytes_max`, but one at least.
fn some(connection: &Connection, hops: Vec<i64>, bytes_max: usize) -> Sql<Vec<StoredHop>> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for hop in hops {
        if bytes >= bytes_max && !found.is_empty() {
            break;
        }
        if let Some(hop) = hops::ready(connection, HopId(hop))? {
            bytes += hop.body.len() + hop.envelope.len();
            found.push(hop);
        }
    }
    Ok(found)
}

/// Notes that a hop was announced, if it is there and ready.
pub(super) fn note(writing: &Writing<'_>, hop: HopId) -> Sql<()> {
    writing.put(
        "UPDATE hops SET announced = ?2 WHERE id = ?1 AND announced IS NULL AND due_at IS NULL AND held IS NULL",
        [hop.0, writing.now_ms],
    )?;
    Ok(())
}

/// What was announced for a step counts no more.
pub(super) fn forget(writing: &Writing<'_>, flow: &str, step: &str) -> Sql<()> {
    writing.put(
        "UPDATE hops SET announced = NULL WHERE flow = ?1 AND step = ?2 AND announced IS NOT NULL",
        params![flow, step],
    )?;
    Ok(())
}

/// All that an engine has left which announces nothing is to be announced.
pub(super) fn begin(connection: &Connection) -> Sql<()> {
    connection.execute("UPDATE hops SET announced = NULL WHERE announced = 0", ())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::commit::{First, NewRun};
    use super::super::sample::*;
    use super::super::{Options, Store};
    use super::*;

    fn options(sample: &Sample) -> Options {
        Options {
            announces: true,
            ..sample.options()
        }
    }

    /// A store of an engine that announces, over what one has left that does not.
    async fn announcing(left: &[&str]) -> (Sample, Vec<NewRun>) {
        let mut sample = Sample::new();
        let orders: Vec<_> = left.iter().map(|key| sample.order(key, "1")).collect();
        sample.accept(orders.clone()).await;
        assert!(found(&sample, 0).await.is_empty(), "it hands on by itself");
        sample.store.shutdown().await;
        sample.store = Store::open(options(&sample), world(&sample.clock)).unwrap();
        (sample, orders)
    }

    async fn found(sample: &Sample, seconds: u64) -> Vec<HopId> {
        let hops = sample
            .store
            .unannounced(Duration::from_secs(seconds), 10, usize::MAX)
            .await;
        hops.unwrap().into_iter().map(|hop| hop.hop).collect()
    }

    async fn announce(sample: &Sample, hops: Vec<HopId>) {
        let commit = Commit {
            announced: hops,
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_not_announced_is_found_after_a_while_and_what_was_is_not() {
        let (sample, left) = announcing(&["left"]).await;
        assert_eq!(found(&sample, 5).await, []);
        sample.clock.advance(Duration::from_secs(5));
        assert_eq!(found(&sample, 5).await, [first_hop(&left[0])]);
        let order = sample.order("A", "1");
        sample.accept(vec![order.clone()]).await;
        assert_eq!(found(&sample, 5).await, [first_hop(&left[0])]);
        let both = vec![first_hop(&left[0]), first_hop(&order)];
        assert_eq!(found(&sample, 0).await, both);
        announce(&sample, both[..1].to_vec()).await;
        assert_eq!(found(&sample, 0).await, both[1..]);
        let counts = sample.store.ready_counts().await.unwrap();
        assert_eq!((counts[0].announced, counts[0].unannounced), (1, 1));
        assert_eq!(counts[0].announced_at_ms, Some(START_MS + 5000));
        announce(&sample, both).await;
        assert_eq!(found(&sample, 0).await, []);
    }

    #[tokio::test]
    async fn a_hop_that_waited_is_to_be_announced_again() {
        let (sample, left) = announcing(&["left"]).await;
        let hop = first_hop(&left[0]);
        announce(&sample, vec![hop]).await;
        let due_ms = START_MS + 10_000;
        sample.end(vec![waits(&left[0], hop, due_ms)]).await;
        announce(&sample, vec![hop]).await;
        assert_eq!(found(&sample, 0).await, []);
        sample.clock.advance(Duration::from_secs(10));
        let release = Commit {
            release: Some((due_ms, 9)),
            ..Commit::default()
        };
        sample.store.commit(release).await.unwrap();
        assert_eq!(found(&sample, 5).await, []);
        assert_eq!(found(&sample, 0).await, [hop]);
    }

    #[tokio::test]
    async fn forgotten_announcements_of_a_step_are_to_be_made_again() {
        let (sample, left) = announcing(&["left"]).await;
        let mut other = sample.order("A", "1");
        if let First::Hop(hop) = &mut other.first {
            hop.step = Arc::from("crm");
        }
        sample.accept(vec![other.clone()]).await;
        announce(&sample, vec![first_hop(&left[0]), first_hop(&other)]).await;
        let (flow, step) = (Arc::from("orders"), Arc::from("erp"));
        sample
            .store
            .forget_announcements(&flow, &step)
            .await
            .unwrap();
        assert_eq!(found(&sample, 0).await, [first_hop(&left[0])]);
    }
}
