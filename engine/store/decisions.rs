//! What people decide about exceptions. A decision is one change, fenced on the exception's state: of two that race one is applied, and the
//! other is told what happened. Each is written into the history. What a decision may be is decided elsewhere.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::Names;

use super::claims::{self, Standing};
use super::commit::{Chain, Claim, EffectId, NewHop, RunId, Sighting, StoredHop, Trail};
use super::database::{Connection, Optional, Sql, params};
use super::effects::{self, Amended};
use super::exceptions::{ExceptionId, ExceptionState};
use super::runs::{Change, DELIVERED, DISCARDED};
use super::writer::Writing;
use super::{chains, hops, journeys, runs};

/// What a person does about one exception.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The exception.
    pub exception: ExceptionId,
    /// Who does it.
    pub who: Arc<str>,
    /// Why, or the note.
    pub why: Option<String>,
    /// Only if the exception is still as it was when so many things had been done about it.
    pub version: Option<u32>,
    /// What is done.
    pub deed: Deed,
}

/// What can be done about an exception.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a decision lives as long as its commit"
)]
pub enum Deed {
    /// Somebody takes it.
    Assign {
        /// Who.
        to: String,
        /// Also from somebody else.
        take_over: bool,
    },
    /// A note is left.
    Note,
    /// It is put off until this time, in milliseconds since 1970.
    Snooze {
        /// Until when.
        until_ms: i64,
    },
    /// It is given up; the message ends as discarded.
    Discard,
    /// It was done by hand outside; the message ends as delivered.
    ByHand,
    /// The message goes on.
    GoOn(GoOn),
}

/// How a message goes on.
#[derive(Clone, Debug)]
pub struct GoOn {
    /// In which way: for the screen.
    pub how: How,
    /// Where, and with what.
    pub hop: NewHop,
    /// Under which revision of the flow, where that is another one than that of the run.
    pub revision: Option<Arc<str>>,
    /// The generation that it has from now on.
    pub generation: u32,
    /// What a person has said about the step's effect.
    pub amended: Option<(EffectId, Amended)>,
    /// If it goes on from the flow's door: what it claims, and its keys.
    pub admitted: Option<Admitted>,
    /// The edited body.
    pub body: Option<Bytes>,
}

/// In which way a message goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The failed step is tried again.
    Retried,
    /// The same with another body.
    Edited,
    /// The failed step is left out.
    Skipped,
}

impl How {
    /// The name in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            How::Retried => "retried",
            How::Edited => "edited",
            How::Skipped => "skipped",
        }
    }
}

/// What a message brings that is let in after all.
#[derive(Clone, Debug, Default)]
pub struct Admitted {
    /// Its claims: if one is another run's, the decision is refused.
    pub claims: Vec<Claim>,
    /// Its business keys.
    pub keys: Arc<Names>,
    /// The chains in which it waits for its turn.
    pub chains: Vec<Chain>,
    /// Its version, where a claim judges changes by it.
    pub version: Option<Sighting>,
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is done.
    Done,
    /// The exception was settled before: so, in this way, by this person.
    Settled {
        /// In which state it is.
        state: ExceptionState,
        /// How it was settled.
        how: Option<String>,
        /// By whom.
        who: Option<String>,
    },
    /// Something was done about it meanwhile.
    Changed,
    /// This person has it.
    Taken(String),
    /// This run has the message's key.
    Held(RunId),
    /// There is no such exception.
    Gone,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who.
    pub who: String,
    /// What: `assigned`, `note`, `snoozed`, `retried`, ..
    pub what: String,
    /// Why.
    pub why: Option<String>,
    /// The edited body.
    pub body: Option<Bytes>,
}

/// The exception as a decision finds it.
struct Found {
    run: RunId,
    flow: Arc<str>,
    step: Arc<str>,
    state: ExceptionState,
    owner: Option<String>,
    how: Option<String>,
}

/// Applies a decision. Gives what became of it, and the hop that it has made ready.
pub(super) fn decide(
    writing: &mut Writing<'_>,
    decision: &Decision,
) -> Sql<(Decided, Option<StoredHop>)> {
    let id = decision.exception;
    let Some(found) = find(writing.connection, id)? else {
        return Ok((Decided::Gone, None));
    };
    if decision.version.is_some() && decision.version != Some(version(writing.connection, id)?) {
        return Ok((Decided::Changed, None));
    }
    if matches!(
        found.state,
        ExceptionState::Resolved | ExceptionState::Discarded
    ) {
        let who = last_who(writing.connection, id)?;
        let (state, how) = (found.state, found.how);
        return Ok((Decided::Settled { state, how, who }, None));
    }
    let mut ready = None;
    match &decision.deed {
        Deed::Assign { to, take_over } => {
            match found.owner.as_ref() {
                Some(owner) if owner != to && !take_over => {
                    return Ok((Decided::Taken(owner.clone()), None));
                }
                _ => {}
            }
            writing.put(
                "UPDATE exceptions SET state = 1, owner = ?2, snoozed_until = NULL WHERE id = ?1",
                params![id.0, to],
            )?;
            note(
                writing,
                decision,
                found.run,
                &format!("assigned to {to}"),
                None,
            )?;
        }
        Deed::Note => note(writing, decision, found.run, "note", None)?,
        Deed::Snooze { until_ms } => {
            writing.put(
                "UPDATE exceptions SET state = 2, snoozed_until = ?2 WHERE id = ?1",
                [id.0, *until_ms],
            )?;
            note(writing, decision, found.run, "snoozed", None)?;
        }
        Deed::Discard => end(writing, decision, &found, "discarded", DISCARDED)?,
        Deed::ByHand => end(writing, decision, &found, "by-hand", DELIVERED)?,
        Deed::GoOn(go_on) => match go_on_with(writing, decision, &found, go_on)? {
            Ok(hop) => ready = hop,
            Err(refused) => return Ok((refused, None)),
        },
    }
    Ok((Decided::Done, ready))
}

/// The exception ends, and its leaf with it.
fn end(
    writing: &mut Writing<'_>,
    decision: &Decision,
    found: &Found,
    how: &'static str,
    worst: i64,
) -> Sql<()> {
    let state = if worst == DISCARDED {
        ExceptionState::Discarded
    } else {
        ExceptionState::Resolved
    };
    settle(writing, decision.exception, state, how)?;
    note(writing, decision, found.run, how, None)?;
    let what = if worst == DISCARDED {
        "discarded"
    } else {
        "resolved"
    };
    show(writing, decision, found, -decision.exception.0, what)?;
    let change = Change {
        open: -1,
        excepted: -1,
        worst,
    };
    runs::turn(writing, &found.flow, found.run, &change)
}

fn go_on_with(
    writing: &mut Writing<'_>,
    decision: &Decision,
    found: &Found,
    go_on: &GoOn,
) -> Sql<Result<Option<StoredHop>, Decided>> {
    if let Some(admitted) = &go_on.admitted {
        match claims::take(
            writing,
            found.run,
            &admitted.claims,
            admitted.version.as_ref(),
        )? {
            Standing::Free => journeys::change_keys(writing, found.run, &admitted.keys)?,
            Standing::Repeat(run) => return Ok(Err(Decided::Held(run))),
            Standing::Differs(first) => return Ok(Err(Decided::Held(first.run))),
            Standing::Refused(first) => return Ok(Err(Decided::Held(first))),
        }
    }
    if let Some((effect, amended)) = &go_on.amended {
        effects::amend(writing, *effect, amended)?;
    }
    let how = go_on.how.name();
    settle(writing, decision.exception, ExceptionState::Resolved, how)?;
    hops::insert(writing, &go_on.hop, go_on.revision.as_deref())?;
    let chains = go_on
        .admitted
        .as_ref()
        .map_or(&[][..], |admitted| &admitted.chains);
    if chains::go_on(writing, found.run, chains)? {
        hops::hold(writing, go_on.hop.hop)?;
    }
    writing.put(
        "UPDATE runs SET generation = CASE WHEN generation > ?2 THEN generation ELSE ?2 END WHERE id = ?1",
        params![found.run.0, go_on.generation],
    )?;
    note(writing, decision, found.run, how, go_on.body.as_ref())?;
    show(writing, decision, found, go_on.hop.hop.0, how)?;
    let change = Change {
        open: 0,
        excepted: -1,
        worst: 0,
    };
    runs::turn(writing, &found.flow, found.run, &change)?;
    Ok(Ok(hops::ready(writing.connection, go_on.hop.hop)?))
}

/// The message of `first` is not needed any more: `by` has delivered its key with newer content. Nothing happens while a part of it is
/// still under way.
pub(super) fn supersede(writing: &mut Writing<'_>, first: RunId, by: RunId) -> Sql<()> {
    let waiting = writing
        .connection
        .prepare_cached(
            "SELECT excepted, flow FROM runs WHERE id = ?1 AND state = 1 AND open = excepted",
        )?
        .query_row([first.0], |row| {
            Ok((row.get::<i64>(0)?, row.get::<Arc<str>>(1)?))
        })
        .optional()?;
    let Some((excepted, flow)) = waiting else {
        return Ok(());
    };
    let why = format!("run {} has delivered its key with newer content", by.0);
    settle_all(writing, first, "crossdock", &why)?;
    let change = Change {
        open: -excepted,
        excepted: -excepted,
        worst: DISCARDED,
    };
    runs::turn(writing, &flow, first, &change)
}

/// All exceptions of a run that wait are superseded.
pub(super) fn settle_all(writing: &Writing<'_>, run: RunId, who: &str, why: &str) -> Sql<()> {
    writing.put(
        "INSERT INTO history (at, who, what, exception, run, why)
         SELECT ?2, ?3, 'superseded', id, run, ?4 FROM exceptions WHERE run = ?1 AND state < 3",
        params![run.0, writing.now_ms, who, why],
    )?;
    writing.put(
        "UPDATE exceptions SET state = 3, how = 'superseded', settled_at = ?2 WHERE run = ?1 AND state < 3",
        [run.0, writing.now_ms],
    )?;
    Ok(())
}

/// Exceptions that were put off until now are open again.
pub(super) fn wake(writing: &Writing<'_>, now_ms: i64) -> Sql<()> {
    writing.put(
        "UPDATE exceptions SET state = CASE WHEN owner IS NULL THEN 0 ELSE 1 END, snoozed_until = NULL
         WHERE state = 2 AND snoozed_until <= ?1",
        [now_ms],
    )?;
    Ok(())
}

/// What people have done about an exception.
pub(super) fn history_of(connection: &Connection, id: ExceptionId) -> Sql<Vec<HistoryLine>> {
    let mut statement = connection.prepare_cached(
        "SELECT at, who, what, why, body FROM history WHERE exception = ?1 ORDER BY id",
    )?;
    statement.query_map([id.0], |row| {
        Ok(HistoryLine {
            at_ms: row.get(0)?,
            who: row.get(1)?,
            what: row.get(2)?,
            why: row.get(3)?,
            body: row.get::<Option<Vec<u8>>>(4)?.map(Bytes::from),
        })
    })
}

fn find(connection: &Connection, id: ExceptionId) -> Sql<Option<Found>> {
    connection
        .prepare_cached("SELECT run, flow, step, state, owner, how FROM exceptions WHERE id = ?1")?
        .query_row([id.0], |row| {
            Ok(Found {
                run: RunId(row.get(0)?),
                flow: row.get(1)?,
                step: row.get(2)?,
                state: ExceptionState::from_number(row.get(3)?),
                owner: row.get(4)?,
                how: row.get(5)?,
            })
        })
        .optional()
}

/// How many things were done about an exception.
fn version(connection: &Connection, id: ExceptionId) -> Sql<u32> {
    connection
        .prepare_cached("SELECT count(*) FROM history WHERE exception = ?1")?
        .query_row([id.0], |row| row.get(0))
}

fn last_who(connection: &Connection, id: ExceptionId) -> Sql<Option<String>> {
    connection
        .prepare_cached("SELECT who FROM history WHERE exception = ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([id.0], |row| row.get(0))
        .optional()
}

fn settle(
    writing: &Writing<'_>,
    id: ExceptionId,
    state: ExceptionState,
    how: &'static str,
) -> Sql<()> {
    writing.put(
        "UPDATE exceptions SET state = ?2, how = ?3, settled_at = ?4 WHERE id = ?1",
        params![id.0, state.number(), how, writing.now_ms],
    )?;
    Ok(())
}

/// Writes the history.
fn note(
    writing: &Writing<'_>,
    decision: &Decision,
    run: RunId,
    what: &str,
    body: Option<&Bytes>,
) -> Sql<()> {
    writing.put(
        "INSERT INTO history (at, who, what, exception, run, why, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            writing.now_ms,
            &*decision.who,
            what,
            decision.exception.0,
            run.0,
            decision.why,
            body.map(|body| &body[..]),
        ],
    )?;
    Ok(())
}

/// Shows it on the run's timeline.
fn show(
    writing: &Writing<'_>,
    decision: &Decision,
    found: &Found,
    hop: i64,
    what: &'static str,
) -> Sql<()> {
    let why = decision
        .why
        .as_ref()
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    let line = Trail {
        at_ms: writing.now_ms,
        step: found.step.clone(),
        what,
        detail: Some(format!(
            "exception {} by {}{why}",
            decision.exception.0, decision.who
        )),
        hash: None,
    };
    journeys::insert_line(writing, found.run, hop, line)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::{Commit, Leaf, NewRun};
    use super::super::exceptions::{ExceptionFilter, ExceptionRow};
    use super::super::runs::RunState;
    use super::super::sample::*;
    use super::*;

    /// An order that waits for a person, as exception 1.
    async fn waiting() -> (Sample, NewRun) {
        let sample = Sample::new();
        let order = sample.order("A", "1");
        sample.accept(vec![order.clone()]).await;
        let leaf = Leaf::Exception(exception(&order));
        sample
            .end(vec![over(&order, first_hop(&order), vec![], vec![leaf])])
            .await;
        (sample, order)
    }

    fn decision(deed: Deed) -> Decision {
        Decision {
            exception: ExceptionId(1),
            who: Arc::from("anna"),
            why: Some("because".to_owned()),
            version: None,
            deed,
        }
    }

    async fn commit(sample: &Sample, deeds: Vec<Deed>) -> Vec<Decided> {
        let commit = Commit {
            decisions: deeds.into_iter().map(decision).collect(),
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().decisions
    }

    fn retried(sample: &Sample, order: &NewRun) -> Deed {
        Deed::GoOn(GoOn {
            revision: None,
            how: How::Retried,
            hop: sample.hop(order.run, order.message, "erp"),
            generation: 0,
            amended: None,
            admitted: None,
            body: None,
        })
    }

    async fn first(sample: &Sample) -> ExceptionRow {
        let all = ExceptionFilter {
            settled: true,
            ..ExceptionFilter::default()
        };
        let found = sample.store.exceptions(all).await.unwrap();
        found.last().unwrap().clone()
    }

    #[tokio::test]
    async fn of_two_who_decide_one_is_told_of_the_other() {
        let (sample, order) = waiting().await;
        let both = vec![Deed::Discard, retried(&sample, &order)];
        let decided = commit(&sample, both).await;
        let settled = Decided::Settled {
            state: ExceptionState::Discarded,
            how: Some("discarded".to_owned()),
            who: Some("anna".to_owned()),
        };
        assert_eq!(decided, [Decided::Done, settled]);
        let books = sample.books().await;
        assert_eq!((books.discarded, books.in_exceptions), (1, 0));
        assert!(sample.store.hop_counts().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_retry_is_a_hop_that_is_ready_and_the_books_follow() {
        let (sample, order) = waiting().await;
        let commit = Commit {
            decisions: vec![decision(retried(&sample, &order))],
            ..Commit::default()
        };
        let committed = sample.store.commit(commit).await.unwrap();
        assert_eq!(committed.released.len(), 1);
        assert_eq!(committed.released[0].body, order.body);
        let books = sample.books().await;
        assert_eq!((books.in_flight, books.in_exceptions), (1, 0));
        let row = first(&sample).await;
        assert_eq!(row.how.as_deref(), Some("retried"));
        let end = over(
            &order,
            committed.released[0].hop,
            vec![],
            vec![Leaf::Delivered],
        );
        sample.end(vec![end]).await;
        assert_eq!(sample.books().await.delivered, 1);
        let run = sample.store.run("1").await.unwrap().unwrap();
        let line = run.trail.iter().find(|line| line.what == "retried");
        let detail = line.unwrap().detail.as_deref().unwrap();
        assert_eq!(detail, "exception 1 by anna: because");
    }

    #[tokio::test]
    async fn who_has_it_keeps_it_and_what_is_put_off_comes_back() {
        let (sample, _) = waiting().await;
        let to = |who: &str, take_over| Deed::Assign {
            to: who.to_owned(),
            take_over,
        };
        let given = vec![to("bert", false), to("carl", false), to("carl", true)];
        let decided = commit(&sample, given).await;
        let taken = Decided::Taken("bert".to_owned());
        assert_eq!(decided, [Decided::Done, taken, Decided::Done]);
        let until_ms = START_MS + 60_000;
        commit(&sample, vec![Deed::Snooze { until_ms }, Deed::Note]).await;
        assert_eq!(first(&sample).await.state, ExceptionState::Snoozed);
        sample.clock.advance(Duration::from_secs(60));
        for (now_ms, state) in [
            (until_ms - 1, ExceptionState::Snoozed),
            (until_ms, ExceptionState::Assigned),
        ] {
            let wake = Commit {
                wake: Some(now_ms),
                ..Commit::default()
            };
            sample.store.commit(wake).await.unwrap();
            assert_eq!(first(&sample).await.state, state);
        }
        let detail = sample.store.exception(ExceptionId(1)).await.unwrap();
        let history = detail.unwrap().history;
        let what: Vec<_> = history.iter().map(|line| &*line.what).collect();
        assert_eq!(
            what,
            ["assigned to bert", "assigned to carl", "snoozed", "note"]
        );
    }

    #[tokio::test]
    async fn newer_content_that_is_delivered_supersedes_what_waits() {
        let (sample, _) = waiting().await;
        let newer = sample.order("A", "2");
        sample.accept(vec![newer.clone()]).await;
        let mut deed = retried(&sample, &newer);
        if let Deed::GoOn(go_on) = &mut deed {
            go_on.admitted = Some(Admitted::default());
        }
        let let_in = Decision {
            exception: ExceptionId(2),
            ..decision(deed)
        };
        let commit = Commit {
            decisions: vec![let_in],
            ..Commit::default()
        };
        let committed = sample.store.commit(commit).await.unwrap();
        let hop = committed.released[0].hop;
        let books = sample.books().await;
        assert_eq!((books.in_flight, books.in_exceptions), (1, 1));
        sample
            .end(vec![over(&newer, hop, vec![], vec![Leaf::Delivered])])
            .await;
        let row = first(&sample).await;
        assert_eq!(row.how.as_deref(), Some("superseded"));
        let books = sample.books().await;
        assert_eq!((books.delivered, books.discarded), (1, 1));
        let old = sample.store.run("1").await.unwrap().unwrap();
        assert_eq!(old.row.state, RunState::Discarded);
    }

    #[tokio::test]
    async fn people_are_told_of_a_cause_once_and_again_after_it_was_settled() {
        let (sample, order) = waiting().await;
        let again = async || {
            let hop = sample.hop(order.run, order.message, "erp");
            let id = hop.hop;
            let deed = Deed::GoOn(GoOn {
                revision: None,
                how: How::Retried,
                hop,
                generation: 0,
                amended: None,
                admitted: None,
                body: None,
            });
            (id, deed)
        };
        let two = sample.order("B", "1");
        sample.accept(vec![two.clone()]).await;
        let fails =
            |run: &NewRun, hop| over(run, hop, vec![], vec![Leaf::Exception(exception(run))]);
        sample.end(vec![fails(&two, first_hop(&two))]).await;
        let notices = sample.store.notices(0, 9).await.unwrap();
        assert_eq!(notices.len(), 1);
        assert_eq!((notices[0].open, &*notices[0].subject), (2, "1-abc"));
        let (hop, deed) = again().await;
        let second = Decision {
            exception: ExceptionId(2),
            ..decision(Deed::Discard)
        };
        let commit = Commit {
            decisions: vec![decision(deed), second],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
        sample.end(vec![fails(&order, hop)]).await;
        assert_eq!(sample.store.notices(0, 9).await.unwrap().len(), 2);
    }
}
