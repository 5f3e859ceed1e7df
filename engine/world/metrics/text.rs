//! Metrics as text: OpenMetrics, or the older form of Prometheus. Numbers that were read for this one answer stand beside those that were counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::table::{Known, Labels, pairs};
use super::words::{Kind, Word};

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.
    Open,
    /// Prometheus 0.0.4.
    Plain,
}

impl Form {
    /// The form that a client asks for in `Accept`.
    pub fn accepted(accept: Option<&str>) -> Form {
        let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if open { Form::Open } else { Form::Plain }
    }

    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Numbers that were read for one answer. The limits on labels are those of all metrics.
#[derive(Default)]
pub struct Readings(BTreeMap<&'static str, Read>);

struct Read {
    word: Word,
    known: Known,
    rows: BTreeMap<Labels, f64>,
}

impl Readings {
    fn row(&mut self, word: Word, labels: &[&str]) -> &mut f64 {
        let read = self.0.entry(word.name).or_insert_with(|| Read {
            word,
            known: Known::default(),
            rows: BTreeMap::new(),
        });
        let labels = read.known.admit(labels);
        read.rows.entry(labels).or_insert(0.0)
    }

    /// A number; those that share a row are added up.
    pub fn add(&mut self, word: Word, labels: &[&str], value: f64) {
        *self.row(word, labels) += value;
    }

    /// A number; of those that share a row the largest counts.
    pub fn raise(&mut self, word: Word, labels: &[&str], value: f64) {
        let row = self.row(word, labels);
        *row = row.max(value);
    }
}

impl Metrics {
    /// All that was counted, and these readings, as text.
    pub fn text(&self, readings: Readings, form: Form) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(self.clone(), readings)));
        let mut out = String::with_capacity(64 << 10);
        // Writing to a string does not fail.
        text::encode(&mut out, &registry).ok();
        match form {
            Form::Open => out,
            Form::Plain => plain(&out),
        }
    }
}

struct Scrape(Metrics, Readings);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode(&mut encoder)?;
        for read in self.1.0.values() {
            let counts = read.word.kind == Kind::Counter;
            let kind = match counts {
                true => ConstCounter::new(0.0).metric_type(),
                false => ConstGauge::new(0.0).metric_type(),
            };
            let (name, help) = (read.word.name, read.word.help);
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in &read.rows {
                let labels = pairs(&read.word, labels);
                if labels.is_empty() {
                    number(*value, counts, metric)?;
                    break;
                }
                number(*value, counts, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn number(value: f64, counts: bool, row: MetricEncoder<'_>) -> fmt::Result {
    match counts {
        true => ConstCounter::new(value).encode(row),
        false => ConstGauge::new(value).encode(row),
    }
}

/// The older form: counters are described under the name that their values have, and nothing says that the text is over.
fn plain(open: &str) -> String {
    let counters: BTreeSet<&str> = open
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(open.len() + counters.len() * 12);
    for line in open.lines() {
        if line == "# EOF" {
            continue;
        }
        let described = ["# HELP ", "# TYPE "]
            .iter()
            .find_map(|what| Some((*what, line.strip_prefix(what)?.split_once(' ')?)));
        match described {
            Some((what, (name, rest))) if counters.contains(name) => {
                out.push_str(what);
                out.push_str(name);
                out.push_str("_total ");
                out.push_str(rest);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let metrics = Metrics::default();
        metrics.flow("orders").received.inc_by(3);
        let text = |form| {
            let mut readings = Readings::default();
            readings.add(words::OPEN, &["ord\"ers", "auth"], 1.0);
            readings.add(words::OPEN, &["ord\"ers", "auth"], 1.0);
            readings.raise(words::RETRY_AGE, &["orders"], 7.5);
            readings.add(words::BOOKS_ACCEPTED, &["orders"], 9.0);
            metrics.text(readings, form)
        };
        let (open, plain) = (text(Form::Open), text(Form::Plain));
        for line in [
            "crossdock_messages_received_total{flow=\"orders\"} 3",
            "crossdock_exceptions_open{flow=\"ord\\\"ers\",error_class=\"auth\"} 2.0",
            "crossdock_retry_oldest_age_seconds{flow=\"orders\"} 7.5",
            "crossdock_books_accepted_total{flow=\"orders\"} 9.0",
        ] {
            assert!(open.contains(line), "{line} in {open}");
            assert!(plain.contains(line), "{line} in {plain}");
        }
        assert!(open.contains("# TYPE crossdock_messages_received counter\n"));
        assert!(open.ends_with("# EOF\n"));
        assert!(plain.contains("# TYPE crossdock_messages_received_total counter\n"));
        assert!(!plain.contains("EOF"));
    }

    #[test]
    fn the_form_is_what_the_client_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.4";
        assert_eq!(Form::accepted(Some(prometheus)), Form::Open);
        assert_eq!(Form::accepted(Some("*/*")), Form::Plain);
        assert_eq!(Form::accepted(None), Form::Plain);
    }
}
