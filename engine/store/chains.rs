//! Chains: messages with the same key of an ordered flow run one after another. Only the head of a chain is worked on; what stands behind
//! it has its hop held, and the end of the head's run releases the next one in the same commit.
//!
//! A run may stand in several chains. It goes on when it is the head of all of them; as each accept enters all its chains at once, two runs
//! never wait for each other.

use super::commit::{Chain, HopId, NewRun, RunId};
use super::database::{Connection, Optional, Sql, params};
use super::hops;
use super::writer::Writing;

/// - a chain has a row for each run that is not over, in the order in which they were accepted; its lowest positive `seq` is the head
/// - a run that a person must look at, and that lets its successors pass (`pass`), has a negative `seq` until it goes on
/// - `runs.chained` spares all other runs the question; `hops.held` marks hops that are neither ready nor due
pub(super) const TABLES: &str = "
CREATE TABLE chains (
  scope TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, run INTEGER NOT NULL, pass INTEGER NOT NULL,
  PRIMARY KEY (scope, key, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX chains_run ON chains (run);
ALTER TABLE runs ADD COLUMN chained INTEGER;
ALTER TABLE hops ADD COLUMN held INTEGER;
CREATE INDEX hops_held ON hops (run) WHERE held IS NOT NULL;
";

// None of these walks along a chain, however long it is.
const HEAD: &str =
    "SELECT run FROM chains WHERE scope = ?1 AND key = ?2 AND seq > 0 ORDER BY seq LIMIT 1";
const LAST: &str =
    "SELECT coalesce(max(seq), 0) FROM chains WHERE scope = ?1 AND key = ?2 AND seq > 0";
const LEAVE: &str = "DELETE FROM chains WHERE run = ?1 RETURNING scope, key";
const PASS: &str =
    "UPDATE chains SET seq = -run WHERE run = ?1 AND pass <> 0 AND seq > 0 RETURNING scope, key";
const BEHIND: &str = "SELECT EXISTS (SELECT 1 FROM chains AS mine WHERE mine.run = ?1 AND EXISTS (
       SELECT 1 FROM chains AS ahead WHERE ahead.scope = mine.scope AND ahead.key = mine.key
       AND ahead.seq > 0 AND ahead.seq < mine.seq))";
const RELEASE: &str = "UPDATE hops SET held = NULL, ready_at = ?2, announced = CASE WHEN announced = 0 THEN 0 END WHERE run = ?1 AND held IS NOT NULL RETURNING id";

/// What a run waits for until its turn comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The run at the head of the chain.
    pub run: RunId,
    /// The key that both have, as `name=value`.
    pub key: String,
}

/// For a run of `runs`: the head of a chain in which it stands behind, as `RUN KEY`; null if it waits for nobody.
pub(super) const AHEAD: &str =
    "CASE WHEN runs.chained IS NULL OR runs.ended_at IS NOT NULL THEN NULL ELSE (
       SELECT ahead.run || ' ' || ahead.key FROM chains AS mine JOIN chains AS ahead
       ON ahead.scope = mine.scope AND ahead.key = mine.key AND ahead.seq > 0 AND ahead.seq < mine.seq
       WHERE mine.run = runs.id ORDER BY ahead.seq LIMIT 1) END";

/// What `AHEAD` says.
pub(super) fn ahead_from(text: Option<String>) -> Option<Ahead> {
    let text = text?;
    let (run, key) = text.split_once(' ')?;
    Some(Ahead {
        run: RunId(run.parse().ok()?),
        key: key.to_owned(),
    })
}

/// Puts a new run at the end of its chains. Gives the run for which it has to wait, if it is not the first.
pub(super) fn join(writing: &Writing<'_>, run: &NewRun) -> Sql<Option<RunId>> {
    enter(writing, run.run, &run.chains)
}

/// A run that waited for a person goes on. Where others have passed it meanwhile it stands behind them now; what it did not enter at its
/// flow's door it enters. Gives whether it has to wait for its turn.
pub(super) fn go_on(writing: &mut Writing<'_>, run: RunId, chains: &[Chain]) -> Sql<bool> {
    let entered = chains_of(
        writing.connection,
        "SELECT scope, key FROM chains WHERE run = ?1",
        run,
    )?;
    let stands = |chain: &Chain| {
        entered
            .iter()
            .any(|(scope, key)| *scope == chain.scope && *key == chain.key)
    };
    if !chains.is_empty() && !chains.iter().all(stands) {
        leave(writing, run)?;
        enter(writing, run, chains)?;
    }
    writing.put(
        "UPDATE chains AS mine SET seq = (SELECT coalesce(max(all_of.seq), 0) + 1 FROM chains AS all_of WHERE all_of.scope = mine.scope AND all_of.key = mine.key AND all_of.seq > 0)
         WHERE run = ?1 AND seq < 0",
        [run.0],
    )?;
    is_behind(writing.connection, run)
}

/// Puts a run at the end of these chains. Gives the run for which it has to wait, if it is not the first.
pub(super) fn enter(writing: &Writing<'_>, id: RunId, chains: &[Chain]) -> Sql<Option<RunId>> {
    if chains.is_empty() {
        return Ok(None);
    }
    writing.put("UPDATE runs SET chained = 1 WHERE id = ?1", [id.0])?;
    let mut behind = None;
    for chain in chains {
        behind = behind.or(head(writing.connection, &chain.scope, &chain.key)?);
        writing.put(
            &format!(
                "INSERT INTO chains (scope, key, seq, run, pass) VALUES (?1, ?2, ({LAST}) + 1, ?3, ?4)"
            ),
            params![chain.scope, chain.key, id.0, chain.pass],
        )?;
    }
    Ok(behind)
}

/// A run is over: it leaves its chains, and the next of each goes on.
pub(super) fn leave(writing: &mut Writing<'_>, run: RunId) -> Sql<()> {
    let left = chains_of(writing.connection, LEAVE, run)?;
    next_of(writing, left)
}

/// All that is left of a run waits for a person: where its flow says so, its successors pass.
pub(super) fn pass(writing: &mut Writing<'_>, run: RunId) -> Sql<()> {
    let passed = chains_of(writing.connection, PASS, run)?;
    next_of(writing, passed)
}

fn chains_of(connection: &Connection, sql: &str, run: RunId) -> Sql<Vec<(String, String)>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([run.0], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn next_of(writing: &mut Writing<'_>, chains: Vec<(String, String)>) -> Sql<()> {
    for (scope, key) in chains {
        if let Some(next) = head(writing.connection, &scope, &key)? {
            release(writing, next)?;
        }
    }
    Ok(())
}

/// The run whose turn it is.
fn head(connection: &Connection, scope: &str, key: &str) -> Sql<Option<RunId>> {
    connection
        .prepare_cached(HEAD)?
        .query_row([scope, key], |row| row.get(0).map(RunId))
        .optional()
}

/// Whether somebody stands before a run in one of its chains.
fn is_behind(connection: &Connection, run: RunId) -> Sql<bool> {
    connection
        .prepare_cached(BEHIND)?
        .query_row([run.0], |row| row.get(0))
}

/// Makes the held hops of a run ready, if it is the head of all its chains.
fn release(writing: &mut Writing<'_>, run: RunId) -> Sql<()> {
    if is_behind(writing.connection, run)? {
        return Ok(());
    }
    let held: Vec<i64> = {
        let mut statement = writing.connection.prepare_cached(RELEASE)?;
        statement.query_map([run.0, writing.now_ms], |row| row.get(0))?
    };
    for hop in held {
        let ready = hops::ready(writing.connection, HopId(hop))?;
        writing.released.extend(ready);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::commit::{Accepted, End, Leaf, NewHop, NewRun, StoredHop};
    use super::super::runs::{RunFilter, RunState};
    use super::super::sample::*;
    use super::*;
    use crate::world::random::{Random, SeededRandom};

    fn chain(key: &str, pass: bool) -> Chain {
        Chain {
            scope: "orders".to_owned(),
            key: format!("order={key}"),
            pass,
        }
    }

    /// A message without claims that waits for its turn behind others with these keys.
    fn ordered(sample: &Sample, keys: &[&str], pass: bool) -> NewRun {
        let mut run = sample.order(keys[0], "{}");
        run.claims.clear();
        run.chains = keys.iter().map(|key| chain(key, pass)).collect();
        run
    }

    fn done(run: &NewRun) -> End {
        over(run, first_hop(run), vec![], vec![Leaf::Delivered])
    }

    fn runs(released: &[StoredHop]) -> Vec<RunId> {
        released.iter().map(|hop| hop.run).collect()
    }

    #[tokio::test]
    async fn only_the_head_goes_on_and_its_end_releases_the_next_also_after_a_restart() {
        let mut sample = Sample::new();
        let all: Vec<_> = ["A", "A", "B", "A"]
            .iter()
            .map(|key| ordered(&sample, &[key], false))
            .collect();
        let head = Accepted::Held(all[0].run);
        let verdicts = sample.accept(all.clone()).await;
        assert_eq!(verdicts, [Accepted::New, head.clone(), Accepted::New, head]);
        sample.reopen().await;
        let counts = sample.store.hop_counts().await.unwrap();
        let counted = (counts[0].ready, counts[0].waiting, counts[0].held);
        assert_eq!(counted, (2, 0, 2));
        assert_eq!(sample.store.next_due().await.unwrap(), None);
        let hops = all.iter().map(first_hop).collect();
        let (ready, _) = sample.store.ready_hops(hops, 1 << 20).await.unwrap();
        assert_eq!(runs(&ready), [all[0].run, all[2].run]);
        let standing = sample.store.standing_hops().await.unwrap();
        let held: Vec<_> = standing.iter().map(|hop| hop.held).collect();
        assert_eq!(held, [false, true, false, true]);
        let committed = sample.end(vec![done(&all[0])]).await;
        assert_eq!(runs(&committed.released), [all[1].run]);
        assert_eq!(committed.released[0].body, all[1].body);
        let committed = sample.end(vec![done(&all[2])]).await;
        assert!(committed.released.is_empty());
        assert_eq!(sample.books().await.in_flight, 2);
        for (end, next) in [(1, vec![all[3].run]), (3, vec![])] {
            let committed = sample.end(vec![done(&all[end])]).await;
            assert_eq!(runs(&committed.released), next);
        }
        let late = ordered(&sample, &["A"], false);
        assert_eq!(sample.accept(vec![late]).await, [Accepted::New]);
    }

    #[tokio::test]
    async fn a_run_is_over_when_its_last_part_is() {
        let sample = Sample::new();
        let all = [
            ordered(&sample, &["A"], false),
            ordered(&sample, &["A"], false),
        ];
        sample.accept(all.to_vec()).await;
        let parts: Vec<NewHop> = (0..2)
            .map(|_| sample.hop(all[0].run, all[0].message, "part"))
            .collect();
        let hops: Vec<_> = parts.iter().map(|part| part.hop).collect();
        let split = over(&all[0], first_hop(&all[0]), parts, vec![]);
        assert!(sample.end(vec![split]).await.released.is_empty());
        let part = |hop, leaf| over(&all[0], hop, vec![], vec![leaf]);
        let first = sample.end(vec![part(hops[0], Leaf::Filtered)]).await;
        assert!(first.released.is_empty());
        let last = sample.end(vec![part(hops[1], Leaf::Delivered)]).await;
        assert_eq!(runs(&last.released), [all[1].run]);
    }

    /// One message fails, another of its key and one of another key stand behind: whether the first of these goes on.
    async fn check(pass: bool, at_the_door: bool) -> Vec<RunId> {
        let sample = Sample::new();
        let mut first = ordered(&sample, &["A"], pass);
        let others = [
            ordered(&sample, &["A"], pass),
            ordered(&sample, &["B"], pass),
        ];
        let fails = Leaf::Exception(exception(&first));
        let mut went = Vec::new();
        if at_the_door {
            first.first = super::super::commit::First::Exception(exception(&first));
            sample.accept(vec![first.clone()]).await;
            let verdicts = sample.accept(others.to_vec()).await;
            let ready = others.iter().zip(verdicts);
            went.extend(ready.filter_map(|(run, said)| (said == Accepted::New).then_some(run.run)));
        } else {
            sample.accept(vec![first.clone()]).await;
            sample.accept(others.to_vec()).await;
            let end = over(&first, first_hop(&first), vec![], vec![fails]);
            went.extend(runs(&sample.end(vec![end]).await.released));
            went.push(others[1].run);
        }
        let shown = sample.store.runs(RunFilter::default()).await.unwrap();
        let waits = shown.iter().find(|row| row.run == others[0].run);
        let ahead = Ahead {
            run: first.run,
            key: "order=A".to_owned(),
        };
        assert_eq!(
            waits.unwrap().waits_for,
            (!went.contains(&others[0].run)).then_some(ahead)
        );
        let failed = shown.iter().find(|row| row.run == first.run).unwrap();
        assert_eq!(failed.state, RunState::InException);
        assert_eq!(sample.books().await.in_exceptions, 1);
        went
    }

    #[tokio::test]
    async fn an_exception_holds_its_key_and_no_other_unless_the_flow_lets_it_pass() {
        for at_the_door in [false, true] {
            assert_eq!(check(false, at_the_door).await, [RunId(3)]);
            assert_eq!(check(true, at_the_door).await, [RunId(2), RunId(3)]);
        }
    }

    #[tokio::test]
    async fn a_run_with_an_exception_and_more_to_do_lets_nobody_pass() {
        let sample = Sample::new();
        let all = [
            ordered(&sample, &["A"], true),
            ordered(&sample, &["A"], true),
        ];
        sample.accept(all.to_vec()).await;
        let part = sample.hop(all[0].run, all[0].message, "part");
        let last = part.hop;
        let leaf = Leaf::Exception(exception(&all[0]));
        let end = over(&all[0], first_hop(&all[0]), vec![part], vec![leaf]);
        assert!(sample.end(vec![end]).await.released.is_empty());
        let end = over(&all[0], last, vec![], vec![Leaf::Delivered]);
        assert_eq!(runs(&sample.end(vec![end]).await.released), [all[1].run]);
    }

    #[tokio::test]
    async fn a_run_in_two_chains_goes_on_when_it_is_the_head_of_both() {
        let sample = Sample::new();
        let all = [
            ordered(&sample, &["A"], false),
            ordered(&sample, &["B"], false),
            ordered(&sample, &["A", "B"], false),
            ordered(&sample, &["B"], false),
        ];
        sample.accept(all.to_vec()).await;
        let released = sample.end(vec![done(&all[1])]).await.released;
        assert!(released.is_empty());
        let released = sample.end(vec![done(&all[0])]).await.released;
        assert_eq!(runs(&released), [all[2].run]);
        let released = sample.end(vec![done(&all[2])]).await.released;
        assert_eq!(runs(&released), [all[3].run]);
    }

    #[tokio::test]
    async fn a_duplicate_has_no_place_and_a_message_in_the_same_commit_has() {
        let sample = Sample::new();
        let mut one = ordered(&sample, &["A"], false);
        one.claims = vec![claim("orders", "1", "x")];
        let mut again = ordered(&sample, &["A"], false);
        again.claims = one.claims.clone();
        let next = ordered(&sample, &["A"], false);
        let verdicts = sample.accept(vec![one.clone(), again, next.clone()]).await;
        let expect = [
            Accepted::New,
            Accepted::Duplicate(one.run),
            Accepted::Held(one.run),
        ];
        assert_eq!(verdicts, expect);
        let released = sample.end(vec![done(&one)]).await.released;
        assert_eq!(runs(&released), [next.run]);
    }

    /// What a test knows of a run: its key and what it has open.
    struct Open {
        run: NewRun,
        key: usize,
        hops: Vec<HopId>,
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_three_keys_with_a_thousand_messages_each_the_order_is_kept_over_restarts() {
        const KEYS: usize = 3;
        const EACH: u64 = 1000;
        let random = SeededRandom::new(7);
        let mut sample = Sample::new();
        let (mut open, mut finished) = (BTreeMap::<i64, Open>::new(), vec![Vec::new(); KEYS]);
        let mut left = [EACH; KEYS];
        let mut ready: Vec<HopId> = Vec::new();
        let mut owner = BTreeMap::new();
        while left.iter().any(|left| *left > 0) || !open.is_empty() {
            if random.below(4) == 0 {
                let mut batch = Vec::new();
                for _ in 0..random.below(60) {
                    let key = random.below(KEYS as u64) as usize;
                    if left[key] > 0 {
                        left[key] -= 1;
                        let run = ordered(&sample, &[&format!("K{key}")], key == 1);
                        owner.insert(first_hop(&run), run.run.0);
                        let hops = vec![first_hop(&run)];
                        batch.push(run.clone());
                        open.insert(run.run.0, Open { run, key, hops });
                    }
                }
                let verdicts = sample.accept(batch.clone()).await;
                for (run, verdict) in batch.iter().zip(verdicts) {
                    if verdict == Accepted::New {
                        ready.push(first_hop(run));
                    }
                }
            }
            let mut ends = Vec::new();
            for _ in 0..random.below(8) {
                if ready.is_empty() {
                    break;
                }
                let hop = ready.swap_remove(random.below(ready.len() as u64) as usize);
                let mine = &open[&owner[&hop]];
                let earlier = open.range(..mine.run.run.0);
                let ahead = earlier.filter(|(_, other)| other.key == mine.key).count();
                assert_eq!(ahead, 0, "{:?}", mine.run.run);
                ends.push(one_end(&sample, &random, &mut open, &mut owner, hop));
            }
            let mut next: Vec<HopId> = Vec::new();
            for end in &ends {
                if let super::super::commit::Turn::Over { next: hops, .. } = &end.turn {
                    next.extend(hops.iter().map(|hop| hop.hop));
                }
            }
            let committed = sample.end(ends).await;
            assert!(committed.ends.iter().all(|ended| *ended));
            let over: Vec<i64> = open
                .iter()
                .filter(|(_, run)| run.hops.is_empty())
                .map(|(id, _)| *id)
                .collect();
            for id in over {
                let run = open.remove(&id).unwrap();
                finished[run.key].push(id);
            }
            ready.extend(next);
            ready.extend(committed.released.iter().map(|hop| hop.hop));
            if random.below(200) == 0 {
                sample.reopen().await;
                let standing = sample.store.standing_hops().await.unwrap();
                let mut found: Vec<_> = standing
                    .iter()
                    .filter(|hop| !hop.held)
                    .map(|hop| hop.hop)
                    .collect();
                found.sort();
                ready.sort();
                assert_eq!(found, ready, "what was ready is ready after a restart");
            }
        }
        for runs in finished {
            assert_eq!(runs.len() as u64, EACH);
            assert!(runs.is_sorted(), "a key's runs ended out of order");
        }
        assert_eq!(sample.books().await.accepted, (KEYS as u64 * EACH) as i64);
        let left: i64 = sample.with(|connection| {
            let count = "SELECT count(*) FROM chains";
            connection.query_row(count, (), |row| row.get(0)).unwrap()
        });
        assert_eq!(left, 0);
    }

    /// A hop is delivered, filtered, or becomes two.
    fn one_end(
        sample: &Sample,
        random: &SeededRandom,
        open: &mut BTreeMap<i64, Open>,
        owner: &mut BTreeMap<HopId, i64>,
        hop: HopId,
    ) -> End {
        let mine = open.get_mut(&owner[&hop]).unwrap();
        mine.hops.retain(|id| *id != hop);
        match random.below(5) {
            0 if mine.hops.len() < 3 => {
                let parts: Vec<_> = (0..2)
                    .map(|_| sample.hop(mine.run.run, mine.run.message, "part"))
                    .collect();
                for part in &parts {
                    mine.hops.push(part.hop);
                    owner.insert(part.hop, mine.run.run.0);
                }
                over(&mine.run, hop, parts, vec![])
            }
            1 => over(&mine.run, hop, vec![], vec![Leaf::Filtered]),
            _ => over(&mine.run, hop, vec![], vec![Leaf::Delivered]),
        }
    }

    /// Every statement finds its rows by an index; a chain may have ten thousand of them.
    #[tokio::test]
    async fn a_chain_is_entered_and_left_without_walking_it() {
        let sample = Sample::in_a_file();
        let plans = |sql: &str| -> Vec<String> {
            let connection = rusqlite::Connection::open(sample.path()).unwrap();
            let mut statement = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap();
            let many = statement.parameter_count();
            let params = rusqlite::params_from_iter(vec![1; many]);
            let rows = statement.query_map(params, |row| row.get::<_, String>(3));
            rows.unwrap().map(Result::unwrap).collect()
        };
        for sql in [HEAD, LAST, BEHIND, RELEASE, LEAVE, PASS] {
            let plan = plans(sql);
            let walks = plan
                .iter()
                .any(|line| line.starts_with("SCAN") && !line.contains("CONSTANT"));
            assert!(!walks, "{sql}: {plan:?}");
        }
    }
}
