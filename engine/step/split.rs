//! The step `split`: one message becomes several, each with a key of its own.

use std::collections::HashSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Ready;
use crate::component::words::ExpressionText;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::expression::Expression;
use crate::expression::Value;
use crate::failure::{Class, Failure};
use crate::message::{Message, MessageId};

/// How many parts a message may have.
pub const PARTS_MAX: usize = 10_000;
/// How many bytes the key of a part may have.
const KEY_BYTES_MAX: usize = 200;

/// Makes a message of each item of a list. The parts go on by themselves; effects of a part know it by its key, so that it must be the
/// same when the message is worked on again. An empty list ends the message, counted as filtered.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The list; each item is the body of a part.
    pub items: ExpressionText,
    /// What tells the parts apart, on the item: `sku`. Default: the item's number, from 0.
    pub key: Option<ExpressionText>,
}

impl Part for Split {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: lines
  split: { items: lineItems, key: id }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let items = cx.expression(&["items"], &self.items.0);
        let key = match &self.key {
            Some(text) => Some(cx.expression(&["key"], &text.0)?),
            None => None,
        };
        Some(Ready::Pure(Box::new(Splitting { items: items?, key })))
    }
}

struct Splitting {
    items: Expression,
    key: Option<Expression>,
}

impl Pure for Splitting {
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let scope = cx.scope(&message, &self.items)?;
        let value = self.items.evaluate(&scope)?;
        let kind = value.type_name();
        let Some(items) = value.into_items() else {
            let message = format!("`{}` must give a list, it gave {kind}", self.items.text());
            return Err(Failure::mapping(message));
        };
        let mut parts = Vec::new();
        let mut seen = HashSet::new();
        for (number, item) in items.enumerate() {
            if number == PARTS_MAX {
                let message =
                    format!("the list has more than {PARTS_MAX} items, the limit of a split");
                return Err(Failure::new(Class::TooLarge, message));
            }
            let key = match &self.key {
                Some(expression) => {
                    let of = key_of(expression, expression.evaluate_on(&scope, &item)?, number)?;
                    if !seen.insert(of.clone()) {
                        let message = format!(
                            "two items have the key `{of}`; a key must tell the parts apart"
                        );
                        return Err(Failure::validation(message));
                    }
                    of
                }
                None => number.to_string(),
            };
            parts.push(part(&message, &key, &item));
        }
        Ok(Outcome::Split(parts))
    }
}

fn key_of(expression: &Expression, value: Value<'_>, number: usize) -> Result<String, Failure> {
    let key = value.to_text();
    key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
        .ok_or_else(|| {
            Failure::mapping(format!(
                "the key `{}` of item {number} must be a text or a number of at most {KEY_BYTES_MAX} bytes, it is {}",
                expression.text(),
                value.type_name()
            ))
        })
}

/// A part: its item is the whole's and its key, its id comes from both, so that it is the same whenever it is made.
fn part(whole: &Message, key: &str, item: &Value<'_>) -> Message {
    // A slash in a key must not look like a split within a split.
    let key = key.replace('~', "~0").replace('/', "~1");
    let path = if whole.item.is_empty() {
        key
    } else {
        format!("{}/{key}", whole.item)
    };
    let mut hash = Sha256::new();
    hash.update(whole.id.to_bytes());
    hash.update(path.as_bytes());
    let hash = hash.finalize();
    let entropy = hash[..16]
        .iter()
        .fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
    let made_at = u64::try_from(whole.id.0 >> 80).unwrap_or_default();
    Message {
        id: MessageId::from_parts(made_at, entropy),
        item: Arc::from(path),
        body: item.to_body(),
        ..whole.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::bench::{Bench, Ended};

    const LINES: &str = r#"{"lines": [{"sku": "A/1", "q": 1.0}, {"sku": "B", "q": 2}]}"#;

    #[test]
    fn items_become_messages_with_keys() {
        let bench = Bench::new();
        let split = |entry: &str, body: &str| bench.apply(entry, bench.message(body));
        let parts = |parts: [&str; 2]| Ended::Split(parts.map(str::to_owned).to_vec());
        assert_eq!(
            split("split: { items: lines, key: sku }", LINES),
            parts([r#"A~11 {"sku":"A/1","q":1.0}"#, r#"B {"sku":"B","q":2}"#])
        );
        assert_eq!(
            split("split: { items: 'lines[].q' }", LINES),
            parts(["0 1.0", "1 2"])
        );
        assert_eq!(
            split("split: { items: lines }", r#"{"lines": []}"#),
            Ended::Split(Vec::new())
        );
    }

    #[test]
    fn parts_are_the_same_whenever_they_are_made() {
        let bench = Bench::new();
        let made = || match bench.outcome("split: { items: lines, key: sku }", bench.message(LINES))
        {
            Ok(Outcome::Split(parts)) => parts,
            _ => panic!("it does not split"),
        };
        let (first, second) = (made(), made());
        assert_eq!(first[0].id, second[0].id);
        assert_ne!(first[0].id, first[1].id);
        assert_eq!(first[0].root, bench.message("").id);
        let below = bench.outcome("split: { items: '[@]', key: sku }", first[1].clone());
        assert!(matches!(below, Ok(Outcome::Split(parts)) if &*parts[0].item == "B/B"));
    }

    #[test]
    fn what_cannot_be_split_fails() {
        let bench = Bench::new();
        let fails = |entry: &str, body: &str| bench.fails(entry, body).class;
        assert_eq!(fails("split: { items: lines }", "{}"), Class::Mapping);
        let twice = r#"{"lines": [{"sku": 1}, {"sku": 1}]}"#;
        assert_eq!(
            fails("split: { items: lines, key: sku }", twice),
            Class::Validation
        );
        let missing = r#"{"lines": [{}]}"#;
        assert_eq!(
            fails("split: { items: lines, key: sku }", missing),
            Class::Mapping
        );
        let many = format!("[{}0]", "0,".repeat(PARTS_MAX));
        assert_eq!(fails("split: { items: '@' }", &many), Class::TooLarge);
    }
}
