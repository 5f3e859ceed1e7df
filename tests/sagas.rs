//! Sagas: what was done for an order that cannot be completed is undone, whatever dies on the way. The systems are a real HTTP server with
//! a memory, the engine and the store are real; an engine is killed by ending its runtime in the middle of a request.

pub mod points;
mod systems;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossdock::failure::Class;
use crossdock::flow;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
use crossdock::store::books::Counts;
use crossdock::store::envelope::Envelope;
use crossdock::store::exceptions::{ExceptionDetail, ExceptionFilter};
use crossdock::store::runs::RunDetail;
use crossdock::store::{Options, Store};
use crossdock::world::World;
use tokio::runtime::Runtime;

use crate::support::eventually;
use systems::{Play, Systems, When};

/// An order needs a reservation, a label and a booking; only then it may be handed over.
const FLOW: &str = r#"
flow: fulfilment
source: { webhook: { path: /orders, verify: none } }
keys: { order: n }
once: { key: order }
steps:
  - id: fulfil
    saga:
      steps:
        - id: reserve
          call: { system: all, post: /reservations, idempotency_key: n }
          into: reservation
          undo: { delete: "/reservations/{{@reservation.id}}" }
        - id: shape
          map: shape
        - id: label
          call: { system: all, post: /labels, idempotency_key: n }
          into: label
          undo: { post: "/labels/{{@label.id}}/void", upsert: true }
        - id: book
          call: { system: all, post: /orders, idempotency_key: n }
          pivot: true
        - id: hand-over
          call: { system: all, post: "/labels/{{@label.id}}/hand-over", upsert: true }
      undo_retry: { attempts: 3, first: 10ms, most: 20ms }
sinks:
  done: { discard: {} }
"#;

const EVERYTHING: [&str; 4] = ["hand-over", "labels", "orders", "reservations"];

/// A project in a folder, and the systems around it.
struct Scene {
    folder: tempfile::TempDir,
    systems: Arc<Systems>,
}

/// One life of an engine.
struct Life {
    runtime: Runtime,
    engine: Engine,
    store: Store,
    address: SocketAddr,
}

impl Scene {
    fn new(flow: &str) -> Scene {
        let scene = Scene {
            folder: tempfile::tempdir().unwrap(),
            systems: Systems::start(),
        };
        let system = format!(
            "system: all\nhttp: {{ base_url: \"http://{}\" }}\ntimeout: 20s\nfailures: {{ \"503\": unavailable }}\n",
            scene.systems.address
        );
        scene.file(
            "crossdock.yaml",
            "defaults: { retry: { attempts: 3, first: 10ms, most: 20ms } }\n",
        );
        scene.file("flows/fulfilment.yaml", flow);
        scene.file("systems/all.yaml", &system);
        scene.file(
            "mappings/shape.yaml",
            "mapping: shape\nfields: { n: n, shaped: \"`true`\" }\n",
        );
        scene
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn live(&self) -> Life {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let root = self.folder.path();
        let (engine, store, address) = runtime.block_on(start(root));
        Life {
            runtime,
            engine,
            store,
            address,
        }
    }

    /// One order, to its end; what was left behind.
    fn fulfil(&self) -> End {
        let life = self.live();
        life.order();
        life.end()
    }
}

/// Hands an order to the flow; it must be accepted.
fn post(address: SocketAddr, body: &str) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}

async fn start(root: &Path) -> (Engine, Store, SocketAddr) {
    let world = World::real();
    let loaded = flow::load(root, &world);
    let told: Vec<String> = loaded
        .findings
        .iter()
        .filter(|finding| finding.code.name != "unguarded-effect")
        .map(|finding| format!("{}: {}", finding.code, finding.message))
        .collect();
    let project = loaded.project.unwrap_or_else(|| panic!("{told:#?}"));
    let store = eventually("the store opens", || {
        Store::open(Options::at(root.join("store.db")), world.clone()).ok()
    });
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr();
    let start = Start {
        project,
        root: root.to_owned(),
        world,
        store: store.clone(),
        listener,
        loader: None,
        watch: None,
    };
    (Engine::start(start).await.unwrap(), store, address)
}

/// What an order has left behind.
struct End {
    counts: Counts,
    run: RunDetail,
    exceptions: Vec<ExceptionDetail>,
}

impl End {
    /// `step class` of each exception.
    fn exceptions(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .exceptions
            .iter()
            .map(|exception| format!("{} {}", exception.row.step, exception.row.class))
            .collect();
        all.sort();
        all
    }

    /// `step what` of the timeline's lines that a saga is about.
    fn timeline(&self) -> Vec<String> {
        let lines = self.run.trail.iter().filter(|line| line.what != "waits");
        lines
            .map(|line| match (&*line.what, &line.detail) {
                ("undoes", Some(detail)) => format!("{} undoes {detail}", line.step),
                (what, _) => format!("{} {what}", line.step),
            })
            .collect()
    }
}

impl Life {
    fn order(&self) {
        post(self.address, r#"{"n":"A-1","more":1}"#);
    }

    /// Comes to rest, and stops.
    fn end(self) -> End {
        let Life {
            runtime,
            engine,
            store,
            ..
        } = self;
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), engine.at_rest())
                .await
                .expect("the engine comes to rest");
            let books = store.books().await.unwrap();
            assert_eq!(books, store.recount().await.unwrap(), "the sums are right");
            assert!(books[0].counts.balanced(), "{books:?}");
            let run = store.run("1").await.unwrap().unwrap();
            let mut exceptions = Vec::new();
            let filter = ExceptionFilter {
                limit: 100,
                ..ExceptionFilter::default()
            };
            for row in store.exceptions(filter).await.unwrap() {
                exceptions.push(store.exception(row.id).await.unwrap().unwrap());
            }
            assert!(engine.stop(Duration::from_secs(10)).await, "a clean stop");
            End {
                counts: books[0].counts,
                run,
                exceptions,
            }
        })
    }

    /// Dies where it stands.
    fn die(self) {
        let Life {
            runtime,
            engine,
            store,
            ..
        } = self;
        runtime.shutdown_background();
        drop((engine, store));
    }
}

#[test]
fn an_order_that_goes_well_is_done_once_and_nothing_is_undone() {
    let scene = Scene::new(FLOW);
    let end = scene.fulfil();
    assert_eq!((end.counts.delivered, end.exceptions.len()), (1, 0));
    assert_eq!(scene.systems.standing(), EVERYTHING);
    assert_eq!(scene.systems.lines().len(), 4);
}

#[test]
fn what_was_done_before_a_failure_is_undone_in_reverse_order() {
    let refused = |line| vec![(When::Line(line, 1), Play::Says(422))];
    let scene = Scene::new(FLOW);
    scene.systems.play(&refused("POST /orders"));
    let end = scene.fulfil();
    assert!(scene.systems.standing().is_empty());
    assert_eq!(
        scene.systems.lines()[2..],
        [
            "POST /orders HTTP/1.1",
            "POST /labels/2/void HTTP/1.1",
            "DELETE /reservations/1 HTTP/1.1"
        ]
    );
    assert_eq!(
        end.timeline(),
        [
            "fulfil done",
            "reserve done",
            "label done",
            "book done",
            "book failed",
            "fulfil undoes label, reserve",
            "label/undo done",
            "reserve/undo done",
            "fulfil undone",
            "reserve exception",
        ]
    );
    assert_eq!(end.exceptions(), ["reserve validation"]);
    assert_eq!(end.counts.in_exceptions, 1);
    let states: Vec<_> = end
        .run
        .sagas
        .iter()
        .map(|step| step.standing.name())
        .collect();
    assert_eq!(states, ["undone", "undone", "not done"]);

    let scene = Scene::new(FLOW);
    scene.systems.play(&refused("POST /labels"));
    let end = scene.fulfil();
    assert!(scene.systems.standing().is_empty());
    assert_eq!(scene.systems.lines().len(), 3);
    assert_eq!(end.exceptions(), ["reserve validation"]);

    let scene = Scene::new(FLOW);
    scene.systems.play(&refused("POST /reservations"));
    let end = scene.fulfil();
    assert_eq!(scene.systems.lines().len(), 1);
    assert_eq!(end.exceptions(), ["reserve validation"]);
}

#[test]
fn a_step_without_outside_effect_that_fails_undoes_too() {
    let scene = Scene::new(FLOW);
    scene.file(
        "mappings/shape.yaml",
        "mapping: shape\nfields: { n: decimal(n) }\n",
    );
    let end = scene.fulfil();
    assert!(scene.systems.standing().is_empty());
    assert_eq!(scene.systems.lines().len(), 2);
    assert_eq!(end.exceptions(), ["reserve mapping"]);
}

#[test]
fn a_person_gets_the_message_as_it_was_in_the_next_generation() {
    let scene = Scene::new(FLOW);
    scene
        .systems
        .play(&[(When::Line("POST /orders", 1), Play::Says(422))]);
    let end = scene.fulfil();
    let exception = &end.exceptions[0];
    let body = exception.body.clone().unwrap();
    assert_eq!(&body[..], br#"{"n":"A-1","more":1}"#);
    let envelope = Envelope::read(&exception.envelope.clone().unwrap()).unwrap();
    assert_eq!(envelope.generation, 1);
    assert!(envelope.variables.is_empty());
    assert!(
        exception
            .row
            .message
            .starts_with("`book` failed, and what `fulfil` had done before it was undone: "),
        "{}",
        exception.row.message
    );
}

#[test]
fn a_failure_is_repeated_before_anything_is_undone() {
    let scene = Scene::new(FLOW);
    let busy = Play::Says(503);
    scene.systems.play(&[(When::Line("POST /orders", 2), busy)]);
    let end = scene.fulfil();
    assert_eq!(end.counts.delivered, 1);
    assert_eq!(scene.systems.standing(), EVERYTHING);
}

#[test]
fn a_failed_undo_waits_for_a_person_and_the_others_still_run() {
    let scene = Scene::new(FLOW);
    scene.systems.play(&[
        (When::Line("POST /orders", 1), Play::Says(422)),
        (When::Line("POST /labels/2/void", 9), Play::Says(409)),
    ]);
    let end = scene.fulfil();
    assert_eq!(scene.systems.standing(), ["labels"]);
    assert_eq!(
        end.exceptions(),
        ["label/undo conflict", "reserve validation"]
    );
    let told = |class: Class| {
        let found = end.exceptions.iter().find(|one| one.row.class == class);
        found.unwrap().row.message.clone()
    };
    assert!(
        told(Class::Conflict)
            .starts_with("`label` could not be undone; undo it by hand at all, or retry this"),
        "{}",
        told(Class::Conflict)
    );
    assert!(
        told(Class::Validation).contains("left standing: label"),
        "{}",
        told(Class::Validation)
    );
    assert_eq!(end.run.row.excepted, 2);
}

#[test]
fn an_undo_is_repeated_and_what_is_not_there_is_undone() {
    let scene = Scene::new(FLOW);
    scene.systems.play(&[
        (When::Line("POST /orders", 1), Play::Says(422)),
        (When::Line("POST /labels/2/void", 2), Play::Says(503)),
        (When::Line("DELETE /reservations", 1), Play::ApplyAndCut),
    ]);
    let end = scene.fulfil();
    assert!(scene.systems.standing().is_empty());
    assert_eq!(end.exceptions(), ["reserve validation"]);
    let twice = scene.systems.lines();
    let twice = twice.iter().filter(|line| line.starts_with("DELETE"));
    assert_eq!(
        twice.count(),
        2,
        "the second one found nothing, and that is good"
    );
}

#[test]
fn behind_the_pivot_nothing_is_undone() {
    let scene = Scene::new(FLOW);
    let refused = Play::Says(422);
    scene
        .systems
        .play(&[(When::Line("POST /labels/2/hand", 9), refused)]);
    let end = scene.fulfil();
    assert_eq!(
        scene.systems.standing(),
        ["labels", "orders", "reservations"]
    );
    assert_eq!(end.exceptions(), ["hand-over validation"]);
    assert!(end.timeline().contains(&"hand-over exception".to_owned()));
}

/// The same without idempotency keys: nobody can tell whether a request that was cut off was applied.
fn unguarded() -> String {
    FLOW.replace(", idempotency_key: n", "")
}

#[test]
fn when_nobody_knows_whether_the_pivot_was_done_nothing_is_undone() {
    let scene = Scene::new(&unguarded());
    scene
        .systems
        .play(&[(When::Line("POST /orders", 1), Play::ApplyAndCut)]);
    let end = scene.fulfil();
    assert_eq!(
        scene.systems.standing(),
        ["labels", "orders", "reservations"]
    );
    assert_eq!(end.exceptions(), ["book ambiguous"]);
}

#[test]
fn a_step_of_which_nobody_knows_is_undone_only_where_that_does_no_harm() {
    // The undo of `label` needs the answer that never came, and may do harm: a person looks; the reservation is undone.
    let scene = Scene::new(&unguarded());
    scene
        .systems
        .play(&[(When::Line("POST /labels", 1), Play::ApplyAndCut)]);
    let end = scene.fulfil();
    assert_eq!(scene.systems.standing(), ["labels"]);
    assert_eq!(
        end.exceptions(),
        ["label/undo ambiguous", "reserve ambiguous"]
    );

    // Told that it does no harm, and by the order's number: it is undone, whether it was there or not.
    let by_number = unguarded().replace(
        "{ post: \"/labels/{{@label.id}}/void\", upsert: true }",
        "{ delete: \"/labels/2\" }",
    );
    for play in [Play::ApplyAndCut, Play::Cut] {
        let scene = Scene::new(&by_number);
        scene.systems.play(&[(When::Line("POST /labels", 1), play)]);
        let end = scene.fulfil();
        assert!(scene.systems.standing().is_empty(), "{play:?}");
        assert_eq!(end.exceptions(), ["reserve ambiguous"], "{play:?}");
    }

    // It does no harm, but it needs the answer that never came: by hand.
    let cut = [(When::Line("POST /reservations", 1), Play::ApplyAndCut)];
    let scene = Scene::new(&unguarded());
    scene.systems.play(&cut);
    let end = scene.fulfil();
    assert_eq!(
        end.exceptions(),
        ["reserve ambiguous", "reserve/undo mapping"]
    );

    // Nothing that could be undone: the message waits where it is, as without a saga.
    let harmful = unguarded().replace("reservation.id}}\" }", "reservation.id}}\", done_on: [] }");
    let scene = Scene::new(&harmful);
    scene.systems.play(&cut);
    let end = scene.fulfil();
    assert_eq!(end.exceptions(), ["reserve ambiguous"]);
    assert_eq!(scene.systems.lines().len(), 1);
    assert!(end.timeline().contains(&"reserve exception".to_owned()));
}

#[test]
fn a_silent_target_of_a_safe_request_may_have_done_it() {
    let put = FLOW
        .replace(
            "call: { system: all, post: /labels, idempotency_key: n }",
            "call: { system: all, put: \"/labels/{{n}}\", upsert: true }",
        )
        .replace(
            "{ post: \"/labels/{{@label.id}}/void\", upsert: true }",
            "{ delete: \"/labels/{{n}}\" }",
        );
    let scene = Scene::new(&put);
    scene
        .systems
        .play(&[(When::Line("PUT", 9), Play::ApplyAndCut)]);
    let end = scene.fulfil();
    assert!(
        scene.systems.standing().is_empty(),
        "{:?}",
        scene.systems.lines()
    );
    assert_eq!(end.exceptions.len(), 1);
    assert_eq!(&*end.exceptions[0].row.step, "reserve");
}

#[test]
fn on_undone_end_counts_the_message_as_compensated() {
    let ends = FLOW.replace("      undo_retry", "      on_undone: end\n      undo_retry");
    let scene = Scene::new(&ends);
    scene
        .systems
        .play(&[(When::Line("POST /orders", 1), Play::Says(422))]);
    let end = scene.fulfil();
    assert_eq!((end.counts.compensated, end.exceptions.len()), (1, 0));
    assert!(scene.systems.standing().is_empty());

    // What was left standing is never passed over in silence.
    let bare = ends.replace(
        "          undo: { post: \"/labels/{{@label.id}}/void\", upsert: true }\n",
        "",
    );
    let scene = Scene::new(&bare);
    scene
        .systems
        .play(&[(When::Line("POST /orders", 1), Play::Says(422))]);
    let end = scene.fulfil();
    assert_eq!(scene.systems.standing(), ["labels"]);
    assert_eq!(end.exceptions(), ["reserve validation"]);
    assert!(
        end.exceptions[0]
            .row
            .message
            .contains("left standing: label")
    );
}

/// Kills the engine at each request, before and after it is applied, and lets another one finish.
fn crash_at_each_request(flow: &str, plays: &[(When, Play)], check: impl Fn(&Scene, &End, &str)) {
    let plain = Scene::new(flow);
    plain.systems.play(plays);
    check(&plain, &plain.fulfil(), "without a crash");
    let requests = plain.systems.lines().len();
    assert!(requests >= 4, "{requests}");
    for request in 0..requests {
        for freeze in [Play::Freeze, Play::ApplyAndFreeze] {
            let what = format!("request {request}, {freeze:?}");
            let refused = plays.iter().any(|(when, _)| match when {
                When::Line(line, _) => plain.systems.lines()[request].starts_with(*line),
                When::Nth(_) | When::Has(_) => false,
            });
            if refused && freeze == Play::ApplyAndFreeze {
                continue;
            }
            let scene = Scene::new(flow);
            let mut with_freeze = vec![(When::Nth(request), freeze)];
            with_freeze.extend(plays.iter().cloned());
            scene.systems.play(&with_freeze);
            let life = scene.live();
            life.order();
            assert!(scene.systems.froze(Duration::from_secs(20)), "{what}");
            life.die();
            scene.systems.play(plays);
            check(&scene, &scene.live().end(), &what);
            assert_eq!(scene.systems.doubled(), 0, "{what}");
        }
    }
}

#[test]
fn a_crash_at_any_request_leaves_all_undone() {
    let refused = [(When::Line("POST /orders", 9), Play::Says(422))];
    // The repeat of an undo that was applied finds nothing.
    let flow = FLOW.replace(
        "/void\", upsert: true",
        "/void\", upsert: true, done_on: [not_found]",
    );
    crash_at_each_request(&flow, &refused, |scene, end, what| {
        if what.starts_with("request 2,") {
            // The booking was on its way: the "no" to its repeat says nothing about the first one, which may be past the pivot.
            assert_eq!(scene.systems.standing(), ["labels", "reservations"]);
            return assert_eq!(end.exceptions(), ["book ambiguous"]);
        }
        assert!(
            scene.systems.standing().is_empty(),
            "{what}: {:?}",
            scene.systems.lines()
        );
        assert_eq!(end.exceptions(), ["reserve validation"], "{what}");
        assert_eq!(end.counts.in_exceptions, 1, "{what}");
    });
}

#[test]
fn a_crash_at_any_request_leaves_all_done() {
    crash_at_each_request(FLOW, &[], |scene, end, what| {
        assert_eq!(scene.systems.standing(), EVERYTHING, "{what}");
        assert_eq!(
            (end.counts.delivered, end.exceptions.len()),
            (1, 0),
            "{what}"
        );
    });
}

#[test]
fn a_crash_behind_the_pivot_undoes_nothing() {
    let refused = [(When::Line("POST /labels/2/hand", 9), Play::Says(422))];
    crash_at_each_request(FLOW, &refused, |scene, end, what| {
        assert_eq!(
            scene.systems.standing(),
            ["labels", "orders", "reservations"],
            "{what}"
        );
        assert_eq!(end.exceptions(), ["hand-over validation"], "{what}");
    });
}
