//! What a message waits for at a step that lets messages wait durably. The step says what; the store keeps the wait, the run floor acts on it.

use std::sync::Arc;

use jiff::Timestamp;

use super::Context;
use crate::body::Body;
use crate::expression::Expression;
use crate::failure::{Class, Failure};
use crate::message::Message;

/// What the messages of a step wait for. No kind of wait holds a worker, and each outlives the engine.
pub enum Waiting {
    /// A time.
    Time(Time),
    /// Their place in a rate.
    Pace(Pace),
    /// A message of another flow.
    Answer(Awaiting),
}

/// A wait for a time.
pub enum Time {
    /// So many milliseconds after the message has come to the step.
    For(i64),
    /// Until the time that an expression gives; a time that is past is no wait.
    Until {
        /// Gives a time with its zone.
        at: Expression,
        /// A time that is farther away than this, in milliseconds, is a mistake.
        most_ms: i64,
    },
}

impl Time {
    /// Until when the message waits, in milliseconds since 1970. Pure, but for the time that it is given.
    pub fn until_ms(
        &self,
        message: &Message,
        cx: &Context<'_>,
        now_ms: i64,
    ) -> Result<i64, Failure> {
        let (expression, most_ms) = match self {
            Time::For(ms) => return Ok(now_ms.saturating_add(*ms)),
            Time::Until { at, most_ms } => (at, *most_ms),
        };
        let scope = cx.scope(message, expression)?;
        let value = expression.evaluate(&scope)?;
        let text = value.as_str();
        let Some(at) = text
            .as_deref()
            .and_then(|text| text.parse::<Timestamp>().ok())
        else {
            let given =
                text.map_or_else(|| value.type_name().to_owned(), |text| format!("`{text}`"));
            return Err(Failure::mapping(format!(
                "`{}` must give a time with its zone, such as 2026-11-21T10:00:00Z, it gave {given}; `timestamp(..)` makes one",
                expression.text()
            )));
        };
        let at_ms = at.as_millisecond();
        if at_ms.saturating_sub(now_ms) > most_ms {
            return Err(Failure::validation(format!(
                "the message would wait until {at}, which is farther away than `most` allows"
            )));
        }
        Ok(at_ms)
    }
}

/// A wait for a place in a rate.
pub struct Pace {
    /// From one message to the next, in microseconds.
    pub interval_us: i64,
    /// How many may go on at once after a pause.
    pub burst: u32,
    /// Messages with different values have a rate of their own each; without it all share one.
    pub by: Option<Expression>,
}

/// A wait for a message of another flow.
pub struct Awaiting {
    /// The key that both have.
    pub key: Arc<str>,
    /// The flow whose message is awaited.
    pub from: Arc<str>,
    /// How long a message waits, and how much older than the wait an answer may be, in milliseconds.
    pub within_ms: i64,
    /// Takes only answers for which it is true.
    pub matches: Option<Expression>,
    /// The variable that takes the answer's body.
    pub into: Option<Arc<str>>,
}

impl Awaiting {
    /// Whether an answer with this body is one for the message. Pure.
    pub fn wants(
        &self,
        message: &Message,
        answer: Body,
        cx: &Context<'_>,
    ) -> Result<bool, Failure> {
        let Some(matches) = &self.matches else {
            return Ok(true);
        };
        let seen = message.clone().with_body(answer);
        matches.decide(&cx.scope(&seen, matches)?)
    }
}

/// How many bytes a key may have.
pub const KEY_BYTES_MAX: usize = 512;

/// The text that an expression gives for a message, for telling groups of messages apart; a null is a failure.
pub fn key_of(
    expression: &Expression,
    message: &Message,
    cx: &Context<'_>,
) -> Result<String, Failure> {
    let scope = cx.scope(message, expression)?;
    let value = expression.evaluate(&scope)?;
    let key = value.to_text();
    key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
        .ok_or_else(|| {
            Failure::new(
                Class::Mapping,
                format!(
                    "`{}` must give a text or a number of at most {KEY_BYTES_MAX} bytes, it gave {}",
                    expression.text(),
                    value.type_name()
                ),
            )
        })
}
