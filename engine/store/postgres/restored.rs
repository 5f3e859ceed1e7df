//! A store on a server that its server's tools have put back to an earlier moment: what may have been done since is marked as in doubt, as
//! `restore` does for files. It puts nothing back itself.

use std::path::Path;

use crate::failure::{Class, Failure};
use crate::store::backup::Inside;
use crate::store::database::{Connection, Sql, params};
use crate::store::doubt::{self, Doubt};
use crate::store::restore::{self, Restored, Wish};
use crate::store::{apart, books, facts, migrations};
use crate::world::disk;

use super::Server;
use super::begin::{self, Use};
use super::session::Session;
use super::witness::LIFE;

/// How long the name of a disk may be.
const DISK_BYTES_MAX: u64 = 64;

/// Marks the store, while no engine runs on it. Files on this disk that grow are cut back to their lengths in it.
///
/// Fails with class `config` if there is no store, or an engine runs on it, and with class `unavailable` if it was not put back whole.
pub fn mark(server: &Server, wish: &Wish<'_>, life: i64) -> Result<Restored, Failure> {
    let (inside, lengths) = apart(|| {
        let failed = |error| server.failure(&error);
        let connection = server.connect().map_err(failed)?;
        let Connection::Postgres(session) = &connection else {
            unreachable!("the server has connected");
        };
        stand_still(server, &connection)?;
        if migrations::postgres::check(server, &connection)?.is_none() {
            return Err(Failure::config(format!(
                "there is no store at {}",
                server.shown()
            )));
        }
        migrations::postgres::migrate(server, &connection)?;
        whole(server, &connection)?;
        session.batch("BEGIN").map_err(failed)?;
        let marked = write(server, &connection, session, wish, life);
        let inside = marked.map_err(failed)?;
        let lengths = lengths(&connection, wish.root).map_err(failed)?;
        Ok((inside, lengths))
    })?;
    let cut = match wish.resume {
        true => Vec::new(),
        false => restore::cut_back(lengths, wish)?,
    };
    Ok(Restored {
        inside,
        old: None,
        cut,
    })
}

/// Takes the store, so that no engine starts meanwhile.
fn stand_still(server: &Server, connection: &Connection) -> Result<(), Failure> {
    begin::take(server, connection, Use::Alone).map_err(|failure| match failure.class {
        Class::Config => Failure::config(format!(
            "engines run on the store {}; stop all of them first, and start them when this is done",
            server.shown()
        )),
        _ => failure,
    })
}

/// Refuses a store of which only a part was put back.
fn whole(server: &Server, connection: &Connection) -> Result<(), Failure> {
    let failed = |error| server.failure(&error);
    let kept = books::kept(connection).map_err(failed)?;
    let counted = books::recounted(connection).map_err(failed)?;
    if kept == counted && kept.iter().all(|flow| flow.counts.balanced()) {
        return Ok(());
    }
    Err(Failure::new(
        Class::Unavailable,
        format!(
            "the store {} was not put back whole: its books do not balance; put it back again, into an empty schema",
            server.shown()
        ),
    ))
}

/// The marks, in one transaction.
fn write(
    server: &Server,
    connection: &Connection,
    session: &Session,
    wish: &Wish<'_>,
    life: i64,
) -> Sql<Inside> {
    begin::hold(server, connection)?;
    let at_ms = match server.by_the_worlds_clock {
        true => wish.now_ms,
        false => begin::now_ms(connection)?,
    };
    let as_of_ms = match wish.as_of_ms {
        Some(as_of_ms) => as_of_ms,
        None => last_ms(connection)?,
    };
    // What a broker was told of it may be gone from there.
    connection.execute("UPDATE hops SET announced = NULL WHERE announced > 0", ())?;
    connection.execute("DELETE FROM system_views", ())?;
    if !wish.resume {
        Doubt::mark(connection, as_of_ms, at_ms)?;
    }
    doubt::jump(connection)?;
    // What engines have noted is about the life before.
    facts::put(connection, LIFE, life)?;
    connection.execute(
        "INSERT INTO history (at, who, what, why) VALUES (?1, ?2, 'restored', ?3)",
        params![
            at_ms,
            wish.who,
            restore::why("in its place", as_of_ms, wish)
        ],
    )?;
    let count = |sql: &str| -> Sql<u64> {
        let many: i64 = connection.query_row(sql, (), |row| row.get(0))?;
        Ok(many.unsigned_abs())
    };
    let inside = Inside {
        bytes: count(
            "SELECT CAST(coalesce(sum(pg_total_relation_size(oid)), 0) AS BIGINT) FROM pg_class
             WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r'",
        )?,
        version: migrations::newest(),
        as_of_ms,
        runs: count("SELECT count(*) FROM runs")?,
        hops: count("SELECT count(*) FROM hops")?,
        exceptions: count("SELECT count(*) FROM exceptions WHERE state < 3")?,
    };
    session.batch("COMMIT")?;
    Ok(inside)
}

/// The time of the last thing that the store knows of: it is of this moment, or a little later.
fn last_ms(connection: &Connection) -> Sql<i64> {
    connection.query_row(
        "SELECT greatest(coalesce((SELECT max(seen_at) FROM engines), 0), coalesce((SELECT max(received_at) FROM runs), 0),
                         coalesce((SELECT max(last_at) FROM effects), 0))",
        (),
        |row| row.get(0),
    )
}

/// The lengths of the files on this disk, as the store has them.
fn lengths(connection: &Connection, root: &Path) -> Sql<Vec<(String, u64)>> {
    let Ok(disk) = disk::read_text(&root.join(restore::DISK), DISK_BYTES_MAX) else {
        return Ok(Vec::new());
    };
    restore::lengths_in(connection, &format!("{}/{}", restore::FILES, disk.trim()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::store::commit::{Commit, EffectState, NewRun};
    use crate::store::postgres::witness;
    use crate::store::restore::tests::{asks_in_doubt, intend, intent, settle};
    use crate::store::sample::*;
    use crate::store::{Options, Store};
    use crate::world::World;

    fn wish(root: &Path, resume: bool) -> Wish<'_> {
        Wish {
            store: root,
            root,
            as_of_ms: None,
            resume,
            who: "anna",
            now_ms: START_MS + 60_000,
        }
    }

    fn server(sample: &Sample) -> Server {
        match &sample.place {
            crate::store::reader::Place::Server(server) => (**server).clone(),
            crate::store::reader::Place::File(_) => panic!("a server"),
        }
    }

    /// Three orders in a store: one whose effect is done, one that was refused, one that was not tried; marked, and opened again.
    async fn marked(resume: bool) -> (Sample, Vec<NewRun>) {
        let mut sample = Sample::on_a_server();
        let folder = tempfile::tempdir().unwrap();
        let orders: Vec<_> = (0..3).map(|n| sample.order(&n.to_string(), "1")).collect();
        sample.accept(orders.clone()).await;
        for (n, order) in orders.iter().enumerate().take(2) {
            intend(&sample, intent(&sample, order, n as u8)).await;
        }
        settle(&sample, 0, EffectState::Done(Bytes::from_static(b"201"))).await;
        settle(&sample, 1, EffectState::NotApplied).await;
        let running = mark(&server(&sample), &wish(folder.path(), resume), 1).unwrap_err();
        assert!(running.message.contains("stop all of them"), "{running}");
        let before = sample.store.owner();
        sample.store.shutdown().await;
        let restored = mark(&server(&sample), &wish(folder.path(), resume), 1).unwrap();
        assert_eq!((restored.inside.runs, restored.inside.hops), (3, 3));
        sample.store = Store::open(sample.options(), world(&sample.clock)).unwrap();
        assert!(sample.store.owner() > before + 1_000);
        (sample, orders)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_may_have_been_sent_is_asked_for_on_a_server_too() {
        let (sample, orders) = marked(false).await;
        asks_in_doubt(&sample, &orders).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_resume_nothing_is_in_doubt_on_a_server() {
        let (sample, orders) = marked(true).await;
        let verdict = intend(&sample, intent(&sample, &orders[2], 2)).await;
        assert!(
            matches!(verdict, crate::store::commit::Intended::Send { .. }),
            "{verdict:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_from_the_region_of_a_start_before_the_backup_is_in_doubt() {
        let doubt = Doubt {
            run: 7,
            owner: 3,
            generation: 0,
            as_of_ms: 0,
            at_ms: 0,
        };
        let sample = Sample::on_a_server();
        let mut order = sample.order("A", "1");
        for (run, held) in [
            (7, true),
            (8, false),
            ((3 << 38) + 9, true),
            ((4 << 38) + 9, false),
        ] {
            order.run = crate::store::commit::RunId(run);
            let intent = intent(&sample, &order, 1);
            let holds = sample.with(|connection| {
                let writing = crate::store::writer::Writing {
                    connection,
                    now_ms: 0,
                    ahead_ms: 0,
                    owner: 1,
                    who: "",
                    announces: false,
                    doubt: None,
                    shared: false,
                    together: crate::store::together::Together::default(),
                    books: books::Deltas::default(),
                    released: Vec::new(),
                    ended: Vec::new(),
                };
                doubt.holds(&writing, &intent, None).unwrap()
            });
            assert_eq!(holds, held, "run {run}");
        }
    }

    /// An engine with a disk of its own.
    struct Engine {
        disk: tempfile::TempDir,
    }

    impl Engine {
        fn new() -> Engine {
            Engine {
                disk: tempfile::tempdir().unwrap(),
            }
        }

        fn seen(&self) -> PathBuf {
            self.disk.path().join("seen")
        }

        fn start(&self, place: crate::store::reader::Place) -> Result<Store, Failure> {
            let options = Options {
                sharing: Use::Shared,
                witness: Some(self.seen()),
                ..Options::of(place)
            };
            Store::open(options, World::real())
        }

        fn noted(&self) -> i64 {
            let noted = witness::noted(&self.seen()).unwrap();
            noted.iter().map(|seen| seen.number).max().unwrap_or(-1)
        }
    }

    async fn commits(store: &Store, times: usize) {
        for _ in 0..times {
            store.commit(Commit::default()).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_engine_does_not_start_on_a_store_that_lacks_what_it_has_seen() {
        let schema = Schema::new();
        let name = schema.server().schema().to_owned();
        let (one, two) = (Engine::new(), Engine::new());
        let store = one.start(schema.place()).unwrap();
        let other = two.start(schema.place()).unwrap();
        commits(&store, 3).await;
        commits(&other, 2).await;
        store.shutdown().await;
        other.shutdown().await;
        // What the engines have seen is there, whoever starts, and with a new disk, too.
        for engine in [&one, &two, &one, &Engine::new()] {
            engine.start(schema.place()).unwrap().shutdown().await;
        }
        assert_eq!(std::fs::read_dir(one.seen()).unwrap().count(), 1);
        // Back to before the last start of the first.
        schema.run(&format!(
            "UPDATE {name}.facts SET value = value - 2 WHERE name = 'owner'"
        ));
        let older = one.start(schema.place()).err().unwrap();
        assert_eq!(older.class, Class::Config, "{older}");
        assert!(older.message.contains("restore --mark"), "{older}");
        two.start(schema.place()).unwrap().shutdown().await;
        let root = tempfile::tempdir().unwrap();
        mark(&schema.server(), &wish(root.path(), false), 77).unwrap();
        for engine in [&one, &two] {
            engine.start(schema.place()).unwrap().shutdown().await;
        }
        // The same moment once more: what was seen before the mark counts again.
        schema.run(&format!("DROP SCHEMA {name} CASCADE"));
        one.start(schema.place()).unwrap().shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_engine_has_seen_is_noted_while_it_runs() {
        let schema = Schema::new();
        let name = schema.server().schema().to_owned();
        let one = Engine::new();
        let store = one.start(schema.place()).unwrap();
        commits(&store, 5).await;
        let began = std::time::Instant::now();
        while one.noted() < 5 {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", one.noted());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // As after a kill: nothing more is noted of this start, and the store has its row.
        let copy = Engine::new();
        std::fs::create_dir(copy.seen()).unwrap();
        for file in std::fs::read_dir(one.seen()).unwrap().flatten() {
            std::fs::copy(file.path(), copy.seen().join(file.file_name())).unwrap();
        }
        let kept = Engine::new();
        std::fs::create_dir(kept.seen()).unwrap();
        for file in std::fs::read_dir(one.seen()).unwrap().flatten() {
            std::fs::copy(file.path(), kept.seen().join(file.file_name())).unwrap();
        }
        copy.start(schema.place()).unwrap().shutdown().await;
        schema.run(&format!("UPDATE {name}.engines SET number = number - 1"));
        let older = kept.start(schema.place()).err().unwrap();
        assert!(older.message.contains("is older than"), "{older}");
        drop(store);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_engine_ends_when_its_server_comes_back_without_what_it_promised() {
        let schema = Schema::new();
        let name = schema.server().schema().to_owned();
        let one = Engine::new();
        let store = one.start(schema.place()).unwrap();
        commits(&store, 3).await;
        let end_connections = || {
            let lock = schema.server().lock("use");
            schema.run(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()
                 AND ((classid::bigint << 32) | objid::bigint) = {lock}"
            ));
        };
        end_connections();
        commits(&store, 1).await;
        schema.run(&format!("UPDATE {name}.engines SET number = number - 1"));
        end_connections();
        let refused = store.commit(Commit::default()).await.unwrap_err();
        assert_eq!(refused.class, Class::Unavailable, "{refused}");
        let why = tokio::time::timeout(Duration::from_secs(10), store.breaks()).await;
        assert!(why.unwrap().message.contains("is older than"));
        store.shutdown().await;
        let older = one.start(schema.place()).err().unwrap();
        assert_eq!(older.class, Class::Config, "{older}");
    }
}
