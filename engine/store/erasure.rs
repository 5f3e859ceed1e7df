//! Erasing: bodies and texts of messages that have ended go, and what remains says what happened without them. Claims, versions and numbers stay,
//! so that a repeat of an erased message is known as one.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::failure::Failure;

use super::commit::RunId;
use super::database::{Connection, Sql, params};
use super::journeys::{keys_from, keys_text, lines_from};
use super::personal::{self, PLAIN, Veil};
use super::reader::Reader;
use super::writer::Writing;

/// What stands where a text was erased.
pub const ERASED: &str = "[erased]";
/// The same as a request or an answer, which are JSON.
const ERASED_JSON: &[u8] = b"\"[erased]\"";

/// How many accepted messages one commit erases.
const ROOTS_MAX: usize = 100;
/// How many runs that cannot be erased are named; all are counted.
const NAMED_MAX: usize = 50;

/// Erase what messages with a business key hold.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// The key's name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub why: String,
    /// The steps that wait for messages of other flows: a message for which one may come yet is left.
    pub awaits: Vec<Awaits>,
}

/// A step that waits for messages of another flow.
#[derive(Clone, Debug)]
pub struct Awaits {
    /// The flow that waits.
    pub flow: Arc<str>,
    /// Its step.
    pub step: Arc<str>,
    /// The flow whose messages it takes.
    pub awaited: Arc<str>,
    /// The key that both have.
    pub key: Arc<str>,
    /// How much older than the wait a message may be, in milliseconds.
    pub within_ms: i64,
}

/// What was erased, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Erased {
    /// How many runs.
    pub runs: u64,
    /// How many of their bodies, requests, answers and edited bodies.
    pub bodies: u64,
    /// How many of their exceptions lose their text.
    pub exceptions: u64,
    /// How many values of personal business keys: the runs are not found by them any more.
    pub keys: u64,
    /// How many runs had been erased before.
    pub before: u64,
    /// How many are left as they are, because a run of the same message has not ended.
    pub left: u64,
    /// The first runs that have not ended, and why.
    pub waits_for: Vec<Unended>,
    /// There are more messages than one commit takes.
    pub more: bool,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unended {
    /// The run.
    pub run: i64,
    /// Its flow.
    pub flow: String,
    /// Why it cannot be erased.
    pub why: String,
}

impl Erasure {
    /// What the audit log says instead of the value: who knows it can prove that it was erased.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(format!("{}={}", self.name, self.value));
        let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}=sha256:{hash}", self.name)
    }
}

impl Erased {
    /// Adds what another commit has done.
    pub fn add(&mut self, other: Erased) {
        self.runs += other.runs;
        self.bodies += other.bodies;
        self.exceptions += other.exceptions;
        self.keys += other.keys;
        // Of these each commit sees all.
        self.before = self.before.max(other.before);
        self.left = other.left;
        self.waits_for = other.waits_for;
        self.more = other.more;
    }
}

impl Reader {
    /// What would be erased.
    pub async fn erasable(&self, erasure: Erasure, now_ms: i64) -> Result<Erased, Failure> {
        self.read(move |connection| {
            let veil = personal::veil(connection)?;
            let chosen = choose(connection, &erasure, now_ms)?;
            let mut erased = chosen.told;
            for run in chosen.runs {
                let personal = personal_keys(connection, &veil, &run)?;
                count(connection, &run, &personal, &mut erased)?;
            }
            Ok(erased)
        })
        .await
    }
}

/// A run that is to be erased.
struct Run {
    id: RunId,
    flow: String,
    keys: String,
}

/// What an erasure is about.
#[derive(Default)]
struct Chosen {
    runs: Vec<Run>,
    told: Erased,
}

/// A run of one of the messages that an erasure is about.
struct Found {
    root: Vec<u8>,
    run: Run,
    before: bool,
    held: i64,
    received_ms: i64,
}

/// The runs with the key and those of the same accepted messages. A message is erased with all its runs, or not yet.
fn choose(connection: &Connection, erasure: &Erasure, now_ms: i64) -> Sql<Chosen> {
    let mut statement = connection.prepare_cached(
        "SELECT runs.root, runs.id, runs.flow, runs.keys, runs.erased_at IS NOT NULL,
           CAST(CASE WHEN EXISTS (SELECT 1 FROM exceptions WHERE exceptions.run = runs.id AND exceptions.state < 3) THEN 2
                WHEN runs.ended_at IS NULL THEN 1
                WHEN EXISTS (SELECT 1 FROM hops WHERE hops.run = runs.id) THEN 3
                WHEN EXISTS (SELECT 1 FROM waits JOIN hops ON hops.id = waits.hop WHERE waits.answer = runs.id) THEN 4
                ELSE 0 END AS BIGINT), runs.received_at
         FROM runs WHERE runs.root IN (
           SELECT root FROM runs WHERE id IN (SELECT run FROM keys WHERE value = ?1 AND name = ?2))
         ORDER BY runs.root, runs.id",
    )?;
    let found = statement.query_map(params![erasure.value, erasure.name], |row| {
        Ok(Found {
            root: row.get(0)?,
            run: Run {
                id: RunId(row.get(1)?),
                flow: row.get(2)?,
                keys: row.get(3)?,
            },
            before: row.get(4)?,
            held: row.get(5)?,
            received_ms: row.get(6)?,
        })
    })?;
    let mut chosen = Chosen::default();
    let mut roots = 0;
    let mut found = found.into_iter().peekable();
    while let Some(first) = found.next() {
        let root = first.root.clone();
        let mut message = vec![first];
        while let Some(next) = found.next_if(|next| next.root == root) {
            message.push(next);
        }
        let runs = message_of(connection, erasure, now_ms, message, &mut chosen.told)?;
        roots += usize::from(!runs.is_empty());
        match roots > ROOTS_MAX {
            true => chosen.told.more = true,
            false => chosen.runs.extend(runs),
        }
    }
    Ok(chosen)
}

/// Of one accepted message the runs that are to be erased: all that are not yet, or none.
fn message_of(
    connection: &Connection,
    erasure: &Erasure,
    now_ms: i64,
    message: Vec<Found>,
    told: &mut Erased,
) -> Sql<Vec<Run>> {
    let (mut runs, mut held) = (Vec::new(), 0);
    for found in message {
        let why = match found.held {
            1 => Some("it is in flight"),
            2 => Some("it waits for a person: settle its exception"),
            3 => Some("it has handed a message to a flow that has not taken it yet"),
            4 => Some("another message waits with its answer"),
            _ if found.before => None,
            _ => may_answer(connection, erasure, now_ms, &found)?
                .then_some("a message that waits for it may come yet (`await`)"),
        };
        match why {
            None if found.before => told.before += 1,
            None => runs.push(found.run),
            Some(why) => {
                held += 1;
                if told.waits_for.len() < NAMED_MAX {
                    told.waits_for.push(Unended {
                        run: found.run.id.0,
                        flow: found.run.flow,
                        why: why.to_owned(),
                    });
                }
            }
        }
    }
    if held > 0 {
        told.left += held + runs.len() as u64;
        runs.clear();
    }
    Ok(runs)
}

/// Whether some message may take this one as its answer yet: it is taken by none, and is young enough for a wait that begins now. The message
/// that will wait may still be on its way to its step, or not be here at all.
fn may_answer(connection: &Connection, erasure: &Erasure, now_ms: i64, found: &Found) -> Sql<bool> {
    let keys = keys_from(&found.run.keys);
    for awaits in &erasure.awaits {
        let young = found.received_ms.saturating_add(awaits.within_ms) >= now_ms;
        if !young || *awaits.awaited != *found.run.flow || !keys.contains_key(&*awaits.key) {
            continue;
        }
        let taken: bool = connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM waits WHERE answer = ?1 AND flow = ?2 AND step = ?3)",
            )?
            .query_row(params![found.run.id.0, awaits.flow, awaits.step], |row| {
                row.get(0)
            })?;
        if !taken {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Counts what a run holds.
fn count(
    connection: &Connection,
    run: &Run,
    personal: &BTreeSet<String>,
    erased: &mut Erased,
) -> Sql<()> {
    let many = |sql: &str| -> Sql<u64> {
        let many: i64 = connection
            .prepare_cached(sql)?
            .query_row([run.id.0], |row| row.get(0))?;
        Ok(u64::try_from(many).unwrap_or(0))
    };
    erased.runs += 1;
    erased.bodies += many("SELECT count(*) FROM bodies WHERE run = ?1")?;
    erased.bodies += many("SELECT count(*) + count(answer) FROM effects WHERE run = ?1")?;
    erased.bodies +=
        many("SELECT count(body) + count(request) + count(answer) FROM exceptions WHERE run = ?1")?;
    erased.bodies += many(
        "SELECT count(body) FROM history WHERE exception IN (SELECT id FROM exceptions WHERE run = ?1)",
    )?;
    erased.exceptions += many("SELECT count(*) FROM exceptions WHERE run = ?1")?;
    erased.keys += personal.len() as u64;
    Ok(())
}

/// The keys of a run that are personal by their name, or hold a value that is.
fn personal_keys(connection: &Connection, veil: &Veil, run: &Run) -> Sql<BTreeSet<String>> {
    let mask = personal::mask_of(connection, veil, &run.flow, run.id)?;
    let keys = keys_from(&run.keys);
    let personal = keys.iter().filter(|(name, value)| {
        let (name, value) = (&***name, value.as_str());
        let held = mask
            .as_ref()
            .is_some_and(|mask| mask.key(name, value) != value);
        value != ERASED && (held || veil.is_key(&run.flow, name))
    });
    Ok(personal.map(|(name, _)| name.to_string()).collect())
}

/// Erases, and says what.
pub(super) fn erase(writing: &Writing<'_>, erasure: &Erasure) -> Sql<Erased> {
    let veil = personal::veil(writing.connection)?;
    let chosen = choose(writing.connection, erasure, writing.now_ms)?;
    let mut erased = chosen.told;
    if !chosen.runs.is_empty() {
        personal::wipe(writing.connection)?;
    }
    // Before anything goes: what is personal of one run is known from the others of its message.
    let known = chosen.runs.iter();
    let known = known.map(|run| personal_keys(writing.connection, &veil, run));
    let known = known.collect::<Sql<Vec<_>>>()?;
    for (run, personal) in chosen.runs.iter().zip(&known) {
        count(writing.connection, run, personal, &mut erased)?;
        keys(writing, personal, run)?;
        texts(writing, run.id)?;
        bodies(writing, run.id)?;
        writing.put(
            "UPDATE runs SET erased_at = ?2 WHERE id = ?1",
            [run.id.0, writing.now_ms],
        )?;
    }
    if veil.has_key(&erasure.name) {
        writing.put(
            "UPDATE replays SET filter = replace(filter, ?1, ?2)",
            params![erasure.value, ERASED],
        )?;
    }
    Ok(erased)
}

/// The run is not found any more by what is personal.
fn keys(writing: &Writing<'_>, personal: &BTreeSet<String>, run: &Run) -> Sql<()> {
    if personal.is_empty() {
        return Ok(());
    }
    let mut keys = keys_from(&run.keys);
    for (name, value) in keys
        .iter_mut()
        .filter(|(name, _)| personal.contains(&***name))
    {
        writing.put(
            "DELETE FROM keys WHERE value = ?1 AND name = ?2 AND run = ?3",
            params![&**value, name, run.id.0],
        )?;
        ERASED.clone_into(value);
    }
    writing.put(
        "UPDATE runs SET keys = ?2 WHERE id = ?1",
        params![run.id.0, keys_text(&keys)],
    )
}

/// The bytes go. Of an effect the row stays: it says that it was done.
fn bodies(writing: &Writing<'_>, run: RunId) -> Sql<()> {
    for statement in [
        "DELETE FROM bodies WHERE run = ?1",
        "DELETE FROM shadow_examples WHERE run = ?1",
        "UPDATE exceptions SET envelope = NULL, body = NULL, request = NULL, answer = NULL WHERE run = ?1",
        "UPDATE history SET body = NULL WHERE run = ?1 OR exception IN (SELECT id FROM exceptions WHERE run = ?1)",
        "UPDATE sagas SET body = NULL, message = NULL, detail = NULL, request = NULL, answer = NULL WHERE run = ?1",
        "UPDATE saga_steps SET body = NULL WHERE run = ?1",
        "UPDATE effects SET answer = NULL, idempotency_key = NULL WHERE run = ?1",
    ] {
        writing.put(statement, [run.0])?;
    }
    for (statement, instead) in [
        (
            "UPDATE effects SET request = ?2 WHERE run = ?1",
            ERASED_JSON,
        ),
        ("UPDATE sagas SET envelope = ?2 WHERE run = ?1", b""),
        ("UPDATE saga_steps SET envelope = ?2 WHERE run = ?1", b""),
    ] {
        writing.put(statement, params![run.0, instead])?;
    }
    Ok(())
}

/// What failures, people and notices have said of it.
fn texts(writing: &Writing<'_>, run: RunId) -> Sql<()> {
    for statement in [
        "UPDATE exceptions SET message = ?2, detail = NULL WHERE run = ?1",
        "UPDATE history SET why = ?2 WHERE why IS NOT NULL AND (run = ?1 OR exception IN (SELECT id FROM exceptions WHERE run = ?1))",
        "UPDATE notices SET message = ?2 WHERE exception IN (SELECT id FROM exceptions WHERE run = ?1)",
        "UPDATE waits SET value = ?2 WHERE answer = ?1",
        "UPDATE waits SET value = ?2 WHERE answer IS NOT NULL AND message = (SELECT message FROM runs WHERE id = ?1)",
    ] {
        writing.put(statement, params![run.0, ERASED])?;
    }
    let mut statement = writing
        .connection
        .prepare_cached("SELECT hop, fence, lines FROM trail WHERE run = ?1")?;
    let rows: Vec<(i64, i64, String)> =
        statement.query_map([run.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for (hop, fence, lines) in rows {
        let lines: Vec<_> = lines_from(&lines)
            .map(|line| {
                let plain = PLAIN.contains(&line.what.as_str());
                let detail = line.detail.map(|detail| match plain {
                    true => detail,
                    false => ERASED.to_owned(),
                });
                (line.at_ms, line.step, line.what, detail, line.hash)
            })
            .collect();
        let lines = serde_json::to_string(&lines).unwrap_or_else(|_| "[]".to_owned());
        writing.put(
            "UPDATE trail SET lines = ?4 WHERE run = ?1 AND hop = ?2 AND fence = ?3",
            params![run.0, hop, fence, lines],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::commit::{Accepted, Commit, Leaf, Trail};
    use super::super::decisions::{Decision, Deed};
    use super::super::exceptions::ExceptionId;
    use super::super::revisions::{Files, Kept, RevisionChange};
    use super::super::sample::*;
    use super::*;
    use crate::message::Names;
    use crate::personal::{Path, Rules};

    const BODY: &str = r#"{"email":"anna@example.org","n":1}"#;

    /// A store of each kind, on which the flow `orders` says what is personal.
    async fn samples() -> Vec<Sample> {
        let samples = vec![Sample::in_a_file(), Sample::on_a_server()];
        for sample in &samples {
            let rules = Rules {
                paths: BTreeSet::from([Path::parse("email").unwrap()]),
                keys: BTreeSet::from(["customer".to_owned()]),
            };
            let kept = Kept {
                revision: Arc::from("r1"),
                files: Files::new(),
                flows: Default::default(),
                personal: [(Arc::from("orders"), rules)].into(),
            };
            let commit = Commit {
                revisions: vec![RevisionChange::Keep(Arc::new(kept))],
                ..Commit::default()
            };
            sample.store.commit(commit).await.unwrap();
        }
        samples
    }

    fn wish() -> Erasure {
        Erasure {
            name: "customer".to_owned(),
            value: "anna@example.org".to_owned(),
            who: "bert".to_owned(),
            why: "request 17".to_owned(),
            awaits: Vec::new(),
        }
    }

    async fn erase(sample: &Sample) -> Erased {
        let commit = Commit {
            erase: Some(wish()),
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().erased.unwrap()
    }

    fn order(sample: &Sample, key: &str) -> super::super::commit::NewRun {
        let mut order = sample.order(key, BODY);
        let customer = (Arc::from("customer"), "anna@example.org".to_owned());
        let mut keys = Names::clone(&order.keys);
        keys.extend([customer]);
        order.keys = Arc::new(keys);
        order
    }

    #[tokio::test]
    async fn what_has_ended_is_erased_and_what_has_not_is_named() {
        for mut sample in samples().await {
            let orders = ["A", "B", "C"].map(|key| order(&sample, key));
            sample.accept(orders.to_vec()).await;
            let mut done = over(
                &orders[0],
                first_hop(&orders[0]),
                vec![],
                vec![Leaf::Delivered],
            );
            done.trail = ["done", "waits"]
                .map(|what| Trail {
                    at_ms: START_MS,
                    step: Arc::from("erp"),
                    what,
                    detail: (what == "waits").then(|| "anna@example.org is asleep".to_owned()),
                    hash: None,
                })
                .to_vec();
            let mut broken = exception(&orders[1]);
            broken.message = "no customer `anna@example.org`".to_owned();
            broken.request = Some(Bytes::from_static(BODY.as_bytes()));
            let fails = over(
                &orders[1],
                first_hop(&orders[1]),
                vec![],
                vec![Leaf::Exception(broken)],
            );
            sample.end(vec![done, fails]).await;
            // Already when it is written down, nothing personal is told of it.
            let told = sample
                .store
                .exception(ExceptionId(1))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(told.row.message, "no customer `[personal]`");
            let notices = sample.store.notices(0, 10).await.unwrap();
            assert_eq!(notices.len(), 1);
            let keys = notices[0].keys.clone().unwrap();
            assert!(
                keys.contains("[personal]") && keys.contains("\"B\"") && !keys.contains("anna"),
                "{keys}"
            );
            let would = sample.store.erasable(wish(), START_MS).await.unwrap();
            assert_eq!(
                (would.runs, would.left, would.bodies, would.keys),
                (1, 2, 1, 1)
            );
            assert_eq!(erase(&sample).await, would);
            let why: Vec<_> = would
                .waits_for
                .iter()
                .map(|one| (one.run, &*one.why))
                .collect();
            assert_eq!(
                why,
                [
                    (
                        orders[1].run.0,
                        "it waits for a person: settle its exception"
                    ),
                    (orders[2].run.0, "it is in flight")
                ]
            );
            let run = sample
                .store
                .run(&orders[0].run.0.to_string())
                .await
                .unwrap()
                .unwrap();
            assert_eq!((run.body, run.row.erased_at_ms), (None, Some(START_MS)));
            assert_eq!(
                run.row.keys.get("customer").map(String::as_str),
                Some(ERASED)
            );
            assert_eq!(run.row.keys.get("order").map(String::as_str), Some("A"));
            let details: Vec<_> = run
                .trail
                .iter()
                .filter_map(|line| line.detail.as_deref())
                .collect();
            assert!(details.contains(&ERASED), "{details:?}");
            // A repeat is known, and what it finds is the run that was erased.
            let again = order(&sample, "A");
            assert_eq!(
                sample.accept(vec![again]).await,
                [Accepted::Duplicate(orders[0].run)]
            );
            assert_eq!(sample.store.journey("order=A").await.unwrap().len(), 1);
            assert_eq!(
                sample
                    .store
                    .journey("anna@example.org")
                    .await
                    .unwrap()
                    .len(),
                2
            );
            let decision = Decision {
                exception: ExceptionId(1),
                who: Arc::from("bert"),
                why: Some("anna@example.org has called".to_owned()),
                version: None,
                deed: Deed::Discard,
            };
            let commit = Commit {
                decisions: vec![decision],
                ..Commit::default()
            };
            sample.store.commit(commit).await.unwrap();
            let erased = erase(&sample).await;
            assert_eq!((erased.runs, erased.left, erased.before), (1, 1, 0));
            let told = sample
                .store
                .exception(ExceptionId(1))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (&*told.row.message, told.request, told.body),
                (ERASED, None, None)
            );
            assert_eq!(told.history.last().unwrap().why.as_deref(), Some(ERASED));
            sample.books().await;
            let audit = sample.store.audit(Default::default()).await.unwrap();
            let last = audit
                .iter()
                .find(|row| row.action == "personal.erase")
                .unwrap();
            assert!(last.target.starts_with("customer=sha256:") && !last.target.contains("anna"));
            let open = over(
                &orders[2],
                first_hop(&orders[2]),
                vec![],
                vec![Leaf::Delivered],
            );
            sample.end(vec![open]).await;
            assert_eq!(erase(&sample).await.runs, 1);
            if sample.place.file().is_some() {
                sample.reopen().await;
                sample.store.shutdown().await;
                let bytes = std::fs::read(sample.path()).unwrap();
                // The reason that was typed stays in the audit log.
                let told = bytes
                    .windows(16)
                    .filter(|bytes| *bytes == b"anna@example.org");
                assert_eq!(told.count(), 1);
            }
        }
    }
    #[tokio::test]
    async fn an_answer_that_came_early_is_left_until_nobody_can_wait_for_it() {
        for sample in samples().await {
            let early = order(&sample, "A");
            sample.accept(vec![early.clone()]).await;
            let done = over(&early, first_hop(&early), vec![], vec![Leaf::Delivered]);
            sample.end(vec![done]).await;
            let awaits = |awaited: &str, key: &str| Awaits {
                flow: Arc::from("confirmations"),
                step: Arc::from("ordered"),
                awaited: Arc::from(awaited),
                key: Arc::from(key),
                within_ms: 1_000,
            };
            let told = async |awaits: Awaits, now_ms: i64| {
                let awaits = vec![awaits];
                let erasure = Erasure { awaits, ..wish() };
                sample.store.erasable(erasure, now_ms).await.unwrap()
            };
            let held = told(awaits("orders", "order"), START_MS + 1_000).await;
            assert_eq!((held.runs, held.left), (0, 1));
            assert!(held.waits_for[0].why.contains("await"), "{held:?}");
            let late = told(awaits("orders", "order"), START_MS + 1_001).await;
            assert_eq!((late.runs, late.left), (1, 0));
            for other in [awaits("invoices", "order"), awaits("orders", "shipment")] {
                assert_eq!(told(other, START_MS).await.runs, 1);
            }
        }
    }

    #[tokio::test]
    async fn a_key_of_another_name_that_holds_a_personal_value_is_erased_too() {
        for sample in samples().await {
            let mut renamed = order(&sample, "A");
            let mut keys = Names::clone(&renamed.keys);
            keys.extend([(Arc::from("buyer"), "ANNA@example.org".to_owned())]);
            renamed.keys = Arc::new(keys);
            sample.accept(vec![renamed.clone()]).await;
            let done = over(&renamed, first_hop(&renamed), vec![], vec![Leaf::Delivered]);
            sample.end(vec![done]).await;
            let erased = erase(&sample).await;
            assert_eq!((erased.runs, erased.keys), (1, 2));
            let found = sample.store.journey("ANNA@example.org").await.unwrap();
            assert_eq!(found.len(), 0);
            let run = sample.store.run(&renamed.run.0.to_string()).await.unwrap();
            let keys = run.unwrap().row.keys;
            assert_eq!(keys.get("buyer").map(String::as_str), Some(ERASED));
            assert_eq!(keys.get("order").map(String::as_str), Some("A"));
        }
    }
}
