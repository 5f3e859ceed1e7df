//! How a store is, for `doctor`: its version, its pages, its size. It reads, beside an engine or without one, and looks no longer than it may.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::failure::Failure;

use super::backup::{beside, read_only};
use super::database::Sql;
use super::postgres::Server;
use super::postgres::begin::now_ms;
use super::postgres::witness;
use super::{books, failure, migrations};

/// How a store is.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its version.
    pub version: usize,
    /// From which version on a program can read it.
    pub readable_by: usize,
    /// The version that this program brings a store to.
    pub known: usize,
    /// The size of the database.
    pub bytes: u64,
    /// The size of the log beside it.
    pub log_bytes: u64,
    /// Whether its pages are sound, or what is wrong; `None` if there was no time to look at all of them.
    pub sound: Option<Result<(), String>>,
    /// Whether the books balance, as they are kept.
    pub balanced: bool,
    /// The latest time that it has seen, in milliseconds since 1970.
    pub seen_ms: i64,
}

/// Looks at a store. Fails with class `config` if this program cannot read it, and with `unavailable` if nobody can.
pub fn look(path: &Path, within: Duration) -> Result<Standing, Failure> {
    let shown = path.display().to_string();
    let connection = read_only(path)?;
    let version = migrations::check(connection.sqlite(), &shown)?;
    if version == 0 {
        return Err(Failure::config(format!(
            "{shown} is an empty file, no store"
        )));
    }
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let known = migrations::newest();
    let found = (|| -> Sql<Standing> {
        let balanced = version < known
            || books::kept(&connection)?
                .iter()
                .all(|flow| flow.counts.balanced());
        Ok(Standing {
            version,
            readable_by: migrations::readable_by(connection.sqlite())?.unwrap_or(version),
            known,
            bytes: size(path),
            log_bytes: size(&beside(path, "-wal")),
            sound: sound(connection.sqlite(), within)?,
            balanced,
            seen_ms: connection.query_row(
                "SELECT max(coalesce((SELECT value FROM facts WHERE name = 'clock_ms'), 0),
                            coalesce((SELECT received_at FROM runs ORDER BY id DESC LIMIT 1), 0))",
                (),
                |row| row.get(0),
            )?,
        })
    })();
    found.map_err(|error| failure(&shown, &error))
}

/// How a store on a server is.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its version; `None` if it is not there.
    pub version: Option<usize>,
    /// The version that this program brings a store to.
    pub known: usize,
    /// Whether the server takes writes.
    pub writable: bool,
    /// Whether this user may make a schema.
    pub may_make: bool,
    /// The server's clock, in milliseconds since 1970.
    pub now_ms: i64,
    /// If it lacks what engines here have seen of it: what is to be done.
    pub lacks: Option<String>,
}

/// Looks at a store on a server, of which engines have made notes in this folder.
pub fn look_at(server: &Server, notes: &Path) -> Result<Served, Failure> {
    let noted = witness::noted(notes)?;
    super::apart(|| {
        let connection = server.connect().map_err(|error| server.failure(&error))?;
        let version = migrations::postgres::check(server, &connection)?;
        let all_in = match version {
            Some(_) => witness::all_in(server, &connection, &noted),
            None => Ok(()),
        };
        let asked = (|| -> Sql<Served> {
            let (writable, may_make) = connection.query_row(
                "SELECT CAST(CASE WHEN pg_is_in_recovery() THEN 0 ELSE 1 END AS BIGINT),
                        CAST(CASE WHEN has_database_privilege(current_database(), 'CREATE') THEN 1 ELSE 0 END AS BIGINT)",
                (),
                |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?)),
            )?;
            Ok(Served {
                version,
                known: migrations::newest(),
                writable: writable == 1,
                may_make: may_make == 1,
                now_ms: now_ms(&connection)?,
                lacks: all_in.err().map(|failure| failure.message),
            })
        })();
        asked.map_err(|error| server.failure(&error))
    })
}

/// Looks at the pages, and stops when the time is over.
fn sound(connection: &Connection, within: Duration) -> Sql<Option<Result<(), String>>> {
    let handle = connection.get_interrupt_handle();
    let (done, ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            handle.interrupt();
        }
    });
    let found: rusqlite::Result<String> =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    drop(done);
    watch.join().ok();
    match found {
        Ok(word) if word == "ok" => Ok(Some(Ok(()))),
        Ok(why) => Ok(Some(Err(why))),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Ok(None)
        }
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Ok(Some(Err(error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}
