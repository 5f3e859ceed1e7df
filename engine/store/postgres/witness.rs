//! What engines have seen of a store on a server, noted on their own disks: so a store that was put back to an earlier moment is noticed where
//! nobody has said so. Each start of an engine has a file, with the number of its last transaction that counts. Numbers only grow, and are
//! noted after the server has promised to keep them: no crash, no clock and no standby that has all that was promised can make a note of what
//! the store does not have.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::failure::{Class, Failure};
use crate::store::database::{Connection, Optional, Sql};
use crate::store::facts;
use crate::world::disk;

use super::Server;

/// The fact that says which life of the store this is: drawn when it is made, and anew when it is marked as restored. Notes of another life
/// say nothing about this one.
pub(super) const LIFE: &str = "life";

/// How often what has changed is noted.
const EVERY: Duration = Duration::from_secs(2);
/// What a note may have, in bytes.
const NOTE_BYTES_MAX: u64 = 64;
/// How many notes are looked at.
const NOTES_MAX: usize = 10_000;

/// Where an engine makes its notes: beside its door.
pub fn folder_beside(door: &Path) -> PathBuf {
    door.with_file_name("seen")
}

/// What a start of an engine has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Seen {
    /// In which life of the store.
    pub(super) life: i64,
    /// Which start.
    pub(super) owner: i64,
    /// Its last transaction that counts.
    pub(super) number: i64,
}

impl Seen {
    /// Whether the store has all of this. A start that the store has forgotten, because it ended properly or long ago, proves nothing.
    pub(super) fn is_in(&self, connection: &Connection) -> Sql<bool> {
        if !is_up_to_date(connection)? || facts::get(connection, LIFE)? != Some(self.life) {
            return Ok(true);
        }
        if facts::get(connection, "owner")?.unwrap_or(0) < self.owner {
            return Ok(false);
        }
        let number: Option<i64> = connection
            .query_row(
                "SELECT number FROM engines WHERE owner = ?1",
                [self.owner],
                |row| row.get(0),
            )
            .optional()?;
        Ok(number.is_none_or(|number| number >= self.number))
    }

    /// The same for an engine that works on the store: this life of it is the one that it has begun in.
    pub(super) fn goes_on(&self, connection: &Connection) -> Sql<bool> {
        let up_to_date = is_up_to_date(connection)?;
        let same = facts::get(connection, LIFE)? == Some(self.life);
        Ok(!up_to_date || same && self.is_in(connection)?)
    }

    fn file(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:016x}-{}", self.life, self.owner))
    }
}

/// A standby may be behind what it has; it refuses writes anyway.
fn is_up_to_date(connection: &Connection) -> Sql<bool> {
    connection.query_row("SELECT NOT pg_is_in_recovery()", (), |row| row.get(0))
}

/// What this says to people.
pub(super) fn lacks(server: &Server) -> Failure {
    Failure::new(
        Class::Config,
        format!(
            "the store {} is older than what this engine has seen of it: it was put back to an earlier moment, or a standby took over that lacked what was promised. What was sent since would be sent again. Stop all engines, run `crossdock restore --mark`, and start them again (docs/operating/backup.md)",
            server.shown()
        ),
    )
}

/// All that was noted in this folder.
pub(in crate::store) fn noted(folder: &Path) -> Result<Vec<Seen>, Failure> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for file in disk::list(folder, false, NOTES_MAX)? {
        match note(&file) {
            Some(seen) => all.push(seen),
            None => tracing::warn!(
                "{} is no note of an engine; it is passed over",
                file.display()
            ),
        }
    }
    Ok(all)
}

/// Fails if the store lacks what one of these has seen.
pub(in crate::store) fn all_in(
    server: &Server,
    connection: &Connection,
    all: &[Seen],
) -> Result<(), Failure> {
    for seen in all {
        let there = seen.is_in(connection);
        if !there.map_err(|error| server.failure(&error))? {
            return Err(lacks(server));
        }
    }
    Ok(())
}

fn note(file: &Path) -> Option<Seen> {
    let (life, owner) = file.file_name()?.to_str()?.split_once('-')?;
    Some(Seen {
        life: i64::from_str_radix(life, 16).ok()?,
        owner: owner.parse().ok()?,
        number: disk::read_text(file, NOTE_BYTES_MAX)
            .ok()?
            .trim()
            .parse()
            .ok()?,
    })
}

/// Notes what an engine sees, as long as it works.
pub(in crate::store) struct Witness {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Begins with this; the number of the last transaction that counts is in `counts`. The notes of earlier starts are no longer needed: a store
    /// that lacks what they saw lacks this start as well.
    pub(super) fn begin(
        folder: &Path,
        seen: Seen,
        earlier: &[Seen],
        counts: &Arc<AtomicI64>,
    ) -> Result<Witness, Failure> {
        disk::make_folder(folder)?;
        let file = seen.file(folder);
        disk::write_atomic(&file, seen.number.to_string().as_bytes())?;
        for old in earlier {
            if old.life == seen.life && old.owner < seen.owner {
                disk::remove(&old.file(folder))?;
            }
        }
        let (stop, stopped) = mpsc::channel();
        let counts = counts.clone();
        let thread = std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || keep(&file, seen.number, &counts, &stopped))
            .map_err(|error| {
                Failure::new(
                    Class::Unavailable,
                    format!("the store's thread cannot be started: {error}"),
                )
            })?;
        Ok(Witness {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Witness {
    /// The last number is noted.
    fn drop(&mut self) {
        drop(self.stop.take());
        let joined = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = joined {
            tracing::error!("the thread that notes what was seen of the store ended with a defect");
        }
    }
}

fn keep(file: &Path, mut noted: i64, counts: &AtomicI64, stopped: &Receiver<()>) {
    let mut said = false;
    loop {
        let goes_on = stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout);
        let number = counts.load(Ordering::SeqCst);
        if number != noted {
            match disk::write_atomic(file, number.to_string().as_bytes()) {
                Ok(()) => (noted, said) = (number, false),
                Err(failure) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(%failure, "what this engine sees of the store cannot be noted: a store that is put back meanwhile is not noticed");
                    }
                }
            }
        }
        if !goes_on {
            return;
        }
    }
}
