//! Messages from a queue of others to an exchange of others, on the program itself, while it is killed: nothing is lost, and what comes twice can
//! be known by its `message_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::support::{Sandbox, eventually};

const URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const ORDERS: usize = 400;
const KILLS: usize = 4;

/// A connection of the test's own, on a runtime of its own.
struct Broker {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    queues: Vec<String>,
    _connection: Connection,
}

impl Broker {
    /// With these queues, empty.
    fn with(queues: &[&str]) -> Broker {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let queues: Vec<String> = queues
            .iter()
            .map(|name| format!("crossdock-test-queues-{}-{name}", std::process::id()))
            .collect();
        let (connection, channel) = runtime.block_on(async {
            let connecting = Connection::connect(URL, ConnectionProperties::default());
            let connection = connecting.await.expect("`make services` starts a broker");
            let channel = connection.create_channel().await.unwrap();
            let confirms = channel.confirm_select(ConfirmSelectOptions::default());
            confirms.await.unwrap();
            for queue in &queues {
                let options = QueueDeclareOptions {
                    durable: true,
                    ..QueueDeclareOptions::default()
                };
                let made =
                    channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
                made.await.unwrap();
            }
            (connection, channel)
        });
        Broker {
            runtime,
            channel,
            queues,
            _connection: connection,
        }
    }

    fn publish(&self, queue: &str, id: &str, body: &str) {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(id.into());
        self.runtime.block_on(async {
            let publishing = self.channel.basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties,
            );
            publishing.await.unwrap().await.unwrap();
        });
    }

    /// Takes what is in a queue now: ids and bodies.
    fn drain(&self, queue: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.runtime.block_on(async {
            let options = BasicGetOptions { no_ack: true };
            while let Some(got) = self.channel.basic_get(queue.into(), options).await.unwrap() {
                let id = got.delivery.properties.message_id().clone().unwrap();
                let body = String::from_utf8(got.delivery.data.clone()).unwrap();
                found.push((id.to_string(), body));
            }
        });
        found
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for queue in &self.queues {
            let options = QueueDeleteOptions::default();
            let deleting = self.channel.queue_delete(queue.as_str().into(), options);
            self.runtime.block_on(deleting).ok();
        }
    }
}

fn project(from: &str, to: &str) -> Sandbox {
    let sandbox = Sandbox::new().variable("EVENTS_URL", URL);
    sandbox.file(
        "systems/events.yaml",
        "system: events\namqp: { urls: [\"${env:EVENTS_URL}\"] }\n",
    );
    sandbox.file(
        "flows/orders.yaml",
        &format!(
            "flow: orders
source: {{ amqp: {{ system: events, queue: {from}, prefetch: 20 }} }}
keys: {{ order: number }}
once: {{ key: order }}
sinks:
  out:
    amqp: {{ system: events, exchange: \"\", routing_key: {to}, kept: 1h }}
    retry: {{ attempts: 20, first: 50ms, most: 500ms }}
"
        ),
    );
    sandbox
}

#[test]
fn nothing_is_lost_between_two_queues_while_the_engine_is_killed() {
    let broker = Broker::with(&["in", "out"]);
    let (from, to) = (broker.queues[0].clone(), broker.queues[1].clone());
    let sandbox = project(&from, &to);
    let mut came = Vec::new();
    let mut engine = sandbox.start();
    for n in 0..ORDERS {
        let body = format!("{{\"number\":\"N{n}\"}}");
        broker.publish(&from, &format!("D{n}"), &body);
        // Some senders send again what they are not sure of.
        if n % 10 == 0 {
            broker.publish(&from, &format!("D{n}"), &body);
        }
        if n % (ORDERS / KILLS) == ORDERS / KILLS / 2 {
            drop(engine);
            engine = sandbox.start();
        }
    }
    let all: BTreeSet<String> = (0..ORDERS)
        .map(|n| format!("{{\"number\":\"N{n}\"}}"))
        .collect();
    eventually("every order is published", || {
        came.extend(broker.drain(&to));
        let bodies: BTreeSet<String> = came.iter().map(|(_, body)| body.clone()).collect();
        (bodies == all).then_some(())
    });
    let books = sandbox.books_at_rest(i64::try_from(ORDERS).unwrap());
    assert_eq!(books["all"]["accepted"], ORDERS, "{books}");
    assert_eq!(books["all"]["delivered"], ORDERS, "{books}");
    assert_eq!(books["balanced"], true);
    std::thread::sleep(Duration::from_millis(50));
    came.extend(broker.drain(&to));
    // What was published twice is the same message.
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (id, body) in &came {
        ids.entry(body).or_default().insert(id);
    }
    assert_eq!(ids.len(), ORDERS);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    assert!(broker.drain(&from).is_empty(), "all is acknowledged");
    assert_eq!(engine.terminate(), Some(0));
}

#[test]
fn the_doctor_sees_brokers_queues_and_exchanges() {
    let broker = Broker::with(&["there", "out"]);
    let (from, to) = (broker.queues[0].clone(), broker.queues[1].clone());
    let says = |sandbox: &Sandbox, code: i32, line: &str| {
        let output = sandbox.crossdock(&["doctor", "--timeout", "8"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.lines().any(|said| said.contains(line)),
            "no `{line}`:\n{text}"
        );
        assert_eq!(output.status.code(), Some(code), "{text}");
    };
    let sandbox = project(&from, &to);
    says(
        &sandbox,
        0,
        "ok   system events: amqp://127.0.0.1:5672/ lets us in",
    );
    says(
        &sandbox,
        0,
        &format!("ok   source of orders: the queue {from} is there"),
    );
    let sandbox = project("crossdock-test-no-such-queue", &to);
    says(
        &sandbox,
        1,
        "FAIL source of orders: the queue crossdock-test-no-such-queue",
    );
    let stranger =
        project(&from, &to).variable("EVENTS_URL", "amqp://guest:wrong@127.0.0.1:5672/%2f");
    says(
        &stranger,
        1,
        "FAIL system events: the broker amqp://127.0.0.1:5672/: it refuses the user `guest`",
    );
    let elsewhere =
        project(&from, &to).variable("EVENTS_URL", "amqp://guest:guest@127.0.0.1:5672/nowhere");
    says(&elsewhere, 1, "virtual host `nowhere`");
    let sandbox = project(&from, &to);
    let flow = std::fs::read_to_string(sandbox.root().join("flows/orders.yaml")).unwrap();
    sandbox.file(
        "flows/orders.yaml",
        &flow.replace(
            "exchange: \"\"",
            "exchange: crossdock-test-no-such-exchange",
        ),
    );
    says(
        &sandbox,
        1,
        "FAIL out of orders: the exchange crossdock-test-no-such-exchange",
    );
}

#[test]
fn the_doctor_sees_the_broker_between_the_steps() {
    // A queue of the hand-off that somebody has made, not as it must be.
    let broker = Broker::with(&["h.orders.@accept"]);
    let drifted = broker.queues[0].clone();
    let name = drifted.trim_end_matches(".orders.@accept").to_owned();
    let sandbox = Sandbox::new().variable("AMQP_URL", URL);
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders\nsource: { webhook: { path: /orders, verify: none } }\nsinks:\n  out: { discard: {} }\n",
    );
    assert_eq!(sandbox.start().terminate(), Some(0));
    let says = |sandbox: &Sandbox, line: &str| {
        let output = sandbox.crossdock(&["doctor", "--timeout", "8"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.lines().any(|said| said.contains(line)),
            "no `{line}`:\n{text}"
        );
    };
    let handoff = |sandbox: &Sandbox, name: &str| {
        let listen = sandbox.address();
        let text = format!(
            "listen: \"{listen}\"\nhandoff: {{ rabbitmq: {{ urls: [\"${{env:AMQP_URL}}\"], name: {name} }} }}\n"
        );
        sandbox.file("crossdock.yaml", &text);
    };
    handoff(&sandbox, &format!("{name}x"));
    says(
        &sandbox,
        "ok   handoff broker: amqp://127.0.0.1:5672/ lets us in",
    );
    says(&sandbox, "ok   handoff rights:");
    says(&sandbox, "ok   handoff queues: 0 are as they must be");
    handoff(&sandbox, &name);
    says(
        &sandbox,
        &format!("FAIL handoff queues: queue {drifted} is other than it must be"),
    );
    let stranger = sandbox.variable("AMQP_URL", "amqp://guest:wrong@127.0.0.1:5672/%2f");
    says(&stranger, "FAIL handoff broker:");
}
