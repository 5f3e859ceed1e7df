//! Exceptions: messages that wait for a person, with all that the person needs; and issues, which are exceptions with the same cause.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::{Class, Failure};
use crate::message::{MessageId, Names};

use super::commit::{NewException, RunId};
use super::database::{Connection, Optional, Row, Sql, Value, params};
use super::decisions::HistoryLine;
use super::effects::EffectRow;
use super::reader::Reader;
use super::writer::Writing;
use super::{decisions, effects, journeys, notices, personal};

/// An exception's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExceptionId(pub i64);

/// How far a person is with an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExceptionState {
    /// Nobody has taken it.
    Open,
    /// Somebody has.
    Assigned,
    /// It is put off.
    Snoozed,
    /// It is settled.
    Resolved,
    /// It was given up, for a reason.
    Discarded,
}

impl ExceptionState {
    /// Every state.
    pub const ALL: [ExceptionState; 5] = [
        ExceptionState::Open,
        ExceptionState::Assigned,
        ExceptionState::Snoozed,
        ExceptionState::Resolved,
        ExceptionState::Discarded,
    ];

    /// The name on the screen and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ExceptionState::Open => "open",
            ExceptionState::Assigned => "assigned",
            ExceptionState::Snoozed => "snoozed",
            ExceptionState::Resolved => "resolved",
            ExceptionState::Discarded => "discarded",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<ExceptionState> {
        ExceptionState::ALL
            .into_iter()
            .find(|state| state.name() == name)
    }

    pub(super) fn number(self) -> i64 {
        match self {
            ExceptionState::Open => 0,
            ExceptionState::Assigned => 1,
            ExceptionState::Snoozed => 2,
            ExceptionState::Resolved => 3,
            ExceptionState::Discarded => 4,
        }
    }

    pub(super) fn from_number(number: i64) -> ExceptionState {
        match number {
            1 => ExceptionState::Assigned,
            2 => ExceptionState::Snoozed,
            3 => ExceptionState::Resolved,
            4 => ExceptionState::Discarded,
            _ => ExceptionState::Open,
        }
    }
}

/// An exception, without its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct ExceptionRow {
    /// The exception.
    pub id: ExceptionId,
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step that failed.
    pub step: Arc<str>,
    /// The class.
    pub class: Class,
    /// One sentence.
    pub message: String,
    /// More lines.
    pub detail: Option<String>,
    /// Equal for exceptions with the same cause.
    pub fingerprint: String,
    /// How many attempts there were.
    pub attempts: u32,
    /// How far a person is with it.
    pub state: ExceptionState,
    /// When it was opened, in milliseconds since 1970.
    pub opened_at_ms: i64,
    /// The message's id at the step.
    pub at: MessageId,
    /// Who has taken it.
    pub owner: Option<String>,
    /// If it is put off: until when, in milliseconds since 1970.
    pub snoozed_until_ms: Option<i64>,
    /// How it was settled: `retried`, `edited`, `skipped`, `superseded`, `by-hand`, `discarded`.
    pub how: Option<String>,
    /// When it was settled.
    pub settled_at_ms: Option<i64>,
}

/// An exception with all that is known of it.
#[derive(Clone, Debug)]
pub struct ExceptionDetail {
    /// The exception.
    pub row: ExceptionRow,
    /// The step's bytes (the run's, where the step had none of its own), as long as retention keeps them.
    pub body: Option<Bytes>,
    /// The step's headers, variables and item, as `Envelope` reads them.
    pub envelope: Option<Bytes>,
    /// The request that was sent, if there was one.
    pub request: Option<Bytes>,
    /// What the target answered, if it did.
    pub answer: Option<Bytes>,
    /// What the run has accepted, as long as retention keeps it.
    pub accepted: Option<Bytes>,
    /// Business keys of the run.
    pub keys: Names,
    /// When the message was accepted, in milliseconds since 1970.
    pub received_at_ms: i64,
    /// The accepted message at the root of it all.
    pub root: MessageId,
    /// The revision under which the run was accepted.
    pub revision: Arc<str>,
    /// The highest generation that a part of the run has.
    pub generation: u32,
    /// Whether the step's bytes are the run's accepted ones.
    pub runs_body: bool,
    /// The run's effects: what was done already.
    pub effects: Vec<EffectRow>,
    /// What people have done about it, the oldest first.
    pub history: Vec<HistoryLine>,
}

/// Exceptions with the same cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    /// What they share.
    pub fingerprint: String,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The class.
    pub class: Class,
    /// The newest one's sentence.
    pub message: String,
    /// How many wait for a person.
    pub open: u64,
    /// How many there are in all.
    pub total: u64,
    /// When the first was opened, in milliseconds since 1970.
    pub first_at_ms: i64,
    /// When the newest was opened.
    pub last_at_ms: i64,
    /// The newest one.
    pub newest: ExceptionId,
    /// Who has taken open ones, by name.
    pub owners: Vec<String>,
}

/// Which exceptions to list.
#[derive(Clone, Debug, Default)]
pub struct ExceptionFilter {
    /// Of this flow.
    pub flow: Option<String>,
    /// Of one of these flows.
    pub among: Option<Vec<String>>,
    /// Of this class.
    pub class: Option<Class>,
    /// In this state; `None` means all that wait for a person: open, assigned and snoozed.
    pub state: Option<ExceptionState>,
    /// Whatever its state.
    pub settled: bool,
    /// With this cause, or a cause that begins so.
    pub fingerprint: Option<String>,
    /// At this step.
    pub step: Option<String>,
    /// Of runs with this key: `SO-1001`, or `order=SO-1001`.
    pub key: Option<String>,
    /// Taken by this person.
    pub owner: Option<String>,
    /// With a higher number than this.
    pub after: Option<ExceptionId>,
    /// With a lower number than this: the next page.
    pub before: Option<ExceptionId>,
    /// At most so many; 0 means 100.
    pub limit: usize,
}

impl ExceptionDetail {
    /// How many things were done about it: who acts on what they have seen says so.
    pub fn version(&self) -> u32 {
        u32::try_from(self.history.len()).unwrap_or(u32::MAX)
    }
}

impl Reader {
    /// Exceptions, the newest first.
    pub async fn exceptions(&self, filter: ExceptionFilter) -> Result<Vec<ExceptionRow>, Failure> {
        self.read(move |connection| list(connection, &filter)).await
    }

    /// An exception with all that is known of it.
    pub async fn exception(&self, id: ExceptionId) -> Result<Option<ExceptionDetail>, Failure> {
        self.read(move |connection| detail(connection, id)).await
    }

    /// Exceptions that wait for a person, by cause; the causes with the most first.
    pub async fn issues(&self) -> Result<Vec<Issue>, Failure> {
        self.read(issues).await
    }

    /// How many exceptions there are, and the highest number among them.
    pub async fn count_exceptions(
        &self,
        filter: ExceptionFilter,
    ) -> Result<(u64, Option<ExceptionId>), Failure> {
        self.read(move |connection| count(connection, &filter))
            .await
    }
}

/// Opens an exception. The first of its cause is an issue that people are told of.
pub(super) fn insert(
    writing: &Writing<'_>,
    flow: &str,
    run: RunId,
    exception: &NewException,
) -> Sql<()> {
    let covered = personal::covered(writing, flow, run, exception)?;
    let exception = covered.as_ref().unwrap_or(exception);
    let known: bool = writing
        .connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM exceptions WHERE fingerprint = ?1 AND state < 3)",
        )?
        .query_row([&exception.fingerprint], |row| row.get(0))?;
    let mut insert = writing.connection.prepare_cached(
        "INSERT INTO exceptions (run, flow, step, class, message, detail, fingerprint, attempts, state, opened_at, message_id, envelope, body, request, answer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10, ?11, ?12, ?13, ?14) RETURNING id",
    )?;
    let id = insert.query_row(
        params![
            run.0,
            flow,
            exception.step,
            exception.class.name(),
            exception.message,
            exception.detail,
            exception.fingerprint,
            exception.attempts,
            writing.now_ms,
            exception.at.to_bytes(),
            exception.envelope.as_deref(),
            exception.body.as_deref(),
            exception.request.as_deref(),
            exception.answer.as_deref(),
        ],
        |row| row.get(0).map(ExceptionId),
    )?;
    if !known {
        notices::new_issue(writing, flow, id, exception)?;
    }
    Ok(())
}

/// The exceptions of a run, the oldest first.
pub(super) fn of_run(connection: &Connection, run: RunId) -> Sql<Vec<ExceptionRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM exceptions WHERE run = ?1 ORDER BY id"
    ))?;
    statement.query_map([run.0], row)
}

const COLUMNS: &str = "exceptions.id, exceptions.run, exceptions.flow, step, class, exceptions.message, detail, fingerprint, attempts, exceptions.state, opened_at, message_id,
  owner, snoozed_until, how, settled_at";

fn row(row: &Row<'_>) -> Sql<ExceptionRow> {
    Ok(ExceptionRow {
        id: ExceptionId(row.get(0)?),
        run: RunId(row.get(1)?),
        flow: row.get(2)?,
        step: row.get(3)?,
        class: class(row, 4)?,
        message: row.get(5)?,
        detail: row.get(6)?,
        fingerprint: row.get(7)?,
        attempts: row.get(8)?,
        state: ExceptionState::from_number(row.get(9)?),
        opened_at_ms: row.get(10)?,
        at: MessageId::from_bytes(row.get(11)?),
        owner: row.get(12)?,
        snoozed_until_ms: row.get(13)?,
        how: row.get(14)?,
        settled_at_ms: row.get(15)?,
    })
}

fn class(row: &Row<'_>, column: usize) -> Sql<Class> {
    Ok(Class::from_name(&row.text(column)?).unwrap_or(Class::Internal))
}

/// The condition of a filter; its parameters are those of `chosen`.
const CHOSEN: &str = "(CAST(?1 AS TEXT) IS NULL OR exceptions.flow = ?1) AND (CAST(?2 AS TEXT) IS NULL OR class = ?2)
  AND (exceptions.state = ?3 OR (?3 IS NULL AND (?4 OR exceptions.state < 3)))
  AND (CAST(?5 AS TEXT) IS NULL OR substr(fingerprint, 1, length(?5)) = ?5) AND (CAST(?6 AS TEXT) IS NULL OR step = ?6)
  AND (CAST(?7 AS TEXT) IS NULL OR owner = ?7) AND (CAST(?8 AS TEXT) IS NULL OR exceptions.run IN (SELECT run FROM keys WHERE value = ?8 OR (value = ?9 AND name = ?10)))
  AND exceptions.id < ?11 AND exceptions.id > ?12";

/// Calls `use_them` with the parameters of `CHOSEN`, and a limit as the thirteenth, and the flows `among` which it is as the fourteenth.
fn chosen<T>(filter: &ExceptionFilter, use_them: impl FnOnce(&[Value<'_>]) -> Sql<T>) -> Sql<T> {
    let key = filter.key.as_deref();
    let (name, value) = key.and_then(|key| key.split_once('=')).unzip();
    use_them(params![
        filter.flow,
        filter.class.map(Class::name),
        filter.state.map(ExceptionState::number),
        filter.settled,
        filter.fingerprint,
        filter.step,
        filter.owner,
        key,
        value,
        name,
        filter.before.map_or(i64::MAX, |id| id.0),
        filter.after.map_or(0, |id| id.0),
        super::limit(filter.limit),
        super::list_of(filter.among.as_deref()),
    ])
}

fn list(connection: &Connection, filter: &ExceptionFilter) -> Sql<Vec<ExceptionRow>> {
    let order = if filter.after.is_some() {
        "ASC"
    } else {
        "DESC"
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM exceptions WHERE {CHOSEN} AND {} ORDER BY exceptions.id {order} LIMIT ?13",
        super::among("exceptions.flow", "?14")
    ))?;
    chosen(filter, |params| statement.query_map(params, row))
}

fn count(connection: &Connection, filter: &ExceptionFilter) -> Sql<(u64, Option<ExceptionId>)> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT count(*), max(exceptions.id) FROM exceptions WHERE {CHOSEN} AND CAST(?13 AS BIGINT) IS NOT NULL AND {}",
        super::among("exceptions.flow", "?14")
    ))?;
    chosen(filter, |params| {
        statement.query_row(params, |row| {
            let many = u64::try_from(row.get::<i64>(0)?).unwrap_or(0);
            Ok((many, row.get::<Option<i64>>(1)?.map(ExceptionId)))
        })
    })
}

fn detail(connection: &Connection, id: ExceptionId) -> Sql<Option<ExceptionDetail>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, coalesce(exceptions.body, bodies.body), coalesce(exceptions.envelope, bodies.envelope), request, answer,
                bodies.body, runs.keys, runs.received_at, runs.root, runs.revision, runs.generation, exceptions.body IS NULL
         FROM exceptions LEFT JOIN runs ON runs.id = exceptions.run LEFT JOIN bodies ON bodies.run = exceptions.run
         WHERE exceptions.id = ?1"
    ))?;
    let bytes = |row: &Row<'_>, column: usize| -> Sql<Option<Bytes>> {
        Ok(row.get::<Option<Vec<u8>>>(column)?.map(Bytes::from))
    };
    let found = statement
        .query_row([id.0], |found| {
            Ok(ExceptionDetail {
                row: row(found)?,
                body: bytes(found, 16)?,
                envelope: bytes(found, 17)?,
                request: bytes(found, 18)?,
                answer: bytes(found, 19)?,
                accepted: bytes(found, 20)?,
                keys: journeys::keys_from(&found.get::<Option<String>>(21)?.unwrap_or_default()),
                received_at_ms: found.get::<Option<i64>>(22)?.unwrap_or_default(),
                root: MessageId::from_bytes(found.get::<Option<[u8; 16]>>(23)?.unwrap_or_default()),
                revision: found.get::<Option<Arc<str>>>(24)?.unwrap_or_default(),
                generation: found.get::<Option<u32>>(25)?.unwrap_or_default(),
                runs_body: found.get(26)?,
                effects: Vec::new(),
                history: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut found) = found else {
        return Ok(None);
    };
    found.effects = effects::of_run(connection, found.row.run)?;
    found.history = decisions::history_of(connection, id)?;
    Ok(Some(found))
}

/// Who has taken open exceptions, by cause.
fn owners(connection: &Connection) -> Sql<BTreeMap<String, Vec<String>>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT fingerprint, owner FROM exceptions WHERE state < 3 AND owner IS NOT NULL ORDER BY owner",
    )?;
    let mut owners = BTreeMap::<String, Vec<String>>::new();
    statement.each((), |row| {
        owners.entry(row.get(0)?).or_default().push(row.get(1)?);
        Ok(())
    })?;
    Ok(owners)
}

fn issues(connection: &Connection) -> Sql<Vec<Issue>> {
    let mut statement = connection.prepare_cached(
        "SELECT newest.fingerprint, newest.flow, newest.step, newest.class, newest.message, open, total, first_at, last_at, newest.id
         FROM (SELECT count(CASE WHEN state < 3 THEN 1 END) AS open, count(*) AS total, min(opened_at) AS first_at,
                      max(opened_at) AS last_at, max(id) AS id
               FROM exceptions GROUP BY fingerprint) AS causes
         JOIN exceptions AS newest ON newest.id = causes.id WHERE open > 0 ORDER BY open DESC, newest.id DESC",
    )?;
    let mut owners = owners(connection)?;
    let count = |row: &Row<'_>, column: usize| -> Sql<u64> {
        Ok(u64::try_from(row.get::<i64>(column)?).unwrap_or(0))
    };
    statement.query_map((), |row| {
        Ok(Issue {
            fingerprint: row.get(0)?,
            flow: row.get(1)?,
            step: row.get(2)?,
            class: class(row, 3)?,
            message: row.get(4)?,
            open: count(row, 5)?,
            total: count(row, 6)?,
            first_at_ms: row.get(7)?,
            last_at_ms: row.get(8)?,
            newest: ExceptionId(row.get(9)?),
            owners: owners.remove(&row.get::<String>(0)?).unwrap_or_default(),
        })
    })
}
