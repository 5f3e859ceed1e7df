//! The step `delay`: messages wait for a time, in the store.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::waiting::{Time, Waiting};
use crate::component::words::{Duration, ExpressionText};
use crate::component::{Build, Part, codes};

/// How far away a time may be where nobody says so.
const MOST: Duration = Duration {
    ms: 366 * 86_400_000,
};

/// Lets each message wait for a time: `delay: 5m`, or `delay: { until: expression }`. The wait is a row in the store: it holds no worker,
/// outlives the engine, and `crossdock runs` shows until when it lasts. A time that is past is no wait.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Delay {
    /// How long a message waits after it has come to the step.
    For(Duration),
    /// How long, or until when.
    Wait(DelayWait),
}

/// How long, or until when.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelayWait {
    /// How long a message waits after it has come to the step.
    #[serde(rename = "for")]
    pub length: Option<Duration>,
    /// Until when: a time with its zone, such as `2026-11-21T10:00:00Z`; `timestamp(..)` makes one from other forms.
    pub until: Option<ExpressionText>,
    /// The farthest that `until` may be away; a time beyond it is a failure of class `validation`. Default 366d.
    pub most: Option<Duration>,
}

impl Part for Delay {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: ship-date
  delay: { until: \"timestamp(shipOn, 'Europe/Vienna')\" }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let for_ms = |length: Duration| i64::try_from(length.ms).unwrap_or(i64::MAX / 4);
        let time = match self {
            Delay::For(length) => Time::For(for_ms(*length)),
            Delay::Wait(wait) => match (&wait.length, &wait.until) {
                (Some(length), None) if wait.most.is_none() => Time::For(for_ms(*length)),
                (None, Some(until)) => Time::Until {
                    at: cx.expression(&["until"], &until.0)?,
                    most_ms: for_ms(wait.most.unwrap_or(MOST)),
                },
                (Some(_), None) => {
                    let message = "`most` limits `until`, and there is none";
                    cx.error(codes::CONFLICTING_SETTINGS, &["most"], message, "remove it");
                    return None;
                }
                (given, _) => {
                    let path: &[&str] = if given.is_some() { &["until"] } else { &[] };
                    let message = "a delay has either `for` or `until`";
                    let help = "write `for: 5m`, or `until` with an expression that gives a time";
                    cx.error(codes::CONFLICTING_SETTINGS, path, message, help);
                    return None;
                }
            },
        };
        Some(Ready::Wait(Waiting::Time(time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Class, Failure};
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn until(entry: &str, body: &str) -> Result<i64, Failure> {
        let bench = Bench::new();
        let (Some(Ready::Wait(Waiting::Time(time))), found) = bench.build::<StepKind>(entry) else {
            panic!("it waits for no time");
        };
        assert_eq!(found, [""; 0], "{entry}");
        let wait = time.until_ms(&bench.message(body), &bench.cx(), NOW_MS);
        wait.map(|at_ms| at_ms - NOW_MS)
    }

    #[test]
    fn a_message_waits_for_a_length_or_until_a_time() {
        assert_eq!(until("delay: 5m", ""), Ok(300_000));
        assert_eq!(until("delay: { for: 2h }", ""), Ok(7_200_000));
        let at = "delay: { until: at }";
        assert_eq!(until(at, r#"{"at": "2026-09-21T14:13:25Z"}"#), Ok(5_000));
        assert_eq!(
            until(at, r#"{"at": "2026-09-21T16:13:15+02:00"}"#),
            Ok(-5_000)
        );
    }

    #[test]
    fn what_is_no_time_or_too_far_away_fails() {
        let class = |entry: &str, body: &str| until(entry, body).unwrap_err().class;
        assert_eq!(class("delay: { until: at }", "{}"), Class::Mapping);
        let no_zone = r#"{"at": "2026-09-21T14:13:20"}"#;
        assert_eq!(class("delay: { until: at }", no_zone), Class::Mapping);
        let far = r#"{"at": "2062-09-21T14:13:20Z"}"#;
        assert_eq!(class("delay: { until: at }", far), Class::Validation);
        let tomorrow = r#"{"at": "2026-09-22T14:13:21Z"}"#;
        assert_eq!(
            class("delay: { until: at, most: 1d }", tomorrow),
            Class::Validation
        );
    }

    #[test]
    fn mistakes_are_found() {
        let bench = Bench::new();
        bench.finds("delay: {}", &["conflicting-settings:1:8"]);
        bench.finds(
            "delay: { for: 5m, until: at }",
            &["conflicting-settings:1:26"],
        );
        bench.finds(
            "delay: { for: 5m, most: 1d }",
            &["conflicting-settings:1:25"],
        );
        bench.finds("delay: { until: $at }", &["unknown-variable:1:17"]);
    }
}
