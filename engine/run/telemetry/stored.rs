//! The numbers of the store, as metrics.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::run::reload::short;
use crate::store::books::Counts;
use crate::store::measures::{Measures, Standing};
use crate::world::metrics::text::Readings;
use crate::world::metrics::words;

/// The numbers of these flows; those of others are of the past.
pub(super) fn read(
    readings: &mut Readings,
    measures: &Measures,
    flows: &BTreeSet<Arc<str>>,
    now_ms: i64,
) {
    for books in measures
        .books
        .iter()
        .filter(|books| flows.contains(&books.flow))
    {
        of_books(readings, &books.flow, &books.counts);
    }
    for queue in &measures.queues {
        of_queue(readings, queue, now_ms);
    }
    for open in &measures.open {
        let labels = [&*open.flow, &*open.class];
        readings.add(words::OPEN, &labels, open.exceptions as f64);
        readings.add(words::ISSUES, &[&open.flow], open.issues as f64);
    }
    for toggle in &measures.toggles {
        if !toggle.is_over(now_ms) {
            let labels = [&*toggle.target.to_string(), toggle.how.name()];
            readings.raise(words::STOPPED, &labels, toggle.since_ms as f64 / 1_000.0);
        }
    }
    if let Some((canary, sides)) = &measures.canary {
        if canary.terms.when.is_none() {
            let share = f64::from(canary.share) / 10_000.0;
            readings.add(words::CANARY_SHARE, &[short(&canary.revision)], share);
        }
        for (flow, sides) in sides {
            for (name, side) in [("base", &sides.base), ("candidate", &sides.candidate)] {
                let labels = [&**flow, name];
                readings.add(words::CANARY_TAKEN, &labels, side.taken as f64);
                readings.add(words::CANARY_EXCEPTED, &labels, side.excepted as f64);
            }
        }
    }
}

fn of_books(readings: &mut Readings, flow: &str, counts: &Counts) {
    let mut add = |word, count: i64| readings.add(word, &[flow], count as f64);
    add(words::BOOKS_RECEIVED, counts.received);
    add(words::BOOKS_ACCEPTED, counts.accepted);
    add(words::BOOKS_DUPLICATES, counts.duplicates);
    add(words::BOOKS_REFUSED, counts.refused);
    add(words::IN_FLIGHT, counts.in_flight);
    let states = [
        ("delivered", counts.delivered),
        ("filtered", counts.filtered),
        ("discarded", counts.discarded),
        ("compensated", counts.compensated),
        ("in_flight", counts.in_flight),
        ("in_exceptions", counts.in_exceptions),
    ];
    let there: i64 = states.iter().map(|(_, count)| count).sum();
    for (state, count) in states {
        readings.add(words::BOOKS_RUNS, &[flow, state], count as f64);
    }
    let came = counts.received - counts.accepted - counts.duplicates - counts.refused;
    let off = came.abs() + (counts.accepted - there).abs();
    readings.add(words::BOOKS_IMBALANCE, &[flow], off as f64);
}

fn of_queue(readings: &mut Readings, queue: &Standing, now_ms: i64) {
    let (flow, step) = (&*queue.flow, &*queue.step);
    for (state, count) in [
        ("ready", queue.ready),
        ("waiting", queue.waiting),
        ("held", queue.held),
    ] {
        readings.add(words::DEPTH, &[flow, step, state], count as f64);
    }
    readings.add(words::RETRY_WAITING, &[flow], queue.repeats as f64);
    let age = |since_ms: i64| now_ms.saturating_sub(since_ms).max(0) as f64 / 1_000.0;
    if let Some(since_ms) = queue.ready_since_ms {
        readings.raise(words::DEPTH_AGE, &[flow, step], age(since_ms));
    }
    if let Some(since_ms) = queue.repeats_since_ms {
        readings.raise(words::RETRY_AGE, &[flow], age(since_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::books::Books;
    use crate::store::canaries::{Canary, Sides};
    use crate::store::toggles::{How, Target, Toggle};
    use crate::world::metrics::Metrics;
    use crate::world::metrics::text::Form;

    #[test]
    fn what_is_stopped_and_a_canary_are_seen_while_they_last() {
        let toggle = |target: &str, until_ms| Toggle {
            target: Target::parse(target).unwrap(),
            how: How::Paused,
            who: "anna".to_owned(),
            why: "the ERP is moved".to_owned(),
            since_ms: 5_000,
            until_ms,
        };
        let canary: Canary = serde_json::from_value(serde_json::json!({
            "id": 1, "revision": "abcdef", "base": "123456", "terms": {"flows": {}, "worse_by": 500, "least": 20}, "share": 2500,
            "state": "running", "at_ms": 1, "who": "anna", "why": "tax", "ended_at_ms": null, "ended_by": null, "ended_why": null,
        }))
        .unwrap();
        let mut sides = Sides::default();
        (sides.candidate.taken, sides.candidate.excepted) = (7, 1);
        let measures = Measures {
            toggles: vec![
                toggle("orders/erp", None),
                toggle("system:erp", Some(9_000)),
            ],
            canary: Some((canary, [(Arc::from("orders"), sides)].into())),
            ..Measures::default()
        };
        let at = |now_ms| {
            let mut readings = Readings::default();
            read(&mut readings, &measures, &BTreeSet::new(), now_ms);
            Metrics::default().text(readings, Form::Plain)
        };
        let (during, after) = (at(8_000), at(9_000));
        let erp = "crossdock_stopped_since_timestamp_seconds{target=\"system:erp\",state=\"paused\"} 5.0\n";
        assert!(
            during.contains(erp) && !after.contains(erp),
            "{during}{after}"
        );
        for line in [
            "crossdock_stopped_since_timestamp_seconds{target=\"orders/erp\",state=\"paused\"} 5.0\n",
            "crossdock_canary_share_ratio{revision=\"abcdef\"} 0.25\n",
            "crossdock_canary_messages_total{flow=\"orders\",side=\"candidate\"} 7.0\n",
            "crossdock_canary_exceptions_total{flow=\"orders\",side=\"candidate\"} 1.0\n",
            "crossdock_canary_messages_total{flow=\"orders\",side=\"base\"} 0.0\n",
        ] {
            assert!(after.contains(line), "{line} in {after}");
        }
    }

    #[test]
    fn books_that_do_not_balance_are_seen_and_flows_of_the_past_are_not() {
        let counts = Counts {
            received: 10,
            accepted: 9,
            duplicates: 1,
            delivered: 7,
            in_flight: 1,
            ..Counts::default()
        };
        let books = |flow: &str| Books {
            flow: Arc::from(flow),
            counts,
        };
        let measures = Measures {
            books: vec![books("orders"), books("old")],
            ..Measures::default()
        };
        let mut readings = Readings::default();
        let flows = [Arc::from("orders")].into();
        read(&mut readings, &measures, &flows, 0);
        let text = Metrics::default().text(readings, Form::Plain);
        let has = |line: &str| assert!(text.contains(line), "{line} in {text}");
        has("crossdock_books_imbalance{flow=\"orders\"} 1.0\n");
        has("crossdock_books_runs{flow=\"orders\",state=\"delivered\"} 7.0\n");
        has("crossdock_books_accepted_total{flow=\"orders\"} 9.0\n");
        assert!(!text.contains("\"old\""), "{text}");
    }
}
