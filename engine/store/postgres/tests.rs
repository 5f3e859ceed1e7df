//! What only a store on a server promises: it survives its connections, and engines share it. Everything else is promised by the tests of
//! the nouns, which are run on a server here as well.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Server;
use super::begin::Use;
use crate::failure::Class;
use crate::store::commit::{Accepted, Commit, Leaf, NewRun, SystemState};
use crate::store::notices::NoticeChange;
use crate::store::reader::{Place, Reader};
use crate::store::runs::RunFilter;
use crate::store::sample::*;
use crate::store::{Options, Store, migrations};
use crate::world::World;
use crate::world::random::{Random, SystemRandom};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the integration tests, which need more of it"
)]
#[path = "../../../tests/support/proxy.rs"]
mod proxy;

use proxy::Proxy;

/// Tests that are about files.
const OF_FILES: [&str; 7] = [
    "store::sync::",
    "store::crash::",
    "store::backup::",
    "store::restore::",
    "store::migrations::",
    "store::postgres::",
    "the_log_stays_short",
];

#[test]
fn all_tests_of_the_store_pass_on_a_server() {
    let schema = Schema::new();
    let url = std::env::var(SERVER).unwrap_or_else(|_| SERVER_DEFAULT.to_owned());
    drop(schema);
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["store::", "--test-threads", "4"]);
    for part in OF_FILES {
        tests.args(["--skip", part]);
    }
    let output = tests.env(SERVER, url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(passed > 60, "{passed} tests ran");
}

fn options(schema: &Schema, sharing: Use) -> Options {
    Options {
        sharing,
        ..Options::of(schema.place())
    }
}

fn open(schema: &Schema, sharing: Use) -> Result<Store, crate::failure::Failure> {
    Store::open(options(schema, sharing), World::real())
}

fn accepting(order: NewRun) -> Commit {
    Commit {
        accepts: vec![order],
        ..Commit::default()
    }
}

/// A message that nothing recognises when it comes again.
fn unclaimed(sample: &Sample, key: &str) -> NewRun {
    NewRun {
        claims: Vec::new(),
        ..sample.order(key, "1")
    }
}

async fn until(what: &str, ask: impl AsyncFn() -> bool) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(20), asking).await;
    asked.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// The schema behind a proxy.
async fn behind_a_proxy(schema: &Schema) -> (Proxy, Server) {
    let server = schema.server();
    let port = server.config.get_ports().first().copied().unwrap_or(5432);
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], port)))
        .await
        .unwrap();
    let user = server.config.get_user().unwrap_or("postgres");
    let database = server.config.get_dbname().unwrap_or(user);
    let url = format!("postgres://{user}@{}/{database}", proxy.address());
    let mut through = Server::new(&url, server.schema(), None).unwrap();
    through.by_the_worlds_clock = true;
    (proxy, through)
}

/// Every commit of a run takes a while, after the server has got it.
const SLOW_COMMITS: &str = "
    CREATE FUNCTION {schema}.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {schema}.runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.slow()";

fn slow_commits(schema: &Schema) {
    schema.run(&SLOW_COMMITS.replace("{schema}", schema.server().schema()));
}

/// Waits until the store's writer is committing.
async fn committing(schema: &Schema) {
    let name = schema.server().schema().to_owned();
    until("a commit is under way", async || {
        schema.count(&format!(
            "SELECT count(*) FROM pg_stat_activity, pg_locks WHERE query = 'COMMIT' AND state = 'active'
             AND pg_locks.pid = pg_stat_activity.pid AND relation = '{name}.runs'::regclass"
        )) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_answered_when_the_server_is_reached_again() {
    let schema = Schema::new();
    let (proxy, through) = behind_a_proxy(&schema).await;
    let place = Place::Server(Box::new(through));
    let store = Store::open(Options::of(place), World::real()).unwrap();
    let sample = Sample::over(store.clone());
    slow_commits(&schema);
    let order = unclaimed(&sample, "A");
    let committed = tokio::spawn({
        let store = store.clone();
        async move { store.commit(accepting(order)).await }
    });
    committing(&schema).await;
    proxy.cut(true);
    assert_eq!(committed.await.unwrap().unwrap().accepts, [Accepted::New]);
    assert_eq!(sample.books().await.accepted, 1);
    assert_eq!(store.commits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_broken_off_is_made_again() {
    let schema = Schema::new();
    let store = open(&schema, Use::Alone).unwrap();
    let sample = Sample::over(store.clone());
    slow_commits(&schema);
    let order = unclaimed(&sample, "A");
    let committed = tokio::spawn({
        let store = store.clone();
        async move { store.commit(accepting(order)).await }
    });
    committing(&schema).await;
    let name = schema.server().schema().to_owned();
    schema.run(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = '{name}.runs'::regclass AND pid <> pg_backend_pid()"
    ));
    assert_eq!(committed.await.unwrap().unwrap().accepts, [Accepted::New]);
    assert_eq!(sample.books().await.accepted, 1);
}

/// Connections are cut again and again, before, in and after commits. Nothing recognises a repeat, so what was answered well is there
/// once, and what was refused is not.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_at_any_moment_lose_nothing_and_double_nothing() {
    const WORKERS: usize = 4;
    const CUTS: usize = 40;
    const ACCEPTED: usize = 200;
    const MOST: Duration = Duration::from_secs(120);
    let schema = Schema::new();
    let (proxy, through) = behind_a_proxy(&schema).await;
    let place = Place::Server(Box::new(through));
    let store = Store::open(Options::of(place), World::real()).unwrap();
    let over_now = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (sample, over_now) = (Sample::over(store.clone()), over_now.clone());
        workers.spawn(async move {
            let (mut good, mut refused) = (BTreeSet::new(), BTreeSet::new());
            for n in 0.. {
                if over_now.load(Ordering::SeqCst) {
                    break;
                }
                let order = unclaimed(&sample, &format!("{worker}-{n}"));
                match sample.store.commit(accepting(order.clone())).await {
                    Ok(committed) => {
                        assert_eq!(committed.accepts, [Accepted::New]);
                        good.insert(order.run.0);
                    }
                    Err(failure) => {
                        assert_eq!(failure.class, Class::Unavailable, "{failure}");
                        refused.insert(order.run.0);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            (good, refused)
        });
    }
    let (began, mut cuts) = (std::time::Instant::now(), 0);
    while (cuts < CUTS || store.commits() < ACCEPTED as u64) && began.elapsed() < MOST {
        tokio::time::sleep(Duration::from_micros(SystemRandom.below(400_000))).await;
        proxy.cut(SystemRandom.below(2) == 0);
        cuts += 1;
    }
    over_now.store(true, Ordering::SeqCst);
    let (mut good, mut refused) = (BTreeSet::new(), BTreeSet::new());
    while let Some(done) = workers.join_next().await {
        let (more_good, more_refused) = done.unwrap();
        good.extend(more_good);
        refused.extend(more_refused);
    }
    store.shutdown().await;
    let reader = Reader::at(&schema.place()).unwrap();
    let filter = RunFilter {
        limit: 1 << 20,
        ..RunFilter::default()
    };
    let there: BTreeSet<i64> = reader
        .runs(filter)
        .await
        .unwrap()
        .iter()
        .map(|run| run.run.0)
        .collect();
    assert_eq!(
        there, good,
        "what was answered well is there, and nothing else"
    );
    assert!(there.is_disjoint(&refused));
    let books = reader.books().await.unwrap();
    assert_eq!(books, reader.recount().await.unwrap());
    assert!(
        cuts >= CUTS && good.len() >= ACCEPTED,
        "{cuts} cuts, {} were accepted",
        good.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_all_connections_is_found_again_by_itself() {
    let schema = Schema::new();
    let store = open(&schema, Use::Shared).unwrap();
    let sample = Sample::over(store.clone());
    for round in 0..3 {
        sample
            .accept(vec![sample.order(&format!("{round}"), "1")])
            .await;
        assert_eq!(sample.books().await.accepted, round + 1);
        let lock = schema.server().lock("use");
        schema.run(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()
             AND ((classid::bigint << 32) | objid::bigint) = {lock}"
        ));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_so_with_what_to_do() {
    let server = Server::new("postgres://postgres@127.0.0.1:1/none", "crossdock", None).unwrap();
    let place = Place::Server(Box::new(server));
    let opened = Store::open(Options::of(place.clone()), World::real())
        .err()
        .unwrap();
    let read = Reader::at(&place).err().unwrap();
    for failure in [opened, read] {
        assert_eq!(failure.class, Class::Unavailable);
        assert!(
            failure.message.contains("check that the server runs"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_store_that_does_not_fit_is_refused_with_what_to_do() {
    let schema = Schema::new();
    let missing = Reader::at(&schema.place()).err().unwrap();
    assert!(missing.message.contains("there is no store"), "{missing}");
    open(&schema, Use::Alone).unwrap().shutdown().await;
    let name = schema.server().schema().to_owned();
    schema.run(&format!(
        "UPDATE {name}.schema_version SET version = 999; UPDATE {name}.facts SET value = 999 WHERE name = 'readable_by'"
    ));
    for newer in [
        open(&schema, Use::Alone).err().unwrap(),
        Reader::at(&schema.place()).err().unwrap(),
    ] {
        assert!(newer.message.contains("newer crossdock"), "{newer}");
    }
    schema.run(&format!("DROP TABLE {name}.schema_version"));
    let theirs = open(&schema, Use::Alone).err().unwrap();
    assert!(theirs.message.contains("another program"), "{theirs}");
}

#[tokio::test]
async fn an_engine_for_itself_and_one_that_shares_refuse_each_other() {
    let schema = Schema::new();
    let alone = open(&schema, Use::Alone).unwrap();
    let second = open(&schema, Use::Alone).err().unwrap();
    assert!(
        second.message.contains("another engine runs on the store"),
        "{second}"
    );
    let shares = open(&schema, Use::Shared).err().unwrap();
    assert!(shares.message.contains("for itself"), "{shares}");
    alone.shutdown().await;
    let (one, two) = (
        open(&schema, Use::Shared).unwrap(),
        open(&schema, Use::Shared).unwrap(),
    );
    let alone = open(&schema, Use::Alone).err().unwrap();
    assert!(
        alone.message.contains("another engine runs on the store"),
        "{alone}"
    );
    assert_ne!(one.owner(), two.owner());
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_share_a_store_give_no_number_twice_and_keep_one_set_of_books() {
    const EACH: usize = 100;
    let schema = Schema::new();
    let stores = [
        open(&schema, Use::Shared).unwrap(),
        open(&schema, Use::Shared).unwrap(),
    ];
    let mut working = tokio::task::JoinSet::new();
    for (engine, store) in stores.iter().enumerate() {
        for worker in 0..2 {
            let sample = Sample::over(store.clone());
            working.spawn(async move {
                for n in 0..EACH {
                    let order = sample.order(&format!("{engine}-{worker}-{n}"), "1");
                    assert_eq!(sample.accept(vec![order.clone()]).await, [Accepted::New]);
                    let end = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
                    assert_eq!(sample.end(vec![end]).await.ends, [true]);
                }
            });
        }
    }
    working.join_all().await;
    let books = Sample::over(stores[0].clone()).books().await;
    assert_eq!((books.delivered, books.in_flight), (4 * EACH as i64, 0));
    let [one, two] = stores.map(Sample::over);
    assert_eq!(one.accept(vec![one.order("A", "1")]).await, [Accepted::New]);
    let again = two.accept(vec![two.order("A", "1")]).await;
    assert!(matches!(again[..], [Accepted::Duplicate(_)]), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_engine_leads_and_another_takes_over_when_it_lets_go_or_is_cut_off() {
    let schema = Schema::new();
    let (proxy, through) = behind_a_proxy(&schema).await;
    let cut_off = Options {
        sharing: Use::Shared,
        ..Options::of(Place::Server(Box::new(through)))
    };
    let one = Store::open(cut_off, World::real()).unwrap();
    let two = open(&schema, Use::Shared).unwrap();
    let lead = one.lead("source:orders").await.unwrap().unwrap();
    assert!(two.lead("source:orders").await.unwrap().is_none());
    assert!(
        one.lead("source:orders").await.unwrap().is_none(),
        "a part of the same engine"
    );
    let other = two.lead("source:stock").await.unwrap();
    assert!(other.is_some(), "another name is free");
    drop(lead);
    until("the second leads", async || {
        two.lead("source:orders").await.unwrap().is_some()
    })
    .await;
    let lead = one.lead("source:prices").await.unwrap().unwrap();
    proxy.cut(true);
    tokio::time::timeout(Duration::from_secs(10), lead.lost())
        .await
        .unwrap();
    until("the second leads", async || {
        two.lead("source:prices").await.unwrap().is_some()
    })
    .await;
    one.shutdown().await;
    let _held = two.lead("replays").await.unwrap().unwrap();
    two.shutdown().await;
    let three = open(&schema, Use::Shared).unwrap();
    until("what a stopped engine led is free", async || {
        three.lead("replays").await.unwrap().is_some()
    })
    .await;
}

fn seen(health: &str, since_ms: i64) -> SystemState {
    SystemState {
        name: Arc::from("erp"),
        health: Arc::from(health),
        since_ms,
        until_ms: None,
        times: 0,
        reason: format!("{health} since {since_ms}"),
    }
}

#[tokio::test]
async fn the_worst_view_of_the_engines_that_live_is_shown_with_those_that_have_it() {
    let schema = Schema::new();
    let name = schema.server().schema().to_owned();
    let open = |who: &str| {
        let options = Options {
            who: who.to_owned(),
            ..options(&schema, Use::Shared)
        };
        Store::open(options, World::real()).unwrap()
    };
    let says = async |store: &Store, state: SystemState, down: bool| {
        let change = NoticeChange::SystemDown(Arc::from("erp"), "down", "why".to_owned());
        let commit = Commit {
            systems: vec![state],
            notices: down.then_some(change).into_iter().collect(),
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
    };
    let (one, two, three) = (open("a:1"), open("b:2"), open("c:3"));
    says(&one, seen("down", 7), true).await;
    says(&two, seen("down", 5), true).await;
    says(&three, seen("up", 3), false).await;
    let row = async || one.systems().await.unwrap().remove(0);
    assert_eq!(row().await.state, seen("down", 5));
    assert_eq!(row().await.seen_by, ["a:1", "b:2"]);
    assert_eq!(row().await.others, [("c:3".to_owned(), Arc::from("up"))]);
    let notices = one.notices(0, 10).await.unwrap();
    assert_eq!(notices.len(), 1, "people are told once: {notices:?}");
    // The second goes, the first dies: after a while its word no longer counts, and then it is deleted.
    two.shutdown().await;
    assert_eq!(row().await.seen_by, ["a:1"]);
    let age = |by_s: i64| {
        schema.run(&format!(
            "UPDATE {name}.system_views SET seen_at = seen_at - {} WHERE who = 'a:1'",
            by_s * 1_000
        ));
    };
    age(21);
    assert_eq!(one.system_states().await.unwrap(), [seen("up", 3)]);
    let still = |state: SystemState| Commit {
        systems_still: vec![state],
        ..Commit::default()
    };
    one.commit(still(seen("down", 7))).await.unwrap();
    assert_eq!(
        row().await.state.health.as_ref(),
        "down",
        "it lived after all"
    );
    age(61);
    three.commit(still(seen("up", 3))).await.unwrap();
    let views = format!("SELECT count(*) FROM {name}.system_views");
    assert_eq!(schema.count(&views), 1);
    // When nobody lives, what was last written is shown.
    three.shutdown().await;
    assert_eq!(schema.count(&views), 0);
    assert_eq!(row().await.state, seen("up", 3));
}

/// Both shapes have the same tables with the same columns and indexes; those of PostgreSQL alone are named here.
#[tokio::test]
async fn the_tables_of_both_databases_are_the_same() {
    const ALONE: [&str; 2] = ["engines", "schema_version"];
    let sqlite = rusqlite::Connection::open_in_memory().unwrap();
    migrations::migrate(&sqlite, "test.db").unwrap();
    let mut statement = sqlite
        .prepare("SELECT t.name || '.' || c.name || CASE WHEN c.\"notnull\" OR c.pk > 0 THEN ' needed' ELSE '' END FROM sqlite_schema t, pragma_table_info(t.name) c
                  WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'")
        .unwrap();
    let here: BTreeSet<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let sample = Sample::on_a_server();
    let there: BTreeSet<String> = sample.with(|connection| {
        let mut statement = connection
            .prepare_cached(
                "SELECT CAST(table_name || '.' || column_name || CASE WHEN is_nullable = 'NO' THEN ' needed' ELSE '' END AS TEXT)
                 FROM information_schema.columns WHERE table_schema = current_schema()",
            )
            .unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().into_iter().collect()
    });
    let there: BTreeSet<String> = there
        .into_iter()
        .filter(|column: &String| {
            !ALONE
                .iter()
                .any(|table| column.starts_with(&format!("{table}.")))
        })
        .collect();
    assert_eq!(here, there);
    let mut statement = sqlite
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        .unwrap();
    let here: BTreeSet<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let there: BTreeSet<String> = sample.with(|connection| {
        let mut statement = connection
            .prepare_cached(
                "SELECT CAST(indexname AS TEXT) FROM pg_indexes WHERE schemaname = current_schema()",
            )
            .unwrap();
        statement
            .query_map((), |row| row.get(0))
            .unwrap()
            .into_iter()
            .collect()
    });
    // Those that stand for a constraint have a name on PostgreSQL alone.
    assert_eq!(
        here.difference(&there).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    let version: i64 = sample.with(|connection| {
        connection
            .query_row("SELECT version FROM schema_version", (), |row| row.get(0))
            .unwrap()
    });
    assert_eq!(version as usize, migrations::newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_leaves_no_transaction_open() {
    let schema = Schema::new();
    let store = open(&schema, Use::Alone).unwrap();
    store.books().await.unwrap();
    let locks = format!(
        "SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
         JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = '{}' AND mode = 'AccessShareLock'",
        schema.server().schema()
    );
    assert_eq!(schema.count(&locks), 0);
}

#[tokio::test]
async fn a_key_that_is_too_long_for_an_index_is_refused_alone() {
    let sample = Sample::on_a_server();
    let long: String = (0..1_000)
        .map(|_| format!("{:08x}", SystemRandom.below(1 << 32)))
        .collect();
    let failure = sample
        .store
        .commit(accepting(sample.order(&long, "1")))
        .await
        .unwrap_err();
    assert_eq!(failure.class, Class::TooLarge, "{failure}");
    assert_eq!(
        sample.accept(vec![sample.order("A", "1")]).await,
        [Accepted::New]
    );
}

#[tokio::test]
async fn texts_with_zero_bytes_are_kept_and_found() {
    let sample = Sample::on_a_server();
    let key = "A\0B\u{1}";
    let order = sample.order(key, "1");
    assert_eq!(sample.accept(vec![order.clone()]).await, [Accepted::New]);
    let again = sample.accept(vec![sample.order(key, "1")]).await;
    assert_eq!(again, [Accepted::Duplicate(order.run)]);
    let found = sample.store.journey(key).await.unwrap();
    assert_eq!(found[0].keys, *order.keys);
}

#[test]
fn a_connection_to_a_server_that_only_reads_from_now_on_is_given_up() {
    let schema = Schema::new();
    let connection = schema.server().connect().unwrap();
    connection
        .execute("SET default_transaction_read_only TO on", ())
        .unwrap();
    assert!(connection.is_there());
    let refused = connection.execute("CREATE TABLE t (a BIGINT)", ());
    let failure = schema.server().failure(&refused.unwrap_err());
    assert_eq!(failure.class, Class::Unavailable);
    assert!(failure.message.contains("standby"), "{failure}");
    assert!(!connection.is_there(), "a new one may lead to the primary");
}
