//! The database's shape, as numbered steps from the first day. It only goes forward: a database of a newer program is refused.

use rusqlite::Connection;

use crate::failure::{Class, Failure};

/// Marks a file as ours: `CDOK`.
const APPLICATION_ID: i64 = 0x4344_4F4B;

/// Step n brings a database from version n to n + 1. A step that has shipped never changes.
const STEPS: &[&str] = &[
    FIRST,
    super::chains::TABLES,
    super::waits::TABLES,
    super::sagas::TABLES,
    CASES,
    super::systems::TABLES,
    super::versions::TABLE,
    super::groups::TABLES,
    super::sequences::TABLES,
];

/// Why each table looks as it does:
/// - a run's bytes stand apart from its state, so that ending a run rewrites a small row, and bytes can go earlier than the run
/// - `hops.body` and `hops.envelope` are null where they are the run's; `due_at` is null for a hop that is ready
/// - `runs.keys` repeats the rows of `keys`, so that these need no second index
/// - a claim ends with its run: it needs no column of its own for that, and none is written when the run ends
/// - `trail` has one row for each end of a hop, with its lines as JSON: a stage of ten steps costs one row
const FIRST: &str = "
CREATE TABLE facts (
  name TEXT PRIMARY KEY, value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
  id INTEGER PRIMARY KEY, message BLOB NOT NULL, root BLOB NOT NULL, flow TEXT NOT NULL, revision TEXT NOT NULL,
  received_at INTEGER NOT NULL, keys TEXT NOT NULL,
  open INTEGER NOT NULL, excepted INTEGER NOT NULL, worst INTEGER NOT NULL, state INTEGER NOT NULL, ended_at INTEGER
) STRICT;
CREATE INDEX runs_root ON runs (root);
CREATE INDEX runs_message ON runs (message) WHERE message <> root;

CREATE TABLE bodies (
  run INTEGER PRIMARY KEY, envelope BLOB NOT NULL, body BLOB NOT NULL
) STRICT;

CREATE TABLE hops (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL, message BLOB NOT NULL,
  fence INTEGER NOT NULL, attempt INTEGER NOT NULL, due_at INTEGER, last_failure TEXT, envelope BLOB, body BLOB
) STRICT;
CREATE INDEX hops_due ON hops (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE keys (
  value TEXT NOT NULL, name TEXT NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (value, name, run)
) STRICT, WITHOUT ROWID;

CREATE TABLE claims (
  scope TEXT NOT NULL, key TEXT NOT NULL, run INTEGER NOT NULL, hash BLOB NOT NULL, keep_ms INTEGER NOT NULL,
  PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_run ON claims (run);

CREATE TABLE trail (
  run INTEGER NOT NULL, hop INTEGER NOT NULL, fence INTEGER NOT NULL, lines TEXT NOT NULL, PRIMARY KEY (run, hop, fence)
) STRICT, WITHOUT ROWID;

CREATE TABLE effects (
  n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, run INTEGER NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL,
  item TEXT NOT NULL, state INTEGER NOT NULL, hop INTEGER NOT NULL, owner INTEGER NOT NULL, lease_until INTEGER NOT NULL,
  attempts INTEGER NOT NULL, absent INTEGER NOT NULL, first_at INTEGER NOT NULL, last_at INTEGER NOT NULL,
  idempotency_key TEXT, answer BLOB, request BLOB NOT NULL
) STRICT;
CREATE INDEX effects_run ON effects (run);

CREATE TABLE exceptions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL, class TEXT NOT NULL,
  message TEXT NOT NULL, detail TEXT, fingerprint TEXT NOT NULL, attempts INTEGER NOT NULL, state INTEGER NOT NULL,
  opened_at INTEGER NOT NULL, settled_at INTEGER, message_id BLOB NOT NULL,
  envelope BLOB, body BLOB, request BLOB, answer BLOB
) STRICT;
CREATE INDEX exceptions_run ON exceptions (run);

CREATE TABLE books (
  flow TEXT PRIMARY KEY, received INTEGER NOT NULL, accepted INTEGER NOT NULL, duplicates INTEGER NOT NULL,
  refused INTEGER NOT NULL, delivered INTEGER NOT NULL, filtered INTEGER NOT NULL, discarded INTEGER NOT NULL,
  compensated INTEGER NOT NULL, in_flight INTEGER NOT NULL, in_exceptions INTEGER NOT NULL,
  swept_delivered INTEGER NOT NULL DEFAULT 0, swept_filtered INTEGER NOT NULL DEFAULT 0,
  swept_discarded INTEGER NOT NULL DEFAULT 0, swept_compensated INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
  flow TEXT NOT NULL, cursor TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (flow, cursor)
) STRICT, WITHOUT ROWID;
";

/// What people do about exceptions, runs that are begun again, and what is told to people:
/// - `history` says who did what, when and why; the audit log builds on it
/// - `runs.replay_of` is the run whose place a run has taken, `changes` the run whose key it has with other content, `generation` the
///   highest one given to a part of it
/// - `effects.renew` is 1 after a person has said that the stored request need not be the one that is sent or was sent
/// - a notifier of one address has a cursor in `told`; notices go to it in their order
const CASES: &str = "
ALTER TABLE exceptions ADD COLUMN owner TEXT;
ALTER TABLE exceptions ADD COLUMN snoozed_until INTEGER;
ALTER TABLE exceptions ADD COLUMN how TEXT;
CREATE INDEX exceptions_cause ON exceptions (fingerprint) WHERE state < 3;
ALTER TABLE effects ADD COLUMN renew INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN replay_of INTEGER;
ALTER TABLE runs ADD COLUMN changes INTEGER;
ALTER TABLE runs ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE books ADD COLUMN superseded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE books ADD COLUMN swept_superseded INTEGER NOT NULL DEFAULT 0;
CREATE INDEX runs_replay_of ON runs (replay_of) WHERE replay_of IS NOT NULL;

CREATE TABLE history (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
  exception INTEGER, run INTEGER, why TEXT, body BLOB
) STRICT;
CREATE INDEX history_exception ON history (exception) WHERE exception IS NOT NULL;
CREATE INDEX history_run ON history (run) WHERE run IS NOT NULL;

CREATE TABLE replays (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, why TEXT, verb TEXT NOT NULL, filter TEXT NOT NULL,
  rate REAL NOT NULL, state INTEGER NOT NULL, ended_at INTEGER
) STRICT;
CREATE TABLE replay_items (
  replay INTEGER NOT NULL, n INTEGER NOT NULL, run INTEGER NOT NULL, state INTEGER NOT NULL, became INTEGER, note TEXT,
  PRIMARY KEY (replay, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE notices (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, flow TEXT NOT NULL,
  exception INTEGER, message TEXT NOT NULL
) STRICT;
CREATE TABLE told (
  address TEXT PRIMARY KEY, notice INTEGER NOT NULL, attempts INTEGER NOT NULL, next_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Brings the database to the newest version, each step in a transaction of its own.
pub(super) fn migrate(connection: &Connection, shown: &str) -> Result<(), Failure> {
    let version = check(connection, shown)?;
    for (number, step) in STEPS.iter().enumerate().skip(version) {
        let next = number + 1;
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {step} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {next}; COMMIT;"
            ))
            .map_err(|error| super::failure(shown, &error))?;
    }
    Ok(())
}

/// The version that this program brings a database to.
pub(super) fn newest() -> usize {
    STEPS.len()
}

/// The database's version, if this program can use it.
pub(super) fn check(connection: &Connection, shown: &str) -> Result<usize, Failure> {
    let number = |pragma: &str| -> Result<i64, Failure> {
        connection
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .map_err(|error| super::failure(shown, &error))
    };
    let version = usize::try_from(number("user_version")?).unwrap_or(usize::MAX);
    let known = STEPS.len();
    let application = number("application_id")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| super::failure(shown, &error))?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(Failure::new(
            Class::Config,
            format!("{shown} is a database of another program; give the store a path of its own"),
        ));
    }
    if version > known {
        return Err(Failure::new(
            Class::Config,
            format!(
                "{shown} was written by a newer crossdock (store version {version}, this one knows {known}); run that one, or restore the copy from before the upgrade"
            ),
        ));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_gets_every_step_once() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, "test.db").unwrap();
        assert_eq!(check(&connection, "test.db").unwrap(), STEPS.len());
        migrate(&connection, "test.db").unwrap();
    }

    #[test]
    fn a_newer_database_is_refused_with_what_to_do() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, "test.db").unwrap();
        connection
            .execute_batch("PRAGMA user_version = 999")
            .unwrap();
        let failure = migrate(&connection, "test.db").unwrap_err();
        assert_eq!(failure.class, Class::Config);
        assert!(
            failure.message.contains("newer crossdock"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_database_of_another_program_is_left_alone() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (a)").unwrap();
        let failure = migrate(&connection, "test.db").unwrap_err();
        assert!(
            failure.message.contains("another program"),
            "{}",
            failure.message
        );
    }
}
