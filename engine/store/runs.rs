//! Runs: one message through one revision of one flow, with the count of its open leaves. The worst leaf decides how a run has ended.

use std::sync::Arc;

use bytes::Bytes;

use crate::failure::Failure;
use crate::message::{MessageId, Names};

use super::chains::Ahead;
use super::commit::{Leaf, NewRun, RunEnded, RunId};
use super::database::{Connection, Give, Optional, Row, Sql, Value, params};
use super::effects::EffectRow;
use super::exceptions::ExceptionRow;
use super::hops::HopRow;
use super::journeys::TrailLine;
use super::reader::Reader;
use super::sagas::{self, SagaRow};
use super::writer::Writing;
use super::{chains, decisions, effects, exceptions, hops, journeys};

/// Where a run is. Every run is in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// It is being worked on, or waits for an attempt.
    InFlight,
    /// A leaf of it waits for a person.
    InException,
    /// It reached a sink.
    Delivered,
    /// A step filtered all of it.
    Filtered,
    /// It, or a part of it, was dropped for a reason.
    Discarded,
    /// What it did was undone.
    Compensated,
    /// Another run of the same message has taken its place, and is counted instead.
    Superseded,
}

impl RunState {
    /// Every state.
    pub const ALL: [RunState; 7] = [
        RunState::InFlight,
        RunState::InException,
        RunState::Delivered,
        RunState::Filtered,
        RunState::Discarded,
        RunState::Compensated,
        RunState::Superseded,
    ];

    /// The name on the screen and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            RunState::InFlight => "in-flight",
            RunState::InException => "in-exception",
            RunState::Delivered => "delivered",
            RunState::Filtered => "filtered",
            RunState::Discarded => "discarded",
            RunState::Compensated => "compensated",
            RunState::Superseded => "superseded",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.name() == name)
    }

    pub(super) fn number(self) -> i64 {
        match self {
            RunState::InFlight => 0,
            RunState::InException => 1,
            RunState::Delivered => 2,
            RunState::Filtered => 3,
            RunState::Discarded => 4,
            RunState::Compensated => 5,
            RunState::Superseded => 6,
        }
    }

    pub(super) fn from_number(number: i64) -> RunState {
        match number {
            0 => RunState::InFlight,
            1 => RunState::InException,
            3 => RunState::Filtered,
            4 => RunState::Discarded,
            5 => RunState::Compensated,
            6 => RunState::Superseded,
            _ => RunState::Delivered,
        }
    }
}

/// A run, without its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// The run.
    pub run: RunId,
    /// The message's id.
    pub message: MessageId,
    /// The accepted message at the root of it all.
    pub root: MessageId,
    /// The flow.
    pub flow: Arc<str>,
    /// The revision under which it was accepted.
    pub revision: Arc<str>,
    /// When it was accepted, in milliseconds since 1970.
    pub received_at_ms: i64,
    /// Where it is.
    pub state: RunState,
    /// How many of its leaves are not over, those in exception included.
    pub open: u32,
    /// How many of its leaves wait for a person.
    pub excepted: u32,
    /// When it ended, if it has.
    pub ended_at_ms: Option<i64>,
    /// Business keys.
    pub keys: Names,
    /// If it waits for its turn: who is at the head.
    pub waits_for: Option<Ahead>,
    /// Since when what it held is erased, in milliseconds since 1970.
    pub erased_at_ms: Option<i64>,
}

/// All that the store knows of a run.
#[derive(Clone, Debug)]
pub struct RunDetail {
    /// The run.
    pub row: RunRow,
    /// The accepted bytes, as long as retention keeps them.
    pub body: Option<Bytes>,
    /// Headers, variables and item, as `Envelope` reads them.
    pub envelope: Option<Bytes>,
    /// Its timeline.
    pub trail: Vec<TrailLine>,
    /// What it did outside.
    pub effects: Vec<EffectRow>,
    /// The steps of its sagas, and how far each is.
    pub sagas: Vec<SagaRow>,
    /// What waits for a person, or did.
    pub exceptions: Vec<ExceptionRow>,
    /// What is under way.
    pub hops: Vec<HopRow>,
    /// The run whose place it has taken.
    pub replay_of: Option<RunId>,
    /// The highest generation that a part of it has.
    pub generation: u32,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Of this flow.
    pub flow: Option<String>,
    /// Of one of these flows.
    pub among: Option<Vec<String>>,
    /// In this state.
    pub state: Option<RunState>,
    /// With this key: `SO-1001`, or `order=SO-1001`.
    pub key: Option<String>,
    /// With a lower number than this: the next page.
    pub before: Option<RunId>,
    /// At most so many; 0 means 100.
    pub limit: usize,
}

impl Reader {
    /// Runs, the newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<Vec<RunRow>, Failure> {
        self.read(move |connection| list(connection, &filter)).await
    }

    /// A run with all that is known of it, by its number or by its message's id.
    pub async fn run(&self, which: &str) -> Result<Option<RunDetail>, Failure> {
        let which = which.to_owned();
        self.read(move |connection| match find(connection, &which)? {
            Some(row) => detail(connection, row).map(Some),
            None => Ok(None),
        })
        .await
    }
}

/// Writes a new run, with one open leaf: a hop, or an exception.
pub(super) fn insert(writing: &mut Writing<'_>, run: &NewRun, excepted: bool) -> Sql<()> {
    let state = if excepted {
        RunState::InException
    } else {
        RunState::InFlight
    };
    writing.put(
        "INSERT INTO runs (id, message, root, flow, revision, received_at, keys, open, excepted, worst, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, 0, ?9)",
        params![
            run.run.0,
            run.message.to_bytes(),
            run.root.to_bytes(),
            run.flow,
            run.revision,
            run.received_at_ms,
            journeys::keys_text(&run.keys),
            i64::from(excepted),
            state.number(),
        ],
    )?;
    writing.put(
        "INSERT INTO bodies (run, envelope, body) VALUES (?1, ?2, ?3)",
        params![run.run.0, &run.envelope[..], &run.body[..]],
    )?;
    let counts = writing.books.of(&run.flow);
    counts.received += 1;
    counts.accepted += 1;
    *counts.of(state) += 1;
    Ok(())
}

/// One leaf of a run, a hop, is over: so many hops follow it, and these leaves end.
pub(super) fn advance(
    writing: &mut Writing<'_>,
    flow: &Arc<str>,
    run: RunId,
    follow: usize,
    leaves: &[Leaf],
) -> Sql<()> {
    if follow == 1 && leaves.is_empty() {
        return Ok(());
    }
    if let ([leaf], 0) = (leaves, follow)
        && end_only_leaf(writing, flow, run, leaf)?
    {
        return Ok(());
    }
    let more = number(leaves.iter().filter(|leaf| is_exception(leaf)).count());
    let change = Change {
        open: number(follow) + more - 1,
        excepted: more,
        worst: leaves.iter().map(badness).max().unwrap_or(0),
    };
    turn(writing, flow, run, &change)
}

/// What becomes of a run's leaves.
pub(super) struct Change {
    /// So many more are not over (or fewer).
    pub(super) open: i64,
    /// So many more wait for a person (or fewer).
    pub(super) excepted: i64,
    /// The badness of the worst that ended; 0 if none did.
    pub(super) worst: i64,
}

/// How bad a dropped leaf is.
pub(super) const DISCARDED: i64 = 4;
/// How bad a delivered leaf is.
pub(super) const DELIVERED: i64 = 2;

/// Changes the leaves of a run: its state follows, and the books with it.
pub(super) fn turn(
    writing: &mut Writing<'_>,
    flow: &Arc<str>,
    run: RunId,
    change: &Change,
) -> Sql<()> {
    let mut statement = writing.connection.prepare_cached(
        "SELECT open, excepted, worst, state, chained IS NOT NULL, changes, received_at FROM runs WHERE id = ?1",
    )?;
    let read = |row: &Row<'_>| {
        Ok((
            row.get::<i64>(0)?,
            row.get::<i64>(1)?,
            row.get::<i64>(2)?,
            row.get::<i64>(3)?,
            row.get::<bool>(4)?,
            row.get::<Option<i64>>(5)?,
            row.get::<i64>(6)?,
        ))
    };
    let Some((open, excepted, worst, state, chained, changes, received_ms)) =
        statement.query_row([run.0], read).optional()?
    else {
        return Ok(());
    };
    drop(statement);
    let open = open + change.open;
    let excepted = excepted + change.excepted;
    let worst = worst.max(change.worst);
    let before = RunState::from_number(state);
    let after = match (open, excepted) {
        (..=0, _) => ended_as(worst),
        (_, 1..) => RunState::InException,
        _ => RunState::InFlight,
    };
    writing.put(
        "UPDATE runs SET open = ?2, excepted = ?3, worst = ?4, state = ?5, ended_at = ?6 WHERE id = ?1",
        params![
            run.0,
            open,
            excepted,
            worst,
            after.number(),
            (open <= 0).then_some(writing.now_ms),
        ],
    )?;
    let counts = writing.books.of(flow);
    *counts.of(before) -= 1;
    *counts.of(after) += 1;
    if open <= 0 {
        writing.ended.push(RunEnded {
            run,
            flow: flow.clone(),
            state: after,
            received_ms: Some(received_ms),
        });
    }
    if chained {
        turn_over(writing, run, open, excepted)?;
    }
    match (after, changes) {
        (RunState::Delivered, Some(first)) => decisions::supersede(writing, RunId(first), run),
        _ => Ok(()),
    }
}

/// Notes that a run has the key of another with other content: once it is delivered, that one need not be.
pub(super) fn changes(writing: &Writing<'_>, run: RunId, first: RunId) -> Sql<()> {
    writing.put(
        "UPDATE runs SET changes = ?2 WHERE id = ?1",
        [run.0, first.0],
    )?;
    Ok(())
}

/// What the new count of a run's leaves means for those that wait behind it.
fn turn_over(writing: &mut Writing<'_>, run: RunId, open: i64, excepted: i64) -> Sql<()> {
    if open <= 0 {
        chains::leave(writing, run)
    } else if open == excepted {
        chains::pass(writing, run)
    } else {
        Ok(())
    }
}

/// The common case in one statement: a run whose only leaf ends, and for which nobody waits.
fn end_only_leaf(writing: &mut Writing<'_>, flow: &Arc<str>, run: RunId, leaf: &Leaf) -> Sql<bool> {
    if is_exception(leaf) {
        return Ok(false);
    }
    let over = match writing.together.over(run) {
        Some(over) => over,
        None => end_only_leaves(writing, &[(run, leaf)])? == [true],
    };
    if over {
        let counts = writing.books.of(flow);
        counts.in_flight -= 1;
        let state = ended_as(badness(leaf));
        *counts.of(state) += 1;
        writing.ended.push(RunEnded {
            run,
            flow: flow.clone(),
            state,
            received_ms: None,
        });
    }
    Ok(over)
}

/// Ends runs of which these leaves, no exceptions, are the only ones, and for which nobody waits; says of each whether it was so. The books
/// are not told.
pub(super) fn end_only_leaves(writing: &Writing<'_>, leaves: &[(RunId, &Leaf)]) -> Sql<Vec<bool>> {
    let each = leaves.iter().map(|(run, leaf)| {
        let worst = badness(leaf);
        [run.0, worst, ended_as(worst).number(), writing.now_ms].map(Value::Integer)
    });
    let each: Vec<_> = each.collect();
    let sql = "UPDATE runs SET open = 0, worst = ?2, state = ?3, ended_at = ?4
         WHERE id = ?1 AND open = 1 AND excepted = 0 AND worst = 0 AND chained IS NULL AND changes IS NULL";
    let rows = writing.connection.execute_each(sql, &each)?;
    Ok(rows.into_iter().map(|rows| rows == 1).collect())
}

pub(super) fn is_exception(leaf: &Leaf) -> bool {
    matches!(leaf, Leaf::Exception(_))
}

fn badness(leaf: &Leaf) -> i64 {
    match leaf {
        // What a saga makes of them is known before they come here.
        Leaf::Exception(_) | Leaf::Undo(_) | Leaf::Undone(_) => 0,
        Leaf::Filtered => 1,
        Leaf::Delivered => DELIVERED,
        Leaf::Compensated => 3,
        Leaf::Discarded(_) => DISCARDED,
    }
}

fn ended_as(worst: i64) -> RunState {
    match worst {
        1 => RunState::Filtered,
        3 => RunState::Compensated,
        4 => RunState::Discarded,
        _ => RunState::Delivered,
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The columns that `row` reads.
pub(super) fn columns() -> String {
    format!(
        "runs.id, runs.message, runs.root, runs.flow, runs.revision, runs.received_at, runs.state, runs.open, runs.excepted, runs.ended_at,
         runs.keys, {}, runs.erased_at",
        chains::AHEAD
    )
}

/// A run from a row of `columns`.
pub(super) fn row(row: &Row<'_>) -> Sql<RunRow> {
    Ok(RunRow {
        run: RunId(row.get(0)?),
        message: MessageId::from_bytes(row.get(1)?),
        root: MessageId::from_bytes(row.get(2)?),
        flow: row.get(3)?,
        revision: row.get(4)?,
        received_at_ms: row.get(5)?,
        state: RunState::from_number(row.get(6)?),
        open: row.get(7)?,
        excepted: row.get(8)?,
        ended_at_ms: row.get(9)?,
        keys: journeys::keys_from(&row.text(10)?),
        waits_for: chains::ahead_from(row.get(11)?),
        erased_at_ms: row.get(12)?,
    })
}

fn list(connection: &Connection, filter: &RunFilter) -> Sql<Vec<RunRow>> {
    let by_key =
        "AND runs.id IN (SELECT run FROM keys WHERE value = ?3 OR (value = ?4 AND name = ?5))";
    let key = filter.key.as_deref();
    let named = key.and_then(|key| key.split_once('='));
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM runs WHERE (CAST(?1 AS TEXT) IS NULL OR flow = ?1) AND (CAST(?2 AS BIGINT) IS NULL OR state = ?2) {}
         AND id < ?6 AND {} ORDER BY id DESC LIMIT ?7",
        columns(),
        if key.is_some() {
            by_key
        } else {
            "AND CAST(?3 AS TEXT) IS NULL AND CAST(?4 AS TEXT) IS NULL AND CAST(?5 AS TEXT) IS NULL"
        },
        super::among("flow", "?8"),
    ))?;
    statement.query_map(
        params![
            filter.flow,
            filter.state.map(RunState::number),
            key,
            named.map(|(_, value)| value),
            named.map(|(name, _)| name),
            filter.before.map_or(i64::MAX, |run| run.0),
            super::limit(filter.limit),
            super::list_of(filter.among.as_deref()),
        ],
        row,
    )
}

fn find(connection: &Connection, which: &str) -> Sql<Option<RunRow>> {
    let by = |condition: &str, value: Value<'_>| {
        connection
            .prepare_cached(&format!(
                "SELECT {} FROM runs WHERE {condition} ORDER BY generation DESC, state = 6, id DESC LIMIT 1",
                columns()
            ))?
            .query_row([value], row)
            .optional()
    };
    if let Some(message) = MessageId::parse(which) {
        let bytes = message.to_bytes();
        let own = by("root = ?1 AND message = root", bytes.give())?;
        return match own {
            Some(row) => Ok(Some(row)),
            None => by("message = ?1 AND message <> root", bytes.give()),
        };
    }
    match which.parse::<i64>() {
        Ok(id) => by("id = ?1", id.give()),
        Err(_) => Ok(None),
    }
}

fn detail(connection: &Connection, row: RunRow) -> Sql<RunDetail> {
    let bytes = connection
        .prepare_cached("SELECT body, envelope FROM bodies WHERE run = ?1")?
        .query_row([row.run.0], |row| {
            Ok((
                Bytes::from(row.get::<Vec<u8>>(0)?),
                Bytes::from(row.get::<Vec<u8>>(1)?),
            ))
        })
        .optional()?;
    let (body, envelope) = bytes.unzip();
    let (replay_of, generation) = connection
        .prepare_cached("SELECT replay_of, generation FROM runs WHERE id = ?1")?
        .query_row([row.run.0], |row| {
            Ok((row.get::<Option<i64>>(0)?.map(RunId), row.get(1)?))
        })?;
    Ok(RunDetail {
        body,
        envelope,
        trail: journeys::trail_of(connection, row.run)?,
        effects: effects::of_run(connection, row.run)?,
        sagas: sagas::of_run(connection, row.run)?,
        exceptions: exceptions::of_run(connection, row.run)?,
        hops: hops::of_run(connection, row.run)?,
        replay_of,
        generation,
        row,
    })
}

#[cfg(test)]
mod tests {
    use super::super::commit::{Accepted, Trail, Turn};
    use super::super::sample::*;
    use super::*;

    #[tokio::test]
    async fn a_run_is_there_with_all_that_belongs_to_it() {
        let mut sample = Sample::new();
        let order = sample.order("SO-1", "{\"name\":\"SO-1\"}");
        assert_eq!(sample.accept(vec![order.clone()]).await, [Accepted::New]);
        let mut end = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
        end.trail = vec![Trail {
            at_ms: START_MS + 5,
            step: Arc::from("erp"),
            what: "done",
            detail: Some("said \"ok\"".to_owned()),
            hash: Some([0xAB; 8]),
        }];
        assert_eq!(sample.end(vec![end]).await.ends, [true]);
        sample.reopen().await;
        for which in [order.run.0.to_string(), order.message.to_string()] {
            let found = sample.store.run(&which).await.unwrap().unwrap();
            assert_eq!(found.row.state, RunState::Delivered);
            assert_eq!(found.row.keys, *order.keys);
            assert_eq!(found.body, Some(order.body.clone()));
            assert_eq!(found.row.ended_at_ms, Some(START_MS));
            assert_eq!(found.trail.len(), 1);
            assert_eq!(found.trail[0].detail.as_deref(), Some("said \"ok\""));
            assert_eq!(found.trail[0].hash.as_deref(), Some("abababababababab"));
        }
        assert!(sample.store.run("77").await.unwrap().is_none());
        assert!(sample.store.run("nonsense").await.unwrap().is_none());
    }

    /// Ends the first hop with a split into one hop for each of `leaves`, ends these one by one, and gives the state after each.
    async fn check(leaves: Vec<Leaf>, expect: &[RunState]) {
        let sample = Sample::new();
        let order = sample.order("SO-1", "{}");
        sample.accept(vec![order.clone()]).await;
        let parts: Vec<_> = leaves
            .iter()
            .map(|_| sample.hop(order.run, order.message, "part"))
            .collect();
        let hops: Vec<_> = parts.iter().map(|hop| hop.hop).collect();
        sample
            .end(vec![over(&order, first_hop(&order), parts, vec![])])
            .await;
        for ((leaf, hop), state) in leaves.into_iter().zip(hops).zip(expect) {
            sample
                .end(vec![over(&order, hop, vec![], vec![leaf])])
                .await;
            let runs = sample.store.runs(RunFilter::default()).await.unwrap();
            assert_eq!(runs[0].state, *state);
            sample.books().await;
        }
    }

    #[tokio::test]
    async fn the_worst_leaf_decides() {
        use RunState::*;
        let discarded = || Leaf::Discarded("too old".to_owned());
        check(vec![Leaf::Filtered, Leaf::Filtered], &[InFlight, Filtered]).await;
        check(
            vec![Leaf::Delivered, Leaf::Filtered],
            &[InFlight, Delivered],
        )
        .await;
        check(vec![discarded(), Leaf::Delivered], &[InFlight, Discarded]).await;
        check(vec![Leaf::Delivered], &[Delivered]).await;
    }

    #[tokio::test]
    async fn a_leaf_in_exception_keeps_the_run_open() {
        let sample = Sample::new();
        let order = sample.order("SO-1", "{}");
        sample.accept(vec![order.clone()]).await;
        let part = sample.hop(order.run, order.message, "part");
        let hop = part.hop;
        let leaves = vec![Leaf::Exception(exception(&order)), Leaf::Delivered];
        sample
            .end(vec![over(&order, first_hop(&order), vec![part], leaves)])
            .await;
        sample
            .end(vec![over(&order, hop, vec![], vec![Leaf::Delivered])])
            .await;
        let found = sample.store.run("1").await.unwrap().unwrap();
        assert_eq!(found.row.state, RunState::InException);
        assert_eq!((found.row.open, found.row.excepted), (1, 1));
        assert_eq!(found.exceptions.len(), 1);
        assert_eq!(sample.books().await.in_exceptions, 1);
    }

    #[tokio::test]
    async fn a_hop_ends_once() {
        let sample = Sample::new();
        let order = sample.order("SO-1", "{}");
        sample.accept(vec![order.clone()]).await;
        let end = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
        let mut stale = end.clone();
        stale.fence += 1;
        assert_eq!(
            sample.end(vec![stale, end.clone(), end]).await.ends,
            [false, true, false]
        );
        assert_eq!(sample.books().await.delivered, 1);
    }

    #[tokio::test]
    async fn the_end_of_a_door_makes_a_run_and_leaves_the_sender_alone() {
        let sample = Sample::new();
        let order = sample.order("SO-1", "{}");
        sample.accept(vec![order.clone()]).await;
        let mut door = sample.hop(order.run, order.message, "@accept");
        door.flow = Arc::from("review");
        let door_hop = door.hop;
        let turn = Turn::Over {
            next: vec![],
            doors: vec![door],
            leaves: vec![Leaf::Delivered],
        };
        sample
            .end(vec![turned(&order, first_hop(&order), turn)])
            .await;
        assert_eq!(sample.books().await.delivered, 1);
        let mut review = sample.order("SO-1", "{}");
        review.flow = Arc::from("review");
        review.root = order.message;
        review.claims = vec![claim("review", "SO-1", "{}")];
        let mut end = over(&order, door_hop, vec![], vec![]);
        end.flow = Arc::from("review");
        end.step = Arc::from("@accept");
        end.accepts = vec![review.clone()];
        let committed = sample.end(vec![end]).await;
        assert_eq!(committed.ends_accepts, [[Accepted::New]]);
        assert_eq!(sample.books().await.delivered, 1);
        let books = sample.store.books().await.unwrap();
        assert_eq!(books[1].counts.in_flight, 1);
        let journey = sample.store.journey("order=SO-1").await.unwrap();
        assert_eq!(journey.len(), 2);
        let found = sample
            .store
            .run(&review.message.to_string())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.row.run, review.run);
    }
}
