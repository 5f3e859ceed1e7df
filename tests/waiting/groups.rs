//! `collect`: each member is in exactly one group, whatever dies in between; what is late or incomplete is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock::world::random::{Random, SeededRandom};

use super::bench::{Bench, doomed};

/// A flow with this `collect`.
fn flow(collect: &str) -> String {
    format!(
        "
flow: parcels
source: {{ flow: {{}} }}
keys: {{ order: o }}
steps:
  - id: all
    collect: {collect}
    into: group
  - set: {{ body: '{{key: $group.key, count: $group.count, reason: $group.reason, ns: [].n}}' }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
    )
}

fn parcel(order: &str, n: u64) -> String {
    format!(r#"{{"o":"{order}","n":{n}}}"#)
}

/// Runs a flow with this `collect` through offers, each with the seconds that pass before it; gives what came out and the exceptions.
async fn check(
    collect: &str,
    offers: &[(u64, &str, u64)],
    seconds: u64,
) -> (Vec<String>, Vec<String>) {
    let bench = Bench::new(&[&flow(collect)]);
    let running = bench.start().await;
    let mut settled = 0;
    for (pause, order, n) in offers {
        bench.later(Duration::from_secs(*pause));
        running.offer("parcels", &[&parcel(order, *n)]).await;
        settled += 1;
        running.quiet().await;
    }
    bench.later(Duration::from_secs(seconds));
    let books = running
        .wait_for("parcels", |books| books.in_flight == 0)
        .await;
    assert_eq!(books.accepted, settled);
    let exceptions = running.exceptions().await;
    let mut exceptions: Vec<String> = exceptions
        .iter()
        .map(|exception| format!("{}: {}", exception.class, exception.message))
        .collect();
    exceptions.sort();
    let lines = bench.lines("out.jsonl");
    running.stop().await;
    (lines, exceptions)
}

const NONE: [&str; 0] = [];

#[tokio::test]
async fn a_group_is_complete_by_size_silence_or_a_condition_whichever_is_first() {
    let two = [(0, "A", 1), (0, "B", 2), (1, "A", 3)];
    let (lines, exceptions) = check("{ by: o, size: 2, idle: 10s }", &two, 10).await;
    let expect = [
        r#"{"key":"A","count":2,"reason":"size","ns":[1,3]}"#,
        r#"{"key":"B","count":1,"reason":"idle","ns":[2]}"#,
    ];
    assert_eq!(
        (&lines[..], &exceptions[..]),
        (&expect.map(str::to_owned)[..], &[][..])
    );
    let until = "{ by: o, complete: 'last.n == `9` && count > `1`' }";
    let (lines, exceptions) = check(until, &[(0, "A", 9), (0, "A", 2), (0, "A", 9)], 0).await;
    assert_eq!(
        lines,
        [r#"{"key":"A","count":3,"reason":"complete","ns":[9,2,9]}"#]
    );
    assert_eq!(exceptions, NONE);
    let batches = [(0, "A", 1), (0, "B", 2), (0, "A", 3), (1, "C", 4)];
    let (lines, _) = check("{ size: 2, within: 5s, on_timeout: send }", &batches, 5).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[tokio::test]
async fn an_incomplete_group_is_one_issue_of_its_members_or_goes_on_as_it_is() {
    let two = [(0, "A", 1), (59, "A", 2)];
    let (lines, exceptions) = check("{ by: o, size: 3, within: 1m }", &two, 1).await;
    let message = "timeout: the group `A` is not complete: 2 members came within 1m";
    assert_eq!(
        (lines.len(), &*exceptions),
        (0, &[message.to_owned(), message.to_owned()][..])
    );
    let send = "{ by: o, size: 3, within: 1m, on_timeout: send }";
    let (lines, exceptions) = check(send, &two, 1).await;
    assert_eq!(
        lines,
        [r#"{"key":"A","count":2,"reason":"within","ns":[1,2]}"#]
    );
    assert_eq!(exceptions, NONE);
}

#[tokio::test]
async fn a_late_member_is_told_dropped_or_begins_anew() {
    let three = [(0, "A", 1), (0, "A", 2), (60, "A", 3)];
    let (lines, exceptions) = check("{ by: o, size: 2 }", &three, 0).await;
    assert_eq!((lines.len(), exceptions.len()), (1, 1));
    assert!(
        exceptions[0].contains("too late for the group `A`, sent at 2026-"),
        "{exceptions:?}"
    );
    let (lines, exceptions) = check("{ by: o, size: 2, late: drop }", &three, 0).await;
    assert_eq!((lines.len(), exceptions.len()), (1, 0));
    let again = "{ by: o, size: 2, late: new, within: 5s, on_timeout: send }";
    assert_eq!(check(again, &three, 5).await.0.len(), 2);
    let short = "{ by: o, size: 2, keep: 1m, within: 5s, on_timeout: send }";
    assert_eq!(check(short, &three, 5).await.0.len(), 2, "nobody remembers");
}

#[tokio::test]
async fn members_show_where_they_went_and_the_books_are_exact() {
    let bench = Bench::new(&[&flow("{ by: o, size: 3 }")]);
    let running = bench.start().await;
    let parcels = [
        parcel("A", 1),
        parcel("A", 2),
        "no json".to_owned(),
        parcel("A", 3),
    ];
    running
        .offer("parcels", &parcels.each_ref().map(String::as_str))
        .await;
    let books = running
        .wait_for("parcels", |books| books.delivered == 3)
        .await;
    assert_eq!((books.accepted, books.in_exceptions), (4, 1));
    let leader = running.trail(1).await;
    let collected = leader
        .iter()
        .find(|(_, what, _)| what == "collected")
        .unwrap();
    assert_eq!(collected.2, "3 members (size), runs 1, 2, 4");
    let member = running.trail(4).await;
    let collected = member
        .iter()
        .find(|(_, what, _)| what == "collected")
        .unwrap();
    assert_eq!(collected.2, "into run 1");
    running.stop().await;
}

#[tokio::test]
async fn timers_of_groups_outlive_deaths_and_the_overdue_ring_at_once() {
    let bench = Arc::new(Bench::new(&[&flow(
        "{ by: o, size: 9, idle: 1h, within: 2h }",
    )]));
    for n in 0..3 {
        let doomed_bench = bench.clone();
        doomed(async move {
            let running = doomed_bench.start().await;
            running.offer("parcels", &[&parcel("A", n)]).await;
            running.standing(n + 1).await;
            running.die().await;
        })
        .await;
        bench.later(Duration::from_secs(1_800));
    }
    bench.later(Duration::from_secs(86_400));
    let running = bench.start().await;
    let lines = bench.wait_for_lines("out.jsonl", 1).await;
    assert_eq!(
        lines,
        [r#"{"key":"A","count":3,"reason":"idle","ns":[0,1,2]}"#]
    );
    running
        .wait_for("parcels", |books| books.delivered == 3)
        .await;
    running.stop().await;
}

/// Random members of random groups, in an engine that dies again and again: each member is in exactly one group, and each group but the last
/// of its key has the size that it must have.
async fn play(seed: u64) {
    let random = SeededRandom::new(seed);
    let size = 1 + random.below(5);
    let collect = format!("{{ by: o, size: {size}, late: new, idle: 1h }}");
    let bench = Arc::new(Bench::new(&[&flow(&collect)]));
    let mut sent = 0;
    for _ in 0..4 {
        let mut batches = Vec::new();
        for _ in 0..1 + random.below(4) {
            let mut batch = Vec::new();
            for _ in 0..1 + random.below(9) {
                batch.push(parcel(&format!("K{}", random.below(3)), sent));
                sent += 1;
            }
            batches.push(batch);
        }
        let pause = Duration::from_micros(random.below(9_000));
        let doomed_bench = bench.clone();
        doomed(async move {
            let running = doomed_bench.start().await;
            for batch in &batches {
                let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
                running.offer("parcels", &batch).await;
            }
            tokio::time::sleep(pause).await;
            running.die().await;
        })
        .await;
    }
    let running = bench.start().await;
    running.quiet().await;
    bench.later(Duration::from_secs(3_600));
    let sent = i64::try_from(sent).unwrap();
    running
        .wait_for("parcels", |books| books.delivered == sent)
        .await;
    let mut seen = Vec::new();
    let mut short: BTreeMap<String, u64> = BTreeMap::new();
    for line in bench.lines("out.jsonl") {
        let group: serde_json::Value = serde_json::from_str(&line).unwrap();
        let members = group["ns"].as_array().unwrap();
        seen.extend(members.iter().map(|n| n.as_i64().unwrap()));
        if members.len() as u64 != size {
            *short.entry(group["key"].to_string()).or_default() += 1;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..sent).collect::<Vec<_>>(), "seed {seed}");
    assert!(
        short.values().all(|many| *many == 1),
        "seed {seed}: {short:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn each_member_is_in_exactly_one_group_whatever_dies_in_between() {
    for seed in 0..12 {
        play(seed).await;
    }
}
