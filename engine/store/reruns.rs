//! Runs that are begun again. A rerun takes the place of the run that it repeats: the message keeps its id, so that the ledger knows what was
//! done for it, and it is counted once. From where it begins is decided elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashSet;

use crate::failure::{Class, Failure};
use crate::message::MessageId;

use super::commit::{Accepted, Chain, NewException, NewHop, NewRun, RunId, StoredHop, Trail};
use super::database::{Connection, Optional, Sql, Value, params};
use super::effects::EffectRow;
use super::envelope::Envelope;
use super::reader::Reader;
use super::runs::RunState;
use super::writer::Writing;
use super::{chains, decisions, effects, exceptions, hops, journeys, runs};

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

/// A run of the same root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The message's id.
    pub message: MessageId,
    /// When it was accepted, in milliseconds since 1970.
    pub received_at_ms: i64,
    /// The highest generation that a part of it has.
    pub generation: u32,
}

impl Reader {
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

    /// Which of these runs are over.
    pub async fn ended_of(&self, runs: Vec<RunId>) -> Result<Vec<RunId>, Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND state >= 2)",
            )?;
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

    /// What the runs of a root did outside, and the runs.
    pub async fn effects_of_root(
        &self,
        root: MessageId,
    ) -> Result<(Vec<EffectRow>, Vec<Kin>), Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, flow, message, received_at, generation FROM runs WHERE root = ?1 ORDER BY id",
            )?;
            let kin: Vec<Kin> = statement
                .query_map([root.to_bytes()], |row| {
                    Ok(Kin {
                        run: RunId(row.get(0)?),
                        flow: row.get(1)?,
                        message: MessageId::from_bytes(row.get(2)?),
                        received_at_ms: row.get(3)?,
                        generation: row.get(4)?,
                    })
                })?;
            let mut found = Vec::new();
            for one in &kin {
                found.extend(effects::of_run(connection, one.run)?);
            }
            Ok((found, kin))
        })
        .await
    }

    /// Runs in flight that repeat others.
    pub async fn reruns_in_flight(&self) -> Result<Vec<RunId>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM runs WHERE replay_of IS NOT NULL AND state < 2 ORDER BY id",
            )?;
            statement.query_map((), |row| Ok(RunId(row.get(0)?)))
        })
        .await
    }

    /// Whether a run that this one repeats has done this step, a sink without a ledger, for its whole message (`part` empty), or for this
    /// part of it.
    pub async fn done_before(&self, run: RunId, step: &str, part: &str) -> Result<bool, Failure> {
        let (step, part) = (step.to_owned(), part.to_owned());
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "WITH RECURSIVE earlier (id) AS (
                   SELECT replay_of FROM runs WHERE id = ?1 AND replay_of IS NOT NULL
                   UNION SELECT runs.replay_of FROM runs JOIN earlier ON runs.id = earlier.id WHERE runs.replay_of IS NOT NULL)
                 SELECT lines FROM trail WHERE run IN (
                   SELECT earlier.id FROM earlier JOIN runs ON runs.id = earlier.id
                   WHERE generation >= (SELECT generation FROM runs WHERE id = ?1))",
            )?;
            let mut done = false;
            statement.each([run.0], |row| {
                done |= journeys::lines_from(&row.text(0)?).any(|line| {
                    line.step == step
                        && line.what == "done"
                        && line.detail.as_deref().unwrap_or_default() == part
                });
                Ok(())
            })?;
            Ok(done)
        })
        .await
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
        hops::insert(writing, hop, None)?;
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
    writing.put(
        "UPDATE runs SET state = 6, open = 0, excepted = 0, ended_at = coalesce(ended_at, ?2) WHERE id = ?1",
        [rerun.of.0, writing.now_ms],
    )?;
    writing.put(
        "INSERT INTO runs (id, message, root, flow, revision, received_at, keys, open, excepted, worst, state, replay_of, changes, generation)
         SELECT ?2, message, root, flow, ?3, received_at, keys, ?4, 0, 0, 0, id, changes, CASE WHEN generation > ?5 THEN generation ELSE ?5 END FROM runs WHERE id = ?1",
        params![
            rerun.of.0,
            rerun.run.0,
            rerun.revision,
            i64::try_from(rerun.hops.len()).unwrap_or(i64::MAX),
            rerun.generation,
        ],
    )?;
    writing.put(
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
        writing.put(moved, [rerun.of.0, rerun.run.0])?;
    }
    writing.put(
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

/// Those of these runs that repeat others.
pub(super) fn repeating(
    connection: &Connection,
    runs: impl Iterator<Item = RunId>,
) -> Sql<FxHashSet<RunId>> {
    let runs: Vec<_> = runs.map(|run| [Value::Integer(run.0)]).collect();
    let mut repeating = FxHashSet::default();
    let sql = "SELECT id FROM runs WHERE id = ?1 AND replay_of IS NOT NULL";
    connection.query_each(sql, &runs, |row| {
        repeating.insert(RunId(row.get(0)?));
        Ok(())
    })?;
    Ok(repeating)
}

/// Whether a message at a door was there before, handed over by a run that the sender repeats. A newer generation is new.
pub(super) fn handed_before(
    writing: &Writing<'_>,
    sender: RunId,
    run: &NewRun,
) -> Sql<Option<Handed>> {
    if !writing.together.may_repeat(sender)
        || repeating(writing.connection, [sender].into_iter())?.is_empty()
    {
        return Ok(None);
    }
    let generation = Envelope::read(&run.envelope).map_or(0, |envelope| envelope.generation);
    let found = writing
        .connection
        .prepare_cached(
            "SELECT runs.id, runs.generation, bodies.body IS NULL OR bodies.body = ?3 FROM runs LEFT JOIN bodies ON bodies.run = runs.id
             WHERE message = ?1 AND message <> root AND flow = ?2
             ORDER BY runs.generation DESC, runs.state = 6, runs.id DESC LIMIT 1",
        )?
        .query_row(
            params![run.message.to_bytes(), run.flow, &run.body[..]],
            |row| Ok((RunId(row.get(0)?), row.get::<u32>(1)?, row.get(2)?)),
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
