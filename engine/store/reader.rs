//! Reading, apart from the writer: a few read-only connections, used on threads that may block. It never sees half a transaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{InterruptHandle, OpenFlags};
use tokio::sync::Semaphore;

use crate::failure::{Class, Failure};

use super::database::{Connection, Sql};
use super::postgres::Server;
use super::sync::Log;
use super::{failure, migrations};

/// How many reads may run at once.
const READS_MAX: usize = 4;

/// How long a read waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);

/// A store that can only be read. A clone shares its connections.
#[derive(Clone)]
pub struct Reader(Arc<Pool>);

struct Pool {
    place: Place,
    shown: String,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// What of the store is durable, where this process writes it.
    log: Option<Arc<Log>>,
}

/// Where a store is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a file of SQLite.
    File(PathBuf),
    /// On a PostgreSQL server.
    Server(Box<Server>),
}

impl Place {
    /// For people, without credentials.
    pub fn shown(&self) -> String {
        match self {
            Place::File(path) => path.display().to_string(),
            Place::Server(server) => server.shown().to_owned(),
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Place::File(path) => Some(path),
            Place::Server(_) => None,
        }
    }
}

impl Reader {
    /// Opens a store to read it, while an engine runs on it or not.
    pub fn at(place: &Place) -> Result<Reader, Failure> {
        match place {
            Place::File(path) => Reader::open(path),
            Place::Server(server) => Reader::open_server(server),
        }
    }

    fn open_server(server: &Server) -> Result<Reader, Failure> {
        let reader = Reader::of(Place::Server(Box::new(server.clone())), None);
        let version = super::apart(|| {
            let connection = server.connect().map_err(|error| server.failure(&error))?;
            let version = migrations::postgres::check(server, &connection)?;
            reader.0.put_back(connection);
            Ok(version)
        })?;
        match version {
            None => Err(Failure::new(
                Class::NotFound,
                format!(
                    "there is no store at {}; `crossdock run` makes it",
                    server.shown()
                ),
            )),
            Some(version) if version < migrations::newest() => Err(older(server.shown())),
            Some(_) => Ok(reader),
        }
    }

    /// The same for a file.
    pub fn open(path: &Path) -> Result<Reader, Failure> {
        if !path.exists() {
            return Err(Failure::new(
                Class::NotFound,
                format!(
                    "there is no store at {}; `crossdock run` makes it",
                    path.display()
                ),
            ));
        }
        let reader = Reader::of(Place::File(path.to_owned()), None);
        let connection = reader.0.connect()?;
        let version = migrations::check(connection.sqlite(), &reader.0.shown)?;
        if version == 0 {
            return Err(Failure::new(
                Class::NotFound,
                format!(
                    "{} is an empty file, no store; `crossdock run` makes one",
                    path.display()
                ),
            ));
        }
        if version < migrations::newest() {
            return Err(older(&reader.0.shown));
        }
        reader.0.put_back(connection);
        Ok(reader)
    }

    /// A reader of a store that this process has opened.
    pub(super) fn of(place: Place, log: Option<Arc<Log>>) -> Reader {
        Reader(Arc::new(Pool {
            shown: place.shown(),
            place,
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(READS_MAX)),
            log,
        }))
    }

    /// Where the store is.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Runs `read` over one snapshot of the store, on a thread that may block. Gives nothing that a power failure could take back, where
    /// this process writes the store. Who no longer waits for it ends it: nobody else waits behind a question without an asker.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = self.0.permits.clone().acquire_owned().await;
        let pool = self.0.clone();
        let asker = Asker::default();
        let asked = asker.0.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let connection = pool.connect()?;
            if !asked.begins(&connection) {
                pool.put_back(connection);
                return Err(Failure::internal("nobody waits for this read any more"));
            }
            let found = connection
                .snapshot()
                .and_then(|()| read(&connection))
                .and_then(|found| connection.end_snapshot().map(|()| found));
            asked.ended();
            match found {
                Ok(found) => {
                    pool.put_back(connection);
                    if let Some(log) = &pool.log {
                        log.durable()?;
                    }
                    Ok(found)
                }
                Err(error) => Err(failure(&pool.shown, &error)),
            }
        });
        let found = reading.await.unwrap_or_else(|_| {
            Err(Failure::internal(
                "a read of the store was broken off by a defect",
            ))
        });
        drop(asker);
        found
    }
}

/// Who waits for a read: the read ends when this goes.
#[derive(Default)]
struct Asker(Arc<Asked>);

impl Drop for Asker {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Reading::Runs(interrupt) = &*state {
            interrupt.interrupt();
        }
        *state = Reading::Given;
    }
}

/// How far a read has come.
#[derive(Default)]
struct Asked(Mutex<Reading>);

#[derive(Default)]
enum Reading {
    #[default]
    Waits,
    /// It runs, and can be ended so. Statements on a server have a time limit of their own.
    Runs(InterruptHandle),
    /// It has ended, or nobody waits for it.
    Given,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody still waits for it.
    fn begins(&self, connection: &Connection) -> bool {
        let mut state = self.lock();
        if matches!(*state, Reading::Given) {
            return false;
        }
        if let Connection::Sqlite(connection) = connection {
            *state = Reading::Runs(connection.get_interrupt_handle());
        }
        true
    }

    /// From now on the connection is not interrupted.
    fn ended(&self) {
        *self.lock() = Reading::Given;
    }
}

impl Pool {
    fn connect(&self) -> Result<Connection, Failure> {
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            match idle {
                Some(connection) if connection.is_there() => return Ok(connection),
                Some(_) => {}
                None => break,
            }
        }
        let path = match &self.place {
            Place::File(path) => path,
            Place::Server(server) => {
                return server.connect().map_err(|error| server.failure(&error));
            }
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = || -> Sql<Connection> {
            let connection = rusqlite::Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY)?;
            connection.set_prepared_statement_cache_capacity(64);
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            Ok(Connection::Sqlite(connection))
        };
        connect().map_err(|error| failure(&self.shown, &error))
    }

    fn put_back(&self, connection: Connection) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
}

fn older(shown: &str) -> Failure {
    Failure::new(
        Class::Config,
        format!("{shown} was written by an older crossdock; `crossdock run` brings it up to date"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::runs::RunFilter;
    use super::super::sample::*;
    use super::*;

    #[tokio::test]
    async fn a_store_is_read_while_an_engine_runs_on_it_and_afterwards() {
        let sample = Sample::new();
        sample.accept(vec![sample.order("A", "1")]).await;
        let reader = Reader::at(&sample.place).unwrap();
        let runs = || async { reader.runs(RunFilter::default()).await.unwrap().len() };
        assert_eq!(runs().await, 1);
        sample.accept(vec![sample.order("B", "1")]).await;
        assert_eq!(runs().await, 2);
        sample.store.shutdown().await;
        assert_eq!(runs().await, 2);
        let reader = Reader::at(&sample.place).unwrap();
        assert_eq!(reader.books().await.unwrap()[0].counts.in_flight, 2);
    }

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_ends() {
        // On a server statements have a time limit.
        let sample = Sample::in_a_file();
        let without_end =
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        for _ in 0..READS_MAX {
            let read = sample.store.read(move |connection| {
                connection.query_row(without_end, (), |row| row.get::<i64>(0))
            });
            let ended = tokio::time::timeout(Duration::from_millis(50), read).await;
            assert!(ended.is_err(), "it has no end");
        }
        let others = sample.store.books();
        let others = tokio::time::timeout(Duration::from_secs(20), others).await;
        others.expect("its place is free").unwrap();
    }

    #[tokio::test]
    async fn what_is_no_store_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        for (content, part) in [
            (None, "there is no store"),
            (Some(""), "empty"),
            (
                Some(
                    "just some text, long enough to be read as a header of something ..............................................",
                ),
                "damaged",
            ),
        ] {
            let path = folder.path().join("store.db");
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let failure = Reader::open(&path).err().unwrap();
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn runs_are_listed_by_flow_state_key_and_page() {
        let sample = Sample::new();
        for n in 0..5 {
            sample
                .accept(vec![sample.order(&format!("SO={n}"), "1")])
                .await;
        }
        let list = |filter: RunFilter| async {
            let runs = sample.store.runs(filter).await.unwrap();
            runs.iter().map(|row| row.run.0).collect::<Vec<_>>()
        };
        let with = |key: &str| RunFilter {
            key: Some(key.to_owned()),
            ..RunFilter::default()
        };
        assert_eq!(list(with("SO=3")).await, [4]);
        assert_eq!(list(with("order=SO=3")).await, [4]);
        assert!(list(with("customer=SO=3")).await.is_empty());
        let page = RunFilter {
            flow: Some("orders".to_owned()),
            state: Some(super::super::runs::RunState::InFlight),
            before: Some(super::super::commit::RunId(4)),
            limit: 2,
            ..RunFilter::default()
        };
        assert_eq!(list(page).await, [3, 2]);
        let other = RunFilter {
            flow: Some("other".to_owned()),
            ..RunFilter::default()
        };
        assert!(list(other).await.is_empty());
    }
}
