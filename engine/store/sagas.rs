//! Sagas: which steps of a group were about to act, or did, and what their undo needs; and the way back, one undo at a time. It renders
//! nothing and sends nothing: an undo is a hop like any other.

use std::sync::Arc;

use bytes::Bytes;

use crate::failure::Class;
use crate::message::MessageId;

use super::commit::sagas::{SagaFate, SagaIntent, SagaResult, Undo, Undone};
use super::commit::{
    EffectId, End, HopId, Leaf, NewException, NewHop, RunId, SagaId, StoredHop, Trail,
};
use super::database::{Connection, Optional, Row, Sql, params};
use super::hops;
use super::writer::Writing;

/// `sagas` has one row for a message in a saga: where it begins again, and the failure that began the undoing. `saga_steps` has one for each
/// step that was about to act; `envelope` and `body` are the message that the undo sees, `body` is null where it is the run's.
pub(super) const TABLES: &str = "
CREATE TABLE sagas (
  id BLOB PRIMARY KEY, run INTEGER NOT NULL, name TEXT NOT NULL, state INTEGER NOT NULL, ends INTEGER NOT NULL,
  step TEXT NOT NULL, message_id BLOB NOT NULL, envelope BLOB NOT NULL, body BLOB,
  failed TEXT, class TEXT, message TEXT, detail TEXT, fingerprint TEXT, attempts INTEGER, request BLOB, answer BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX sagas_run ON sagas (run);

CREATE TABLE saga_steps (
  n INTEGER PRIMARY KEY, effect BLOB NOT NULL UNIQUE, saga BLOB NOT NULL, run INTEGER NOT NULL, step TEXT NOT NULL, undo TEXT,
  pivot INTEGER NOT NULL, absent_ok INTEGER NOT NULL, tries INTEGER NOT NULL, state INTEGER NOT NULL, envelope BLOB NOT NULL, body BLOB
) STRICT;
CREATE INDEX saga_steps_saga ON saga_steps (saga);
CREATE INDEX saga_steps_run ON saga_steps (run);
";

/// The states of a saga: on its way, being undone, undone.
const OPEN: i64 = 0;
const UNDOING: i64 = 1;
const OVER: i64 = 2;

/// How far a step of a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaStanding {
    /// It was about to act.
    Intent,
    /// It acted.
    Done,
    /// It surely did not.
    NotDone,
    /// Nobody knows.
    Unknown,
    /// It is being undone.
    Undoing,
    /// It is undone.
    Undone,
    /// It could not be undone: a person must.
    UndoFailed,
}

impl SagaStanding {
    const ALL: [SagaStanding; 7] = [
        SagaStanding::Intent,
        SagaStanding::Done,
        SagaStanding::NotDone,
        SagaStanding::Unknown,
        SagaStanding::Undoing,
        SagaStanding::Undone,
        SagaStanding::UndoFailed,
    ];

    /// The name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            SagaStanding::Intent => "intent",
            SagaStanding::Done => "done",
            SagaStanding::NotDone => "not done",
            SagaStanding::Unknown => "unknown",
            SagaStanding::Undoing => "undoing",
            SagaStanding::Undone => "undone",
            SagaStanding::UndoFailed => "undo failed",
        }
    }

    fn number(self) -> i64 {
        SagaStanding::ALL
            .iter()
            .position(|standing| *standing == self)
            .map_or(0, |at| at as i64)
    }

    fn from_number(number: i64) -> SagaStanding {
        let at = usize::try_from(number).unwrap_or(0);
        *SagaStanding::ALL.get(at).unwrap_or(&SagaStanding::Unknown)
    }

    /// Whether it may have acted, and nothing has been done about that.
    fn stands(self) -> bool {
        matches!(
            self,
            SagaStanding::Intent | SagaStanding::Done | SagaStanding::Unknown
        )
    }
}

/// A step of a saga as the command line shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaRow {
    /// The saga.
    pub saga: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// How far it is.
    pub standing: SagaStanding,
    /// The step that undoes it, if there is one.
    pub undo: Option<Arc<str>>,
}

/// The steps of a run's sagas, in the order in which they were first tried.
pub(super) fn of_run(connection: &Connection, run: RunId) -> Sql<Vec<SagaRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT sagas.name, saga_steps.step, saga_steps.state, saga_steps.undo FROM saga_steps JOIN sagas ON sagas.id = saga_steps.saga
         WHERE saga_steps.run = ?1 ORDER BY saga_steps.n",
    )?;
    statement.query_map([run.0], |row| {
        Ok(SagaRow {
            saga: row.get(0)?,
            step: row.get(1)?,
            standing: SagaStanding::from_number(row.get(2)?),
            undo: row.get(3)?,
        })
    })
}

/// Notes that a step is about to act. What is known to be done, or may be, stays so.
pub(super) fn intend(writing: &Writing<'_>, intent: &SagaIntent) -> Sql<()> {
    writing.put(
        "INSERT INTO sagas (id, run, name, state, ends, step, message_id, envelope, body) VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET run = ?2",
        params![
            intent.saga.0,
            intent.run.0,
            intent.name,
            intent.step,
            intent.message.to_bytes(),
            &intent.again[..],
            intent.body.as_deref(),
        ],
    )?;
    writing.put(
        "INSERT INTO saga_steps (effect, saga, run, step, undo, pivot, absent_ok, tries, state, envelope, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, 0, ?8, ?9)
         ON CONFLICT (effect) DO UPDATE SET run = ?3, tries = saga_steps.tries + 1, state = CASE WHEN saga_steps.state = 2 THEN 0 ELSE saga_steps.state END",
        params![
            intent.effect.0,
            intent.saga.0,
            intent.run.0,
            intent.step,
            intent.undo,
            intent.pivot,
            intent.absent_ok,
            &intent.envelope[..],
            intent.body.as_deref(),
        ],
    )?;
    Ok(())
}

/// Notes what is known of a step now.
pub(super) fn settle(writing: &Writing<'_>, result: &SagaResult) -> Sql<()> {
    let effect = result.effect.0;
    match &result.fate {
        SagaFate::Done { body, envelope } => writing.run(
            "UPDATE saga_steps SET state = 1, envelope = ?2, body = ?3 WHERE effect = ?1 AND state < 4",
            params![effect, &envelope[..], body.as_deref()],
        )?,
        // Of a request that is safe to repeat an earlier try may have acted.
        SagaFate::NotDone { sure } => writing.run(
            "UPDATE saga_steps SET state = CASE WHEN ?2 OR tries = 1 THEN 2 ELSE 3 END WHERE effect = ?1 AND state IN (0, 2, 3)",
            params![effect, sure],
        )?,
        SagaFate::Unknown => writing.run(
            "UPDATE saga_steps SET state = 3 WHERE effect = ?1 AND state IN (0, 2, 3)",
            [effect],
        )?,
    };
    Ok(())
}

/// What the leaves of an end are once sagas have had their say.
pub(super) struct Resolved {
    /// What ends here.
    pub(super) leaves: Vec<Leaf>,
    /// The hops that follow beside those of the end: undos.
    pub(super) follow: Vec<StoredHop>,
    /// What is shown beside the end's own lines.
    pub(super) trail: Vec<Trail>,
}

/// Whether the leaf is a saga's matter.
pub(super) fn concerns(leaf: &Leaf) -> bool {
    matches!(leaf, Leaf::Undo(_) | Leaf::Undone(_))
}

/// Turns failures in a saga, and undos that have ended, into what comes next: another undo, or the end.
pub(super) fn resolve(writing: &mut Writing<'_>, end: &End, leaves: &[Leaf]) -> Sql<Resolved> {
    let mut way = Way {
        end,
        resolved: Resolved {
            leaves: Vec::with_capacity(leaves.len()),
            follow: Vec::new(),
            trail: Vec::new(),
        },
    };
    for leaf in leaves {
        match leaf {
            Leaf::Undo(undo) => way.fails(writing, undo)?,
            Leaf::Undone(undone) => way.goes_on(writing, undone)?,
            other => way.resolved.leaves.push(other.clone()),
        }
    }
    Ok(way.resolved)
}

/// The way back of one end.
struct Way<'a> {
    end: &'a End,
    resolved: Resolved,
}

impl Way<'_> {
    /// A step has failed for good: what was done is undone, unless nothing was, or nothing may be any more.
    fn fails(&mut self, writing: &Writing<'_>, undo: &Undo) -> Sql<()> {
        let exception = &undo.exception;
        let saga = saga(writing.connection, undo.saga)?;
        let steps = steps(writing.connection, undo.saga)?;
        let open = saga.as_ref().is_some_and(|saga| saga.state == OPEN);
        let beyond = steps
            .iter()
            .any(|step| step.pivot && step.standing.stands());
        let can = steps.iter().any(Step::can_be_undone);
        let Some(saga) = saga.filter(|_| open && !beyond && can) else {
            let why = beyond.then(|| "the pivot was done: nothing is undone".to_owned());
            self.line(writing, &exception.step, "exception", why);
            self.resolved
                .leaves
                .push(Leaf::Exception(exception.clone()));
            return Ok(());
        };
        writing.put(
            "UPDATE sagas SET state = 1, ends = ?2, failed = ?3, class = ?4, message = ?5, detail = ?6, fingerprint = ?7, attempts = ?8,
               request = ?9, answer = ?10 WHERE id = ?1",
            params![
                undo.saga.0,
                undo.ends,
                exception.step,
                exception.class.name(),
                exception.message,
                exception.detail,
                exception.fingerprint,
                exception.attempts,
                exception.request.as_deref(),
                exception.answer.as_deref(),
            ],
        )?;
        let names: Vec<&str> = steps
            .iter()
            .filter(|step| step.can_be_undone())
            .map(|step| &*step.step)
            .collect();
        self.line(writing, &saga.name, "undoes", Some(names.join(", ")));
        self.next(writing, undo.saga, undo.hop)
    }

    /// An undo has ended, one way or the other.
    fn goes_on(&mut self, writing: &Writing<'_>, undone: &Undone) -> Sql<()> {
        let standing = match &undone.failed {
            None => SagaStanding::Undone,
            Some(_) => SagaStanding::UndoFailed,
        };
        writing.put(
            "UPDATE saga_steps SET state = ?3 WHERE saga = ?1 AND undo = ?2",
            params![undone.saga.0, self.end.step, standing.number()],
        )?;
        match &undone.failed {
            Some(exception) => {
                self.resolved
                    .leaves
                    .push(Leaf::Exception(exception.clone()));
            }
            None => {
                super::effects::undone(writing, undone.saga, &self.end.step)?;
            }
        }
        let saga = saga(writing.connection, undone.saga)?;
        if saga.is_some_and(|saga| saga.state == UNDOING) {
            return self.next(writing, undone.saga, undone.hop);
        }
        // Tried again by a person, after all the others: only this leaf ends.
        if undone.failed.is_none() {
            self.resolved.leaves.push(Leaf::Compensated);
        }
        Ok(())
    }

    /// The next undo becomes a hop; what cannot be undone becomes an exception; without a next one the saga is over.
    fn next(&mut self, writing: &Writing<'_>, id: SagaId, hop: HopId) -> Sql<()> {
        for step in steps(writing.connection, id)? {
            let Some(undo) = step.undo.clone().filter(|_| step.standing.stands()) else {
                continue;
            };
            if step.can_be_undone() {
                return self.undo(writing, &step, undo, hop);
            }
            self.nobody_knows(writing, &step, undo)?;
        }
        self.over(writing, id)
    }

    fn undo(&mut self, writing: &Writing<'_>, step: &Step, undo: Arc<str>, hop: HopId) -> Sql<()> {
        stands(writing, step, SagaStanding::Undoing)?;
        let hop = NewHop {
            hop,
            run: self.end.run,
            flow: self.end.flow.clone(),
            step: undo,
            message: step.message,
            body: step.body.clone(),
            envelope: Some(step.envelope.clone()),
        };
        hops::insert(writing, &hop, self.end.revision.as_deref())?;
        self.resolved
            .follow
            .extend(hops::ready(writing.connection, hop.hop)?);
        Ok(())
    }

    /// The step may have acted, and its undo may do harm if it has not: a person looks.
    fn nobody_knows(&mut self, writing: &Writing<'_>, step: &Step, undo: Arc<str>) -> Sql<()> {
        stands(writing, step, SagaStanding::UndoFailed)?;
        let message = format!(
            "nobody knows whether `{}` took effect, so it was not undone: look at the target, and retry this if there is something to undo",
            step.step
        );
        self.line(writing, &undo, "exception", Some(message.clone()));
        self.resolved.leaves.push(Leaf::Exception(NewException {
            fingerprint: format!("1-undo-unknown-{}-{}", self.end.flow, step.step),
            step: undo,
            class: Class::Ambiguous,
            message,
            detail: None,
            attempts: 0,
            at: step.message,
            body: step.body.clone(),
            envelope: Some(step.envelope.clone()),
            request: None,
            answer: None,
        }));
        Ok(())
    }

    /// All undos have ended: the message ends, or waits for a person with the failure that began it.
    fn over(&mut self, writing: &Writing<'_>, id: SagaId) -> Sql<()> {
        writing.put(
            "UPDATE sagas SET state = ?2 WHERE id = ?1",
            params![id.0, OVER],
        )?;
        let Some(saga) = saga(writing.connection, id)? else {
            return Ok(());
        };
        let steps = steps(writing.connection, id)?;
        let left: Vec<&str> = steps
            .iter()
            .filter(|step| step.standing.stands() || step.standing == SagaStanding::UndoFailed)
            .map(|step| &*step.step)
            .collect();
        let said = (!left.is_empty()).then(|| format!("left standing: {}", left.join(", ")));
        self.line(writing, &saga.name, "undone", said.clone());
        if saga.ends && !steps.iter().any(|step| step.standing.stands()) {
            self.resolved.leaves.push(Leaf::Compensated);
            return Ok(());
        }
        let exception = saga.exception(said);
        let told = format!("{}: {}", exception.class, exception.message);
        self.line(writing, &exception.step.clone(), "exception", Some(told));
        self.resolved.leaves.push(Leaf::Exception(exception));
        Ok(())
    }

    fn line(
        &mut self,
        writing: &Writing<'_>,
        step: &Arc<str>,
        what: &'static str,
        detail: Option<String>,
    ) {
        let at_ms = self
            .end
            .trail
            .last()
            .map_or(writing.now_ms, |line| line.at_ms);
        self.resolved.trail.push(Trail {
            at_ms,
            step: step.clone(),
            what,
            detail,
            hash: None,
        });
    }
}

/// A message in a saga.
struct Saga {
    name: Arc<str>,
    state: i64,
    ends: bool,
    step: Arc<str>,
    at: MessageId,
    again: Bytes,
    body: Option<Bytes>,
    failed: String,
    class: Class,
    message: String,
    detail: Option<String>,
    fingerprint: String,
    attempts: u32,
    request: Option<Bytes>,
    answer: Option<Bytes>,
}

impl Saga {
    /// The failure that began the undoing, at the step where a retry begins again.
    fn exception(self, left: Option<String>) -> NewException {
        let undone = match &left {
            None => format!(
                "`{}` failed, and what `{}` had done before it was undone: {}",
                self.failed, self.name, self.message
            ),
            Some(left) => format!(
                "`{}` failed, and not all that `{}` had done before it could be undone ({left}): {}",
                self.failed, self.name, self.message
            ),
        };
        NewException {
            step: self.step,
            class: self.class,
            message: undone,
            detail: self.detail,
            fingerprint: self.fingerprint,
            attempts: self.attempts,
            at: self.at,
            body: self.body,
            envelope: Some(self.again),
            request: self.request,
            answer: self.answer,
        }
    }
}

fn saga(connection: &Connection, id: SagaId) -> Sql<Option<Saga>> {
    let mut statement = connection.prepare_cached(
        "SELECT name, state, ends, step, message_id, envelope, body, failed, class, message, detail, fingerprint, attempts, request, answer
         FROM sagas WHERE id = ?1",
    )?;
    let read = |row: &Row<'_>| {
        let class: Option<String> = row.get(8)?;
        Ok(Saga {
            name: row.get(0)?,
            state: row.get(1)?,
            ends: row.get(2)?,
            step: row.get(3)?,
            at: MessageId::from_bytes(row.get(4)?),
            again: Bytes::from(row.get::<Vec<u8>>(5)?),
            body: bytes(row, 6)?,
            failed: row.get::<Option<String>>(7)?.unwrap_or_default(),
            class: class
                .and_then(|class| Class::from_name(&class))
                .unwrap_or(Class::Internal),
            message: row.get::<Option<String>>(9)?.unwrap_or_default(),
            detail: row.get(10)?,
            fingerprint: row.get::<Option<String>>(11)?.unwrap_or_default(),
            attempts: row.get::<Option<u32>>(12)?.unwrap_or_default(),
            request: bytes(row, 13)?,
            answer: bytes(row, 14)?,
        })
    };
    statement.query_row([id.0], read).optional()
}

/// A step of a saga that was about to act.
struct Step {
    effect: EffectId,
    step: Arc<str>,
    undo: Option<Arc<str>>,
    pivot: bool,
    absent_ok: bool,
    standing: SagaStanding,
    message: MessageId,
    envelope: Bytes,
    body: Option<Bytes>,
}

impl Step {
    fn can_be_undone(&self) -> bool {
        self.undo.is_some()
            && self.standing.stands()
            && (self.standing == SagaStanding::Done || self.absent_ok)
    }
}

/// The steps of a saga, the last one first.
fn steps(connection: &Connection, id: SagaId) -> Sql<Vec<Step>> {
    let mut statement = connection.prepare_cached(
        "SELECT effect, saga_steps.step, undo, pivot, absent_ok, saga_steps.state, sagas.message_id, saga_steps.envelope, saga_steps.body
         FROM saga_steps JOIN sagas ON sagas.id = saga_steps.saga WHERE saga = ?1 ORDER BY n DESC",
    )?;
    statement.query_map([id.0], |row| {
        Ok(Step {
            effect: EffectId(row.get(0)?),
            step: row.get(1)?,
            undo: row.get(2)?,
            pivot: row.get(3)?,
            absent_ok: row.get(4)?,
            standing: SagaStanding::from_number(row.get(5)?),
            message: MessageId::from_bytes(row.get(6)?),
            envelope: Bytes::from(row.get::<Vec<u8>>(7)?),
            body: bytes(row, 8)?,
        })
    })
}

fn stands(writing: &Writing<'_>, step: &Step, standing: SagaStanding) -> Sql<()> {
    writing.put(
        "UPDATE saga_steps SET state = ?2 WHERE effect = ?1",
        params![step.effect.0, standing.number()],
    )?;
    Ok(())
}

fn bytes(row: &Row<'_>, column: usize) -> Sql<Option<Bytes>> {
    Ok(row.get::<Option<Vec<u8>>>(column)?.map(Bytes::from))
}
