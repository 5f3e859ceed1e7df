//! Reading, apart from the writer: a few read-only connections, used on threads that may block. It never sees half a transaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use crate::failure::{Class, Failure};

use super::sync::Log;
use super::{Sql, failure, migrations};

/// How many reads may run at once.
const READS_MAX: usize = 4;

/// How long a read waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);

/// A store that can only be read. A clone shares its connections.
#[derive(Clone)]
pub struct Reader(Arc<Pool>);

struct Pool {
    path: PathBuf,
    shown: String,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// What of the store is durable, where this process writes it.
    log: Option<Arc<Log>>,
}

impl Reader {
    /// Opens a store to read it, while an engine runs on it or not.
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
        let reader = Reader::of(path, None);
        let connection = reader.0.connect()?;
        let version = migrations::check(&connection, &reader.0.shown)?;
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
            return Err(Failure::new(
                Class::Config,
                format!(
                    "{} was written by an older crossdock; `crossdock run` brings it up to date",
                    path.display()
                ),
            ));
        }
        reader.0.put_back(connection);
        Ok(reader)
    }

    /// A reader of a store that this process has opened.
    pub(super) fn of(path: &Path, log: Option<Arc<Log>>) -> Reader {
        Reader(Arc::new(Pool {
            path: path.to_owned(),
            shown: path.display().to_string(),
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(READS_MAX)),
            log,
        }))
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `read` over one snapshot of the store, on a thread that may block. Gives nothing that a power failure could take back, where
    /// this process writes the store.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = self.0.permits.clone().acquire_owned().await;
        let pool = self.0.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let connection = pool.connect()?;
            let found = (|| {
                let snapshot = connection.unchecked_transaction()?;
                let found = read(&connection)?;
                snapshot.commit()?;
                Ok(found)
            })();
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
        reading.await.unwrap_or_else(|_| {
            Err(Failure::internal(
                "a read of the store was broken off by a defect",
            ))
        })
    }
}

impl Pool {
    fn connect(&self) -> Result<Connection, Failure> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY)?;
            connection.set_prepared_statement_cache_capacity(64);
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            Ok(connection)
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

#[cfg(test)]
mod tests {
    use super::super::runs::RunFilter;
    use super::super::sample::*;
    use super::*;

    #[tokio::test]
    async fn a_store_is_read_while_an_engine_runs_on_it_and_afterwards() {
        let sample = Sample::new();
        sample.accept(vec![sample.order("A", "1")]).await;
        let reader = Reader::open(&sample.path).unwrap();
        let runs = || async { reader.runs(RunFilter::default()).await.unwrap().len() };
        assert_eq!(runs().await, 1);
        sample.accept(vec![sample.order("B", "1")]).await;
        assert_eq!(runs().await, 2);
        sample.store.shutdown().await;
        assert_eq!(runs().await, 2);
        let reader = Reader::open(&sample.path).unwrap();
        assert_eq!(reader.books().await.unwrap()[0].counts.in_flight, 2);
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
