//! Announcements: which hops a hand-off outside of the store has been told of. The store is the truth; what is noted here only says what
//! need not be told again, so that all of it may be forgotten at any time.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;

use super::commit::{Commit, HopId, StoredHop};
use super::database::{Connection, Sql, Value, params};
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

/// Where a look at what is not announced has ended: the next one begins behind it. The default is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    ready_at_ms: i64,
    hop: i64,
}

impl Store {
    /// Hops behind this place that have been ready for so long and were not announced, those that have waited longest first, without those of
    /// the steps `without` (flow and step); no more of them than `limit`, and no more once their bytes reach `bytes_max`. The second value is
    /// where the look has ended; `None` if nothing is behind.
    pub async fn unannounced(
        &self,
        for_so_long: Duration,
        behind: Place,
        without: Vec<(Arc<str>, Arc<str>)>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<StoredHop>, Option<Place>), Failure> {
        let age_ms = i64::try_from(for_so_long.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.now_ms().saturating_sub(age_ms);
        self.read(move |connection| {
            let mut steps = String::new();
            let mut within = [before_ms, behind.ready_at_ms, behind.hop, super::limit(limit)]
                .map(Value::Integer)
                .to_vec();
            for (flow, step) in &without {
                let nth = within.len() + 1;
                steps += &format!(" AND NOT (flow = ?{nth} AND step = ?{})", nth + 1);
                within.extend([Value::Text(flow), Value::Text(step)]);
            }
            let mut statement = connection.prepare_cached(&format!(
                "SELECT id, ready_at FROM hops WHERE announced IS NULL AND due_at IS NULL AND held IS NULL AND ready_at <= ?1
                 AND (ready_at, id) > (?2, ?3){steps} ORDER BY ready_at, id LIMIT ?4",
            ))?;
            let waiting: Vec<Place> = statement.query_map(&within[..], |row| {
                Ok(Place {
                    hop: row.get(0)?,
                    ready_at_ms: row.get(1)?,
                })
            })?;
            let hops: Vec<HopId> = waiting.iter().map(|place| HopId(place.hop)).collect();
            let (found, looked) = hops::ready_within(connection, &hops, bytes_max)?;
            let ended = looked.checked_sub(1).map(|last| waiting[last]);
            Ok((found, ended))
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
            let first: Vec<HopId> = statement
                .query_map(params![flow, super::limit(limit)], |row| row.get(0).map(HopId))?;
            Ok(hops::ready_within(connection, &first, bytes_max)?.0)
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
    use super::super::postgres::begin::Use;
    use super::super::sample::*;
    use super::super::{Options, Store};
    use super::*;

    fn options(sample: &Sample) -> Options {
        Options {
            sharing: Use::Shared,
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
            .unannounced(
                Duration::from_secs(seconds),
                Place::default(),
                Vec::new(),
                10,
                usize::MAX,
            )
            .await;
        hops.unwrap().0.into_iter().map(|hop| hop.hop).collect()
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
    async fn a_look_goes_on_behind_the_last_one_whether_that_was_announced_or_not() {
        let (sample, left) = announcing(&["a", "b", "c", "d"]).await;
        let look = async |behind, without, bytes_max| {
            let looking = sample
                .store
                .unannounced(Duration::ZERO, behind, without, 2, bytes_max);
            let (found, ended) = looking.await.unwrap();
            (found.into_iter().map(|hop| hop.hop).collect(), ended)
        };
        let all: Vec<HopId> = left.iter().map(first_hop).collect();
        let (mut behind, mut seen) = (Place::default(), Vec::new());
        for bytes_max in [usize::MAX, 1, 1] {
            let (found, ended): (Vec<HopId>, _) = look(behind, Vec::new(), bytes_max).await;
            seen.extend(found);
            behind = ended.unwrap();
        }
        assert_eq!(seen, all);
        assert_eq!(look(behind, Vec::new(), 1).await, (Vec::new(), None));
        let step = |step: &str| (Arc::from("orders"), Arc::from(step));
        let without = look(Place::default(), vec![step("crm"), step("erp")], 9).await;
        assert_eq!(without, (Vec::new(), None));
        let (found, _) = look(Place::default(), vec![step("crm")], 9).await;
        assert_eq!(found, all[..2]);
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
