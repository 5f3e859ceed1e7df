//! The ledger of effects: what was about to be sent, by whom, and what is known of its outcome. It decides whether an effect may be tried.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::commit::{
    EffectId, EffectState, HopId, Intended, Intent, Outcome, RunId, SagaId, Unannounced,
};
use super::database::{Connection, Give, Optional, Row, Sql, params};
use super::doubt::Doubt;
use super::versions;
use super::writer::Writing;
use crate::world::mutation;

const INTENT: i64 = 0;
const DONE: i64 = 1;
const NOT_APPLIED: i64 = 2;
const UNKNOWN: i64 = 3;
const UNDONE: i64 = 4;

/// The end of the lease of an effect that a restore has put in doubt.
const DOUBTED: i64 = -1;

/// What the ledger says of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectStanding {
    /// It is being tried, or whoever tried it has died.
    Intent,
    /// It took effect.
    Done,
    /// It surely took no effect.
    NotApplied,
    /// It was tried, and nobody knows the outcome.
    Unknown,
    /// It took effect, and a saga has undone it.
    Undone,
}

impl EffectStanding {
    /// The name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            EffectStanding::Intent => "intent",
            EffectStanding::Done => "done",
            EffectStanding::NotApplied => "not applied",
            EffectStanding::Unknown => "unknown",
            EffectStanding::Undone => "undone",
        }
    }
}

/// An effect as the ledger has it.
#[derive(Clone, Debug)]
pub struct EffectRow {
    /// The effect.
    pub effect: EffectId,
    /// The run that tried it last.
    pub run: RunId,
    /// The hop that tried it last; 0 for effects that needed no intent.
    pub hop: HopId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The split item; empty for the whole.
    pub item: Arc<str>,
    /// What is known.
    pub standing: EffectStanding,
    /// How often it was tried.
    pub attempts: u32,
    /// How often a probe has said that the target does not have it, since the last try.
    pub absent: u32,
    /// When it was tried first, in milliseconds since 1970.
    pub first_at_ms: i64,
    /// When something was last known of it.
    pub last_at_ms: i64,
    /// The key that lets the target recognise a repeat.
    pub idempotency_key: Option<String>,
    /// What was sent.
    pub request: Bytes,
    /// What came back.
    pub answer: Option<Bytes>,
}

/// Decides on intents, one after another, and makes durable those that may go on.
pub(super) fn intend(writing: &Writing<'_>, intents: &[Intent]) -> Sql<Vec<Intended>> {
    let mut known = FxHashMap::default();
    let effects: Vec<_> = intents
        .iter()
        .map(|intent| [intent.effect.0.give()])
        .collect();
    let sql = format!("SELECT {STORED} FROM effects WHERE id = ?1");
    writing.connection.query_each(&sql, &effects, |row| {
        known.insert(row.get::<[u8; 16]>(STORED_ID)?, stored_from(row)?);
        Ok(())
    })?;
    let mut seen = FxHashSet::default();
    let decide = |intent: &Intent| {
        let stored = match seen.insert(intent.effect) {
            true => known.remove(&intent.effect.0),
            // An earlier one of these is about the same effect.
            false => stored(writing.connection, intent.effect)?,
        };
        decide(writing, intent, stored)
    };
    intents.iter().map(decide).collect()
}

fn decide(writing: &Writing<'_>, intent: &Intent, stored: Option<Stored>) -> Sql<Intended> {
    if stored.as_ref().is_none_or(|stored| stored.state != DONE) {
        if let Some(newer) = versions::newer(writing.connection, &intent.guards)? {
            return Ok(Intended::Stale(newer));
        }
        if let Some(until_ms) = other_version_under_way(writing, intent)? {
            return Ok(Intended::Busy(until_ms - writing.ahead_ms));
        }
    }
    let stored = match writing.doubt {
        Some(doubt) => in_doubt(writing, &doubt, intent, stored)?,
        None => stored,
    };
    let Some(stored) = stored else {
        return first(writing, intent);
    };
    let differs = stored.request != intent.request && !stored.renew;
    if mutation::is("ledger-ignored") {
        return again(writing, intent, stored);
    }
    match stored.state {
        NOT_APPLIED if stored.renew => anew(writing, intent, stored),
        NOT_APPLIED => again(writing, intent, stored),
        UNDONE => Ok(Intended::Undone),
        DONE if differs => Ok(Intended::Differs(stored.request)),
        DONE => Ok(Intended::Done(stored.answer.unwrap_or_default())),
        INTENT if is_live(writing, intent, &stored) => {
            Ok(Intended::Busy(stored.lease_until_ms - writing.ahead_ms))
        }
        _ if differs => Ok(Intended::Differs(stored.request)),
        _ if intent.take_over => again(writing, intent, stored),
        _ => Ok(Intended::Unknown {
            request: stored.request,
            idempotency_key: stored.idempotency_key,
            first_at_ms: stored.first_at_ms - writing.ahead_ms,
            last_at_ms: stored.last_at_ms - writing.ahead_ms,
            absent: stored.absent,
            restored: stored.lease_until_ms == DOUBTED,
        }),
    }
}

/// In a restored store: what may have been sent after the backup becomes an effect whose outcome nobody knows.
fn in_doubt(
    writing: &Writing<'_>,
    doubt: &Doubt,
    intent: &Intent,
    stored: Option<Stored>,
) -> Sql<Option<Stored>> {
    let known = |stored: &Stored| stored.state == DONE || stored.state == UNDONE;
    if stored.as_ref().is_some_and(known)
        || !doubt.holds(writing, intent, stored.as_ref().map(|stored| stored.owner))?
    {
        return Ok(stored);
    }
    if stored.is_none() {
        first(writing, intent)?;
    }
    writing.put(
        "UPDATE effects SET state = ?2, owner = ?3, lease_until = ?4, absent = 0, attempts = ?5, last_at = ?6,
           first_at = CASE WHEN first_at < ?7 THEN first_at ELSE ?7 END WHERE id = ?1",
        params![
            intent.effect.0,
            UNKNOWN,
            writing.owner,
            DOUBTED,
            stored.map_or(0, |stored| stored.attempts),
            doubt.at_ms,
            doubt.as_of_ms,
        ],
    )?;
    self::stored(writing.connection, intent.effect)
}

/// Whether somebody is at it right now. An engine that has the store for itself knows that all others are dead; one that shares it knows
/// only that a lease is over.
fn is_live(writing: &Writing<'_>, intent: &Intent, stored: &Stored) -> bool {
    let mine = writing.shared || stored.owner == writing.owner;
    mine && stored.lease_until_ms > writing.at(intent.at_ms)
}

/// Until when another effect of the same step may be sent that brings another version of the same key: two engines must not send them at
/// the same time, because the older one could arrive last.
fn other_version_under_way(writing: &Writing<'_>, intent: &Intent) -> Sql<Option<i64>> {
    if !writing.shared {
        return Ok(None);
    }
    let mut until_ms = None;
    for guard in intent.guards.iter() {
        let found: Option<i64> = writing.connection.query_row(
            "SELECT max(effects.lease_until) FROM guarded JOIN effects ON effects.id = guarded.effect
             WHERE guarded.scope = ?1 AND guarded.key = ?2 AND effects.id <> ?3 AND effects.flow = ?4 AND effects.step = ?5
             AND effects.state = 0 AND effects.lease_until > ?6",
            params![
                guard.scope,
                guard.key,
                intent.effect.0,
                intent.flow,
                intent.step,
                writing.at(intent.at_ms),
            ],
            |row| row.get(0),
        )?;
        until_ms = until_ms.max(found);
    }
    Ok(until_ms)
}

/// Notes the keys whose versions an effect brings, as long as it is under way.
fn guard(writing: &Writing<'_>, intent: &Intent) -> Sql<()> {
    if !writing.shared {
        return Ok(());
    }
    for guard in intent.guards.iter() {
        writing.put(
            "INSERT INTO guarded (scope, key, effect) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![guard.scope, guard.key, intent.effect.0],
        )?;
    }
    Ok(())
}

/// Writes what is known of an effect now. What took effect stays so.
pub(super) fn settle(writing: &Writing<'_>, outcome: &Outcome) -> Sql<()> {
    let at_ms = writing.at(outcome.at_ms);
    if writing.shared {
        writing.put("DELETE FROM guarded WHERE effect = ?1", [outcome.effect.0])?;
    }
    let (state, answer) = match &outcome.state {
        EffectState::Done(answer) => (DONE, Some(answer)),
        EffectState::NotApplied => (NOT_APPLIED, None),
        EffectState::Unknown => (UNKNOWN, None),
        EffectState::Absent => {
            writing.put(
                "UPDATE effects SET absent = absent + 1, last_at = ?2 WHERE id = ?1 AND state NOT IN (1, 4)",
                params![outcome.effect.0, at_ms],
            )?;
            return Ok(());
        }
    };
    let answer = answer.map(|bytes| &bytes[..]);
    if let Some(unannounced) = &outcome.unannounced {
        return unannounced_outcome(writing, outcome, unannounced, state, answer);
    }
    writing.connection.put_one(
        "UPDATE effects SET answer = CASE WHEN state IN (1, 4) THEN answer ELSE ?3 END, last_at = CASE WHEN state IN (1, 4) THEN last_at ELSE ?4 END,
           state = CASE WHEN state IN (1, 4) THEN state ELSE ?2 END WHERE id = ?1",
        params![outcome.effect.0, state, answer, at_ms],
        "an effect has an outcome and never had an intent: a defect of the engine",
    )
}

/// Notes that the effect which this step of a saga undoes is undone: it is not sent again, nor taken for done.
pub(super) fn undone(writing: &Writing<'_>, saga: SagaId, undo: &str) -> Sql<()> {
    writing.put(
        "UPDATE effects SET state = 4 WHERE id IN (SELECT effect FROM saga_steps WHERE saga = ?1 AND undo = ?2)",
        params![saga.0, undo],
    )?;
    Ok(())
}

/// The effects of a run, in the order in which they were first tried.
pub(super) fn of_run(connection: &Connection, run: RunId) -> Sql<Vec<EffectRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, run, hop, flow, step, item, state, attempts, absent, first_at, last_at, idempotency_key, request, answer
         FROM effects WHERE run = ?1 ORDER BY n",
    )?;
    statement.query_map([run.0], effect)
}

struct Stored {
    state: i64,
    owner: i64,
    lease_until_ms: i64,
    attempts: u32,
    absent: u32,
    first_at_ms: i64,
    last_at_ms: i64,
    idempotency_key: Option<String>,
    request: Bytes,
    answer: Option<Bytes>,
    /// A person has said that another request may be sent, or that another one than this was sent is known.
    renew: bool,
}

fn stored(connection: &Connection, effect: EffectId) -> Sql<Option<Stored>> {
    connection
        .prepare_cached(&format!("SELECT {STORED} FROM effects WHERE id = ?1"))?
        .query_row([effect.0], stored_from)
        .optional()
}

/// What `stored_from` reads, and where the id is behind it.
const STORED: &str = "state, owner, lease_until, attempts, absent, first_at, last_at, idempotency_key, request, answer, renew, id";
const STORED_ID: usize = 11;

fn stored_from(row: &Row<'_>) -> Sql<Stored> {
    Ok(Stored {
        state: row.get(0)?,
        owner: row.get(1)?,
        lease_until_ms: row.get(2)?,
        attempts: row.get(3)?,
        absent: row.get(4)?,
        first_at_ms: row.get(5)?,
        last_at_ms: row.get(6)?,
        idempotency_key: row.get(7)?,
        request: Bytes::from(row.get::<Vec<u8>>(8)?),
        answer: row.get::<Option<Vec<u8>>>(9)?.map(Bytes::from),
        renew: row.get(10)?,
    })
}

/// What a person's decision changes in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amended {
    /// If it surely took no effect, what is rendered next is sent, not what was stored.
    Anew,
    /// It took effect: a person has looked. This is its answer, unless the target has given one.
    Applied(Bytes),
}

/// Writes what a person has said about an effect.
pub(super) fn amend(writing: &Writing<'_>, effect: EffectId, amended: &Amended) -> Sql<()> {
    match amended {
        Amended::Anew => writing.run(
            "UPDATE effects SET renew = 1 WHERE id = ?1 AND state = 2",
            [effect.0],
        )?,
        Amended::Applied(answer) => writing.run(
            "UPDATE effects SET renew = 1, answer = CASE WHEN state = 1 THEN answer ELSE ?2 END, state = 1, last_at = ?3 WHERE id = ?1",
            params![effect.0, &answer[..], writing.now_ms],
        )?,
    };
    Ok(())
}

/// Another try, with what is rendered now: a person has let it go on, and the earlier request surely took no effect.
fn anew(writing: &Writing<'_>, intent: &Intent, stored: Stored) -> Sql<Intended> {
    writing.put(
        "UPDATE effects SET request = ?2, idempotency_key = ?3, renew = 0 WHERE id = ?1",
        params![intent.effect.0, &intent.request[..], intent.idempotency_key],
    )?;
    let renewed = Stored {
        request: intent.request.clone(),
        idempotency_key: intent.idempotency_key.clone(),
        ..stored
    };
    again(writing, intent, renewed)
}

fn first(writing: &Writing<'_>, intent: &Intent) -> Sql<Intended> {
    writing.put(
        "INSERT INTO effects (id, run, flow, step, item, state, hop, owner, lease_until, attempts, absent, first_at, last_at, idempotency_key, request)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, 1, 0, ?9, ?9, ?10, ?11)",
        params![
            intent.effect.0,
            intent.run.0,
            intent.flow,
            intent.step,
            intent.item,
            intent.hop.0,
            intent.owner,
            writing.at(intent.lease_until_ms),
            writing.at(intent.at_ms),
            intent.idempotency_key,
            &intent.request[..],
        ],
    )?;
    guard(writing, intent)?;
    Ok(Intended::Send {
        request: intent.request.clone(),
        idempotency_key: intent.idempotency_key.clone(),
        attempt: 1,
        first_at_ms: intent.at_ms,
    })
}

/// Another try, with what was stored.
fn again(writing: &Writing<'_>, intent: &Intent, stored: Stored) -> Sql<Intended> {
    let attempt = stored.attempts + 1;
    writing.put(
        "UPDATE effects SET state = 0, run = ?2, hop = ?3, owner = ?4, lease_until = ?5, attempts = ?6, absent = 0, last_at = ?7, answer = NULL
         WHERE id = ?1",
        params![
            intent.effect.0,
            intent.run.0,
            intent.hop.0,
            intent.owner,
            writing.at(intent.lease_until_ms),
            attempt,
            writing.at(intent.at_ms),
        ],
    )?;
    guard(writing, intent)?;
    Ok(Intended::Send {
        request: stored.request,
        idempotency_key: stored.idempotency_key,
        attempt,
        first_at_ms: stored.first_at_ms - writing.ahead_ms,
    })
}

fn unannounced_outcome(
    writing: &Writing<'_>,
    outcome: &Outcome,
    unannounced: &Unannounced,
    state: i64,
    answer: Option<&[u8]>,
) -> Sql<()> {
    writing.put(
        "INSERT INTO effects (id, run, flow, step, item, state, hop, owner, lease_until, attempts, absent, first_at, last_at, answer, request)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, 0, 1, 0, ?8, ?8, ?9, ?10)
         ON CONFLICT (id) DO UPDATE SET run = ?2, state = ?6, attempts = effects.attempts + 1, last_at = ?8, answer = ?9, request = ?10",
        params![
            outcome.effect.0,
            unannounced.run.0,
            unannounced.flow,
            unannounced.step,
            unannounced.item,
            state,
            writing.owner,
            writing.at(outcome.at_ms),
            answer,
            &unannounced.request[..],
        ],
    )?;
    Ok(())
}

fn effect(row: &Row<'_>) -> Sql<EffectRow> {
    Ok(EffectRow {
        effect: EffectId(row.get(0)?),
        run: RunId(row.get(1)?),
        hop: HopId(row.get(2)?),
        flow: row.get(3)?,
        step: row.get(4)?,
        item: row.get(5)?,
        standing: match row.get(6)? {
            INTENT => EffectStanding::Intent,
            DONE => EffectStanding::Done,
            NOT_APPLIED => EffectStanding::NotApplied,
            UNDONE => EffectStanding::Undone,
            _ => EffectStanding::Unknown,
        },
        attempts: row.get(7)?,
        absent: row.get(8)?,
        first_at_ms: row.get(9)?,
        last_at_ms: row.get(10)?,
        idempotency_key: row.get(11)?,
        request: Bytes::from(row.get::<Vec<u8>>(12)?),
        answer: row.get::<Option<Vec<u8>>>(13)?.map(Bytes::from),
    })
}

#[cfg(test)]
mod tests {
    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    const LEASE: i64 = 30_000;

    fn intent(sample: &Sample, request: &str, at_ms: i64) -> Intent {
        Intent {
            effect: EffectId([7; 16]),
            hop: HopId(1),
            run: RunId(1),
            flow: Arc::from("orders"),
            step: Arc::from("erp"),
            item: Arc::from(""),
            request: Bytes::copy_from_slice(request.as_bytes()),
            idempotency_key: Some(format!("key of {request}")),
            owner: sample.store.owner(),
            at_ms,
            lease_until_ms: at_ms + LEASE,
            generation: 0,
            guards: Arc::default(),
            take_over: false,
        }
    }

    async fn intend(sample: &Sample, intent: Intent) -> Intended {
        let commit = Commit {
            intents: vec![intent],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().intents.remove(0)
    }

    async fn settle(sample: &Sample, state: EffectState) {
        let outcome = Outcome {
            effect: EffectId([7; 16]),
            state,
            at_ms: START_MS + 1,
            unannounced: None,
        };
        let commit = Commit {
            outcomes: vec![outcome],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
    }

    fn send(request: &str, attempt: u32) -> Intended {
        Intended::Send {
            request: Bytes::copy_from_slice(request.as_bytes()),
            idempotency_key: Some(format!("key of {request}")),
            attempt,
            first_at_ms: START_MS,
        }
    }

    fn unknown(absent: u32, last_at_ms: i64) -> Intended {
        Intended::Unknown {
            request: Bytes::from_static(b"a"),
            idempotency_key: Some("key of a".to_owned()),
            first_at_ms: START_MS,
            last_at_ms,
            absent,
            restored: false,
        }
    }

    /// A sample with one intent for `a`.
    async fn begun() -> Sample {
        let sample = Sample::new();
        let first = intend(&sample, intent(&sample, "a", START_MS)).await;
        assert_eq!(first, send("a", 1));
        sample
    }

    #[tokio::test]
    async fn what_is_done_is_not_sent_again() {
        let sample = begun().await;
        settle(&sample, EffectState::Done(Bytes::from_static(b"201"))).await;
        settle(&sample, EffectState::NotApplied).await;
        settle(&sample, EffectState::Absent).await;
        for take_over in [false, true] {
            let mut again = intent(&sample, "a", START_MS + 2 * LEASE);
            again.take_over = take_over;
            let verdict = intend(&sample, again).await;
            assert_eq!(verdict, Intended::Done(Bytes::from_static(b"201")));
        }
        let other = intend(&sample, intent(&sample, "b", START_MS)).await;
        assert_eq!(other, Intended::Differs(Bytes::from_static(b"a")));
    }

    #[tokio::test]
    async fn what_surely_had_no_effect_is_sent_again_as_it_was_stored() {
        let sample = begun().await;
        settle(&sample, EffectState::NotApplied).await;
        let again = intend(&sample, intent(&sample, "b", START_MS + 1)).await;
        assert_eq!(again, send("a", 2));
    }

    #[tokio::test]
    async fn an_effect_under_way_is_left_alone() {
        let sample = begun().await;
        for take_over in [false, true] {
            let mut again = intent(&sample, "a", START_MS + LEASE - 1);
            again.take_over = take_over;
            let verdict = intend(&sample, again).await;
            assert_eq!(verdict, Intended::Busy(START_MS + LEASE));
        }
    }

    #[tokio::test]
    async fn an_effect_whose_lease_is_over_is_unknown_until_somebody_takes_it_over() {
        let sample = begun().await;
        let late = START_MS + LEASE;
        for _ in 0..2 {
            let verdict = intend(&sample, intent(&sample, "a", late)).await;
            assert_eq!(verdict, unknown(0, START_MS));
        }
        let mut again = intent(&sample, "a", late);
        again.take_over = true;
        assert_eq!(intend(&sample, again).await, send("a", 2));
        let verdict = intend(&sample, intent(&sample, "a", late)).await;
        assert_eq!(verdict, Intended::Busy(late + LEASE));
    }

    #[tokio::test]
    async fn an_effect_of_a_dead_engine_is_unknown_at_once() {
        let mut sample = begun().await;
        sample.reopen().await;
        let verdict = intend(&sample, intent(&sample, "a", START_MS + 1)).await;
        assert_eq!(verdict, unknown(0, START_MS));
        let mut again = intent(&sample, "b", START_MS + 1);
        again.take_over = true;
        let verdict = intend(&sample, again).await;
        assert_eq!(verdict, Intended::Differs(Bytes::from_static(b"a")));
    }

    #[tokio::test]
    async fn probes_are_counted_until_it_is_sent_again() {
        let sample = begun().await;
        settle(&sample, EffectState::Unknown).await;
        settle(&sample, EffectState::Absent).await;
        settle(&sample, EffectState::Absent).await;
        let verdict = intend(&sample, intent(&sample, "a", START_MS + 2)).await;
        assert_eq!(verdict, unknown(2, START_MS + 1));
        let mut again = intent(&sample, "a", START_MS + 2);
        again.take_over = true;
        assert_eq!(intend(&sample, again).await, send("a", 2));
        settle(&sample, EffectState::Unknown).await;
        let verdict = intend(&sample, intent(&sample, "a", START_MS + 3)).await;
        assert_eq!(verdict, unknown(0, START_MS + 1));
    }

    #[tokio::test]
    async fn an_effect_without_intent_is_kept_with_its_answer() {
        let sample = Sample::new();
        let order = sample.order("A", "1");
        sample.accept(vec![order.clone()]).await;
        for answer in ["404", "200"] {
            let outcome = Outcome {
                effect: EffectId([9; 16]),
                state: EffectState::Done(Bytes::copy_from_slice(answer.as_bytes())),
                at_ms: START_MS,
                unannounced: Some(Unannounced {
                    run: order.run,
                    flow: order.flow.clone(),
                    step: Arc::from("customer"),
                    item: Arc::from(""),
                    request: Bytes::from_static(b"get"),
                }),
            };
            let mut end = waits(&order, first_hop(&order), START_MS);
            end.fence = if answer == "404" { 1 } else { 2 };
            end.effect = Some(outcome);
            assert_eq!(sample.end(vec![end]).await.ends, [true]);
        }
        let found = sample.store.run("1").await.unwrap().unwrap();
        assert_eq!(found.effects.len(), 1);
        assert_eq!(found.effects[0].attempts, 2);
        assert_eq!(found.effects[0].standing, EffectStanding::Done);
        assert_eq!(found.effects[0].answer.as_deref(), Some(b"200".as_slice()));
    }

    #[tokio::test]
    async fn an_effect_is_not_tried_any_more_once_a_newer_version_was_seen() {
        let sample = Sample::new();
        let guard = |version: &str, by: u128| crate::message::Guard {
            scope: Arc::from("newest:stock/latest"),
            key: "A-1".to_owned(),
            version: version.to_owned(),
            by: crate::message::MessageId(by),
        };
        let see = async |guard| {
            let sighting = super::super::commit::Sighting {
                guard,
                keep_ms: 1 << 40,
            };
            let commit = Commit {
                sightings: vec![sighting],
                ..Commit::default()
            };
            sample.store.commit(commit).await.unwrap();
        };
        let old = || {
            let mut old = intent(&sample, "a", START_MS);
            old.guards = Arc::new(vec![guard("5", 1)]);
            old
        };
        see(guard("5", 1)).await;
        assert_eq!(intend(&sample, old()).await, send("a", 1));
        settle(&sample, EffectState::NotApplied).await;
        see(guard("6", 2)).await;
        for take_over in [false, true] {
            let old = Intent { take_over, ..old() };
            let stale = Intended::Stale("6".to_owned());
            assert_eq!(intend(&sample, old).await, stale);
        }
        settle(&sample, EffectState::Done(Bytes::from_static(b"201"))).await;
        let done = Intended::Done(Bytes::from_static(b"201"));
        assert_eq!(intend(&sample, old()).await, done);
    }
}
