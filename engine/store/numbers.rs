//! Numbers of runs and hops. No number is given twice, by no engine on the store, not even after a crash.
//!
//! On SQLite they are dense, and its writer sees to what is set aside. On PostgreSQL each engine takes runs from blocks of its own: one that it
//! works through, and the next one, which its writer fetches in time. Hops have no blocks: each start of an engine has a region of its own.
//! If the server is away so long that the blocks are used up, runs are numbered from such a region as well.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::database::{Connection, Sql};
use super::facts;

/// How many numbers of runs are set aside at once. What is left of them is given back at a proper end.
pub(super) const RUNS: i64 = 1 << 14;

/// The fact that says up to which number of runs is set aside on PostgreSQL.
pub(super) const RESERVED: &str = "runs_reserved";

/// How many numbers the region of one start has.
const REGION_BITS: u32 = 38;

/// Numbers that are set aside, from the first to before the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Block {
    /// Those of one start of an engine.
    pub(super) fn region(owner: i64) -> Block {
        Block {
            from: (owner << REGION_BITS) + 1,
            to: (owner + 1) << REGION_BITS,
        }
    }

    fn next(&mut self) -> Option<i64> {
        (self.from < self.to).then(|| {
            self.from += 1;
            self.from - 1
        })
    }

    fn left(&self) -> i64 {
        self.to - self.from
    }
}

/// The numbers of one kind.
pub(super) struct Numbers(Mutex<Given>);

struct Given {
    now: Block,
    then: Option<Block>,
    at_last: Block,
}

impl Numbers {
    pub(super) fn of(now: Block, at_last: Block) -> Numbers {
        Numbers(Mutex::new(Given {
            now,
            then: None,
            at_last,
        }))
    }

    /// All numbers from this one on.
    pub(super) fn all_from(from: i64) -> Numbers {
        Numbers::of(Block { from, to: i64::MAX }, Block::default())
    }

    /// The next one.
    pub(super) fn next(&self) -> i64 {
        let mut given = self.given();
        if let Some(number) = given.now.next() {
            return number;
        }
        if let Some(then) = given.then.take() {
            given.now = then;
            if let Some(number) = given.now.next() {
                return number;
            }
        }
        given
            .at_last
            .next()
            .expect("a start gives fewer than 2^38 numbers")
    }

    /// The one that would come next.
    pub(super) fn peek(&self) -> i64 {
        self.given().now.from
    }

    /// Whether another block is needed soon.
    pub(super) fn run_short(&self) -> bool {
        let given = self.given();
        given.then.is_none() && given.now.left() < RUNS / 2
    }

    /// Another block.
    pub(super) fn add(&self, block: Block) {
        self.given().then = Some(block);
    }

    /// What nobody has used, if it is one piece.
    pub(super) fn left(&self) -> Option<Block> {
        let given = self.given();
        given.then.is_none().then_some(given.now)
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets numbers of runs aside, in a transaction that holds the store.
pub(super) fn reserve(connection: &Connection) -> Sql<Block> {
    let from = facts::get(connection, RESERVED)?.unwrap_or(0) + 1;
    let to = from + RUNS;
    facts::put(connection, RESERVED, to - 1)?;
    Ok(Block { from, to })
}

/// Gives back what was set aside last and not used, in a transaction that holds the store.
pub(super) fn give_back(connection: &Connection, left: Block) -> Sql<()> {
    if facts::get(connection, RESERVED)? == Some(left.to - 1) {
        facts::put(connection, RESERVED, left.from - 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_go_on_without_a_block_and_none_comes_twice() {
        let numbers = Numbers::of(Block { from: 1, to: 4 }, Block::region(7));
        assert!(numbers.run_short());
        numbers.add(Block { from: 100, to: 102 });
        let given: Vec<i64> = (0..7).map(|_| numbers.next()).collect();
        assert_eq!(given[..5], [1, 2, 3, 100, 101]);
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 7);
        assert!(given[5] > 1 << 40);
        let (a, b) = (Block::region(7), Block::region(8));
        assert!(a.from < a.to && a.to < b.from);
    }
}
