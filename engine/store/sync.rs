//! Makes commits durable: a thread that syncs the database's log and answers, while the writer goes on with the next transaction. It does
//! not look at what it makes durable.
//!
//! SQLite runs with synchronous=NORMAL: its COMMIT writes the log (the `-wal` file) and does not sync it; we do, and answer only then. So a
//! transaction is filled while the one before it is being synced. Why this loses as little as synchronous=FULL:
//!
//! - A group is answered only after an fdatasync of the log that began after its COMMIT had ended. What was answered is on the disk, and so
//!   is all that it was built upon: the log is one file, written from its beginning to its end, and the sync covers all of it. fdatasync
//!   also writes the file's size where it has grown.
//! - What is written and not synced may be lost at a power failure, but only from the end: SQLite takes a log up to the last commit whose
//!   chain of checksums holds. Nobody was answered about the rest, and nobody in this process has seen it: a read gives its result only
//!   after a sync of all that it can have seen (`durable`).
//! - A checkpoint syncs the log before it copies from it, and the database before it calls the log finished. NORMAL does both as FULL does.
//! - The log begins anew only after it was wholly copied and the database synced, so what waits for a sync of an older log is durable in
//!   the database. Its new head is synced before anything is written behind it; NORMAL does that as well.
//! - The log's file stays the same one: SQLite removes it only when the last connection closes. Its entry in the folder is synced at the
//!   start, and so is all that a killed process has left in it.
//! - A sync that fails makes the store broken for good: all that is not answered fails, and nothing more is written.
//!
//! One sync is under way at a time; what comes meanwhile shares the transaction that is open, which is committed when it has ended. Two at
//! once were measured: they cost more turns of the processors than they save time on the disk.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::failure::{Class, Failure};
use crate::world::metrics::StoreMeter;
use crate::world::{failpoint, mutation};

use super::closed;
use super::commit::Committed;
use super::queue::Request;
use super::retention::Swept;

type Call = dyn Fn(&File) -> io::Result<()> + Send + Sync;

/// How a file is made durable.
#[derive(Clone)]
pub struct SyncFile(Arc<Call>);

impl SyncFile {
    /// By the system's fdatasync.
    pub fn real() -> SyncFile {
        SyncFile::by(File::sync_data)
    }

    /// By this function: tests make disks slow and let them fail.
    pub fn by(sync: impl Fn(&File) -> io::Result<()> + Send + Sync + 'static) -> SyncFile {
        SyncFile(Arc::new(sync))
    }

    /// Makes all that was written to the file before this call durable.
    pub(super) fn call(&self, file: &File) -> io::Result<()> {
        if mutation::is("no-fsync") {
            return Ok(());
        }
        (self.0)(file)
    }
}

impl fmt::Debug for SyncFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SyncFile")
    }
}

/// Answers that wait for a sync: those of one transaction.
pub(super) struct Group {
    /// The transaction's number, from `Log::begun`.
    pub(super) number: u64,
    pub(super) answers: Vec<Told>,
}

/// Whom to tell what.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of them are commits, and they live as long as a sync"
)]
pub(super) enum Told {
    Commit(
        OwnedSemaphorePermit,
        oneshot::Sender<Result<Committed, Failure>>,
        Result<Committed, Failure>,
    ),
    Sweep(oneshot::Sender<Result<Swept, Failure>>, Swept),
}

impl Told {
    /// Tells it, or why nobody knows whether it is durable.
    fn tell(self, broken: Option<&Failure>) {
        match self {
            Told::Commit(place, answer, verdict) => {
                answer.send(broken.cloned().map_or(verdict, Err)).ok();
                drop(place);
            }
            Told::Sweep(answer, swept) => {
                answer.send(broken.cloned().map_or(Ok(swept), Err)).ok();
            }
        }
    }
}

/// What of the log is durable, and who waits for it. The writer's queue bounds how much can wait: a commit keeps its place there until it
/// is answered.
pub(super) struct Log {
    shown: String,
    state: Mutex<State>,
    /// A group has come, or there will be no more.
    came: Condvar,
    /// More is durable, or nothing will be.
    moved: Condvar,
    syncs: AtomicU64,
    meter: StoreMeter,
    /// The store is broken.
    gave_up: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Group>,
    /// A sync is under way.
    busy: bool,
    /// The writer wants to know when it has ended.
    call: bool,
    /// The newest transaction that may be in the log.
    begun: u64,
    /// All transactions up to this one are durable.
    durable: u64,
    broken: Option<Failure>,
    closing: bool,
}

impl Log {
    pub(super) fn of(shown: &str, meter: StoreMeter) -> Arc<Log> {
        Arc::new(Log {
            shown: shown.to_owned(),
            state: Mutex::default(),
            came: Condvar::new(),
            moved: Condvar::new(),
            syncs: AtomicU64::new(0),
            meter,
            gave_up: watch::Sender::new(false),
        })
    }

    /// Why nothing is stored any more, if the store is broken.
    pub(super) fn broken(&self) -> Option<Failure> {
        self.state().broken.clone()
    }

    /// A transaction is about to be committed: from now on readers may see it. To be followed by `hand_over` with this number, whatever
    /// becomes of it.
    pub(super) fn begun(&self) -> u64 {
        let mut state = self.state();
        state.begun += 1;
        state.begun
    }

    /// The group is answered after the next sync.
    pub(super) fn hand_over(&self, group: Group) {
        self.state().waiting.push_back(group);
        self.came.notify_one();
    }

    /// Whether a group that is handed over now is synced at once. If not, the writer gets a `Request::Synced` when that may have changed.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.state();
        let room = !state.busy && state.waiting.is_empty();
        state.call = !room;
        room
    }

    /// Waits until all that could be read by now is durable. Fails if it never will be.
    pub(super) fn durable(&self) -> Result<(), Failure> {
        let mut state = self.state();
        let wanted = state.begun;
        loop {
            if let Some(failure) = &state.broken {
                return Err(failure.clone());
            }
            if state.durable >= wanted {
                return Ok(());
            }
            if state.closing && !state.busy && state.waiting.is_empty() {
                return Err(closed());
            }
            let waited = self.moved.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From here on nothing is stored any more.
    pub(super) fn give_up(&self, error: &dyn fmt::Display) -> Failure {
        self.breaks_by(Failure::new(
            Class::Unavailable,
            format!(
                "{} could not be synced to the disk ({error}); nothing is accepted until the engine is started anew on a sound disk",
                self.shown
            ),
        ))
    }

    /// The same, for this reason. Gives the first reason.
    pub(super) fn breaks_by(&self, failure: Failure) -> Failure {
        let mut state = self.state();
        let failure = state.broken.get_or_insert_with(|| {
            tracing::error!("{}", failure.message);
            failure
        });
        let failure = failure.clone();
        self.moved.notify_all();
        self.gave_up.send_replace(true);
        failure
    }

    /// Waits until the store is broken; gives why.
    pub(super) async fn breaks(&self) -> Failure {
        // The sender lives as long as this waits: it is our own.
        self.gave_up
            .subscribe()
            .wait_for(|broken| *broken)
            .await
            .ok();
        self.broken().unwrap_or_else(closed)
    }

    /// How many syncs there were.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Counts syncs that SQLite has done.
    pub(super) fn count(&self, syncs: u64) {
        self.syncs.fetch_add(syncs, Ordering::Relaxed);
    }

    /// All groups that wait, as soon as there are any; `None` if there will be no more.
    fn next(&self) -> Option<VecDeque<Group>> {
        let mut state = self.state();
        loop {
            if !state.waiting.is_empty() {
                state.busy = true;
                return Some(std::mem::take(&mut state.waiting));
            }
            if state.closing {
                return None;
            }
            let waited = self.came.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A sync has ended that covers all transactions up to this one. Gives why that is not so, and whether the writer is to be called.
    fn ended(&self, number: u64, synced: io::Result<()>) -> (Option<Failure>, bool) {
        self.count(1);
        if let Err(error) = synced {
            self.meter.sync_errors.inc();
            self.give_up(&error);
        }
        let mut state = self.state();
        state.busy = false;
        if state.broken.is_none() {
            state.durable = state.durable.max(number);
        }
        self.moved.notify_all();
        (state.broken.clone(), std::mem::take(&mut state.call))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that syncs. Dropped, it waits until every group is answered.
pub(super) struct Syncer {
    log: Arc<Log>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread over a database whose log is there. What the log holds by now is durable when this returns; its entry in the
    /// folder is the caller's.
    pub(super) fn start(
        log: &Arc<Log>,
        database: &Path,
        sync: &SyncFile,
        requests: &Sender<Request>,
    ) -> io::Result<Syncer> {
        let file = File::open(log_of(database))?;
        sync.call(&file)?;
        let work = {
            let (log, sync, requests) = (log.clone(), sync.clone(), requests.clone());
            move || work(&log, &file, &sync, &requests)
        };
        let name = "store-sync".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(work)?;
        Ok(Syncer {
            log: log.clone(),
            thread: Some(thread),
        })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.log.state().closing = true;
        self.log.came.notify_all();
        let joined = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = joined {
            tracing::error!("the thread that syncs the store ended with a defect");
        }
        self.log.moved.notify_all();
    }
}

fn work(log: &Log, file: &File, sync: &SyncFile, requests: &Sender<Request>) {
    while let Some(groups) = log.next() {
        let began = Instant::now();
        let synced = match log.broken() {
            Some(_) => Ok(()),
            None => sync.call(file),
        };
        log.meter.synced(began.elapsed());
        failpoint::hit("log-synced");
        let newest = groups.back().map_or(0, |group| group.number);
        let (broken, call) = log.ended(newest, synced);
        if call {
            requests.send(Request::Synced).ok();
        }
        for told in groups.into_iter().flat_map(|group| group.answers) {
            told.tell(broken.as_ref());
        }
    }
}

/// The log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tokio::task::JoinHandle;

    use super::super::sample::*;
    use super::super::{Options, Store};
    use super::*;
    use crate::store::commit::Commit;
    use crate::store::retention::Retention;
    use crate::store::runs::RunFilter;
    use crate::world::World;

    /// A disk whose syncs end when the test says so, and as it says.
    #[derive(Clone, Default)]
    struct Disk(Arc<(Mutex<Syncs>, Condvar)>);

    #[derive(Default)]
    struct Syncs {
        held: bool,
        begun: usize,
        ended: BTreeMap<usize, bool>,
    }

    impl Disk {
        fn sync(&self, file: &File) -> io::Result<()> {
            let (syncs, moved) = &*self.0;
            let mut syncs = syncs.lock().unwrap();
            if syncs.held {
                let nth = syncs.begun;
                syncs.begun += 1;
                while !syncs.ended.contains_key(&nth) {
                    syncs = moved.wait(syncs).unwrap();
                }
                if !syncs.ended[&nth] {
                    return Err(io::Error::other("a bad block"));
                }
            }
            file.sync_data()
        }

        fn begun(&self) -> usize {
            self.0.0.lock().unwrap().begun
        }

        /// The nth of the held syncs ends, from 0, well or not.
        fn end(&self, nth: usize, well: bool) {
            self.0.0.lock().unwrap().ended.insert(nth, well);
            self.0.1.notify_all();
        }
    }

    /// A store on a disk that holds every sync from now on.
    fn held() -> (Sample, Disk) {
        let disk = Disk::default();
        let mut sample = Sample::in_a_file();
        let options = Options {
            sync: {
                let disk = disk.clone();
                SyncFile::by(move |file| disk.sync(file))
            },
            ..Options::at(sample.path().with_file_name("held.db"))
        };
        sample.place = options.place.clone();
        sample.store = Store::open(options, world(&sample.clock)).unwrap();
        disk.0.0.lock().unwrap().held = true;
        (sample, disk)
    }

    type Committing = JoinHandle<Result<Committed, Failure>>;

    fn accept(sample: &Sample, key: &str) -> Committing {
        let commit = Commit {
            accepts: vec![sample.order(key, "1")],
            ..Commit::default()
        };
        let store = sample.store.clone();
        tokio::spawn(async move { store.commit(commit).await })
    }

    async fn until(what: impl Fn() -> bool) {
        let waiting = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap();
    }

    /// Gives anything that is about to happen by mistake the time to happen.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    #[tokio::test]
    async fn a_commit_is_answered_after_a_sync_that_began_after_it_and_holds_nobody_up() {
        let (sample, disk) = held();
        let a = accept(&sample, "A");
        until(|| disk.begun() == 1).await;
        // While the first transaction is being synced the next one is applied and committed.
        // While it is being synced the next one is filled with all that comes.
        let (b, c) = (accept(&sample, "B"), accept(&sample, "C"));
        settle().await;
        assert_eq!((disk.begun(), sample.store.transactions()), (1, 1));
        assert!(!a.is_finished(), "answered too early");
        disk.end(0, true);
        a.await.unwrap().unwrap();
        until(|| disk.begun() == 2).await;
        assert_eq!(sample.store.transactions(), 2);
        settle().await;
        assert!(!b.is_finished() && !c.is_finished(), "answered too early");
        let d = accept(&sample, "D");
        disk.end(1, true);
        b.await.unwrap().unwrap();
        c.await.unwrap().unwrap();
        until(|| disk.begun() == 3).await;
        assert!(!d.is_finished(), "answered too early");
        disk.end(2, true);
        d.await.unwrap().unwrap();
        assert_eq!(sample.store.commits(), 4);
        for nth in 3..20 {
            disk.end(nth, true);
        }
    }

    #[tokio::test]
    async fn a_read_shows_nothing_that_is_not_durable() {
        let (sample, disk) = held();
        let a = accept(&sample, "A");
        until(|| disk.begun() == 1).await;
        let reader = sample.store.reader().clone();
        let read = tokio::spawn(async move { reader.runs(RunFilter::default()).await });
        settle().await;
        assert!(!read.is_finished(), "read too early");
        for nth in 0..20 {
            disk.end(nth, true);
        }
        assert_eq!(read.await.unwrap().unwrap().len(), 1);
        a.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_sync_that_fails_breaks_the_store_and_all_that_waits_fails() {
        let (mut sample, disk) = held();
        let before = accept(&sample, "before");
        disk.end(0, true);
        before.await.unwrap().unwrap();
        let a = accept(&sample, "A");
        until(|| disk.begun() == 2).await;
        let (b, c) = (accept(&sample, "B"), accept(&sample, "C"));
        settle().await;
        let reader = sample.store.reader().clone();
        let read = tokio::spawn(async move { reader.runs(RunFilter::default()).await });
        disk.end(1, false);
        settle().await;
        // What was applied later was built on what may be lost.
        for nth in 2..20 {
            disk.end(nth, true);
        }
        let read = read.await.unwrap().map(|_| ());
        let late = accept(&sample, "late");
        let retention = Retention {
            runs_ms: 1,
            bodies_ms: 1,
            exceptions_ms: 1,
            limit: 1,
        };
        let swept = sample.store.sweep(retention).await.map(|_| ());
        let mut told = vec![read, swept];
        for commit in [a, b, c, late] {
            told.push(commit.await.unwrap().map(|_| ()));
        }
        for told in told {
            let failure = told.unwrap_err();
            assert_eq!(failure.class, Class::Unavailable);
            assert!(failure.message.contains("anew"), "{}", failure.message);
        }
        sample.store.shutdown().await;
        sample.store = Store::open(Options::at(sample.path()), World::real()).unwrap();
        let runs = sample.store.runs(RunFilter::default()).await.unwrap();
        assert!(
            runs.iter()
                .any(|run| run.keys.values().any(|key| key == "before"))
        );
        assert!(
            !runs
                .iter()
                .any(|run| run.keys.values().any(|key| key == "late"))
        );
    }

    #[tokio::test]
    async fn a_store_that_is_closed_answers_all_first() {
        let (sample, disk) = held();
        let a = accept(&sample, "A");
        until(|| disk.begun() == 1).await;
        let store = sample.store.clone();
        let closing = tokio::spawn(async move { store.shutdown().await });
        settle().await;
        assert!(!closing.is_finished() && !a.is_finished());
        for nth in 0..20 {
            disk.end(nth, true);
        }
        closing.await.unwrap();
        a.await.unwrap().unwrap();
    }
}
