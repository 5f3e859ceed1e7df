//! A SQLite file that messages are written to. One connection, on threads that may block.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::ffi;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ToSql, TransactionBehavior};

use super::{Deed, Dialect, Done, Field, Looked, Once, SWEEP_MOST, Trouble, differs, too_few};
use crate::failure::{Class, Failure};

/// A database file.
pub(super) struct File {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl File {
    pub(super) fn new(name: &str, path: &Path) -> File {
        File {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                path: path.to_owned(),
                connection: Mutex::new(None),
            }),
        }
    }

    pub(super) async fn apply(&self, deed: &Deed, timeout: Duration) -> Result<Done, Trouble> {
        let (inner, deed) = (self.inner.clone(), deed.clone());
        let done = tokio::task::spawn_blocking(move || {
            inner.with(timeout, |connection| inner.deed(connection, &deed))
        });
        done.await
            .unwrap_or_else(|_| Err(Trouble::Unknown(self.inner.broken())))
    }

    pub(super) async fn look(&self, within: Duration) -> Result<Looked, Failure> {
        let inner = self.inner.clone();
        let looked = tokio::task::spawn_blocking(move || {
            inner.with(within, |connection| {
                // Takes the right to write, and gives it back.
                let begun = connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK");
                let writable = match begun {
                    Ok(()) => true,
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => false,
                    Err(error) => return Err(inner.trouble(&error)),
                };
                Ok(Looked {
                    version: format!("SQLite {}", rusqlite::version()),
                    writable,
                    makes_tables: writable,
                })
            })
        });
        match looked
            .await
            .unwrap_or_else(|_| Err(Trouble::Refused(self.inner.broken())))
        {
            Ok(looked) => Ok(looked),
            Err(Trouble::Refused(failure) | Trouble::Unknown(failure)) => Err(failure),
        }
    }

    pub(super) async fn sweep(&self, ledger: &str, keep: Duration) -> Result<(), Failure> {
        let inner = self.inner.clone();
        let sql = format!(
            "DELETE FROM {ledger} WHERE effect IN (SELECT effect FROM {ledger} WHERE done_at < datetime('now', '-{} seconds') LIMIT {SWEEP_MOST})",
            keep.as_secs()
        );
        let swept = tokio::task::spawn_blocking(move || {
            let swept = inner.with(keep.min(Duration::from_secs(5)), |connection| {
                connection
                    .execute(&sql, [])
                    .map_err(|error| inner.trouble(&error))
            });
            match swept {
                Ok(_) => Ok(()),
                Err(Trouble::Refused(failure) | Trouble::Unknown(failure)) => Err(failure),
            }
        });
        swept.await.unwrap_or_else(|_| Err(self.inner.broken()))
    }
}

impl Inner {
    /// Works with the one connection; after trouble of the file itself a new one is made.
    fn with<T>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&mut Connection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut held = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => self.open().map_err(|error| self.trouble(&error))?,
        };
        connection
            .busy_timeout(timeout)
            .map_err(|error| self.trouble(&error))?;
        let done = work(&mut connection);
        if connection.is_autocommit() {
            *held = Some(connection);
        }
        done
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL")?;
        Ok(connection)
    }

    fn deed(&self, connection: &mut Connection, deed: &Deed) -> Result<Done, Trouble> {
        let trouble = |error: rusqlite::Error| self.trouble(&error);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(trouble)?;
        if let Some(once) = &deed.once {
            transaction
                .execute_batch(&Dialect::Sqlite.ledger(&once.ledger))
                .map_err(trouble)?;
            if let Some(request) = known(&transaction, once).map_err(trouble)? {
                return match request == once.request {
                    true => Ok(Done::Before),
                    false => Err(differs(&self.name)),
                };
            }
        }
        let rows = {
            let mut statement = transaction
                .prepare_cached(&deed.statement)
                .map_err(trouble)?;
            for (at, value) in deed.values.iter().enumerate() {
                statement
                    .raw_bind_parameter(at + 1, value)
                    .map_err(trouble)?;
            }
            statement.raw_execute().map_err(trouble)? as u64
        };
        if rows < deed.least {
            return Err(too_few(&self.name, rows, deed.least));
        }
        transaction.commit().map_err(trouble)?;
        Ok(Done::Now(rows))
    }

    fn trouble(&self, error: &rusqlite::Error) -> Trouble {
        let class = match error {
            rusqlite::Error::SqliteFailure(error, _) => class_of(error),
            _ => Class::Config,
        };
        let failure = Failure::new(class, format!("{}: {error}", self.name));
        match error.sqlite_error_code() {
            // What was written of the commit is not known.
            Some(ErrorCode::SystemIoFailure) => Trouble::Unknown(failure),
            _ => Trouble::Refused(failure),
        }
    }

    fn broken(&self) -> Failure {
        Failure::internal(format!(
            "{}: a defect of the engine while it wrote; please report it",
            self.name
        ))
    }
}

/// Puts the effect into the ledger; gives the request with which it was there before.
fn known(connection: &Connection, once: &Once) -> rusqlite::Result<Option<String>> {
    let new = connection
        .prepare_cached(&format!(
            "INSERT INTO {} (effect, request) VALUES (?1, ?2) ON CONFLICT (effect) DO NOTHING",
            once.ledger
        ))?
        .execute([&once.effect, &once.request])?;
    if new == 1 {
        return Ok(None);
    }
    connection
        .prepare_cached(&format!(
            "SELECT request FROM {} WHERE effect = ?1",
            once.ledger
        ))?
        .query_row([&once.effect], |row| row.get(0))
        .optional()
}

fn class_of(error: &ffi::Error) -> Class {
    match (error.code, error.extended_code) {
        (_, ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => Class::UnknownReference,
        (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => Class::Conflict,
        (ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig, _) => {
            Class::Validation
        }
        (
            ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::AuthorizationForStatementDenied,
            _,
        ) => Class::Forbidden,
        (
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::SystemIoFailure,
            _,
        ) => Class::Unavailable,
        _ => Class::Config,
    }
}

impl ToSql for Field {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Field::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Field::Bool(yes) => ToSqlOutput::from(*yes),
            // The column's affinity makes a number of it, or keeps it to the last digit.
            Field::Number(text) => match text.parse::<i64>() {
                Ok(whole) => ToSqlOutput::from(whole),
                Err(_) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            },
            Field::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}
