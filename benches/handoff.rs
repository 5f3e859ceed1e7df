//! Measure: a hop over RabbitMQ. Takes from a quorum queue, publishes to another one, waits for the confirm, acknowledges: our client against
//! a bare lapin loop with the same window, one after the other on the same broker. It measures no store and no flow.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock::net::amqp::Broker;
use crossdock::net::amqp::consumer::Consumer;
use crossdock::net::amqp::line::Line;
use crossdock::net::amqp::publisher::{Letter, Manner, Outcome, Publisher, WINDOW};
use crossdock::net::amqp::receipts::Receipt;
use crossdock::world::World;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::mpsc;

use crate::measure::Line as Measured;

/// The broker of this machine.
const SERVER: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// How many messages pass in one round, and how large they are.
const MESSAGES: usize = 20_000;
const BYTES: usize = 1024;
/// How many rounds each of the two has.
const ROUNDS: usize = 5;
/// So many acknowledgements go together in the bare loop.
const BATCH: u64 = 32;
/// How long a new quorum queue rests.
const REST: Duration = Duration::from_secs(2);

/// Measures, if there is a broker; without one only who asks for it by name is told.
pub fn run(lines: &mut Vec<Measured>) {
    let runtime = crate::throughput::runtime();
    runtime.block_on(async {
        match Connection::connect(SERVER, ConnectionProperties::default()).await {
            Ok(connection) => lines.push(measure(&connection).await),
            Err(error) => {
                let named = std::env::args().any(|argument| argument == "handoff");
                assert!(
                    !named,
                    "no RabbitMQ on 127.0.0.1:5672 ({error}); `make services` starts one"
                );
            }
        }
    });
}

async fn measure(connection: &Connection) -> Measured {
    let channel = connection.create_channel().await.expect("a channel");
    let name = format!("crossdock-bench-{}", std::process::id());
    let queues = [format!("{name}.a"), format!("{name}.b")];
    let exchange = format!("{name}.x");
    let kind = lapin::ExchangeKind::Direct;
    let none = FieldTable::default;
    let declaring =
        channel.exchange_declare(exchange.as_str().into(), kind, Default::default(), none());
    declaring.await.expect("an exchange");
    for queue in &queues {
        let mut arguments = none();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declaring = channel.queue_declare(queue.as_str().into(), options, arguments);
        declaring.await.expect("a queue");
        let (queue, key) = (queue.as_str().into(), queue.as_str().into());
        let binding = channel.queue_bind(
            queue,
            exchange.as_str().into(),
            key,
            QueueBindOptions::default(),
            none(),
        );
        binding.await.expect("a binding");
    }
    tokio::time::sleep(REST).await;
    let way = Way { exchange, queues };
    fill(&channel, &way).await;
    // What is in `a` goes to `b`, and back: each round moves the same messages.
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (ours_now, bare_now) = (with_ours(&way, 0, 1).await, with_lapin(&way, 1, 0).await);
        // The first round warms up.
        if round > 0 {
            ratios.push(ours_now / bare_now);
            ours.push(ours_now);
            bare.push(bare_now);
        }
    }
    for queue in &way.queues {
        let deleting = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        deleting.await.expect("deleted");
    }
    let deleting = channel.exchange_delete(way.exchange.as_str().into(), Default::default());
    deleting.await.expect("deleted");
    let more = format!(
        "  take from a quorum queue, publish with confirm, acknowledge; 1 KiB, window {WINDOW}; a bare lapin loop: {:.0}/s; median of {ROUNDS} rounds in turn",
        median(bare)
    );
    Measured::at_least("handoff_rabbitmq", median(ours), "/s", median(ratios), 0.8).with(more)
}

/// The two queues between which messages are moved.
struct Way {
    exchange: String,
    queues: [String; 2],
}

async fn fill(channel: &Channel, way: &Way) {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let body = vec![b'x'; BYTES];
    for _ in 0..MESSAGES / 1000 {
        let publishing = (0..1000).map(|_| {
            channel.basic_publish(
                way.exchange.as_str().into(),
                way.queues[0].as_str().into(),
                BasicPublishOptions::default(),
                &body,
                BasicProperties::default().with_delivery_mode(2),
            )
        });
        let confirms = futures_util::future::join_all(publishing).await;
        for confirm in confirms {
            confirm.expect("published").await.expect("confirmed");
        }
    }
}

/// Messages a second with our client.
async fn with_ours(way: &Way, from: usize, to: usize) -> f64 {
    let broker = Arc::new(Broker::new(&[SERVER.to_owned()], None, None).expect("a URL"));
    let publishing = Line::open(broker.clone(), "bench", World::real());
    let consuming = Line::open(broker, "bench", World::real());
    let publisher = Publisher::start(publishing.clone(), Manner::default());
    publishing.link().await;
    let link = consuming.link().await;
    let (told, mut outcomes) = mpsc::unbounded_channel();
    let prefetch = u16::try_from(WINDOW).unwrap_or(u16::MAX);
    let began = Instant::now();
    let mut consumer = Consumer::open(&link, &way.queues[from], prefetch, "")
        .await
        .expect("a consumer");
    let receipts = consumer.receipts();
    let moving = async {
        for _ in 0..MESSAGES {
            let delivery = consumer.next().await.expect("a delivery");
            let letter = Letter {
                exchange: way.exchange.as_str().into(),
                routing_key: way.queues[to].as_str().into(),
                properties: BasicProperties::default().with_delivery_mode(2),
                body: delivery.body,
            };
            let (receipts, told) = (receipts.clone(), told.clone());
            let done = move |outcome| {
                assert!(matches!(outcome, Outcome::Stored), "{outcome:?}");
                receipts.settle(delivery.tag, Receipt::Taken);
                told.send(()).ok();
            };
            publisher.send(letter, done).await;
        }
    };
    let counting = async {
        for _ in 0..MESSAGES {
            outcomes.recv().await.expect("an outcome");
        }
    };
    tokio::join!(moving, counting);
    consumer.close().await;
    let rate = MESSAGES as f64 / began.elapsed().as_secs_f64();
    publisher.close().await;
    publishing.close().await;
    consuming.close().await;
    rate
}

/// Messages a second with nothing but the library, used as well as we know how to.
async fn with_lapin(way: &Way, from: usize, to: usize) -> f64 {
    let connect = || Connection::connect(SERVER, ConnectionProperties::default());
    let (near, far) = (
        connect().await.expect("connected"),
        connect().await.expect("connected"),
    );
    let (taking, giving) = (
        near.create_channel().await.expect("a channel"),
        far.create_channel().await.expect("a channel"),
    );
    giving
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let prefetch = u16::try_from(WINDOW).unwrap_or(u16::MAX);
    taking
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .expect("a prefetch");
    let began = Instant::now();
    let consuming = taking.basic_consume(
        way.queues[from].as_str().into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consuming.await.expect("a consumer");
    let mut flight = FuturesUnordered::new();
    let (mut taken, mut done, mut acknowledged) = (0, 0u64, 0u64);
    let mut beyond = BTreeSet::new();
    while done < MESSAGES as u64 {
        tokio::select! {
            biased;
            Some(tag) = flight.next(), if !flight.is_empty() => {
                beyond.insert(tag);
                while beyond.remove(&(done + 1)) {
                    done += 1;
                }
                if done - acknowledged >= BATCH || done == MESSAGES as u64 {
                    acknowledged = done;
                    taking.basic_ack(done, BasicAckOptions { multiple: true }).await.expect("acknowledged");
                }
            }
            Some(delivery) = consumer.next(), if taken < MESSAGES && flight.len() < WINDOW => {
                taken += 1;
                let delivery = delivery.expect("a delivery");
                let (giving, body) = (&giving, Bytes::from(delivery.data));
                flight.push(async move {
                    let publishing = giving.basic_publish(
                        way.exchange.as_str().into(),
                        way.queues[to].as_str().into(),
                        BasicPublishOptions::default(),
                        &body,
                        BasicProperties::default().with_delivery_mode(2),
                    );
                    let confirmed = publishing.await.expect("published").await.expect("confirmed");
                    assert!(confirmed.is_ack());
                    delivery.delivery_tag
                });
            }
        }
    }
    taking.close(200, "done".into()).await.expect("closed");
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
