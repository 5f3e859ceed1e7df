//! The step `dedupe`: only the first message with a key goes on, durably.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::words::{Duration, ExpressionText};
use crate::component::{Build, Claimed, Claiming, Context, Part};
use crate::expression::Expression;
use crate::failure::Failure;
use crate::message::{KEY_BYTES_MAX, Message};

/// How long a key is kept where nobody says so.
const KEEP: Duration = Duration {
    ms: 30 * 86_400_000,
};

/// Lets only the first message with a key go on, over all messages of the flow; repeats end here, counted as filtered by this step. For
/// whole messages at the door of a flow there is `once`; this is for what steps make, such as the parts of a split.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dedupe {
    /// What tells messages apart; a null is a failure.
    pub key: ExpressionText,
    /// How long a key is kept after the run that had it first has ended. Default 30d.
    pub keep: Option<Duration>,
}

impl Part for Dedupe {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: first-of-its-kind
  dedupe: { key: shipment.trackingNumber, keep: 14d }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let key = cx.expression(&["key"], &self.key.0)?;
        let keep_ms = i64::try_from(self.keep.unwrap_or(KEEP).ms).unwrap_or(i64::MAX / 4);
        Some(Ready::Claim(Arc::new(First { key, keep_ms })))
    }
}

struct First {
    key: Expression,
    keep_ms: i64,
}

impl Claiming for First {
    fn claim(&self, message: &Message, cx: &Context<'_>) -> Result<Claimed, Failure> {
        let scope = cx.scope(message, &self.key)?;
        let value = self.key.evaluate(&scope)?;
        let key = value.to_text();
        match key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len())) {
            Some(key) => Ok(Claimed {
                key,
                keep_ms: self.keep_ms,
                version: None,
            }),
            None => Err(Failure::mapping(format!(
                "the key `{}` must be a text or a number of at most {KEY_BYTES_MAX} bytes, it is {}",
                self.key.text(),
                value.type_name()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    #[test]
    fn the_key_is_claimed() {
        let bench = Bench::new();
        let (Some(Ready::Claim(step)), _) = bench.build::<StepKind>("dedupe: { key: n, keep: 1d }")
        else {
            panic!("it claims nothing");
        };
        let claim = |body: &str| step.claim(&bench.message(body), &bench.cx());
        let expect = Claimed {
            key: "A-1".to_owned(),
            keep_ms: 86_400_000,
            version: None,
        };
        assert_eq!(claim(r#"{"n": "A-1"}"#), Ok(expect));
        assert_eq!(claim("{}").unwrap_err().class, Class::Mapping);
        bench.finds("dedupe: { key: $x }", &["unknown-variable:1:16"]);
    }
}
