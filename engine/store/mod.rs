//! Durable state, one file a noun. It does not know flows.
//!
//! One thread writes (`writer`), a few connections read (`reader`), and `commit` is the one value that changes anything.

#![allow(
    clippy::disallowed_methods,
    reason = "the store owns its database, its folder and its lock file: a named exception to `world`"
)]

use std::fs::{File, TryLockError};
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::sync::{Semaphore, oneshot};

use crate::failure::{Class, Failure};
use crate::world::clock::{Clock, Vigil};
use crate::world::{World, disk};

pub mod announcements;
pub mod answers;
pub mod approvals;
pub mod audit;
pub mod backup;
pub mod books;
pub mod calls;
pub mod canaries;
pub mod chains;
pub mod commit;
pub mod cursors;
pub mod decisions;
pub mod effects;
pub mod envelope;
pub mod erasure;
pub mod exceptions;
pub mod facts;
pub mod groups;
pub mod hops;
pub mod journeys;
pub mod measures;
pub mod notices;
pub mod personal;
pub mod reader;
pub mod replays;
pub mod reruns;
pub mod restore;
pub mod retention;
pub mod revisions;
pub mod runs;
pub mod sagas;
pub mod sequences;
pub mod sessions;
pub mod shadows;
pub mod standing;
pub mod systems;
pub mod toggles;
pub mod tokens;
pub mod versions;
pub mod waits;

mod apply;
mod checkpoint;
mod claims;
mod clock;
mod database;
mod doubt;
mod migrations;
mod numbers;
pub mod postgres;
mod queue;
pub mod sync;
mod together;
mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
pub(crate) mod sample;

use checkpoint::{Mover, Passes};
use commit::{Commit, Committed, HopId, RunId};
use database::{Connection, Error, Sql};
use doubt::Doubt;
use numbers::{Block, Numbers};
use postgres::begin::Use;
use postgres::lead::{Lead, Leads};
use postgres::{Away, Server};
use queue::{Done, Request};
use reader::{Place, Reader};
use retention::{Retention, Swept};
use sync::{Log, SyncFile, Syncer};
use writer::{HOPS_RESERVED, Writer};

/// Where a store is, and its limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is; the folder of a file is made if it is missing.
    pub place: Place,
    /// Whether hops are announced to a hand-off outside of the store, so that other engines may work on them: the store notes which were. A
    /// server's store may be open in all of them; a file is open in one, whatever is said here.
    pub sharing: Use,
    /// How people call the engine, where several share the store.
    pub who: String,
    /// In which folder of its own disk the engine notes what it has seen of a store on a server.
    pub witness: Option<PathBuf>,
    /// How many commits may wait for the writer or be with it; more wait before they are queued.
    pub queued_max: usize,
    /// How many commits may share a transaction.
    pub group_max: usize,
    /// How much memory the writer may use to keep pages at hand.
    pub cache_bytes: u64,
    /// How large the database may grow; beyond it commits fail as on a full disk. `None`: as large as the disk.
    pub bytes_max: Option<u64>,
    /// How many pages the log may have before they are moved into the database without waiting for an idle moment.
    pub checkpoint_pages: u32,
    /// How the log is made durable.
    pub sync: SyncFile,
}

impl Options {
    /// A store at this path, with the default limits: 256 queued commits, 64 in a transaction, a cache of 16 MiB, no limit on its size.
    pub fn at(path: impl Into<PathBuf>) -> Options {
        Options::of(Place::File(path.into()))
    }

    /// A store at this place, with the same limits, for this engine alone.
    pub fn of(place: Place) -> Options {
        Options {
            place,
            sharing: Use::Alone,
            who: String::new(),
            witness: None,
            queued_max: 256,
            group_max: 64,
            cache_bytes: 16 << 20,
            bytes_max: None,
            checkpoint_pages: 4096,
            sync: SyncFile::real(),
        }
    }
}

/// A store that is open for writing. A clone is the same store; reads are those of `Reader`.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    reader: Reader,
    requests: Sender<Request>,
    places: Arc<Semaphore>,
    runs: Arc<Numbers>,
    hops: Arc<Numbers>,
    owner: i64,
    shared: bool,
    clock: Arc<dyn Clock>,
    /// How far the store's clock is ahead of ours, in milliseconds.
    ahead_ms: Arc<AtomicI64>,
    /// Where others may lead.
    leads: Option<Leads>,
    /// Whether its server is away, as the log has it.
    away: Option<Arc<Away>>,
    done: Arc<Done>,
    log: Arc<Log>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Deref for Store {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.0.reader
    }
}

impl Store {
    /// Opens a store for writing, and makes it if there is none. Only one engine at a time can have it open, unless all of them share it.
    pub fn open(options: Options, world: World) -> Result<Store, Failure> {
        match options.place.clone() {
            Place::File(path) => Store::open_file(&path, &options, world),
            Place::Server(server) => Store::open_server(&server, &options, world),
        }
    }

    fn open_file(path: &Path, options: &Options, world: World) -> Result<Store, Failure> {
        let shown = path.display().to_string();
        let failed = |error: rusqlite::Error| failure(&shown, &error.into());
        make_folder_of(path)?;
        let lock = lock(path)?;
        restore::none_broken_off(path)?;
        let connection = connect(path, options).map_err(failed)?;
        migrations::migrate(&connection, &shown)?;
        let moved = settle(&connection, &shown)?;
        let connection = Connection::Sqlite(connection);
        personal::begin(&connection).map_err(|error| failure(&shown, &error))?;
        let announces = options.sharing == Use::Shared;
        let start = begin(&connection, world.clock.now_ms(), announces)
            .map_err(|error| failure(&shown, &error))?;
        let clock = world.clock.clone();
        let done = Done::of(world.metrics.store());
        let log = Log::of(&shown, done.meter.clone());
        let (requests, queue) = mpsc::channel();
        disk::sync_folder_of(path)?;
        let database = File::open(path).map(Arc::new);
        let database = database.map_err(|error| unsound(&shown, &error))?;
        let passes = Passes {
            connection: connect(path, options).map_err(failed)?,
            database: database.clone(),
            sync: options.sync.clone(),
        };
        let syncer = Syncer::start(&log, path, &options.sync, &requests);
        let mover = Mover::start(passes, &log, &shown, &requests);
        let hops = Arc::new(Numbers::all_from(start.next_hop));
        let vigil = Vigil::new(&*world.clock);
        let writer = Writer {
            syncer: syncer.map_err(|error| unsound(&shown, &error))?,
            mover: mover.map_err(|error| unsound(&shown, &error))?,
            connection,
            database,
            log: log.clone(),
            shown: shown.clone(),
            world,
            owner: start.owner,
            announces,
            doubt: start.doubt,
            hops: hops.clone(),
            hops_reserved: start.next_hop + HOPS_RESERVED,
            group_max: options.group_max.max(1),
            checkpoint_pages: i64::from(options.checkpoint_pages),
            done: done.clone(),
            position: retention::Position::default(),
            vigil,
            moved,
            lock,
        };
        let thread = spawn(move || writer.work(&queue))?;
        Ok(Store(Arc::new(Inner {
            reader: Reader::of(options.place.clone(), Some(log.clone())),
            requests,
            places: Arc::new(Semaphore::new(options.queued_max.max(1))),
            runs: Arc::new(Numbers::all_from(start.next_run)),
            hops,
            owner: start.owner,
            shared: false,
            clock,
            ahead_ms: Arc::default(),
            leads: None,
            away: None,
            done,
            log,
            thread: Mutex::new(Some(thread)),
        })))
    }

    fn open_server(server: &Server, options: &Options, world: World) -> Result<Store, Failure> {
        let drawn = i64::try_from(world.random.next() >> 1).unwrap_or(0);
        let (connection, start) = apart(|| postgres::begin::open(server, options, drawn))?;
        let done = Done::of(world.metrics.store());
        let log = Log::of(server.shown(), done.meter.clone());
        let away = Arc::new(Away::of(server.shown(), world.clock.clone()));
        let region = Block::region(start.owner);
        let runs = Arc::new(Numbers::of(start.runs, region));
        let ahead_ms = Arc::<AtomicI64>::default();
        let (requests, queue) = mpsc::channel();
        let clock = world.clock.clone();
        let writer = postgres::writer::Writer {
            server: server.clone(),
            how: options.sharing,
            connection: Some(connection),
            world,
            owner: start.owner,
            who: options.who.clone(),
            doubt: start.doubt,
            runs: runs.clone(),
            group_max: options.group_max.max(1),
            done: done.clone(),
            ahead_ms: ahead_ms.clone(),
            position: retention::Position::default(),
            number: 0,
            outage: postgres::writer::Outage::default(),
            away: away.clone(),
            life: start.life,
            counts: start.counts,
            witness: start.witness,
            log: log.clone(),
        };
        let thread = spawn(move || writer.work(&queue))?;
        Ok(Store(Arc::new(Inner {
            reader: Reader::of(options.place.clone(), None),
            requests,
            places: Arc::new(Semaphore::new(options.queued_max.max(1))),
            runs,
            hops: Arc::new(Numbers::of(region, Block::default())),
            owner: start.owner,
            shared: options.sharing == Use::Shared,
            clock,
            ahead_ms,
            leads: Some(Leads::of(server)),
            away: Some(away),
            done,
            log,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// The reading side, also for those that must not write.
    pub fn reader(&self) -> &Reader {
        &self.0.reader
    }

    /// The next run's number.
    pub fn next_run(&self) -> RunId {
        RunId(self.0.runs.next())
    }

    /// The next hop's number. No number is given twice, not even after a crash.
    pub fn next_hop(&self) -> HopId {
        HopId(self.0.hops.next())
    }

    /// Which start of an engine on this store this is: grows each time that the store is opened for writing.
    pub fn owner(&self) -> i64 {
        self.0.owner
    }

    /// What the store's clock shows, in milliseconds since 1970: by it waits end and leases die.
    pub fn now_ms(&self) -> i64 {
        self.at(self.0.clock.now_ms())
    }

    /// What the store's clock shows when the engine's shows this.
    pub fn at(&self, engines_ms: i64) -> i64 {
        engines_ms.saturating_add(self.0.ahead_ms.load(Ordering::Relaxed))
    }

    /// Whether other engines may use the store at the same time.
    pub fn is_shared(&self) -> bool {
        self.0.shared
    }

    /// The right to do what only one engine on the store may do; `None` if another one, or a part of this one, has it. To be asked again
    /// from time to time: it is free when its holder has dropped it, or has died.
    pub async fn lead(&self, name: &str) -> Result<Option<Lead>, Failure> {
        match &self.0.leads {
            Some(leads) => leads.lead(name).await,
            None => Ok(Some(Lead::alone())),
        }
    }

    /// Whether this failure belongs to an outage of the store's server, which the log has once for all that need the store meanwhile.
    pub fn has_said(&self, failure: &Failure) -> bool {
        self.0
            .away
            .as_ref()
            .is_some_and(|away| away.has_said(failure))
    }

    /// Makes a commit durable: the answer comes after the fsync. Waits first if the queue is full.
    ///
    /// Fails with class `conflict` if the commit's cursor is elsewhere, and with `unavailable` if the disk is full or broken or the
    /// store is closed; then nothing of it is applied. If the caller goes away while it waits for the answer, the commit is applied
    /// all the same.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, Failure> {
        let began = Instant::now();
        let place = self.0.places.clone().acquire_owned().await;
        let place = place.map_err(|_| closed())?;
        let (answer, verdict) = oneshot::channel();
        self.0
            .requests
            .send(Request::Commit(Box::new(commit), place, answer))
            .map_err(|_| closed())?;
        let committed = verdict.await.unwrap_or_else(|_| Err(closed()));
        self.0.done.meter.committed(began.elapsed());
        committed
    }

    /// Removes one batch of what is finished and old. To be called again at once if there is more.
    pub async fn sweep(&self, retention: Retention) -> Result<Swept, Failure> {
        let (answer, swept) = oneshot::channel();
        self.0
            .requests
            .send(Request::Sweep(retention, answer))
            .map_err(|_| closed())?;
        swept.await.unwrap_or_else(|_| Err(closed()))
    }

    /// How many commits were applied since the store was opened.
    pub fn commits(&self) -> u64 {
        self.0.done.commits.load(Ordering::Relaxed)
    }

    /// How many transactions they took.
    pub fn transactions(&self) -> u64 {
        self.0.done.transactions.load(Ordering::Relaxed)
    }

    /// How many fsyncs there were since the store was opened: those of the log, of which one may serve several transactions, and those of
    /// moving the log into the database (the log, the database, the new log's head).
    pub fn fsyncs(&self) -> u64 {
        self.0.log.syncs()
    }

    /// Waits until the store is broken, because what it wrote could not be synced: nothing is stored any more, and only a new start on a
    /// sound disk can tell what is there. Gives why.
    pub async fn breaks(&self) -> Failure {
        self.0.log.breaks().await
    }

    /// Finishes the commits that are queued, moves the log into the database and closes it. Later commits are refused.
    pub async fn shutdown(&self) {
        if let Some(leads) = &self.0.leads {
            leads.close().await;
        }
        self.0.requests.send(Request::Close).ok();
        let thread = self.0.thread();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's thread ended with a defect");
            }
        }
    }
}

impl Inner {
    fn thread(&self) -> Option<JoinHandle<()>> {
        self.thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.requests.send(Request::Close).ok();
        if let Some(thread) = self.thread() {
            thread.join().ok();
        }
    }
}

/// What a new start begins with.
struct Start {
    owner: i64,
    doubt: Option<Doubt>,
    next_run: i64,
    next_hop: i64,
}

/// How large a page is. Small pages write less where keys arrive in random order; measured against 4 and 16 KiB.
const PAGE_BYTES: u32 = 8192;

/// How long an open or a commit waits for a lock that another program holds on the file.
const BUSY: Duration = Duration::from_secs(5);

/// Makes the folder of the database durably. It is synced each time: a start that was broken off may have made it and not got further.
fn make_folder_of(path: &Path) -> Result<(), Failure> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    disk::make_folder(folder)
        .and_then(|()| disk::sync_folder_of(folder))
        .map_err(|failure| Failure {
            class: Class::Config,
            message: format!("the store has no folder: {}", failure.message),
            ..failure
        })
}

fn lock(path: &Path) -> Result<File, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let open = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&name);
    let cannot = |error: std::io::Error| {
        Failure::new(
            Class::Config,
            format!("the lock file {} cannot be used: {error}", name.display()),
        )
    };
    let mut file = open.map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).map_err(cannot)?;
            std::io::Write::write_all(&mut file, std::process::id().to_string().as_bytes())
                .map_err(cannot)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(cannot)?;
            Err(Failure::new(
                Class::Config,
                format!(
                    "another engine (process {owner}) runs on the store {}; stop it, or give this one a store of its own",
                    path.display()
                ),
            ))
        }
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

fn connect(path: &Path, options: &Options) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let cache_kib = i64::try_from(options.cache_bytes >> 10).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    if let Some(bytes_max) = options.bytes_max {
        let pages = i64::try_from(bytes_max / u64::from(PAGE_BYTES)).unwrap_or(i64::MAX);
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(connection)
}

fn begin(connection: &Connection, now_ms: i64, announces: bool) -> Sql<Start> {
    let fact = |name: &str| -> Sql<i64> { Ok(facts::get(connection, name)?.unwrap_or(0)) };
    let transaction = connection.sqlite().unchecked_transaction()?;
    if let Some(by_ms) = clock::catch_up(connection, now_ms)? {
        tracing::warn!(
            "the clock is {} s behind what the store has seen; what waits is moved with it",
            -by_ms / 1_000
        );
    }
    if announces {
        announcements::begin(connection)?;
    }
    let owner = fact("owner")? + 1;
    let next_hop = fact("hops_reserved")? + 1;
    let highest: i64 =
        connection.query_row("SELECT coalesce(max(id), 0) FROM runs", (), |row| {
            row.get(0)
        })?;
    let high = fact("runs_high")?;
    // Retention raises it, where it is.
    facts::put(connection, "runs_high", high)?;
    let next_run = highest.max(high) + 1;
    facts::put(connection, "owner", owner)?;
    facts::put(connection, "hops_reserved", next_hop + HOPS_RESERVED)?;
    transaction.commit()?;
    Ok(Start {
        owner,
        doubt: Doubt::read(connection)?,
        next_run,
        next_hop,
    })
}

/// Moves into the database what the last process has left in the log. Gives whether that was all.
fn settle(connection: &rusqlite::Connection, shown: &str) -> Result<bool, Failure> {
    match checkpoint::passive(connection) {
        Ok((held, _)) => Ok(held.left == 0),
        // What is in the log is not lost; it is moved when there is room again.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(false),
        Err(error) => Err(failure(shown, &error.into())),
    }
}

fn unsound(shown: &str, error: &std::io::Error) -> Failure {
    Failure::new(
        Class::Unavailable,
        format!("the store {shown} cannot be made durable ({error}); check its disk"),
    )
}

/// Starts the thread that writes.
fn spawn(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(work)
        .map_err(|error| {
            Failure::new(
                Class::Unavailable,
                format!("the store's thread cannot be started: {error}"),
            )
        })
}

/// Does this on a thread of its own, which may block as this one need not, and waits for it.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Failure::internal("the store was not opened, by a defect")))
}

/// What an error of the database means for the caller. Errors that no user can cause are of class `internal`.
fn failure(shown: &str, error: &Error) -> Failure {
    let (class, message) = match error.sqlite() {
        None if matches!(error, Error::Postgres(_) | Error::Late(_) | Error::Broken) => {
            return postgres::failure(shown, error);
        }
        Some(ErrorCode::DiskFull) => (
            Class::Unavailable,
            format!("the disk of the store {shown} is full; free some space, nothing is lost"),
        ),
        Some(ErrorCode::SystemIoFailure) => (
            Class::Unavailable,
            format!("the disk of the store {shown} fails ({error}); check it, nothing is lost"),
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            Class::Unavailable,
            format!("another program holds the store {shown}; close it"),
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => (
            Class::Unavailable,
            format!("the store {shown} cannot be opened ({error}); check the path and its rights"),
        ),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
            Class::Unavailable,
            format!("the store {shown} is damaged ({error}); restore a copy of it"),
        ),
        _ => (
            Class::Internal,
            format!("the store {shown} was asked for something impossible: {error}"),
        ),
    };
    Failure::new(class, message)
}

fn closed() -> Failure {
    Failure::new(
        Class::Unavailable,
        "the store is closed; the engine is stopping",
    )
}

/// A limit for SQL; 0 means 100.
fn limit(limit: usize) -> i64 {
    match limit {
        0 => 100,
        limit => i64::try_from(limit).unwrap_or(i64::MAX),
    }
}

/// The condition that a flow is on a list, where there is one: `parameter` is what `list_of` gives. In no name is a comma.
fn among(flow: &str, parameter: &str) -> String {
    format!(
        "(CAST({parameter} AS TEXT) IS NULL OR replace({parameter}, ',' || {flow} || ',', '') <> {parameter})"
    )
}

/// A list of names as one parameter.
fn list_of(names: Option<&[String]>) -> Option<String> {
    // Two commas between names: each has its own on both sides.
    names.map(|names| names.iter().map(|name| format!(",{name},")).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
