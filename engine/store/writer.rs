//! The one thread that writes. It takes all commits that wait, puts them into one transaction with one fsync, and answers them all.
//!
//! What goes wrong: a commit whose cursor is elsewhere is refused alone. A full disk refuses all commits of the transaction, and later
//! ones may succeed. When the end of a transaction cannot be synced, nobody knows what is on the disk: the writer refuses everything
//! from then on, and a new start reads the truth.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Params};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::failure::{Class, Failure};
use crate::world::World;

use super::commit::{Commit, Committed};
use super::retention::{Position, Retention, Swept};
use super::{Sql, apply, books, failure, retention};

/// How long the writer must have nothing to do before it moves what it has written from the log into the database.
const IDLE: Duration = Duration::from_millis(250);

/// How many hop numbers are set aside at once.
pub(super) const HOPS_RESERVED: i64 = 1 << 20;

/// What the writer is asked for.
pub(super) enum Request {
    /// A commit, the place in the queue that it holds, and where the answer goes.
    Commit(
        Box<Commit>,
        OwnedSemaphorePermit,
        oneshot::Sender<Result<Committed, Failure>>,
    ),
    /// One batch of retention.
    Sweep(Retention, oneshot::Sender<Result<Swept, Failure>>),
    /// Finish what is queued, then end.
    Close,
}

/// What the writer has done so far.
#[derive(Default)]
pub(super) struct Done {
    pub(super) commits: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) checkpoints: AtomicU64,
}

/// The writing side of a store.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) shown: String,
    pub(super) world: World,
    pub(super) owner: i64,
    pub(super) next_hop: Arc<AtomicI64>,
    pub(super) hops_reserved: i64,
    pub(super) group_max: usize,
    pub(super) checkpoint_pages: i64,
    pub(super) done: Arc<Done>,
    pub(super) broken: Option<Failure>,
    pub(super) position: Position,
    /// Held until the connection is closed.
    pub(super) lock: File,
}

/// What the nouns need to write: one transaction.
pub(super) struct Writing<'c> {
    pub(super) connection: &'c Connection,
    pub(super) now_ms: i64,
    pub(super) owner: i64,
    pub(super) books: books::Deltas,
}

impl Writing<'_> {
    /// Runs one statement, prepared once.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Sql<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }
}

type Answer = oneshot::Sender<Result<Committed, Failure>>;

/// Commits that share a transaction.
type Group = Vec<(Box<Commit>, OwnedSemaphorePermit, Answer)>;

/// Why a transaction did not happen.
enum Fault {
    /// The disk, a lock: it concerns every commit.
    World(Failure),
    /// A statement was wrong: it concerns one of the commits.
    Statement(Failure),
}

impl Writer {
    /// Works until it is asked to close, or nobody can ask any more.
    pub(super) fn work(mut self, requests: &Receiver<Request>) {
        let mut dirty = false;
        loop {
            let request = if dirty {
                requests.recv_timeout(IDLE)
            } else {
                requests.recv().map_err(RecvTimeoutError::from)
            };
            let mut next = match request {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => {
                    self.checkpoint();
                    dirty = false;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut group: Group = Vec::new();
            while let Some(Request::Commit(commit, permit, answer)) = next {
                group.push((commit, permit, answer));
                next = (group.len() < self.group_max)
                    .then(|| requests.try_recv().ok())
                    .flatten();
            }
            if !group.is_empty() {
                self.commit(group);
                dirty = true;
            }
            match next {
                Some(Request::Sweep(retention, answer)) => {
                    let swept = self.sweep(&retention);
                    answer.send(swept).ok();
                    dirty = true;
                }
                Some(Request::Close) => break,
                Some(Request::Commit(..)) | None => {}
            }
            if dirty && self.log_pages() > self.checkpoint_pages {
                self.checkpoint();
            }
        }
        self.close();
    }

    fn commit(&mut self, group: Group) {
        let commits: Vec<&Commit> = group.iter().map(|(commit, ..)| &**commit).collect();
        match self.transact(&commits) {
            Ok(verdicts) => {
                for ((_, _, answer), verdict) in group.into_iter().zip(verdicts) {
                    answer.send(verdict).ok();
                }
            }
            Err(Fault::World(failure)) => {
                for (_, _, answer) in group {
                    answer.send(Err(failure.clone())).ok();
                }
            }
            Err(Fault::Statement(failure)) if group.len() == 1 => {
                for (_, _, answer) in group {
                    answer.send(Err(failure.clone())).ok();
                }
            }
            Err(Fault::Statement(_)) => {
                for one in group {
                    self.commit(vec![one]);
                }
            }
        }
    }

    fn transact(&mut self, commits: &[&Commit]) -> Result<Vec<Result<Committed, Failure>>, Fault> {
        if let Some(failure) = &self.broken {
            return Err(Fault::World(failure.clone()));
        }
        self.begin()?;
        let applied = self.apply_all(commits);
        match applied {
            Ok(verdicts) => {
                self.end()?;
                let applied = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
                let applied = u64::try_from(applied).unwrap_or(u64::MAX);
                self.done.commits.fetch_add(applied, Ordering::Relaxed);
                Ok(verdicts)
            }
            Err(error) => Err(self.roll_back(&error)),
        }
    }

    fn begin(&self) -> Result<(), Fault> {
        self.statement("BEGIN IMMEDIATE")
            .map_err(|error| Fault::World(failure(&self.shown, &error)))
    }

    /// Commits. A failure here may leave the log in a state that only a new start can judge.
    fn end(&mut self) -> Result<(), Fault> {
        match self.statement("COMMIT") {
            Ok(()) => {
                self.done.transactions.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
                    return Err(self.roll_back(&error));
                }
                Err(Fault::World(self.give_up(&error)))
            }
        }
    }

    fn apply_all(&mut self, commits: &[&Commit]) -> Sql<Vec<Result<Committed, Failure>>> {
        let mut writing = Writing {
            connection: &self.connection,
            now_ms: self.world.clock.now_ms(),
            owner: self.owner,
            books: books::Deltas::default(),
        };
        let mut verdicts = Vec::with_capacity(commits.len());
        for commit in commits {
            verdicts.push(apply::apply(&mut writing, commit)?);
        }
        writing.books.write(writing.connection)?;
        let next_hop = self.next_hop.load(Ordering::SeqCst);
        if next_hop > self.hops_reserved - HOPS_RESERVED / 2 {
            let reserved = next_hop + HOPS_RESERVED;
            writing.run(
                "UPDATE facts SET value = ?1 WHERE name = 'hops_reserved'",
                [reserved],
            )?;
            self.hops_reserved = reserved;
        }
        Ok(verdicts)
    }

    fn roll_back(&mut self, error: &rusqlite::Error) -> Fault {
        if !self.connection.is_autocommit()
            && let Err(error) = self.statement("ROLLBACK")
        {
            return Fault::World(self.give_up(&error));
        }
        let failure = failure(&self.shown, error);
        if failure.class == Class::Internal {
            Fault::Statement(failure)
        } else {
            Fault::World(failure)
        }
    }

    /// From here on nothing is stored any more.
    fn give_up(&mut self, error: &rusqlite::Error) -> Failure {
        let failure = Failure::new(
            Class::Unavailable,
            format!(
                "{} could not be synced to the disk ({error}); nothing is accepted until the engine is started anew on a sound disk",
                self.shown
            ),
        );
        tracing::error!("{}", failure.message);
        self.broken = Some(failure.clone());
        failure
    }

    fn sweep(&mut self, retention: &Retention) -> Result<Swept, Failure> {
        let of = |fault: Fault| match fault {
            Fault::World(failure) | Fault::Statement(failure) => failure,
        };
        if let Some(failure) = &self.broken {
            return Err(failure.clone());
        }
        self.begin().map_err(of)?;
        let now_ms = self.world.clock.now_ms();
        let mut position = self.position;
        match retention::sweep(&self.connection, retention, now_ms, &mut position) {
            Ok(swept) => {
                self.end().map_err(of)?;
                self.position = position;
                Ok(swept)
            }
            Err(error) => Err(of(self.roll_back(&error))),
        }
    }

    /// How many pages of the log are not in the database yet.
    fn log_pages(&self) -> i64 {
        let pages = self
            .connection
            .prepare_cached("PRAGMA wal_checkpoint(NOOP)")
            .and_then(|mut statement| {
                statement.query_row([], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))
            });
        pages.unwrap_or(0)
    }

    /// Moves the log into the database. Readers are not disturbed; what they still need stays in the log until the next time.
    fn checkpoint(&self) {
        if self.broken.is_some() {
            return;
        }
        match self.statement("PRAGMA wal_checkpoint(PASSIVE)") {
            Ok(()) => {
                self.done.checkpoints.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!("{}", failure(&self.shown, &error).message),
        }
    }

    fn statement(&self, sql: &str) -> Sql<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    fn close(self) {
        if self.broken.is_none()
            && let Err(error) = self.statement("PRAGMA wal_checkpoint(TRUNCATE)")
        {
            tracing::warn!("{}", failure(&self.shown, &error).message);
        }
        let Writer {
            connection, lock, ..
        } = self;
        if let Err((_, error)) = connection.close() {
            tracing::warn!("the store was not closed: {error}");
        }
        drop(lock);
    }
}
