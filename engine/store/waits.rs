//! Waits for a message of another flow. A wait has its hop, which waits for the time at which it is given up; the commit that accepts an
//! answer finds the wait in the same transaction and makes the hop ready, so that no answer comes between the look and the wait.
//!
//! An answer is a message that was accepted by the awaited flow, with the same value of the key. It may be older than the wait, by as much
//! as the wait may last. Each wait takes one answer, and no two messages at the same step take the same one.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashSet;

use crate::message::MessageId;

use super::commit::{HopId, NewRun, RunId, Trail};
use super::database::{Connection, Give, Optional, Sql, params};
use super::writer::Writing;
use super::{hops, journeys};

/// - a wait stays as long as its answer's run, so that the answer is not taken again; `answer` is null while there is none
/// - `choosy` waits look at answers themselves (`match`): they are woken, and take one or wait on
pub(super) const TABLES: &str = "
CREATE TABLE waits (
  hop INTEGER PRIMARY KEY, message BLOB NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL,
  awaited TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
  since INTEGER NOT NULL, until INTEGER NOT NULL, choosy INTEGER NOT NULL, answer INTEGER
) STRICT;
CREATE INDEX waits_open ON waits (value, name, awaited) WHERE answer IS NULL;
CREATE INDEX waits_answer ON waits (answer, flow, step) WHERE answer IS NOT NULL;
";

/// A message asks for its answer; if there is none, it waits from then on.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The hop.
    pub hop: HopId,
    /// The fence that it was taken with.
    pub fence: i64,
    /// The run, which is no answer to itself.
    pub run: RunId,
    /// The message's id: the same message may take the same answer again, when it is run again.
    pub message: MessageId,
    /// The flow that waits.
    pub flow: Arc<str>,
    /// The step that waits.
    pub step: Arc<str>,
    /// The flow whose message is awaited.
    pub awaited: Arc<str>,
    /// The key.
    pub name: Arc<str>,
    /// Its value.
    pub value: String,
    /// How long it waits, and how much older an answer may be, in milliseconds.
    pub within_ms: i64,
    /// Whether the step looks at an answer before it takes it; if not, the first one is taken.
    pub choosy: bool,
    /// Of a step that looks: answers that it does not want.
    pub unwanted: Vec<RunId>,
    /// Of a step that looks: the answer that it wants.
    pub wanted: Option<RunId>,
}

/// What became of an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// This answer is the message's own from now on.
    Answered(Answer),
    /// This answer is there. It is not taken: the step looks at it, and asks again.
    Offered(Answer),
    /// There is none yet: the hop waits, until this time at the longest.
    Waits(i64),
    /// There is none, and the time is over. Nothing has changed.
    Over,
    /// The hop is not there with this fence. Nothing has changed.
    Gone,
}

/// A message that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its run.
    pub run: RunId,
    /// Its accepted body; `None` if it is no longer kept.
    pub body: Option<Bytes>,
}

/// A wait as it stands.
struct Standing {
    since_ms: i64,
    until_ms: i64,
    answer: Option<i64>,
}

/// Takes an answer that is there, or lets the hop wait.
pub(super) fn ask(writing: &Writing<'_>, ask: &Ask) -> Sql<Asked> {
    if !hops::stands(writing, ask.hop, ask.fence)? {
        return Ok(Asked::Gone);
    }
    let standing = standing(writing, ask.hop)?;
    if let Some(run) = standing.as_ref().and_then(|wait| wait.answer) {
        return Ok(Asked::Answered(answer(writing, RunId(run))?));
    }
    let new = standing.is_none();
    let Standing {
        since_ms, until_ms, ..
    } = standing.unwrap_or(Standing {
        since_ms: writing.now_ms,
        until_ms: writing.now_ms.saturating_add(ask.within_ms),
        answer: None,
    });
    let found = candidates(writing, ask, since_ms)?;
    let wanted = ask.wanted.filter(|wanted| found.contains(wanted));
    let taken = if ask.choosy {
        wanted
    } else {
        found.first().copied()
    };
    if let Some(run) = taken {
        put(writing, ask, since_ms, until_ms, Some(run))?;
        return Ok(Asked::Answered(answer(writing, run)?));
    }
    let offered = found.iter().find(|run| !ask.unwanted.contains(run));
    if let Some(run) = offered {
        return Ok(Asked::Offered(answer(writing, *run)?));
    }
    if until_ms <= writing.now_ms {
        return Ok(Asked::Over);
    }
    put(writing, ask, since_ms, until_ms, None)?;
    let why = format!(
        "for a message of `{}` with {} `{}`",
        ask.awaited, ask.name, ask.value
    );
    hops::rest(writing, ask.hop, ask.fence, until_ms, &why)?;
    if new {
        let line = Trail {
            at_ms: writing.now_ms,
            step: ask.step.clone(),
            what: "waits",
            detail: Some(why),
            hash: None,
        };
        journeys::insert_lines(writing, ask.run, ask.hop, ask.fence, &[line])?;
    }
    Ok(Asked::Waits(until_ms))
}

/// A message was accepted: it answers the longest wait of each step that waits for it. Woken hops are released by this commit.
pub(super) fn arrived(writing: &mut Writing<'_>, run: &NewRun) -> Sql<()> {
    let mut served: Vec<(String, String)> = Vec::new();
    for (name, value) in run.keys.iter() {
        if !writing.together.may_be_awaited(value) {
            continue;
        }
        for (hop, flow, step, choosy) in open(writing, &run.flow, name, value)? {
            let at = (flow, step);
            if !choosy && served.contains(&at) {
                continue;
            }
            let Some(asleep) = hops::asleep(writing, hop)? else {
                writing.put("DELETE FROM waits WHERE hop = ?1", [hop.0])?;
                continue;
            };
            if !choosy {
                let sql = "UPDATE waits SET answer = ?2 WHERE hop = ?1";
                writing.put(sql, params![hop.0, run.run.0])?;
                served.push(at);
            }
            if asleep {
                hops::wake(writing, hop)?;
            }
        }
    }
    Ok(())
}

/// Those of these values of keys for which somebody waits, in any flow.
pub(super) fn awaited<'v>(
    connection: &Connection,
    values: impl Iterator<Item = &'v String>,
) -> Sql<FxHashSet<String>> {
    let values: Vec<_> = values.map(|value| [value.give()]).collect();
    let mut awaited = FxHashSet::default();
    let sql = "SELECT DISTINCT value FROM waits WHERE value = ?1 AND answer IS NULL";
    connection.query_each(sql, &values, |row| {
        awaited.insert(row.get(0)?);
        Ok(())
    })?;
    Ok(awaited)
}

/// Waits of which nothing is left: no answer, and no hop. At most so many.
pub(super) fn sweep(connection: &Connection, now_ms: i64, limit: i64) -> Sql<usize> {
    connection
        .prepare_cached(
            "DELETE FROM waits WHERE hop IN (
               SELECT hop FROM waits WHERE answer IS NULL AND until <= ?1 AND hop NOT IN (SELECT id FROM hops) LIMIT ?2)",
        )?
        .execute(params![now_ms, limit])
}

fn standing(writing: &Writing<'_>, hop: HopId) -> Sql<Option<Standing>> {
    writing
        .connection
        .prepare_cached("SELECT since, until, answer FROM waits WHERE hop = ?1")?
        .query_row([hop.0], |row| {
            Ok(Standing {
                since_ms: row.get(0)?,
                until_ms: row.get(1)?,
                answer: row.get(2)?,
            })
        })
        .optional()
}

/// What could be the answer, the oldest first: accepted, not broken at the door, not too old, and not taken by another message here.
fn candidates(writing: &Writing<'_>, ask: &Ask, since_ms: i64) -> Sql<Vec<RunId>> {
    let mut statement = writing.connection.prepare_cached(
        "SELECT runs.id FROM keys JOIN runs ON runs.id = keys.run
         WHERE keys.value = ?1 AND keys.name = ?2 AND runs.flow = ?3 AND runs.received_at >= ?4 AND runs.id <> ?5
         AND runs.id IN (SELECT run FROM bodies)
         AND NOT EXISTS (SELECT 1 FROM exceptions WHERE exceptions.run = runs.id AND exceptions.step = '@accept' AND exceptions.state < 3)
         AND NOT EXISTS (SELECT 1 FROM waits AS used WHERE used.answer = runs.id AND used.flow = ?6 AND used.step = ?7 AND used.message <> ?8)
         ORDER BY runs.received_at, runs.id",
    )?;
    statement.query_map(
        params![
            ask.value,
            ask.name,
            ask.awaited,
            since_ms.saturating_sub(ask.within_ms),
            ask.run.0,
            ask.flow,
            ask.step,
            ask.message.to_bytes(),
        ],
        |row| row.get(0).map(RunId),
    )
}

fn put(
    writing: &Writing<'_>,
    ask: &Ask,
    since_ms: i64,
    until_ms: i64,
    answer: Option<RunId>,
) -> Sql<()> {
    writing.put(
        "INSERT INTO waits (hop, message, flow, step, awaited, name, value, since, until, choosy, answer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (hop) DO UPDATE SET choosy = ?10, answer = ?11",
        params![
            ask.hop.0,
            ask.message.to_bytes(),
            ask.flow,
            ask.step,
            ask.awaited,
            ask.name,
            ask.value,
            since_ms,
            until_ms,
            ask.choosy,
            answer.map(|run| run.0),
        ],
    )?;
    Ok(())
}

fn answer(writing: &Writing<'_>, run: RunId) -> Sql<Answer> {
    let body: Option<Vec<u8>> = writing
        .connection
        .prepare_cached("SELECT body FROM bodies WHERE run = ?1")?
        .query_row([run.0], |row| row.get(0))
        .optional()?;
    Ok(Answer {
        run,
        body: body.map(Bytes::from),
    })
}

type Open = (HopId, String, String, bool);

/// The open waits that a message of this flow with this key could answer, the longest first.
fn open(writing: &Writing<'_>, awaited: &str, name: &str, value: &str) -> Sql<Vec<Open>> {
    let mut statement = writing.connection.prepare_cached(
        "SELECT hop, flow, step, choosy FROM waits WHERE value = ?1 AND name = ?2 AND awaited = ?3 AND answer IS NULL ORDER BY since, hop",
    )?;
    statement.query_map([value, name, awaited], |row| {
        Ok((HopId(row.get(0)?), row.get(1)?, row.get(2)?, row.get(3)?))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::{Commit, First, Leaf, StoredHop};
    use super::super::sample::*;
    use super::*;
    use crate::world::clock::Clock;

    const WITHIN_MS: i64 = 1_000;

    /// A message of the flow `confirmations` with this order's key.
    fn confirmation(sample: &Sample, order: &str, body: &str) -> NewRun {
        let mut run = sample.order(order, body);
        run.flow = Arc::from("confirmations");
        run.claims.clear();
        run.received_at_ms = sample.clock.now_ms();
        if let First::Hop(hop) = &mut run.first {
            hop.flow = run.flow.clone();
        }
        run
    }

    fn plain(sample: &Sample, order: &str) -> NewRun {
        let mut run = sample.order(order, "{}");
        run.claims.clear();
        run
    }

    fn asking(run: &NewRun, fence: i64) -> Ask {
        Ask {
            hop: first_hop(run),
            fence,
            run: run.run,
            message: run.message,
            flow: run.flow.clone(),
            step: Arc::from("wait"),
            awaited: Arc::from("confirmations"),
            name: Arc::from("order"),
            value: run.keys["order"].clone(),
            within_ms: WITHIN_MS,
            choosy: false,
            unwanted: Vec::new(),
            wanted: None,
        }
    }

    async fn asked(sample: &Sample, ask: Ask) -> Asked {
        let commit = Commit {
            asks: vec![ask],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().asks.remove(0)
    }

    /// Accepts an answer; gives the hops that it has woken.
    async fn arrives(sample: &Sample, run: &NewRun) -> Vec<StoredHop> {
        let commit = Commit {
            accepts: vec![run.clone()],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().released
    }

    fn answered(run: &NewRun) -> Asked {
        Asked::Answered(Answer {
            run: run.run,
            body: Some(run.body.clone()),
        })
    }

    #[tokio::test]
    async fn an_answer_wakes_the_longest_wait_and_only_that() {
        let mut sample = Sample::new();
        let orders: Vec<_> = (0..3).map(|_| plain(&sample, "A")).collect();
        sample.accept(orders.clone()).await;
        for order in &orders {
            let waits = Asked::Waits(START_MS + WITHIN_MS);
            assert_eq!(asked(&sample, asking(order, 1)).await, waits);
        }
        assert_eq!(asked(&sample, asking(&orders[0], 1)).await, Asked::Gone);
        sample.reopen().await;
        let other = confirmation(&sample, "B", "other");
        assert_eq!(arrives(&sample, &other).await.len(), 0);
        let first = confirmation(&sample, "A", "first");
        let woken = arrives(&sample, &first).await;
        assert_eq!(
            (woken.len(), woken[0].run, woken[0].fence),
            (1, orders[0].run, 2)
        );
        assert_eq!(
            asked(&sample, asking(&orders[0], 2)).await,
            answered(&first)
        );
        assert_eq!(
            asked(&sample, asking(&orders[0], 2)).await,
            answered(&first),
            "again"
        );
        let second = confirmation(&sample, "A", "second");
        assert_eq!(arrives(&sample, &second).await[0].run, orders[1].run);
        assert_eq!(
            asked(&sample, asking(&orders[1], 2)).await,
            answered(&second)
        );
    }

    #[tokio::test]
    async fn an_answer_wakes_its_wait_also_among_others_of_one_commit() {
        let sample = Sample::new();
        let order = plain(&sample, "A");
        sample.accept(vec![order.clone()]).await;
        asked(&sample, asking(&order, 1)).await;
        let bodies = ["X", "A", "A", "Y"];
        let many = bodies.map(|key| confirmation(&sample, key, "{}"));
        let commit = Commit {
            accepts: many.to_vec(),
            ..Commit::default()
        };
        let woken = sample.store.commit(commit).await.unwrap().released;
        assert_eq!(woken.len(), 1);
        assert_eq!(asked(&sample, asking(&order, 2)).await, answered(&many[1]));
    }

    #[tokio::test]
    async fn an_answer_that_came_before_is_taken_once_unless_it_is_too_old() {
        let sample = Sample::new();
        let early = confirmation(&sample, "A", "early");
        arrives(&sample, &early).await;
        sample
            .clock
            .advance(Duration::from_millis(WITHIN_MS as u64));
        let orders: Vec<_> = (0..2).map(|_| plain(&sample, "A")).collect();
        sample.accept(orders.clone()).await;
        assert_eq!(
            asked(&sample, asking(&orders[0], 1)).await,
            answered(&early)
        );
        let waits = Asked::Waits(START_MS + 2 * WITHIN_MS);
        assert_eq!(asked(&sample, asking(&orders[1], 1)).await, waits);
        let mut elsewhere = asking(&orders[0], 1);
        elsewhere.step = Arc::from("other");
        let third = plain(&sample, "A");
        sample.accept(vec![third.clone()]).await;
        elsewhere.hop = first_hop(&third);
        assert_eq!(
            asked(&sample, elsewhere).await,
            answered(&early),
            "another step"
        );
        sample.clock.advance(Duration::from_millis(1));
        let late = plain(&sample, "A");
        sample.accept(vec![late.clone()]).await;
        assert!(matches!(
            asked(&sample, asking(&late, 1)).await,
            Asked::Waits(_)
        ));
    }

    #[tokio::test]
    async fn the_same_message_run_again_takes_its_answer_again() {
        let sample = Sample::new();
        let early = confirmation(&sample, "A", "early");
        arrives(&sample, &early).await;
        let mut orders: Vec<_> = (0..2).map(|_| plain(&sample, "A")).collect();
        orders[1].message = orders[0].message;
        sample.accept(orders.clone()).await;
        for order in &orders {
            assert_eq!(asked(&sample, asking(order, 1)).await, answered(&early));
        }
    }

    #[tokio::test]
    async fn a_wait_is_over_when_its_time_is() {
        let sample = Sample::new();
        let order = plain(&sample, "A");
        sample.accept(vec![order.clone()]).await;
        asked(&sample, asking(&order, 1)).await;
        sample
            .clock
            .advance(Duration::from_millis(WITHIN_MS as u64));
        let commit = Commit {
            release: Some((START_MS + WITHIN_MS, 9)),
            ..Commit::default()
        };
        assert_eq!(sample.store.commit(commit).await.unwrap().released.len(), 1);
        assert_eq!(asked(&sample, asking(&order, 2)).await, Asked::Over);
        let late = confirmation(&sample, "A", "late");
        assert!(arrives(&sample, &late).await.is_empty(), "it is awake");
        assert_eq!(asked(&sample, asking(&order, 2)).await, answered(&late));
        let mut end = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
        end.fence = 2;
        assert_eq!(sample.end(vec![end]).await.ends, [true]);
        assert_eq!(asked(&sample, asking(&order, 2)).await, Asked::Gone);
    }

    #[tokio::test]
    async fn what_is_broken_at_the_door_is_no_answer() {
        let sample = Sample::new();
        let order = plain(&sample, "A");
        sample.accept(vec![order.clone()]).await;
        let mut broken = confirmation(&sample, "A", "broken");
        let mut at_the_door = exception(&broken);
        at_the_door.step = Arc::from("@accept");
        broken.first = First::Exception(at_the_door);
        arrives(&sample, &broken).await;
        assert!(matches!(
            asked(&sample, asking(&order, 1)).await,
            Asked::Waits(_)
        ));
        let again = NewRun {
            run: sample.store.next_run(),
            ..broken
        };
        assert!(arrives(&sample, &again).await.is_empty());
    }

    #[tokio::test]
    async fn a_choosy_wait_is_offered_each_answer_and_takes_the_one_it_wants() {
        let sample = Sample::new();
        let order = plain(&sample, "A");
        sample.accept(vec![order.clone()]).await;
        let early = [
            confirmation(&sample, "A", "1"),
            confirmation(&sample, "A", "2"),
        ];
        for one in &early {
            arrives(&sample, one).await;
        }
        let mut ask = asking(&order, 1);
        ask.choosy = true;
        for one in &early {
            let Asked::Offered(offered) = asked(&sample, ask.clone()).await else {
                panic!("nothing is offered");
            };
            assert_eq!(offered.run, one.run);
            ask.unwanted.push(offered.run);
        }
        assert!(matches!(asked(&sample, ask.clone()).await, Asked::Waits(_)));
        let third = confirmation(&sample, "A", "3");
        assert_eq!(arrives(&sample, &third).await[0].run, order.run);
        ask.fence = 2;
        assert!(matches!(
            asked(&sample, ask.clone()).await,
            Asked::Offered(_)
        ));
        ask.wanted = Some(third.run);
        assert_eq!(asked(&sample, ask).await, answered(&third));
    }

    #[tokio::test]
    async fn what_waited_for_nothing_any_more_is_swept() {
        let sample = Sample::new();
        let order = plain(&sample, "A");
        sample.accept(vec![order.clone()]).await;
        asked(&sample, asking(&order, 1)).await;
        let mut end = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
        end.fence = 2;
        sample.end(vec![end]).await;
        let sweep_at = |at_ms| sample.with(move |connection| sweep(connection, at_ms, 9).unwrap());
        assert_eq!(sweep_at(START_MS), 0);
        assert_eq!(sweep_at(START_MS + WITHIN_MS), 1);
        let answer = confirmation(&sample, "A", "late");
        assert!(arrives(&sample, &answer).await.is_empty());
    }
}
