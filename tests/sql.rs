//! The sink `sql` against real databases: what is written is exact, and it is written once, whatever breaks. SQLite is always there;
//! PostgreSQL must be (`make services`).

mod databases;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossdock::demo::books;
use crossdock::demo::engine::{Engine, free_address};
use crossdock::failure::Class;
use crossdock::flow;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine as Running, Start};
use crossdock::store::exceptions::{ExceptionFilter, ExceptionRow};
use crossdock::store::{Options, Store};
use crossdock::world::World;

use databases::{Database, Way};

const FLOW: &str = r#"
flow: bookings
source: { file: { path: "inbox/*.jsonl", format: jsonl } }
keys: { order: n }
once: { key: order }
sinks:
  db:
    sql: SINK
    retry: { attempts: 6, first: 10ms, most: 50ms }
"#;

/// A project that writes to a database.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(url: &str, sink: &str) -> Scene {
        let scene = Scene {
            folder: tempfile::tempdir().unwrap(),
        };
        scene.file(
            "crossdock.yaml",
            "listen: \"${env:CROSSDOCK_LISTEN:-127.0.0.1:0}\"\n",
        );
        let system =
            format!("system: db\nsql: {{ url: \"{url}\" }}\ntimeout: 5s\ncircuit: never\n");
        scene.file("systems/db.yaml", &system);
        scene.file("flows/bookings.yaml", &FLOW.replace("SINK", sink));
        scene
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Messages through an engine, to their end; what waits for a person.
    async fn send(&self, lines: &str) -> Vec<ExceptionRow> {
        let root = self.folder.path();
        let file = format!("inbox/{}.jsonl", lines.len());
        self.file(&file, lines);
        let world = World::real();
        let loaded = flow::load(root, &world);
        let told: Vec<String> = loaded
            .findings
            .iter()
            .map(|finding| finding.message.clone())
            .collect();
        let project = loaded.project.unwrap_or_else(|| panic!("{told:#?}"));
        let store = Store::open(Options::at(root.join("in-process.db")), world.clone()).unwrap();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let start = Start {
            project,
            root: root.to_owned(),
            world,
            store: store.clone(),
            listener,
            loader: None,
            watch: None,
        };
        let before = store.books().await.unwrap();
        let before = before.first().map_or(0, |books| books.counts.received);
        let count = before + lines.lines().count() as i64;
        let engine = Running::start(start).await.unwrap();
        let began = Instant::now();
        loop {
            let books = store.books().await.unwrap();
            // By the store: a message is in its books before the hand-off knows of it.
            let settled = books
                .first()
                .is_some_and(|books| books.counts.received >= count && books.counts.in_flight == 0);
            if settled {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{books:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let filter = ExceptionFilter {
            limit: 100,
            ..ExceptionFilter::default()
        };
        let exceptions = store.exceptions(filter).await.unwrap();
        assert!(engine.stop(Duration::from_secs(10)).await, "a clean stop");
        exceptions
    }
}

/// Plays with both kinds of databases.
fn both<F: Future<Output = ()>>(play: impl Fn(Database) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(play(Database::sqlite()));
    runtime.block_on(async {
        let database = Database::postgres().await;
        play(database).await;
    });
}

const INSERT: &str = "{ system: db, insert: bookings, columns: { n: n, total: total, day: day, paid: paid, lines: lines } }";

fn table(database: &Database) -> &'static str {
    match database {
        Database::Postgres(_) => {
            "CREATE TABLE bookings (n text PRIMARY KEY, total numeric(12,2) NOT NULL, day date, paid boolean, lines jsonb)"
        }
        Database::Sqlite(_) => {
            "CREATE TABLE bookings (n TEXT PRIMARY KEY, total TEXT NOT NULL, day TEXT, paid INTEGER, lines TEXT) STRICT"
        }
    }
}

#[test]
fn a_row_has_what_the_message_has_to_the_last_digit() {
    both(|database| async {
        database.run(table(&database)).await;
        let scene = Scene::new(&database.url(None), INSERT);
        let order = r#"{"n":"A'; DROP TABLE bookings;--","total":1234567890.10,"day":"2026-11-21","paid":true,"lines":[{"sku": "ä", "q": 1.50}]}"#;
        let bare = r#"{"n":"B","total":0.10}"#;
        let exceptions = scene.send(&format!("{order}\n{bare}\n")).await;
        assert!(exceptions.is_empty(), "{exceptions:?}");
        let rows = database
            .rows("SELECT n, total, day, paid, lines FROM bookings ORDER BY n")
            .await;
        let (paid, lines) = match &database {
            Database::Postgres(_) => ("t", r#"[{"q": 1.50, "sku": "ä"}]"#),
            Database::Sqlite(_) => ("1", r#"[{"sku":"ä","q":1.50}]"#),
        };
        let first = format!("A'; DROP TABLE bookings;--|1234567890.10|2026-11-21|{paid}|{lines}");
        assert_eq!(rows, [first, "B|0.10|-|-|-".to_owned()]);
        assert_eq!(database.count("crossdock_effects").await, 2);
        database.drop().await;
    });
}

#[test]
fn an_upsert_replaces_and_needs_no_ledger() {
    both(|database| async {
        database
            .run("CREATE TABLE stock (sku varchar(20) PRIMARY KEY, on_hand int)")
            .await;
        let sink = "{ system: db, upsert: stock, key: [sku], columns: { sku: sku, on_hand: q } }";
        let scene = Scene::new(&database.url(None), sink);
        let exceptions = scene.send("{\"n\":\"1\",\"sku\":\"A\",\"q\":3}\n").await;
        assert!(exceptions.is_empty(), "{exceptions:?}");
        scene.send("{\"n\":\"22\",\"sku\":\"A\",\"q\":4}\n").await;
        assert_eq!(
            database.rows("SELECT sku, on_hand FROM stock").await,
            ["A|4"]
        );
        database.drop().await;
    });
}

#[test]
fn a_statement_meets_as_many_rows_as_it_must_or_changes_nothing() {
    both(|database| async {
        database
            .run("CREATE TABLE stock (sku varchar(20) PRIMARY KEY, on_hand int); INSERT INTO stock VALUES ('A', 10)")
            .await;
        let sink = "{ system: db, statement: \"UPDATE stock SET on_hand = on_hand - :q WHERE sku = :sku AND on_hand >= :q\", values: { q: q, sku: sku }, least: 1, ledger: booked }";
        let scene = Scene::new(&database.url(None), sink);
        let lines = "{\"n\":\"1\",\"sku\":\"A\",\"q\":4}\n{\"n\":\"2\",\"sku\":\"B\",\"q\":1}\n{\"n\":\"3\",\"sku\":\"A\",\"q\":99}\n";
        let exceptions = scene.send(lines).await;
        let classes: Vec<Class> = exceptions.iter().map(|one| one.class).collect();
        assert_eq!(classes, [Class::NotFound; 2], "{exceptions:?}");
        assert_eq!(
            database.rows("SELECT sku, on_hand FROM stock").await,
            ["A|6"]
        );
        assert_eq!(
            database.count("booked").await,
            1,
            "what failed is not in the ledger"
        );
        database.drop().await;
    });
}

#[test]
fn what_the_database_says_decides_what_becomes_of_a_message() {
    both(|database| async {
        database
            .run(
                "CREATE TABLE customers (id varchar(9) PRIMARY KEY);
                 CREATE TABLE bookings (n varchar(9) PRIMARY KEY, customer varchar(9) REFERENCES customers (id), q int CHECK (q > 0) NOT NULL);
                 INSERT INTO customers VALUES ('C'); INSERT INTO bookings VALUES ('taken', 'C', 1)",
            )
            .await;
        let sink = "{ system: db, insert: bookings, columns: { n: n, customer: c, q: q } }";
        let scene = Scene::new(&database.url(None), sink);
        for (line, expect) in [
            (r#"{"n":"taken","c":"C","q":1}"#, Class::Conflict),
            (r#"{"n":"1","c":"nobody","q":1}"#, Class::UnknownReference),
            (r#"{"n":"2","c":"C","q":-1}"#, Class::Validation),
            (r#"{"n":"33","c":"C"}"#, Class::Validation),
        ] {
            let exceptions = scene.send(&format!("{line}\n")).await;
            assert_eq!(
                exceptions[0].class, expect,
                "{line}: {}",
                exceptions[0].message
            );
        }
        scene.send("{\"n\":\"good\",\"c\":\"C\",\"q\":1}\n").await;
        assert_eq!(database.count("bookings").await, 2);
        assert_eq!(
            database.count("crossdock_effects").await,
            1,
            "what failed is not in the ledger"
        );
        let missing = Scene::new(
            &database.url(None),
            "{ system: db, insert: nowhere, columns: { n: n } }",
        );
        let exceptions = missing.send("{\"n\":\"1\"}\n").await;
        assert_eq!(
            exceptions[0].class,
            Class::Config,
            "{}",
            exceptions[0].message
        );
        database.drop().await;
    });
}

#[test]
fn a_connection_that_breaks_between_commit_and_answer_does_not_double() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = Database::postgres().await;
        // No key of its own: only the ledger knows a repeat.
        database.run("CREATE TABLE bookings (n text)").await;
        let way = Way::open().await;
        let sink = "{ system: db, insert: bookings, columns: { n: n } }";
        let scene = Scene::new(&database.url(Some(way.port)), sink);
        // The first one makes the ledger.
        scene.send("{\"n\":\"first\"}\n").await;
        way.lose(5);
        let lines: String = (0..40).map(|n| format!("{{\"n\":\"{n}\"}}\n")).collect();
        let exceptions = scene.send(&lines).await;
        assert!(exceptions.is_empty(), "{exceptions:?}");
        assert_eq!(way.left(), 0, "the answers were lost");
        assert_eq!(database.count("bookings").await, 41);
        let twice = "(SELECT n FROM bookings GROUP BY n HAVING count(*) > 1) AS twice";
        assert_eq!(database.count(twice).await, 0);
        database.drop().await;
    });
}

#[test]
fn kill_9_of_the_program_writes_every_message_once() {
    const ORDERS: u64 = 1_500;
    both(|database| async {
        database.run("CREATE TABLE bookings (n varchar(9))").await;
        let sink = "{ system: db, insert: bookings, columns: { n: n } }";
        let scene = Scene::new(&database.url(None), sink);
        let program = PathBuf::from(env!("CARGO_BIN_EXE_crossdock"));
        let mut engine = Engine::new(
            program,
            scene.folder.path(),
            free_address().unwrap(),
            Vec::new(),
        );
        engine.start().await.unwrap();
        let lines: String = (0..ORDERS)
            .map(|n| format!("{{\"n\":\"{n}\"}}\n"))
            .collect();
        scene.file("inbox/all.jsonl", &lines);
        // How far it is the store tells at once: a reader of the database would wait for its writer, until all is done.
        let store = books::open(scene.folder.path()).unwrap();
        let (mut kills, mut seen) = (0, 0);
        for part in [1, 3, 6, 8] {
            let began = Instant::now();
            while seen < ORDERS * part / 10 {
                assert!(
                    began.elapsed() < Duration::from_secs(60),
                    "{}",
                    engine.log_end()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
                let tally = books::read(&store).await.unwrap();
                seen = tally.sum(|counts| counts.delivered) as u64;
            }
            engine.kill().await.unwrap();
            kills += u64::from(seen < ORDERS);
            engine.start().await.unwrap();
        }
        let began = Instant::now();
        loop {
            let tally = books::read(&store).await.unwrap();
            if tally.is_quiet() && tally.sum(|counts| counts.delivered) == ORDERS as i64 {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{tally:?}\n{}",
                engine.log_end()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.kill().await.unwrap();
        assert!(kills > 0, "no kill met any work");
        assert_eq!(database.count("bookings").await, ORDERS);
        let distinct = "(SELECT DISTINCT n FROM bookings) AS every";
        assert_eq!(database.count(distinct).await, ORDERS);
        assert_eq!(database.count("crossdock_effects").await, ORDERS);
        database.drop().await;
    });
}
