//! Hops: messages that wait for a step, and the taking back of those that only the store has.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::failure::Failure;
use crate::message::MessageId;
use crate::world::mutation;

use super::commit::{FENCE_FIRST, HopId, NewHop, RunId, StoredHop};
use super::database::{Connection, Optional, Row, Sql, Value, params};
use super::journeys;
use super::reader::Reader;
use super::writer::Writing;

/// A hop as the command line shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct HopRow {
    /// The hop.
    pub hop: HopId,
    /// The run.
    pub run: RunId,
    /// The flow in which the step is.
    pub flow: Arc<str>,
    /// The step for which it waits.
    pub step: Arc<str>,
    /// The message's id at this hop.
    pub message: MessageId,
    /// The number of the attempt to come; 0 if it waits for a time, or did, and nothing has failed.
    pub attempt: u32,
    /// If it waits for a time: until when, in milliseconds since 1970.
    pub due_at_ms: Option<i64>,
    /// Why it waits, or why it last did.
    pub last_failure: Option<String>,
}

/// How many hops wait for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopCount {
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// Hops that can be worked on.
    pub ready: u64,
    /// Hops that wait for a time.
    pub waiting: u64,
    /// Hops that wait for their turn: an earlier message with their key is not over.
    pub held: u64,
}

/// Where a hop is, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The hop.
    pub hop: HopId,
    /// The flow.
    pub flow: Arc<str>,
    /// The revision of the flow under which it goes on.
    pub revision: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The number of the attempt to come.
    pub attempt: u32,
    /// Whether it waits for a time.
    pub waits: bool,
    /// Whether it waits for its turn.
    pub held: bool,
}

impl Reader {
    /// All hops, in the order of their numbers, without their bytes: what a hand-off begins with.
    pub async fn standing_hops(&self) -> Result<Vec<Standing>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT hops.id, hops.flow, hops.step, hops.due_at IS NOT NULL, hops.held IS NOT NULL, hops.attempt, coalesce(hops.revision, runs.revision)
                 FROM hops JOIN runs ON runs.id = hops.run ORDER BY hops.id",
            )?;
            let mut names = Names::default();
            statement.query_map((), |row| {
                Ok(Standing {
                    hop: HopId(row.get(0)?),
                    flow: names.shared(&row.text(1)?),
                    step: names.shared(&row.text(2)?),
                    waits: row.get(3)?,
                    held: row.get(4)?,
                    attempt: row.get(5)?,
                    revision: names.shared(&row.text(6)?),
                })
            })
        })
        .await
    }

    /// These hops, in this order, without those that are over, held or wait; at least one, and no more once `bytes_max` is reached.
    /// The second value says how many of the list were looked at.
    pub async fn ready_hops(
        &self,
        hops: Vec<HopId>,
        bytes_max: usize,
    ) -> Result<(Vec<StoredHop>, usize), Failure> {
        self.read(move |connection| ready_within(connection, &hops, bytes_max))
            .await
    }

    /// Which of these hops are there with this fence and do not wait: those that may still be worked on.
    pub async fn hops_there(&self, hops: Vec<(HopId, i64)>) -> Result<Vec<bool>, Failure> {
        self.read(move |connection| {
            let asked = hops
                .iter()
                .map(|(hop, fence)| [hop.0, *fence].map(Value::Integer));
            let mut there = FxHashSet::default();
            let sql = "SELECT id, fence FROM hops WHERE id = ?1 AND fence = ?2 AND due_at IS NULL";
            connection.query_each(sql, &asked.collect::<Vec<_>>(), |row| {
                there.insert((HopId(row.get(0)?), row.get::<i64>(1)?));
                Ok(())
            })?;
            Ok(hops.iter().map(|hop| there.contains(hop)).collect())
        })
        .await
    }

    /// The revision under which a message stands at a step, whichever it is.
    pub async fn revision_at(&self, flow: &str, step: &str) -> Result<Option<Arc<str>>, Failure> {
        let (flow, step) = (flow.to_owned(), step.to_owned());
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce(hops.revision, runs.revision) FROM hops JOIN runs ON runs.id = hops.run
                     WHERE hops.flow = ?1 AND hops.step = ?2 ORDER BY hops.id LIMIT 1",
                )?
                .query_row(params![flow, step], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// When the next waiting hop is due, in milliseconds since 1970.
    pub async fn next_due(&self) -> Result<Option<i64>, Failure> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT min(due_at) FROM hops WHERE due_at IS NOT NULL")?
                .query_row((), |row| row.get(0))
        })
        .await
    }

    /// How many hops wait for which step.
    pub async fn hop_counts(&self) -> Result<Vec<HopCount>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT flow, step, count(*) - count(due_at) - count(held), count(due_at), count(held) FROM hops GROUP BY flow, step ORDER BY flow, step",
            )?;
            statement.query_map((), |row| {
                Ok(HopCount {
                    flow: row.get(0)?,
                    step: row.get(1)?,
                    ready: count(row, 2)?,
                    waiting: count(row, 3)?,
                    held: count(row, 4)?,
                })
            })
        })
        .await
    }
}

/// Adds a hop, ready at once; with a revision where that is another one than that of its run.
pub(super) fn insert(writing: &Writing<'_>, hop: &NewHop, revision: Option<&str>) -> Sql<()> {
    writing.put(
        "INSERT INTO hops (id, run, flow, step, message, fence, attempt, envelope, body, ready_at, announced, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?9, ?10, ?11)",
        params![
            hop.hop.0,
            hop.run.0,
            hop.flow,
            hop.step,
            hop.message.to_bytes(),
            FENCE_FIRST,
            hop.envelope.as_deref(),
            hop.body.as_deref(),
            writing.now_ms,
            (!writing.announces).then_some(0),
            revision,
        ],
    )?;
    Ok(())
}

/// Holds a hop that was added a moment ago, until its turn comes.
pub(super) fn hold(writing: &Writing<'_>, hop: HopId) -> Sql<()> {
    writing.put("UPDATE hops SET held = 1 WHERE id = ?1", [hop.0])
}

/// Ends hops, each if it is there with this fence; says of each whether it was.
pub(super) fn end(writing: &Writing<'_>, hops: &[(HopId, i64)]) -> Sql<Vec<bool>> {
    let hops: Vec<_> = hops
        .iter()
        .map(|(hop, fence)| [hop.0, *fence].map(Value::Integer))
        .collect();
    let sql = "DELETE FROM hops WHERE id = ?1 AND fence = ?2";
    let rows = writing.connection.execute_each(sql, &hops)?;
    let ended = |rows| rows == 1 || mutation::is("unfenced-end");
    Ok(rows.into_iter().map(ended).collect())
}

/// Lets a hop wait, if it is there with this fence. Its fence rises.
pub(super) fn wait(
    writing: &Writing<'_>,
    hop: HopId,
    fence: i64,
    due_at_ms: i64,
    attempt: u32,
    failure: &Failure,
) -> Sql<bool> {
    let reason = match &failure.detail {
        Some(detail) => format!("{failure}\n{detail}"),
        None => failure.to_string(),
    };
    let rows = writing.run(
        "UPDATE hops SET due_at = ?3, attempt = ?4, last_failure = ?5, fence = fence + 1 WHERE id = ?1 AND fence = ?2",
        params![hop.0, fence, due_at_ms, attempt, reason],
    )?;
    Ok(rows == 1)
}

/// Lets a hop wait for a time without a failure, if it is there with this fence. Its fence rises, and it comes back as attempt 0.
pub(super) fn rest(
    writing: &Writing<'_>,
    hop: HopId,
    fence: i64,
    due_at_ms: i64,
    why: &str,
) -> Sql<bool> {
    let rows = writing.run(
        "UPDATE hops SET due_at = ?3, attempt = 0, last_failure = ?4, fence = fence + 1 WHERE id = ?1 AND fence = ?2",
        params![hop.0, fence, due_at_ms, why],
    )?;
    Ok(rows == 1)
}

/// Holds a hop that was taken with this fence, until something wakes or ends it. Its fence rises, and it comes back as attempt 0.
pub(super) fn hold_taken(writing: &Writing<'_>, hop: HopId, fence: i64, why: &str) -> Sql<()> {
    writing.put(
        "UPDATE hops SET held = 1, attempt = 0, last_failure = ?3, fence = fence + 1 WHERE id = ?1 AND fence = ?2",
        params![hop.0, fence, why],
    )?;
    Ok(())
}

/// A hop that waits for a time waits until this time.
pub(super) fn put_off(writing: &Writing<'_>, hop: HopId, due_at_ms: i64) -> Sql<()> {
    let sql = "UPDATE hops SET due_at = ?2 WHERE id = ?1 AND due_at IS NOT NULL";
    writing.put(sql, params![hop.0, due_at_ms])?;
    Ok(())
}

/// What waits for a time at a step is due now.
pub(super) fn hurry(writing: &Writing<'_>, flow: &str, step: &str) -> Sql<()> {
    let sql = "UPDATE hops SET due_at = ?3 WHERE flow = ?1 AND step = ?2 AND due_at > ?3";
    writing.put(sql, params![flow, step, writing.now_ms])?;
    Ok(())
}

/// Whether a hop is there with this fence.
pub(super) fn stands(writing: &Writing<'_>, hop: HopId, fence: i64) -> Sql<bool> {
    writing
        .connection
        .prepare_cached("SELECT 1 FROM hops WHERE id = ?1 AND fence = ?2")?
        .exists(params![hop.0, fence])
}

/// Whether a hop waits; `None` if it is not there.
pub(super) fn asleep(writing: &Writing<'_>, hop: HopId) -> Sql<Option<bool>> {
    writing
        .connection
        .prepare_cached("SELECT due_at IS NOT NULL OR held IS NOT NULL FROM hops WHERE id = ?1")?
        .query_row([hop.0], |row| row.get(0))
        .optional()
}

/// Makes a hop that waits ready before its time; the commit releases it.
pub(super) fn wake(writing: &mut Writing<'_>, hop: HopId) -> Sql<()> {
    let sql = "UPDATE hops SET due_at = NULL, held = NULL, ready_at = ?2, announced = CASE WHEN announced = 0 THEN 0 END WHERE id = ?1";
    writing.put(sql, [hop.0, writing.now_ms])?;
    let ready = ready(writing.connection, hop)?;
    writing.released.extend(ready);
    Ok(())
}

/// Makes hops ready whose time has come, the longest due first.
pub(super) fn release(writing: &Writing<'_>, due_at_ms: i64, limit: usize) -> Sql<Vec<StoredHop>> {
    let due: Vec<HopId> = {
        let mut statement = writing.connection.prepare_cached(
            "SELECT id FROM hops WHERE due_at IS NOT NULL AND due_at <= ?1 ORDER BY due_at, id LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statement.query_map(params![due_at_ms, limit], |row| row.get(0).map(HopId))?
    };
    for hop in &due {
        writing.put(
            "UPDATE hops SET due_at = NULL, ready_at = ?2, announced = CASE WHEN announced = 0 THEN 0 END WHERE id = ?1",
            [hop.0, writing.now_ms],
        )?;
    }
    ready_of(writing.connection, &due)
}

/// The hops of a run that are not over.
pub(super) fn of_run(connection: &Connection, run: RunId) -> Sql<Vec<HopRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, run, flow, step, message, attempt, due_at, last_failure FROM hops WHERE run = ?1 ORDER BY id",
    )?;
    statement.query_map([run.0], |row| {
        Ok(HopRow {
            hop: HopId(row.get(0)?),
            run: RunId(row.get(1)?),
            flow: row.get(2)?,
            step: row.get(3)?,
            message: MessageId::from_bytes(row.get(4)?),
            attempt: row.get(5)?,
            due_at_ms: row.get(6)?,
            last_failure: row.get(7)?,
        })
    })
}

/// What `ready_hops` gives.
pub(super) fn ready_within(
    connection: &Connection,
    hops: &[HopId],
    bytes_max: usize,
) -> Sql<(Vec<StoredHop>, usize)> {
    let looked = match bytes_max {
        usize::MAX => hops.len(),
        bytes_max => within(connection, hops, bytes_max)?,
    };
    Ok((ready_of(connection, &hops[..looked])?, looked))
}

/// How many of these hops have so many bytes together: no more once `bytes_max` is reached, but one that is ready at least.
fn within(connection: &Connection, hops: &[HopId], bytes_max: usize) -> Sql<usize> {
    let mut sizes = FxHashMap::default();
    let sql = format!(
        "SELECT hops.id, coalesce(length(hops.body), length(bodies.body)) + coalesce(length(hops.envelope), length(bodies.envelope))
         {FROM} WHERE hops.id = ?1 AND {READY}"
    );
    connection.query_each(&sql, &numbers(hops), |row| {
        sizes.insert(HopId(row.get(0)?), row.get::<i64>(1)?);
        Ok(())
    })?;
    let (mut found, mut bytes) = (false, 0);
    for (at, hop) in hops.iter().enumerate() {
        if found && bytes >= bytes_max {
            return Ok(at);
        }
        if let Some(size) = sizes.get(hop) {
            found = true;
            bytes += usize::try_from(*size).unwrap_or(0);
        }
    }
    Ok(hops.len())
}

/// These hops with their messages, in this order, without those that cannot be worked on.
fn ready_of(connection: &Connection, hops: &[HopId]) -> Sql<Vec<StoredHop>> {
    let mut found = Vec::with_capacity(hops.len());
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE hops.id = ?1 AND {READY}");
    connection.query_each(&sql, &numbers(hops), |row| {
        found.push(from_row(row)?);
        Ok(())
    })?;
    Ok(found)
}

fn numbers(hops: &[HopId]) -> Vec<[Value<'static>; 1]> {
    hops.iter().map(|hop| [Value::Integer(hop.0)]).collect()
}

/// A hop with its message, if it can be worked on.
pub(super) fn ready(connection: &Connection, hop: HopId) -> Sql<Option<StoredHop>> {
    stored(connection, hop, false)
}

/// A hop with its message, also if it waits.
pub(super) fn any(connection: &Connection, hop: HopId) -> Sql<Option<StoredHop>> {
    stored(connection, hop, true)
}

/// What `from_row` reads, and where it is.
const COLUMNS: &str =
    "hops.id, hops.fence, hops.run, hops.flow, hops.step, hops.attempt, hops.message, runs.root, runs.received_at,
     coalesce(hops.revision, runs.revision), coalesce(hops.body, bodies.body), coalesce(hops.envelope, bodies.envelope), runs.keys,
     hops.body IS NULL, hops.revision IS NOT NULL";
const FROM: &str =
    "FROM hops JOIN runs ON runs.id = hops.run LEFT JOIN bodies ON bodies.run = hops.run";
/// Of a hop that can be worked on.
const READY: &str = "hops.due_at IS NULL AND hops.held IS NULL";

fn stored(connection: &Connection, hop: HopId, any: bool) -> Sql<Option<StoredHop>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} {FROM} WHERE hops.id = ?1 AND (?2 OR ({READY}))"
    ))?;
    statement
        .query_row(params![hop.0, any], from_row)
        .optional()
}

fn from_row(row: &Row<'_>) -> Sql<StoredHop> {
    Ok(StoredHop {
        hop: HopId(row.get(0)?),
        fence: row.get(1)?,
        run: RunId(row.get(2)?),
        flow: row.get(3)?,
        step: row.get(4)?,
        attempt: row.get(5)?,
        message: MessageId::from_bytes(row.get(6)?),
        root: MessageId::from_bytes(row.get(7)?),
        received_at_ms: row.get(8)?,
        revision: row.get(9)?,
        body: bytes(row, 10)?,
        envelope: bytes(row, 11)?,
        keys: Arc::new(journeys::keys_from(&row.text(12)?)),
        runs_body: row.get(13)?,
        moved: row.get(14)?,
    })
}

fn bytes(row: &Row<'_>, column: usize) -> Sql<Bytes> {
    Ok(Bytes::copy_from_slice(row.blob(column)?))
}

/// A count that is never less than zero.
pub(super) fn count(row: &Row<'_>, column: usize) -> Sql<u64> {
    Ok(u64::try_from(row.get::<i64>(column)?).unwrap_or(0))
}

/// Names that repeat in many rows, each allocated once.
#[derive(Default)]
struct Names(FxHashSet<Arc<str>>);

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = Arc::from(name);
        self.0.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::super::commit::{Commit, Leaf};
    use super::super::sample::*;
    use super::*;

    async fn release(sample: &Sample, due_at_ms: i64, limit: usize) -> Vec<StoredHop> {
        let commit = Commit {
            release: Some((due_at_ms, limit)),
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().released
    }

    #[tokio::test]
    async fn a_waiting_hop_is_released_when_it_is_due_with_a_new_fence() {
        let mut sample = Sample::new();
        let order = sample.order("A", "{\"a\":1}");
        let hop = first_hop(&order);
        sample.accept(vec![order.clone()]).await;
        sample.end(vec![waits(&order, hop, START_MS + 10)]).await;
        sample.reopen().await;
        assert_eq!(sample.store.next_due().await.unwrap(), Some(START_MS + 10));
        let (ready, looked) = sample.store.ready_hops(vec![hop], 1).await.unwrap();
        assert_eq!((ready.len(), looked), (0, 1));
        assert!(release(&sample, START_MS + 9, 9).await.is_empty());
        assert!(release(&sample, START_MS + 10, 0).await.is_empty());
        let released = release(&sample, START_MS + 10, 9).await;
        assert_eq!(released.len(), 1);
        assert_eq!((released[0].fence, released[0].attempt), (2, 2));
        assert_eq!(released[0].body, order.body);
        assert_eq!(*released[0].keys, *order.keys);
        assert_eq!(&*released[0].revision, "r1");
        assert_eq!(sample.store.next_due().await.unwrap(), None);
        let mut end = over(&order, hop, vec![], vec![Leaf::Delivered]);
        assert_eq!(sample.end(vec![end.clone()]).await.ends, [false]);
        let shown = sample.store.run("1").await.unwrap().unwrap();
        let reason = shown.hops[0].last_failure.as_deref();
        assert_eq!(reason, Some("timeout: no answer\nafter 10 s"));
        end.fence = 2;
        assert_eq!(sample.end(vec![end]).await.ends, [true]);
    }

    #[tokio::test]
    async fn the_longest_due_are_released_first() {
        let sample = Sample::new();
        let orders: Vec<_> = (0..4).map(|n| sample.order(&n.to_string(), "1")).collect();
        sample.accept(orders.clone()).await;
        let due = [30, 10, 20, 40];
        let ends = orders
            .iter()
            .zip(due)
            .map(|(order, due)| waits(order, first_hop(order), START_MS + due));
        sample.end(ends.collect()).await;
        let released = release(&sample, START_MS + 100, 2).await;
        let runs: Vec<_> = released.iter().map(|hop| hop.run).collect();
        assert_eq!(runs, [orders[1].run, orders[2].run]);
        let counts = sample.store.hop_counts().await.unwrap();
        assert_eq!((counts[0].ready, counts[0].waiting), (2, 2));
    }

    #[tokio::test]
    async fn a_hop_has_its_own_bytes_or_those_of_its_run() {
        let sample = Sample::new();
        let order = sample.order("A", "accepted");
        sample.accept(vec![order.clone()]).await;
        let mut own = sample.hop(order.run, order.message, "b");
        own.body = Some(Bytes::from_static(b"mapped"));
        own.envelope = Some(Bytes::from_static(b"\x01"));
        let same = sample.hop(order.run, order.message, "c");
        let ids = vec![own.hop, same.hop];
        sample
            .end(vec![over(
                &order,
                first_hop(&order),
                vec![own, same],
                vec![],
            )])
            .await;
        let (found, _) = sample.store.ready_hops(ids.clone(), 99).await.unwrap();
        assert_eq!(
            (&found[0].body[..], &found[0].envelope[..]),
            (&b"mapped"[..], &b"\x01"[..])
        );
        assert_eq!(
            (&found[1].body[..], &found[1].envelope[..]),
            (&b"accepted"[..], &b""[..])
        );
        let (found, looked) = sample.store.ready_hops(ids, 3).await.unwrap();
        assert_eq!((found.len(), looked), (1, 1), "the bytes have a limit");
    }

    #[tokio::test]
    async fn no_hop_number_is_given_twice() {
        let mut sample = Sample::new();
        let before = sample.store.next_hop();
        sample.reopen().await;
        assert!(sample.store.next_hop() > before);
    }
}
