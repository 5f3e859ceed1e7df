//! `delay` and `throttle`: nothing is early, nothing is lost, order is kept.

use std::sync::Arc;
use std::time::Duration;

use super::bench::{Bench, START_MS, doomed};

const DELAYED: &str = "
flow: orders
source: { flow: {} }
steps:
  - id: pause
    delay: 5m
sinks:
  out: { file: { path: out.jsonl, format: jsonl } }
";

#[tokio::test]
async fn a_delayed_message_goes_on_when_its_time_has_come_and_not_before() {
    let bench = Bench::new(&[DELAYED]);
    let running = bench.start().await;
    running.offer("orders", &[r#"{"n":1}"#]).await;
    running.waiting(1).await;
    bench.later(Duration::from_secs(299));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(bench.lines("out.jsonl"), [""; 0]);
    let run = running.run(1).await;
    assert_eq!(run.hops[0].due_at_ms, Some(START_MS + 300_000));
    assert_eq!(running.trail(1).await[0].1, "waits");
    bench.later(Duration::from_secs(1));
    bench.wait_for_lines("out.jsonl", 1).await;
    running
        .wait_for("orders", |books| books.delivered == 1)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_delay_outlives_restarts_and_what_is_overdue_goes_on_at_once() {
    let bench = Arc::new(Bench::new(&[DELAYED]));
    let doomed_bench = bench.clone();
    doomed(async move {
        let running = doomed_bench.start().await;
        running.offer("orders", &[r#"{"n":1}"#]).await;
        running.waiting(1).await;
        running.die().await;
    })
    .await;
    for _ in 0..3 {
        let running = bench.start().await;
        bench.later(Duration::from_secs(60));
        running.waiting(1).await;
        running.stop().await;
    }
    bench.later(Duration::from_secs(3600));
    let running = bench.start().await;
    assert_eq!(bench.wait_for_lines("out.jsonl", 1).await, [r#"{"n":1}"#]);
    running
        .wait_for("orders", |books| books.delivered == 1)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_delay_until_a_time_that_is_past_is_none_and_no_time_is_an_exception() {
    let flow = "
flow: orders
source: { flow: {} }
steps:
  - id: ship-date
    delay: { until: at }
    when: at != 'now'
sinks:
  out: { file: { path: out.jsonl, format: jsonl } }
";
    let bench = Bench::new(&[flow]);
    let running = bench.start().await;
    let bodies = [
        r#"{"at":"2020-01-01T00:00:00Z"}"#,
        r#"{"at":"now"}"#,
        r#"{"at":"tomorrow"}"#,
        r#"{"at":"2026-09-21T14:13:21Z"}"#,
    ];
    running.offer("orders", &bodies).await;
    running.waiting(1).await;
    bench.wait_for_lines("out.jsonl", 2).await;
    let exceptions = running.exceptions().await;
    assert_eq!((exceptions.len(), &*exceptions[0].step), (1, "ship-date"));
    bench.later(Duration::from_secs(1));
    let books = running
        .wait_for("orders", |books| books.delivered == 3)
        .await;
    assert_eq!(books.in_exceptions, 1);
    running.stop().await;
}

const THROTTLED: &str = "
flow: orders
source: { flow: {} }
steps:
  - id: gently
    throttle: 10/s
sinks:
  out: { file: { path: out.jsonl, format: jsonl } }
";

/// Moves the clock by `step` until `many` lines are there; gives how many there were after each move.
async fn paced(bench: &Bench, step: Duration, many: usize) -> Vec<usize> {
    let mut counts = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_millis(60)).await;
        counts.push(bench.lines("out.jsonl").len());
        if counts.last() >= Some(&many) {
            return counts;
        }
        assert!(counts.len() < 100, "{counts:?}");
        bench.later(step);
    }
}

#[tokio::test]
async fn a_throttle_lets_messages_go_on_at_its_rate_in_their_order() {
    let bench = Bench::new(&[THROTTLED]);
    let running = bench.start().await;
    let bodies: Vec<String> = (0..12).map(|n| format!("{{\"n\":{n}}}")).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    running.offer("orders", &bodies).await;
    let counts = paced(&bench, Duration::from_millis(200), 12).await;
    for (moves, count) in counts.iter().enumerate() {
        assert!(*count <= 1 + 2 * moves + 1, "{counts:?}");
    }
    assert_eq!(bench.lines("out.jsonl"), bodies);
    running
        .wait_for("orders", |books| books.delivered == 12)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn what_waits_at_a_throttle_outlives_a_death_and_a_restart_is_no_burst() {
    let bench = Arc::new(Bench::new(&[THROTTLED]));
    let doomed_bench = bench.clone();
    doomed(async move {
        let running = doomed_bench.start().await;
        let bodies: Vec<String> = (0..9).map(|n| format!("{{\"n\":{n}}}")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        running.offer("orders", &bodies).await;
        doomed_bench.wait_for_lines("out.jsonl", 1).await;
        running
            .wait_for("orders", |books| books.delivered == 1)
            .await;
        running.die().await;
    })
    .await;
    bench.later(Duration::from_secs(3600));
    let running = bench.start().await;
    let counts = paced(&bench, Duration::from_millis(100), 9).await;
    assert_eq!(counts[0], 2, "an hour of absence is no burst: {counts:?}");
    let lines = bench.lines("out.jsonl");
    assert_eq!(
        lines,
        (0..9).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>()
    );
    running
        .wait_for("orders", |books| books.delivered == 9)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn each_value_has_a_rate_of_its_own() {
    let flow = THROTTLED.replace("10/s", "{ rate: 1/m, by: k }");
    let bench = Bench::new(&[&flow]);
    let running = bench.start().await;
    let bodies = [
        r#"{"k":"a","n":1}"#,
        r#"{"k":"a","n":2}"#,
        r#"{"k":"b","n":3}"#,
        r#"{"n":4}"#,
    ];
    running.offer("orders", &bodies).await;
    let mut first = bench.wait_for_lines("out.jsonl", 2).await;
    first.sort();
    assert_eq!(first, [bodies[0], bodies[2]]);
    running
        .wait_for("orders", |books| books.in_exceptions == 1)
        .await;
    bench.later(Duration::from_secs(60));
    assert_eq!(bench.wait_for_lines("out.jsonl", 3).await[2], bodies[1]);
    running
        .wait_for("orders", |books| books.delivered == 3)
        .await;
    running.stop().await;
}
