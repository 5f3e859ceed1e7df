//! Moves the log into the database beside the writer: passes on a thread and a connection of its own, and a short rest by the writer. It
//! does not decide when.
//!
//! A pass leaves what is committed while it runs. SQLite begins the log anew only when a writer finds that nothing was left, so the last
//! step must be the writer's, between two transactions. Before that the database is synced here, so that the rest has little to sync.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use crate::world::failpoint;

use super::failure;
use super::queue::Request;
use super::sync::{Log, SyncFile};

/// How many pages may be left for the writer.
const REST_PAGES: i64 = 64;

/// How many passes there are before the writer takes over whatever is left.
const PASSES_MAX: u32 = 4;

/// How many times its limit the log may have grown before the writer waits for readers, which keep it from beginning anew.
const OVERGROWN: i64 = 4;

/// How long the writer waits for them, each time.
const READERS: Duration = Duration::from_millis(100);

/// How much the log holds, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// All of it.
    pub(super) all: i64,
    /// What is not in the database yet.
    pub(super) left: i64,
}

/// How much the log holds right now.
pub(super) fn held(connection: &Connection) -> rusqlite::Result<Held> {
    checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)")
}

/// Moves all that no reader needs into the database, and syncs it if that is all of the log. Gives what is left, and how many syncs it took.
pub(super) fn passive(connection: &Connection) -> rusqlite::Result<(Held, u64)> {
    let before = held(connection)?;
    let after = checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
    let syncs = match before.left {
        0 => 0,
        _ => 1 + u64::from(after.left == 0),
    };
    Ok((after, syncs))
}

/// The same for a store that is at work.
fn passive_counted(connection: &Connection, log: &Log) -> rusqlite::Result<Held> {
    let (held, syncs) = passive(connection)?;
    log.count(syncs);
    Ok(held)
}

/// Looks at the result of a checkpoint: a failed sync breaks the store, all else is only said.
pub(super) fn judge(result: rusqlite::Result<Held>, log: &Log, shown: &str) -> Option<Held> {
    match result {
        Ok(held) => Some(held),
        Err(error) => {
            let code = error.sqlite_error().map(|error| error.extended_code);
            if code == Some(rusqlite::ffi::SQLITE_IOERR_FSYNC) {
                log.give_up(&error);
            } else {
                tracing::warn!("{}", failure(shown, &error.into()).message);
            }
            None
        }
    }
}

fn checkpoint(connection: &Connection, sql: &str) -> rusqlite::Result<Held> {
    connection.prepare_cached(sql)?.query_row([], |row| {
        let (all, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(Held {
            all,
            left: all - moved,
        })
    })
}

/// The thread of the passes, as the writer sees it: one pass at a time.
pub(super) struct Mover {
    orders: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// How many passes there were this time; 0: nothing is being moved.
    passes: u32,
    log: Arc<Log>,
    shown: String,
}

/// What a pass needs.
pub(super) struct Passes {
    pub(super) connection: Connection,
    /// The database, to sync it. To be closed after the writer's connection: closing it gives up all locks of this process on the file.
    pub(super) database: Arc<File>,
    pub(super) sync: SyncFile,
}

impl Mover {
    /// Starts the thread.
    pub(super) fn start(
        passes: Passes,
        log: &Arc<Log>,
        shown: &str,
        requests: &Sender<Request>,
    ) -> std::io::Result<Mover> {
        let (orders, ordered) = mpsc::channel();
        let work = {
            let (log, shown, requests) = (log.clone(), shown.to_owned(), requests.clone());
            move || {
                while ordered.recv().is_ok() {
                    passes.pass(&log, &shown);
                    requests.send(Request::Passed).ok();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("store-log".to_owned())
            .spawn(work)?;
        Ok(Mover {
            orders: Some(orders),
            thread: Some(thread),
            passes: 0,
            log: log.clone(),
            shown: shown.to_owned(),
        })
    }

    /// Whether passes are under way.
    pub(super) fn is_moving(&self) -> bool {
        self.passes > 0
    }

    /// Begins a pass, beside the writer.
    pub(super) fn order(&mut self) {
        if let Some(orders) = &self.orders {
            self.passes += 1;
            orders.send(()).ok();
        }
    }

    /// A pass has ended: another one, or the rest, here and now on the writer's connection. Gives whether the log is wholly moved.
    pub(super) fn passed(&mut self, connection: &Connection, log_max: i64) -> bool {
        let now = judge(held(connection), &self.log, &self.shown).unwrap_or_default();
        if now.left > REST_PAGES && self.passes < PASSES_MAX {
            self.order();
            return false;
        }
        self.passes = 0;
        if self.log.broken().is_some() {
            return false;
        }
        let mut after = Some(now);
        if now.left > 0 {
            after = judge(
                passive_counted(connection, &self.log),
                &self.log,
                &self.shown,
            );
        }
        if now.all > OVERGROWN * log_max {
            // Only if a reader has kept something back is there anything to sync.
            self.log
                .count(2 * u64::from(after.is_some_and(|after| after.left > 0)));
            after = judge(restart(connection), &self.log, &self.shown);
        }
        after.is_some_and(|after| after.left == 0)
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that moves the store's log ended with a defect");
        }
    }
}

impl Passes {
    fn pass(&self, log: &Log, shown: &str) {
        if log.broken().is_some() {
            return;
        }
        failpoint::hit("checkpoint-before");
        let passed = judge(passive_counted(&self.connection, log), log, shown);
        failpoint::hit("checkpoint-passed");
        if passed.is_some_and(|held| held.left > 0) {
            log.count(1);
            if let Err(error) = self.sync.call(&self.database) {
                log.give_up(&error);
            }
        }
    }
}

/// Lets the log begin anew although readers are at it: waits for them, a little.
fn restart(connection: &Connection) -> rusqlite::Result<Held> {
    connection.busy_timeout(READERS)?;
    let held = checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)");
    connection.busy_timeout(super::BUSY)?;
    held
}
