//! The books of a flow: every message that came, and where it is. Kept by differences in the transaction that moves the message, and
//! recountable from the runs.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::failure::Failure;

use super::database::{Connection, Row, Sql, params};
use super::reader::Reader;
use super::runs::RunState;

/// Counts of messages of one flow. Two sums hold at every moment; `balanced` says whether they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that came: accepted + duplicates + refused.
    pub received: i64,
    /// Became a run.
    pub accepted: i64,
    /// Known already.
    pub duplicates: i64,
    /// Turned away, because they break the contract and the flow refuses that.
    pub refused: i64,
    /// Runs that reached a sink.
    pub delivered: i64,
    /// Runs that ended by a filter.
    pub filtered: i64,
    /// Runs that were dropped for a reason.
    pub discarded: i64,
    /// Runs that were undone.
    pub compensated: i64,
    /// Runs that are being worked on, or wait for an attempt.
    pub in_flight: i64,
    /// Runs that wait for a person.
    pub in_exceptions: i64,
    /// Runs whose place another run of the same message has taken. They are in no sum: a message is counted once.
    pub superseded: i64,
}

/// The books of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// The flow.
    pub flow: Arc<str>,
    /// Its counts.
    pub counts: Counts,
}

impl Counts {
    /// Whether received = accepted + duplicates + refused, and accepted = all states of runs together.
    pub fn balanced(&self) -> bool {
        let states = self.delivered
            + self.filtered
            + self.discarded
            + self.compensated
            + self.in_flight
            + self.in_exceptions;
        self.received == self.accepted + self.duplicates + self.refused && self.accepted == states
    }

    /// The count of runs in this state.
    pub(super) fn of(&mut self, state: RunState) -> &mut i64 {
        match state {
            RunState::InFlight => &mut self.in_flight,
            RunState::InException => &mut self.in_exceptions,
            RunState::Delivered => &mut self.delivered,
            RunState::Filtered => &mut self.filtered,
            RunState::Discarded => &mut self.discarded,
            RunState::Compensated => &mut self.compensated,
            RunState::Superseded => &mut self.superseded,
        }
    }

    fn read(row: &Row<'_>) -> Sql<Counts> {
        Ok(Counts {
            received: row.get(1)?,
            accepted: row.get(2)?,
            duplicates: row.get(3)?,
            refused: row.get(4)?,
            delivered: row.get(5)?,
            filtered: row.get(6)?,
            discarded: row.get(7)?,
            compensated: row.get(8)?,
            in_flight: row.get(9)?,
            in_exceptions: row.get(10)?,
            superseded: row.get(11)?,
        })
    }
}

impl Reader {
    /// The books of all flows, by name, as they are kept.
    pub async fn books(&self) -> Result<Vec<Books>, Failure> {
        self.read(kept).await
    }

    /// The books of all flows, with every state counted anew from the runs (and the counts of runs that retention has removed).
    /// They equal `books`, or the engine has a defect. It reads every run.
    pub async fn recount(&self) -> Result<Vec<Books>, Failure> {
        self.read(recounted).await
    }
}

/// What one transaction adds to the books.
#[derive(Default)]
pub(super) struct Deltas(FxHashMap<Arc<str>, Counts>);

impl Deltas {
    pub(super) fn of(&mut self, flow: &Arc<str>) -> &mut Counts {
        if !self.0.contains_key(flow) {
            self.0.insert(flow.clone(), Counts::default());
        }
        self.0.get_mut(flow).expect("it was put there")
    }

    /// One row a flow. To be called once, before the transaction is committed.
    pub(super) fn write(&self, connection: &Connection) -> Sql<()> {
        let sql = "INSERT INTO books (flow, received, accepted, duplicates, refused, delivered, filtered, discarded, compensated, in_flight, in_exceptions, superseded)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (flow) DO UPDATE SET
             received = books.received + ?2, accepted = books.accepted + ?3, duplicates = books.duplicates + ?4, refused = books.refused + ?5,
             delivered = books.delivered + ?6, filtered = books.filtered + ?7, discarded = books.discarded + ?8, compensated = books.compensated + ?9,
             in_flight = books.in_flight + ?10, in_exceptions = books.in_exceptions + ?11, superseded = books.superseded + ?12";
        for (flow, counts) in &self.0 {
            if *counts == Counts::default() {
                continue;
            }
            let params = params![
                flow,
                counts.received,
                counts.accepted,
                counts.duplicates,
                counts.refused,
                counts.delivered,
                counts.filtered,
                counts.discarded,
                counts.compensated,
                counts.in_flight,
                counts.in_exceptions,
                counts.superseded,
            ];
            connection.put(sql, params)?;
        }
        Ok(())
    }
}

/// Notes that runs in a final state were removed.
pub(super) fn swept(connection: &Connection, flow: &str, state: RunState) -> Sql<()> {
    let column = match state {
        RunState::Delivered => "swept_delivered",
        RunState::Filtered => "swept_filtered",
        RunState::Discarded => "swept_discarded",
        RunState::Compensated => "swept_compensated",
        RunState::Superseded => "swept_superseded",
        RunState::InFlight | RunState::InException => return Ok(()),
    };
    let sql = format!("UPDATE books SET {column} = {column} + 1 WHERE flow = ?1");
    connection.put(&sql, [flow])
}

pub(super) fn kept(connection: &Connection) -> Sql<Vec<Books>> {
    let mut statement = connection.prepare_cached(
        "SELECT flow, received, accepted, duplicates, refused, delivered, filtered, discarded, compensated, in_flight, in_exceptions, superseded
         FROM books ORDER BY flow",
    )?;
    statement.query_map((), |row| {
        Ok(Books {
            flow: row.get(0)?,
            counts: Counts::read(row)?,
        })
    })
}

pub(super) fn recounted(connection: &Connection) -> Sql<Vec<Books>> {
    let mut statement = connection.prepare_cached(
        "SELECT flow, 0, 0, duplicates, refused, swept_delivered, swept_filtered, swept_discarded, swept_compensated, 0, 0, swept_superseded
         FROM books ORDER BY flow",
    )?;
    let mut books: Vec<Books> = statement.query_map((), |row| {
        Ok(Books {
            flow: row.get(0)?,
            counts: Counts::read(row)?,
        })
    })?;
    let mut statement =
        connection.prepare_cached("SELECT flow, state, count(*) FROM runs GROUP BY flow, state")?;
    statement.each((), |row| {
        let flow: Arc<str> = row.get(0)?;
        let at = match books.binary_search_by(|books| books.flow.cmp(&flow)) {
            Ok(at) => at,
            Err(at) => {
                let counts = Counts::default();
                books.insert(at, Books { flow, counts });
                at
            }
        };
        *books[at].counts.of(RunState::from_number(row.get(1)?)) += row.get::<i64>(2)?;
        Ok(())
    })?;
    for Books { counts, .. } in &mut books {
        counts.accepted = counts.delivered
            + counts.filtered
            + counts.discarded
            + counts.compensated
            + counts.in_flight
            + counts.in_exceptions;
        counts.received = counts.accepted + counts.duplicates + counts.refused;
    }
    Ok(books)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::commit::{Commit, First, HopId, Leaf, NewRun};
    use super::super::retention::Retention;
    use super::super::sample::*;

    #[derive(Clone, Debug)]
    enum Move {
        Accept {
            key: u8,
            content: u8,
            breaks: bool,
        },
        Refuse(u64),
        /// Ends the nth open hop: so many hops follow, so many leaves of each kind.
        End {
            nth: usize,
            follow: usize,
            leaves: Vec<u8>,
        },
        Wait(usize),
        Sweep,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            4 => (0..6u8, 0..2u8, prop::bool::weighted(0.1))
                .prop_map(|(key, content, breaks)| Move::Accept { key, content, breaks }),
            1 => (1..5u64).prop_map(Move::Refuse),
            6 => (0..9usize, 0..3usize, prop::collection::vec(0..4u8, 0..3))
                .prop_map(|(nth, follow, leaves)| Move::End { nth, follow, leaves }),
            1 => (0..9usize).prop_map(Move::Wait),
            1 => Just(Move::Sweep),
        ];
        prop::collection::vec(prop::collection::vec(one, 1..6), 1..12)
            .prop_map(|commits| commits.into_iter().flatten().collect())
    }

    /// Plays the moves; the books must balance and equal their recount after each.
    async fn play(moves: Vec<Move>) {
        let sample = Sample::new();
        let mut open: Vec<(NewRun, HopId)> = Vec::new();
        let mut received = 0;
        for one in moves {
            let mut commit = Commit::default();
            match one {
                Move::Accept {
                    key,
                    content,
                    breaks,
                } => {
                    received += 1;
                    let mut run = sample.order(&key.to_string(), &content.to_string());
                    run.claims[0].keep_ms = 0;
                    let hop = first_hop(&run);
                    if breaks {
                        run.first = First::Exception(exception(&run));
                    }
                    commit.accepts.push(run.clone());
                    let accepted = sample.store.commit(commit).await.unwrap().accepts;
                    if accepted == [super::super::commit::Accepted::New] && !breaks {
                        open.push((run, hop));
                    }
                }
                Move::Refuse(number) => {
                    received += number as i64;
                    commit.refused = Some(("orders".into(), number));
                    sample.store.commit(commit).await.unwrap();
                }
                Move::End {
                    nth,
                    follow,
                    leaves,
                } if !open.is_empty() => {
                    let (run, hop) = open.remove(nth % open.len());
                    let next: Vec<_> = (0..follow)
                        .map(|_| sample.hop(run.run, run.message, "next"))
                        .collect();
                    open.extend(next.iter().map(|hop| (run.clone(), hop.hop)));
                    let leaves = leaves.iter().map(|leaf| match leaf {
                        0 => Leaf::Delivered,
                        1 => Leaf::Filtered,
                        2 => Leaf::Discarded("old".to_owned()),
                        _ => Leaf::Exception(exception(&run)),
                    });
                    let end = over(&run, hop, next, leaves.collect());
                    assert_eq!(sample.end(vec![end]).await.ends, [true]);
                }
                Move::Wait(nth) if !open.is_empty() => {
                    let (run, hop) = open.remove(nth % open.len());
                    sample.end(vec![waits(&run, hop, START_MS)]).await;
                }
                Move::End { .. } | Move::Wait(_) => {}
                Move::Sweep => {
                    let all = Retention {
                        runs_ms: 0,
                        bodies_ms: 0,
                        exceptions_ms: 0,
                        limit: 2,
                    };
                    sample.store.sweep(all).await.unwrap();
                }
            }
            assert_eq!(sample.books().await.received, received);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn the_books_balance_and_equal_their_recount_after_every_commit(moves in moves()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(play(moves));
        }
    }
}
