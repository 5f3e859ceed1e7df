//! What a broker may lose, refuse or forget without a message being lost.

use std::sync::Arc;
use std::time::Duration;

use crossdock::failure::Class;
use crossdock::handoff::Station;
use crossdock::handoff::rabbitmq;
use crossdock::handoff::rabbitmq::topology::{Stage, State, Topology};
use crossdock::store::commit::{Commit, First};
use crossdock::world::World;
use crossdock::world::clock::StillClock;
use lapin::options::{
    BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;

use super::site::{
    Backend, ERP, QUIET, SERVER, Site, channel, handoff, patiently, store, topology,
};
use crate::support::broker::Broker;

/// What a broker loses.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// What was in the queue: as of a quorum queue that was new when its broker was killed.
    Content,
    /// The queue itself. It must not come back under its old name, which a broker may lose again.
    Queue,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_queue_has_lost_comes_again() {
    for loss in [Loss::Content, Loss::Queue] {
        let site = Site::new(&Backend::Rabbit(SERVER.to_owned())).await;
        site.announced(200).await;
        // The prefetch is here, the rest is on the broker.
        let taken = site.take_all(50).await;
        let channel = channel(SERVER).await;
        let queue = site.queue("");
        wait_for_notes(&site).await;
        match loss {
            Loss::Content => {
                let purging =
                    channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
                assert_eq!(purging.await.unwrap(), 150);
            }
            Loss::Queue => {
                let deleting =
                    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
                deleting.await.unwrap();
            }
        }
        site.end(&taken).await;
        site.end_more(0, 150).await;
        assert_eq!(site.delivered().await, 200, "{loss:?}");
        let facts = site.store.facts("queue/orders/erp").await.unwrap();
        let births = match loss {
            Loss::Content => 1,
            Loss::Queue => 2,
        };
        assert_eq!(facts[0].1, births);
        site.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_engine_has_taken_counts_as_lost_after_five_minutes_only() {
    let clock = Arc::new(StillClock::at(1_000_000));
    let world = World {
        clock: clock.clone(),
        ..World::real()
    };
    let site = Site::within(&Backend::Rabbit(SERVER.to_owned()), world).await;
    let channel = channel(SERVER).await;
    let queue = site.queue("");
    let consuming = channel.basic_consume(
        queue.as_str().into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    // It takes and does not acknowledge: an engine with long work.
    let other = consuming.await.unwrap();
    site.announced(120).await;
    wait_for_notes(&site).await;
    clock.advance(60_000);
    let announced_at_ms = async || {
        let counts = site.store.ready_counts().await.unwrap();
        counts[0].announced_at_ms
    };
    // Two looks, each of which would find a loss.
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(announced_at_ms().await, Some(1_000_000));
    clock.advance(240_000);
    patiently(async {
        while announced_at_ms().await != Some(1_300_000) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    drop(other);
    channel.close(200, "closed".into()).await.unwrap();
    site.end_more(0, 120).await;
    assert_eq!(site.delivered().await, 120);
    site.finish().await;
}

/// Waits until the store knows that all was announced.
async fn wait_for_notes(site: &Site) {
    patiently(async {
        loop {
            let counts = site.store.ready_counts().await.unwrap();
            if counts.iter().all(|count| count.unannounced == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_young_or_loses_its_disk_loses_no_message() {
    let mut broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let site = Site::new(&Backend::Rabbit(broker.url())).await;
    site.announced(300).await;
    let taken = site.take_all(20).await;
    broker.kill();
    let while_down = site.announced(50).await;
    assert_eq!(while_down.len(), 50);
    site.end(&taken).await;
    broker.start_again().unwrap();
    let seen = site.end_more(0, 100).await;
    wait_for_notes(&site).await;
    broker.kill();
    broker.wipe().unwrap();
    broker.start_again().unwrap();
    site.end_more(seen, 330).await;
    assert_eq!(site.delivered().await, 350);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_share_the_work_and_one_goes_on_when_the_other_ends() {
    let site = Site::new(&Backend::Rabbit(SERVER.to_owned())).await;
    let other = handoff(&site.store, &site.backend, &site.name, &site.world)
        .await
        .unwrap();
    site.announced(400).await;
    let theirs = patiently(other.take(ERP, 50)).await;
    assert!(!theirs.is_empty());
    other.close().await;
    site.end_more(0, 400).await;
    assert_eq!(site.delivered().await, 400);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_named_with_both_and_left_overs_go_only_when_empty() {
    let site = Site::new(&Backend::Rabbit(SERVER.to_owned())).await;
    site.handoff.close().await;
    let place = rabbitmq::place(&[SERVER.to_owned()], None, None).unwrap();
    let survey = |topology: Topology, delete: bool| {
        let (place, store) = (place.clone(), site.store.reader().clone());
        async move { place.look(&topology, &store, delete).await.unwrap() }
    };
    let all = survey(topology(&site.name), false).await;
    assert_eq!(all.len(), 5);
    assert!(
        all.iter().all(|(found, _)| found.state == State::There),
        "{all:?}"
    );
    // Of a project without the step, its queue is left over.
    let smaller = || {
        let stage = Stage {
            flow: Arc::from("orders"),
            step: Arc::from("@accept"),
            also: Vec::new(),
            prefetch: 1,
            single: true,
        };
        Topology::new(&site.name, vec![stage])
    };
    let channel = channel(SERVER).await;
    let queue = site.queue("");
    let publishing = channel.basic_publish(
        "".into(),
        queue.as_str().into(),
        Default::default(),
        b"x",
        Default::default(),
    );
    publishing.await.unwrap();
    let left = |all: &[(rabbitmq::topology::Found, Option<Result<(), String>>)]| {
        let found = all.iter().find(|(found, _)| found.name == queue);
        found.map(|(found, deleted)| (found.state.clone(), deleted.clone()))
    };
    let mut kept = left(&survey(smaller(), true).await);
    while !matches!(&kept, Some((_, Some(Err(_))))) {
        kept = left(&survey(smaller(), true).await);
    }
    channel
        .queue_purge(queue.as_str().into(), QueuePurgeOptions::default())
        .await
        .unwrap();
    let deleted = left(&survey(smaller(), true).await);
    assert_eq!(deleted, Some((State::LeftOver, Some(Ok(())))));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
    declaring.await.unwrap();
    let failure = handoff(&site.store, &site.backend, &site.name, &site.world)
        .await
        .err()
        .unwrap();
    assert_eq!(failure.class, Class::Conflict);
    for part in [
        &*queue,
        "x-queue-type: quorum",
        "x-delivery-limit: 1000000",
        "it has",
    ] {
        assert!(failure.message.contains(part), "{failure}");
    }
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_the_broker_costs_time_and_no_message() {
    let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let site = Site::new(&Backend::Rabbit(broker.url())).await;
    broker
        .control(&["set_disk_free_limit", "100000GB"])
        .unwrap();
    site.announced(80).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(
        site.handoff.load("orders").0.all,
        80,
        "what waits is counted"
    );
    broker.control(&["set_disk_free_limit", "50MB"]).unwrap();
    site.end_more(0, 80).await;
    assert_eq!(site.delivered().await, 80);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_does_not_silence_others() {
    let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let site = Site::new(&Backend::Rabbit(broker.url())).await;
    let limit = ["^.*erp$", "{\"max-length\": 60}", "--apply-to", "queues"];
    let policy = [&["set_policy", "full"][..], &limit].concat();
    broker.control(&policy).unwrap();
    // More than one look of the sweep finds, before the one that is for another queue.
    site.announced(700).await;
    let mut other = site.run("other".to_owned());
    if let First::Hop(hop) = &mut other.first {
        hop.step = Arc::from("@accept");
    }
    let accepting = Commit {
        accepts: vec![other],
        ..Commit::default()
    };
    site.store.commit(accepting).await.unwrap();
    let taken = patiently(site.handoff.take(Station::door("orders"), 1)).await;
    assert_eq!(site.end(&taken).await, [true]);
    // What was turned down comes as there is room.
    site.end_more(0, 700).await;
    assert_eq!(site.delivered().await, 700);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_start_fails_is_said_with_what_to_do() {
    let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().unwrap();
    let backend = |user: &str| {
        let address = broker.address();
        Backend::Rabbit(format!("amqp://{user}@{address}/%2f"))
    };
    let world = World::real();
    let store = store(&folder.path().join("store.db"), &backend("x:x"), &world);
    broker.control(&["add_user", "stranger", "secret"]).unwrap();
    broker
        .control(&["set_permissions", "stranger", "^$", "^$", "^$"])
        .unwrap();
    for (user, class, part) in [
        ("guest:wrong", Class::Auth, "credentials"),
        (
            "stranger:secret",
            Class::Forbidden,
            "rights to configure, write and read",
        ),
    ] {
        let failure = handoff(&store, &backend(user), "crossdock-test", &world)
            .await
            .err()
            .unwrap();
        assert_eq!(failure.class, class, "{failure}");
        let named = failure.message.contains("the hand-off over RabbitMQ");
        assert!(named && failure.message.contains(part), "{failure}");
        assert!(!failure.message.contains("secret"), "{failure}");
    }
    drop(broker);
    let gone = Backend::Rabbit("amqp://guest:guest@127.0.0.1:1".to_owned());
    // What may pass by itself keeps nobody from starting.
    let without = handoff(&store, &gone, "crossdock-test", &world).await;
    without.unwrap().close().await;
    store.shutdown().await;
}
