//! One metric with labels: a value for each combination of them. Who counts often takes a value once and holds it; nothing is looked up then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};

use super::words::Word;

/// How many values a label may have; all further ones count as `OTHER`.
pub const VALUES_MAX: usize = 500;
/// How many rows a metric may have.
pub const ROWS_MAX: usize = 20_000;
/// What stands for all values beyond the limit.
pub const OTHER: &str = "_other";
/// How many characters of a value are shown.
const VALUE_CHARS_MAX: usize = 128;

/// The values of a metric's labels, in their order.
pub type Labels = Vec<Arc<str>>;

/// One metric, by labels.
pub struct Table<M> {
    word: &'static Word,
    new: fn(&'static Word) -> M,
    rows: RwLock<Rows<M>>,
}

struct Rows<M> {
    all: BTreeMap<Labels, M>,
    known: Known,
}

/// The values that labels have had.
#[derive(Default)]
pub(super) struct Known(Vec<BTreeSet<Arc<str>>>);

impl Known {
    /// These labels, or others in the place of those that are too many.
    pub(super) fn admit(&mut self, labels: &[&str]) -> Labels {
        self.0.resize_with(labels.len(), BTreeSet::new);
        let values = labels.iter().zip(&mut self.0);
        let admitted = values.map(|(value, known)| {
            if let Some(same) = known.get(*value) {
                return same.clone();
            }
            if known.len() >= VALUES_MAX {
                return Arc::from(OTHER);
            }
            let value: Arc<str> = Arc::from(shown(value));
            known.insert(value.clone());
            value
        });
        admitted.collect()
    }
}

/// A value as it is shown: not longer than it may be, without control characters.
fn shown(value: &str) -> String {
    let shown = value.chars().take(VALUE_CHARS_MAX);
    shown
        .map(|c| if c.is_control() { '_' } else { c })
        .collect()
}

impl<M: Clone + EncodeMetric> Table<M> {
    /// Nothing counted yet; new rows begin as this.
    pub(super) fn new(word: &'static Word, new: fn(&'static Word) -> M) -> Table<M> {
        Table {
            word,
            new,
            rows: RwLock::new(Rows {
                all: BTreeMap::new(),
                known: Known::default(),
            }),
        }
    }

    /// The value for these labels, to be held by who counts. The limits on labels hold: it may be the one that many share.
    pub fn of(&self, labels: &[&str]) -> M {
        debug_assert_eq!(labels.len(), self.word.labels.len(), "{}", self.word.name);
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut admitted = rows.known.admit(labels);
        if rows.all.len() >= ROWS_MAX && !rows.all.contains_key(&admitted) {
            admitted = labels.iter().map(|_| Arc::from(OTHER)).collect();
        }
        let row = rows.all.entry(admitted);
        row.or_insert_with(|| (self.new)(self.word)).clone()
    }

    /// Forgets the rows whose value of this label is not to be kept. Who holds one of them counts for nobody from now on.
    pub(super) fn keep(&self, label: &str, keep: &dyn Fn(&str) -> bool) {
        let Some(at) = self.word.labels.iter().position(|known| *known == label) else {
            return;
        };
        let keep = |value: &str| value == OTHER || keep(value);
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.all.retain(|labels, _| keep(&labels[at]));
        if let Some(known) = rows.known.0.get_mut(at) {
            known.retain(|value| keep(value));
        }
    }

    /// The values that a label has in the rows.
    pub(super) fn values(&self, label: &str) -> BTreeSet<Arc<str>> {
        let at = self.word.labels.iter().position(|known| *known == label);
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let values = rows.all.keys().filter_map(|labels| labels.get(at?));
        values.filter(|value| ***value != *OTHER).cloned().collect()
    }

    /// Writes all rows.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = rows.all.values().next() else {
            return Ok(());
        };
        let word = self.word;
        let mut metric =
            encoder.encode_descriptor(word.name, word.help, None, first.metric_type())?;
        if word.labels.is_empty() {
            return first.encode(metric);
        }
        for (labels, value) in &rows.all {
            value.encode(metric.encode_family(&pairs(word, labels))?)?;
        }
        Ok(())
    }
}

/// The labels with their names.
pub(super) fn pairs<'a>(word: &Word, labels: &'a [Arc<str>]) -> Vec<(&'static str, &'a str)> {
    let names = word.labels.iter().copied();
    names.zip(labels.iter().map(|value| &**value)).collect()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::super::words;
    use super::*;

    #[test]
    fn more_values_than_a_label_may_have_share_one_row() {
        let table: Table<Counter> = Table::new(&words::RECEIVED, |_| Counter::default());
        for nth in 0..VALUES_MAX + 200 {
            table.of(&[&format!("flow-{nth}")]).inc();
        }
        assert_eq!(table.of(&["flow-3"]).get(), 1);
        assert_eq!(table.of(&["yet another"]).get(), 200);
        assert_eq!(table.rows.read().unwrap().all.len(), VALUES_MAX + 1);
    }

    #[test]
    fn what_is_not_kept_is_forgotten_and_makes_room() {
        let table: Table<Counter> = Table::new(&words::COMPLETED, |_| Counter::default());
        table.of(&["a", "delivered"]).inc();
        table.of(&["b", "delivered"]).inc();
        table.keep("flow", &|flow| flow == "b");
        table.keep("step", &|_| false);
        assert_eq!(table.of(&["b", "delivered"]).get(), 1);
        assert_eq!(table.of(&["a", "delivered"]).get(), 0);
    }
}
