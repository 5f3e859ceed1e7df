//! Retention: what is finished and old goes, in small batches between commits. What is in flight or in exception stays, whatever its age;
//! and a run stays as long as one of its claims, so that a late repeat is still known.

use rusqlite::{Connection, params};

use super::runs::RunState;
use super::{Sql, books, journeys};

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
    /// Whether there is more to look at right now.
    pub more: bool,
}

/// Up to which run the sweeps have come; each begins where the last ended, and starts over at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    runs: i64,
    bodies: i64,
}

/// One batch. The caller gives the transaction.
pub(super) fn sweep(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    position: &mut Position,
) -> Sql<Swept> {
    let mut swept = Swept::default();
    bodies(connection, retention, now_ms, position, &mut swept)?;
    runs(connection, retention, now_ms, position, &mut swept)?;
    exceptions(connection, retention, now_ms, &mut swept)?;
    Ok(swept)
}

fn bodies(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    position: &mut Position,
    swept: &mut Swept,
) -> Sql<()> {
    let horizon = now_ms - retention.bodies_ms;
    let mut statement = connection.prepare_cached(
        "SELECT run, coalesce(ended_at <= ?2, 0) AND run NOT IN (SELECT run FROM hops), coalesce(received_at > ?2, 0)
         FROM bodies LEFT JOIN runs ON runs.id = bodies.run WHERE run > ?1 ORDER BY run LIMIT ?3",
    )?;
    let looked: Vec<(i64, bool, bool)> = statement
        .query_map(
            params![position.bodies, horizon, super::limit(retention.limit)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?
        .collect::<Sql<_>>()?;
    let young = looked.iter().any(|(.., young)| *young);
    let last = looked.last().map_or(0, |(run, ..)| *run);
    let more = looked.len() >= retention.limit && !young;
    position.bodies = if more { last } else { 0 };
    swept.more |= more;
    for (run, old, _) in looked {
        if old {
            connection
                .prepare_cached("DELETE FROM bodies WHERE run = ?1")?
                .execute([run])?;
            swept.bodies += 1;
        }
    }
    Ok(())
}

fn runs(
    connection: &Connection,
    retention: &Retention,
    now_ms: i64,
    position: &mut Position,
    swept: &mut Swept,
) -> Sql<()> {
    let horizon = now_ms - retention.runs_ms;
    let mut statement = connection.prepare_cached(
        "SELECT id, flow, state, keys, received_at > ?2,
                coalesce(ended_at <= ?2, 0) AND id NOT IN (SELECT run FROM hops)
                AND NOT EXISTS (SELECT 1 FROM claims WHERE run = runs.id AND runs.ended_at + keep_ms > ?4)
         FROM runs WHERE id > ?1 ORDER BY id LIMIT ?3",
    )?;
    let limit = super::limit(retention.limit);
    let mut rows = statement.query(params![position.runs, horizon, limit, now_ms])?;
    let (mut looked, mut young, mut last, mut old) = (0, false, 0, Vec::new());
    while let Some(row) = rows.next()? {
        looked += 1;
        last = row.get(0)?;
        young |= row.get::<_, bool>(4)?;
        if row.get(5)? {
            let state = RunState::from_number(row.get(2)?);
            old.push((
                last,
                row.get::<_, String>(1)?,
                state,
                row.get::<_, String>(3)?,
            ));
        }
    }
    drop(rows);
    let more = looked >= retention.limit && !young;
    position.runs = if more { last } else { 0 };
    swept.more |= more;
    for (run, flow, state, keys) in old {
        remove(connection, run, &keys)?;
        books::swept(connection, &flow, state)?;
        swept.runs += 1;
    }
    Ok(())
}

fn remove(connection: &Connection, run: i64, keys: &str) -> Sql<()> {
    connection
        .prepare_cached("UPDATE facts SET value = max(value, ?1) WHERE name = 'runs_high'")?
        .execute([run])?;
    for (name, value) in journeys::keys_from(keys) {
        connection
            .prepare_cached("DELETE FROM keys WHERE value = ?1 AND name = ?2 AND run = ?3")?
            .execute(params![value, name, run])?;
    }
    for statement in [
        "DELETE FROM claims WHERE run = ?1",
        "DELETE FROM trail WHERE run = ?1",
        "DELETE FROM effects WHERE run = ?1",
        "DELETE FROM bodies WHERE run = ?1",
        "DELETE FROM runs WHERE id = ?1",
    ] {
        connection.prepare_cached(statement)?.execute([run])?;
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
    swept.exceptions = u64::try_from(removed).unwrap_or(0);
    swept.more |= removed >= retention.limit;
    Ok(())
}
