//! Databases for tests: each test has one of its own, and drops it. And a way to PostgreSQL that breaks when it is told to.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::ErrorCode::DatabaseBusy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Where PostgreSQL is.
const SERVER: &str = "127.0.0.1:5432";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A database of this test alone.
pub enum Database {
    Postgres(String),
    Sqlite(tempfile::TempDir),
}

async fn connected(database: &str) -> Client {
    let url = format!("postgres://postgres@{SERVER}/{database}");
    let connected = tokio_postgres::connect(&url, NoTls).await;
    let (client, connection) = connected.unwrap_or_else(|error| {
        panic!("no PostgreSQL answers as `postgres` on {SERVER} ({error}): run `make services`")
    });
    tokio::spawn(connection);
    client
}

impl Database {
    pub async fn postgres() -> Database {
        let name = format!(
            "crossdock_test_{}_{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let server = connected("postgres").await;
        for sql in [
            format!("DROP DATABASE IF EXISTS {name}"),
            format!("CREATE DATABASE {name}"),
        ] {
            server.batch_execute(&sql).await.unwrap();
        }
        Database::Postgres(name)
    }

    pub fn sqlite() -> Database {
        let folder = tempfile::tempdir().unwrap();
        drop(rusqlite::Connection::open(folder.path().join("target.db")).unwrap());
        Database::Sqlite(folder)
    }

    /// The URL of a system's file; `port` is another way to the server.
    pub fn url(&self, port: Option<u16>) -> String {
        match self {
            Database::Postgres(name) => {
                format!(
                    "postgres://postgres@127.0.0.1:{}/{name}",
                    port.unwrap_or(5432)
                )
            }
            Database::Sqlite(folder) => {
                format!("sqlite:{}", folder.path().join("target.db").display())
            }
        }
    }

    pub async fn run(&self, sql: &str) {
        match self {
            Database::Postgres(name) => connected(name).await.batch_execute(sql).await.unwrap(),
            Database::Sqlite(folder) => {
                let path = folder.path().join("target.db");
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.execute_batch(sql).unwrap();
            }
        }
    }

    /// The rows of a query, each as texts joined by `|`; NULL is `-`.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        match self {
            Database::Postgres(name) => {
                let found = connected(name).await.simple_query(sql).await.unwrap();
                let rows = found.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                rows.map(|row| {
                    let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("-"));
                    cells.collect::<Vec<_>>().join("|")
                })
                .collect()
            }
            Database::Sqlite(folder) => {
                let path = folder.path().join("target.db");
                // What a killed program has left is rolled back first; who meets another at that is told `busy` at once.
                for _ in 0..500 {
                    match rows_of(&path, sql) {
                        Err(error) if error.sqlite_error_code() == Some(DatabaseBusy) => {}
                        rows => return rows.unwrap(),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                panic!("{} is busy for 5 s", path.display());
            }
        }
    }

    pub async fn count(&self, table: &str) -> u64 {
        let rows = self.rows(&format!("SELECT count(*) FROM {table}")).await;
        rows[0].parse().unwrap()
    }

    pub async fn drop(self) {
        if let Database::Postgres(name) = self {
            let server = connected("postgres").await;
            let sql = format!("DROP DATABASE {name} WITH (FORCE)");
            server.batch_execute(&sql).await.unwrap();
        }
    }
}

/// The rows of a query to an SQLite database, as `Database::rows` gives them.
fn rows_of(path: &Path, sql: &str) -> rusqlite::Result<Vec<String>> {
    let connection = rusqlite::Connection::open(path)?;
    let mut statement = connection.prepare(sql)?;
    let width = statement.column_count();
    let rows = statement.query_map([], |row| {
        let cells = (0..width).map(|at| {
            Ok(match row.get_ref(at)? {
                rusqlite::types::ValueRef::Null => "-".to_owned(),
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                rusqlite::types::ValueRef::Real(number) => number.to_string(),
                rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
            })
        });
        Ok(cells.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
    })?;
    rows.collect()
}

/// A way to PostgreSQL that breaks right after a COMMIT has come to the server, before its answer, as often as it is told.
pub struct Way {
    pub port: u16,
    left: Arc<AtomicU32>,
}

impl Way {
    pub async fn open() -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU32::new(0));
        let of = left.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let left = of.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(SERVER).await.unwrap();
                    carry(client, server, &left).await;
                });
            }
        });
        Way { port, left }
    }

    /// The answers of the next so many commits are lost.
    pub fn lose(&self, commits: u32) {
        self.left.store(commits, Ordering::SeqCst);
    }

    /// How many are still to be lost.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, left: &AtomicU32) {
    let (mut there, mut back) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut there) => {
                let Ok(length @ 1..) = read else { return };
                let commits = there[..length].windows(7).any(|seven| seven == b"COMMIT\0");
                if server.write_all(&there[..length]).await.is_err() {
                    return;
                }
                if commits && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                    // The server has made it: its answer is here, and goes nowhere.
                    drop(server.read(&mut back).await);
                    return;
                }
            }
            read = server.read(&mut back) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&back[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
