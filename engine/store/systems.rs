//! Outside systems as the last engine saw them: up, down, since when and why; and the steps whose messages wait for them.

use std::sync::Arc;

use crate::failure::Failure;

use super::commit::{SystemState, SystemStep};
use super::database::{Sql, params};
use super::reader::Reader;
use super::writer::Writing;

/// The tables. `system_steps` says which hops wait for which system, so that they can be counted without the project.
pub(super) const TABLES: &str = "
CREATE TABLE systems (
  name TEXT PRIMARY KEY, health TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER, times INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE system_steps (
  system TEXT NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL, PRIMARY KEY (system, flow, step)
) STRICT, WITHOUT ROWID;
";

/// A system, with what waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemRow {
    /// How it is.
    pub state: SystemState,
    /// Messages that stand at its steps: ready, or until the time of their next attempt.
    pub waiting: u64,
    /// When the oldest of them was accepted, in milliseconds since 1970.
    pub oldest_at_ms: Option<i64>,
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
            statement.query_map((), |row| {
                Ok(SystemRow {
                    state: SystemState {
                        name: row.get(0)?,
                        health: row.get(1)?,
                        since_ms: row.get(2)?,
                        until_ms: row.get(3)?,
                        times: row.get(4)?,
                        reason: row.get(5)?,
                    },
                    waiting: u64::try_from(row.get::<i64>(6)?).unwrap_or(0),
                    oldest_at_ms: row.get(7)?,
                })
            })
        })
        .await
    }

    /// How the systems are, by name, without looking at what waits.
    pub async fn system_states(&self) -> Result<Vec<SystemState>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT name, health, since, until, times, reason FROM systems ORDER BY name",
            )?;
            statement.query_map((), |row| {
                Ok(SystemState {
                    name: row.get(0)?,
                    health: row.get(1)?,
                    since_ms: row.get(2)?,
                    until_ms: row.get(3)?,
                    times: row.get(4)?,
                    reason: row.get(5)?,
                })
            })
        })
        .await
    }
}

/// Writes how a system is now.
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
    Ok(())
}

/// Replaces the steps of all systems. Of systems that no step uses any more, only those that `states` names are kept.
pub(super) fn replace_steps(
    writing: &Writing<'_>,
    steps: &[SystemStep],
    states: &[SystemState],
) -> Sql<()> {
    writing.put("DELETE FROM system_steps", ())?;
    writing.put("DELETE FROM systems", ())?;
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
