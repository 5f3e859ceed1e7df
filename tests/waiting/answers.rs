//! `await`: whichever comes first, the message goes on with its answer, once; over restarts, deaths and a day of waiting.

use std::sync::Arc;
use std::time::Duration;

use crossdock::failure::Class;

use super::bench::{Bench, doomed};

const ORDERS: &str = "
flow: orders
source: { flow: {} }
keys: { order: n }
steps:
  - id: allocated
    await: { key: order, from: confirmations, within: 24h }
    into: answer
  - set: { body: '{n: n, from: $answer.warehouse}' }
sinks:
  out: { file: { path: out.jsonl, format: jsonl } }
  late: { file: { path: late.jsonl, format: jsonl } }
routes:
  first:
    - when: n == 'never'
      to: late
    - otherwise: out
";

const CONFIRMATIONS: &str = "
flow: confirmations
source: { flow: {} }
keys: { order: n }
sinks: { done: { discard: {} } }
";

fn order(n: usize) -> String {
    format!(r#"{{"n":"SO-{n}"}}"#)
}

fn confirmation(n: usize, warehouse: &str) -> String {
    format!(r#"{{"n":"SO-{n}","warehouse":"{warehouse}"}}"#)
}

fn sent(n: usize, warehouse: &str) -> String {
    format!(r#"{{"n":"SO-{n}","from":"{warehouse}"}}"#)
}

#[tokio::test]
async fn the_answer_may_come_first_or_last() {
    let bench = Bench::new(&[ORDERS, CONFIRMATIONS]);
    let running = bench.start().await;
    running
        .offer("confirmations", &[&confirmation(1, "VIE")])
        .await;
    running.offer("orders", &[&order(1), &order(2)]).await;
    assert_eq!(bench.wait_for_lines("out.jsonl", 1).await, [sent(1, "VIE")]);
    running.waiting(1).await;
    let waits = running.run(3).await.hops.remove(0);
    let why = waits.last_failure.unwrap();
    assert_eq!(why, "for a message of `confirmations` with order `SO-2`");
    running
        .offer(
            "confirmations",
            &[&confirmation(3, "GRZ"), &confirmation(2, "LNZ")],
        )
        .await;
    assert_eq!(
        bench.wait_for_lines("out.jsonl", 2).await[1],
        sent(2, "LNZ")
    );
    running
        .wait_for("orders", |books| books.delivered == 2)
        .await;
    let answered = running.trail(3).await;
    assert!(
        answered.contains(&(
            "allocated".into(),
            "answered".into(),
            "by run 5 of confirmations".into()
        )),
        "{answered:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_day_of_waiting_survives_restarts_and_deaths() {
    let bench = Arc::new(Bench::new(&[ORDERS, CONFIRMATIONS]));
    let running = bench.start().await;
    running.offer("orders", &[&order(1), &order(2)]).await;
    running.waiting(2).await;
    running.stop().await;
    for _ in 0..23 {
        bench.later(Duration::from_secs(3600));
        let doomed_bench = bench.clone();
        doomed(async move {
            let running = doomed_bench.start().await;
            running.waiting(2).await;
            running.die().await;
        })
        .await;
    }
    bench.later(Duration::from_secs(3599));
    let running = bench.start().await;
    running.waiting(2).await;
    running
        .offer("confirmations", &[&confirmation(1, "VIE")])
        .await;
    assert_eq!(bench.wait_for_lines("out.jsonl", 1).await, [sent(1, "VIE")]);
    running.stop().await;
    bench.later(Duration::from_secs(1));
    let running = bench.start().await;
    running
        .wait_for("orders", |books| books.in_exceptions == 1)
        .await;
    let exceptions = running.exceptions().await;
    assert_eq!(
        (exceptions[0].class, &*exceptions[0].step),
        (Class::Timeout, "allocated")
    );
    let message = "no message of `confirmations` with order `SO-2` came within 1d";
    assert_eq!(exceptions[0].message, message);
    running.stop().await;
}

#[tokio::test]
async fn nobody_sleeps_through_an_answer_that_comes_at_the_same_moment() {
    const ORDERS_MAX: usize = 200;
    let bench = Bench::new(&[ORDERS, CONFIRMATIONS]);
    let running = bench.start().await;
    for n in 0..ORDERS_MAX {
        let (order, confirmation) = (order(n), confirmation(n, "VIE"));
        let (order, confirmation) = ([&*order], [&*confirmation]);
        let orders = async {
            tokio::time::sleep(Duration::from_micros((n as u64 * 37) % 900)).await;
            running.offer("orders", &order).await;
        };
        let confirmations = async {
            tokio::time::sleep(Duration::from_micros((n as u64 * 91) % 1_900)).await;
            running.offer("confirmations", &confirmation).await;
        };
        tokio::join!(orders, confirmations);
    }
    running
        .wait_for("orders", |books| books.delivered == ORDERS_MAX as i64)
        .await;
    let mut lines = bench.wait_for_lines("out.jsonl", ORDERS_MAX).await;
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), ORDERS_MAX);
    running.stop().await;
}

#[tokio::test]
async fn each_answer_goes_to_one_message_whatever_dies_in_between() {
    let bench = Arc::new(Bench::new(&[ORDERS, CONFIRMATIONS]));
    for round in 0..12_usize {
        let doomed_bench = bench.clone();
        doomed(async move {
            let running = doomed_bench.start().await;
            let orders: Vec<String> = (0..4).map(|_| order(round / 3)).collect();
            let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
            let confirmations = [confirmation(round / 3, &format!("W{round}"))];
            let confirmations = confirmations.each_ref().map(String::as_str);
            tokio::join!(
                running.offer("orders", &orders),
                running.offer("confirmations", &confirmations)
            );
            tokio::time::sleep(Duration::from_micros(700 * round as u64)).await;
            running.die().await;
        })
        .await;
    }
    let running = bench.start().await;
    running.waiting(36).await;
    let mut lines = bench.wait_for_lines("out.jsonl", 12).await;
    lines.sort();
    let mut expect: Vec<String> = (0..12)
        .map(|round| sent(round / 3, &format!("W{round}")))
        .collect();
    expect.sort();
    assert_eq!(lines, expect);
    let books = running
        .wait_for("orders", |books| books.delivered == 12)
        .await;
    assert_eq!(books.in_flight, 36);
    running.stop().await;
}

#[tokio::test]
async fn without_an_answer_a_message_goes_where_the_flow_says() {
    for (what, out, late) in [
        ("continue", 1, 0),
        ("{ to: late }", 0, 1),
        ("{ drop: nobody answered }", 0, 0),
    ] {
        let flow = ORDERS
            .replace(
                "within: 24h }",
                &format!("within: 5s }}\n    on_failure: {{ timeout: {what} }}"),
            )
            .replace("$answer.warehouse", "$answer");
        let bench = Bench::new(&[&flow, CONFIRMATIONS]);
        let running = bench.start().await;
        running.offer("orders", &[&order(1)]).await;
        running.waiting(1).await;
        bench.later(Duration::from_secs(5));
        let books = running
            .wait_for("orders", |books| books.in_flight == 0)
            .await;
        assert_eq!(books.in_exceptions, 0, "{what}");
        assert_eq!(
            (books.delivered, books.discarded),
            (out + late, 1 - out - late),
            "{what}"
        );
        let lines = |file| bench.lines(file).len() as i64;
        assert_eq!(
            (lines("out.jsonl"), lines("late.jsonl")),
            (out, late),
            "{what}"
        );
        running.stop().await;
    }
}

#[tokio::test]
async fn an_answer_that_does_not_match_is_left_for_others() {
    let picky = ORDERS
        .replace("within: 24h", "match: warehouse == $wanted")
        .replace(
            "steps:\n",
            "steps:\n  - set: { variables: { wanted: w } }\n",
        );
    let bench = Bench::new(&[&picky, CONFIRMATIONS]);
    let running = bench.start().await;
    running
        .offer("confirmations", &[&confirmation(1, "VIE")])
        .await;
    running
        .offer("orders", &[r#"{"n":"SO-1","w":"LNZ"}"#])
        .await;
    running.waiting(1).await;
    running
        .offer("confirmations", &[&confirmation(1, "GRZ")])
        .await;
    running.waiting(1).await;
    running
        .offer("orders", &[r#"{"n":"SO-1","w":"VIE"}"#])
        .await;
    assert_eq!(bench.wait_for_lines("out.jsonl", 1).await, [sent(1, "VIE")]);
    running
        .offer("confirmations", &[&confirmation(1, "LNZ")])
        .await;
    assert_eq!(
        bench.wait_for_lines("out.jsonl", 2).await[1],
        sent(1, "LNZ")
    );
    running
        .wait_for("orders", |books| books.delivered == 2)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_message_without_the_key_does_not_wait() {
    let bench = Bench::new(&[ORDERS, CONFIRMATIONS]);
    let running = bench.start().await;
    running.offer("orders", &["{}"]).await;
    running
        .wait_for("orders", |books| books.in_exceptions == 1)
        .await;
    assert_eq!(running.exceptions().await[0].class, Class::Validation);
    running.stop().await;
}
