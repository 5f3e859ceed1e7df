//! The numbers of an engine for a collector. They are read from the text that scrapes get, so that both ways say the same.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{Collector, Line, attributes};
use crate::failure::Failure;

/// How many values go in one request.
const POINTS_MAX: usize = 2_000;
/// Values since the start, not since the last time.
const CUMULATIVE: u8 = 2;

/// Sends numbers to a collector.
pub(crate) struct Numbers {
    line: Line,
    /// Since when it is counted, in nanoseconds since 1970.
    from_ns: u64,
    /// Whether people were told that the collector is away.
    away: AtomicBool,
}

impl Numbers {
    /// Ready to send what is counted since this time. It opens no connection.
    pub(crate) fn to(collector: Collector, from_ns: u64) -> Result<Numbers, Failure> {
        Ok(Numbers {
            line: Line::to(collector)?,
            from_ns,
            away: AtomicBool::new(false),
        })
    }

    /// Sends the numbers of a text in the form of OpenMetrics, as they are at this time. False if the collector has not taken all of them: the
    /// next ones hold what these did.
    pub(crate) async fn send(&self, text: &str, now_ns: u64) -> bool {
        let families = families(text, self.from_ns, now_ns);
        for document in documents(&self.line.collector.resource, &families) {
            if let Err(why) = self.line.post(&document).await {
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(name: "otlp.metrics.away", "the collector of metrics takes nothing: {why}; it is tried again each time, messages go on");
                }
                return false;
            }
        }
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!(name: "otlp.metrics.back", "the collector of metrics takes them again");
        }
        true
    }
}

/// Names and values of labels, in their order.
type Labels = Vec<(String, String)>;

/// All values under one name.
#[derive(Debug, Default)]
struct Family {
    name: String,
    help: String,
    kind: String,
    points: Vec<Value>,
    /// Of a histogram: the labels of the value that is being read, how many were at most so large, and the sum.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    labels: Labels,
    bounds: Vec<f64>,
    at_most: Vec<u64>,
    sum: f64,
}

/// What stands in a text.
fn families(text: &str, from_ns: u64, now_ns: u64) -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# ") {
            let mut words = described.splitn(3, ' ');
            let (what, name, said) = (words.next(), words.next(), words.next());
            let (Some(what), Some(name)) = (what, name) else {
                continue;
            };
            if all.last().is_none_or(|family| family.name != name) {
                all.push(Family {
                    name: name.to_owned(),
                    ..Family::default()
                });
            }
            if let Some(family) = all.last_mut() {
                match what {
                    "HELP" => family.help = said.unwrap_or_default().to_owned(),
                    "TYPE" => family.kind = said.unwrap_or_default().to_owned(),
                    _ => {}
                }
            }
            continue;
        }
        let Some((name, labels, value)) = row(line) else {
            continue;
        };
        if let Some(family) = all.last_mut()
            && let Some(part) = name.strip_prefix(&family.name)
        {
            family.take(part, labels, value, (from_ns, now_ns));
        }
    }
    for family in &mut all {
        family.close((from_ns, now_ns));
    }
    all.retain(|family| !family.points.is_empty());
    all
}

impl Family {
    fn take(&mut self, part: &str, mut labels: Labels, value: f64, times: (u64, u64)) {
        match (self.kind.as_str(), part) {
            ("counter", "_total") | ("gauge", "") => {
                let mut point = json!({
                    "attributes": shown(&labels), "timeUnixNano": times.1.to_string(), "asDouble": value,
                });
                if self.kind == "counter" {
                    point["startTimeUnixNano"] = times.0.to_string().into();
                }
                self.points.push(point);
            }
            ("histogram", "_bucket") => {
                let bound = labels.iter().position(|(name, _)| name == "le");
                let bound = bound.map(|at| labels.remove(at).1);
                if self.open.as_ref().is_none_or(|open| open.labels != labels) {
                    self.open(labels, times);
                }
                if let (Some(open), Some(bound)) = (&mut self.open, bound) {
                    open.bounds
                        .extend(bound.parse::<f64>().ok().filter(|bound| bound.is_finite()));
                    open.at_most.push(value as u64);
                }
            }
            ("histogram", "_sum") => {
                if self.open.as_ref().is_none_or(|open| open.labels != labels) {
                    self.open(labels, times);
                }
                if let Some(open) = &mut self.open {
                    open.sum = value;
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, labels: Labels, times: (u64, u64)) {
        self.close(times);
        self.open = Some(Open {
            labels,
            bounds: Vec::new(),
            at_most: Vec::new(),
            sum: 0.0,
        });
    }

    fn close(&mut self, (from_ns, now_ns): (u64, u64)) {
        let Some(open) = self.open.take() else { return };
        let before = std::iter::once(0).chain(open.at_most.iter().copied());
        let each = open.at_most.iter().zip(before);
        let each = each.map(|(many, before)| many.saturating_sub(before).to_string());
        self.points.push(json!({
            "attributes": shown(&open.labels), "startTimeUnixNano": from_ns.to_string(), "timeUnixNano": now_ns.to_string(),
            "count": open.at_most.last().copied().unwrap_or(0).to_string(), "sum": open.sum,
            "bucketCounts": each.collect::<Vec<_>>(), "explicitBounds": open.bounds,
        }));
    }

    /// Some of its values as OTLP has them.
    fn of(&self, points: &[Value]) -> Value {
        let mut out = json!({ "name": self.name, "description": self.help });
        match self.kind.as_str() {
            "counter" => {
                out["sum"] = json!({ "aggregationTemporality": CUMULATIVE, "isMonotonic": true, "dataPoints": points });
            }
            "histogram" => {
                out["histogram"] =
                    json!({ "aggregationTemporality": CUMULATIVE, "dataPoints": points });
            }
            _ => out["gauge"] = json!({ "dataPoints": points }),
        }
        out
    }
}

fn shown(labels: &[(String, String)]) -> Vec<Value> {
    let one =
        |(key, value): &(String, String)| json!({ "key": key, "value": { "stringValue": value } });
    labels.iter().map(one).collect()
}

/// A line with a value: name, labels, value.
fn row(line: &str) -> Option<(&str, Labels, f64)> {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name, Vec::new(), value.trim().parse().ok()?));
    };
    let (mut labels, mut rest) = (Vec::new(), rest);
    while !rest.starts_with('}') {
        let (key, value) = rest.split_once("=\"")?;
        let (value, after) = quoted(value)?;
        labels.push((key.trim_start_matches(',').to_owned(), value));
        rest = after;
    }
    let value = rest.strip_prefix('}')?.trim();
    Some((name, labels, value.parse().ok()?))
}

/// A text up to its closing quote, and what stands behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

/// Requests with all values, none of them too large.
fn documents(resource: &[(&'static str, String)], families: &[Family]) -> Vec<Value> {
    let (mut all, mut batch, mut many) = (Vec::new(), Vec::new(), 0);
    let document = |metrics: Vec<Value>| {
        json!({ "resourceMetrics": [{
            "resource": { "attributes": attributes(resource) },
            "scopeMetrics": [{
                "scope": { "name": "crossdock", "version": env!("CARGO_PKG_VERSION") },
                "metrics": metrics,
            }],
        }] })
    };
    for family in families {
        for points in family.points.chunks(POINTS_MAX) {
            if many + points.len() > POINTS_MAX {
                all.push(document(std::mem::take(&mut batch)));
                many = 0;
            }
            batch.push(family.of(points));
            many += points.len();
        }
    }
    if !batch.is_empty() {
        all.push(document(batch));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::metrics::Metrics;
    use crate::world::metrics::text::{Form, Readings};
    use crate::world::metrics::words;

    fn found(families: &[Family], name: &str) -> Value {
        let family = families.iter().find(|family| family.name == name);
        let family = family.unwrap_or_else(|| panic!("{name} in {families:?}"));
        family.of(&family.points)
    }

    #[test]
    fn what_scrapes_get_is_what_a_collector_gets() {
        let metrics = Metrics::default();
        metrics.flow("or\"d\\ers").received.inc_by(3);
        metrics.step("orders", "erp").took(Duration::from_millis(2));
        metrics
            .step("orders", "erp")
            .took(Duration::from_millis(90));
        metrics.step("orders", "wms").took(Duration::from_secs(100));
        let mut readings = Readings::default();
        readings.raise(words::RETRY_AGE, &["orders"], 7.5);
        let all = families(&metrics.text(readings, Form::Open), 5, 9);
        let counter = found(&all, "crossdock_messages_received");
        let expected = json!({ "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [{
            "attributes": [{ "key": "flow", "value": { "stringValue": "or\"d\\ers" } }],
            "timeUnixNano": "9", "asDouble": 3.0, "startTimeUnixNano": "5",
        }] });
        assert_eq!(counter["sum"], expected);
        let gauge = found(&all, "crossdock_retry_oldest_age_seconds");
        assert_eq!(gauge["gauge"]["dataPoints"][0]["asDouble"], 7.5);
        let histogram = found(&all, "crossdock_step_duration_seconds");
        let points = histogram["histogram"]["dataPoints"].as_array().unwrap();
        let [erp, wms] = &points[..] else {
            panic!("{points:?}")
        };
        assert_eq!((&erp["count"], &wms["count"]), (&json!("2"), &json!("1")));
        assert!((erp["sum"].as_f64().unwrap() - 0.092).abs() < 1e-9);
        let counts = erp["bucketCounts"].as_array().unwrap();
        assert_eq!(
            counts.len(),
            erp["explicitBounds"].as_array().unwrap().len() + 1
        );
        let some = counts.iter().filter(|count| **count == json!("1"));
        assert_eq!(some.count(), 2);
        assert_eq!(wms["bucketCounts"].as_array().unwrap().last().unwrap(), "1");
    }

    #[test]
    fn no_request_is_too_large_and_nothing_is_left_out() {
        let metrics = Metrics::default();
        for nth in 0..400 {
            for class in 0..12 {
                let step = metrics.step(&format!("flow-{nth}"), "erp");
                step.retried(&format!("class-{class}"));
            }
        }
        let all = families(&metrics.text(Readings::default(), Form::Open), 5, 9);
        let documents = documents(&[("service.name", "crossdock".to_owned())], &all);
        assert!(documents.len() > 2);
        let points = |document: &Value| -> usize {
            let metrics = &document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
            let metrics = metrics.as_array().unwrap().iter();
            let kinds = ["sum", "gauge", "histogram"];
            metrics
                .flat_map(|metric| {
                    kinds.map(|kind| metric[kind]["dataPoints"].as_array().map_or(0, Vec::len))
                })
                .sum()
        };
        assert!(
            documents
                .iter()
                .all(|document| points(document) <= POINTS_MAX)
        );
        let there: usize = all.iter().map(|family| family.points.len()).sum();
        assert_eq!(documents.iter().map(points).sum::<usize>(), there);
    }
}
