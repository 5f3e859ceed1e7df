//! Copies of the store, made beside a running engine and checked before they count. It does not put them back (`restore`).
//!
//! A copy is one snapshot: it is read in one transaction, while the engine goes on writing. It is written beside its place, synced, read back,
//! and only then given its name, so that what has the name of a backup is one.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;
use rusqlite::backup::{Backup, StepResult};

use crate::failure::{Class, Failure};
use crate::world::disk;

use super::database::{Connection, Sql};
use super::reader::Reader;
use super::{BUSY, books, facts, failure, migrations};

/// How many pages are copied between two words about it.
const PAGES: i32 = 2_048;
/// What must be free beside the copy itself, in bytes.
const SPARE_BYTES: u64 = 16 << 20;
/// The fact that says when a backup was made.
const MADE: &str = "backup_at";

/// What is in a copy, as it was read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Its size.
    pub bytes: u64,
    /// The version of the store.
    pub version: usize,
    /// As of when it is, in milliseconds since 1970: what was accepted later may be missing.
    pub as_of_ms: i64,
    /// Runs that are kept.
    pub runs: u64,
    /// Hops: messages at a step, on their way or waiting.
    pub hops: u64,
    /// Exceptions that wait for a person.
    pub exceptions: u64,
}

/// How far a copy is: pages that are done, and all.
pub type Said<'a> = &'a mut dyn FnMut(u64, u64);

/// Copies the store into a new file, beside the engine that runs on it. Gives what is in the copy.
///
/// Fails with class `config` if the file is there already, and with class `unavailable` if there is too little space or the copy is not sound; then
/// no file is left.
pub fn backup(store: &Path, to: &Path, now_ms: i64, said: Said<'_>) -> Result<Inside, Failure> {
    // Says what is no store, or one of another program.
    drop(Reader::open(store)?);
    refuse_to_overwrite(to)?;
    let part = beside(to, ".part");
    let held = hold(&part)?;
    let made = (|| {
        room_for(store, to)?;
        let from = read_only(store)?;
        copy(&from, &part, said)?;
        let shown = part.display().to_string();
        let connection = rusqlite::Connection::open(&part)
            .map(Connection::Sqlite)
            .map_err(|error| failure(&shown, &error.into()))?;
        facts::put(&connection, MADE, now_ms).map_err(|error| failure(&shown, &error))?;
        drop(connection);
        sync(&part)?;
        let inside = look(&part)?;
        refuse_to_overwrite(to)?;
        std::fs::rename(&part, to).map_err(|error| disk::failure("write", to, &error))?;
        disk::sync_folder_of(to)?;
        Ok(inside)
    })();
    if made.is_err() {
        std::fs::remove_file(&part).ok();
        std::fs::remove_file(beside(&part, "-journal")).ok();
    }
    drop(held);
    made
}

/// Reads a copy back: all of its pages, its indexes, and whether its books balance. Fails with class `unavailable` if it is damaged.
pub fn look(file: &Path) -> Result<Inside, Failure> {
    let shown = file.display().to_string();
    let connection = read_only(file)?;
    let version = migrations::check(connection.sqlite(), &shown)?;
    if version == 0 {
        return Err(Failure::config(format!("{shown} is empty, no backup")));
    }
    let found = inside(&connection, version).map_err(|error| failure(&shown, &error))?;
    let inside = found.map_err(|why| {
        Failure::new(
            Class::Unavailable,
            format!("{shown} is damaged ({why}); take another copy"),
        )
    })?;
    let size = std::fs::metadata(file).map_err(|error| disk::failure("read", file, &error))?;
    Ok(Inside {
        bytes: size.len(),
        ..inside
    })
}

fn inside(connection: &Connection, version: usize) -> Sql<Result<Inside, String>> {
    let sound: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if sound != "ok" {
        return Ok(Err(sound));
    }
    // An older copy has other columns; its books are looked at once it is brought up to date.
    if version >= migrations::newest() {
        let (kept, counted) = (books::kept(connection)?, books::recounted(connection)?);
        if kept != counted || !kept.iter().all(|flow| flow.counts.balanced()) {
            return Ok(Err("its books do not balance".to_owned()));
        }
    }
    let count = |sql: &str| -> Sql<u64> {
        let many: i64 = connection.query_row(sql, (), |row| row.get(0))?;
        Ok(many.unsigned_abs())
    };
    let seen = "SELECT max(coalesce((SELECT value FROM facts WHERE name = 'clock_ms'), 0), coalesce((SELECT max(received_at) FROM runs), 0))";
    let as_of_ms = match facts::get(connection, MADE)? {
        Some(made_ms) => made_ms,
        None => connection.query_row(seen, (), |row| row.get(0))?,
    };
    Ok(Ok(Inside {
        bytes: 0,
        version,
        as_of_ms,
        runs: count("SELECT count(*) FROM runs")?,
        hops: count("SELECT count(*) FROM hops")?,
        exceptions: count("SELECT count(*) FROM exceptions WHERE state < 3")?,
    }))
}

/// Copies a database, as of one moment, into a file that nobody else uses.
pub(super) fn copy(from: &Connection, to: &Path, said: Said<'_>) -> Result<(), Failure> {
    let shown = to.display().to_string();
    let copied = (|| -> Sql<StepResult> {
        let mut target = rusqlite::Connection::open(to)?;
        // It is synced as a whole when it is complete.
        target.pragma_update(None, "synchronous", "OFF")?;
        let snapshot = from.sqlite().unchecked_transaction()?;
        // From here on the snapshot stands: without it each page that the engine writes would begin the copy anew.
        from.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
        let backup = Backup::new(from.sqlite(), &mut target)?;
        let last = loop {
            let step = backup.step(PAGES)?;
            let progress = backup.progress();
            let all = u64::from(progress.pagecount.unsigned_abs());
            said(all - u64::from(progress.remaining.unsigned_abs()), all);
            if step != StepResult::More {
                break step;
            }
        };
        drop(backup);
        snapshot.commit()?;
        // One file, with no log beside it.
        target.pragma_update(None, "journal_mode", "DELETE")?;
        Ok(last)
    })();
    match copied.map_err(|error| failure(&shown, &error))? {
        StepResult::Done => Ok(()),
        _ => Err(Failure::new(
            Class::Unavailable,
            format!("another program holds {shown}; close it"),
        )),
    }
}

/// A connection that cannot change anything.
pub(super) fn read_only(file: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> Sql<Connection> {
        let connection = rusqlite::Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(BUSY)?;
        Ok(Connection::Sqlite(connection))
    };
    open().map_err(|error| failure(&file.display().to_string(), &error))
}

/// Forgets when a copy was made: it is a store again.
pub(super) fn forget(connection: &Connection) -> Sql<()> {
    connection.execute("DELETE FROM facts WHERE name = ?1", [MADE])?;
    Ok(())
}

/// Makes a file durable, and lets only its owner read it: it has the content of messages.
pub(super) fn sync(file: &Path) -> Result<(), Failure> {
    File::open(file)
        .and_then(|open| {
            open.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            open.sync_all()
        })
        .map_err(|error| disk::failure("sync", file, &error))
}

/// The path with something behind its name.
pub(super) fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}

fn refuse_to_overwrite(file: &Path) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::config(format!(
            "{} exists, and a backup overwrites nothing; name a new file",
            file.display()
        )));
    }
    Ok(())
}

/// The file in which a copy grows, for us alone. One that was broken off is begun anew.
fn hold(part: &Path) -> Result<File, Failure> {
    let cannot = |error: std::io::Error| disk::failure("write", part, &error);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(part)
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::config(format!(
                "another backup is being written to {}; let it end",
                part.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    file.set_len(0).map_err(cannot)?;
    std::fs::remove_file(beside(part, "-journal")).ok();
    Ok(file)
}

/// Looks whether a copy of the store has room on the disk of `to`.
pub(super) fn room_for(store: &Path, to: &Path) -> Result<(), Failure> {
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let free = disk::free_bytes(folder)?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let needed = size(store) + size(&beside(store, "-wal")) + SPARE_BYTES;
    if free < needed {
        return Err(Failure::new(
            Class::Unavailable,
            format!(
                "{} has {} MB free, and the copy may need {} MB; free some space, or name another disk",
                folder.display(),
                free >> 20,
                needed >> 20
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sample::*;
    use super::*;

    fn silent() -> impl FnMut(u64, u64) {
        |_, _| {}
    }

    #[tokio::test]
    async fn a_backup_is_the_store_of_one_moment_while_others_write() {
        let sample = Sample::in_a_file();
        for n in 0..200 {
            let body = format!("{n}{}", "x".repeat(9_000));
            sample
                .accept(vec![sample.order(&n.to_string(), &body)])
                .await;
        }
        let to = sample.path().with_file_name("copy.db");
        let mut during = 0;
        let store = sample.store.clone();
        let runtime = tokio::runtime::Handle::current();
        let inside = {
            let orders: Vec<_> = (0..20)
                .map(|n| sample.order(&format!("later-{n}"), "1"))
                .collect();
            let mut orders = orders.into_iter();
            let path = sample.path().to_owned();
            let to = to.clone();
            tokio::task::spawn_blocking(move || {
                let mut said = |_, _| {
                    // Each step of the copy, somebody writes.
                    if let Some(order) = orders.next() {
                        let commit = super::super::commit::Commit {
                            accepts: vec![order],
                            ..Default::default()
                        };
                        runtime.block_on(store.commit(commit)).unwrap();
                        during += 1;
                    }
                };
                let inside = backup(&path, &to, START_MS, &mut said).unwrap();
                (inside, during)
            })
            .await
            .unwrap()
        };
        let (inside, during) = inside;
        assert!(during > 0, "nothing was written meanwhile");
        assert_eq!(
            (inside.runs, inside.hops, inside.as_of_ms),
            (200, 200, START_MS)
        );
        let copy = Reader::open(&to).unwrap();
        assert_eq!(copy.books().await.unwrap()[0].counts.in_flight, 200);
        assert_eq!(
            sample.store.books().await.unwrap()[0].counts.in_flight,
            200 + during
        );
        let mode = std::fs::metadata(&to).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = backup(sample.path(), &to, START_MS, &mut silent()).unwrap_err();
        assert!(
            again.message.contains("overwrites nothing"),
            "{}",
            again.message
        );
        assert!(!beside(&to, ".part").exists());
    }

    #[tokio::test]
    async fn what_was_damaged_is_not_taken_for_a_backup() {
        let sample = Sample::in_a_file();
        for n in 0..50 {
            let body = format!("{n}{}", "x".repeat(9_000));
            sample
                .accept(vec![sample.order(&n.to_string(), &body)])
                .await;
        }
        let to = sample.path().with_file_name("copy.db");
        backup(sample.path(), &to, START_MS, &mut silent()).unwrap();
        let mut bytes = std::fs::read(&to).unwrap();
        let half = bytes.len() / 2;
        bytes.truncate(half);
        std::fs::write(&to, &bytes).unwrap();
        let failure = look(&to).unwrap_err();
        assert!(failure.message.contains("damaged"), "{}", failure.message);
        std::fs::write(&to, "no database at all, but text ............................................................................").unwrap();
        let failure = look(&to).unwrap_err();
        assert!(failure.message.contains("damaged"), "{}", failure.message);
    }

    #[tokio::test]
    async fn books_that_do_not_balance_are_no_backup() {
        let sample = Sample::in_a_file();
        sample.accept(vec![sample.order("A", "1")]).await;
        sample.store.shutdown().await;
        let connection = rusqlite::Connection::open(sample.path()).unwrap();
        connection
            .execute("UPDATE books SET accepted = accepted + 1", [])
            .unwrap();
        drop(connection);
        let to = sample.path().with_file_name("copy.db");
        let failure = backup(sample.path(), &to, START_MS, &mut silent()).unwrap_err();
        assert!(
            failure.message.contains("do not balance"),
            "{}",
            failure.message
        );
        assert!(!to.exists() && !beside(&to, ".part").exists());
    }
}
