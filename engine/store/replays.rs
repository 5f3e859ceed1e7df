//! Frozen lists of runs that are done again: which, how fast, and a receipt for each. What is done with a run is decided elsewhere.

use std::sync::Arc;

use crate::failure::{Class, Failure};

use super::commit::RunId;
use super::database::{Connection, Optional, Row, Sql, params};
use super::reader::Reader;
use super::runs::RunState;
use super::writer::Writing;

/// A list's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayId(pub i64);

/// How far a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayState {
    /// It is worked on.
    Running,
    /// Somebody has stopped it for a while.
    Paused,
    /// Somebody has ended it.
    Aborted,
    /// Every item has its receipt.
    Finished,
}

impl ReplayState {
    /// The name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            ReplayState::Running => "running",
            ReplayState::Paused => "paused",
            ReplayState::Aborted => "aborted",
            ReplayState::Finished => "finished",
        }
    }

    fn number(self) -> i64 {
        match self {
            ReplayState::Running => 0,
            ReplayState::Paused => 1,
            ReplayState::Aborted => 2,
            ReplayState::Finished => 3,
        }
    }

    fn from_number(number: i64) -> ReplayState {
        match number {
            0 => ReplayState::Running,
            1 => ReplayState::Paused,
            2 => ReplayState::Aborted,
            _ => ReplayState::Finished,
        }
    }
}

/// A change of a list.
#[derive(Clone, Debug)]
pub enum ReplayChange {
    /// A new list.
    Begin {
        /// Who wants it.
        who: Arc<str>,
        /// Why.
        why: Option<String>,
        /// What is done with each, as JSON.
        verb: String,
        /// How the runs were chosen, for the screen.
        filter: String,
        /// At most so many a second.
        rate: f64,
        /// The runs, in the order in which they are done.
        runs: Vec<RunId>,
    },
    /// An item is done in this commit; if it was before, or the list is not running, no decision and no rerun of the commit is applied.
    Take {
        /// The list.
        replay: ReplayId,
        /// The item.
        n: i64,
        /// The run that goes on in its place.
        became: RunId,
    },
    /// Nothing can be done with an item, for this reason.
    Refuse {
        /// The list.
        replay: ReplayId,
        /// The item.
        n: i64,
        /// Why.
        note: String,
    },
    /// The list is paused, goes on, or ends.
    Turn {
        /// The list.
        replay: ReplayId,
        /// How far it is from now on.
        to: ReplayState,
    },
}

impl ReplayChange {
    /// Whether the rest of the commit hangs on it.
    pub(super) fn takes(&self) -> bool {
        matches!(self, ReplayChange::Take { .. })
    }
}

/// Which runs a list is made of.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Of this flow.
    pub flow: Option<String>,
    /// In this state.
    pub state: Option<RunState>,
    /// Accepted at this time or later, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Accepted before this time.
    pub until_ms: Option<i64>,
    /// With this key: `SO-1001`, or `order=SO-1001`.
    pub key: Option<String>,
    /// With an open exception of this cause, or one that begins so.
    pub fingerprint: Option<String>,
    /// With an open exception of this class.
    pub class: Option<Class>,
}

/// A list of runs that are done again.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayRow {
    /// The list.
    pub id: ReplayId,
    /// When it was made, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub why: Option<String>,
    /// What is done with each, as JSON.
    pub verb: String,
    /// How the runs were chosen.
    pub filter: String,
    /// At most so many a second.
    pub rate: f64,
    /// How far it is.
    pub state: ReplayState,
    /// How many items it has.
    pub total: u64,
    /// How many wait for their turn.
    pub waiting: u64,
    /// How many could not be done.
    pub refused: u64,
    /// Of those that were begun: how many are still in flight.
    pub in_flight: u64,
    /// How many are in exception again.
    pub in_exceptions: u64,
    /// How many have ended.
    pub ended: u64,
}

/// The receipt of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayItem {
    /// Its place in the list, from 1.
    pub n: i64,
    /// The run that was chosen.
    pub run: RunId,
    /// The run that goes on in its place.
    pub became: Option<RunId>,
    /// Where that run is; `None` while the item waits for its turn, or if it was refused.
    pub state: Option<RunState>,
    /// Why nothing could be done.
    pub note: Option<String>,
}

/// How many runs a list may have.
pub const ITEMS_MAX: usize = 1_000_000;

impl Reader {
    /// The runs that a list would be made of, the oldest first.
    pub async fn choose_runs(&self, chosen: Chosen) -> Result<Vec<RunId>, Failure> {
        self.read(move |connection| choose(connection, &chosen))
            .await
    }

    /// Lists of replays, the newest first.
    pub async fn replays(&self, limit: usize) -> Result<Vec<ReplayRow>, Failure> {
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached(&format!("SELECT {COLUMNS} ORDER BY id DESC LIMIT ?1"))?;
            statement.query_map([super::limit(limit)], row)
        })
        .await
    }

    /// One list.
    pub async fn replay(&self, id: ReplayId) -> Result<Option<ReplayRow>, Failure> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} WHERE id = ?1"))?
                .query_row([id.0], row)
                .optional()
        })
        .await
    }

    /// The receipts of a list, after this one, in their order.
    pub async fn replay_items(
        &self,
        id: ReplayId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<ReplayItem>, Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT n, run, became, note, (SELECT state FROM runs WHERE runs.id = became) FROM replay_items
                 WHERE replay = ?1 AND n > ?2 ORDER BY n LIMIT ?3",
            )?;
            statement.query_map(params![id.0, after, super::limit(limit)], |row| {
                Ok(ReplayItem {
                    n: row.get(0)?,
                    run: RunId(row.get(1)?),
                    became: row.get::<Option<i64>>(2)?.map(RunId),
                    note: row.get(3)?,
                    state: row.get::<Option<i64>>(4)?.map(RunState::from_number),
                })
            })
        })
        .await
    }

    /// Lists that are running, the oldest first, each with its next items that wait for their turn.
    pub async fn replays_to_do(
        &self,
        limit: usize,
    ) -> Result<Vec<(ReplayRow, Vec<(i64, RunId)>)>, Failure> {
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached(&format!("SELECT {COLUMNS} WHERE state = 0 ORDER BY id"))?;
            let lists: Vec<ReplayRow> = statement.query_map((), row)?;
            let mut items = connection.prepare_cached(
                "SELECT n, run FROM replay_items WHERE replay = ?1 AND state = 0 ORDER BY n LIMIT ?2",
            )?;
            let mut found = Vec::new();
            for list in lists {
                let next = items
                    .query_map(params![list.id.0, super::limit(limit)], |row| {
                        Ok((row.get(0)?, RunId(row.get(1)?)))
                    })?;
                found.push((list, next));
            }
            Ok(found)
        })
        .await
    }
}

const COLUMNS: &str = "id, at, who, why, verb, filter, rate, state,
  (SELECT count(*) FROM replay_items WHERE replay = replays.id),
  (SELECT count(*) FROM replay_items WHERE replay = replays.id AND state = 0),
  (SELECT count(*) FROM replay_items WHERE replay = replays.id AND state = 2),
  (SELECT count(*) FROM replay_items JOIN runs ON runs.id = became WHERE replay = replays.id AND runs.state = 0),
  (SELECT count(*) FROM replay_items JOIN runs ON runs.id = became WHERE replay = replays.id AND runs.state = 1)
  FROM replays";

fn row(row: &Row<'_>) -> Sql<ReplayRow> {
    let count =
        |column: usize| -> Sql<u64> { Ok(u64::try_from(row.get::<i64>(column)?).unwrap_or(0)) };
    let (total, waiting, refused) = (count(8)?, count(9)?, count(10)?);
    let (in_flight, in_exceptions) = (count(11)?, count(12)?);
    Ok(ReplayRow {
        id: ReplayId(row.get(0)?),
        at_ms: row.get(1)?,
        who: row.get(2)?,
        why: row.get(3)?,
        verb: row.get(4)?,
        filter: row.get(5)?,
        rate: row.get(6)?,
        state: ReplayState::from_number(row.get(7)?),
        total,
        waiting,
        refused,
        in_flight,
        in_exceptions,
        ended: total - waiting - refused - in_flight - in_exceptions,
    })
}

fn choose(connection: &Connection, chosen: &Chosen) -> Sql<Vec<RunId>> {
    let key = chosen.key.as_deref();
    let (name, value) = key.and_then(|key| key.split_once('=')).unzip();
    let mut statement = connection.prepare_cached(
        "SELECT id FROM runs WHERE (CAST(?1 AS TEXT) IS NULL OR flow = ?1) AND (state = ?2 OR (?2 IS NULL AND state <> 6))
         AND (CAST(?3 AS BIGINT) IS NULL OR received_at >= ?3) AND (CAST(?4 AS BIGINT) IS NULL OR received_at < ?4)
         AND (CAST(?5 AS TEXT) IS NULL OR id IN (SELECT run FROM keys WHERE value = ?5 OR (value = ?6 AND name = ?7)))
         AND ((CAST(?8 AS TEXT) IS NULL AND CAST(?9 AS TEXT) IS NULL) OR EXISTS (SELECT 1 FROM exceptions WHERE exceptions.run = runs.id AND exceptions.state < 3
              AND (?8 IS NULL OR substr(fingerprint, 1, length(?8)) = ?8) AND (?9 IS NULL OR class = ?9)))
         ORDER BY id LIMIT ?10",
    )?;
    statement.query_map(
        params![
            chosen.flow,
            chosen.state.map(RunState::number),
            chosen.since_ms,
            chosen.until_ms,
            key,
            value,
            name,
            chosen.fingerprint,
            chosen.class.map(Class::name),
            super::limit(ITEMS_MAX),
        ],
        |row| Ok(RunId(row.get(0)?)),
    )
}

/// Applies a change of a list. `None`: the list or the item is not there, or not in a state for it.
pub(super) fn change(writing: &Writing<'_>, change: &ReplayChange) -> Sql<Option<ReplayId>> {
    match change {
        ReplayChange::Begin {
            who,
            why,
            verb,
            filter,
            rate,
            runs,
        } => {
            let id: i64 = writing.connection.query_row(
                "INSERT INTO replays (at, who, why, verb, filter, rate, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0) RETURNING id",
                params![writing.now_ms, &**who, why, verb, filter, rate],
                |row| row.get(0),
            )?;
            for (at, run) in runs.iter().enumerate() {
                writing.put(
                    "INSERT INTO replay_items (replay, n, run, state) VALUES (?1, ?2, ?3, 0)",
                    params![id, i64::try_from(at).unwrap_or(i64::MAX - 1) + 1, run.0],
                )?;
            }
            Ok(Some(ReplayId(id)))
        }
        ReplayChange::Take { replay, n, became } => {
            let rows = writing.run(
                "UPDATE replay_items SET state = 1, became = ?3 WHERE replay = ?1 AND n = ?2 AND state = 0
                 AND (SELECT state FROM replays WHERE id = ?1) = 0",
                [replay.0, *n, became.0],
            )?;
            Ok((rows == 1).then_some(*replay))
        }
        ReplayChange::Refuse { replay, n, note } => {
            let rows = writing.run(
                "UPDATE replay_items SET state = 2, note = ?3, became = NULL WHERE replay = ?1 AND n = ?2",
                params![replay.0, n, note],
            )?;
            Ok((rows == 1).then_some(*replay))
        }
        ReplayChange::Turn { replay, to } => {
            let over = matches!(to, ReplayState::Aborted | ReplayState::Finished);
            let rows = writing.run(
                "UPDATE replays SET state = ?2, ended_at = ?3 WHERE id = ?1 AND state < 2",
                params![replay.0, to.number(), over.then_some(writing.now_ms)],
            )?;
            Ok((rows == 1).then_some(*replay))
        }
    }
}
