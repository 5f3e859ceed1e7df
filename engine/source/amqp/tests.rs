//! What the source promises, against the broker of this machine: acknowledged means durable, nothing is put back to spin, and what is odd is
//! told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::{BasicProperties, Channel, ExchangeKind};

use super::*;
use crate::component::Arrival;
use crate::net::amqp::line::Line;
use crate::net::amqp::tests::{broker, patiently};
use crate::net::listener::Listener;
use crate::source::fake::{self, Fake, State};
use crate::step::bench::Bench;
use crate::system::broker::tests::SYSTEM;
use crate::world::World;

const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";

/// A connection of the test's own, and names that are deleted at its end.
struct Site {
    channel: Channel,
    name: String,
    line: Line,
}

impl Site {
    async fn new() -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let line = Line::open(broker(&["127.0.0.1:5672"]), "test", World::real());
        let link = line.link_within(Duration::from_secs(20)).await;
        let link = link.unwrap_or_else(|why| panic!("{why}; `make services` starts a broker"));
        let channel = link.channel().await.unwrap();
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        confirms.await.unwrap();
        Site {
            channel,
            name: format!("crossdock-test-source-{}-{nth}", std::process::id()),
            line,
        }
    }

    async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let publishing = self.channel.basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        );
        patiently(async { publishing.await.unwrap().await.unwrap() }).await;
    }

    /// How many messages wait in a queue, those that are taken and not acknowledged left out.
    async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let asked = self
            .channel
            .queue_declare(queue.into(), options, FieldTable::default());
        asked.await.unwrap().message_count()
    }

    async fn end(self, queues: &[&str], exchanges: &[&str]) {
        for queue in queues {
            let options = QueueDeleteOptions::default();
            self.channel
                .queue_delete((*queue).into(), options)
                .await
                .unwrap();
        }
        for exchange in exchanges {
            let options = ExchangeDeleteOptions::default();
            self.channel
                .exchange_delete((*exchange).into(), options)
                .await
                .unwrap();
        }
    }
}

/// The source that an entry describes.
fn source(entry: &str) -> Arc<dyn Source> {
    let bench = Bench::new().broker(SYSTEM);
    match bench.build::<crate::source::SourceKind>(entry) {
        (Some(Ready::Runs(source)), found) if found.is_empty() => source,
        (_, found) => panic!("{entry}: {found:?}"),
    }
}

fn declared(site: &Site, more: &str) -> Arc<dyn Source> {
    source(&format!(
        "amqp: {{ system: events, queue: {}, declare: {{ arguments: {{ x-queue-type: classic }} }}{more} }}",
        site.name
    ))
}

fn header<'a>(arrival: &'a Arrival, name: &str) -> Option<&'a str> {
    let found = arrival.headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// Runs the source until something holds, then stops it; gives how it ended.
async fn run(
    source: &Arc<dyn Source>,
    fake: &Arc<Fake>,
    what: &str,
    holds: impl Fn(&State) -> bool,
) -> Result<(), Failure> {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let root = std::path::Path::new(".");
    let cx = fake::intake(fake, World::real(), root, &listener);
    let running = tokio::spawn(source.clone().run(cx.clone()));
    fake.until(what, holds).await;
    cx.stop.cancel();
    patiently(running).await.unwrap()
}

/// Lets the source make its queue, and stops it.
async fn made(site: &Site, source: &Arc<dyn Source>) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let root = std::path::Path::new(".");
    let cx = fake::intake(&Fake::new(), World::real(), root, &listener);
    let running = tokio::spawn(source.clone().run(cx.clone()));
    let link = site.line.link().await;
    let there = async {
        loop {
            // A question about a queue that is not there ends its channel.
            let channel = link.channel().await.unwrap();
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let name = site.name.as_str().into();
            let asked = channel.queue_declare(name, options, FieldTable::default());
            if asked.await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently(there).await;
    cx.stop.cancel();
    patiently(running).await.unwrap().unwrap();
}

fn with_id(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

fn with_headers(properties: BasicProperties, headers: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    properties.with_headers(table)
}

#[tokio::test]
async fn a_message_is_acknowledged_once_it_is_durable_and_comes_again_until_then() {
    let site = Site::new().await;
    let source = declared(&site, "");
    made(&site, &source).await;
    let queue = site.name.clone();
    let properties = with_headers(
        with_id("D-1").with_content_type("application/json".into()),
        &[("X-Tenant", "north"), ("Authorization", "secret")],
    );
    site.publish("", &queue, properties, b"{\"n\":1}").await;
    let refusing = Fake::new();
    let full = Failure::new(Class::Unavailable, "the store is full");
    refusing.state().failing = (0..1_000).map(|_| Some(full.clone())).collect();
    let ended = run(&source, &refusing, "it was offered", |state| {
        state.failing.len() < 999
    });
    ended.await.unwrap();
    assert!(refusing.state().stored.is_empty());
    assert_eq!(site.ready(&queue).await, 1, "it is back in its queue");
    let fake = Fake::new();
    let ended = run(&source, &fake, "it is stored", |state| {
        state.stored.len() == 1
    });
    ended.await.unwrap();
    assert_eq!(site.ready(&queue).await, 0);
    {
        let state = fake.state();
        let arrival = &state.stored[0];
        assert_eq!(arrival.body, Bytes::from_static(b"{\"n\":1}"));
        assert_eq!(arrival.delivery.as_deref(), Some("D-1"));
        for (name, value) in [
            ("x-tenant", Some("north")),
            ("authorization", None),
            ("message-id", Some("D-1")),
            ("content-type", Some("application/json")),
            ("amqp-routing-key", Some(&*queue)),
            ("amqp-redelivered", Some("true")),
        ] {
            assert_eq!(header(arrival, name), value, "{name}");
        }
    }
    site.end(&[&queue], &[]).await;
}

#[tokio::test]
async fn many_are_taken_in_order_and_repeats_have_no_effect() {
    let site = Site::new().await;
    let source = declared(&site, ", prefetch: 10");
    made(&site, &source).await;
    let queue = site.name.clone();
    for n in 0..60 {
        let id = format!("D-{}", n % 50);
        site.publish("", &queue, with_id(&id), n.to_string().as_bytes())
            .await;
    }
    let fake = Fake::slow(Duration::from_millis(2));
    let ended = run(&source, &fake, "all are stored", |state| {
        state.stored.len() == 50 && state.duplicates == 10
    });
    ended.await.unwrap();
    let expect: Vec<_> = (0..50).map(|n: u32| n.to_string()).collect();
    assert_eq!(fake.bodies(), expect);
    assert!(fake.state().batches.iter().all(|size| *size <= 10));
    assert_eq!(site.ready(&queue).await, 0);
    site.end(&[&queue], &[]).await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_kept_as_it_came_and_never_put_back() {
    let site = Site::new().await;
    let source = declared(&site, "");
    made(&site, &source).await;
    let queue = site.name.clone();
    let kind = |kind: &str| BasicProperties::default().with_content_type(kind.into());
    let zip = BasicProperties::default().with_content_encoding("gzip".into());
    let batch = kind("application/cloudevents-batch+json");
    for (properties, body) in [
        (zip, &b"no gzip"[..]),
        (batch, b"[]"),
        (kind(STRUCTURED), b"{\"id\": \"1\"}"),
        (kind(STRUCTURED), b"{"),
    ] {
        site.publish("", &queue, properties, body).await;
    }
    let fake = Fake::new();
    let ended = run(&source, &fake, "all are stored", |state| {
        state.stored.len() == 4
    });
    ended.await.unwrap();
    assert_eq!(fake.bodies(), ["no gzip", "[]", "{\"id\": \"1\"}", "{"]);
    assert!(
        fake.state()
            .stored
            .iter()
            .all(|arrival| arrival.breach.is_some())
    );
    assert_eq!(site.ready(&queue).await, 0, "nothing spins");
    site.end(&[&queue], &[]).await;
}

#[tokio::test]
async fn events_in_both_modes_give_their_data_and_their_attributes() {
    use std::io::Write;
    let site = Site::new().await;
    let source = declared(&site, "");
    made(&site, &source).await;
    let queue = site.name.clone();
    let binary = with_headers(
        with_id("other").with_content_type("application/json".into()),
        &[
            ("cloudEvents:id", "E-1"),
            ("cloudEvents:source", "/shop"),
            ("cloudEvents_type", "order.placed"),
        ],
    );
    site.publish("", &queue, binary, b"{\"n\":1}").await;
    let structured = BasicProperties::default().with_content_type(STRUCTURED.into());
    let document = br#"{"specversion":"1.0","id":"E-2","source":"/shop","type":"order.placed","datacontenttype":"application/json","data":{"n": 2.50}}"#;
    site.publish("", &queue, structured.clone(), document).await;
    let coded = br#"{"specversion":"1.0","id":"E-3","source":"/shop","type":"label","data_base64":"JVBERg=="}"#;
    site.publish("", &queue, structured, coded).await;
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(b"{\"n\":4}").unwrap();
    let gzip = BasicProperties::default().with_content_encoding("gzip".into());
    site.publish("", &queue, gzip, &zipped.finish().unwrap())
        .await;
    let fake = Fake::new();
    let ended = run(&source, &fake, "all are stored", |state| {
        state.stored.len() == 4
    });
    ended.await.unwrap();
    assert_eq!(
        fake.bodies(),
        ["{\"n\":1}", "{\"n\": 2.50}", "%PDF", "{\"n\":4}"]
    );
    {
        let state = fake.state();
        for (at, id) in [(0, "/shop E-1"), (1, "/shop E-2"), (2, "/shop E-3")] {
            assert_eq!(state.stored[at].delivery.as_deref(), Some(id));
            assert!(state.stored[at].breach.is_none());
        }
        for at in [0, 1] {
            assert_eq!(header(&state.stored[at], "ce-type"), Some("order.placed"));
            let kind = header(&state.stored[at], "content-type");
            assert_eq!(kind, Some("application/json"));
        }
    }
    site.end(&[&queue], &[]).await;
}

#[tokio::test]
async fn what_the_flow_refuses_goes_where_the_owner_has_said() {
    let site = Site::new().await;
    let (dead, exchange) = (format!("{}-dead", site.name), format!("{}-x", site.name));
    let declare = QueueDeclareOptions::default();
    let made = site
        .channel
        .queue_declare(dead.as_str().into(), declare, FieldTable::default());
    made.await.unwrap();
    let options = ExchangeDeclareOptions::default();
    let made = site.channel.exchange_declare(
        exchange.as_str().into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    made.await.unwrap();
    let source = source(&format!(
        "amqp:
  system: events
  queue: {0}
  declare: {{ arguments: {{ x-queue-type: classic, x-dead-letter-exchange: '', x-dead-letter-routing-key: {dead} }} }}
  bindings: [{{ exchange: {exchange}, routing_key: 'orders.#' }}]
  dead_letters: true
",
        site.name
    ));
    assert!(source.answers());
    let fake = Fake::new();
    fake.state().refuse = Some(b"bad");
    let queue = site.name.clone();
    super::tests::made(&site, &source).await;
    // Bound after the first start: that may still be under way.
    let publishing = async {
        while site.ready(&queue).await == 0 {
            site.publish(&exchange, "orders.new", with_id("good"), b"good")
                .await;
        }
        site.publish(&exchange, "orders.new", with_id("bad"), b"bad")
            .await;
    };
    patiently(publishing).await;
    let ended = run(&source, &fake, "both were offered", |state| {
        state.stored.len() == 1 && state.batches.iter().sum::<usize>() >= 2
    });
    ended.await.unwrap();
    let found = async {
        loop {
            let options = BasicGetOptions { no_ack: true };
            let got = site
                .channel
                .basic_get(dead.as_str().into(), options)
                .await
                .unwrap();
            match got {
                Some(got) => return got.delivery.data,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    assert_eq!(patiently(found).await, b"bad");
    site.end(&[&queue, &dead], &[&exchange]).await;
}

#[tokio::test]
async fn what_waiting_cannot_mend_fails_the_source_and_stays_in_its_queue() {
    let site = Site::new().await;
    let source = declared(&site, "");
    made(&site, &source).await;
    let queue = site.name.clone();
    site.publish("", &queue, with_id("D-1"), b"{}").await;
    let fake = Fake::new();
    let never = Failure::new(Class::TooLarge, "nobody finds it again");
    fake.state().failing = [Some(never)].into();
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let root = std::path::Path::new(".");
    let cx = fake::intake(&fake, World::real(), root, &listener);
    let failure = patiently(source.clone().run(cx)).await.unwrap_err();
    assert_eq!(failure.class, Class::TooLarge);
    assert_eq!(site.ready(&queue).await, 1);
    site.end(&[&queue], &[]).await;
}

#[tokio::test]
async fn a_queue_that_cannot_be_used_fails_the_source_with_what_to_do() {
    let site = Site::new().await;
    let fails = async |source: &Arc<dyn Source>| {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let root = std::path::Path::new(".");
        let cx = fake::intake(&Fake::new(), World::real(), root, &listener);
        patiently(source.clone().run(cx)).await.unwrap_err()
    };
    let missing = source(&format!("amqp: {{ system: events, queue: {} }}", site.name));
    let failure = fails(&missing).await;
    assert_eq!(failure.class, Class::NotFound);
    assert!(
        failure.message.contains("add `declare`"),
        "{}",
        failure.message
    );
    assert_eq!(missing.look().await.unwrap_err().class, Class::NotFound);
    let first = declared(&site, "");
    let willing = first.look().await.unwrap().unwrap();
    assert!(willing.contains("will be made"), "{willing}");
    made(&site, &first).await;
    let found = first.look().await.unwrap().unwrap();
    assert!(found.contains("with 0 messages"), "{found}");
    let other = source(&format!(
        "amqp: {{ system: events, queue: {}, declare: {{ arguments: {{ x-max-length: 5 }} }} }}",
        site.name
    ));
    let failure = fails(&other).await;
    assert_eq!(failure.class, Class::Conflict);
    assert!(
        failure.message.contains("x-max-length"),
        "{}",
        failure.message
    );
    let unbound = declared(&site, ", bindings: [{ exchange: crossdock-test-nowhere }]");
    let failure = fails(&unbound).await;
    assert!(
        failure.message.contains("crossdock-test-nowhere"),
        "{}",
        failure.message
    );
    let queue = site.name.clone();
    site.end(&[&queue], &[]).await;
}

#[test]
fn what_makes_no_sense_is_found_without_a_broker() {
    let check = |entry: &str, expect: &[&str]| {
        let bench = Bench::new()
            .broker(SYSTEM)
            .system("system: erp\nhttp: { base_url: 'http://127.0.0.1:1' }\n");
        let (_, found) = bench.build::<crate::source::SourceKind>(entry);
        assert_eq!(found, expect, "{entry}");
    };
    check("amqp: { system: events, queue: q }", &[]);
    check(
        "amqp: { system: evnts, queue: q }",
        &["unknown-system:1:17"],
    );
    check(
        "amqp: { system: erp, queue: q }",
        &["conflicting-settings:1:17"],
    );
    check("amqp: { system: events, queue: '' }", &["bad-value:1:32"]);
    check(
        "amqp: { system: events, queue: q, bindings: [{ exchange: '' }] }",
        &["bad-value:1:58"],
    );
}
