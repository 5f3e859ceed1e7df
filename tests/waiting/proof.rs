//! The scenarios of `make faults` about waiting: a day of `await` by a clock that the scenario moves, and groups in an engine that dies again
//! and again (all that is under way is dropped, and nothing more is stored; `kill -9` of the process is what other scenarios do).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock::failure::Class;
use crossdock::world::random::{Random, SeededRandom};

use super::bench::{Bench, doomed};
use crate::faults::{Line, Setting};

/// Runs a scenario in a runtime of its own.
fn play(scenario: impl Future<Output = Line>) -> Result<Line, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    Ok(runtime.block_on(scenario))
}

const ORDERS: &str = "
flow: orders
source: { flow: {} }
keys: { order: n }
steps:
  - id: confirmed
    await: { key: order, from: confirmations, within: 24h }
    into: answer
  - set: { body: '{n: n, answer: $answer.a}' }
sinks:
  out: { file: { path: out.jsonl, format: jsonl } }
";

const CONFIRMATIONS: &str = "
flow: confirmations
source: { flow: {} }
keys: { order: n }
sinks: { done: { discard: {} } }
";

/// Orders wait for a day by the scenario's clock while the engine stops or dies every hour. Confirmations come before their order, at some
/// hour, or never; each order is sent once with its own, and those without one fail when the day is over, not before.
pub fn await_24h(setting: &Setting) -> Result<Line, String> {
    let orders = setting.scale.of(60, 3_000, 12_000);
    let random = SeededRandom::new(setting.seed);
    play(async move {
        let bench = Arc::new(Bench::new(&[ORDERS, CONFIRMATIONS]));
        // The hour of each confirmation: 0 is before the order, 24 and 25 are never.
        let hours: Vec<u64> = (0..orders).map(|_| random.below(26)).collect();
        let answers = |hour: u64| -> Vec<String> {
            let of_hour = hours.iter().enumerate().filter(|(_, at)| **at == hour);
            of_hour
                .map(|(n, _)| format!(r#"{{"n":"{n}","a":{n}}}"#))
                .collect()
        };
        let mut line = Line {
            sent: orders,
            ..Line::default()
        };
        for hour in 0..24 {
            let dies = random.below(2) == 0;
            let (answers, project) = (answers(hour), bench.clone());
            let unanswered = hours.iter().filter(|at| **at > hour).count();
            let work = async move {
                let running = project.start().await;
                let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
                running.offer("confirmations", &answers).await;
                if hour == 0 {
                    let orders: Vec<String> =
                        (0..orders).map(|n| format!(r#"{{"n":"{n}"}}"#)).collect();
                    let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
                    running.offer("orders", &orders).await;
                }
                if !dies || hour == 0 || hour == 23 {
                    running.quiet().await;
                    running.waiting(unanswered as u64).await;
                }
                let recovered = running.recovered;
                match dies {
                    true => running.die().await,
                    false => running.stop().await,
                }
                recovered
            };
            line.redelivered += doomed(work).await;
            line.faults += 1;
            bench.later(Duration::from_secs(3_600));
        }
        let running = bench.start().await;
        let never = hours.iter().filter(|at| **at > 23).count() as i64;
        let books = running
            .wait_for("orders", |books| books.in_flight == 0)
            .await;
        if books.in_exceptions != never {
            line.wrong.push(format!(
                "{never} orders had no answer, {} say so",
                books.in_exceptions
            ));
        }
        let exceptions = running.exceptions().await;
        if exceptions
            .iter()
            .any(|exception| exception.class != Class::Timeout)
        {
            line.wrong
                .push("an order failed for another reason".to_owned());
        }
        running.stop().await;
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for sent in bench.lines("out.jsonl") {
            *seen.entry(sent).or_default() += 1;
        }
        for (n, hour) in hours.iter().enumerate() {
            let times = seen
                .remove(&format!(r#"{{"n":"{n}","answer":{n}}}"#))
                .unwrap_or(0);
            line.delivered += times.min(1);
            line.doubled += times.saturating_sub(1);
            line.lost += u64::from(times == 0 && *hour < 24);
            if times > 0 && *hour > 23 {
                line.wrong
                    .push(format!("order {n} had no answer and was sent"));
            }
        }
        if !seen.is_empty() {
            line.wrong.push(format!("never asked for: {seen:?}"));
        }
        line.notes.push(format!(
            "24 hours by the clock, 24 restarts; {never} orders were never answered and say so"
        ));
        line
    })
}

const SIZE: usize = 4;

/// Members of groups come while the engine dies again and again: each is in exactly one group, and no group of a key but the last is short.
pub fn collect_deaths(setting: &Setting) -> Result<Line, String> {
    let deaths = setting.scale.of(8, 150, 1_000);
    let random = SeededRandom::new(setting.seed);
    play(async move {
        let flow = format!(
            "
flow: parcels
source: {{ flow: {{}} }}
steps:
  - id: all
    collect: {{ by: k, size: {SIZE}, idle: 1h, late: new }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
        );
        let bench = Arc::new(Bench::new(&[&flow]));
        let mut line = Line::default();
        for _ in 0..deaths {
            let many = 1 + random.below(40);
            let batch: Vec<String> = (line.sent..line.sent + many)
                .map(|n| format!(r#"{{"k":"K{}","n":{n}}}"#, random.below(5)))
                .collect();
            line.sent += many;
            let pause = Duration::from_micros(random.below(15_000));
            let bench = bench.clone();
            let work = async move {
                let running = bench.start().await;
                for part in batch.chunks(7) {
                    let part: Vec<&str> = part.iter().map(String::as_str).collect();
                    running.offer("parcels", &part).await;
                }
                tokio::time::sleep(pause).await;
                let recovered = running.recovered;
                running.die().await;
                recovered
            };
            line.redelivered += doomed(work).await;
            line.faults += 1;
        }
        let running = bench.start().await;
        running.quiet().await;
        bench.later(Duration::from_secs(3_600));
        let sent = i64::try_from(line.sent).unwrap_or(i64::MAX);
        running
            .wait_for("parcels", |books| books.delivered == sent)
            .await;
        running.stop().await;
        let mut seen = vec![0_u64; usize::try_from(line.sent).unwrap_or(0)];
        let mut short: BTreeMap<String, u64> = BTreeMap::new();
        for group in bench.lines("out.jsonl") {
            let group: Vec<serde_json::Value> = serde_json::from_str(&group).unwrap_or_default();
            for member in &group {
                let n = member["n"].as_u64().and_then(|n| usize::try_from(n).ok());
                match n.and_then(|n| seen.get_mut(n)) {
                    Some(times) => *times += 1,
                    None => line.wrong.push(format!("nobody sent {member}")),
                }
                if member["k"] != group[0]["k"] {
                    line.wrong
                        .push(format!("{member} is in a group of another key"));
                }
            }
            if group.len() != SIZE {
                *short.entry(group[0]["k"].to_string()).or_default() += 1;
            }
        }
        line.delivered = seen.iter().filter(|times| **times > 0).count() as u64;
        line.lost = line.sent - line.delivered;
        line.doubled = seen.iter().map(|times| times.saturating_sub(1)).sum();
        if short.values().any(|many| *many > 1) {
            line.wrong.push(format!("groups were cut short: {short:?}"));
        }
        line
    })
}
