//! Runs that are begun again, and frozen lists of them. A rerun takes the place of the run that it repeats: the message keeps its id, so
//! that the ledger knows what was done for it, and it is counted once. Which runs, and from where, is decided elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::failure::{Class, Failure};

use super::commit::{Accepted, Chain, NewException, NewHop, NewRun, RunId, StoredHop, Trail};
use super::envelope::Envelope;
use super::reader::Reader;
use super::runs::RunState;
use super::writer::Writing;
use super::{Sql, chains, decisions, exceptions, hops, journeys, runs};

/// A list's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayId(pub i64);

/// A run that is begun again.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// The run that it repeats.
    pub of: RunId,
    /// Its own number, from `Store::next_run`.
    pub run: RunId,
    /// The revision of the flow under which it runs.
    pub revision: Arc<str>,
    /// Where it begins: at least one hop.
    pub hops: Vec<NewHop>,
    /// Headers, variables and item; `None`: as accepted.
    pub envelope: Option<Bytes>,
    /// Its generation.
    pub generation: u32,
    /// The chains at whose ends it stands.
    pub chains: Vec<Chain>,
    /// Who wants it.
    pub who: Arc<str>,
    /// Why.
    pub why: Option<String>,
    /// From where, for the timeline: `rerun`, `rerun-from erp`.
    pub what: String,
}

/// What became of a rerun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerunning {
    /// It is in flight.
    Begun,
    /// The run is still under way: nothing was changed.
    UnderWay,
    /// This run has taken its place before.
    Superseded(RunId),
    /// There is no such run, or retention has removed its body.
    Gone,
}

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
            let rows = statement.query_map([super::limit(limit)], row)?;
            rows.collect()
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
            let rows = statement.query_map(params![id.0, after, super::limit(limit)], |row| {
                Ok(ReplayItem {
                    n: row.get(0)?,
                    run: RunId(row.get(1)?),
                    became: row.get::<_, Option<i64>>(2)?.map(RunId),
                    note: row.get(3)?,
                    state: row.get::<_, Option<i64>>(4)?.map(RunState::from_number),
                })
            })?;
            rows.collect()
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
            let lists: Vec<ReplayRow> = statement.query_map([], row)?.collect::<Sql<_>>()?;
            let mut items = connection.prepare_cached(
                "SELECT n, run FROM replay_items WHERE replay = ?1 AND state = 0 ORDER BY n LIMIT ?2",
            )?;
            let mut found = Vec::new();
            for list in lists {
                let next = items
                    .query_map(params![list.id.0, super::limit(limit)], |row| {
                        Ok((row.get(0)?, RunId(row.get(1)?)))
                    })?
                    .collect::<Sql<_>>()?;
                found.push((list, next));
            }
            Ok(found)
        })
        .await
    }

    /// Which of these runs are in flight.
    pub async fn in_flight_of(&self, runs: Vec<RunId>) -> Result<Vec<RunId>, Failure> {
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND state = 0)")?;
            let mut found = Vec::new();
            for run in runs {
                if statement.query_row([run.0], |row| row.get(0))? {
                    found.push(run);
                }
            }
            Ok(found)
        })
        .await
    }

    /// Runs in flight that repeat others.
    pub async fn reruns_in_flight(&self) -> Result<Vec<RunId>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM runs WHERE replay_of IS NOT NULL AND state < 2 ORDER BY id",
            )?;
            let rows = statement.query_map([], |row| Ok(RunId(row.get(0)?)))?;
            rows.collect()
        })
        .await
    }

    /// Whether a run that this one repeats has done this step, a sink without a ledger, for its whole message (`part` empty), or for this
    /// part of it.
    pub async fn done_before(&self, run: RunId, step: &str, part: &str) -> Result<bool, Failure> {
        let (step, part) = (step.to_owned(), part.to_owned());
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "WITH RECURSIVE earlier (id) AS (
                       SELECT replay_of FROM runs WHERE id = ?1 AND replay_of IS NOT NULL
                       UNION SELECT runs.replay_of FROM runs JOIN earlier ON runs.id = earlier.id WHERE runs.replay_of IS NOT NULL)
                     SELECT EXISTS (SELECT 1 FROM trail, json_each(trail.lines) AS line WHERE trail.run IN (
                         SELECT earlier.id FROM earlier JOIN runs ON runs.id = earlier.id
                         WHERE generation >= (SELECT generation FROM runs WHERE id = ?1))
                       AND line.value ->> 1 = ?2 AND line.value ->> 2 = 'done' AND coalesce(line.value ->> 3, '') = ?3)",
                )?
                .query_row(params![run.0, step, part], |row| row.get(0))
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
        |column: usize| -> Sql<u64> { Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0)) };
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
        "SELECT id FROM runs WHERE (?1 IS NULL OR flow = ?1) AND (state = ?2 OR (?2 IS NULL AND state <> 6))
         AND (?3 IS NULL OR received_at >= ?3) AND (?4 IS NULL OR received_at < ?4)
         AND (?5 IS NULL OR id IN (SELECT run FROM keys WHERE value = ?5 OR (value = ?6 AND name = ?7)))
         AND ((?8 IS NULL AND ?9 IS NULL) OR EXISTS (SELECT 1 FROM exceptions WHERE exceptions.run = runs.id AND exceptions.state < 3
              AND (?8 IS NULL OR substr(fingerprint, 1, length(?8)) = ?8) AND (?9 IS NULL OR class = ?9)))
         ORDER BY id LIMIT ?10",
    )?;
    let rows = statement.query_map(
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
    )?;
    rows.collect()
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
            writing.run(
                "INSERT INTO replays (at, who, why, verb, filter, rate, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
                params![writing.now_ms, &**who, why, verb, filter, rate],
            )?;
            let id = writing.connection.last_insert_rowid();
            for (at, run) in runs.iter().enumerate() {
                writing.run(
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

/// The run that is repeated.
struct Repeated {
    flow: Arc<str>,
    state: RunState,
    open: i64,
    excepted: i64,
    has_body: bool,
}

/// Begins a run again. Gives what became of it, and the hops that are ready.
pub(super) fn rerun(writing: &mut Writing<'_>, rerun: &Rerun) -> Sql<(Rerunning, Vec<StoredHop>)> {
    let found = writing
        .connection
        .prepare_cached(
            "SELECT flow, state, open, excepted, EXISTS (SELECT 1 FROM bodies WHERE bodies.run = runs.id) FROM runs WHERE id = ?1",
        )?
        .query_row([rerun.of.0], |row| {
            Ok(Repeated {
                flow: row.get(0)?,
                state: RunState::from_number(row.get(1)?),
                open: row.get(2)?,
                excepted: row.get(3)?,
                has_body: row.get(4)?,
            })
        })
        .optional()?;
    let Some(found) = found else {
        return Ok((Rerunning::Gone, Vec::new()));
    };
    if found.state == RunState::Superseded {
        let by = writing
            .connection
            .prepare_cached("SELECT coalesce(max(id), 0) FROM runs WHERE replay_of = ?1")?
            .query_row([rerun.of.0], |row| row.get(0))?;
        return Ok((Rerunning::Superseded(RunId(by)), Vec::new()));
    }
    if found.open > found.excepted {
        return Ok((Rerunning::UnderWay, Vec::new()));
    }
    if !found.has_body {
        return Ok((Rerunning::Gone, Vec::new()));
    }
    replace(writing, rerun, &found)?;
    chains::leave(writing, rerun.of)?;
    let waits = chains::enter(writing, rerun.run, &rerun.chains)?.is_some();
    let mut ready = Vec::with_capacity(rerun.hops.len());
    for hop in &rerun.hops {
        hops::insert(writing, hop)?;
        if waits {
            hops::hold(writing, hop.hop)?;
        }
        ready.extend(hops::ready(writing.connection, hop.hop)?);
    }
    Ok((Rerunning::Begun, ready))
}

/// The new run stands where the old one stood: its keys, its claims and its effects are its own now, so that they are kept as long as it.
fn replace(writing: &mut Writing<'_>, rerun: &Rerun, found: &Repeated) -> Sql<()> {
    let why = format!("run {} takes its place", rerun.run.0);
    decisions::settle_all(writing, rerun.of, &rerun.who, &why)?;
    writing.run(
        "UPDATE runs SET state = 6, open = 0, excepted = 0, ended_at = coalesce(ended_at, ?2) WHERE id = ?1",
        [rerun.of.0, writing.now_ms],
    )?;
    writing.run(
        "INSERT INTO runs (id, message, root, flow, revision, received_at, keys, open, excepted, worst, state, replay_of, changes, generation)
         SELECT ?2, message, root, flow, ?3, received_at, keys, ?4, 0, 0, 0, ?1, changes, max(generation, ?5) FROM runs WHERE id = ?1",
        params![
            rerun.of.0,
            rerun.run.0,
            rerun.revision,
            i64::try_from(rerun.hops.len()).unwrap_or(i64::MAX),
            rerun.generation,
        ],
    )?;
    writing.run(
        "INSERT INTO bodies (run, envelope, body) SELECT ?2, coalesce(?3, envelope), body FROM bodies WHERE run = ?1",
        params![rerun.of.0, rerun.run.0, rerun.envelope.as_deref()],
    )?;
    for moved in [
        "INSERT INTO keys (value, name, run) SELECT value, name, ?2 FROM keys WHERE run = ?1",
        "UPDATE claims SET run = ?2 WHERE run = ?1",
        "UPDATE effects SET run = ?2 WHERE run = ?1",
        "UPDATE sagas SET run = ?2 WHERE run = ?1",
        "UPDATE saga_steps SET run = ?2 WHERE run = ?1",
    ] {
        writing.run(moved, [rerun.of.0, rerun.run.0])?;
    }
    writing.run(
        "INSERT INTO history (at, who, what, run, why) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            writing.now_ms,
            &*rerun.who,
            rerun.what,
            rerun.run.0,
            rerun.why
        ],
    )?;
    let counts = writing.books.of(&found.flow);
    *counts.of(found.state) -= 1;
    *counts.of(RunState::Superseded) += 1;
    *counts.of(RunState::InFlight) += 1;
    let because = rerun
        .why
        .as_ref()
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    let line = |what, detail| Trail {
        at_ms: writing.now_ms,
        step: Arc::from("@accept"),
        what,
        detail: Some(detail),
        hash: None,
    };
    let begun = format!(
        "{} of run {} by {}{because}",
        rerun.what, rerun.of.0, rerun.who
    );
    journeys::insert_line(writing, rerun.run, 0, line("rerun", begun))?;
    let replaced = format!("run {} takes its place", rerun.run.0);
    journeys::insert_line(writing, rerun.of, 0, line("superseded", replaced))
}

/// A message that this flow had before, from the run that the sender repeats.
pub(super) struct Handed {
    run: RunId,
    same: bool,
    generation: u32,
}

/// Whether a message at a door was there before, handed over by a run that the sender repeats. A newer generation is new.
pub(super) fn handed_before(
    writing: &Writing<'_>,
    sender: RunId,
    run: &NewRun,
) -> Sql<Option<Handed>> {
    let repeats: bool = writing
        .connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND replay_of IS NOT NULL)",
        )?
        .query_row([sender.0], |row| row.get(0))?;
    if !repeats {
        return Ok(None);
    }
    let generation = Envelope::read(&run.envelope).map_or(0, |envelope| envelope.generation);
    let found = writing
        .connection
        .prepare_cached(
            "SELECT runs.id, runs.generation, coalesce(bodies.body = ?3, 1) FROM runs LEFT JOIN bodies ON bodies.run = runs.id
             WHERE message = ?1 AND message <> root AND flow = ?2 ORDER BY runs.id DESC LIMIT 1",
        )?
        .query_row(
            params![run.message.to_bytes(), run.flow, &run.body[..]],
            |row| Ok((RunId(row.get(0)?), row.get::<_, u32>(1)?, row.get(2)?)),
        )
        .optional()?;
    Ok(match found {
        Some((run, last, same)) if generation <= last => Some(Handed {
            run,
            same,
            generation,
        }),
        _ => None,
    })
}

/// A message that was handed over before: counted as a repeat. With other content it waits for a person.
pub(super) fn accept_again(
    writing: &mut Writing<'_>,
    run: &NewRun,
    handed: Handed,
) -> Sql<Accepted> {
    if handed.same {
        let counts = writing.books.of(&run.flow);
        counts.received += 1;
        counts.duplicates += 1;
        return Ok(Accepted::Duplicate(handed.run));
    }
    runs::insert(writing, run, true)?;
    let exception = NewException {
        step: "@accept".into(),
        class: Class::Conflict,
        message: format!(
            "a rerun hands over other content than before: run {} had it first",
            handed.run.0
        ),
        detail: Some(format!(
            "compare the two (generation {}); discard this one, or retry it with `--as-new`",
            handed.generation
        )),
        fingerprint: format!("1-handed-{}", run.flow),
        attempts: 0,
        at: run.message,
        body: None,
        envelope: None,
        request: None,
        answer: None,
    };
    exceptions::insert(writing, &run.flow, run.run, &exception)?;
    journeys::insert_keys(writing, run)?;
    Ok(Accepted::Changed(handed.run))
}
