//! A broker that refuses: the engine that runs, the engine that starts and the doctor each say what is wrong and what to do, and no order is
//! lost or done twice once it is mended.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;

use crate::support::broker::{Broker, Identity};
use crate::support::{Running, Sandbox, text};

const FLOW: &str = "flow: orders
source: { webhook: { path: /orders, verify: none } }
keys: { order: id }
once: { key: order, keep: 1d }
sinks:
  out: { file: { path: out/orders.jsonl, format: jsonl } }
";
const USER: &str = "shop";
/// The queue before the sink.
const QUEUE: &str = "crossdock1.orders.out";
/// How long an engine may take to say what is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many orders are sent at a time.
const MANY: usize = 15;

/// A broker with the engine's user, and a project whose engine hands on over it.
struct Scene {
    broker: Broker,
    sandbox: Sandbox,
    posted: usize,
}

/// What becomes of an engine that is started meanwhile.
enum Start {
    /// It ends with code 78 and says this.
    Ends(&'static str),
    /// It runs and says this.
    Runs(&'static str),
}

impl Scene {
    fn new(broker: Broker, url: &str, more: &str) -> Scene {
        let sandbox = Sandbox::new().variable("AMQP_URL", url);
        sandbox.file(
            "crossdock.yaml",
            &format!(
                "listen: \"{}\"\nhandoff:\n  rabbitmq: {{ urls: [\"${{env:AMQP_URL}}\"]{more} }}\n",
                sandbox.address()
            ),
        );
        sandbox.file("flows/orders.yaml", FLOW);
        Scene {
            broker,
            sandbox,
            posted: 0,
        }
    }

    /// A broker where the engine has a user of its own, with the rights that the manual names.
    fn with_user() -> Scene {
        let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
        broker.control(&["add_user", USER, "secret"]).unwrap();
        may(&broker, "^crossdock1\\.");
        let url = broker.url().replace("guest:guest", "shop:secret");
        Scene::new(broker, &url, "")
    }

    fn post(&mut self) {
        for _ in 0..MANY {
            let body = format!("{{\"id\": \"SO-{}\"}}", self.posted);
            let reply = self.sandbox.post("/orders", body.as_bytes());
            assert!(reply.status < 300, "{}: {}", reply.status, reply.body);
            self.posted += 1;
        }
    }

    /// The doctor fails with this, says what to do, and nobody's password.
    fn doctor_says(&self, name: &str, found: &str, help: &str) {
        let output = self
            .sandbox
            .crossdock(&["doctor", "--format", "json", "--timeout", "8"]);
        let said = text(&output.stdout);
        let mut looks = said
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let hit = looks.any(|look| {
            let has = |field: &str, part: &str| look[field].as_str().unwrap().contains(part);
            look["word"] == "FAIL"
                && look["name"] == name
                && has("found", found)
                && has("help", help)
        });
        assert!(hit, "no `FAIL {name}: {found}; {help}`:\n{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }

    /// All orders come out once.
    fn all_came(&self) {
        self.sandbox.books_at_rest(self.posted as i64);
        let out = self.sandbox.read_all("out/");
        let mut found: Vec<usize> = out
            .lines()
            .map(|line| {
                let order: Value = serde_json::from_str(line).unwrap();
                let id = order["id"].as_str().unwrap();
                id.trim_start_matches("SO-").parse().unwrap()
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, (0..self.posted).collect::<Vec<_>>());
    }

    /// Orders before, during and after a trouble, with the engine that ran when it came and one that starts in it.
    fn plays(
        &mut self,
        make: impl FnOnce(&mut Broker),
        mend: impl FnOnce(&mut Broker),
        log: &str,
        doctor: (&str, &str, &str),
        start: &Start,
    ) {
        let engine = self.sandbox.start();
        self.post();
        make(&mut self.broker);
        self.post();
        says(&engine, log, 1);
        self.doctor_says(doctor.0, doctor.1, doctor.2);
        assert_eq!(engine.log().matches(log).count(), 1, "{}", engine.log());
        assert_eq!(engine.terminate(), Some(0));
        self.starts(mend, start);
    }

    /// An engine is started in the trouble, and all goes on once that is mended.
    fn starts(&mut self, mend: impl FnOnce(&mut Broker), start: &Start) {
        let engine = match start {
            Start::Ends(part) => {
                let output = self.sandbox.crossdock(&["run"]);
                let said = text(&output.stderr);
                assert_eq!(output.status.code(), Some(78), "{said}");
                assert!(said.contains(part) && !said.contains("secret"), "{said}");
                mend(&mut self.broker);
                self.sandbox.start()
            }
            Start::Runs(part) => {
                // The log goes on where the engine before has ended.
                let log = self.sandbox.root().join("engine.log");
                let before = std::fs::read_to_string(log).unwrap().matches(part).count();
                let engine = self.sandbox.start();
                says(&engine, part, before + 1);
                self.post();
                mend(&mut self.broker);
                engine
            }
        };
        self.post();
        self.all_came();
        drop(engine);
    }
}

/// Waits until the log has this so often.
fn says(engine: &Running, part: &str, times: usize) {
    let began = Instant::now();
    while engine.log().matches(part).count() < times {
        let log = engine.log();
        assert!(began.elapsed() < PATIENCE, "no `{part}`:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Gives the engine's user these rights.
fn may(broker: &Broker, pattern: &str) {
    let given = broker.control(&["set_permissions", USER, pattern, pattern, pattern]);
    given.unwrap();
}

/// Ends all connections, so that the engines connect anew.
fn cut(broker: &Broker) {
    broker.control(&["close_all_connections", "test"]).unwrap();
}

#[test]
fn a_wrong_password_is_said_and_no_order_is_lost() {
    let password = |broker: &Broker, word: &str| {
        broker.control(&["change_password", USER, word]).unwrap();
    };
    let told = "it refuses the user `shop` or the password; check the URL's credentials";
    Scene::with_user().plays(
        |broker| {
            password(broker, "other");
            cut(broker);
        },
        |broker| password(broker, "secret"),
        "no connection to the broker (announces)",
        ("handoff broker", told, "`handoff.rabbitmq.urls`"),
        &Start::Ends(told),
    );
}

#[test]
fn a_user_without_rights_is_said_and_no_order_is_lost() {
    Scene::with_user().plays(
        |broker| {
            may(broker, "^$");
            cut(broker);
        },
        |broker| may(broker, "^crossdock1\\."),
        "the queues of the broker cannot be made; messages wait in the store",
        (
            "handoff rights",
            "this user may not configure crossdock1.*",
            "rabbitmqctl set_permissions",
        ),
        &Start::Ends("give the user the rights to configure, write and read"),
    );
}

#[test]
fn a_queue_with_other_arguments_is_said_and_no_order_is_lost() {
    let mut scene = Scene::with_user();
    let engine = scene.sandbox.start();
    scene.post();
    drop(engine);
    // An engine that runs would take another name for a queue that is gone.
    let gone = |broker: &Broker| drop(broker.control(&["delete_queue", QUEUE]).unwrap());
    gone(&scene.broker);
    theirs(&scene.broker.url());
    let other = "is other than it must be: it has";
    scene.doctor_says("handoff queues", other, "choose another `name`");
    let told = "exists with other arguments: it has";
    scene.starts(|broker| gone(broker), &Start::Ends(told));
}

/// Somebody makes a queue of this name as they like it.
fn theirs(url: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = connecting.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let making = channel.queue_declare(QUEUE.into(), options, FieldTable::default());
        making.await.unwrap();
        connection.close(200, "closed".into()).await.unwrap();
    });
}

#[test]
fn a_disk_alarm_is_said_once_and_no_order_is_lost() {
    let limit = |broker: &Broker, limit: &str| {
        broker.control(&["set_disk_free_limit", limit]).unwrap();
    };
    let told = "takes no messages: low on disk; free memory or disk there";
    Scene::with_user().plays(
        |broker| limit(broker, "900000GB"),
        |broker| limit(broker, "50MB"),
        told,
        (
            "handoff broker",
            "lets us in and takes no messages: low on disk",
            "free memory or disk on the broker",
        ),
        &Start::Runs(told),
    );
}

#[test]
fn an_expired_certificate_is_said_and_no_order_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let good = identity(folder.path(), "good", 2099);
    let expired = identity(folder.path(), "expired", 2002);
    let authorities = [&good, &expired].map(|it| std::fs::read_to_string(&it.authority).unwrap());
    let broker = Broker::start_with_tls(&good).unwrap_or_else(|error| panic!("{error}"));
    let url = broker.tls_url().unwrap();
    let mut scene = Scene::new(broker, &url, ", ca: \"${file:ca.pem}\"");
    scene.sandbox.file("ca.pem", &authorities.concat());
    let show = |broker: &mut Broker, identity: &Identity| {
        broker.configure(Some(identity)).unwrap();
        broker.kill();
        broker.start_again().unwrap();
    };
    scene.plays(
        |broker| show(broker, &expired),
        |broker| show(broker, &good),
        "no connection to the broker (announces)",
        (
            "handoff broker",
            "TLS failed: invalid peer certificate: certificate expired",
            "have the broker's certificate renewed",
        ),
        &Start::Ends("check `ca`, the broker's certificate and its dates"),
    );
}

/// A certificate for `localhost` that is good until this year, and is its own authority.
fn identity(folder: &Path, name: &str, until: i32) -> Identity {
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let write = |part: &str, pem: String| -> PathBuf {
        let path = folder.join(format!("{name}.{part}.pem"));
        std::fs::write(&path, pem).unwrap();
        path
    };
    Identity {
        authority: write("authority", certificate.pem()),
        certificate: write("certificate", certificate.pem()),
        key: write("key", key.serialize_pem()),
    }
}
