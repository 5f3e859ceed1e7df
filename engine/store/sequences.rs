//! Sequences: messages with a number, which go on in the order of their numbers. Whose turn it is moves only with the end of a hop, in the
//! same commit; so whatever dies in between, no message goes on before the one with the number before it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::commit::{HopId, RunId, Trail};
use super::database::{Optional, Sql, params};
use super::writer::Writing;
use super::{hops, journeys};

/// - `next` is the number whose turn it is; a key that never came has no row
/// - `turns` are the messages that wait for those before them; each has its hop, which waits for the time at which it gives them up
pub(super) const TABLES: &str = "
CREATE TABLE sequences (
  flow TEXT NOT NULL, step TEXT NOT NULL, key TEXT NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (flow, step, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE turns (
  flow TEXT NOT NULL, step TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL,
  hop INTEGER NOT NULL, hash BLOB NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (flow, step, key, number)
) STRICT, WITHOUT ROWID;
";

/// How many messages one pass wakes; the rest is woken by their passes.
const WOKEN_MAX: i64 = 256;
/// How many gaps are named.
const GAPS_MAX: usize = 20;

/// Which sequence: of a step, for a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The key.
    pub key: String,
}

/// A message asks whether it is its turn; if not, it waits from then on.
#[derive(Clone, Debug)]
pub struct Number {
    /// The sequence.
    pub sequence: Sequence,
    /// The hop.
    pub hop: HopId,
    /// The fence that it was taken with.
    pub fence: i64,
    /// The run.
    pub run: RunId,
    /// Its number.
    pub number: i64,
    /// A hash of its body, to tell a repeat from a contradiction.
    pub hash: [u8; 16],
    /// The number with which a sequence begins.
    pub from: i64,
    /// How long it waits for those before it, in milliseconds.
    pub within_ms: i64,
    /// How many may wait.
    pub most: u32,
    /// Whether what is missing is skipped when the time is over.
    pub skip: bool,
}

/// What a message is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It is its turn. If numbers were skipped for it: from and to.
    Goes(Option<(i64, i64)>),
    /// It waits, until this time at the longest.
    Waits(i64),
    /// It is older than the number whose turn it is.
    Old(i64),
    /// A message with this number and the same body waits already.
    Same,
    /// A message with this number and another body waits already: the run.
    Differs(RunId),
    /// As many wait as may.
    Full,
    /// Its time is over, and these numbers, from and to, are missing.
    Gap(Vec<(i64, i64)>),
    /// The hop is not there with this fence.
    Gone,
}

/// A message goes on, with the end of its hop: the next one has its turn.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Which of the commit's ends; the pass counts only if that is applied.
    pub end: usize,
    /// The sequence.
    pub sequence: Sequence,
    /// Its number.
    pub number: i64,
}

/// The turns that were given within one commit, whose ends are all in one commit too: next number by sequence.
pub(super) type Given = FxHashMap<Sequence, i64>;

/// A message that waits.
struct Standing {
    hop: HopId,
    hash: [u8; 16],
    until_ms: i64,
}

/// Whether it is a message's turn.
pub(super) fn number(writing: &mut Writing<'_>, number: &Number, given: &mut Given) -> Sql<Turned> {
    if !hops::stands(writing, number.hop, number.fence)? {
        return Ok(Turned::Gone);
    }
    let next = match given.get(&number.sequence) {
        Some(next) => *next,
        None => next(writing, &number.sequence)?.unwrap_or(number.from),
    };
    if number.number < next {
        return Ok(Turned::Old(next));
    }
    let standing = standing(writing, number)?;
    if let Some(other) = standing.as_ref().filter(|other| other.hop != number.hop) {
        return match other.hash == number.hash {
            true => Ok(Turned::Same),
            false => Ok(Turned::Differs(run_of(writing, other.hop)?)),
        };
    }
    if number.number == next {
        given.insert(number.sequence.clone(), next + 1);
        return Ok(Turned::Goes(None));
    }
    match standing {
        None => queue(writing, number),
        Some(wait) if writing.now_ms < wait.until_ms => rest(writing, number, wait.until_ms),
        Some(_) => overdue(writing, number, next, given),
    }
}

/// The turn of a message has come and gone: the next number has its turn, and what waits for it comes back.
pub(super) fn pass(writing: &mut Writing<'_>, pass: &Pass) -> Sql<()> {
    let next = pass.number.saturating_add(1);
    advance(writing, &pass.sequence, next)?;
    let of = &pass.sequence;
    let following: Vec<(i64, i64)> = {
        let mut statement = writing.connection.prepare_cached(
            "SELECT number, hop FROM turns WHERE flow = ?1 AND step = ?2 AND key = ?3 AND number >= ?4 ORDER BY number LIMIT ?5",
        )?;
        statement.query_map(params![of.flow, of.step, of.key, next, WOKEN_MAX], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
    };
    for ((number, hop), expect) in following.into_iter().zip(next..) {
        if number != expect {
            break;
        }
        if hops::asleep(writing, HopId(hop))? == Some(true) {
            hops::wake(writing, HopId(hop))?;
        }
    }
    Ok(())
}

fn advance(writing: &Writing<'_>, of: &Sequence, next: i64) -> Sql<()> {
    writing.put(
        "INSERT INTO sequences (flow, step, key, next) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (flow, step, key) DO UPDATE SET next = CASE WHEN sequences.next > ?4 THEN sequences.next ELSE ?4 END",
        params![of.flow, of.step, of.key, next],
    )?;
    writing.put(
        "DELETE FROM turns WHERE flow = ?1 AND step = ?2 AND key = ?3 AND number < ?4",
        params![of.flow, of.step, of.key, next],
    )?;
    Ok(())
}

/// A message waits for those before it.
fn queue(writing: &Writing<'_>, number: &Number) -> Sql<Turned> {
    let of = &number.sequence;
    let waiting: u32 = writing
        .connection
        .prepare_cached("SELECT count(*) FROM turns WHERE flow = ?1 AND step = ?2 AND key = ?3")?
        .query_row(params![of.flow, of.step, of.key], |row| row.get(0))?;
    if waiting >= number.most {
        return Ok(Turned::Full);
    }
    let until_ms = writing.now_ms.saturating_add(number.within_ms);
    writing.put(
        "INSERT INTO turns (flow, step, key, number, hop, hash, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            of.flow,
            of.step,
            of.key,
            number.number,
            number.hop.0,
            number.hash,
            until_ms
        ],
    )?;
    let line = Trail {
        at_ms: writing.now_ms,
        step: of.step.clone(),
        what: "waits",
        detail: Some(why(number)),
        hash: None,
    };
    journeys::insert_lines(writing, number.run, number.hop, number.fence, &[line])?;
    rest(writing, number, until_ms)
}

fn rest(writing: &Writing<'_>, number: &Number, until_ms: i64) -> Sql<Turned> {
    hops::rest(writing, number.hop, number.fence, until_ms, &why(number))?;
    Ok(Turned::Waits(until_ms))
}

fn why(number: &Number) -> String {
    format!(
        "for those before number {} of `{}`",
        number.number, number.sequence.key
    )
}

/// A message has waited long enough. Numbers before it that wait themselves are not missing: then it waits for them anew.
fn overdue(
    writing: &mut Writing<'_>,
    number: &Number,
    next: i64,
    given: &mut Given,
) -> Sql<Turned> {
    let before = waiting_before(writing, number)?;
    let lowest = before.first().map_or(number.number, |(number, _)| *number);
    if lowest == next {
        return wait_anew(writing, number);
    }
    if !number.skip {
        return Ok(Turned::Gap(missing(next, number.number, &before)));
    }
    advance(writing, &number.sequence, lowest)?;
    if lowest == number.number {
        given.insert(number.sequence.clone(), lowest + 1);
        return Ok(Turned::Goes(Some((next, lowest - 1))));
    }
    for (_, hop) in before.iter().take(1) {
        if hops::asleep(writing, *hop)? == Some(true) {
            hops::wake(writing, *hop)?;
        }
    }
    wait_anew(writing, number)
}

fn wait_anew(writing: &Writing<'_>, number: &Number) -> Sql<Turned> {
    let until_ms = writing.now_ms.saturating_add(number.within_ms);
    let of = &number.sequence;
    writing.put(
        "UPDATE turns SET until = ?5 WHERE flow = ?1 AND step = ?2 AND key = ?3 AND number = ?4",
        params![of.flow, of.step, of.key, number.number, until_ms],
    )?;
    rest(writing, number, until_ms)
}

/// The numbers from `next` to before `number` that do not wait, as ranges.
fn missing(next: i64, number: i64, waiting: &[(i64, HopId)]) -> Vec<(i64, i64)> {
    let mut gaps = Vec::new();
    let mut from = next;
    let ends = waiting.iter().map(|(number, _)| *number).chain([number]);
    for end in ends {
        if end > from && gaps.len() < GAPS_MAX {
            gaps.push((from, end - 1));
        }
        from = end + 1;
    }
    gaps
}

/// The messages with lower numbers that wait, in the order of their numbers.
fn waiting_before(writing: &Writing<'_>, number: &Number) -> Sql<Vec<(i64, HopId)>> {
    let of = &number.sequence;
    let mut statement = writing.connection.prepare_cached(
        "SELECT number, hop FROM turns WHERE flow = ?1 AND step = ?2 AND key = ?3 AND number < ?4
         AND hop IN (SELECT id FROM hops) ORDER BY number",
    )?;
    statement.query_map(params![of.flow, of.step, of.key, number.number], |row| {
        Ok((row.get(0)?, HopId(row.get(1)?)))
    })
}

fn next(writing: &Writing<'_>, of: &Sequence) -> Sql<Option<i64>> {
    writing
        .connection
        .prepare_cached("SELECT next FROM sequences WHERE flow = ?1 AND step = ?2 AND key = ?3")?
        .query_row(params![of.flow, of.step, of.key], |row| row.get(0))
        .optional()
}

/// The message that waits with this number; one whose hop is gone waits no more.
fn standing(writing: &Writing<'_>, number: &Number) -> Sql<Option<Standing>> {
    let of = &number.sequence;
    let of = params![of.flow, of.step, of.key, number.number];
    let found = writing
        .connection
        .prepare_cached(
            "SELECT hop, hash, until FROM turns WHERE flow = ?1 AND step = ?2 AND key = ?3 AND number = ?4",
        )?
        .query_row(of, |row| {
            Ok(Standing {
                hop: HopId(row.get(0)?),
                hash: row.get(1)?,
                until_ms: row.get(2)?,
            })
        })
        .optional()?;
    if let Some(wait) = &found
        && hops::asleep(writing, wait.hop)?.is_none()
    {
        let sql = "DELETE FROM turns WHERE flow = ?1 AND step = ?2 AND key = ?3 AND number = ?4";
        writing.put(sql, of)?;
        return Ok(None);
    }
    Ok(found)
}

fn run_of(writing: &Writing<'_>, hop: HopId) -> Sql<RunId> {
    writing
        .connection
        .prepare_cached("SELECT run FROM hops WHERE id = ?1")?
        .query_row([hop.0], |row| row.get(0).map(RunId))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::commit::{Commit, Committed, Leaf, NewRun};
    use super::super::sample::*;
    use super::*;

    const WITHIN_MS: i64 = 1_000;

    fn asking(run: &NewRun, fence: i64, number: i64) -> Number {
        Number {
            sequence: Sequence {
                flow: run.flow.clone(),
                step: Arc::from("erp"),
                key: "A".to_owned(),
            },
            hop: first_hop(run),
            fence,
            run: run.run,
            number,
            hash: [number as u8; 16],
            from: 1,
            within_ms: WITHIN_MS,
            most: 3,
            skip: false,
        }
    }

    async fn messages(sample: &Sample, many: usize) -> Vec<NewRun> {
        let mut runs: Vec<_> = (0..many)
            .map(|n| sample.order(&n.to_string(), "1"))
            .collect();
        for run in &mut runs {
            run.claims.clear();
        }
        sample.accept(runs.clone()).await;
        runs
    }

    async fn turned(sample: &Sample, numbers: Vec<Number>) -> Vec<Turned> {
        let commit = Commit {
            numbers,
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap().numbers
    }

    /// Ends the hops with these numbers in one commit.
    async fn passes(sample: &Sample, ended: &[(&NewRun, i64, i64)]) -> Committed {
        let ends = ended.iter().map(|(run, fence, _)| {
            let mut end = over(run, first_hop(run), vec![], vec![Leaf::Delivered]);
            end.fence = *fence;
            end
        });
        let passes = ended
            .iter()
            .enumerate()
            .map(|(end, (run, _, number))| Pass {
                end,
                sequence: asking(run, 1, 1).sequence,
                number: *number,
            });
        let commit = Commit {
            ends: ends.collect(),
            passes: passes.collect(),
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap()
    }

    const WAITS: Turned = Turned::Waits(START_MS + WITHIN_MS);

    #[tokio::test]
    async fn a_number_goes_when_the_end_of_the_one_before_it_is_durable() {
        let mut sample = Sample::new();
        let runs = messages(&sample, 4).await;
        let numbers = [3, 2, 4, 1];
        let asks = runs.iter().zip(numbers).take(3);
        let asks = asks.map(|(run, number)| asking(run, 1, number)).collect();
        assert_eq!(turned(&sample, asks).await, [WAITS, WAITS, WAITS]);
        let first = || vec![asking(&runs[3], 1, 1)];
        assert_eq!(turned(&sample, first()).await, [Turned::Goes(None)]);
        assert_eq!(
            turned(&sample, first()).await,
            [Turned::Goes(None)],
            "its end is to come"
        );
        sample.reopen().await;
        let woken = passes(&sample, &[(&runs[3], 1, 1)]).await.released;
        let woken: Vec<_> = woken.iter().map(|hop| hop.run).collect();
        assert_eq!(woken, [runs[1].run, runs[0].run, runs[2].run]);
        let third = turned(&sample, vec![asking(&runs[0], 2, 3)]).await;
        assert_eq!(third, [WAITS], "its turn has not come");
        let all = vec![
            asking(&runs[1], 2, 2),
            asking(&runs[0], 3, 3),
            asking(&runs[2], 2, 4),
        ];
        assert_eq!(
            turned(&sample, all).await,
            [const { Turned::Goes(None) }; 3]
        );
        let ended = [(&runs[1], 2, 2), (&runs[0], 3, 3), (&runs[2], 2, 4)];
        assert_eq!(passes(&sample, &ended).await.ends, [true; 3]);
    }

    #[tokio::test]
    async fn a_pass_without_its_end_moves_nothing() {
        let sample = Sample::new();
        let runs = messages(&sample, 2).await;
        assert_eq!(passes(&sample, &[(&runs[0], 9, 1)]).await.ends, [false]);
        assert_eq!(turned(&sample, vec![asking(&runs[1], 1, 2)]).await, [WAITS]);
    }

    #[tokio::test]
    async fn repeats_contradictions_and_too_many_are_told() {
        let sample = Sample::new();
        let runs = messages(&sample, 6).await;
        let mut asks: Vec<_> = runs.iter().map(|run| asking(run, 1, 5)).collect();
        asks[2].hash = [9; 16];
        (asks[3].number, asks[4].number, asks[5].number) = (6, 7, 8);
        let expect = [
            WAITS,
            Turned::Same,
            Turned::Differs(runs[0].run),
            WAITS,
            WAITS,
            Turned::Full,
        ];
        assert_eq!(turned(&sample, asks).await, expect);
        assert_eq!(
            turned(&sample, vec![asking(&runs[5], 1, 0)]).await,
            [Turned::Old(1)]
        );
        assert_eq!(
            turned(&sample, vec![asking(&runs[5], 4, 1)]).await,
            [Turned::Gone]
        );
    }

    #[tokio::test]
    async fn a_gap_names_what_is_missing_and_the_sequence_stands() {
        let sample = Sample::new();
        let runs = messages(&sample, 3).await;
        let asks = runs.iter().zip([3, 7, 6]);
        let asks = asks.map(|(run, number)| asking(run, 1, number)).collect();
        turned(&sample, asks).await;
        sample
            .clock
            .advance(Duration::from_millis(WITHIN_MS as u64));
        let told = turned(&sample, vec![asking(&runs[1], 2, 7)]).await;
        assert_eq!(told, [Turned::Gap(vec![(1, 2), (4, 5)])]);
        let mut end = over(&runs[1], first_hop(&runs[1]), vec![], vec![Leaf::Filtered]);
        end.fence = 2;
        sample.end(vec![end]).await;
        let again = messages(&sample, 1).await;
        let later = Turned::Waits(START_MS + 2 * WITHIN_MS);
        assert_eq!(
            turned(&sample, vec![asking(&again[0], 1, 7)]).await,
            [later]
        );
    }

    #[tokio::test]
    async fn a_gap_is_skipped_to_the_lowest_number_that_waits() {
        let sample = Sample::new();
        let runs = messages(&sample, 3).await;
        let skipping = |at: usize, fence, number| Number {
            skip: true,
            ..asking(&runs[at], fence, number)
        };
        turned(&sample, vec![skipping(0, 1, 7), skipping(1, 1, 4)]).await;
        sample
            .clock
            .advance(Duration::from_millis(WITHIN_MS as u64));
        let commit = Commit {
            numbers: vec![skipping(0, 2, 7)],
            ..Commit::default()
        };
        let committed = sample.store.commit(commit).await.unwrap();
        assert_eq!(committed.numbers, [Turned::Waits(START_MS + 2 * WITHIN_MS)]);
        assert_eq!(committed.released[0].run, runs[1].run);
        assert_eq!(
            turned(&sample, vec![skipping(1, 2, 4)]).await,
            [Turned::Goes(None)]
        );
        assert_eq!(
            turned(&sample, vec![skipping(2, 1, 3)]).await,
            [Turned::Old(4)]
        );
        passes(&sample, &[(&runs[1], 2, 4)]).await;
        sample
            .clock
            .advance(Duration::from_millis(WITHIN_MS as u64));
        let last = turned(&sample, vec![skipping(0, 3, 7)]).await;
        assert_eq!(last, [Turned::Goes(Some((5, 6)))]);
    }
}
