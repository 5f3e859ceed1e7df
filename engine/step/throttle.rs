//! The step `throttle`: messages go on at a rate, in their order, and none is dropped.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::waiting::{Pace, Waiting};
use crate::component::words::{ExpressionText, Rate};
use crate::component::{Build, Part, codes};

/// Lets messages go on at a rate: `throttle: 10/s`. What is too fast waits in the store, in its order; nothing is dropped. While too much
/// waits (`limits.in_flight`), sources are slowed down. A start of the engine begins at the even pace, without a burst.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Throttle {
    /// How many in a time.
    Rate(Rate),
    /// How many in a time, and of what.
    Settings(ThrottleSettings),
}

/// How many in a time, and of what.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThrottleSettings {
    /// How many in a time.
    pub rate: Rate,
    /// How many may go on at once after a pause. Default 1: an even pace.
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<u32>,
    /// Gives each value a rate of its own; a null is a failure. Up to 4,096 waiting messages are looked at, so that a value with more than
    /// that holds up the others. Default: all messages share one rate.
    pub by: Option<ExpressionText>,
}

impl Part for Throttle {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: gently
  throttle: { rate: 10/s, by: warehouse }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let (rate, burst, by) = match self {
            Throttle::Rate(rate) => (*rate, 1, None),
            Throttle::Settings(settings) => {
                let by = match &settings.by {
                    Some(text) => Some(cx.expression(&["by"], &text.0)?),
                    None => None,
                };
                (settings.rate, settings.burst.unwrap_or(1), by)
            }
        };
        let per_us = rate.per_ms.saturating_mul(1_000);
        if u64::from(rate.count) > per_us {
            let path: &[&str] = match self {
                Throttle::Rate(_) => &[],
                Throttle::Settings(_) => &["rate"],
            };
            let message = format!(
                "{} in {} ms is no rate that could be kept",
                rate.count, rate.per_ms
            );
            cx.error(codes::BAD_VALUE, path, message, "write at most 1000000/s");
            return None;
        }
        let interval_us = per_us.div_ceil(u64::from(rate.count));
        Some(Ready::Wait(Waiting::Pace(Pace {
            interval_us: i64::try_from(interval_us).unwrap_or(i64::MAX / 4),
            burst: burst.max(1),
            by,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    fn pace(entry: &str) -> (i64, u32, bool) {
        match Bench::new().build::<StepKind>(entry) {
            (Some(Ready::Wait(Waiting::Pace(pace))), _) => {
                (pace.interval_us, pace.burst, pace.by.is_some())
            }
            (_, found) => panic!("{entry}: {found:?}"),
        }
    }

    #[test]
    fn a_rate_becomes_a_pace() {
        assert_eq!(pace("throttle: 10/s"), (100_000, 1, false));
        let all = "throttle: { rate: 3/s, burst: 5, by: sku }";
        assert_eq!(pace(all), (333_334, 5, true), "rounded to the slower side");
    }

    #[test]
    fn mistakes_are_found() {
        let bench = Bench::new();
        bench.finds("throttle: 2000000/s", &["bad-value:1:11"]);
        bench.finds(
            "throttle: { rate: 1/s, by: $x }",
            &["unknown-variable:1:28"],
        );
    }
}
