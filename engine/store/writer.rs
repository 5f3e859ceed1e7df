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

use super::commit::{Commit, Committed, StoredHop};
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
    /// Held hops that this commit has made ready.
    pub(super) released: Vec<StoredHop>,
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
            released: Vec::new(),
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
        // A process that is being started at this moment holds a copy of the file: closing ours would not unlock it.
        if let Err(error) = lock.unlock() {
            tracing::warn!("the store's lock was not released: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample::*;
    use super::super::{Options, Store};
    use super::*;
    use crate::store::commit::{Accepted, Leaf};

    #[tokio::test(flavor = "multi_thread")]
    async fn commits_that_come_together_share_an_fsync() {
        let sample = Sample::new();
        let commits: Vec<_> = (0..200)
            .map(|n| {
                let run = sample.order(&n.to_string(), "1");
                let commit = Commit {
                    accepts: vec![run],
                    ..Commit::default()
                };
                let store = sample.store.clone();
                tokio::spawn(async move { store.commit(commit).await.unwrap() })
            })
            .collect();
        for commit in commits {
            assert_eq!(commit.await.unwrap().accepts, [Accepted::New]);
        }
        let (commits, transactions) = (sample.store.commits(), sample.store.transactions());
        assert_eq!(commits, 200);
        assert!(transactions < 150, "{transactions} transactions");
        assert!(transactions >= 200 / 64, "{transactions} transactions");
        assert_eq!(sample.books().await.accepted, 200);
    }

    /// A queue of two holds two commits that nobody writes; the third waits until it may be queued.
    #[tokio::test]
    async fn the_queue_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            queued_max: 2,
            ..Options::at(folder.path().join("store.db"))
        };
        let store = Store::open(options, World::real()).unwrap();
        // Another connection holds the write lock, so that the writer cannot go on.
        let other = Connection::open(folder.path().join("store.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.commit(Commit::default()).await })
            })
            .collect();
        tokio::time::timeout(Duration::from_secs(3), async {
            while store.0.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let fourth = store.commit(Commit::default());
        let late = tokio::time::timeout(Duration::from_millis(50), fourth).await;
        assert!(late.is_err(), "the fourth was queued");
        other.execute_batch("COMMIT").unwrap();
        for commit in waiting {
            commit.await.unwrap().unwrap();
        }
        assert_eq!(store.commits(), 3);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            bytes_max: Some(512 << 10),
            ..Options::at(folder.path().join("store.db"))
        };
        let mut sample = Sample::new();
        sample.store.shutdown().await;
        sample.store = Store::open(options, world(&sample.clock)).unwrap();
        let large = "x".repeat(20_000);
        let mut kept = Vec::new();
        let failure = loop {
            let run = sample.order(&kept.len().to_string(), &large);
            let commit = Commit {
                accepts: vec![run.clone()],
                ..Commit::default()
            };
            match sample.store.commit(commit).await {
                Ok(_) => kept.push(run),
                Err(failure) => break failure,
            }
            assert!(kept.len() < 100, "the limit has no effect");
        };
        assert_eq!(failure.class, Class::Unavailable);
        assert!(failure.message.contains("full"), "{}", failure.message);
        assert_eq!(sample.books().await.accepted, kept.len() as i64);
        let ends = kept
            .iter()
            .map(|run| over(run, first_hop(run), vec![], vec![Leaf::Delivered]));
        let ended = sample.end(ends.collect()).await.ends;
        assert!(ended.iter().all(|ended| *ended), "work goes on");
        assert_eq!(sample.books().await.delivered, kept.len() as i64);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_impossible_commit_is_refused_alone() {
        let sample = Sample::new();
        let twice = sample.order("A", "1");
        sample.accept(vec![twice.clone()]).await;
        let commits: Vec<_> = (0..10)
            .map(|n| {
                let mut run = sample.order(&format!("B{n}"), "1");
                if n == 5 {
                    run.run = twice.run;
                }
                let commit = Commit {
                    accepts: vec![run],
                    ..Commit::default()
                };
                let store = sample.store.clone();
                tokio::spawn(async move { store.commit(commit).await })
            })
            .collect();
        let mut refused = Vec::new();
        for commit in commits {
            refused.extend(commit.await.unwrap().err());
        }
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].class, Class::Internal);
        assert_eq!(sample.books().await.accepted, 10);
    }

    #[tokio::test]
    async fn a_store_that_broke_refuses_everything() {
        let sample = Sample::new();
        let (requests, queue) = std::sync::mpsc::channel();
        let mut writer = Writer {
            connection: Connection::open_in_memory().unwrap(),
            shown: "store.db".to_owned(),
            world: World::real(),
            owner: 1,
            next_hop: Arc::default(),
            hops_reserved: HOPS_RESERVED,
            group_max: 1,
            checkpoint_pages: 1,
            done: Arc::default(),
            broken: None,
            position: Position::default(),
            lock: File::open(&sample.path).unwrap(),
        };
        writer.give_up(&rusqlite::Error::InvalidQuery);
        let places = Arc::new(tokio::sync::Semaphore::new(1));
        let (answer, verdict) = oneshot::channel();
        let place = places.acquire_owned().await.unwrap();
        requests
            .send(Request::Commit(Box::default(), place, answer))
            .unwrap();
        drop(requests);
        writer.work(&queue);
        let failure = verdict.await.unwrap().unwrap_err();
        assert_eq!(failure.class, Class::Unavailable);
        assert!(failure.message.contains("anew"), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_second_engine_is_refused_and_a_closed_store_too() {
        let sample = Sample::new();
        let second = Store::open(Options::at(&sample.path), World::real());
        let failure = second.err().unwrap();
        let process = format!("process {}", std::process::id());
        assert!(failure.message.contains(&process), "{}", failure.message);
        let owner = sample.store.owner();
        sample.store.shutdown().await;
        let late = sample.store.commit(Commit::default()).await;
        assert_eq!(late.unwrap_err().class, Class::Unavailable);
        let again = Store::open(Options::at(&sample.path), World::real()).unwrap();
        assert!(again.owner() > owner);
    }

    #[tokio::test]
    async fn the_log_is_moved_into_the_database_when_there_is_nothing_to_do() {
        let sample = Sample::new();
        sample.accept(vec![sample.order("A", "1")]).await;
        assert_eq!(sample.store.fsyncs(), 1);
        tokio::time::timeout(Duration::from_secs(5), async {
            while sample.store.fsyncs() == 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(sample.store.fsyncs(), 4);
        let database = Connection::open(&sample.path).unwrap();
        let left: (i64, i64) = database
            .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
                Ok((row.get(1)?, row.get(2)?))
            })
            .unwrap();
        assert_eq!(left.0, left.1);
    }
}
