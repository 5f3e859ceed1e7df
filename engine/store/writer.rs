//! The one thread that writes. It takes the commits that wait, puts them into one transaction, and hands it over to those who sync it
//! (`sync`); while they do it goes on with the next one.
//!
//! What goes wrong: a commit whose cursor is elsewhere is refused alone. A full disk refuses all commits of the transaction, and later
//! ones may succeed. When the end of a transaction cannot be synced, nobody knows what is on the disk: the writer refuses everything
//! from then on, and a new start reads the truth.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::ErrorCode;
use rusqlite::config::DbConfig;
use tokio::sync::oneshot;

use crate::failure::{Class, Failure};
use crate::world::clock::Vigil;
use crate::world::{World, failpoint};

use super::checkpoint::{Mover, held, judge};
use super::clock::Way::{Back, Forward};
use super::commit::{Committed, RunEnded, StoredHop};
use super::database::{Connection, Error, Params, Sql};
use super::numbers::Numbers;
use super::queue::{Asked, Done, Fault, Queue, Request};
use super::retention::{Position, Retention, Swept};
use super::sync::{Group, Log, Syncer, Told};
use super::together::Together;
use super::{Doubt, apply, books, clock, facts, failure, retention};

/// How long the writer must have nothing to do before it has what it has written moved from the log into the database.
const IDLE: Duration = Duration::from_millis(250);

/// How many hop numbers are set aside at once.
pub(super) const HOPS_RESERVED: i64 = 1 << 20;

/// The writing side of a store. The order of the fields is that of their end: all is answered before the database is closed.
pub(super) struct Writer {
    pub(super) syncer: Syncer,
    pub(super) mover: Mover,
    pub(super) connection: Connection,
    /// Held open until the connection is closed: closing it gives up all locks of this process on the database.
    pub(super) database: Arc<File>,
    pub(super) log: Arc<Log>,
    pub(super) shown: String,
    pub(super) world: World,
    pub(super) owner: i64,
    pub(super) announces: bool,
    pub(super) doubt: Option<Doubt>,
    pub(super) hops: Arc<Numbers>,
    pub(super) hops_reserved: i64,
    pub(super) group_max: usize,
    pub(super) checkpoint_pages: i64,
    pub(super) done: Arc<Done>,
    pub(super) position: Position,
    /// Notices when the clock is set; what waits is moved with it, before anything is decided by it.
    pub(super) vigil: Vigil,
    /// The log is wholly moved: the next transaction begins it anew, and SQLite syncs its head.
    pub(super) moved: bool,
    /// Held until the connection is closed.
    pub(super) lock: File,
}

/// What the nouns need to write: one transaction.
pub(super) struct Writing<'c> {
    pub(super) connection: &'c Connection,
    pub(super) now_ms: i64,
    /// By how much `now_ms` is ahead of the clock of the engine, which has made the times in its commits.
    pub(super) ahead_ms: i64,
    pub(super) owner: i64,
    /// How people call the engine.
    pub(super) who: &'c str,
    /// Whether hops are announced; if not, they count as handed on.
    pub(super) announces: bool,
    pub(super) doubt: Option<Doubt>,
    /// Whether other engines work on the store at the same time.
    pub(super) shared: bool,
    pub(super) books: books::Deltas,
    /// Held hops that this commit has made ready.
    pub(super) released: Vec<StoredHop>,
    /// Runs that this commit has ended.
    pub(super) ended: Vec<RunEnded>,
    /// What the parts of this commit have asked together.
    pub(super) together: Together,
}

impl Writing<'_> {
    /// A time that an engine has made, by the store's clock.
    pub(super) fn at(&self, engines_ms: i64) -> i64 {
        engines_ms.saturating_add(self.ahead_ms)
    }

    /// Runs one statement, prepared once.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Sql<usize> {
        self.connection.execute(sql, params)
    }

    /// Runs one statement whose result nobody needs. Where the database is far away nobody waits for it.
    pub(super) fn put(&self, sql: &str, params: impl Params) -> Sql<()> {
        self.connection.put(sql, params)
    }
}

impl Writer {
    /// Works until it is asked to close, or nobody can ask any more.
    pub(super) fn work(mut self, requests: &Receiver<Request>) {
        let mut queue = Queue::of(requests);
        let mut dirty = false;
        loop {
            queue.look();
            if queue.has_passed() {
                self.moved |= self
                    .mover
                    .passed(self.connection.sqlite(), self.checkpoint_pages);
            }
            if let Some((retention, answer)) = queue.next_sweep() {
                self.sweep(&retention, answer);
            } else if let Some(first) = queue.next() {
                self.commit(vec![first], Some(&mut queue));
            } else if queue.is_closing() {
                break;
            } else {
                if !queue.wait(dirty.then_some(IDLE)) {
                    dirty = false;
                    self.move_log(0);
                }
                continue;
            }
            dirty = true;
            self.move_log(self.checkpoint_pages);
        }
        self.close();
    }

    /// One transaction for these, and for what comes from the queue meanwhile.
    fn commit(&mut self, mut group: Vec<Asked>, queue: Option<&mut Queue<'_>>) {
        match self.transact(&mut group, queue) {
            Ok((number, verdicts)) => {
                let answers = group.into_iter().zip(verdicts);
                let answers = answers
                    .map(|((_, place, answer), verdict)| Told::Commit(place, answer, verdict))
                    .collect();
                self.log.hand_over(Group { number, answers });
            }
            Err(Fault::Statement(_)) if group.len() > 1 => {
                for one in group {
                    self.commit(vec![one], None);
                }
            }
            Err(Fault::World(failure) | Fault::Statement(failure)) => {
                for (_, _, answer) in group {
                    answer.send(Err(failure.clone())).ok();
                }
            }
        }
    }

    fn transact(
        &mut self,
        group: &mut Vec<Asked>,
        queue: Option<&mut Queue<'_>>,
    ) -> Result<(u64, Vec<Result<Committed, Failure>>), Fault> {
        if let Some(failure) = self.log.broken() {
            return Err(Fault::World(failure));
        }
        self.begin()?;
        let (mut followed_ms, mut reserved) = (0, self.hops_reserved);
        match self.apply_all(group, queue, &mut followed_ms, &mut reserved) {
            Ok(verdicts) => {
                failpoint::hit("transaction-open");
                let number = self.end()?;
                failpoint::hit("transaction-written");
                // Only now: what is rolled back reserves nothing.
                self.hops_reserved = reserved;
                self.vigil.follow(followed_ms);
                let applied = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
                self.done.applied(applied);
                Ok((number, verdicts))
            }
            Err(error) => Err(self.roll_back(&error)),
        }
    }

    fn begin(&self) -> Result<(), Fault> {
        self.statement("BEGIN IMMEDIATE")
            .map_err(|error| Fault::World(failure(&self.shown, &error)))
    }

    /// Commits, and gives the transaction's number. A failure here may leave the log in a state that only a new start can judge.
    fn end(&mut self) -> Result<u64, Fault> {
        let number = self.log.begun();
        match self.statement("COMMIT") {
            Ok(()) => {
                self.done.transactions.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut self.moved) {
                    self.log.count(1);
                }
                Ok(number)
            }
            Err(error) if error.sqlite() == Some(ErrorCode::DiskFull) => {
                let answers = Vec::new();
                self.log.hand_over(Group { number, answers });
                Err(self.roll_back(&error))
            }
            Err(error) => Err(Fault::World(self.log.give_up(&error))),
        }
    }

    /// Applies these commits, then what waits; and as long as no sync could begin, what comes.
    fn apply_all(
        &mut self,
        group: &mut Vec<Asked>,
        mut queue: Option<&mut Queue<'_>>,
        followed_ms: &mut i64,
        reserved: &mut i64,
    ) -> Sql<Vec<Result<Committed, Failure>>> {
        let clock = &*self.world.clock;
        let mut writing = Writing {
            connection: &self.connection,
            now_ms: clock.now_ms(),
            ahead_ms: 0,
            owner: self.owner,
            who: "",
            announces: self.announces,
            doubt: self.doubt,
            shared: false,
            books: books::Deltas::default(),
            released: Vec::new(),
            ended: Vec::new(),
            together: Together::default(),
        };
        let mut verdicts = Vec::with_capacity(group.len());
        clock::keep(&mut writing, clock, &self.vigil, followed_ms, Forward)?;
        loop {
            for (commit, ..) in &group[verdicts.len()..] {
                verdicts.push(apply::apply(&mut writing, commit)?);
            }
            let Some(queue) = &mut queue else { break };
            if group.len() >= self.group_max {
                break;
            }
            queue.look();
            if let Some(next) = queue.next() {
                group.push(next);
            } else if queue.is_urgent() || self.log.has_room() {
                break;
            } else {
                queue.wait(None);
                clock::keep(&mut writing, clock, &self.vigil, followed_ms, Forward)?;
            }
        }
        clock::keep(&mut writing, clock, &self.vigil, followed_ms, Back)?;
        writing.books.write(writing.connection)?;
        let next_hop = self.hops.peek();
        if next_hop > self.hops_reserved - HOPS_RESERVED / 2 {
            *reserved = next_hop + HOPS_RESERVED;
            facts::put(writing.connection, "hops_reserved", *reserved)?;
        }
        Ok(verdicts)
    }

    fn roll_back(&mut self, error: &Error) -> Fault {
        if !self.connection.sqlite().is_autocommit()
            && let Err(error) = self.statement("ROLLBACK")
        {
            return Fault::World(self.log.give_up(&error));
        }
        let failure = failure(&self.shown, error);
        if failure.class == Class::Internal {
            Fault::Statement(failure)
        } else {
            Fault::World(failure)
        }
    }

    fn sweep(&mut self, retention: &Retention, answer: oneshot::Sender<Result<Swept, Failure>>) {
        match self.try_sweep(retention) {
            Ok((number, swept)) => {
                let answers = vec![Told::Sweep(answer, swept)];
                self.log.hand_over(Group { number, answers });
            }
            Err(Fault::World(failure) | Fault::Statement(failure)) => {
                answer.send(Err(failure)).ok();
            }
        }
    }

    fn try_sweep(&mut self, retention: &Retention) -> Result<(u64, Swept), Fault> {
        if let Some(failure) = self.log.broken() {
            return Err(Fault::World(failure));
        }
        if self.vigil.look(&*self.world.clock) != 0 {
            let (number, _) = self.transact(&mut Vec::new(), None)?;
            let answers = Vec::new();
            self.log.hand_over(Group { number, answers });
        }
        self.begin()?;
        let now_ms = self.world.clock.now_ms();
        let mut position = self.position;
        match retention::sweep(&self.connection, retention, now_ms, &mut position) {
            Ok(swept) => {
                failpoint::hit("sweep-in-transaction");
                let number = self.end()?;
                self.position = position;
                Ok((number, swept))
            }
            Err(error) => Err(self.roll_back(&error)),
        }
    }

    /// Has the log moved into the database if it is longer than this, unless that is under way. Readers are not disturbed; what they
    /// still need stays in the log until the next time.
    fn move_log(&mut self, pages_max: i64) {
        if self.mover.is_moving() || self.log.broken().is_some() {
            return;
        }
        let held = judge(held(self.connection.sqlite()), &self.log, &self.shown);
        if held.is_some_and(|held| held.left > pages_max) {
            self.mover.order();
        }
    }

    fn statement(&self, sql: &str) -> Sql<()> {
        prepared(&self.connection, sql)
    }

    fn close(self) {
        drop((self.syncer, self.mover));
        // A log that could not be synced is left for the next start to judge.
        let closing = match self.log.broken() {
            Some(_) => self
                .connection
                .sqlite()
                .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
                .map(drop)
                .map_err(Error::from),
            None => prepared(&self.connection, "PRAGMA wal_checkpoint(TRUNCATE)"),
        };
        if let Err(error) = closing {
            tracing::warn!("{}", failure(&self.shown, &error).message);
        }
        if let Connection::Sqlite(connection) = self.connection
            && let Err((_, error)) = connection.close()
        {
            tracing::warn!("the store was not closed: {error}");
        }
        drop(self.database);
        // A process that is being started at this moment holds a copy of the file: closing ours would not unlock it.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!("the store's lock was not released: {error}");
        }
    }
}

/// Runs a statement that gives nothing that matters.
fn prepared(connection: &Connection, sql: &str) -> Sql<()> {
    connection.prepare_cached(sql)?.each((), |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;
    use tokio::sync::oneshot;

    use super::super::queue::ACCEPTS_AHEAD;
    use super::super::sample::*;
    use super::super::{Options, Store};
    use super::*;
    use crate::store::commit::{Accepted, Commit, Leaf};

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
            bytes_max: Some(1100 << 10),
            ..Options::at(folder.path().join("store.db"))
        };
        let mut sample = Sample::new();
        sample.store.shutdown().await;
        sample.store = Store::open(options, world(&sample.clock)).unwrap();
        let large = "x".repeat(100_000);
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
    async fn new_messages_go_before_what_nobody_waits_for() {
        let (requests, asked) = std::sync::mpsc::channel();
        let sample = Sample::new();
        let places = Arc::new(tokio::sync::Semaphore::new(100));
        let mut answers = Vec::new();
        let many = ACCEPTS_AHEAD + 2;
        for accepts in [0, 0].into_iter().chain(std::iter::repeat_n(1, many)) {
            let (answer, verdict) = oneshot::channel();
            let commit = Commit {
                accepts: (0..accepts).map(|_| sample.order("A", "1")).collect(),
                ..Commit::default()
            };
            let place = places.clone().acquire_owned().await.unwrap();
            requests
                .send(Request::Commit(Box::new(commit), place, answer))
                .unwrap();
            answers.push(verdict);
        }
        let mut queue = Queue::of(&asked);
        queue.look();
        let order = std::iter::from_fn(|| queue.next()).map(|(commit, ..)| commit.accepts.len());
        let mut expected = vec![1; many];
        // Nor does the other side wait for ever.
        expected.insert(ACCEPTS_AHEAD, 0);
        expected.push(0);
        assert_eq!(order.collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_second_engine_is_refused_and_a_closed_store_too() {
        let sample = Sample::in_a_file();
        let second = Store::open(sample.options(), World::real());
        let failure = second.err().unwrap();
        let process = format!("process {}", std::process::id());
        assert!(failure.message.contains(&process), "{}", failure.message);
        let owner = sample.store.owner();
        sample.store.shutdown().await;
        let late = sample.store.commit(Commit::default()).await;
        assert_eq!(late.unwrap_err().class, Class::Unavailable);
        let again = Store::open(sample.options(), World::real()).unwrap();
        assert!(again.owner() > owner);
    }

    #[tokio::test]
    async fn the_log_is_moved_into_the_database_when_there_is_nothing_to_do() {
        let sample = Sample::in_a_file();
        sample.accept(vec![sample.order("A", "1")]).await;
        // The new log's head, and the transaction.
        assert_eq!(sample.store.fsyncs(), 2);
        let database = Connection::open(sample.path()).unwrap();
        let runs = database.query_row("SELECT count(*) FROM runs", [], |row| row.get::<_, i64>(0));
        assert_eq!(runs, Ok(1));
        let left = || {
            database
                .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
                    Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?)
                })
                .unwrap()
        };
        tokio::time::timeout(Duration::from_secs(5), async {
            // The log, and the database.
            while left() > 0 || sample.store.fsyncs() < 4 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(sample.store.fsyncs(), 4);
    }

    /// Four commit all the time, and somebody reads all the time; the log is moved again and again and begins anew.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_log_stays_short_under_constant_load() {
        const PAGES_MAX: u32 = 32;
        const BODY: usize = 20_000;
        const EACH: usize = 300;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let options = Options {
            checkpoint_pages: PAGES_MAX,
            ..Options::at(&path)
        };
        let store = Store::open(options, World::real()).unwrap();
        let reading = {
            let store = store.clone();
            tokio::spawn(async move {
                loop {
                    store.books().await.unwrap();
                }
            })
        };
        let mut writing = tokio::task::JoinSet::new();
        for worker in 0..4 {
            let sample = Sample::over(store.clone());
            writing.spawn(async move {
                for n in 0..EACH {
                    let order = sample.order(&format!("{worker}-{n}"), &"x".repeat(BODY));
                    sample.accept(vec![order]).await;
                }
            });
        }
        writing.join_all().await;
        reading.abort();
        let log = std::fs::metadata(super::super::sync::log_of(&path)).unwrap();
        let written = (4 * EACH * BODY) as u64;
        assert!(log.len() < written / 4, "{} bytes", log.len());
        assert_eq!(
            store.books().await.unwrap()[0].counts.accepted,
            4 * EACH as i64
        );
    }
}
