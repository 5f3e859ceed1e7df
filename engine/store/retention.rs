//! Retention: what is finished and old goes, in small batches between commits. What is in flight or in exception stays, whatever its age;
//! and a run stays as long as one of its claims, so that a late repeat is still known.

use super::database::{Connection, Sql, params};
use super::runs::RunState;
use super::{books, groups, journeys, notices, numbers, shadows, versions, waits};

/// How long finished things are kept, and how much one batch may look at.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Runs with their timeline, keys, claims and effects, after they have ended.
    pub runs_ms: i64,
    /// Bytes of runs, after they have ended.
    pub bodies_ms: i64,
    /// Resolved and discarded exceptions, after they were opened.
    pub exceptions_ms: i64,
    /// How many rows of each kind one batch looks at.
    pub limit: usize,
}

/// What one batch has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Runs.
    pub runs: u64,
    /// Bytes of runs.
    pub bodies: u64,
    /// Exceptions.
    pub exceptions: u64,
    /// Versions that nobody has renewed.
    pub versions: u64,
    /// Whether there is more to look at right now.
    pub more: bool,
}

/// Up to which run a pass has come; each batch begins where the last ended. `None` once the pass is at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    runs: Option<i64>,
    bodies: Option<i64>,
    versions: Option<i64>,
}

impl Default for Position {
    fn default() -> Position {
        Position {
            runs: Some(0),
            bodies: Some(0),
            versions: Some(0),
        }
    }
}

/// One batch. The caller gives the transaction.
pub(super) fn sweep(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    position: &mut Position,
) -> Sql<Swept> {
    let mut swept = Swept::default();
    let retention = &Retention {
        limit: retention.limit.max(1),
        ..*retention
    };
    if let Some(after) = position.bodies {
        position.bodies = bodies(connection, retention, now_ms, after, &mut swept)?;
    }
    if let Some(after) = position.runs {
        position.runs = runs(connection, retention, now_ms, after, &mut swept)?;
    }
    if let Some(after) = position.versions {
        (swept.versions, position.versions) =
            versions::sweep(connection, now_ms, after, retention.limit)?;
    }
    exceptions(connection, retention, now_ms, &mut swept)?;
    shadows::sweep(connection, now_ms - retention.bodies_ms)?;
    let limit = super::limit(retention.limit);
    swept.more |= waits::sweep(connection, now_ms, limit)? >= retention.limit;
    swept.more |= groups::sweep(connection, now_ms, limit)? >= retention.limit;
    if position.bodies.is_some() || position.runs.is_some() || position.versions.is_some() {
        swept.more = true;
    } else {
        *position = Position::default();
    }
    Ok(swept)
}

fn bodies(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    after: i64,
    swept: &mut Swept,
) -> Sql<Option<i64>> {
    let horizon = now_ms - retention.bodies_ms;
    let mut statement = connection.prepare_cached(
        "SELECT run, ended_at IS NOT NULL AND ended_at <= ?2 AND run NOT IN (SELECT run FROM hops), received_at IS NOT NULL AND received_at > ?2
         FROM bodies LEFT JOIN runs ON runs.id = bodies.run WHERE run > ?1 ORDER BY run LIMIT ?3",
    )?;
    let looked: Vec<(i64, bool, bool)> = statement.query_map(
        params![after, horizon, super::limit(retention.limit)],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let young = looked.iter().any(|(.., young)| *young);
    let last = looked
        .last()
        .map_or((0, false), |(run, _, young)| (*run, *young));
    let full = looked.len() >= retention.limit;
    for (run, old, _) in looked {
        if old {
            connection.put("DELETE FROM bodies WHERE run = ?1", [run])?;
            swept.bodies += 1;
        }
    }
    Ok(full.then(|| go_on(connection, last, young)).flatten())
}

fn runs(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    after: i64,
    swept: &mut Swept,
) -> Sql<Option<i64>> {
    let horizon = now_ms - retention.runs_ms;
    let mut statement = connection.prepare_cached(
        "SELECT id, flow, state, keys, received_at > ?2,
                ended_at IS NOT NULL AND ended_at <= ?2 AND id NOT IN (SELECT run FROM hops)
                AND NOT EXISTS (SELECT 1 FROM claims WHERE run = runs.id AND runs.ended_at + keep_ms > ?4)
         FROM runs WHERE id > ?1 ORDER BY id LIMIT ?3",
    )?;
    let limit = super::limit(retention.limit);
    let (mut looked, mut young, mut last, mut old) = (0, false, (0, false), Vec::new());
    statement.each(params![after, horizon, limit, now_ms], |row| {
        looked += 1;
        last = (row.get(0)?, row.get(4)?);
        young |= last.1;
        if row.get(5)? {
            let state = RunState::from_number(row.get(2)?);
            old.push((last.0, row.get::<String>(1)?, state, row.get::<String>(3)?));
        }
        Ok(())
    })?;
    let full = looked >= retention.limit;
    for (run, flow, state, keys) in old {
        remove(connection, run, &keys)?;
        books::swept(connection, &flow, state)?;
        swept.runs += 1;
    }
    Ok(full.then(|| go_on(connection, last, young)).flatten())
}

/// Behind which run the next batch begins, after one that ended with `last` (a run, and whether it is young) and had young ones in it or not.
/// Where one engine numbers all runs, those behind a young one are younger. Several engines number from blocks of their own: there a part of
/// a block is passed over, and what is old behind it is looked at.
fn go_on(connection: &Connection, last: (i64, bool), young: bool) -> Option<i64> {
    let (run, is_young) = last;
    match connection {
        Connection::Sqlite(_) => (!young).then_some(run),
        Connection::Postgres(_) if is_young => Some(run | (numbers::RUNS - 1)),
        Connection::Postgres(_) => Some(run),
    }
}

fn remove(connection: &Connection, run: i64, keys: &str) -> Sql<()> {
    connection.put(
        "UPDATE facts SET value = ?1 WHERE name = 'runs_high' AND value < ?1",
        [run],
    )?;
    for (name, value) in journeys::keys_from(keys) {
        connection.put(
            "DELETE FROM keys WHERE value = ?1 AND name = ?2 AND run = ?3",
            params![value, name, run],
        )?;
    }
    for statement in [
        "DELETE FROM claims WHERE run = ?1",
        "DELETE FROM trail WHERE run = ?1",
        "DELETE FROM guarded WHERE effect IN (SELECT id FROM effects WHERE run = ?1)",
        "DELETE FROM effects WHERE run = ?1",
        "DELETE FROM saga_steps WHERE run = ?1",
        "DELETE FROM sagas WHERE run = ?1",
        "DELETE FROM bodies WHERE run = ?1",
        "DELETE FROM waits WHERE answer = ?1",
        "DELETE FROM runs WHERE id = ?1",
    ] {
        connection.put(statement, [run])?;
    }
    Ok(())
}

fn exceptions(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    swept: &mut Swept,
) -> Sql<()> {
    let removed = connection
        .prepare_cached(
            "DELETE FROM exceptions WHERE id IN (
               SELECT id FROM exceptions WHERE state >= 3 AND coalesce(settled_at, opened_at) <= ?1 ORDER BY id LIMIT ?2)",
        )?
        .execute(params![
            now_ms - retention.exceptions_ms,
            super::limit(retention.limit)
        ])?;
    connection
        .prepare_cached(
            "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE at <= ?1
               AND NOT EXISTS (SELECT 1 FROM exceptions WHERE exceptions.id = history.exception) ORDER BY id LIMIT ?2)",
        )?
        .execute(params![
            now_ms - retention.exceptions_ms,
            super::limit(retention.limit)
        ])?;
    notices::sweep(
        connection,
        now_ms - retention.exceptions_ms,
        super::limit(retention.limit),
    )?;
    swept.exceptions = u64::try_from(removed).unwrap_or(0);
    swept.more |= removed >= retention.limit;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::{Accepted, First, Leaf};
    use super::super::runs::RunFilter;
    use super::super::sample::*;
    use super::*;

    const DAY: i64 = 86_400_000;

    fn retention(limit: usize) -> Retention {
        Retention {
            runs_ms: 2 * DAY,
            bodies_ms: DAY,
            exceptions_ms: 3 * DAY,
            limit,
        }
    }

    /// Sweeps until there is no more, and gives all that went.
    async fn sweep(sample: &Sample, limit: usize) -> (u64, u64, u64) {
        let mut gone = (0, 0, 0);
        for _ in 0..100 {
            let swept = sample.store.sweep(retention(limit)).await.unwrap();
            gone.0 += swept.runs;
            gone.1 += swept.bodies;
            gone.2 += swept.exceptions;
            if !swept.more {
                return gone;
            }
        }
        panic!("the sweep does not come to its end");
    }

    #[tokio::test]
    async fn what_is_finished_goes_in_its_time_and_the_rest_stays() {
        for limit in [1, 3, 100] {
            let mut sample = Sample::new();
            let orders: Vec<_> = (0..6).map(|n| sample.order(&n.to_string(), "1")).collect();
            sample.accept(orders.clone()).await;
            let mut ends: Vec<_> = orders[..4]
                .iter()
                .map(|order| over(order, first_hop(order), vec![], vec![Leaf::Delivered]))
                .collect();
            let leaf = Leaf::Exception(exception(&orders[4]));
            ends.push(over(&orders[4], first_hop(&orders[4]), vec![], vec![leaf]));
            sample.end(ends).await;
            assert_eq!(sweep(&sample, limit).await, (0, 0, 0));
            sample.clock.advance(Duration::from_millis(DAY as u64));
            assert_eq!(sweep(&sample, limit).await, (0, 4, 0));
            let found = sample.store.run("1").await.unwrap().unwrap();
            assert_eq!(found.body, None);
            sample.clock.advance(Duration::from_millis(DAY as u64));
            assert_eq!(sweep(&sample, limit).await, (4, 0, 0));
            assert!(sample.store.journey("0").await.unwrap().is_empty());
            assert_eq!(sample.store.journey("4").await.unwrap().len(), 1);
            assert_eq!(sample.books().await.delivered, 4);
            sample.reopen().await;
            assert_eq!(sample.store.next_run().0, 7);
            let runs = sample.store.runs(RunFilter::default()).await.unwrap();
            assert_eq!(runs.len(), 2);
        }
    }

    #[tokio::test]
    async fn a_run_stays_as_long_as_its_claim() {
        let sample = Sample::new();
        let mut order = sample.order("A", "1");
        order.claims[0].keep_ms = 5 * DAY;
        sample.accept(vec![order.clone()]).await;
        sample
            .end(vec![over(
                &order,
                first_hop(&order),
                vec![],
                vec![Leaf::Delivered],
            )])
            .await;
        sample.clock.advance(Duration::from_millis(4 * DAY as u64));
        assert_eq!(sweep(&sample, 10).await, (0, 1, 0));
        let again = sample.order("A", "1");
        let verdicts = sample.accept(vec![again.clone()]).await;
        assert_eq!(verdicts, [Accepted::Duplicate(order.run)]);
        sample.clock.advance(Duration::from_millis(DAY as u64));
        assert_eq!(sweep(&sample, 10).await, (1, 0, 0));
        assert_eq!(sample.accept(vec![again]).await, [Accepted::New]);
    }

    #[tokio::test]
    async fn what_is_old_goes_behind_young_runs_of_another_engine() {
        let sample = Sample::on_a_server();
        let mut old = sample.order("A", "1");
        // As an engine numbers it that has another block.
        old.run.0 += 5 * numbers::RUNS;
        if let First::Hop(hop) = &mut old.first {
            hop.run = old.run;
        }
        sample.accept(vec![old.clone()]).await;
        let end = over(&old, first_hop(&old), vec![], vec![Leaf::Delivered]);
        sample.end(vec![end]).await;
        sample.clock.advance(Duration::from_millis(9 * DAY as u64));
        let mut young: Vec<_> = ["B", "C"].map(|key| sample.order(key, "1")).into();
        for order in &mut young {
            order.received_at_ms = START_MS + 9 * DAY;
        }
        sample.accept(young).await;
        assert_eq!(sweep(&sample, 1).await, (1, 1, 0));
    }

    #[tokio::test]
    async fn a_run_stays_while_a_door_still_holds_its_message() {
        let sample = Sample::new();
        let order = sample.order("A", "1");
        sample.accept(vec![order.clone()]).await;
        let door = sample.hop(order.run, order.message, "@accept");
        let hop = door.hop;
        let turn = super::super::commit::Turn::Over {
            next: vec![],
            doors: vec![door],
            leaves: vec![Leaf::Delivered],
        };
        sample
            .end(vec![turned(&order, first_hop(&order), turn)])
            .await;
        sample.clock.advance(Duration::from_millis(9 * DAY as u64));
        assert_eq!(sweep(&sample, 10).await, (0, 0, 0));
        let (found, _) = sample.store.ready_hops(vec![hop], 9).await.unwrap();
        assert_eq!(found[0].body, order.body);
        let mut end = over(&order, hop, vec![], vec![]);
        end.step = "@accept".into();
        sample.end(vec![end]).await;
        assert_eq!(sweep(&sample, 10).await, (1, 1, 0));
    }
}
