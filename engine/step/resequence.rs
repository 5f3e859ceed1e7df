//! The step `resequence`: messages with numbers go on in the order of their numbers.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::waiting::{Numbered, Waiting};
use crate::component::words::{Duration, ExpressionText};
use crate::component::{Build, Part, codes};

/// How long a message waits for those before it where nobody says so.
const WITHIN: Duration = Duration { ms: 300_000 };
/// How many messages of a key may wait where nobody says so.
const WAITING_MOST: u32 = 1_000;

/// Lets messages that carry a number go on in the order of their numbers, each key by itself. What comes too early waits in the store. A
/// number that comes again or too late is filtered, with the reason; the same number with another body while the first one waits is a failure
/// of class `conflict`. When a number is missing for too long, the messages behind it fail with class `timeout` and name it; run again, they
/// take their turn if it has come by then. The place in each sequence is kept for good.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resequence {
    /// What has a sequence of its own, such as an article; a null is a failure.
    pub by: ExpressionText,
    /// The message's number: whole, and each one higher by one than the one before it.
    pub number: ExpressionText,
    /// The number with which each sequence begins. Default 1.
    pub from: Option<i64>,
    /// How long a message waits for those before it. Default 5m.
    pub within: Option<Duration>,
    /// What happens when those before it have not come by then. Default `exception`.
    pub on_gap: Option<OnGap>,
    /// How many messages of a key may wait; one more fails with class `too_large`. Default 1000.
    #[schemars(range(min = 1, max = 100_000))]
    pub most: Option<u32>,
}

/// What happens when a number is missing for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// The sequence stands; the messages that have waited too long fail with class `timeout`.
    Exception,
    /// The sequence goes on with the lowest number that is there; what is missing is late when it comes.
    Skip,
}

impl Part for Resequence {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: in-order
  resequence: { by: sku, number: movement, within: 10m }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let by = cx.expression(&["by"], &self.by.0);
        let number = cx.expression(&["number"], &self.number.0);
        let within = self.within.unwrap_or(WITHIN);
        if within.ms == 0 {
            let message = "a wait of nothing is no wait";
            cx.error(
                codes::BAD_VALUE,
                &["within"],
                message,
                "write `5m`, for example",
            );
        }
        Some(Ready::Wait(Waiting::Turn(Box::new(Numbered {
            by: by?,
            number: number?,
            from: self.from.unwrap_or(1),
            within_ms: i64::try_from(within.ms).unwrap_or(i64::MAX / 4),
            skip: self.on_gap == Some(OnGap::Skip),
            most: self.most.unwrap_or(WAITING_MOST),
        }))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    #[test]
    fn a_message_has_a_key_and_a_number() {
        let bench = Bench::new();
        let entry = "resequence: { by: sku, number: n, on_gap: skip }";
        let (Some(Ready::Wait(Waiting::Turn(numbered))), found) = bench.build::<StepKind>(entry)
        else {
            panic!("it has no turn");
        };
        assert_eq!(found, [""; 0]);
        assert_eq!(
            (numbered.from, numbered.within_ms, numbered.skip),
            (1, 300_000, true)
        );
        let of = |body: &str| numbered.of(&bench.message(body), &bench.cx());
        assert_eq!(of(r#"{"sku": "A", "n": 7}"#), Ok(("A".to_owned(), 7)));
        assert_eq!(of(r#"{"sku": 5, "n": "12"}"#), Ok(("5".to_owned(), 12)));
        for wrong in [
            r#"{"sku": "A"}"#,
            r#"{"sku": "A", "n": 1.5}"#,
            r#"{"n": 1}"#,
        ] {
            assert_eq!(of(wrong).unwrap_err().class, Class::Mapping, "{wrong}");
        }
    }

    #[test]
    fn mistakes_are_found() {
        let bench = Bench::new();
        bench.finds(
            "resequence: { by: $a, number: $b }",
            &["unknown-variable:1:19", "unknown-variable:1:31"],
        );
        bench.finds(
            "resequence: { by: a, number: b, within: 0s }",
            &["bad-value:1:41"],
        );
    }
}
