//! Claims: which run had a key first. A claim lives as long as its run, and as long after it as it says; nothing else ends it.

use crate::message::MessageId;

use super::commit::{Changed, Claim, RunId, Seen, Sighting};
use super::database::{Give, Optional, Sql, Value, params};
use super::versions;
use super::writer::Writing;

/// What the claims of a new message say.
pub(super) enum Standing {
    /// All of them are its own now.
    Free,
    /// This run had it before, with the same content.
    Repeat(RunId),
    /// This run had the key, with other content.
    Differs(First),
    /// This run had the key, with other content, which the sender is told.
    Refused(RunId),
}

/// The message that had a key first.
pub(super) struct First {
    pub(super) run: RunId,
    pub(super) key: String,
    pub(super) message: MessageId,
    pub(super) received_at_ms: i64,
}

/// A claim that another run holds.
struct Held<'a> {
    claim: &'a Claim,
    first: First,
    same: bool,
}

/// Takes all claims for the run, or none.
///
/// Where a claim is taken, delivery ids among the others are still remembered: a second delivery under a new id is known by that id
/// from then on. A business key is not: one wrong delivery id must not make an order that never came count as known.
///
/// With a `version` a claim that changes by it (`Changed::Newest`) is judged by the versions that were seen.
pub(super) fn take(
    writing: &mut Writing<'_>,
    run: RunId,
    claims: &[Claim],
    version: Option<&Sighting>,
) -> Sql<Standing> {
    let were_free = match writing.together.claimed(run) {
        Some(free) => free,
        None => {
            let all: Vec<_> = claims.iter().map(|claim| (run, claim)).collect();
            insert(writing, &all)?
        }
    };
    let taken = claims.iter().zip(were_free).filter(|(_, free)| !free);
    let taken: Vec<_> = taken.map(|(claim, _)| claim).collect();
    if taken.is_empty() {
        return free(writing, version);
    }
    let mut held = Vec::new();
    for claim in taken {
        match live(writing, claim, &claim.key)? {
            Some((first, hash)) if first.run != run => {
                let same = hash == claim.hash || hash == ZERO || claim.hash == ZERO;
                held.push(Held { claim, first, same });
            }
            Some(_) => {}
            None => replace(writing, run, claim)?,
        }
    }
    let Some(decider) = held.iter().position(|held| held.same) else {
        return differs(writing, run, claims, version, held);
    };
    let first = held[decider].first.run;
    point(writing, run, first, claims)?;
    Ok(Standing::Repeat(first))
}

/// Nobody else has the keys: the version is the first that counts.
fn free(writing: &Writing<'_>, version: Option<&Sighting>) -> Sql<Standing> {
    if let Some(version) = version {
        versions::set(writing, version)?;
    }
    Ok(Standing::Free)
}

/// Whether the message that the claim's hash names is the first one with the key; then the claim is its own from now on.
pub(super) fn first(writing: &Writing<'_>, run: RunId, claim: &Claim) -> Sql<bool> {
    if insert(writing, &[(run, claim)])? == [true] {
        return Ok(true);
    }
    match live(writing, claim, &claim.key)? {
        Some((first, hash)) => Ok(first.run == run && hash == claim.hash),
        None => {
            replace(writing, run, claim)?;
            Ok(true)
        }
    }
}

/// No claim is held by the same content: either none is held at all any more, or the content has changed.
fn differs(
    writing: &Writing<'_>,
    run: RunId,
    claims: &[Claim],
    version: Option<&Sighting>,
    mut held: Vec<Held<'_>>,
) -> Sql<Standing> {
    if held.is_empty() {
        return free(writing, version);
    }
    let Held { claim, first, .. } = held.swap_remove(0);
    if claim.changed == Changed::Refuse {
        point(writing, run, first.run, claims)?;
        return Ok(Standing::Refused(first.run));
    }
    if claim.changed == Changed::Ignore {
        point(writing, run, first.run, claims)?;
        return Ok(Standing::Repeat(first.run));
    }
    if claim.changed == Changed::Newest {
        match is_newer(writing, version)? {
            Some(true) => {
                replace(writing, run, claim)?;
                return Ok(Standing::Free);
            }
            Some(false) => {
                point(writing, run, first.run, claims)?;
                return Ok(Standing::Repeat(first.run));
            }
            None => {}
        }
    }
    note(writing, run, claims, claim, first)
}

/// Whether changed content is newer than what was seen; `None` if nobody but a person can say.
fn is_newer(writing: &Writing<'_>, version: Option<&Sighting>) -> Sql<Option<bool>> {
    let Some(version) = version else {
        return Ok(None);
    };
    Ok(match versions::see(writing, version)? {
        Seen::Newest => Some(true),
        Seen::Stale(_) => Some(false),
        Seen::Repeat(_) | Seen::Unlike(_) => None,
    })
}

/// Changed content is remembered by its own key, so that its repeats do not become exceptions again and again.
fn note(
    writing: &Writing<'_>,
    run: RunId,
    claims: &[Claim],
    claim: &Claim,
    first: First,
) -> Sql<Standing> {
    let content = with_content(claim);
    if let Some((known, _)) = live(writing, claim, &content)? {
        point(writing, run, known.run, claims)?;
        return Ok(Standing::Repeat(known.run));
    }
    point(writing, run, run, claims)?;
    writing.put(
        INSERT,
        params![claim.scope, content, run.0, claim.hash, claim.keep_ms],
    )?;
    Ok(Standing::Differs(first))
}

const ZERO: [u8; 16] = [0; 16];

/// The key under which changed content is known, so that its repeats do not become exceptions again and again.
fn with_content(claim: &Claim) -> String {
    let mut key = format!("{}\u{0}", claim.key);
    for byte in claim.hash {
        key.push_str(&format!("{byte:02x}"));
    }
    key
}

fn is_delivery(claim: &Claim) -> bool {
    claim.scope.starts_with("delivery:")
}

/// Of the claims that were inserted for `run`: delivery ids point to `owner` from now on, all else is taken back.
fn point(writing: &Writing<'_>, run: RunId, owner: RunId, claims: &[Claim]) -> Sql<()> {
    for claim in claims {
        if is_delivery(claim) {
            if owner != run {
                writing.put(
                    "UPDATE claims SET run = ?1 WHERE scope = ?2 AND key = ?3 AND run = ?4",
                    params![owner.0, claim.scope, claim.key, run.0],
                )?;
            }
        } else {
            writing.put(
                "DELETE FROM claims WHERE scope = ?1 AND key = ?2 AND run = ?3",
                params![claim.scope, claim.key, run.0],
            )?;
        }
    }
    Ok(())
}

const INSERT: &str = "INSERT INTO claims (scope, key, run, hash, keep_ms) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";

/// Claims for each run what is free; says of each claim whether it was.
pub(super) fn insert(writing: &Writing<'_>, claims: &[(RunId, &Claim)]) -> Sql<Vec<bool>> {
    let each = claims.iter().map(|(run, claim)| {
        [
            claim.scope.give(),
            claim.key.give(),
            Value::Integer(run.0),
            claim.hash.give(),
            claim.keep_ms.give(),
        ]
    });
    let each: Vec<_> = each.collect();
    let rows = writing.connection.execute_each(INSERT, &each)?;
    Ok(rows.into_iter().map(|rows| rows == 1).collect())
}

/// The claim is the run's, whoever held it. It may be gone meanwhile: who stood before this message has given it back.
fn replace(writing: &Writing<'_>, run: RunId, claim: &Claim) -> Sql<()> {
    writing.put(
        "INSERT INTO claims (scope, key, run, hash, keep_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (scope, key) DO UPDATE SET run = ?3, hash = ?4, keep_ms = ?5",
        params![claim.scope, claim.key, run.0, claim.hash, claim.keep_ms],
    )?;
    Ok(())
}

/// Who holds the claim, if its time is not over; a claim inserted a moment ago, whose run has no row yet, is held by nobody.
fn live(writing: &Writing<'_>, claim: &Claim, key: &str) -> Sql<Option<(First, [u8; 16])>> {
    let mut statement = writing.connection.prepare_cached(
        "SELECT runs.id, runs.message, runs.received_at, claims.hash FROM claims JOIN runs ON runs.id = claims.run
         WHERE claims.scope = ?1 AND claims.key = ?2 AND (runs.ended_at IS NULL OR runs.ended_at + claims.keep_ms > ?3)",
    )?;
    statement
        .query_row(params![claim.scope, key, writing.now_ms], |row| {
            let first = First {
                run: RunId(row.get(0)?),
                key: claim.key.clone(),
                message: MessageId::from_bytes(row.get(1)?),
                received_at_ms: row.get(2)?,
            };
            Ok((first, row.get(3)?))
        })
        .optional()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::{Accepted, Chain, Commit, Leaf, NewRun, Sighting};
    use super::super::runs::RunFilter;
    use super::super::sample::*;
    use crate::message::Guard;

    fn delivery(id: &str) -> super::Claim {
        super::Claim {
            hash: [0; 16],
            ..claim("delivery:orders", id, "")
        }
    }

    /// Accepts messages one after another, each in a commit of its own and then all in one commit: the verdicts are the same.
    /// Messages are (key, content, delivery id); empty means none.
    async fn check(messages: &[(&str, &str, &str)], expect: &[Accepted]) {
        for together in [false, true] {
            let sample = Sample::new();
            let runs: Vec<_> = messages
                .iter()
                .map(|(key, content, id)| {
                    let mut run = sample.order(key, content);
                    if key.is_empty() {
                        run.claims.clear();
                    }
                    if !id.is_empty() {
                        run.claims.insert(0, delivery(id));
                    }
                    run
                })
                .collect();
            let mut verdicts = Vec::new();
            if together {
                verdicts = sample.accept(runs).await;
            } else {
                for run in runs {
                    verdicts.extend(sample.accept(vec![run]).await);
                }
            }
            assert_eq!(verdicts, expect, "together: {together}");
            sample.books().await;
        }
    }

    const NEW: Accepted = Accepted::New;

    fn repeat(run: i64) -> Accepted {
        Accepted::Duplicate(super::RunId(run))
    }

    fn changed(run: i64) -> Accepted {
        Accepted::Changed(super::RunId(run))
    }

    #[tokio::test]
    async fn a_repeat_is_counted_and_a_change_is_shown() {
        check(
            &[("A", "1", ""), ("A", "1", ""), ("B", "1", "")],
            &[NEW, repeat(1), NEW],
        )
        .await;
        check(&[("A", "1", ""), ("A", "2", "")], &[NEW, changed(1)]).await;
        check(&[("", "1", ""), ("", "1", "")], &[NEW, NEW]).await;
    }

    #[tokio::test]
    async fn a_change_that_comes_again_is_a_repeat_of_the_change() {
        check(
            &[
                ("A", "1", ""),
                ("A", "2", ""),
                ("A", "2", ""),
                ("A", "1", ""),
                ("A", "3", ""),
            ],
            &[NEW, changed(1), repeat(2), repeat(1), changed(1)],
        )
        .await;
    }

    #[tokio::test]
    async fn a_new_delivery_of_a_known_key_is_remembered_by_its_id() {
        check(
            &[
                ("A", "1", "d1"),
                ("A", "1", "d2"),
                ("", "x", "d2"),
                ("", "x", "d1"),
            ],
            &[NEW, repeat(1), repeat(1), repeat(1)],
        )
        .await;
        check(
            &[
                ("A", "1", "d1"),
                ("A", "2", "d2"),
                ("A", "2", "d2"),
                ("", "", "d2"),
            ],
            &[NEW, changed(1), repeat(2), repeat(2)],
        )
        .await;
    }

    #[tokio::test]
    async fn a_key_that_a_repeat_before_it_gave_back_is_claimed() {
        check(
            &[
                ("A", "1", "d1"),
                ("B", "1", "d1"),
                ("B", "1", ""),
                ("B", "1", ""),
            ],
            &[NEW, repeat(1), NEW, repeat(3)],
        )
        .await;
    }

    #[tokio::test]
    async fn a_delivery_id_used_twice_does_not_claim_a_key_that_never_came() {
        check(
            &[("A", "1", "d1"), ("B", "2", "d1"), ("B", "2", "d2")],
            &[NEW, repeat(1), NEW],
        )
        .await;
    }

    #[tokio::test]
    async fn the_first_message_with_a_key_keeps_it() {
        let sample = Sample::new();
        let (one, two) = (sample.order("A", "1"), sample.order("B", "1"));
        sample.accept(vec![one.clone(), two.clone()]).await;
        let first = async |run: super::RunId, content: &str| {
            let claims = vec![(run, claim("orders/once", "K", content))];
            let commit = Commit {
                claims,
                ..Commit::default()
            };
            sample.store.commit(commit).await.unwrap().claims[0]
        };
        assert!(first(one.run, "part 1").await);
        assert!(first(one.run, "part 1").await);
        assert!(!first(one.run, "part 2").await);
        assert!(!first(two.run, "part 1").await);
        let end = over(&one, first_hop(&one), vec![], vec![Leaf::Delivered]);
        sample.end(vec![end]).await;
        assert!(!first(two.run, "part 1").await);
        sample.clock.advance(Duration::from_secs(1));
        assert!(first(two.run, "part 1").await);
    }

    #[tokio::test]
    async fn changes_may_be_ignored() {
        let sample = Sample::new();
        let first = sample.order("A", "1");
        let mut second = sample.order("A", "2");
        second.claims[0].changed = super::Changed::Ignore;
        let verdicts = sample.accept(vec![first, second]).await;
        assert_eq!(verdicts, [NEW, repeat(1)]);
        assert_eq!(sample.books().await.duplicates, 1);
    }

    #[tokio::test]
    async fn changes_may_be_refused_and_nothing_of_them_is_stored() {
        let sample = Sample::new();
        let first = sample.order("A", "1");
        let (mut same, mut other) = (sample.order("A", "1"), sample.order("A", "2"));
        same.claims[0].changed = super::Changed::Refuse;
        other.claims[0].changed = super::Changed::Refuse;
        let verdicts = sample.accept(vec![first, same, other]).await;
        let refused = super::super::commit::Accepted::Refused(super::RunId(1));
        assert_eq!(verdicts, [NEW, repeat(1), refused]);
        let books = sample.books().await;
        assert_eq!((books.accepted, books.duplicates, books.refused), (1, 1, 1));
        assert!(books.balanced());
    }

    #[tokio::test]
    async fn a_change_is_an_exception_that_names_the_first_message() {
        let sample = Sample::new();
        let first = sample.order("A", "1");
        let second = sample.order("A", "2");
        sample.accept(vec![first.clone(), second]).await;
        let found = sample.store.exceptions(Default::default()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, crate::failure::Class::Duplicate);
        for part in ["`A`", "run 1", &first.message.to_string(), "2026-"] {
            assert!(found[0].message.contains(part), "{}", found[0].message);
        }
        let detail = sample.store.exception(found[0].id).await.unwrap().unwrap();
        assert_eq!(detail.body.as_deref(), Some(b"2".as_slice()));
        let issues = sample.store.issues().await.unwrap();
        assert_eq!((issues[0].open, issues[0].newest), (1, found[0].id));
        assert_eq!(sample.books().await.in_exceptions, 1);
    }

    #[tokio::test]
    async fn a_claim_ends_with_its_run_and_what_it_is_kept_longer() {
        let mut sample = Sample::new();
        let first = sample.order("A", "1");
        sample.accept(vec![first.clone()]).await;
        sample.clock.advance(Duration::from_secs(1000));
        let again = sample.order("A", "1");
        assert_eq!(sample.accept(vec![again.clone()]).await, [repeat(1)]);
        let end = over(&first, first_hop(&first), vec![], vec![Leaf::Delivered]);
        sample.end(vec![end]).await;
        sample.clock.advance(Duration::from_millis(999));
        assert_eq!(sample.accept(vec![again.clone()]).await, [repeat(1)]);
        sample.reopen().await;
        sample.clock.advance(Duration::from_millis(1));
        let again = sample.order("A", "1");
        assert_eq!(sample.accept(vec![again.clone()]).await, [NEW]);
        let third = sample.order("A", "1");
        assert_eq!(sample.accept(vec![third]).await, [repeat(again.run.0)]);
        assert_eq!(sample.books().await.duplicates, 3);
    }

    #[tokio::test]
    async fn a_duplicate_leaves_nothing_but_its_count() {
        let sample = Sample::new();
        sample
            .accept(vec![sample.order("A", "1"), sample.order("A", "1")])
            .await;
        assert_eq!(
            sample.store.runs(RunFilter::default()).await.unwrap().len(),
            1
        );
        let counts = sample.store.hop_counts().await.unwrap();
        assert_eq!((counts.len(), counts[0].ready), (1, 1));
        assert_eq!(sample.store.commits(), 1);
        sample.store.commit(Commit::default()).await.unwrap();
        assert_eq!(sample.store.commits(), 2);
    }

    /// A message whose version decides; it waits behind the one before.
    fn versioned(sample: &Sample, key: &str, content: &str, version: &str) -> NewRun {
        let mut run = sample.order(key, content);
        run.claims[0].changed = super::Changed::Newest;
        let scope = super::super::versions::scope_of_once("orders");
        run.chains = vec![Chain {
            scope: scope.clone(),
            key: format!("order={key}"),
            pass: true,
        }];
        run.version = Some(Sighting {
            guard: Guard {
                scope: scope.into(),
                key: key.to_owned(),
                version: version.to_owned(),
                by: run.message,
            },
            keep_ms: 1000,
        });
        run
    }

    #[tokio::test]
    async fn a_newer_version_takes_the_key_over_and_an_older_one_is_a_repeat() {
        for together in [false, true] {
            let sample = Sample::new();
            let all: Vec<_> = [
                ("A", "one", "1"),
                ("A", "two", "2"),
                ("A", "one", "1"),
                ("A", "two", "2"),
                ("A", "other", "2"),
                ("A", "other", "2"),
                ("A", "three", "rev 3"),
                ("A", "three", "3"),
                ("B", "one", "1"),
            ]
            .map(|(key, content, version)| versioned(&sample, key, content, version))
            .into();
            let mut verdicts = Vec::new();
            if together {
                verdicts = sample.accept(all.clone()).await;
            } else {
                for run in &all {
                    verdicts.extend(sample.accept(vec![run.clone()]).await);
                }
            }
            let held = Accepted::Held(all[0].run);
            let expect = [
                NEW,
                held.clone(),
                repeat(2),
                repeat(2),
                changed(2),
                repeat(5),
                changed(2),
                held,
                NEW,
            ];
            assert_eq!(verdicts, expect, "together: {together}");
            let end = |run| over(run, first_hop(run), vec![], vec![Leaf::Delivered]);
            let released = sample.end(vec![end(&all[0])]).await.released;
            assert_eq!(released[0].run, all[1].run);
            let released = sample.end(vec![end(&all[1])]).await.released;
            assert_eq!(released[0].run, all[7].run);
            sample.end(vec![end(&all[7])]).await;
            let books = sample.books().await;
            assert_eq!((books.duplicates, books.in_exceptions), (3, 2));
        }
    }

    #[tokio::test]
    async fn a_version_lives_as_long_as_its_claim() {
        let sample = Sample::new();
        let first = versioned(&sample, "A", "two", "2");
        sample.accept(vec![first.clone()]).await;
        let retention = super::super::retention::Retention {
            runs_ms: 0,
            bodies_ms: 0,
            exceptions_ms: 0,
            limit: 10,
        };
        sample.clock.advance(Duration::from_secs(9));
        assert_eq!(sample.store.sweep(retention).await.unwrap().versions, 0);
        let older = || versioned(&sample, "A", "one", "1");
        assert_eq!(sample.accept(vec![older()]).await, [repeat(1)]);
        let end = over(&first, first_hop(&first), vec![], vec![Leaf::Delivered]);
        sample.end(vec![end]).await;
        sample.clock.advance(Duration::from_secs(1));
        let swept = sample.store.sweep(retention).await.unwrap();
        assert_eq!((swept.runs, swept.versions), (1, 1));
        assert_eq!(sample.accept(vec![older()]).await, [NEW]);
    }

    #[tokio::test]
    async fn a_repeat_of_a_message_that_waits_for_a_person_is_counted_and_a_discarded_one_keeps_its_key()
     {
        for leaf in [None, Some(Leaf::Discarded("too old".to_owned()))] {
            let sample = Sample::new();
            let first = sample.order("A", "1");
            sample.accept(vec![first.clone()]).await;
            let leaf = leaf.unwrap_or_else(|| Leaf::Exception(exception(&first)));
            sample
                .end(vec![over(&first, first_hop(&first), vec![], vec![leaf])])
                .await;
            let again = sample.order("A", "1");
            assert_eq!(sample.accept(vec![again]).await, [repeat(1)]);
            assert_eq!(sample.books().await.duplicates, 1);
        }
    }
}
