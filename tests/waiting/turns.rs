//! `resequence`: whatever the order in which they come, and whatever dies in between, numbers go on in their order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock::failure::Class;
use crossdock::world::random::{Random, SeededRandom};

use super::bench::{Bench, doomed};

/// A flow with more of these settings.
fn flow(settings: &str) -> String {
    format!(
        "
flow: movements
source: {{ flow: {{}} }}
steps:
  - id: in-order
    resequence: {{ by: sku, number: n{settings} }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
    )
}

fn movement(sku: &str, n: u64) -> String {
    format!(r#"{{"sku":"{sku}","n":{n}}}"#)
}

fn movements(sku: &str, numbers: &[u64]) -> Vec<String> {
    numbers.iter().map(|n| movement(sku, *n)).collect()
}

#[tokio::test]
async fn what_comes_too_early_waits_and_what_comes_again_is_filtered() {
    let bench = Bench::new(&[&flow("")]);
    let running = bench.start().await;
    for n in [3, 2, 3, 5, 1] {
        running.offer("movements", &[&movement("A", n)]).await;
    }
    assert_eq!(
        bench.wait_for_lines("out.jsonl", 3).await,
        movements("A", &[1, 2, 3])
    );
    running
        .offer("movements", &[&movement("A", 2), &movement("B", 1)])
        .await;
    let books = running
        .wait_for("movements", |books| {
            books.delivered == 4 && books.filtered == 2
        })
        .await;
    assert_eq!((books.in_flight, books.in_exceptions), (1, 0));
    let old = running.trail(6).await;
    let line = (
        "in-order".into(),
        "filtered".into(),
        "number 2 is old: it is the turn of 4".into(),
    );
    assert!(old.contains(&line), "{old:?}");
    let hop = running.run(4).await.hops.remove(0);
    assert_eq!(
        hop.last_failure.as_deref(),
        Some("for those before number 5 of `A`")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_gap_fails_by_name_and_what_is_run_into_it_takes_its_turn() {
    let bench = Bench::new(&[&flow(", within: 1m")]);
    let running = bench.start().await;
    running
        .offer("movements", &[&movement("A", 1), &movement("A", 4)])
        .await;
    running.waiting(1).await;
    running
        .offer("movements", &[r#"{"sku":"A","n":4,"other":true}"#])
        .await;
    running
        .wait_for("movements", |books| books.in_exceptions == 1)
        .await;
    bench.later(Duration::from_secs(60));
    running
        .wait_for("movements", |books| books.in_exceptions == 2)
        .await;
    let mut exceptions = running.exceptions().await;
    exceptions.sort_by_key(|exception| exception.id.0);
    let classes: Vec<_> = exceptions.iter().map(|exception| exception.class).collect();
    assert_eq!(classes, [Class::Conflict, Class::Timeout]);
    let message = "number 4 of `A` has waited 1m for 2 to 3, which did not come";
    assert_eq!(exceptions[1].message, message);
    running
        .offer(
            "movements",
            &[&movement("A", 5), &movement("A", 3), &movement("A", 2)],
        )
        .await;
    assert_eq!(
        bench.wait_for_lines("out.jsonl", 3).await,
        movements("A", &[1, 2, 3])
    );
    running.offer("movements", &[&movement("A", 4)]).await;
    assert_eq!(
        bench.wait_for_lines("out.jsonl", 5).await[3..],
        movements("A", &[4, 5])
    );
    running
        .wait_for("movements", |books| books.delivered == 5)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_gap_may_be_skipped_and_is_told() {
    let bench = Bench::new(&[&flow(", within: 1m, on_gap: skip, from: 10")]);
    let running = bench.start().await;
    running
        .offer("movements", &[&movement("A", 14), &movement("A", 12)])
        .await;
    running.waiting(2).await;
    bench.later(Duration::from_secs(60));
    bench.wait_for_lines("out.jsonl", 1).await;
    running.waiting(1).await;
    bench.later(Duration::from_secs(60));
    assert_eq!(
        bench.wait_for_lines("out.jsonl", 2).await,
        movements("A", &[12, 14])
    );
    running.offer("movements", &[&movement("A", 13)]).await;
    let books = running
        .wait_for("movements", |books| books.filtered == 1)
        .await;
    assert_eq!(books.delivered, 2);
    let skipped = running.trail(1).await;
    let line = (
        "in-order".into(),
        "skipped".into(),
        "13 of `A`, not here after 1m".into(),
    );
    assert!(skipped.contains(&line), "{skipped:?}");
    running.stop().await;
}

/// Numbers of some keys in random order, some twice, in an engine that dies again and again: they go on sorted, each once.
async fn play(seed: u64) {
    let random = SeededRandom::new(seed);
    let bench = Arc::new(Bench::new(&[&flow("")]));
    let mut all: Vec<(String, u64)> = Vec::new();
    for sku in 0..3 {
        let numbers = 1..=10 + random.below(25);
        all.extend(numbers.map(|n| (format!("S{sku}"), n)));
    }
    let twice = random.below(all.len() as u64) as usize;
    let mut offers: Vec<String> = all.iter().map(|(sku, n)| movement(sku, *n)).collect();
    offers.push(offers[twice].clone());
    for at in (1..offers.len()).rev() {
        offers.swap(at, random.below(at as u64 + 1) as usize);
    }
    let offered = i64::try_from(offers.len()).unwrap();
    while !offers.is_empty() {
        let many = (5 + random.below(30) as usize).min(offers.len());
        let batch: Vec<String> = offers.drain(..many).collect();
        let pause = Duration::from_micros(random.below(12_000));
        let one_by_one = random.below(2) == 0;
        let doomed_bench = bench.clone();
        doomed(async move {
            let running = doomed_bench.start().await;
            for part in batch.chunks(if one_by_one { 1 } else { 100 }) {
                let part: Vec<&str> = part.iter().map(String::as_str).collect();
                running.offer("movements", &part).await;
            }
            tokio::time::sleep(pause).await;
            running.die().await;
        })
        .await;
    }
    let running = bench.start().await;
    let books = running
        .wait_for("movements", |books| books.in_flight == 0)
        .await;
    assert_eq!(
        (books.accepted, books.filtered, books.in_exceptions),
        (offered, 1, 0),
        "seed {seed}"
    );
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in bench.lines("out.jsonl") {
        let body: serde_json::Value = serde_json::from_str(&line).unwrap();
        let numbers = seen
            .entry(body["sku"].as_str().unwrap().to_owned())
            .or_default();
        numbers.push(body["n"].as_u64().unwrap());
    }
    let mut expect: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (sku, n) in all {
        expect.entry(sku).or_default().push(n);
    }
    assert_eq!(seen, expect, "seed {seed}");
    running.stop().await;
}

#[tokio::test]
async fn numbers_in_any_order_go_on_sorted_whatever_dies_in_between() {
    for seed in 0..10 {
        play(seed).await;
    }
}
