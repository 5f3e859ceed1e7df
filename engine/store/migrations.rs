//! The database's shape, as numbered steps from the first day. It only goes forward. A program that meets a database of a newer one goes on with it
//! if the steps that it does not know only add to it, and otherwise refuses it: so an upgrade can be taken back.

use rusqlite::{Connection, OptionalExtension};

use crate::failure::{Class, Failure};

pub(super) mod postgres;

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
    super::announcements::COLUMNS,
    GUARDED,
    super::systems::VIEWS,
    super::revisions::TABLES,
    super::toggles::TABLE,
    super::canaries::TABLES,
    ADMIN,
    super::calls::TABLE,
    super::shadows::TABLES,
    PEOPLE,
    super::personal::TABLE,
];

/// The versions whose step only adds what an older program neither reads nor needs to write: tables, indexes, columns with a default that means
/// "nothing". To be listed here a step must be played by `an_older_program_works_on_what_a_newer_one_has_added`.
const ADDITIVE: &[usize] = &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

/// The fact that says from which version on a program can work on the database.
const READABLE_BY: &str = "readable_by";

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

/// Which effects that are being tried bring which version of what. Only engines that share a store write it; here it is empty.
const GUARDED: &str = "
CREATE TABLE guarded (
  scope TEXT NOT NULL, key TEXT NOT NULL, effect BLOB NOT NULL, PRIMARY KEY (scope, key, effect)
) STRICT, WITHOUT ROWID;
CREATE INDEX guarded_effect ON guarded (effect);
";

/// What the admin API keeps:
/// - `audit` is only added to: triggers refuse all else
/// - `audit_head` says how many rows there are and the hash of the last one, so that a log whose end was cut off is known for it
/// - `tokens.roles` and `.flows` are lists with commas; a token that is revoked stays, so that its name in the audit log means something
/// - `answers.status` is 0 while the first request is under way
const ADMIN: &str = "
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, kind TEXT NOT NULL, via TEXT NOT NULL, source TEXT, request TEXT,
  action TEXT NOT NULL, target_kind TEXT NOT NULL, target TEXT NOT NULL, reason TEXT, outcome TEXT NOT NULL, detail TEXT, hash BLOB NOT NULL
) STRICT;
CREATE TABLE audit_head (
  id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE TRIGGER audit_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TRIGGER audit_not_removed BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, roles TEXT NOT NULL, flows TEXT NOT NULL,
  created_at INTEGER NOT NULL, created_by TEXT NOT NULL, expires_at INTEGER NOT NULL, revoked_at INTEGER, used_at INTEGER
) STRICT;
CREATE INDEX tokens_name ON tokens (name);
CREATE TABLE answers (
  actor TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL, hash BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (actor, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_at ON answers (at);
";

/// People who have signed in, and what waits for a second person:
/// - `sessions.groups_of` is JSON: what they may do follows from it and from the settings of now
/// - `approvals.wish` is what was asked for, as JSON; `approval_items` are the exceptions or runs that it is about, frozen when it was asked
/// - `approvals.next` is the first item that was not worked on, once it is approved
const PEOPLE: &str = "
CREATE TABLE sessions (
  hash BLOB PRIMARY KEY, issuer TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, groups_of TEXT NOT NULL, since INTEGER NOT NULL,
  used_at INTEGER NOT NULL, ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_subject ON sessions (issuer, subject);
CREATE TABLE approvals (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL, wish TEXT NOT NULL, said TEXT NOT NULL,
  flow TEXT, why TEXT, items INTEGER NOT NULL, ends_at INTEGER NOT NULL, state TEXT NOT NULL, decided_at INTEGER, decided_by TEXT,
  decided_why TEXT, next INTEGER NOT NULL, done INTEGER NOT NULL, refused INTEGER NOT NULL, ended_at INTEGER, replay INTEGER,
  first_items TEXT NOT NULL, behind TEXT
) STRICT;
CREATE INDEX approvals_state ON approvals (state) WHERE state = 'asked' OR state = 'approved';
CREATE TABLE approval_items (
  approval INTEGER NOT NULL, n INTEGER NOT NULL, item INTEGER NOT NULL, PRIMARY KEY (approval, n)
) STRICT, WITHOUT ROWID;
";

/// Brings the database to the newest version, each step in a transaction of its own.
pub(super) fn migrate(connection: &Connection, shown: &str) -> Result<(), Failure> {
    migrate_with(connection, shown, STEPS, ADDITIVE)
}

fn migrate_with(
    connection: &Connection,
    shown: &str,
    steps: &[&str],
    additive: &[usize],
) -> Result<(), Failure> {
    let version = check_with(connection, shown, steps.len())?;
    for (number, step) in steps.iter().enumerate().skip(version) {
        let next = number + 1;
        let (readable_by, known) = match additive.contains(&next) {
            // A database from before this was noted was readable by its own version.
            true => (number, "DO NOTHING"),
            false => (next, "(name) DO UPDATE SET value = excluded.value"),
        };
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {step} INSERT INTO facts (name, value) VALUES ('{READABLE_BY}', {readable_by}) ON CONFLICT {known};
                 PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {next}; COMMIT;"
            ))
            .map_err(|error| super::failure(shown, &error.into()))?;
    }
    Ok(())
}

/// The version that this program brings a database to.
pub(super) fn newest() -> usize {
    STEPS.len()
}

/// From which version on a program can work on the database, as far as it says so.
pub(super) fn readable_by(connection: &Connection) -> super::Sql<Option<usize>> {
    let from = connection
        .query_row(
            "SELECT value FROM facts WHERE name = ?1",
            [READABLE_BY],
            |row| row.get::<_, i64>(0),
        )
        .optional()?;
    Ok(from.and_then(|from| usize::try_from(from).ok()))
}

/// The database's version, if this program can use it. It may be newer than this program's own.
pub(super) fn check(connection: &Connection, shown: &str) -> Result<usize, Failure> {
    check_with(connection, shown, STEPS.len())
}

fn check_with(connection: &Connection, shown: &str, known: usize) -> Result<usize, Failure> {
    let number = |pragma: &str| -> Result<i64, Failure> {
        connection
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .map_err(|error| super::failure(shown, &error.into()))
    };
    let version = usize::try_from(number("user_version")?).unwrap_or(usize::MAX);
    let application = number("application_id")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| super::failure(shown, &error.into()))?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(Failure::new(
            Class::Config,
            format!("{shown} is a database of another program; give the store a path of its own"),
        ));
    }
    let readable_by = match version > known {
        true => readable_by(connection)
            .map_err(|error| super::failure(shown, &error))?
            .unwrap_or(version),
        false => known,
    };
    if readable_by > known {
        return Err(newer(shown, version, readable_by, known));
    }
    Ok(version)
}

/// A store that this program cannot read.
fn newer(shown: &str, version: usize, readable_by: usize, known: usize) -> Failure {
    Failure::new(
        Class::Config,
        format!(
            "{shown} was written by a newer crossdock (store version {version}, for programs from {readable_by} on, and this one knows {known}); run the newer one, or restore the backup from before the upgrade"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::commit::{Commit, Leaf};
    use super::super::reader::Reader;
    use super::super::sample::*;
    use super::super::{Options, Store, backup};
    use super::*;

    /// What a newer program might add, and what it might change.
    const ADDS: &str = "ALTER TABLE runs ADD COLUMN colour TEXT; ALTER TABLE hops ADD COLUMN weight INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE colours (name TEXT PRIMARY KEY) STRICT; CREATE INDEX runs_colour ON runs (colour) WHERE colour IS NOT NULL;";
    const CHANGES: &str = "ALTER TABLE runs RENAME COLUMN keys TO business_keys;";

    /// One run in flight with a body, a key, a claim and a tried effect, and one in exception, as the first version had them.
    const CONTENT: &str = "
        INSERT INTO facts (name, value) VALUES ('owner', 3), ('hops_reserved', 1048576);
        INSERT INTO runs (id, message, root, flow, revision, received_at, keys, open, excepted, worst, state)
          VALUES (1, x'00000000000000000000000000000001', x'00000000000000000000000000000001', 'orders', 'r1', 1790000000000, '{}', 1, 0, 0, 0),
                 (2, x'00000000000000000000000000000002', x'00000000000000000000000000000002', 'orders', 'r1', 1790000000000, '{}', 1, 1, 0, 1);
        INSERT INTO bodies (run, envelope, body) VALUES (1, x'', x'31'), (2, x'', x'32');
        INSERT INTO hops (id, run, flow, step, message, fence, attempt) VALUES (7, 1, 'orders', 'erp', x'00000000000000000000000000000001', 1, 1);
        INSERT INTO keys (value, name, run) VALUES ('A', 'order', 1);
        INSERT INTO claims (scope, key, run, hash, keep_ms) VALUES ('orders', 'A', 1, x'01010101010101010101010101010101', 1000);
        INSERT INTO effects (id, run, flow, step, item, state, hop, owner, lease_until, attempts, absent, first_at, last_at, request)
          VALUES (x'09090909090909090909090909090909', 1, 'orders', 'erp', '', 2, 7, 3, 0, 1, 0, 1790000000000, 1790000000000, x'31');
        INSERT INTO exceptions (run, flow, step, class, message, fingerprint, attempts, state, opened_at, message_id)
          VALUES (2, 'orders', 'erp', 'validation', 'quantity 0', '1-abc', 1, 0, 1790000000000, x'00000000000000000000000000000002');
        INSERT INTO books (flow, received, accepted, duplicates, refused, delivered, filtered, discarded, compensated, in_flight, in_exceptions)
          VALUES ('orders', 2, 2, 0, 0, 0, 0, 0, 0, 1, 1);";

    /// A sample over a store that other programs, older or newer, have written.
    fn opened(path: &std::path::Path) -> Result<Sample, Failure> {
        let clock = Arc::new(crate::world::clock::ManualClock::at(START_MS));
        Ok(Sample::over(Store::open(Options::at(path), world(&clock))?))
    }

    #[tokio::test]
    async fn a_store_of_every_older_version_goes_on_with_all_that_is_in_it() {
        for version in 1..=STEPS.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store.db");
            let connection = Connection::open(&path).unwrap();
            migrate_with(&connection, "test.db", &STEPS[..version], ADDITIVE).unwrap();
            connection.execute_batch(CONTENT).unwrap();
            drop(connection);
            if version < STEPS.len() {
                let old = Reader::open(&path).err().unwrap();
                assert!(old.message.contains("older crossdock"), "{}", old.message);
            }
            let sample = opened(&path).unwrap();
            let books = sample.books().await;
            assert_eq!(
                (books.in_flight, books.in_exceptions),
                (1, 1),
                "version {version}"
            );
            let standing = sample.store.standing_hops().await.unwrap();
            let (hops, _) = sample
                .store
                .ready_hops(vec![standing[0].hop], 99)
                .await
                .unwrap();
            assert_eq!(hops[0].body, Bytes::from_static(b"1"));
            let mut order = sample.order("A", "1");
            order.run = hops[0].run;
            let end = over(&order, hops[0].hop, vec![], vec![Leaf::Delivered]);
            assert_eq!(sample.end(vec![end]).await.ends, [true]);
            assert_eq!(sample.books().await.delivered, 1);
            sample.accept(vec![sample.order("B", "1")]).await;
            assert_eq!(sample.books().await.in_flight, 1);
        }
    }

    #[tokio::test]
    async fn an_older_program_works_on_what_a_newer_one_has_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let newer: Vec<&str> = STEPS.iter().copied().chain([ADDS]).collect();
        let adds = [ADDITIVE, &[newer.len()]].concat();
        let sample = opened(&path).unwrap();
        let before = sample.order("before", "1");
        sample.accept(vec![before.clone()]).await;
        sample.store.shutdown().await;
        let upgrade = || {
            let connection = Connection::open(&path).unwrap();
            migrate_with(&connection, "test.db", &newer, &adds).unwrap();
            assert_eq!(check(&connection, "test.db").unwrap(), newer.len());
        };
        upgrade();
        // Back to this program, which knows nothing of what was added.
        let sample = opened(&path).unwrap();
        let after = sample.order("after", "1");
        sample.accept(vec![after.clone()]).await;
        let fails = over(
            &after,
            first_hop(&after),
            vec![],
            vec![Leaf::Exception(exception(&after))],
        );
        let goes = over(&before, first_hop(&before), vec![], vec![Leaf::Delivered]);
        assert_eq!(sample.end(vec![fails, goes]).await.ends, [true, true]);
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.books().await.unwrap()[0].counts.delivered, 1);
        let copy = folder.path().join("copy.db");
        let inside = backup::backup(&path, &copy, START_MS, &mut |_, _| {}).unwrap();
        assert_eq!((inside.version, inside.runs), (newer.len(), 2));
        let nothing = Commit::default();
        sample.store.commit(nothing).await.unwrap();
        sample.store.shutdown().await;
        // And forward again.
        upgrade();
        let books = opened(&path).unwrap().books().await;
        assert_eq!((books.delivered, books.in_exceptions), (1, 1));
    }

    #[test]
    fn an_older_program_leaves_alone_what_a_newer_one_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        // First a change, then an addition: the addition does not make the change readable.
        let newer: Vec<&str> = STEPS.iter().copied().chain([CHANGES, ADDS]).collect();
        let adds = [ADDITIVE, &[newer.len()]].concat();
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        migrate_with(&connection, "test.db", &newer, &adds).unwrap();
        drop(connection);
        let bytes = std::fs::read(&path).unwrap();
        for failure in [
            opened(&path).err().unwrap(),
            Reader::open(&path).err().unwrap(),
        ] {
            assert_eq!(failure.class, Class::Config);
            let part = format!("for programs from {} on", newer.len() - 1);
            assert!(failure.message.contains(&part), "{}", failure.message);
        }
        assert_eq!(
            std::fs::read(&path).unwrap(),
            bytes,
            "the refused store is as it was"
        );
    }

    #[test]
    fn an_empty_database_gets_every_step_once() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, "test.db").unwrap();
        assert_eq!(check(&connection, "test.db").unwrap(), STEPS.len());
        migrate(&connection, "test.db").unwrap();
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
