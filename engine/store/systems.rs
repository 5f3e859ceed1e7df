//! Outside systems as engines see them: up, down, since when and why; and the steps whose messages wait for them.
//!
//! What an engine saw last is in `systems`. Engines that share the store may see different things: there each has its own rows in
//! `system_views` as well, says again and again that they still hold, and the worst of those that hold counts. The view of an engine that is
//! gone is no longer looked at after `SEEN_MS`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failure::Failure;

use super::commit::{SystemState, SystemStep};
use super::database::{Connection, Row, Sql, params};
use super::postgres::begin;
use super::reader::Reader;
use super::writer::Writing;

/// For how long after its last word a view counts.
const SEEN_MS: i64 = 20_000;
/// After so long it is deleted.
const KEPT_MS: i64 = 60_000;

/// The tables. `system_steps` says which hops wait for which system, so that they can be counted without the project.
pub(super) const TABLES: &str = "
CREATE TABLE systems (
  name TEXT PRIMARY KEY, health TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER, times INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE system_steps (
  system TEXT NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL, PRIMARY KEY (system, flow, step)
) STRICT, WITHOUT ROWID;
";

/// How each engine sees each system. Only engines that share a store write it; here it is empty.
pub(super) const VIEWS: &str = "
CREATE TABLE system_views (
  engine INTEGER NOT NULL, name TEXT NOT NULL, who TEXT NOT NULL, health TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER,
  times INTEGER NOT NULL, reason TEXT NOT NULL, seen_at INTEGER NOT NULL, PRIMARY KEY (engine, name)
) STRICT, WITHOUT ROWID;
";

/// A system, with what waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemRow {
    /// How it is; where engines differ, as those see it that see the worst.
    pub state: SystemState,
    /// Where engines share the store: those that see it so.
    pub seen_by: Vec<String>,
    /// The other engines, each with how it sees it.
    pub others: Vec<(String, Arc<str>)>,
    /// Messages that stand at its steps: ready, or until the time of their next attempt.
    pub waiting: u64,
    /// When the oldest of them was accepted, in milliseconds since 1970.
    pub oldest_at_ms: Option<i64>,
}

/// How one engine sees a system.
struct View {
    who: String,
    state: SystemState,
}

impl Reader {
    /// All systems, by name, with what waits for them.
    pub async fn systems(&self) -> Result<Vec<SystemRow>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT s.name, s.health, s.since, s.until, s.times, s.reason,
                        count(h.id), min(r.received_at)
                 FROM systems s
                 LEFT JOIN system_steps u ON u.system = s.name
                 LEFT JOIN hops h ON h.flow = u.flow AND h.step = u.step
                 LEFT JOIN runs r ON r.id = h.run
                 GROUP BY s.name ORDER BY s.name",
            )?;
            let written = statement.query_map((), |row| {
                Ok(SystemRow {
                    waiting: u64::try_from(row.get::<i64>(6)?).unwrap_or(0),
                    oldest_at_ms: row.get(7)?,
                    ..SystemRow::of(state(row, 0)?)
                })
            })?;
            with_views(connection, written)
        })
        .await
    }

    /// How the systems are, by name, without looking at what waits.
    pub async fn system_states(&self) -> Result<Vec<SystemState>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT name, health, since, until, times, reason FROM systems ORDER BY name",
            )?;
            let written = statement.query_map((), |row| Ok(SystemRow::of(state(row, 0)?)))?;
            let rows = with_views(connection, written)?;
            Ok(rows.into_iter().map(|row| row.state).collect())
        })
        .await
    }
}

impl SystemRow {
    /// As it was last written.
    fn of(state: SystemState) -> SystemRow {
        SystemRow {
            state,
            seen_by: Vec::new(),
            others: Vec::new(),
            waiting: 0,
            oldest_at_ms: None,
        }
    }

    /// Takes in how an engine sees it.
    fn see(&mut self, view: View) {
        let worse = self.seen_by.is_empty() || badness(&view.state) > badness(&self.state);
        if worse {
            let health = self.state.health.clone();
            let before = std::mem::take(&mut self.seen_by).into_iter();
            self.others.extend(before.map(|who| (who, health.clone())));
            self.state = view.state;
            self.seen_by.push(view.who);
        } else if view.state.health == self.state.health {
            if view.state.since_ms < self.state.since_ms {
                self.state = view.state;
            }
            self.seen_by.push(view.who);
        } else {
            self.others.push((view.who, view.state.health));
        }
    }
}

/// How bad a state is for those who wait.
fn badness(state: &SystemState) -> u8 {
    match &*state.health {
        "up" => 0,
        "maintenance" | "paused" => 1,
        "down" => 2,
        _ => 3,
    }
}

fn state(row: &Row<'_>, first: usize) -> Sql<SystemState> {
    Ok(SystemState {
        name: row.get(first)?,
        health: row.get(first + 1)?,
        since_ms: row.get(first + 2)?,
        until_ms: row.get(first + 3)?,
        times: row.get(first + 4)?,
        reason: row.get(first + 5)?,
    })
}

/// What was last written, and in its place what engines see, where they share the store and say so.
fn with_views(connection: &Connection, written: Vec<SystemRow>) -> Sql<Vec<SystemRow>> {
    let Connection::Postgres(_) = connection else {
        return Ok(written);
    };
    let now_ms = begin::now_ms(connection)?;
    let mut statement = connection.prepare_cached(
        "SELECT who, name, health, since, until, times, reason FROM system_views
         WHERE seen_at > ?1 AND seen_at < ?2 ORDER BY name, engine",
    )?;
    let seen = [now_ms - SEEN_MS, now_ms + SEEN_MS];
    let views = statement.query_map(seen, |row| {
        Ok(View {
            who: row.get(0)?,
            state: state(row, 1)?,
        })
    })?;
    let rows = written.into_iter().map(|row| (row.state.name.clone(), row));
    let mut rows: BTreeMap<Arc<str>, SystemRow> = rows.collect();
    for view in views {
        rows.entry(view.state.name.clone())
            .or_insert_with(|| SystemRow::of(view.state.clone()))
            .see(view);
    }
    Ok(rows.into_values().collect())
}

/// Writes how a system is now, as this engine sees it.
pub(super) fn put(writing: &Writing<'_>, state: &SystemState) -> Sql<()> {
    writing.put(
        "INSERT INTO systems (name, health, since, until, times, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (name) DO UPDATE SET health = ?2, since = ?3, until = ?4, times = ?5, reason = ?6",
        params![
            state.name,
            state.health,
            state.since_ms,
            state.until_ms,
            state.times,
            state.reason
        ],
    )?;
    match writing.shared {
        true => see(writing, state),
        false => Ok(()),
    }
}

/// This engine still sees a system so. What engines have written that are gone is deleted.
pub(super) fn still(writing: &Writing<'_>, state: &SystemState) -> Sql<()> {
    if !writing.shared {
        return Ok(());
    }
    writing.put(
        "DELETE FROM system_views WHERE seen_at < ?1 OR seen_at > ?2",
        [writing.now_ms - KEPT_MS, writing.now_ms + KEPT_MS],
    )?;
    see(writing, state)
}

/// Notes how this engine sees a system now.
fn see(writing: &Writing<'_>, state: &SystemState) -> Sql<()> {
    writing.put(
        "INSERT INTO system_views (engine, name, who, health, since, until, times, reason, seen_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (engine, name)
         DO UPDATE SET health = ?4, since = ?5, until = ?6, times = ?7, reason = ?8, seen_at = ?9",
        params![
            writing.owner,
            state.name,
            writing.who,
            state.health,
            state.since_ms,
            state.until_ms,
            state.times,
            state.reason,
            writing.now_ms
        ],
    )
}

/// Whether another engine sees this system so at the moment.
pub(super) fn seen_by_others(writing: &Writing<'_>, name: &str, health: &str) -> Sql<bool> {
    if !writing.shared {
        return Ok(false);
    }
    writing.connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM system_views WHERE name = ?1 AND health = ?2 AND engine <> ?3 AND seen_at > ?4 AND seen_at < ?5)",
        params![
            name,
            health,
            writing.owner,
            writing.now_ms - SEEN_MS,
            writing.now_ms + SEEN_MS
        ],
        |row| row.get(0),
    )
}

/// Forgets how an engine saw all systems: it ends.
pub(super) fn forget(connection: &Connection, owner: i64) -> Sql<()> {
    connection.put("DELETE FROM system_views WHERE engine = ?1", [owner])
}

/// Replaces the steps of all systems. Of systems that no step uses any more, only those that `states` names are kept.
pub(super) fn replace_steps(
    writing: &Writing<'_>,
    steps: &[SystemStep],
    states: &[SystemState],
) -> Sql<()> {
    writing.put("DELETE FROM system_steps", ())?;
    writing.put("DELETE FROM systems", ())?;
    if writing.shared {
        forget(writing.connection, writing.owner)?;
    }
    for step in steps {
        writing.put(
            "INSERT INTO system_steps (system, flow, step) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![step.system, step.flow, step.step],
        )?;
    }
    states.iter().try_for_each(|state| put(writing, state))
}

impl SystemStep {
    /// A step of a flow that acts on a system.
    pub fn new(system: &Arc<str>, flow: &Arc<str>, step: &Arc<str>) -> SystemStep {
        SystemStep {
            system: system.clone(),
            flow: flow.clone(),
            step: step.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    fn state(name: &str, health: &str, until_ms: Option<i64>) -> SystemState {
        SystemState {
            name: Arc::from(name),
            health: Arc::from(health),
            since_ms: START_MS,
            until_ms,
            times: 1,
            reason: "why".to_owned(),
        }
    }

    fn says(state: SystemState) -> Commit {
        Commit {
            systems: vec![state],
            ..Commit::default()
        }
    }

    #[tokio::test]
    async fn an_engine_for_itself_keeps_no_views_and_says_nothing_again() {
        let sample = Sample::new();
        let down = state("erp", "down", None);
        sample.store.commit(says(down.clone())).await.unwrap();
        let still = Commit {
            systems_still: vec![state("erp", "up", None)],
            ..Commit::default()
        };
        sample.store.commit(still).await.unwrap();
        let views: i64 = sample.with(|connection| {
            let count = "SELECT count(*) FROM system_views";
            connection.query_row(count, (), |row| row.get(0)).unwrap()
        });
        assert_eq!(views, 0);
        assert_eq!(sample.store.systems().await.unwrap(), [SystemRow::of(down)]);
    }

    #[tokio::test]
    async fn systems_are_shown_with_what_waits_for_them() {
        let mut sample = Sample::new();
        let orders: Vec<_> = (0..3).map(|n| sample.order(&n.to_string(), "1")).collect();
        sample.accept(orders.clone()).await;
        let step = &orders[0];
        let first = match &step.first {
            super::super::commit::First::Hop(hop) => hop.clone(),
            super::super::commit::First::Exception(_) => panic!("a hop"),
        };
        let steps = vec![SystemStep::new(&Arc::from("erp"), &first.flow, &first.step)];
        let all = vec![state("erp", "up", None), state("wms", "up", None)];
        let commit = Commit {
            system_steps: Some((steps, all)),
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
        let commit = Commit {
            systems: vec![state("erp", "down", Some(START_MS + 5))],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
        sample.reopen().await;
        let rows = sample.store.systems().await.unwrap();
        assert_eq!(rows[0].state, state("erp", "down", Some(START_MS + 5)));
        assert_eq!((rows[0].waiting, rows[1].waiting), (3, 0));
        assert!(rows[0].oldest_at_ms.is_some() && rows[1].oldest_at_ms.is_none());
        let states = sample.store.system_states().await.unwrap();
        assert_eq!(states[0], rows[0].state);
        let commit = Commit {
            system_steps: Some((Vec::new(), vec![state("wms", "up", None)])),
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
        assert_eq!(sample.store.systems().await.unwrap().len(), 1);
    }
}
