//! The step `await`: a message waits for a message of another flow that belongs to it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::waiting::{Awaiting, Waiting};
use crate::component::words::{Duration, ExpressionText};
use crate::component::{Build, Part, codes};
use crate::diagnostic::closest;

/// How long a message waits where nobody says so.
const WITHIN: Duration = Duration { ms: 86_400_000 };

/// Lets a message wait for a message of another flow with the same value of a key: an order for the warehouse's confirmation. `into` beside
/// the step binds the accepted body of the answer. The answer may come first: one that is older than the wait, by at most `within`, counts
/// as long as its body is kept (`retention.bodies`). Each answer is taken by one message. Without an answer in time the message fails with
/// class `timeout`; `on_failure: { timeout: .. }` says what happens then, and with `continue` the variable of `into` is null.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Await {
    /// One of this flow's `keys`, which the other flow declares too; a null is a failure.
    pub key: String,
    /// The flow whose message is awaited.
    pub from: String,
    /// How long a message waits, and how much older than the wait an answer may be. Default 24h.
    pub within: Option<Duration>,
    /// Takes only an answer for which this expression is true. It sees the answer's body, and the variables of the message that waits.
    #[serde(rename = "match")]
    pub matches: Option<ExpressionText>,
}

impl Part for Await {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: allocated
  await: { key: order, from: wms-confirmations, within: 24h, match: status == 'allocated' }
  into: allocation
  on_failure: { timeout: { drop: \"the warehouse did not answer\" } }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let from = cx.flow_named(&["from"], &self.from);
        if self.from == cx.flow {
            let message = "a message cannot wait for its own flow";
            let help = "name the flow that takes the answer in";
            cx.error(codes::BAD_VALUE, &["from"], message, help);
        }
        let known = cx.keys.contains(&self.key);
        if !known {
            let names = cx.keys.iter().map(String::as_str);
            let help = match closest(&self.key, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "declare it under `keys`, here and in the flow that answers".to_owned(),
            };
            let message = format!("the flow declares no key `{}`", self.key);
            cx.error(codes::UNKNOWN_KEY, &["key"], message, help);
        }
        let within = self.within.unwrap_or(WITHIN);
        if within.ms == 0 {
            let message = "a wait of nothing is no wait";
            cx.error(
                codes::BAD_VALUE,
                &["within"],
                message,
                "write `24h`, for example",
            );
        }
        let matches = match &self.matches {
            Some(text) => Some(cx.expression(&["match"], &text.0)?),
            None => None,
        };
        let into = cx.common.into.as_deref();
        Some(Ready::Wait(Waiting::Answer(Awaiting {
            key: Arc::from(self.key.as_str()),
            from: from?,
            within_ms: i64::try_from(within.ms).unwrap_or(i64::MAX / 4),
            matches,
            into: into.map(|name| Arc::from(name.trim_start_matches('$'))),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    #[test]
    fn an_answer_is_told_by_flow_and_key() {
        let bench = Bench::new().flow("wms");
        let entry = "await: { key: order, from: wms, match: ok }\ninto: $answer";
        let (Some(Ready::Wait(Waiting::Answer(awaiting))), found) = bench.build::<StepKind>(entry)
        else {
            panic!("it awaits nothing");
        };
        assert_eq!(found, [""; 0]);
        assert_eq!((&*awaiting.key, &*awaiting.from), ("order", "wms"));
        assert_eq!(awaiting.within_ms, 86_400_000);
        assert_eq!(awaiting.into.as_deref(), Some("answer"));
        let wants = |answer: &str| {
            awaiting.wants(
                &bench.message("{}"),
                Body::new(answer.to_owned()),
                &bench.cx(),
            )
        };
        assert_eq!(wants(r#"{"ok": true}"#), Ok(true));
        assert_eq!(wants(r#"{"ok": false}"#), Ok(false));
        assert!(wants("{}").is_err());
    }

    #[test]
    fn mistakes_are_found() {
        let bench = Bench::new().flow("wms").flow("orders");
        bench.finds("await: { key: order, from: wmss }", &["unknown-flow:1:28"]);
        bench.finds("await: { key: order, from: orders }", &["bad-value:1:28"]);
        bench.finds("await: { key: oder, from: wms }", &["unknown-key:1:15"]);
        bench.finds(
            "await: { key: order, from: wms, within: 0s }",
            &["bad-value:1:41"],
        );
    }
}
