//! Samples for the store's tests: a store in a temporary folder, messages, ends and effects. Not part of the program.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::commit::*;
use super::{Options, Store};
use crate::failure::{Class, Failure};
use crate::message::{MessageId, Names};
use crate::world::World;
use crate::world::clock::ManualClock;

/// A store in a folder of its own, with a clock that the test moves.
pub(crate) struct Sample {
    pub(crate) store: Store,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) path: PathBuf,
    _folder: Option<TempDir>,
}

/// The time at which samples begin.
pub(crate) const START_MS: i64 = 1_790_000_000_000;

impl Sample {
    pub(crate) fn new() -> Sample {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state").join("store.db");
        let clock = Arc::new(ManualClock::at(START_MS));
        let store = Store::open(Options::at(&path), world(&clock)).unwrap();
        Sample {
            store,
            clock,
            path,
            _folder: Some(folder),
        }
    }

    /// Samples for a store that is there already.
    pub(crate) fn over(store: Store) -> Sample {
        Sample {
            store,
            clock: Arc::new(ManualClock::at(START_MS)),
            path: PathBuf::new(),
            _folder: None,
        }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.store.shutdown().await;
        self.store = Store::open(Options::at(&self.path), world(&self.clock)).unwrap();
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
