//! The keys that steps and sinks share, beside their kind: retry, failure routing, probe and the like. One meaning in every part.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::words::{Duration, ExpressionText, TemplateText};

/// The keys that every step and every sink may have, beside the kind.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// The name of the step in runs, exceptions and the console; unique in the flow. Without it: the kind and a number.
    pub id: Option<String>,
    /// Runs the step only for messages for which this expression is true; others go past it.
    pub when: Option<ExpressionText>,
    /// How long one attempt may take; without it the system's timeout.
    pub timeout: Option<Duration>,
    /// How often and when a failed attempt is repeated.
    pub retry: Option<Retry>,
    /// What happens to a message whose attempts are used up, or whose failure is not retried, by failure class.
    pub on_failure: Option<BTreeMap<String, OnFailure>>,
    /// The variable that takes the answer: `into: customer` binds `$customer`.
    pub into: Option<String>,
    /// How to ask the target whether it has a request whose outcome is unknown.
    pub probe: Option<Probe>,
    /// The milestone of the flow's process that a message passes when this step is done.
    pub milestone: Option<String>,
    /// How what the step did is undone, when a later step of its saga fails. Only in a saga.
    pub undo: Option<Undo>,
    /// Once this step of a saga is done, nothing is undone any more: from here on only forward. Default false.
    pub pivot: Option<bool>,
}

/// How what a step did is undone: a request, which sees the message as it was right after the step.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// The system. Default: the step's.
    pub system: Option<String>,
    /// The path of a DELETE request. It is safe to repeat.
    pub delete: Option<TemplateText>,
    /// The path of a POST request.
    pub post: Option<TemplateText>,
    /// The path of a PUT request.
    pub put: Option<TemplateText>,
    /// The path of a PATCH request.
    pub patch: Option<TemplateText>,
    /// The mapping that makes the request's body. Without `map` and `body` the whole body is sent, if the method takes one.
    pub map: Option<String>,
    /// The request's body, as an expression.
    pub body: Option<ExpressionText>,
    /// The media type of the request's body. Default `application/json`.
    pub content_type: Option<String>,
    /// More headers of the request; not for credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// A text by which the system recognises a repeat; `~undo` is put behind it.
    pub idempotency_key: Option<ExpressionText>,
    /// How long the system keeps idempotency keys after it saw them first. Default 24h.
    pub kept: Option<Duration>,
    /// Sending the same request twice is as good as once. Default false, for `delete` true.
    #[serde(default)]
    pub upsert: bool,
    /// How to ask the target whether it is undone, when the outcome is unknown.
    pub probe: Option<Probe>,
    /// How long one attempt may take; without it the system's timeout.
    pub timeout: Option<Duration>,
    /// Failure classes that mean that there is nothing to undo (any more). With `not_found` the undo also runs for a step whose own outcome is
    /// unknown. Default: `not_found` for `delete`, else none.
    pub done_on: Option<Vec<String>>,
}

/// How often and when a failed attempt is repeated. Waiting is durable and holds no worker.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How many attempts there are in all; the first one counts. Default 8.
    #[schemars(range(min = 1, max = 1000))]
    pub attempts: Option<u32>,
    /// The most that is waited before the second attempt. Default 2s.
    pub first: Option<Duration>,
    /// By how much the wait grows from attempt to attempt. Default 2.
    #[schemars(range(min = 1, max = 100))]
    pub factor: Option<f64>,
    /// The most that is waited before any attempt. Default 10m.
    pub most: Option<Duration>,
}

/// What happens to a message whose step failed for good.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It becomes an exception: a person decides. This is the default.
    Exception,
    /// It goes on to the next step as if the step had not been there.
    Continue,
    /// It ends here, counted as discarded; the text is the reason.
    Drop(String),
    /// It goes to this sink of the flow.
    To(String),
}

/// Asks the target whether it has a request whose outcome is unknown.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The path of a GET request to the same system.
    pub get: TemplateText,
    /// True, over the answer's body, if the target has it.
    pub applied: ExpressionText,
    /// How long after the send a "no" counts; two are needed. Default 30s.
    pub settle: Option<Duration>,
}

/// The retry that holds for a step: its own settings over the project's defaults over these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryRule {
    /// How many attempts there are in all.
    pub attempts: u32,
    /// The most before the second attempt, in milliseconds.
    pub first_ms: u64,
    /// Growth from attempt to attempt.
    pub factor: f64,
    /// The most before any attempt, in milliseconds.
    pub most_ms: u64,
}

impl RetryRule {
    /// What holds where nothing is said.
    pub const DEFAULT: RetryRule = RetryRule {
        attempts: 8,
        first_ms: 2_000,
        factor: 2.0,
        most_ms: 600_000,
    };

    /// The rule with these settings over it.
    #[must_use]
    pub fn with(self, retry: Option<&Retry>) -> RetryRule {
        let Some(retry) = retry else { return self };
        RetryRule {
            attempts: retry.attempts.unwrap_or(self.attempts).max(1),
            first_ms: retry.first.map_or(self.first_ms, |first| first.ms),
            factor: retry.factor.unwrap_or(self.factor),
            most_ms: retry.most.map_or(self.most_ms, |most| most.ms),
        }
    }

    /// The longest wait before attempt `next` (2 is the first repeat), before jitter.
    pub fn wait_ms(&self, next: u32) -> u64 {
        let exponent = next.saturating_sub(2).min(1_000);
        let wait = self.first_ms as f64 * self.factor.powi(exponent as i32);
        if wait.is_finite() {
            (wait as u64).min(self.most_ms)
        } else {
            self.most_ms
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_most() {
        let rule = RetryRule {
            attempts: 5,
            first_ms: 100,
            factor: 2.0,
            most_ms: 350,
        };
        let waits: Vec<_> = (2..=5).map(|next| rule.wait_ms(next)).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        assert_eq!(rule.wait_ms(u32::MAX), 350);
    }
}
