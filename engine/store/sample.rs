//! Samples for the store's tests: a store in a temporary folder, or in a schema of its own on a PostgreSQL server; messages, ends and
//! effects. Not part of the program.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tempfile::TempDir;

use super::commit::*;
use super::database::Connection;
use super::postgres::Server;
use super::reader::Place;
use super::{Options, Store, apart};
use crate::failure::{Class, Failure};
use crate::message::{MessageId, Names};
use crate::world::World;
use crate::world::clock::ManualClock;

/// A store of its own, with a clock that the test moves.
pub(crate) struct Sample {
    pub(crate) store: Store,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) place: Place,
    _folder: Option<TempDir>,
    _schema: Option<Schema>,
}

/// If this variable is set, samples are stores on the server that its URL names.
pub(crate) const SERVER: &str = "CROSSDOCK_TEST_STORE";

/// The server of the tests, where none is named.
pub(crate) const SERVER_DEFAULT: &str = "postgres://postgres@127.0.0.1:5432/postgres";

/// A schema of a server that goes with the test.
pub(crate) struct Schema {
    server: Server,
}

impl Schema {
    /// A new one on the server of the tests; with an instruction if there is none.
    pub(crate) fn new() -> Schema {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("crossdock_test_{}_{number}", std::process::id());
        let url = std::env::var(SERVER).unwrap_or_else(|_| SERVER_DEFAULT.to_owned());
        let mut server = Server::new(&url, &name, None).unwrap();
        server.by_the_worlds_clock = true;
        let schema = Schema { server };
        schema.run(&format!("DROP SCHEMA IF EXISTS {name} CASCADE"));
        schema
    }

    pub(crate) fn server(&self) -> Server {
        self.server.clone()
    }

    pub(crate) fn place(&self) -> Place {
        Place::Server(Box::new(self.server()))
    }

    pub(crate) fn run(&self, sql: &str) {
        let ran = apart(|| {
            let failed = |error| self.server.failure(&error);
            let connection = self.server.connect().map_err(failed)?;
            let Connection::Postgres(session) = &connection else {
                unreachable!()
            };
            session.batch(sql).map_err(failed)
        });
        if let Err(failure) = ran {
            panic!("{failure}: `make services` starts the servers that the tests need");
        }
    }

    /// What a query counts.
    pub(crate) fn count(&self, sql: &str) -> i64 {
        apart(|| {
            let failed = |error| self.server.failure(&error);
            let connection = self.server.connect().map_err(failed)?;
            connection
                .query_row(sql, (), |row| row.get(0))
                .map_err(failed)
        })
        .unwrap()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        self.run(&format!(
            "DROP SCHEMA IF EXISTS {} CASCADE",
            self.server.schema()
        ));
    }
}

/// The time at which samples begin.
pub(crate) const START_MS: i64 = 1_790_000_000_000;

impl Sample {
    /// A store of the kind that is to be tested.
    pub(crate) fn new() -> Sample {
        match std::env::var_os(SERVER) {
            Some(_) => Sample::on_a_server(),
            None => Sample::in_a_file(),
        }
    }

    /// A store on SQLite.
    pub(crate) fn in_a_file() -> Sample {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::File(folder.path().join("state").join("store.db"));
        Sample {
            _folder: Some(folder),
            ..Sample::at(place)
        }
    }

    /// A store on PostgreSQL.
    pub(crate) fn on_a_server() -> Sample {
        let schema = Schema::new();
        let place = schema.place();
        Sample {
            _schema: Some(schema),
            ..Sample::at(place)
        }
    }

    fn at(place: Place) -> Sample {
        let clock = Arc::new(ManualClock::at(START_MS));
        let store = Store::open(Options::of(place.clone()), world(&clock)).unwrap();
        Sample {
            store,
            clock,
            place,
            _folder: None,
            _schema: None,
        }
    }

    pub(crate) fn options(&self) -> Options {
        Options::of(self.place.clone())
    }

    /// Of a store in a file: which.
    pub(crate) fn path(&self) -> &Path {
        self.place.file().expect("a file")
    }

    /// Works on the database itself.
    pub(in crate::store) fn with<T: Send>(&self, work: impl FnOnce(&Connection) -> T + Send) -> T {
        let worked = apart(|| {
            let connection = match &self.place {
                Place::File(path) => Connection::Sqlite(rusqlite::Connection::open(path).unwrap()),
                Place::Server(server) => server.connect().unwrap(),
            };
            Ok(work(&connection))
        });
        worked.unwrap()
    }

    /// Samples for a store that is there already.
    pub(crate) fn over(store: Store) -> Sample {
        Sample {
            store,
            clock: Arc::new(ManualClock::at(START_MS)),
            place: Place::File("".into()),
            _folder: None,
            _schema: None,
        }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.store.shutdown().await;
        self.store = Store::open(self.options(), world(&self.clock)).unwrap();
    }

    /// A message for the flow `orders`, with a key and a claim on it.
    pub(crate) fn order(&self, key: &str, body: &str) -> NewRun {
        let run = self.store.next_run();
        let message = MessageId::from_parts(START_MS as u64, run.0 as u128);
        NewRun {
            run,
            message,
            root: message,
            flow: Arc::from("orders"),
            revision: Arc::from("r1"),
            received_at_ms: START_MS,
            body: Bytes::copy_from_slice(body.as_bytes()),
            envelope: Bytes::new(),
            keys: Arc::new(Names::from([(Arc::from("order"), key.to_owned())])),
            claims: vec![claim("orders", key, body)],
            chains: Vec::new(),
            version: None,
            first: First::Hop(self.hop(run, message, "erp")),
        }
    }

    pub(crate) fn hop(&self, run: RunId, message: MessageId, step: &str) -> NewHop {
        NewHop {
            hop: self.store.next_hop(),
            run,
            flow: Arc::from("orders"),
            step: Arc::from(step),
            message,
            body: None,
            envelope: None,
        }
    }

    pub(crate) async fn accept(&self, runs: Vec<NewRun>) -> Vec<Accepted> {
        let commit = Commit {
            accepts: runs,
            ..Commit::default()
        };
        self.store.commit(commit).await.unwrap().accepts
    }

    pub(crate) async fn end(&self, ends: Vec<End>) -> Committed {
        let commit = Commit {
            ends,
            ..Commit::default()
        };
        self.store.commit(commit).await.unwrap()
    }

    /// The books of `orders`, checked against their recount.
    pub(crate) async fn books(&self) -> super::books::Counts {
        let books = self.store.books().await.unwrap();
        assert_eq!(books, self.store.recount().await.unwrap());
        for one in &books {
            assert!(one.counts.balanced(), "{one:?}");
        }
        let orders = books.iter().find(|books| &*books.flow == "orders");
        orders.map(|books| books.counts).unwrap_or_default()
    }
}

pub(crate) fn world(clock: &Arc<ManualClock>) -> World {
    World {
        clock: clock.clone(),
        ..World::real()
    }
}

pub(crate) fn claim(scope: &str, key: &str, body: &str) -> Claim {
    let mut hash = [1; 16];
    for (at, byte) in body.bytes().enumerate() {
        hash[at % 16] ^= byte.rotate_left((at / 16) as u32 % 8);
    }
    Claim {
        scope: scope.to_owned(),
        key: key.to_owned(),
        hash,
        keep_ms: 1000,
        changed: Changed::Exception,
    }
}

/// The first hop of a run.
pub(crate) fn first_hop(run: &NewRun) -> HopId {
    match &run.first {
        First::Hop(hop) => hop.hop,
        First::Exception(_) => panic!("the sample has no hop"),
    }
}

pub(crate) fn over(run: &NewRun, hop: HopId, next: Vec<NewHop>, leaves: Vec<Leaf>) -> End {
    turned(
        run,
        hop,
        Turn::Over {
            next,
            doors: Vec::new(),
            leaves,
        },
    )
}

pub(crate) fn turned(run: &NewRun, hop: HopId, turn: Turn) -> End {
    End {
        hop,
        fence: FENCE_FIRST,
        run: run.run,
        flow: run.flow.clone(),
        step: Arc::from("erp"),
        revision: None,
        turn,
        effect: None,
        saga: None,
        trail: Vec::new(),
        accepts: Vec::new(),
    }
}

pub(crate) fn waits(run: &NewRun, hop: HopId, due_at_ms: i64) -> End {
    turned(
        run,
        hop,
        Turn::Wait {
            due_at_ms,
            attempt: 2,
            failure: Failure::new(Class::Timeout, "no answer").with_detail("after 10 s"),
        },
    )
}

pub(crate) fn exception(run: &NewRun) -> NewException {
    NewException {
        step: Arc::from("erp"),
        class: Class::Validation,
        message: "quantity 0 is below 1".to_owned(),
        detail: None,
        fingerprint: "1-abc".to_owned(),
        attempts: 1,
        at: run.message,
        body: None,
        envelope: None,
        request: Some(Bytes::from_static(b"{}")),
        answer: None,
    }
}
